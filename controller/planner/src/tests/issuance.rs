//! What is answered to certificate authorities about names.

use hosting_resource::Id;
use hosting_resource::issuance::{ChallengeMethod, Issuance, OpenChallenge, Order, Phase, Stage};
use hosting_resource::kinds::fqdn::Fqdn;

use super::*;
use crate::{IssuanceChange, OrderClaim, candidate, claim_order, companions, exchange_issuances};

const RECORD: &str = "example.com/_acme-challenge.example.com/TXT";

fn records(lab: &Lab) -> Vec<String> {
    match lab.rr_set(RECORD).and_then(|set| set.data) {
        Some(m::rr_set::Data::Records(records)) => records.rdata,
        Some(m::rr_set::Data::AddressSet(_)) | None => Vec::new(),
    }
}

/// Opens a challenge for a name, or ends it.
async fn challenge(lab: &mut Lab, fqdn: &Resource, digest: Option<&str>, zone: &Resource) -> String {
    let id: Id<Fqdn> = Id::from(fqdn.id.as_str());
    let before = Doc::<Fqdn>::read(lab.get(&id).unwrap().clone()).unwrap().state.issuance.unwrap();
    let open = digest.map(|digest| OpenChallenge {
        method: ChallengeMethod::Dns01,
        token: "t".into(),
        key_authorization: format!("t.{digest}"),
        zone: Some(zone.id.clone()),
    });
    let text = open.as_ref().map(|open| format!("\"{}\"", open.text())).unwrap_or_default();
    let after = Issuance { challenge: open, ..before.clone() };
    let change = IssuanceChange { id, before, after, issued: None };
    let exchanged = exchange_issuances(&mut lab.store, vec![change]).await;
    assert!(lab.end(exchanged).unwrap());
    text
}

#[tokio::test]
async fn a_name_and_its_wildcard_share_a_record_with_what_people_made_there() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    lab.record(&zone, "TXT", "_acme-challenge", "\"made by a person\"").await.unwrap();
    let name = lab.fqdn(&tenant, "example.com", None).await.unwrap();
    let wildcard = lab.fqdn(&tenant, "*.example.com", None).await.unwrap();
    for fqdn in [&name, &wildcard] {
        lab.put(&fqdn.id, json!({"ssl_enabled": true})).await.unwrap();
    }
    lab.settle().await;
    let person = "\"made by a person\"".to_owned();
    assert_eq!(records(&lab), std::slice::from_ref(&person));
    let serial = lab.serial("example.com");

    let one = challenge(&mut lab, &name, Some("one"), &zone).await;
    let two = challenge(&mut lab, &wildcard, Some("two"), &zone).await;
    let mut all = vec![person.clone(), one.clone(), two];
    all.sort();
    assert_eq!(records(&lab), all);
    assert!(lab.serial("example.com") > serial, "secondaries are told");
    assert_eq!(lab.rr_set(RECORD).unwrap().ttl, 60);
    assert!(lab.intent("edge/c1", IntentKind::AcmeChallenge, "example.com").is_none(), "no edge is asked");

    challenge(&mut lab, &wildcard, None, &zone).await;
    let mut both = vec![person.clone(), one];
    both.sort();
    assert_eq!(records(&lab), both);
    lab.delete(&name.id).await.unwrap();
    assert_eq!(records(&lab), [person], "a name that goes takes its text along");
}

#[tokio::test]
async fn a_record_stands_where_nothing_else_does_and_not_beside_an_alias() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    let wildcard = lab.fqdn(&tenant, "*.example.com", None).await.unwrap();
    lab.put(&wildcard.id, json!({"ssl_enabled": true})).await.unwrap();
    let text = challenge(&mut lab, &wildcard, Some("x"), &zone).await;
    assert_eq!(records(&lab), [text]);
    challenge(&mut lab, &wildcard, None, &zone).await;
    assert!(lab.rr_set(RECORD).is_none());
    lab.record(&zone, "CNAME", "_acme-challenge", "elsewhere.example.").await.unwrap();
    challenge(&mut lab, &wildcard, Some("y"), &zone).await;
    assert!(lab.rr_set(RECORD).is_none(), "an alias has no data beside it (RFC 1034 §3.6.2)");
}

