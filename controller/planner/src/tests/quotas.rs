//! How many resources of a kind tenants, brands and subscriptions may have.

use super::*;

fn over(error: PlanError) -> (String, u64, u64, u64) {
    let PlanError::OverLimit(over) = &error else { panic!("{error}") };
    (format!("{} {}", over.owner_kind, over.kind), over.limit, over.used, over.asked)
}

async fn package(lab: &mut Lab, id: &str, limits: Value) -> Resource {
    lab.post(Kind::Package, Some("acme"), json!({"id": id, "name": id, "limits": limits})).await.unwrap()
}

#[tokio::test]
async fn a_package_limits_its_tenants_and_a_change_of_it_counts_at_once() {
    let mut lab = Lab::new().await;
    package(&mut lab, "small", json!({"webroots": 1, "fqdns": 2})).await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.put(&tenant.id, json!({"package_id": "small"})).await.unwrap();
    lab.webroot(&tenant).await;
    let body = json!({"subscription_id": "sub-c1", "runtime": "static", "runtime_version": "1",
        "fqdns": [{"fqdn": "a.example"}, {"fqdn": "b.example"}]});
    let refused = lab.post(Kind::Webroot, Some(&tenant.id), body.clone()).await.unwrap_err();
    let words = refused.to_string();
    assert!(words.contains("has 1 of the 1 webroots that it may have, and 1 more would be made"), "{words}");
    assert_eq!(over(refused), ("tenant webroot".into(), 1, 1, 1));
    // What is nested counts too, together.
    lab.put("small", json!({"limits": {"webroots": 2, "fqdns": 1}})).await.unwrap();
    let refused = lab.post(Kind::Webroot, Some(&tenant.id), body.clone()).await.unwrap_err();
    assert_eq!(over(refused), ("tenant fqdn".into(), 1, 0, 2));
    lab.put("small", json!({"limits": {"webroots": 2}})).await.unwrap();
    lab.post(Kind::Webroot, Some(&tenant.id), body.clone()).await.unwrap();
    // A limit of its own goes before the package's; one below what is there takes nothing away.
    lab.put(&tenant.id, json!({"limits": {"webroots": 0, "zones": 1}})).await.unwrap();
    assert_eq!(
        over(
            lab.post(
                Kind::Webroot,
                Some(&tenant.id),
                json!({"subscription_id": "sub-c1", "runtime": "static", "runtime_version": "1"})
            )
            .await
            .unwrap_err()
        ),
        ("tenant webroot".into(), 0, 2, 1)
    );
    lab.zone(&tenant, "one.example").await.unwrap();
    assert_eq!(over(lab.zone(&tenant, "two.example").await.unwrap_err()), ("tenant zone".into(), 1, 1, 1));
    // Automatic records are the platform's.
    lab.put(&tenant.id, json!({"limits": {"zone_records": 1}})).await.unwrap();
    let site = lab.store.resources.values().find(|one| one.kind == Kind::Webroot).unwrap().clone();
    let zone = lab.store.resources.values().find(|one| one.label == "one.example").unwrap().clone();
    lab.fqdn(&tenant, "www.one.example", Some(&site)).await.unwrap();
    lab.settle().await;
    lab.record(&zone, "TXT", "@", "x").await.unwrap();
    assert_eq!(
        over(lab.record(&zone, "TXT", "@", "y").await.unwrap_err()),
        ("tenant zone_record".into(), 1, 1, 1)
    );
    // Without the package and limits nothing is counted.
    lab.put(&tenant.id, json!({"package_id": null, "limits": {}})).await.unwrap();
    lab.record(&zone, "TXT", "@", "y").await.unwrap();
    lab.delete("small").await.unwrap();
}

#[tokio::test]
async fn a_subscription_limits_what_is_billed_with_it_and_a_brand_all_of_its_tenants() {
    let mut lab = Lab::new().await;
    package(&mut lab, "one-site", json!({"webroots": 1, "zones": 1})).await;
    let tenant = lab.tenant("acme", "c1").await;
    let subscription = json!({"id": "extra", "name": "extra", "package_id": "one-site"});
    lab.post(Kind::Subscription, Some(&tenant.id), subscription).await.unwrap();
    let site = |subscription: &str| json!({"subscription_id": subscription, "runtime": "static", "runtime_version": "1"});
    lab.post(Kind::Webroot, Some(&tenant.id), site("acme~extra")).await.unwrap();
    let refused = lab.post(Kind::Webroot, Some(&tenant.id), site("acme~extra")).await.unwrap_err();
    assert!(refused.to_string().starts_with("subscription extra has 1 of the 1 webroots"), "{refused}");
    lab.post(Kind::Webroot, Some(&tenant.id), site("sub-c1")).await.unwrap();
    let used = lab.store.resources["acme~extra"].clone();
    assert!(matches!(lab.delete("one-site").await, Err(PlanError::InUse { .. })), "{used:?}");
    // The brand's limit is that of all its tenants together, new ones among them.
    lab.store.admin = true;
    lab.put("acme", json!({"limits": {"tenants": 2, "webroots": 3}})).await.unwrap();
    let other = lab.tenant("acme", "c2").await;
    lab.webroot(&other).await;
    let refused = lab.post(Kind::Webroot, Some(&other.id), site("sub-c2")).await.unwrap_err();
    assert_eq!(over(refused), ("brand webroot".into(), 3, 3, 1));
    let third = json!({"brand_id": "acme", "customer_id": "x", "region_id": lab.region, "cluster_id": lab.cluster,
        "shard_id": lab.shard});
    assert_eq!(
        over(lab.post(Kind::Tenant, None, third).await.unwrap_err()),
        ("brand tenant".into(), 2, 2, 1)
    );
}

#[tokio::test]
async fn what_changes_hands_needs_a_place_with_the_new_owner_alone() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let other = lab.tenant("acme", "c2").await;
    for tenant in [&tenant, &other] {
        lab.put(&tenant.id, json!({"limits": {"zones": 1}})).await.unwrap();
    }
    lab.store.admin = true;
    lab.put("acme", json!({"limits": {"zones": 2}})).await.unwrap();
    let zone = lab.zone(&tenant, "one.example").await.unwrap();
    let theirs = lab.zone(&other, "two.example").await.unwrap();
    let refused = lab.put(&zone.id, json!({"tenant_id": other.id})).await.unwrap_err();
    assert_eq!(over(refused), ("tenant zone".into(), 1, 1, 1));
    lab.delete(&theirs.id).await.unwrap();
    lab.settle().await;
    lab.zone(&lab.get(&tenant.id).unwrap().clone(), "three.example").await.unwrap_err();
    // The brand is full, and stays so: a zone that moves within it takes no place of it.
    lab.put("acme", json!({"limits": {"zones": 1}})).await.unwrap();
    lab.put(&zone.id, json!({"tenant_id": other.id})).await.unwrap();
}

#[tokio::test]
async fn a_package_is_its_brands_own() {
    let mut lab = Lab::new().await;
    lab.brand("bolt", "bolt.example").await;
    package(&mut lab, "small", json!({})).await;
    let foreign = lab.tenant("bolt", "c1").await;
    let refused = lab.put(&foreign.id, json!({"package_id": "small"})).await.unwrap_err().to_string();
    assert_eq!(refused, "validation error: package_id: package \"small\" belongs to another brand");
    let body = json!({"id": "s", "name": "s", "package_id": "small"});
    let refused = lab.post(Kind::Subscription, Some(&foreign.id), body).await.unwrap_err().to_string();
    assert!(refused.contains("belongs to another brand"), "{refused}");
}
