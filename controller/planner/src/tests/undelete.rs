//! What is deleted and kept: out of service at once, its names and data held, and back as it was.

use proptest::prelude::*;

use super::sequences::Step;
use super::undo::{own_zone_step, platform};
use super::*;
use crate::{Undone, delete_for_good, end_keeping, undelete};

const DAY: i64 = 24 * 3_600_000;

impl Lab {
    /// A platform whose brand keeps what is deleted for a week.
    async fn keeping() -> Self {
        let mut lab = Self::new().await;
        lab.put("acme", json!({"undelete_days": 7})).await.unwrap();
        lab
    }

    async fn undelete(&mut self, id: &str) -> Result<Undone, PlanError> {
        let kind = self.store.resources[id].kind;
        let undone = undelete(&mut self.store, kind, id).await;
        self.end(undone)
    }

    async fn for_good(&mut self, id: &str) {
        let kind = self.store.resources[id].kind;
        let deleted = delete_for_good(&mut self.store, kind, id).await;
        self.end(deleted).unwrap();
    }

    fn is_told_to_destroy(&self) -> bool {
        let retire = |key: &Key| key.known_kind() == Some(IntentKind::Retire);
        self.store.log.iter().any(|logged| retire(&logged.change.key))
    }

    fn statuses(&self) -> BTreeMap<String, Status> {
        let of_people = self.store.resources.values().filter(|one| !one.kind.def().is_derived(one));
        of_people.map(|one| (one.id.clone(), one.status)).collect()
    }

    /// A tenant with a site, two names, a zone with a record, and a certificate of one name.
    async fn household(&mut self) -> (Resource, Resource, Resource, Resource) {
        let tenant = self.tenant("acme", "one").await;
        let site = self.webroot_with(&tenant, true).await;
        let zone = self.zone(&tenant, "one.example").await.unwrap();
        let name = self.fqdn(&tenant, "www.one.example", Some(&site)).await.unwrap();
        self.record(&zone, "TXT", "note", "x").await.unwrap();
        self.settle().await;
        (tenant, site, zone, name)
    }
}

#[tokio::test]
async fn a_tenant_leaves_service_at_once_and_comes_back_with_everything_in_it() {
    let mut lab = Lab::keeping().await;
    let (tenant, site, zone, name) = lab.household().await;
    let free = lab.fqdn(&tenant, "free.test", None).await.unwrap();
    let (told, specs, statuses) = (lab.told().await, lab.specs(), lab.statuses());
    lab.delete(&tenant.id).await.unwrap();
    for id in [&tenant.id, &site.id, &zone.id, &name.id, &free.id, "acme~sub-one"] {
        assert_eq!(lab.status(id), Some(Status::Deleted), "{id}");
    }
    lab.settle().await;
    lab.assert_planned().await;
    assert!(
        lab.route("www.one.example").is_none() && lab.rr_set("one.example/note.one.example/TXT").is_none()
    );
    let Some(Intent::TenantState(state)) =
        lab.intent(&format!("edge/{}", lab.cluster), IntentKind::TenantState, &tenant.id)
    else {
        panic!("edges know nothing of the tenant")
    };
    assert_eq!(state.state, m::State::Suspended as i32);
    assert!(lab.intent("node/web1", IntentKind::Webroot, &site.id).is_none());
    assert!(!lab.is_told_to_destroy());
    let view = lab.get(&tenant.id).unwrap().view();
    assert_eq!(view["status"], "deleted");
    assert!(view["restorable_until"].as_str() > view["deleted_at"].as_str(), "{view:?}");
    // A while later.
    lab.store.time += 6 * DAY;
    let undone = lab.undelete(&tenant.id).await.unwrap();
    assert_eq!((undone.conflicts, undone.more), (vec![], false));
    assert_eq!((lab.told().await, lab.specs(), lab.statuses()), (told, specs, statuses));
    assert!(!lab.is_told_to_destroy());
    assert!(lab.get(&site.id).unwrap().progress().kept.is_none());
    assert!(
        matches!(lab.undelete(&tenant.id).await, Err(PlanError::Conflict(why)) if why.contains("not deleted"))
    );
}

/// What was deleted for itself before is another cause; so is what was deleted and not kept.
#[tokio::test]
async fn an_undelete_brings_back_what_its_own_deletion_took() {
    let mut lab = Lab::keeping().await;
    let (tenant, site, zone, name) = lab.household().await;
    lab.delete(&site.id).await.unwrap();
    assert_eq!(lab.status(&name.id), Some(Status::Deleted), "what is bound to the site goes with it");
    let other = lab.fqdn(&tenant, "other.one.example", None).await.unwrap();
    lab.delete(&other.id).await.unwrap();
    assert_eq!(lab.status(&other.id), Some(Status::Deleting), "a name alone is made anew as easily");
    lab.settle().await;
    lab.delete(&tenant.id).await.unwrap();
    lab.settle().await;
    // In a tenant that is deleted nothing comes back by itself.
    assert!(matches!(lab.undelete(&site.id).await, Err(PlanError::Conflict(_))));
    lab.undelete(&tenant.id).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.status(&zone.id), Some(Status::Active));
    assert_eq!((lab.status(&site.id), lab.status(&name.id)), (Some(Status::Deleted), Some(Status::Deleted)));
    assert!(lab.get(&other.id).is_none());
    let undone = lab.undelete(&site.id).await.unwrap();
    assert_eq!(undone.taken_back.len(), 2);
    lab.settle().await;
    assert_eq!(lab.route("www.one.example").unwrap().webroot_id, site.id);
    lab.assert_planned().await;
}