#[tokio::test]
async fn who_books_an_order_takes_others_along_and_nobody_books_twice() {
    let mut lab = Lab::new().await;
    let body = json!({"name": "ca", "directory_url": "https://ca.example/dir", "terms_agreed": true,
        "orders": {"count": 1, "seconds": 100}});
    let ca = lab.post(Kind::CertificateAuthority, None, body).await.unwrap();
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    let mut names = Vec::new();
    for name in ["a.test", "b.test", "c.test"] {
        let fqdn = lab.fqdn(&tenant, name, Some(&webroot)).await.unwrap();
        lab.put(&fqdn.id, json!({"ssl_enabled": true})).await.unwrap();
        names.push(Id::<Fqdn>::from(fqdn.id.as_str()));
    }
    lab.settle().await;
    let issuance = |lab: &Lab, id: &Id<Fqdn>| {
        Doc::<Fqdn>::read(lab.get(id).unwrap().clone()).unwrap().state.issuance.unwrap()
    };
    let beside = async |lab: &mut Lab, id: &Id<Fqdn>| {
        let candidate = candidate(&mut lab.store, id).await.unwrap().unwrap();
        companions(&mut lab.store, &candidate, 10).await.unwrap().len()
    };
    assert_eq!(beside(&mut lab, &names[0]).await, 2);
    let claim = |lab: &Lab, of: &[usize]| OrderClaim {
        authority: Id::from(ca.id.as_str()),
        account: "platform".into(),
        counts: true,
        names: of.iter().map(|n| (names[*n].clone(), issuance(lab, &names[*n]))).collect(),
    };
    // Two begin at the same moment: one has the place, and the other one is taken along or begins anew.
    let (one, other) = (claim(&lab, &[0, 1]), claim(&lab, &[1, 2]));
    let first = claim_order(&mut lab.store, one).await;
    let at = lab.end(first).unwrap().unwrap();
    let second = claim_order(&mut lab.store, other).await;
    assert_eq!(lab.end(second).unwrap(), None);
    assert_eq!(issuance(&lab, &names[0]).booking.unwrap().with, [names[1].to_string()]);
    assert_eq!(issuance(&lab, &names[1]).phase, Phase::Joined { leader: names[0].to_string(), at });
    assert!(issuance(&lab, &names[2]).is_free());
    assert_eq!(beside(&mut lab, &names[2]).await, 0, "nobody is left to be taken along");
    // What was refused took no place.
    let third = claim(&lab, &[2]);
    let third = claim_order(&mut lab.store, third).await;
    assert_eq!(lab.end(third).unwrap().unwrap() - at, 100_000);
    // Who joined rests until the order is over, however it ends.
    let woken = |lab: &mut Lab| -> Vec<String> {
        let errands = std::mem::take(&mut lab.store.errands);
        errands.into_iter().filter(|errand| errand.wakes).map(|errand| errand.subject).collect()
    };
    woken(&mut lab);
    let stands = |lab: &Lab, id: &Id<Fqdn>, after: Issuance| IssuanceChange {
        id: id.clone(),
        before: issuance(lab, id),
        after,
        issued: None,
    };
    let order = Order {
        authority: ca.id.as_str().into(),
        account: "platform".into(),
        url: "https://ca.example/order/1".into(),
        since: 1,
        stage: Stage::Issuing,
        names: names[..2].iter().map(ToString::to_string).collect(),
    };
    let before = issuance(&lab, &names[0]);
    let ordered = Issuance { phase: Phase::Ordered(order), booking: None, ..before.clone() };
    let change = stands(&lab, &names[0], ordered);
    assert!(exchange_issuances(&mut lab.store, vec![change]).await.unwrap());
    assert_eq!(woken(&mut lab), Vec::<String>::new(), "the order that was booked is made");
    let change = stands(&lab, &names[0], before.waiting());
    assert!(exchange_issuances(&mut lab.store, vec![change]).await.unwrap());
    assert_eq!(woken(&mut lab), [names[1].to_string()]);
    let again = stands(&lab, &names[0], before);
    assert!(exchange_issuances(&mut lab.store, vec![again]).await.unwrap());
    assert_eq!(woken(&mut lab), Vec::<String>::new());
    lab.delete(&names[0]).await.unwrap();
    assert_eq!(woken(&mut lab), [names[1].to_string()], "whoever leads is on its way out");
}

#[tokio::test]
async fn of_many_that_look_at_once_each_finds_others_to_take_along() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    let mut names = Vec::new();
    for n in 0..12 {
        let fqdn = lab.fqdn(&tenant, &format!("n{n}.test"), Some(&webroot)).await.unwrap();
        lab.put(&fqdn.id, json!({"ssl_enabled": true})).await.unwrap();
        names.push(fqdn.id);
    }
    lab.settle().await;
    names.sort();
    for (n, id) in names.iter().enumerate() {
        let leader = candidate(&mut lab.store, &Id::from(id.as_str())).await.unwrap().unwrap();
        let found = companions(&mut lab.store, &leader, 5).await.unwrap();
        let found: Vec<String> = found.into_iter().map(|one| one.fqdn.id.to_string()).collect();
        let behind: Vec<String> = names.iter().cycle().skip(n + 1).take(5).cloned().collect();
        assert_eq!(found, behind);
    }
}
