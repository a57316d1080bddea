//! Host names: who may have them, what they are bound to, and their automatic records.

use super::*;
use crate::ApplyError;

const AUTO: &str = "example.com/www.example.com/A";

/// A tenant with a site that is up at www.example.com, in its own zone.
async fn site() -> (Lab, Resource, Resource, Resource, Resource) {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    let webroot = lab.webroot(&tenant).await;
    let fqdn = lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    lab.settle().await;
    (lab, tenant, zone, webroot, fqdn)
}

fn is_auto(set: Option<m::RrSet>) -> bool {
    matches!(set.and_then(|set| set.data), Some(m::rr_set::Data::AddressSet(_)))
}

fn auto_records(lab: &Lab) -> Vec<String> {
    let all =
        lab.store.resources.values().filter(|r| r.kind == Kind::ZoneRecord && r.text("managed_by") == "auto");
    let mut all: Vec<String> = all.map(|r| format!("{} {}", r.label, r.parent.clone().unwrap())).collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_name_belongs_to_one() {
    let (mut lab, tenant, _, webroot, _) = site().await;
    let other = lab.tenant("acme", "c2").await;
    let taken = lab.fqdn(&other, "www.example.com", None).await.unwrap_err();
    assert!(matches!(taken, PlanError::Conflict(_)), "in another tenant's zone: {taken}");
    let taken = lab.fqdn(&tenant, "www.example.com", None).await.unwrap_err();
    assert!(matches!(taken, PlanError::Apply(ApplyError::Taken { field: "fqdn", .. })), "{taken}");
    let stolen = lab.fqdn(&other, "other.example", Some(&webroot)).await.unwrap_err();
    assert!(stolen.to_string().contains("webroot_id") && stolen.to_string().contains("another tenant"));
    lab.fqdn(&other, "shop.acme.example", None).await.unwrap();
    let service = format!("{}.{}.acme.example", webroot.id.replace('_', "-"), tenant.id.replace('_', "-"));
    assert!(matches!(lab.fqdn(&other, &service, None).await, Err(PlanError::Conflict(_))));
}

#[tokio::test]
async fn a_wildcard_belongs_to_whoever_has_all_names_that_it_stands_for() {
    let (mut lab, tenant, _, webroot, _) = site().await;
    let other = lab.tenant("acme", "c2").await;
    let wildcard = lab.fqdn(&tenant, "*.example.com", Some(&webroot)).await.unwrap();
    lab.settle().await;
    assert!(lab.route("*.example.com").is_some() && is_auto(lab.rr_set("example.com/*.example.com/A")));
    assert_eq!(lab.status(&wildcard.id), Some(Status::Active));
    // In no zone of ours: not over names of others, nor under somebody else's.
    lab.fqdn(&tenant, "*.far.test", None).await.unwrap();
    lab.fqdn(&tenant, "www.far.test", None).await.unwrap();
    lab.fqdn(&other, "far.test", None).await.unwrap();
    lab.fqdn(&other, "x.y.far.test", None).await.unwrap();
    for (whose, name, why) in [
        (&other, "shop.far.test", "shop.far.test lies under *.far.test"),
        (&other, "*.example.com", "which belongs to somebody else"),
        (&tenant, "*.y.far.test", "would hold the host name x.y.far.test"),
        (&tenant, "*.co.uk", "co.uk is a public suffix"),
    ] {
        let refused = lab.fqdn(whose, name, None).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{name}: {refused}");
    }
    // A brand's zone is for all of its tenants.
    let brand_zone = json!({"name": "shared.test", "subscription_id": "sub-c1", "region_id": lab.region, "brand_id": "acme"});
    lab.post(Kind::Zone, None, brand_zone).await.unwrap();
    lab.fqdn(&tenant, "a.shared.test", None).await.unwrap();
    lab.fqdn(&tenant, "*.a.shared.test", None).await.unwrap();
    for (whose, name) in [(&tenant, "*.shared.test"), (&other, "*.b.shared.test")] {
        let refused = lab.fqdn(whose, name, None).await.unwrap_err().to_string();
        assert!(refused.contains("all tenants of its brand"), "{name}: {refused}");
    }
}

#[tokio::test]
async fn a_zone_takes_nothing_from_another() {
    let (mut lab, tenant, _, _, _) = site().await;
    let other = lab.tenant("acme", "c2").await;
    assert!(matches!(lab.zone(&other, "shop.example.com").await, Err(PlanError::Conflict(_))));
    lab.zone(&tenant, "shop.example.com").await.unwrap();
    let subscription = "sub-c1";
    let brand_zone = json!({"name": "acme.example", "subscription_id": subscription, "region_id": lab.region,
        "brand_id": "acme"});
    lab.post(Kind::Zone, None, brand_zone).await.unwrap();
    // A tenant's own zone under its brand's, but never where another tenant's service host names lie.
    lab.zone(&other, "club.acme.example").await.unwrap();
    let label = tenant.id.replace('_', "-");
    assert!(matches!(lab.zone(&other, &format!("{label}.acme.example")).await, Err(PlanError::Conflict(_))));
    lab.zone(&tenant, &format!("{label}.acme.example")).await.unwrap();
    lab.brand("bolt", "bolt.example").await;
    let foreign = lab.tenant("bolt", "c3").await;
    assert!(matches!(lab.zone(&foreign, "x.acme.example").await, Err(PlanError::Conflict(_))));
    assert!(matches!(lab.fqdn(&foreign, "y.acme.example", None).await, Err(PlanError::Conflict(_))));
    lab.fqdn(&other, "y.acme.example", None).await.unwrap();
}

#[tokio::test]
async fn automatic_records_follow_their_zone() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    lab.fqdn(&tenant, "www.shop.example.com", Some(&webroot)).await.unwrap();
    lab.fqdn(&tenant, "unbound.example.com", None).await.unwrap();
    lab.settle().await;
    assert_eq!(auto_records(&lab), [] as [&str; 0]);
    // The zone comes after the name.
    let wide = lab.zone(&tenant, "example.com").await.unwrap();
    lab.settle().await;
    assert_eq!(auto_records(&lab), [format!("www.shop.example.com A {}", wide.id)]);
    assert!(is_auto(lab.rr_set("example.com/www.shop.example.com/A")));
    // A closer zone takes the name over, and gives it back.
    let close = lab.zone(&tenant, "shop.example.com").await.unwrap();
    lab.settle().await;
    assert_eq!(auto_records(&lab), [format!("www.shop.example.com A {}", close.id)]);
    assert_eq!(lab.rr_set("example.com/www.shop.example.com/A"), None);
    assert!(is_auto(lab.rr_set("shop.example.com/www.shop.example.com/A")));
    lab.assert_planned().await;
    lab.delete(&close.id).await.unwrap();
    assert_eq!(lab.rr_set("shop.example.com/www.shop.example.com/A"), None);
    lab.settle().await;
    assert_eq!(lab.get(&close.id), None);
    assert_eq!(auto_records(&lab), [format!("www.shop.example.com A {}", wide.id)]);
    lab.assert_planned().await;
    lab.delete(&wide.id).await.unwrap();
    lab.settle().await;
    assert_eq!(auto_records(&lab), [] as [&str; 0]);
    assert!(
        lab.store.resources.values().filter(|r| r.kind == Kind::Fqdn).all(|r| r.status == Status::Active)
    );
    lab.assert_planned().await;
}