#[tokio::test]
async fn names_of_what_is_kept_are_held_for_their_owner() {
    let mut lab = Lab::keeping().await;
    let (tenant, site, zone, name) = lab.household().await;
    lab.brand("bolt", "bolt.example").await;
    let (friend, stranger) = (lab.tenant("acme", "two").await, lab.tenant("bolt", "three").await);
    lab.delete(&site.id).await.unwrap();
    lab.delete(&zone.id).await.unwrap();
    lab.settle().await;
    for other in [&friend, &stranger] {
        let taken = lab.fqdn(other, "www.one.example", None).await;
        assert!(matches!(taken, Err(PlanError::Apply(_) | PlanError::Conflict(_))), "{taken:?}");
        let below = lab.fqdn(other, "new.one.example", None).await;
        assert!(
            matches!(&below, Err(PlanError::Conflict(why)) if why.contains("somebody else")),
            "{below:?}"
        );
        for zone in ["one.example", "below.one.example"] {
            assert!(lab.zone(other, zone).await.is_err(), "{zone}");
        }
    }
    // The owner is told what to do about a zone, whose records would be lost.
    let again = lab.zone(&tenant, "one.example").await;
    assert!(matches!(&again, Err(PlanError::Conflict(why)) if why.contains("undelete")), "{again:?}");
    // A host name is just taken, and cannot come back to where it was then.
    let (other, now) = (lab.webroot(&tenant).await, "www.one.example");
    let taken = lab.fqdn(&tenant, now, Some(&other)).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.route(now).unwrap().webroot_id, other.id);
    let undone = lab.undelete(&site.id).await.unwrap();
    let conflicts: Vec<_> =
        undone.conflicts.iter().map(|one| (one.id.as_str(), one.reason.as_str())).collect();
    assert!(matches!(conflicts[..], [(id, why)] if id == name.id && why.contains("taken")), "{conflicts:?}");
    lab.settle().await;
    lab.assert_planned().await;
    assert_eq!(lab.status(&site.id), Some(Status::Active));
    assert!(lab.get(&name.id).unwrap().status_message.as_deref().unwrap().contains("stays deleted"));
    // Once the name is free again it comes back.
    lab.for_good(&taken.id).await;
    lab.settle().await;
    lab.undelete(&name.id).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.route(now).unwrap().webroot_id, site.id);
    lab.undelete(&zone.id).await.unwrap();
    lab.settle().await;
    assert!(lab.rr_set("one.example/note.one.example/TXT").is_some());
}

#[tokio::test]
async fn data_is_destroyed_when_the_time_is_over_or_at_once_when_asked() {
    let mut lab = Lab::keeping().await;
    let (tenant, site, zone, name) = lab.household().await;
    lab.delete(&site.id).await.unwrap();
    lab.settle().await;
    // A node that left the shard meanwhile has the data still.
    lab.put("web2", json!({"shard_ids": []})).await.unwrap();
    let until = lab.get(&site.id).unwrap().kept().unwrap().until;
    for (upto, ends) in [(until - 1, false), (until, true)] {
        let ended = end_keeping(&mut lab.store, &site.id, upto).await;
        assert_eq!(lab.end(ended).unwrap(), ends);
    }
    assert_eq!(lab.status(&site.id), Some(Status::Deleting));
    for node in ["node/web1", "node/web2"] {
        assert!(lab.intent(node, IntentKind::Retire, &format!("webroot/{}", site.id)).is_some(), "{node}");
    }
    assert!(
        matches!(lab.undelete(&site.id).await, Err(PlanError::Conflict(why)) if why.contains("for good"))
    );
    lab.settle().await;
    assert!(lab.get(&site.id).is_none() && lab.get(&name.id).is_none());

    lab.delete(&tenant.id).await.unwrap();
    lab.store.time += 8 * DAY;
    assert!(lab.undelete(&tenant.id).await.is_err(), "its time is over, whether it was looked at or not");
    lab.delete(&tenant.id).await.unwrap();
    assert_eq!(lab.status(&tenant.id), Some(Status::Deleted), "deleted twice is deleted");
    lab.for_good(&tenant.id).await;
    lab.settle().await;
    assert!(lab.get(&tenant.id).is_none() && lab.get(&zone.id).is_none());
    lab.assert_planned().await;
}

