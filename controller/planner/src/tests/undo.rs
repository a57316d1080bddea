//! Changes taken back: what was done goes, what others did stays, and machines are told as before.

use std::collections::BTreeMap;

use hosting_intent::{Bytes, Key, Kind as IntentKind, message as m};
use hosting_resource::difference::differences;
use proptest::prelude::*;
use prost::Message;

use super::sequences::{Step, step};
use super::*;
use crate::past::{Part, PastChange};
use crate::{How, Undone, suspend, undo};

/// What machines are told, but for serials, which only ever grow.
pub(super) type Told = BTreeMap<(Audience, Key), Bytes>;

impl Lab {
    /// Whose the next changes are.
    pub(super) fn asked_by(&mut self, who: &str) {
        self.store.actor = Some(who.to_owned());
        self.store.traceparent = format!("00-{:0>32}-00f067aa0ba902b7-01", who.len());
    }

    /// The changes of a key from a revision on, with those that the controller went on with, and all later ones of what they touched.
    fn chosen(&self, who: &str, from: u64) -> Vec<PastChange> {
        let past: Vec<_> = self.store.past.iter().filter(|one| one.change.revision > from).collect();
        let own = past.iter().filter(|one| one.change.actor.as_deref() == Some(who));
        let traces: BTreeSet<&str> = own.map(|one| one.traceparent.as_str()).collect();
        let part = |one: &crate::fake::Remembered| {
            let goes_on = one.change.actor.is_none() && traces.contains(one.traceparent.as_str());
            if goes_on || one.change.actor.as_deref() == Some(who) { Part::Chosen } else { Part::Other }
        };
        let first = |id: &str| {
            past.iter()
                .find(|one| one.change.resource == id && part(one) == Part::Chosen)
                .map(|one| one.change.revision)
        };
        let ofs = past
            .iter()
            .filter(|one| first(&one.change.resource).is_some_and(|first| one.change.revision >= first));
        ofs.map(|one| PastChange { part: part(one), ..one.change.clone() }).collect()
    }

    pub(super) async fn undo(&mut self, who: &str, from: u64) -> Undone {
        let changes = self.chosen(who, from);
        self.asked_by("undo");
        let undone = undo(&mut self.store, &changes).await;
        let undone = self.end(undone).unwrap();
        assert!(!undone.more);
        undone
    }

    pub(super) async fn told(&mut self) -> Told {
        self.settle().await;
        self.assert_planned().await;
        let told = self.store.intents.iter().map(|(at, row)| {
            let mut value = row.value.clone();
            if at.1.known_kind() == Some(IntentKind::Zone) {
                let zone = m::Zone { serial: 0, ..m::Zone::decode(value).unwrap() };
                value = zone.encode_to_vec().into();
            }
            (at.clone(), value)
        });
        told.collect()
    }

    pub(super) fn specs(&self) -> BTreeMap<String, (Value, bool)> {
        let of_people = self.store.resources.values().filter(|one| !one.kind.def().is_derived(one));
        of_people
            .map(|one| (one.id.clone(), (Value::from(one.spec.clone()), one.status == Status::Suspended)))
            .collect()
    }
}

#[tokio::test]
async fn fields_creations_and_deletions_are_taken_back_in_one_change() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "one").await;
    let site = lab.webroot(&tenant).await;
    let zone = lab.zone(&tenant, "one.example").await.unwrap();
    let kept = lab.fqdn(&tenant, "www.one.example", Some(&site)).await.unwrap();
    let gone = lab.fqdn(&tenant, "old.one.example", Some(&site)).await.unwrap();
    let text = lab.record(&zone, "TXT", "note", "before").await.unwrap();
    let (told, specs) = (lab.told().await, lab.specs());
    let from = lab.store.head;
    lab.asked_by("me");
    lab.put(&kept.id, json!({"webroot_id": null})).await.unwrap();
    lab.put(&text.id, json!({"content": "after"})).await.unwrap();
    lab.delete(&gone.id).await.unwrap();
    let made = lab.fqdn(&tenant, "new.one.example", Some(&site)).await.unwrap();
    lab.settle().await;
    lab.asked_by("me");
    // The same name once more, under another id.
    let again = lab.fqdn(&tenant, "old.one.example", None).await.unwrap();
    assert!(lab.get(&gone.id).is_none());
    let undone = lab.undo("me", from).await;
    assert_eq!((undone.conflicts, undone.not_restorable), (vec![], vec![]));
    let how = |id: &str| undone.taken_back.iter().find(|one| one.resource.id == id).map(|one| one.how);
    assert_eq!((how(&kept.id), how(&gone.id)), (Some(How::Changed), Some(How::Restored)));
    assert_eq!((how(&made.id), how(&again.id)), (Some(How::Deleted), Some(How::Deleted)));
    assert_eq!((lab.told().await, lab.specs()), (told, specs));
    assert_eq!(lab.get(&gone.id).unwrap().created_revision, gone.created_revision, "it is the same one");
}

