//! What goes, when, and what it must not harm on its way out.

use super::*;
use crate::{forget_node, retired};

async fn site() -> (Lab, Resource, Resource, Resource) {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.zone(&tenant, "example.com").await.unwrap();
    let webroot = lab.webroot(&tenant).await;
    let fqdn = lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    lab.settle().await;
    (lab, tenant, webroot, fqdn)
}

#[tokio::test]
async fn a_name_is_withdrawn_at_once_by_a_persons_cause() {
    let (mut lab, _, _, fqdn) = site().await;
    let logged = lab.store.log.len();
    let Deleted::Deleting(going) = lab.delete(&fqdn.id).await.unwrap() else { panic!() };
    assert_eq!(going.status, Status::Deleting);
    assert_eq!((lab.route("www.example.com"), lab.rr_set("example.com/www.example.com/A")), (None, None));
    let removals: Vec<_> = lab.store.log[logged..].iter().filter(|l| l.change.value.is_none()).collect();
    assert_eq!(removals.len(), 2);
    assert!(removals.iter().all(|l| l.change.cause == hosting_intent::Cause::Person));
    let edge = format!("edge/{}", lab.cluster);
    let revision = lab.store.head;
    assert_eq!(going.state["withdrawn"], json!({edge.as_str(): revision, "dns/default": revision}));
    // Deleting again changes nothing.
    let logged = lab.store.log.len();
    assert!(matches!(lab.delete(&fqdn.id).await.unwrap(), Deleted::Deleting(_)));
    assert_eq!(lab.store.log.len(), logged);
    // The row stays until everybody in service has let go.
    let mut fleet = Everybody::of(&lab.store);
    fleet.stuck.insert("edge1".into(), revision - 1);
    lab.settle_with(&fleet).await;
    let verdict = lab.look(&fqdn.id, &fleet).await;
    assert_eq!((verdict.remove, verdict.lagging), (false, vec!["edge1".to_owned()]));
    fleet.stuck.insert("edge1".into(), revision);
    lab.settle_with(&fleet).await;
    assert_eq!(lab.get(&fqdn.id), None);
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_name_made_anew_while_its_old_owner_goes_stays_with_the_new_one() {
    let (mut lab, tenant, webroot, old) = site().await;
    lab.delete(&old.id).await.unwrap();
    let new = lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    let route = lab.route("www.example.com").unwrap();
    assert_eq!(route.webroot_id, webroot.id);
    let edge = format!("edge/{}", lab.cluster);
    let owner = |lab: &Lab| {
        let key = Key::new(IntentKind::Route, "www.example.com");
        lab.store.intents[&(at(&edge), key)].owner.clone()
    };
    assert_eq!(owner(&lab), format!("fqdn:{}", new.id));
    lab.settle().await;
    assert_eq!(lab.get(&old.id), None);
    assert_eq!(lab.status(&new.id), Some(Status::Active));
    assert_eq!(owner(&lab), format!("fqdn:{}", new.id));
    assert!(lab.rr_set("example.com/www.example.com/A").is_some());
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_zone_made_anew_while_the_old_one_goes() {
    let (mut lab, tenant, _, fqdn) = site().await;
    let old = lab.store.resources.values().find(|r| r.kind == Kind::Zone).unwrap().clone();
    lab.record(&old, "TXT", "@", "old").await.unwrap();
    lab.delete(&old.id).await.unwrap();
    let new = lab.zone(&tenant, "example.com").await.unwrap();
    lab.record(&new, "TXT", "@", "new").await.unwrap();
    lab.settle().await;
    assert_eq!(lab.get(&old.id), None);
    let Some(Intent::Zone(apex)) = lab.intent("dns/default", IntentKind::Zone, "example.com") else {
        panic!()
    };
    assert_eq!(apex.zone_id, new.id);
    let Some(m::rr_set::Data::Records(txt)) = lab.rr_set("example.com/example.com/TXT").unwrap().data else {
        panic!()
    };
    assert_eq!(txt.rdata, ["\"new\""]);
    assert!(lab.rr_set("example.com/www.example.com/A").is_some());
    assert_eq!(lab.status(&fqdn.id), Some(Status::Active));
    lab.assert_planned().await;
}

#[tokio::test]
async fn data_is_destroyed_by_retire_alone_and_nodes_that_are_away_keep_theirs() {
    let (mut lab, tenant, webroot, fqdn) = site().await;
    lab.delete(&webroot.id).await.unwrap();
    // Its names go with it.
    assert_eq!(lab.status(&fqdn.id), Some(Status::Deleting));
    let name = format!("webroot/{}", webroot.id);
    for node in ["node/web1", "node/web2"] {
        assert_eq!(lab.intent(node, IntentKind::Webroot, &webroot.id), None);
        let Some(Intent::Retire(retire)) = lab.intent(node, IntentKind::Retire, &name) else { panic!() };
        assert_eq!(
            (retire.incarnation, retire.tenant_id.as_str()),
            (webroot.created_revision, tenant.id.as_str())
        );
    }
    // While a node in service has not destroyed it, the row stays.
    let mut fleet = Everybody::of(&lab.store);
    let key = Key::new(IntentKind::Retire, &name);
    let working = Report { phase: Phase::Working, revision: u64::MAX, message: String::new() };
    fleet.reports.insert(("web1".into(), key.clone()), working);
    lab.settle_with(&fleet).await;
    let verdict = lab.look(&webroot.id, &fleet).await;
    assert_eq!((verdict.remove, verdict.lagging), (false, vec!["web1".to_owned()]));
    // One that is away is not waited for, and finds its Retire when it is back.
    fleet.reports.clear();
    fleet.out.insert("web2".into());
    lab.settle_with(&fleet).await;
    assert_eq!(lab.get(&webroot.id), None);
    assert_eq!(lab.intent("node/web1", IntentKind::Retire, &name), None);
    assert!(lab.intent("node/web2", IntentKind::Retire, &name).is_some());
    lab.assert_planned().await;
    let planned =
        crate::replan([Unit::Retire(webroot.id.clone())], &mut lab.store, hosting_intent::Cause::Planner);
    planned.await.unwrap();
    assert!(lab.intent("node/web2", IntentKind::Retire, &name).is_some(), "planning again does not lose it");
    retired(&mut lab.store, "web1", &webroot.id).await.unwrap();
    assert!(lab.intent("node/web2", IntentKind::Retire, &name).is_some());
    let mut forgotten = lab.store.clone();
    retired(&mut lab.store, "web2", &webroot.id).await.unwrap();
    lab.store.commit();
    assert_eq!(lab.intent("node/web2", IntentKind::Retire, &name), None);
    lab.assert_planned().await;
    // Or an operator gives the node up.
    let left = forget_node(&mut forgotten, "web2").await.unwrap();
    assert_eq!((left.left, left.more), (vec![name], false));
    assert!(forgotten.rows().all(|row| row.key != key));
}

#[tokio::test]
async fn with_no_node_in_service_nothing_is_taken_for_destroyed() {
    let (mut lab, _, webroot, _) = site().await;
    lab.delete(&webroot.id).await.unwrap();
    let fqdn = lab.store.resources.values().find(|r| r.kind == Kind::Fqdn).unwrap().id.clone();
    let mut fleet = Everybody::of(&lab.store);
    fleet.out.extend(["web1".to_owned(), "web2".to_owned(), "edge1".to_owned()]);
    lab.settle_with(&fleet).await;
    assert_eq!(lab.status(&webroot.id), Some(Status::Deleting));
    assert_eq!(lab.look(&webroot.id, &fleet).await.lagging, ["web1", "web2"]);
    // Nor with no edge in service for withdrawn.
    assert_eq!(lab.status(&fqdn), Some(Status::Deleting));
    let verdict = lab.look(&fqdn, &fleet).await;
    assert_eq!((verdict.remove, verdict.lagging), (false, vec!["edge1".to_owned()]));
    // But when the last edge is not registered any more, there is nobody to wait for.
    lab.delete("edge1").await.unwrap();
    lab.settle().await;
    assert_eq!((lab.get(&fqdn), lab.get(&webroot.id)), (None, None));
}

#[tokio::test]
async fn a_tenant_stops_at_once_and_goes_last() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    lab.record(&zone, "TXT", "@", "x").await.unwrap();
    let mut webroots = Vec::new();
    for n in 0..4 {
        let webroot = lab.webroot(&tenant).await;
        for k in 0..60 {
            lab.fqdn(&tenant, &format!("n{n}-{k}.example.com"), Some(&webroot)).await.unwrap();
        }
        webroots.push(webroot.id);
    }
    lab.settle().await;
    let other = lab.tenant("acme", "c2").await;
    lab.settle().await;
    lab.delete(&tenant.id).await.unwrap();
    let edge = format!("edge/{}", lab.cluster);
    let Some(Intent::TenantState(state)) = lab.intent(&edge, IntentKind::TenantState, &tenant.id) else {
        panic!()
    };
    assert_eq!(state.state(), m::State::Suspended, "while something is left of it");
    let left = lab.store.resources.values().filter(|r| r.kind == Kind::Fqdn && r.status != Status::Deleting);
    assert!(left.count() > 0, "more than one transaction");
    // Its directories go last: not while any site is still there.
    let retire = format!("tenant/{}", tenant.id);
    assert_eq!(lab.intent("node/web1", IntentKind::Retire, &retire), None);
    let body = json!({"fqdn": "late.example.org"});
    assert!(matches!(lab.post(Kind::Fqdn, Some(&tenant.id), body).await, Err(PlanError::Conflict(_))));
    let mut fleet = Everybody::of(&lab.store);
    let key = Key::new(IntentKind::Retire, &retire);
    fleet.reports.insert(
        ("web1".into(), key),
        Report { phase: Phase::Failed, revision: u64::MAX, message: "busy".into() },
    );
    lab.settle_with(&fleet).await;
    assert!(webroots.iter().all(|id| lab.get(id).is_none()));
    assert!(lab.intent("node/web1", IntentKind::Retire, &retire).is_some());
    assert_eq!(lab.intent(&edge, IntentKind::TenantState, &tenant.id), None);
    let verdict = lab.look(&tenant.id, &fleet).await;
    assert!(
        verdict.conditions.iter().any(|c| c.name == "retired" && c.message.contains("busy")),
        "{verdict:?}"
    );
    lab.settle().await;
    assert_eq!(lab.get(&tenant.id), None);
    assert_eq!(lab.get("acme~sub-c1"), None);
    assert_eq!(lab.status(&other.id), Some(Status::Active));
    assert!(lab.store.rows().all(|row| !row.owner.contains(&tenant.id)));
    assert!(
        lab.store
            .log
            .iter()
            .all(|l| l.change.value.is_some() || l.change.cause == hosting_intent::Cause::Person)
    );
    lab.assert_planned().await;
}

/// Defect 7 of the reference: a deleted subscription left everything behind.
#[tokio::test]
async fn a_subscription_takes_its_sites_and_zones_along() {
    let (mut lab, tenant, webroot, _) = site().await;
    let body = json!({"id": "second", "name": "second"});
    lab.post(Kind::Subscription, Some(&tenant.id), body).await.unwrap();
    let body = json!({"subscription_id": "second", "runtime": "static", "runtime_version": "1"});
    let kept = lab.post(Kind::Webroot, Some(&tenant.id), body).await.unwrap();
    lab.delete("acme~sub-c1").await.unwrap();
    // It goes last: who waits for it has waited for its sites and zones.
    assert_eq!(lab.status(&webroot.id), Some(Status::Deleting));
    let fleet = Everybody::of(&lab.store);
    let waiting = lab.look("acme~sub-c1", &fleet).await;
    assert!(!waiting.remove && waiting.conditions[0].name == "children", "{waiting:?}");
    lab.settle().await;
    assert_eq!((lab.get("acme~sub-c1"), lab.get(&webroot.id)), (None, None));
    assert!(
        lab.store.resources.values().all(|r| !matches!(r.kind, Kind::Zone | Kind::Fqdn | Kind::ZoneRecord))
    );
    assert_eq!(lab.status(&kept.id), Some(Status::Active));
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_large_zone_goes_in_parts() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    for n in 0..700 {
        lab.record(&zone, "TXT", &format!("n{n}"), "x").await.unwrap();
    }
    lab.settle().await;
    lab.delete(&zone.id).await.unwrap();
    assert_eq!(lab.intent("dns/default", IntentKind::Zone, "example.com"), None);
    assert!(lab.store.resources.values().any(|r| r.kind == Kind::ZoneRecord));
    lab.settle().await;
    assert!(lab.store.resources.values().all(|r| !matches!(r.kind, Kind::Zone | Kind::ZoneRecord)));
    lab.assert_planned().await;
}

#[tokio::test]
async fn what_is_in_use_stays() {
    let (mut lab, _, _, _) = site().await;
    let (cluster, shard, region) = (lab.cluster.clone(), lab.shard.clone(), lab.region.clone());
    for id in ["acme", cluster.as_str(), shard.as_str(), region.as_str()] {
        let refused = lab.delete(id).await.unwrap_err();
        assert!(matches!(&refused, PlanError::InUse { .. }), "{id}: {refused}");
        assert!(refused.to_string().contains("still uses it"));
        assert!(lab.get(id).is_some());
    }
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_revoked_key_stays_on_record() {
    let mut lab = Lab::bare().await;
    let body = json!({"name": "k", "scopes": ["*:*"], "brands": ["*"]});
    let key = lab.post(Kind::ApiKey, None, body).await.unwrap();
    assert_eq!(lab.delete(&key.id).await.unwrap(), Deleted::Gone);
    assert!(lab.get(&key.id).unwrap().state["revoked_at"].is_i64());
    assert!(matches!(lab.delete(&key.id).await, Err(PlanError::NotFound { .. })));
}
