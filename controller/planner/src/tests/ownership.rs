//! Names that have to be shown to be their tenant's, where the brand asks.

use hosting_resource::ownership::{Challenge, MISS_EACH, MISSES, Ownership, Proof};

use super::*;
use crate::{OwnershipLook, claim, note_look};

/// A brand that asks, and a tenant of it with a site.
async fn asking() -> (Lab, Resource, Resource) {
    let mut lab = Lab::new().await;
    lab.put("acme", json!({"name_verification": "required"})).await.unwrap();
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    lab.settle().await;
    (lab, tenant, webroot)
}

fn found(proof: Proof) -> OwnershipLook {
    OwnershipLook { found: Some(proof), is_sure: true, message: String::new() }
}

fn nothing(is_sure: bool) -> OwnershipLook {
    OwnershipLook { found: None, is_sure, message: "nothing there".into() }
}

impl Lab {
    /// A look half a day after whatever was before.
    async fn look_at(&mut self, id: &str, look: OwnershipLook) -> Option<Ownership> {
        self.store.time += MISS_EACH;
        self.look_now(id, look).await
    }

    async fn look_now(&mut self, id: &str, look: OwnershipLook) -> Option<Ownership> {
        let noted = note_look(&mut self.store, id, look).await;
        let noted = self.end(noted).unwrap();
        self.settle().await;
        self.assert_planned().await;
        noted
    }

    fn ownership(&self, id: &str) -> Option<Ownership> {
        let state = self.get(id)?.state.get("ownership")?.clone();
        Some(serde_json::from_value(state).unwrap())
    }

    fn proof(&self, id: &str) -> Option<Proof> {
        self.ownership(id).and_then(|ownership| ownership.proof)
    }

    fn is_asked_for(&self, id: &str) -> bool {
        self.store.errands.iter().any(|errand| errand.subject == id)
    }
}

#[tokio::test]
async fn a_name_is_served_once_it_is_shown_and_no_longer_once_the_proof_has_lapsed() {
    let (mut lab, tenant, webroot) = asking().await;
    let fqdn = lab.fqdn(&tenant, "www.elsewhere.example", Some(&webroot)).await.unwrap();
    lab.settle().await;
    assert!(lab.is_asked_for(&fqdn.id));
    assert_eq!(
        (lab.route("www.elsewhere.example"), lab.status(&fqdn.id)),
        (None, Some(Status::Provisioning))
    );
    let fleet = Everybody::of(&lab.store);
    let verdict = lab.look(&fqdn.id, &fleet).await;
    let token = Challenge::of(&fqdn.id, "www.elsewhere.example").token;
    assert!(verdict.conditions[0].name == "verified" && verdict.conditions[0].message.contains(&token));
    // A look that finds nothing, or no answer, leaves it where it is.
    for sure in [true, false] {
        lab.look_at(&fqdn.id, nothing(sure)).await.unwrap();
        assert_eq!(lab.route("www.elsewhere.example"), None);
    }
    lab.look_at(&fqdn.id, found(Proof::Txt)).await.unwrap();
    assert_eq!(lab.route("www.elsewhere.example").unwrap().webroot_id, webroot.id);
    assert_eq!(lab.status(&fqdn.id), Some(Status::Active));
    // A resolver that fails says nothing however often, and one look that finds it begins anew.
    for _ in 0..3 * MISSES {
        lab.look_at(&fqdn.id, nothing(false)).await.unwrap();
    }
    for _ in 1..MISSES {
        lab.look_at(&fqdn.id, nothing(true)).await.unwrap();
    }
    // Looks that are asked for one after the other are one.
    for _ in 0..3 * MISSES {
        assert!(lab.look_now(&fqdn.id, nothing(true)).await.unwrap().is_shown());
    }
    lab.look_at(&fqdn.id, found(Proof::Http)).await.unwrap();
    for _ in 1..MISSES {
        lab.look_at(&fqdn.id, nothing(true)).await.unwrap();
        assert_eq!(lab.status(&fqdn.id), Some(Status::Active));
    }
    let lapsed = lab.look_at(&fqdn.id, nothing(true)).await.unwrap();
    assert!(lapsed.has_lapsed());
    assert_eq!((lab.route("www.elsewhere.example"), lab.status(&fqdn.id)), (None, Some(Status::Failed)));
    let withdrawn = lab.store.log.iter().rev().find(|logged| logged.change.value.is_none()).unwrap();
    assert_eq!(withdrawn.change.cause, hosting_intent::Cause::Planner, "many at once are held by the brake");
    let message = lab.get(&fqdn.id).unwrap().status_message.clone().unwrap();
    assert!(message.contains("verified: ") && message.contains(&token), "{message}");
    lab.look_at(&fqdn.id, found(Proof::Txt)).await.unwrap();
    assert!(lab.route("www.elsewhere.example").is_some() && lab.status(&fqdn.id) == Some(Status::Active));
}