#[tokio::test]
async fn an_undo_can_be_undone() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "one").await;
    let zone = lab.zone(&tenant, "one.example").await.unwrap();
    let text = lab.record(&zone, "TXT", "note", "before").await.unwrap();
    let from = lab.store.head;
    lab.asked_by("me");
    lab.delete(&text.id).await.unwrap();
    let other = lab.record(&zone, "TXT", "other", "x").await.unwrap();
    let (done, specs, undoing) = (lab.told().await, lab.specs(), lab.store.head);
    lab.undo("me", from).await;
    lab.settle().await;
    assert!(lab.get(&text.id).is_some() && lab.get(&other.id).is_none());
    let again = lab.undo("undo", undoing).await;
    assert_eq!((again.conflicts, again.not_restorable), (vec![], vec![]));
    assert_eq!((lab.told().await, lab.specs()), (done, specs));
}

#[tokio::test]
async fn what_others_changed_later_stays_and_is_listed() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "one").await;
    let zone = lab.zone(&tenant, "one.example").await.unwrap();
    let text = lab.record(&zone, "TXT", "note", "before").await.unwrap();
    let from = lab.store.head;
    lab.asked_by("me");
    lab.put(&text.id, json!({"content": "mine", "ttl": 77})).await.unwrap();
    let site = lab.webroot(&tenant).await;
    let name = lab.fqdn(&tenant, "www.one.example", None).await.unwrap();
    let second = lab.zone(&tenant, "two.example").await.unwrap();
    lab.asked_by("another");
    lab.put(&text.id, json!({"content": "theirs"})).await.unwrap();
    let theirs = lab.store.head;
    lab.put(&name.id, json!({"webroot_id": site.id})).await.unwrap();
    let record = lab.record(&second, "TXT", "@", "theirs").await.unwrap();
    let undone = lab.undo("me", from).await;
    lab.settle().await;
    let spec = &lab.get(&text.id).unwrap().spec;
    assert_eq!((&spec["content"], &spec["ttl"]), (&json!("theirs"), &json!(3600)));
    let conflicts: BTreeMap<&str, (&str, bool)> = undone
        .conflicts
        .iter()
        .map(|one| (one.id.as_str(), (one.field.as_str(), one.by.is_some())))
        .collect();
    // The name was bound by the other, so it stays; the site has the name, the zone the record.
    let wanted = [
        (&text.id, ("/content", true)),
        (&name.id, ("", true)),
        (&site.id, ("", false)),
        (&second.id, ("", false)),
    ];
    assert_eq!(conflicts, wanted.into_iter().map(|(id, what)| (id.as_str(), what)).collect());
    let of_text = undone.conflicts.iter().find(|one| one.id == text.id).unwrap();
    assert_eq!(of_text.by, Some((theirs, Some("another".to_owned()))));
    for stays in [&name.id, &site.id, &second.id, &record.id] {
        assert!(lab.get(stays).is_some_and(|one| one.status != Status::Deleting), "{stays}");
    }
    lab.assert_planned().await;
}

#[tokio::test]
async fn what_cannot_come_back_is_said() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "one").await;
    let site = lab.webroot(&tenant).await;
    let name = lab.fqdn(&tenant, "www.one.example", Some(&site)).await.unwrap();
    let free = lab.fqdn(&tenant, "free.one.example", None).await.unwrap();
    lab.settle().await;
    let from = lab.store.head;
    lab.asked_by("me");
    lab.delete(&site.id).await.unwrap();
    lab.delete("web2").await.unwrap();
    lab.delete(&free.id).await.unwrap();
    lab.settle().await;
    lab.asked_by("another");
    lab.fqdn(&tenant, "free.one.example", None).await.unwrap();
    let undone = lab.undo("me", from).await;
    let reasons: BTreeMap<&str, &str> =
        undone.not_restorable.iter().map(|one| (one.id.as_str(), one.reason.as_str())).collect();
    assert!(reasons[site.id.as_str()].contains("was destroyed"), "{reasons:?}");
    assert!(reasons["web2"].contains("make it anew"), "{reasons:?}");
    let conflicts: BTreeMap<&str, &str> =
        undone.conflicts.iter().map(|one| (one.id.as_str(), one.reason.as_str())).collect();
    assert!(conflicts[free.id.as_str()].contains("already taken"), "{conflicts:?}");
    assert!(conflicts[name.id.as_str()].contains("is not there"), "{conflicts:?}");
    lab.settle().await;
    lab.assert_planned().await;
}

