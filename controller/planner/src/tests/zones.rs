//! Zones: who may have which name, what their records say, and what is wrong with them as a whole.

use super::*;
use crate::lint;

fn reason(result: Result<Resource, PlanError>) -> String {
    result.map(|resource| resource.label).unwrap_err().to_string()
}

async fn codes(lab: &mut Lab, resource: &Resource) -> Vec<(String, String)> {
    let stored = lab.store.resources[&resource.id].clone();
    let warnings = lint::of_change(&mut lab.store, &stored).await.unwrap();
    warnings.into_iter().map(|warning| (warning.code.to_owned(), warning.record)).collect()
}

fn one(code: &str, record: &str) -> Vec<(String, String)> {
    vec![(code.to_owned(), record.to_owned())]
}

/// A zone at example.com of a tenant.
async fn zone() -> (Lab, Resource, Resource) {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    (lab, tenant, zone)
}

#[tokio::test]
async fn one_record_in_two_spellings_is_one_record() {
    let (mut lab, _, zone) = zone().await;
    for (record_type, name, first, second) in [
        ("AAAA", "v6", "2001:db8::1", "2001:DB8:0:0::1"),
        ("A", "a", "192.0.2.1", " 192.0.2.1 "),
        ("CAA", "caa", "0 issue \"x.example\"", "0 ISSUE x.example"),
        ("TXT", "txt", "abc", "\"abc\""),
        ("NS", "Sub", "ns.example.net", "NS.example.net."),
        ("TXT", "Case", "x", "( \"x\" )"),
    ] {
        let made = lab.record(&zone, record_type, name, first).await.unwrap();
        let again = format!("{}.Example.COM.", name.to_uppercase());
        let twin = lab.record(&zone, record_type, &again, second).await;
        assert!(matches!(twin, Err(PlanError::Conflict(_))), "{record_type} {second}: {twin:?}");
        // Neither does a change: it stays as it is.
        let same = lab.put(&made.id, json!({"content": second})).await.unwrap();
        assert_eq!((same.generation, same.spec), (made.generation, made.spec), "{record_type}");
    }
    let mx = json!({"type": "MX", "name": "@", "content": "mail", "priority": 10});
    let mx = lab.post(Kind::ZoneRecord, Some(&zone.id), mx).await.unwrap();
    assert_eq!(mx.text("content"), "mail.example.com");
    let changed = lab.put(&mx.id, json!({"content": "MX2"})).await.unwrap();
    assert_eq!(changed.text("content"), "mx2.example.com", "relative to the zone, in a change too");
    let one = lab.record(&zone, "A", "pair", "192.0.2.1").await.unwrap();
    let two = lab.record(&zone, "A", "pair", "192.0.2.2").await.unwrap();
    assert!(matches!(lab.put(&two.id, json!({"content": "192.0.2.1"})).await, Err(PlanError::Conflict(_))));
    lab.put(&two.id, json!({"ttl": 60})).await.unwrap();
    lab.delete(&one.id).await.unwrap();
    let Some(m::rr_set::Data::Records(records)) = lab.rr_set("example.com/pair.example.com/A").unwrap().data
    else {
        panic!()
    };
    assert_eq!(records.rdata, ["192.0.2.2"]);
}

#[tokio::test]
async fn what_an_older_build_stored_is_served_and_compared() {
    let (mut lab, _, zone) = zone().await;
    let mut legacy = lab.record(&zone, "AAAA", "old", "2001:db8::1").await.unwrap();
    legacy.spec.insert("content".into(), json!("2001:DB8:0::1"));
    let change = crate::Change { put: vec![legacy.clone()], ..crate::Change::default() };
    crate::Draft::apply(&mut lab.store, change).await.unwrap();
    lab.store.commit();
    assert!(matches!(lab.record(&zone, "AAAA", "old", "2001:db8::1").await, Err(PlanError::Conflict(_))));
    assert_eq!(legacy.view()["content"], json!("2001:db8::1"));
    lab.put(&legacy.id, json!({"ttl": 60})).await.unwrap();
    let Some(m::rr_set::Data::Records(records)) =
        lab.rr_set("example.com/old.example.com/AAAA").unwrap().data
    else {
        panic!()
    };
    assert_eq!(records.rdata, ["2001:db8::1"]);
}