#[tokio::test]
async fn without_a_policy_a_deletion_is_one() {
    let mut lab = Lab::new().await;
    let (tenant, ..) = lab.household().await;
    lab.delete(&tenant.id).await.unwrap();
    assert_eq!(lab.status(&tenant.id), Some(Status::Deleting));
    lab.settle().await;
    assert!(lab.get(&tenant.id).is_none());
}

#[tokio::test]
async fn what_is_kept_counts_against_nobody_and_is_counted_anew_when_it_comes_back() {
    let mut lab = Lab::keeping().await;
    let (tenant, site, ..) = lab.household().await;
    lab.put(&tenant.id, json!({"limits": {"webroots": 1}})).await.unwrap();
    lab.delete(&site.id).await.unwrap();
    let second = lab.webroot(&tenant).await;
    let refused = lab.undelete(&site.id).await;
    assert!(matches!(refused, Err(PlanError::OverLimit(_))), "{refused:?}");
    lab.for_good(&second.id).await;
    lab.settle().await;
    lab.undelete(&site.id).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.status(&site.id), Some(Status::Active));
}

/// More than a transaction holds: the queue goes on with the deletion, and with bringing it back.
#[tokio::test]
async fn a_large_tenant_goes_and_comes_back_in_parts() {
    let mut lab = Lab::keeping().await;
    let (tenant, ..) = lab.household().await;
    let names: Vec<Value> = (0..510).map(|n| json!({"fqdn": format!("n{n}.test")})).collect();
    let body = json!({
        "subscription_id": "sub-one", "runtime": "static", "runtime_version": "1", "fqdns": names,
    });
    lab.post(Kind::Webroot, Some(&tenant.id), body).await.unwrap();
    let living = |lab: &Lab| {
        let all = lab.store.resources.values().filter(|one| one.tenant.as_ref() == Some(&tenant.id));
        let all = all.filter(|one| one.kind != Kind::ZoneRecord && one.status != Status::Deleted);
        all.count()
    };
    let (all, specs) = (living(&lab), lab.specs());
    lab.delete(&tenant.id).await.unwrap();
    assert!(living(&lab) > 0);
    lab.drain().await;
    assert_eq!(living(&lab), 0);
    lab.assert_planned().await;
    let undone = lab.undelete(&tenant.id).await.unwrap();
    assert!(undone.more && undone.conflicts.is_empty());
    assert!(living(&lab) < all);
    lab.drain().await;
    assert_eq!((living(&lab), lab.specs()), (all, specs.clone()));
    // Deleted once more before everything is back, and brought back: nothing is left behind.
    for _ in 0..2 {
        lab.delete(&tenant.id).await.unwrap();
        lab.drain().await;
        assert_eq!(living(&lab), 0);
        assert!(lab.undelete(&tenant.id).await.unwrap().more);
    }
    lab.drain().await;
    assert_eq!((living(&lab), lab.specs()), (all, specs.clone()));
    // An undo of the request brings back, too, what the queue deleted for it.
    let from = lab.store.head;
    lab.asked_by("me");
    lab.delete(&tenant.id).await.unwrap();
    lab.asked_by("nobody");
    lab.store.actor = None;
    lab.drain().await;
    assert_eq!(living(&lab), 0);
    let undone = lab.undo("me", from).await;
    assert_eq!((undone.conflicts, undone.not_restorable), (vec![], vec![]));
    lab.drain().await;
    assert_eq!((living(&lab), lab.specs()), (all, specs));
    assert!(!lab.is_told_to_destroy());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn undelete_after_delete_restores_what_every_audience_is_told(
        before in prop::collection::vec(own_zone_step(), 0..40),
        pick in any::<(u8, u8)>(),
        settles in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut lab = platform(&[1], &before).await;
            lab.put("acme", json!({"undelete_days": 7})).await.unwrap();
            lab.settle().await;
            let kinds = [Kind::Tenant, Kind::Webroot, Kind::Zone, Kind::Subscription];
            let kind = kinds[usize::from(pick.0) % kinds.len()];
            let there: Vec<String> =
                lab.store.resources.values().filter(|one| one.kind == kind).map(|one| one.id.clone()).collect();
            let Some(id) = there.get(usize::from(pick.1) % there.len().max(1)) else { return };
            let (told, specs, statuses) = (lab.told().await, lab.specs(), lab.statuses());
            lab.store.log.clear();
            lab.delete(id).await.unwrap();
            if settles {
                lab.settle().await;
                lab.assert_planned().await;
                for other in [1_u8, 2, 3, 4, 5] {
                    lab.take(&Step::NodeOut(other, true)).await;
                }
            }
            let undone = lab.undelete(id).await.unwrap();
            assert_eq!(undone.conflicts, vec![]);
            let told_now = lab.told().await;
            for (at, value) in &told {
                assert_eq!(told_now.get(at), Some(value), "{} {} is told otherwise", at.0, at.1);
            }
            for at in told_now.keys() {
                assert!(told.contains_key(at), "{} {} is told anew", at.0, at.1);
            }
            assert_eq!((lab.specs(), lab.statuses()), (specs, statuses));
            assert!(!lab.is_told_to_destroy());
        });
    }
}