/// Two come back where there is room for one: a limit counts together what one undo brings back.
#[tokio::test]
async fn what_comes_back_counts_against_limits() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "one").await;
    let zone = lab.zone(&tenant, "one.example").await.unwrap();
    let mut texts = Vec::new();
    for name in ["a", "b", "c"] {
        texts.push(lab.record(&zone, "TXT", name, "x").await.unwrap());
    }
    let from = lab.store.head;
    lab.asked_by("me");
    for text in &texts[1..] {
        lab.delete(&text.id).await.unwrap();
    }
    lab.settle().await;
    lab.asked_by("somebody");
    lab.put(&tenant.id, json!({"limits": {"zone_records": 2}})).await.unwrap();
    let undone = lab.undo("me", from).await;
    assert_eq!((undone.taken_back.len(), undone.conflicts.len()), (1, 1), "{undone:?}");
    assert!(undone.conflicts[0].reason.contains("of the 2 zone_records"), "{undone:?}");
    lab.asked_by("somebody");
    lab.put(&tenant.id, json!({"limits": {}})).await.unwrap();
    // The one that is back already is the undo's, and stays.
    let undone = lab.undo("me", from).await;
    assert_eq!((undone.taken_back.len(), undone.conflicts.len()), (1, 1), "{undone:?}");
    assert!(texts.iter().all(|text| lab.get(&text.id).is_some()));
}

#[tokio::test]
async fn a_suspension_and_a_deletion_that_has_only_begun_are_taken_back() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "one").await;
    let zone = lab.zone(&tenant, "one.example").await.unwrap();
    for n in 0..3 {
        lab.record(&zone, "TXT", &format!("n{n}"), "x").await.unwrap();
    }
    let (told, specs) = (lab.told().await, lab.specs());
    let from = lab.store.head;
    lab.asked_by("me");
    let suspended = suspend(&mut lab.store, &tenant.id, "unpaid").await;
    lab.end(suspended).unwrap();
    lab.delete(&zone.id).await.unwrap();
    assert_eq!(lab.status(&zone.id), Some(Status::Deleting));
    let undone = lab.undo("me", from).await;
    assert_eq!((undone.conflicts, undone.not_restorable), (vec![], vec![]));
    assert_eq!((lab.told().await, lab.specs()), (told, specs));
    // And the other way: what was suspended is so again, with its reason.
    let suspended = suspend(&mut lab.store, &tenant.id, "unpaid").await;
    lab.end(suspended).unwrap();
    let from = lab.store.head;
    lab.asked_by("me");
    let back = crate::unsuspend(&mut lab.store, &tenant.id).await;
    lab.end(back).unwrap();
    lab.undo("me", from).await;
    let again = lab.get(&tenant.id).unwrap();
    assert_eq!((again.status, &again.state["suspend_reason"]), (Status::Suspended, &json!("unpaid")));
}

/// Steps that can be taken back whole: none destroys data, none is about nodes and addresses of the fleet.
fn own_step() -> impl Strategy<Value = Step> {
    step().prop_filter("can be taken back", |step| match step {
        Step::Zone(..)
        | Step::Webroot(..)
        | Step::Fqdn(..)
        | Step::Bind(..)
        | Step::Record(..)
        | Step::Service(..)
        | Step::Suspend(_)
        | Step::Unsuspend(_)
        | Step::Brand(_)
        | Step::ZoneTo(..)
        | Step::Settle
        | Step::Drain => true,
        Step::Delete(n) => n % 7 < 4,
        Step::Undelete(_)
        | Step::Expire(_)
        | Step::Tenant(_)
        | Step::Address(_)
        | Step::NodeOut(..)
        | Step::NodeAway(_)
        | Step::Retry(_) => false,
    })
}