#[tokio::test]
async fn custom_records_take_over_and_give_back() {
    let (mut lab, _, zone, _, _) = site().await;
    assert!(is_auto(lab.rr_set(AUTO)));
    // Either family takes the name over whole.
    let six = lab.record(&zone, "AAAA", "www", "2001:db8::1").await.unwrap();
    assert_eq!(lab.rr_set(AUTO), None);
    assert_eq!(auto_records(&lab).len(), 1, "it steps back, it does not go");
    lab.settle().await;
    assert_eq!(lab.status(&six.id), Some(Status::Active));
    let four = lab.record(&zone, "A", "www", "198.51.100.1").await.unwrap();
    let twin = lab.record(&zone, "A", "www.example.com.", "198.51.100.2").await.unwrap();
    let Some(m::rr_set::Data::Records(records)) = lab.rr_set(AUTO).unwrap().data else { panic!() };
    assert_eq!(records.rdata, ["198.51.100.1", "198.51.100.2"]);
    assert!(matches!(lab.record(&zone, "A", "www", "198.51.100.1").await, Err(PlanError::Conflict(_))));
    assert!(matches!(lab.record(&zone, "CNAME", "www", "x.example").await, Err(PlanError::Conflict(_))));
    lab.put(&twin.id, json!({"ttl": 60})).await.unwrap();
    assert_eq!(lab.rr_set(AUTO).unwrap().ttl, 60);
    lab.settle().await;
    lab.assert_planned().await;
    for id in [&four.id, &twin.id] {
        lab.delete(id).await.unwrap();
        assert!(!is_auto(lab.rr_set(AUTO)), "the other family still has the name");
    }
    lab.delete(&six.id).await.unwrap();
    assert!(is_auto(lab.rr_set(AUTO)));
    lab.settle().await;
    assert_eq!(lab.get(&six.id), None);
    let alias = lab.record(&zone, "CNAME", "www", "elsewhere.example").await.unwrap();
    assert_eq!(lab.rr_set(AUTO), None);
    assert!(matches!(lab.record(&zone, "TXT", "www", "x").await, Err(PlanError::Conflict(_))));
    lab.delete(&alias.id).await.unwrap();
    assert!(is_auto(lab.rr_set(AUTO)));
    let auto = lab.store.resources.values().find(|r| r.text("managed_by") == "auto").unwrap().id.clone();
    assert!(matches!(lab.delete(&auto).await, Err(PlanError::Forbidden(_))));
    lab.settle().await;
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_serial_moves_once_a_revision() {
    let (mut lab, tenant, zone, _, _) = site().await;
    let before = lab.serial("example.com");
    let record = lab.record(&zone, "A", "@", "198.51.100.1").await.unwrap();
    assert_eq!(lab.serial("example.com"), before + 1);
    lab.put(&record.id, json!({"ttl": 120})).await.unwrap();
    assert_eq!(lab.serial("example.com"), before + 2);
    lab.put(&record.id, json!({"ttl": 120})).await.unwrap();
    assert_eq!(lab.serial("example.com"), before + 2, "nothing changed");
    // A zone begins at 1, its records included; several changes of one revision are one step.
    let fresh = lab.zone(&tenant, "fresh.example").await.unwrap();
    assert_eq!(lab.serial("fresh.example"), 1);
    for name in ["a", "b"] {
        let body = json!({"type": "TXT", "name": name, "content": "x"});
        let creation = Kind::ZoneRecord
            .def()
            .create(Some(&fresh), body.as_object().unwrap(), &mut |bytes: &mut [u8]| {
                bytes.fill(name.as_bytes()[0])
            })
            .unwrap();
        create(&mut lab.store, creation).await.unwrap();
    }
    lab.store.commit();
    assert_eq!(lab.serial("fresh.example"), 2);
    lab.assert_planned().await;
    // RFC 1982: it wraps; 0 is left out.
    lab.store.resources.get_mut(&zone.id).unwrap().state["serial"] = json!(u32::MAX);
    lab.put(&record.id, json!({"ttl": 180})).await.unwrap();
    assert_eq!(lab.serial("example.com"), 1);
}

#[tokio::test]
async fn binding_anew_keeps_the_old_site_until_the_new_one_answers() {
    let (mut lab, tenant, _, first, fqdn) = site().await;
    let second = lab.webroot(&tenant).await;
    let bound = lab.put(&fqdn.id, json!({"webroot_id": second.id})).await.unwrap();
    assert_eq!(lab.route("www.example.com").unwrap().webroot_id, first.id);
    assert!(is_auto(lab.rr_set(AUTO)));
    let fleet = Everybody::of(&lab.store);
    let verdict = lab.look(&bound.id, &fleet).await;
    assert!(!verdict.settled, "{verdict:?}");
    lab.settle().await;
    assert_eq!(lab.route("www.example.com").unwrap().webroot_id, second.id);
    assert_eq!(lab.status(&fqdn.id), Some(Status::Active));
    lab.assert_planned().await;
    // Unbound it is known, and has no address.
    lab.put(&fqdn.id, json!({"webroot_id": null})).await.unwrap();
    assert_eq!(lab.route("www.example.com").unwrap().webroot_id, "");
    assert_eq!(lab.rr_set(AUTO), None);
    lab.settle().await;
    lab.assert_planned().await;
    lab.put(&fqdn.id, json!({"webroot_id": first.id})).await.unwrap();
    lab.settle().await;
    assert!(is_auto(lab.rr_set(AUTO)));
    lab.assert_planned().await;
}

#[tokio::test]
async fn service_host_names_in_both_spellings() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let zone = json!({"name": "acme.example", "subscription_id": "sub-c1", "region_id": lab.region, "brand_id": "acme"});
    lab.post(Kind::Zone, None, zone).await.unwrap();
    let webroot = lab.webroot_with(&tenant, true).await;
    let written = format!("{}.{}.acme.example", webroot.id, tenant.id);
    let certifiable = written.replace('_', "-");
    assert_eq!(lab.route(&written), None);
    lab.settle().await;
    for name in [&written, &certifiable] {
        assert_eq!(lab.route(name).unwrap().webroot_id, webroot.id);
        assert!(is_auto(lab.rr_set(&format!("acme.example/{name}/A"))));
    }
    assert_eq!(lab.status(&webroot.id), Some(Status::Active));
    lab.assert_planned().await;
    // Another base name: the new routes first, then their records.
    lab.put("acme", json!({"base_hostname": "sites.acme.example"})).await.unwrap();
    lab.drain().await;
    let moved = format!("{}.{}.sites.acme.example", webroot.id, tenant.id);
    assert!(lab.route(&moved).is_some());
    assert_eq!(lab.rr_set(&format!("acme.example/{moved}/A")), None);
    assert_eq!((lab.route(&written), lab.rr_set(&format!("acme.example/{written}/A"))), (None, None));
    lab.settle().await;
    assert!(is_auto(lab.rr_set(&format!("acme.example/{moved}/A"))));
    lab.assert_planned().await;
    lab.put(&webroot.id, json!({"service_hostname_enabled": false})).await.unwrap();
    lab.settle().await;
    assert_eq!((lab.route(&moved), lab.rr_set(&format!("acme.example/{moved}/A"))), (None, None));
    assert_eq!(lab.status(&webroot.id), Some(Status::Active));
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_zone_changes_hands() {
    let (mut lab, tenant, zone, _, _) = site().await;
    let other = lab.tenant("acme", "c2").await;
    let moved = lab.put(&zone.id, json!({"tenant_id": other.id})).await.unwrap();
    assert_eq!(
        (moved.tenant.as_deref(), moved.text("subscription_id")),
        (Some(other.id.as_str()), "acme~sub-c2")
    );
    lab.settle().await;
    // The name still is the first tenant's, its records are not in a stranger's zone.
    assert_eq!(lab.rr_set(AUTO), None);
    assert!(lab.route("www.example.com").is_some());
    lab.assert_planned().await;
    lab.delete("acme~sub-c1").await.unwrap();
    lab.settle().await;
    assert!(lab.get(&zone.id).is_some(), "billed with the other's subscription now");
    lab.brand("bolt", "bolt.example").await;
    let foreign = lab.tenant("bolt", "c3").await;
    assert!(matches!(
        lab.put(&zone.id, json!({"tenant_id": foreign.id})).await,
        Err(PlanError::Invalid { .. })
    ));
    assert!(lab.get(&tenant.id).is_some());
}

#[tokio::test]
async fn references_must_fit_together() {
    let mut lab = Lab::new().await;
    lab.brand("bolt", "bolt.example").await;
    let cluster = lab.cluster.clone();
    let dns_shard =
        lab.post(Kind::Shard, Some(&cluster), json!({"name": "d", "role": "dns"})).await.unwrap().id;
    let tenant = |shard: &str, brand: &str, lab: &Lab| {
        json!({"brand_id": brand, "customer_id": "x", "region_id": lab.region, "cluster_id": lab.cluster,
            "shard_id": shard})
    };
    let body = tenant(&dns_shard, "acme", &lab);
    assert!(lab.post(Kind::Tenant, None, body).await.unwrap_err().to_string().contains("web shard"));
    let body = tenant("nope", "acme", &lab);
    assert!(lab.post(Kind::Tenant, None, body).await.unwrap_err().to_string().contains("there is no shard"));
    let region = lab.region.clone();
    let elsewhere = lab.post(Kind::Cluster, Some(&region), json!({"name": "c2"})).await.unwrap().id;
    let clusters = hosting_resource::kinds::brand::set_clusters(
        &lab.store.resources["bolt"].clone(),
        json!({"cluster_ids": [elsewhere]}).as_object().unwrap(),
    )
    .unwrap();
    let bolt = lab.store.resources["bolt"].clone();
    lab.store.admin = true;
    let updated = update(&mut lab.store, bolt, clusters).await;
    lab.end(updated).unwrap();
    let body = tenant(&lab.shard.clone(), "bolt", &lab);
    let refused = lab.post(Kind::Tenant, None, body).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("cluster {cluster} is not allowed for brand bolt")), "{refused}");
    let node = json!({"id": "n", "hostname": "n", "roles": ["web"], "shard_ids": [lab.shard]});
    let refused = lab.post(Kind::Node, Some(&elsewhere), node).await.unwrap_err().to_string();
    assert!(refused.contains("not in cluster"), "{refused}");
    let one = lab.tenant("acme", "c1").await;
    let two = lab.tenant("acme", "c2").await;
    let body = json!({"subscription_id": "sub-c2", "runtime": "static", "runtime_version": "1"});
    let refused = lab.post(Kind::Webroot, Some(&one.id), body).await.unwrap_err().to_string();
    assert!(refused.contains("another tenant"), "{refused}");
    let again = json!({"id": "sub-c2", "name": "again"});
    assert!(matches!(lab.post(Kind::Subscription, Some(&two.id), again).await, Err(PlanError::Conflict(_))));
}