#[tokio::test]
async fn a_zone_that_is_shown_shows_what_lies_in_it() {
    let (mut lab, tenant, webroot) = asking().await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    let below = lab.zone(&tenant, "shop.example.com").await.unwrap();
    let fqdn = lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    let deep = lab.fqdn(&tenant, "www.shop.example.com", Some(&webroot)).await.unwrap();
    let record = lab.record(&zone, "TXT", "@", "hello").await.unwrap();
    lab.settle().await;
    let of_zone = |lab: &Lab| lab.intent("dns/default", IntentKind::Zone, "example.com");
    assert_eq!((of_zone(&lab), lab.rr_set("example.com/example.com/TXT")), (None, None));
    assert_eq!(lab.ownership(&zone.id).unwrap().name_servers, ["ns1.acme.example", "ns2.acme.example"]);
    lab.look_at(&zone.id, found(Proof::Delegation)).await.unwrap();
    assert!(of_zone(&lab).is_some() && lab.rr_set("example.com/example.com/TXT").is_some());
    for id in [&below.id, &fqdn.id, &deep.id] {
        assert_eq!(lab.proof(id), Some(Proof::Zone));
    }
    for id in [&zone.id, &below.id, &fqdn.id, &deep.id, &record.id] {
        assert_eq!(lab.status(id), Some(Status::Active), "{}", lab.get(id).unwrap().label);
    }
    assert!(
        lab.rr_set("example.com/www.example.com/A").is_some() && lab.route("www.shop.example.com").is_some()
    );
    assert_eq!(claim(&mut lab.store, &fqdn.id).await.unwrap(), None, "nobody looks for what its zone shows");
    // The zone goes: what it showed is looked for by itself now, and served until nothing is found.
    lab.store.errands.clear();
    lab.delete(&zone.id).await.unwrap();
    lab.settle().await;
    assert_eq!((lab.get(&zone.id), lab.proof(&fqdn.id)), (None, Some(Proof::Former)));
    assert!(
        lab.is_asked_for(&fqdn.id) && lab.is_asked_for(&below.id) && lab.route("www.example.com").is_some()
    );
    assert_eq!(lab.proof(&deep.id), Some(Proof::Zone), "the zone between is shown");
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_brands_own_zone_needs_no_proof_and_shows_its_tenants_names() {
    let (mut lab, tenant, webroot) = asking().await;
    let early = lab.fqdn(&tenant, "early.acme.example", Some(&webroot)).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.route("early.acme.example"), None);
    let body = json!({"name": "acme.example", "region_id": lab.region, "brand_id": "acme"});
    let zone = lab.post(Kind::Zone, None, body).await.unwrap();
    let late = lab.fqdn(&tenant, "late.acme.example", Some(&webroot)).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.ownership(&zone.id), None);
    for (id, name) in [(&early.id, "early.acme.example"), (&late.id, "late.acme.example")] {
        assert_eq!(lab.proof(id), Some(Proof::Zone), "{name}");
        assert!(lab.route(name).is_some(), "{name}");
    }
    lab.assert_planned().await;
}

#[tokio::test]
async fn what_was_claimed_before_the_policy_stays_and_without_it_nothing_is_asked() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    let old = lab.fqdn(&tenant, "old.example", Some(&webroot)).await.unwrap();
    lab.settle().await;
    assert!(lab.store.errands.is_empty() && lab.ownership(&old.id).is_none());
    lab.put("acme", json!({"name_verification": "required"})).await.unwrap();
    lab.settle().await;
    lab.put(&old.id, json!({"ssl_enabled": true})).await.unwrap();
    lab.settle().await;
    assert!(lab.route("old.example").is_some() && lab.ownership(&old.id).is_none());
    let new = lab.fqdn(&tenant, "new.example", Some(&webroot)).await.unwrap();
    let zone = lab.zone(&tenant, "zone.example").await.unwrap();
    lab.settle().await;
    assert_eq!((lab.route("new.example"), lab.proof(&zone.id)), (None, None));
    lab.put("acme", json!({"name_verification": "off"})).await.unwrap();
    lab.settle().await;
    assert!(lab.route("new.example").is_some());
    for id in [&new.id, &zone.id] {
        assert_eq!((lab.ownership(id), lab.status(id)), (None, Some(Status::Active)));
    }
    assert_eq!(lab.look_at(&new.id, nothing(true)).await, None, "a look that was under way says nothing now");
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_delegation_that_a_former_tenant_left_shows_nothing() {
    let (mut lab, tenant, _) = asking().await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    lab.look_at(&zone.id, found(Proof::Delegation)).await.unwrap();
    lab.delete(&zone.id).await.unwrap();
    lab.settle().await;
    let other = lab.tenant("acme", "c2").await;
    let claimed = lab.zone(&other, "example.com").await.unwrap();
    let claim = claim(&mut lab.store, &claimed.id).await.unwrap().unwrap();
    assert!(claim.is_zone && claim.ownership.name_servers.is_empty() && !claim.may_be_delegated);
    assert_ne!(
        claim.challenge,
        Challenge::of(&zone.id, "example.com"),
        "nor does the TXT record that was left"
    );
}

#[tokio::test]
async fn a_host_name_that_everybody_registers_under_is_nobodys() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    for name in ["github.io", "co.uk", "anything.ck"] {
        let refused = lab.fqdn(&tenant, name, None).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("{name} is a public suffix")), "{refused}");
    }
    lab.fqdn(&tenant, "www.github.io", None).await.unwrap();
    lab.store.admin = true;
    lab.fqdn(&tenant, "github.io", None).await.unwrap();
}