#[tokio::test]
async fn a_null_mx_stands_alone() {
    let (mut lab, _, zone) = zone().await;
    let mx = |content: &str, priority: u16| json!({"type": "MX", "name": "@", "content": content, "priority": priority});
    let null = lab.post(Kind::ZoneRecord, Some(&zone.id), mx(".", 0)).await.unwrap();
    let Some(m::rr_set::Data::Records(records)) = lab.rr_set("example.com/example.com/MX").unwrap().data
    else {
        panic!()
    };
    assert_eq!(records.rdata, ["0 ."]);
    let beside = lab.post(Kind::ZoneRecord, Some(&zone.id), mx("mail", 10)).await;
    assert!(reason(beside).contains("RFC 7505"));
    lab.delete(&null.id).await.unwrap();
    lab.settle().await;
    let real = lab.post(Kind::ZoneRecord, Some(&zone.id), mx("mail", 10)).await.unwrap();
    assert!(reason(lab.post(Kind::ZoneRecord, Some(&zone.id), mx(".", 0)).await).contains("RFC 7505"));
    lab.put(&real.id, json!({"content": ".", "priority": 0})).await.unwrap();
}

#[tokio::test]
async fn a_serial_never_goes_back() {
    let (mut lab, tenant, zone) = zone().await;
    for n in 1..5 {
        lab.record(&zone, "A", "y", &format!("192.0.2.{n}")).await.unwrap();
    }
    let last = lab.serial("example.com");
    assert!(last >= 5);
    lab.delete(&zone.id).await.unwrap();
    let again = lab.zone(&tenant, "example.com").await.unwrap();
    assert!(lab.serial("example.com") > last, "while the old one is on its way out");
    lab.settle().await;
    let last = lab.serial("example.com");
    lab.delete(&again.id).await.unwrap();
    lab.settle().await;
    // Another one that is gone, and is far behind.
    let other = lab.zone(&tenant, "other.example").await.unwrap();
    lab.delete(&other.id).await.unwrap();
    lab.settle().await;
    lab.zone(&tenant, "example.com").await.unwrap();
    assert!(lab.serial("example.com") > last);
}

#[tokio::test]
async fn public_suffixes_are_everybodys() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let brands = |name: &str, lab: &Lab| json!({"name": name, "region_id": lab.region, "brand_id": "acme"});
    for suffix in ["co.uk", "github.io", "kobe.jp"] {
        assert!(reason(lab.zone(&tenant, suffix).await).contains("is a public suffix"), "{suffix}");
        let own = brands(suffix, &lab);
        assert!(reason(lab.post(Kind::Zone, None, own).await).contains("is a public suffix"), "{suffix}");
    }
    lab.zone(&tenant, "acme.co.uk").await.unwrap();
    assert!(reason(lab.put("acme", json!({"base_hostname": "co.uk"})).await).contains("is a public suffix"));
    // A platform admin's key may make one the brand's own, and not a customer's.
    lab.store.admin = true;
    assert!(reason(lab.zone(&tenant, "github.io").await).contains("is a public suffix"));
    let own = brands("github.io", &lab);
    lab.post(Kind::Zone, None, own).await.unwrap();
}

#[tokio::test]
async fn a_brands_base_host_name_is_its_own() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.brand("bolt", "sites.bolt.example").await;
    let foreign = lab.tenant("bolt", "c2").await;
    for name in ["acme.example", "x.acme.example"] {
        assert!(reason(lab.zone(&foreign, name).await).contains("base host name of another brand"), "{name}");
    }
    for name in ["acme.example", "y.acme.example"] {
        let taken = lab.fqdn(&foreign, name, None).await;
        assert!(reason(taken).contains("base host name of another brand"), "{name}");
    }
    // What holds it, too.
    assert!(reason(lab.zone(&tenant, "bolt.example").await).contains("sites.bolt.example"));
    for base in ["acme.example", "x.acme.example"] {
        let taken = lab.put("bolt", json!({"base_hostname": base})).await;
        assert!(reason(taken).contains("another brand"), "{base}");
    }
    assert!(
        reason(lab.put("acme", json!({"base_hostname": "bolt.example"})).await).contains("another brand")
    );
    lab.put("bolt", json!({"base_hostname": "hosting.example"})).await.unwrap();
    // Its own tenants have it only from the platform; everybody else's names stay free.
    let own = lab.zone(&tenant, "acme.example").await;
    assert!(reason(own).contains("make it the brand's own zone"));
    lab.zone(&tenant, "club.acme.example").await.unwrap();
    lab.zone(&foreign, "bolt.example").await.unwrap();
    lab.store.admin = true;
    lab.zone(&tenant, "acme.example").await.unwrap();
    assert!(
        reason(lab.put("bolt", json!({"base_hostname": "acme.example"})).await).contains("another brand")
    );
}