#[tokio::test]
async fn a_zone_takes_no_name_of_another_tenant_out_of_the_brands_zone() {
    let mut lab = Lab::new().await;
    let (owner, other) = (lab.tenant("acme", "c1").await, lab.tenant("acme", "c2").await);
    let region = lab.region.clone();
    let shared = json!({"name": "acme.example", "region_id": region, "brand_id": "acme"});
    let shared = lab.post(Kind::Zone, None, shared).await.unwrap();
    let webroot = lab.webroot(&owner).await;
    lab.fqdn(&owner, "www.shop.acme.example", Some(&webroot)).await.unwrap();
    lab.settle().await;
    const KEY: &str = "acme.example/www.shop.acme.example/A";
    assert!(is_auto(lab.rr_set(KEY)));

    for name in ["www.shop.acme.example", "shop.acme.example"] {
        let taken = lab.zone(&other, name).await.unwrap_err();
        assert!(taken.to_string().contains("www.shop.acme.example"), "{taken}");
    }
    let taken = lab.put(&shared.id, json!({"tenant_id": other.id})).await.unwrap_err();
    assert!(matches!(taken, PlanError::Conflict(_)), "{taken}");
    lab.settle().await;
    assert!(is_auto(lab.rr_set(KEY)));

    // Whose name it is may have the zone; so may the brand, whose zones are open to all of its tenants.
    let inner = json!({"name": "shop.acme.example", "region_id": region, "brand_id": "acme"});
    lab.post(Kind::Zone, None, inner).await.unwrap();
    lab.zone(&owner, "www.shop.acme.example").await.unwrap();
    // Neither stands in the way any more: the name has a zone of its owner's own.
    lab.zone(&other, "club.acme.example").await.unwrap();
    lab.settle().await;
    assert!(is_auto(lab.rr_set("www.shop.acme.example/www.shop.acme.example/A")));
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_base_name_lies_in_no_other_brands_zone() {
    let (mut lab, ..) = site().await;
    lab.brand("bolt", "bolt.example").await;
    for base in ["example.com", "sites.example.com"] {
        let refused = lab.put("bolt", json!({"base_hostname": base})).await.unwrap_err();
        assert!(matches!(refused, PlanError::Conflict(_)), "{refused}");
    }
    lab.put("acme", json!({"base_hostname": "sites.example.com"})).await.unwrap();
    lab.put("bolt", json!({"base_hostname": "bolt.test"})).await.unwrap();
}

#[tokio::test]
async fn a_set_of_records_that_fits_into_no_answer_is_refused() {
    let (mut lab, _, zone, ..) = site().await;
    let mut last = None;
    for n in 0..8 {
        match lab.record(&zone, "TXT", "big", &format!("{n}{}", "x".repeat(4_000))).await {
            Ok(record) => last = Some((n, record)),
            Err(refused) => {
                assert!(matches!(&refused, PlanError::Conflict(why) if why.contains("16384")), "{refused}");
                break;
            }
        }
    }
    let (count, last) = last.unwrap();
    assert_eq!(count, 3, "four of them fit");
    let (shorter, longer) = (json!({"content": "y".repeat(3_900)}), json!({"content": "y".repeat(4_096)}));
    lab.put(&last.id, shorter).await.unwrap();
    lab.put(&last.id, longer).await.unwrap();
    lab.record(&zone, "A", "big", "192.0.2.1").await.unwrap();

    for n in 0..32 {
        lab.record(&zone, "NS", "sub", &format!("ns{n}.example.net.")).await.unwrap();
    }
    let refused = lab.record(&zone, "NS", "sub", "one.too.many.").await.unwrap_err();
    assert!(refused.to_string().contains("at most 32 records"), "{refused}");
}