pub(super) fn own_zone_step() -> impl Strategy<Value = Step> {
    own_step().prop_filter("no zone of the brand's", |step| !matches!(step, Step::Zone(_, n) if n % 4 == 0))
}

pub(super) async fn platform(tenants: &[u8], before: &[Step]) -> Lab {
    let mut lab = Lab::new().await;
    lab.brand("bolt", "bolt.example").await;
    let cluster = lab.cluster.clone();
    let body = json!({"id": "dns2", "hostname": "dns2", "roles": ["dns"], "dns_group": "other"});
    lab.post(Kind::Node, Some(&cluster), body).await.unwrap();
    for tenant in tenants {
        lab.take(&Step::Tenant(*tenant)).await;
    }
    for step in [Step::Zone(0, 1), Step::Webroot(0, false)].iter().chain(before) {
        lab.take(step).await;
    }
    lab
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn undo_after_do_restores_what_every_audience_is_told(
        before in prop::collection::vec(own_zone_step(), 0..30),
        steps in prop::collection::vec(own_zone_step(), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            // Of one tenant with zones of its own: a name that was there before a zone of somebody else came around it is not given again.
            let mut lab = platform(&[1], &before).await;
            let (told, specs) = (lab.told().await, lab.specs());
            let from = lab.store.head;
            for step in &steps {
                lab.asked_by("me");
                lab.take(step).await;
            }
            let undone = lab.undo("me", from).await;
            assert_eq!((undone.conflicts, undone.not_restorable), (vec![], vec![]));
            let told_now = lab.told().await;
            for (at, value) in &told {
                assert_eq!(told_now.get(at), Some(value), "{} {} is told otherwise", at.0, at.1);
            }
            for at in told_now.keys() {
                assert!(told.contains_key(at), "{} {} is told anew", at.0, at.1);
            }
            assert_eq!(lab.specs(), specs);
        });
    }

    #[test]
    fn what_others_did_since_survives_an_undo(
        before in prop::collection::vec(own_step(), 0..20),
        steps in prop::collection::vec((any::<bool>(), own_step()), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut lab = platform(&[1, 3, 5], &before).await;
            lab.settle().await;
            let from = lab.store.head;
            for (is_mine, step) in &steps {
                lab.asked_by(if *is_mine { "me" } else { "another" });
                lab.take(step).await;
            }
            lab.settle().await;
            let before: BTreeMap<String, Resource> = lab.store.resources.clone();
            let changes = lab.chosen("another", from);
            let undone = lab.undo("me", from).await;
            // A value of theirs may need something that they have deleted since: then nothing is put in the place of what is there.
            let left: BTreeSet<&str> =
                undone.conflicts.iter().filter(|one| one.by.is_none()).map(|one| one.id.as_str()).collect();
            lab.settle().await;
            lab.assert_planned().await;
            // The last word of others on each resource and field.
            let mut last: BTreeMap<&str, Vec<(&PastChange, Option<&Resource>)>> = BTreeMap::new();
            for (n, change) in changes.iter().enumerate() {
                let next = changes.iter().skip(n + 1).find(|next| next.resource == change.resource);
                let after = match next {
                    Some(next) => next.before.as_ref(),
                    None => before.get(&change.resource),
                };
                last.entry(&change.resource).or_default().push((change, after));
            }
            let lives = |one: Option<&Resource>| one.is_some_and(|one| one.status != Status::Deleting);
            for (id, steps) in last {
                let Some(theirs) = steps.iter().rposition(|(change, _)| change.part == Part::Chosen) else { continue };
                let (change, after) = steps[theirs];
                let now = lab.get(id);
                let is_mine_since = steps[theirs + 1..].iter().any(|(_, after)| !lives(*after));
                if !lives(after) {
                    assert!(!lives(now), "{id} was deleted by another in {}", change.revision);
                } else if !is_mine_since {
                    assert!(lives(now), "{id} was changed by another in {}", change.revision);
                }
                if let (Some(old), Some(new), Some(now)) = (&change.before, after, now)
                    && lives(Some(now))
                    && !left.contains(id)
                {
                    for field in differences(&old.spec, &new.spec) {
                        let (wanted, spec) = (Value::from(new.spec.clone()), Value::from(now.spec.clone()));
                        assert_eq!(spec.pointer(&field), wanted.pointer(&field), "{id} {field}");
                    }
                }
            }
        });
    }
}