#[tokio::test]
async fn a_zone_over_another_brands_is_refused() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.brand("bolt", "bolt.example").await;
    let foreign = lab.tenant("bolt", "c2").await;
    lab.zone(&tenant, "shop.x3.example").await.unwrap();
    assert!(reason(lab.zone(&foreign, "x3.example").await).contains("shop.x3.example"));
    assert!(
        reason(lab.put("bolt", json!({"base_hostname": "x3.example"})).await).contains("shop.x3.example")
    );
    lab.fqdn(&tenant, "www.x4.example", None).await.unwrap();
    assert!(reason(lab.put("bolt", json!({"base_hostname": "x4.example"})).await).contains("www.x4.example"));
    lab.zone(&tenant, "x3.example").await.unwrap();
}

#[tokio::test]
async fn only_the_platform_moves_a_brand() {
    let mut lab = Lab::new().await;
    let refused = lab.put("acme", json!({"dns_group": "other"})).await;
    assert!(matches!(refused, Err(PlanError::Forbidden(_))), "{refused:?}");
    let body = json!({"cluster_ids": [lab.cluster]});
    let current = lab.store.resources["acme"].clone();
    let change = hosting_resource::kinds::brand::set_clusters(&current, body.as_object().unwrap()).unwrap();
    let set = update(&mut lab.store, current.clone(), change.clone()).await;
    assert!(matches!(lab.end(set), Err(PlanError::Forbidden(_))));
    lab.put("acme", json!({"name": "Acme", "dns_group": "default"})).await.unwrap();
    lab.store.admin = true;
    let current = lab.store.resources["acme"].clone();
    let change = hosting_resource::kinds::brand::set_clusters(&current, body.as_object().unwrap()).unwrap();
    let set = update(&mut lab.store, current, change).await;
    lab.end(set).unwrap();
    lab.put("acme", json!({"dns_group": "other"})).await.unwrap();
}

#[tokio::test]
async fn hidden_records_are_told() {
    let (mut lab, tenant, zone) = zone().await;
    let early = lab.record(&zone, "TXT", "a.sub", "x").await.unwrap();
    assert_eq!(codes(&mut lab, &early).await, []);
    let cut = lab.record(&zone, "NS", "sub", "ns.example.net").await.unwrap();
    assert_eq!(codes(&mut lab, &cut).await, one("hidden_by_delegation", "a.sub.example.com TXT"));
    let www = lab.record(&zone, "A", "www.sub", "192.0.2.80").await.unwrap();
    assert_eq!(codes(&mut lab, &www).await, one("hidden_by_delegation", "www.sub.example.com A"));
    let at = lab.record(&zone, "TXT", "sub", "x").await.unwrap();
    let told = codes(&mut lab, &at).await;
    assert!(told.contains(&("hidden_by_delegation".into(), "sub.example.com TXT".into())), "{told:?}");
    // Addresses of the delegation's own servers are not hidden: they are its glue.
    let glue = lab.record(&zone, "A", "ns.own", "192.0.2.53").await.unwrap();
    let own = lab.record(&zone, "NS", "own", "ns.own.example.com").await.unwrap();
    assert_eq!((codes(&mut lab, &glue).await, codes(&mut lab, &own).await), (vec![], vec![]));

    lab.record(&zone, "A", "old.shop", "192.0.2.81").await.unwrap();
    let child = lab.zone(&tenant, "shop.example.com").await.unwrap();
    assert_eq!(codes(&mut lab, &child).await, one("hidden_by_zone", "old.shop.example.com A"));
    let late = lab.record(&zone, "A", "api.shop", "192.0.2.82").await.unwrap();
    assert_eq!(codes(&mut lab, &late).await, one("hidden_by_zone", "api.shop.example.com A"));
    let delegation = lab.record(&zone, "NS", "shop", "ns1.acme.example").await.unwrap();
    let told = codes(&mut lab, &delegation).await;
    assert!(!told.contains(&("hidden_by_zone".into(), "shop.example.com NS".into())), "{told:?}");
    let all = lint::of_zone(&mut lab.store, &zone).await.unwrap();
    assert_eq!(all.len(), 5, "{all:?}");
    // So are the platform's own records of a site.
    let webroot = lab.webroot(&tenant).await;
    lab.fqdn(&tenant, "www.site.example.com", Some(&webroot)).await.unwrap();
    lab.settle().await;
    let cut = lab.record(&zone, "NS", "site", "ns.example.net").await.unwrap();
    assert_eq!(codes(&mut lab, &cut).await, one("hidden_by_delegation", "www.site.example.com A"));
    let told = lint::of_name(&mut lab.store, &zone, "www.site.example.com").await.unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[tokio::test]
async fn targets_that_cannot_work_are_told() {
    let (mut lab, _, zone) = zone().await;
    let mx = |content: &str| json!({"type": "MX", "name": "@", "content": content, "priority": 10});
    lab.record(&zone, "CNAME", "alias", "host.example.net").await.unwrap();
    lab.record(&zone, "TXT", "words", "x").await.unwrap();
    for (body, code) in [
        (mx("alias"), "target_is_alias"),
        (mx("nowhere"), "target_missing"),
        (mx("words"), "target_without_address"),
        (json!({"type": "NS", "name": "sub", "content": "alias"}), "target_is_alias"),
        (json!({"type": "NS", "name": "sub2", "content": "ns.sub2.example.com."}), "target_missing"),
        (
            json!({"type": "SRV", "name": "_s._tcp", "content": "0 443 nowhere", "priority": 0}),
            "target_missing",
        ),
        (json!({"type": "CNAME", "name": "dangling", "content": "nowhere"}), "target_missing"),
    ] {
        let made = lab.post(Kind::ZoneRecord, Some(&zone.id), body.clone()).await.unwrap();
        let told = codes(&mut lab, &made).await;
        assert!(
            told.iter().any(|(told, record)| *told == code && record.starts_with(made.text("name"))),
            "{body} {told:?}"
        );
        lab.delete(&made.id).await.unwrap();
        lab.settle().await;
    }
    let own = lab.record(&zone, "CNAME", "self", "self").await.unwrap();
    assert_eq!(codes(&mut lab, &own).await, one("alias_loop", "self.example.com CNAME"));
    lab.record(&zone, "CNAME", "one", "two").await.unwrap();
    let two = lab.record(&zone, "CNAME", "two", "one").await.unwrap();
    assert_eq!(codes(&mut lab, &two).await.len(), 2, "both of them");
    lab.record(&zone, "A", "*.wild", "192.0.2.1").await.unwrap();
    lab.record(&zone, "A", "mail", "192.0.2.1").await.unwrap();
    for body in [
        mx("mail"),
        mx("any.wild"),
        mx("mail.example.net"),
        json!({"type": "CNAME", "name": "ok", "content": "words"}),
    ] {
        let made = lab.post(Kind::ZoneRecord, Some(&zone.id), body.clone()).await.unwrap();
        assert_eq!(codes(&mut lab, &made).await, [], "{body}");
    }
}

#[tokio::test]
async fn own_name_servers_without_addresses_are_told() {
    let mut lab = Lab::new().await;
    let own = json!({"name": "acme.example", "region_id": lab.region, "brand_id": "acme"});
    let own = lab.post(Kind::Zone, None, own).await.unwrap();
    let told = codes(&mut lab, &own).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|(code, _)| code == "name_server_without_address"));
    // In every zone that they serve.
    let tenant = lab.tenant("acme", "c1").await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    assert_eq!(codes(&mut lab, &zone).await.len(), 2);
    let name = lint::of_name(&mut lab.store, &zone, "www.example.com").await.unwrap();
    assert_eq!(name.len(), 2, "{name:?}");
    let beside = lab.record(&own, "TXT", "@", "x").await.unwrap();
    assert_eq!(codes(&mut lab, &beside).await, [], "no matter of this record");
    let alone = lab.record(&own, "TXT", "ns1", "x").await.unwrap();
    assert_eq!(codes(&mut lab, &alone).await, one("name_server_without_address", "acme.example NS"));
    lab.record(&own, "A", "ns1", "192.0.2.53").await.unwrap();
    lab.record(&own, "AAAA", "ns2", "2001:db8::53").await.unwrap();
    assert_eq!((codes(&mut lab, &own).await, codes(&mut lab, &zone).await), (vec![], vec![]));
    lab.put("acme", json!({"secondary_ns": "ns.elsewhere.test"})).await.unwrap();
    assert_eq!(codes(&mut lab, &zone).await, []);
}

#[tokio::test]
async fn ttls_of_a_set_are_told_and_work_is_bounded() {
    let (mut lab, _, zone) = zone().await;
    let body =
        |content: String, ttl: u32| json!({"type": "A", "name": "many", "content": content, "ttl": ttl});
    let first = lab.post(Kind::ZoneRecord, Some(&zone.id), body("192.0.2.1".into(), 3600)).await.unwrap();
    assert_eq!(codes(&mut lab, &first).await, []);
    let second = lab.post(Kind::ZoneRecord, Some(&zone.id), body("192.0.2.2".into(), 60)).await.unwrap();
    assert_eq!(codes(&mut lab, &second).await, one("ttls_differ", "many.example.com A"));
    // A large zone costs a change no more, and tells what lies around it all the same.
    let many = (0..600).map(|n| {
        let mut record = lab.store.resources[&second.id].clone();
        record.id = format!("filler-{n}");
        record.spec.insert("name".into(), json!(format!("n{n}.example.com")));
        record
    });
    let change = crate::Change { put: many.collect(), ..crate::Change::default() };
    crate::Draft::apply(&mut lab.store, change).await.unwrap();
    lab.store.commit();
    lab.store.reads = 0;
    assert_eq!(codes(&mut lab, &second).await, one("ttls_differ", "many.example.com A"));
    let mx = json!({"type": "MX", "name": "n1", "content": "nowhere", "priority": 10});
    let mx = lab.post(Kind::ZoneRecord, Some(&zone.id), mx).await.unwrap();
    lab.store.reads = 0;
    assert_eq!(codes(&mut lab, &mx).await, one("target_missing", "n1.example.com MX"));
    assert!(lab.store.reads < 40, "{} reads", lab.store.reads);
    let told = lint::of_zone(&mut lab.store, &zone).await.unwrap();
    assert_eq!(told.last().unwrap().code, "zone_partly_checked");
}

#[tokio::test]
async fn each_brand_has_its_own_subscription_ids() {
    let mut lab = Lab::new().await;
    lab.brand("bolt", "bolt.example").await;
    let (one, two) = (lab.tenant("acme", "c1").await, lab.tenant("bolt", "c1").await);
    let crm = json!({"id": "crm-1", "name": "web"});
    let mine = lab.post(Kind::Subscription, Some(&one.id), crm.clone()).await.unwrap();
    let other = lab.tenant("acme", "c2").await;
    assert!(
        reason(lab.post(Kind::Subscription, Some(&other.id), crm.clone()).await).contains("exists already")
    );
    let theirs = lab.post(Kind::Subscription, Some(&two.id), crm.clone()).await.unwrap();
    assert_ne!(mine.id, theirs.id);
    assert_eq!((mine.view()["id"].clone(), theirs.view()["id"].clone()), (json!("crm-1"), json!("crm-1")));
    // Nothing of another kind is in the way, nor are they in anybody's.
    lab.brand("crm-1", "crm.example").await;
    let site = json!({"subscription_id": "crm-1", "runtime": "static", "runtime_version": "1"});
    for (tenant, subscription) in [(&one, &mine), (&two, &theirs)] {
        let webroot = lab.post(Kind::Webroot, Some(&tenant.id), site.clone()).await.unwrap();
        assert_eq!(webroot.text("subscription_id"), subscription.id);
        assert_eq!(webroot.view()["subscription_id"], json!("crm-1"));
    }
    // What an older build kept under the id alone is still found, and still taken.
    let mut legacy = mine.clone();
    legacy.id = "crm-2".into();
    legacy.spec.insert("name".into(), json!("legacy"));
    let change = crate::Change { put: vec![legacy], ..crate::Change::default() };
    crate::Draft::apply(&mut lab.store, change).await.unwrap();
    lab.store.commit();
    let again = json!({"id": "crm-2", "name": "again"});
    assert!(
        reason(lab.post(Kind::Subscription, Some(&one.id), again.clone()).await).contains("exists already")
    );
    lab.post(Kind::Subscription, Some(&two.id), again).await.unwrap();
    let site = json!({"subscription_id": "crm-2", "runtime": "static", "runtime_version": "1"});
    let webroot = lab.post(Kind::Webroot, Some(&one.id), site).await.unwrap();
    assert_eq!(webroot.text("subscription_id"), "crm-2");
}
