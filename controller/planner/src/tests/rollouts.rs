//! Which changes go out in steps.

use std::collections::BTreeSet;

use super::*;
use crate::{BeginRollout, Part, PastChange, revert, set_in_service, suspend, undo};

const NONE: [u64; 0] = [];

/// A lab in which what touches much goes out in steps.
async fn lab() -> Lab {
    let mut lab = Lab::new().await;
    lab.settle().await;
    lab.store.rolls_out = true;
    lab
}

impl Lab {
    /// Items that are part of a rollout, each as kind and name.
    fn in_rollout(&self, rollout: u64) -> BTreeSet<String> {
        self.store.rows().filter(|row| row.rollout == rollout).map(|row| row.key.to_string()).collect()
    }

    fn rollouts(&self) -> Vec<u64> {
        self.store.rollouts.keys().copied().collect()
    }

    /// Makes tenants of a brand, each with a site and a name, and lets everything settle.
    async fn sites(&mut self, count: usize) -> Vec<Resource> {
        let mut tenants = Vec::new();
        for n in 0..count {
            let tenant = self.tenant("acme", &format!("c{n}")).await;
            let webroot = self.webroot(&tenant).await;
            self.fqdn(&tenant, &format!("www{n}.example.com"), Some(&webroot)).await.unwrap();
            tenants.push(tenant);
        }
        self.settle().await;
        tenants
    }
}

#[tokio::test]
async fn what_many_share_goes_out_in_steps_and_what_a_tenant_changes_does_not() {
    let mut lab = lab().await;
    let tenants = lab.sites(2).await;
    assert_eq!(lab.rollouts(), NONE, "what is new hurts nobody");
    let name = lab.store.resources.values().find(|one| one.kind == Kind::Fqdn).unwrap().id.clone();
    lab.put(&name, json!({"webroot_id": null})).await.unwrap();
    let done = suspend(&mut lab.store, &tenants[1].id, "late").await;
    lab.end(done).unwrap();
    assert_eq!(lab.rollouts(), NONE);

    // The address set, and what makes secondaries look at it.
    let cluster = lab.cluster.clone();
    lab.post(Kind::LbAddress, Some(&cluster), json!({"address": "192.0.2.99"})).await.unwrap();
    let first = lab.store.head;
    assert_eq!(lab.rollouts(), [first]);
    assert_eq!(
        lab.in_rollout(first),
        [format!("address_set/{cluster}"), "serial_offset/serial".into()].into()
    );

    // The pool: by an address of a node, and by who is in it.
    lab.put("web1", json!({"ip_address": "192.0.2.111"})).await.unwrap();
    let pool = format!("shard_pool/{}", lab.shard);
    assert_eq!(lab.in_rollout(lab.store.head), [pool.clone()].into());
    lab.node("web3", &["web"], true, "192.0.2.13").await;
    assert_eq!(lab.in_rollout(lab.store.head), [pool].into());
    assert_eq!(lab.rollouts().len(), 3);

    // How edges speak TLS.
    lab.put(&cluster, json!({"tls_minimum_version": "1.3"})).await.unwrap();
    assert_eq!(lab.in_rollout(lab.store.head), ["edge_settings/settings".to_owned()].into());
}

#[tokio::test]
async fn that_a_node_goes_silent_is_for_all_at_once() {
    let mut lab = lab().await;
    for (node, in_service) in [("web1", false), ("web1", true)] {
        let done = set_in_service(&mut lab.store, node, in_service).await;
        assert!(lab.end(done).unwrap());
    }
    assert_eq!(lab.rollouts(), NONE);
}

#[tokio::test]
async fn that_an_edge_comes_or_goes_is_for_all_at_once() {
    let mut lab = lab().await;
    lab.node("edge2", &["lb"], false, "192.0.2.2").await;
    for (node, in_service) in [("edge2", false), ("edge2", true)] {
        let done = set_in_service(&mut lab.store, node, in_service).await;
        assert!(lab.end(done).unwrap());
    }
    lab.delete("edge2").await.unwrap();
    assert_eq!(lab.rollouts(), NONE, "budgets are shared out by it");
}

#[tokio::test]
async fn a_walk_over_tenants_is_of_the_rollout_that_it_was_begun_with() {
    let mut lab = lab().await;
    lab.sites(12).await;
    // The shard's name is in each of its sites.
    let shard = lab.shard.clone();
    lab.store.resources.get_mut(&shard).unwrap().spec["name"] = json!("web-2");
    let cause = hosting_intent::Cause::Person;
    let walk = crate::kinds::tenant::SHARD_TENANTS.of(&shard, cause);
    let planned = crate::replan([Unit::Of(Kind::Shard, shard.clone()), walk], &mut lab.store, cause).await;
    lab.end(planned).unwrap();
    let began = lab.store.head;
    assert_eq!(lab.rollouts(), [began]);
    while lab.drain().await {}
    let sites = lab.in_rollout(began).into_iter().filter(|key| key.starts_with("webroot/")).count();
    assert_eq!(sites, 12, "later steps are of it too");
    assert_eq!(lab.rollouts(), [began]);
}

#[tokio::test]
async fn a_rollout_names_those_whose_items_it_replaces() {
    let mut lab = lab().await;
    let cluster = lab.cluster.clone();
    lab.put(&cluster, json!({"tls_minimum_version": "1.3"})).await.unwrap();
    let first = lab.store.head;
    lab.put("web1", json!({"ip_address": "192.0.2.111"})).await.unwrap();
    assert_eq!(lab.store.rollouts[&lab.store.head], BeginRollout::default(), "another item");
    lab.put(&cluster, json!({"tls_minimum_version": "1.2"})).await.unwrap();
    assert_eq!(lab.store.rollouts[&lab.store.head], BeginRollout { replaces: [first].into() });
}

#[tokio::test]
async fn what_takes_a_rollout_back_is_for_all_at_once_and_restores_what_they_had() {
    let mut lab = lab().await;
    lab.sites(3).await;
    let state = |lab: &Lab| -> Vec<_> {
        lab.store.rows().map(|row| (row.audience.clone(), row.key.clone(), row.value.clone())).collect()
    };
    let before = state(&lab);
    lab.put("web1", json!({"ip_address": "192.0.2.111"})).await.unwrap();
    let began = lab.store.head;
    assert_ne!(state(&lab), before);
    let changes: Vec<PastChange> = lab
        .store
        .past
        .iter()
        .filter(|one| one.change.revision == began)
        .map(|one| PastChange { part: Part::Chosen, ..one.change.clone() })
        .collect();
    let undone = revert(&mut lab.store, &changes).await;
    let undone = lab.end(undone).unwrap();
    assert_eq!((undone.conflicts.len(), undone.more), (0, false));
    lab.settle().await;
    assert_eq!(state(&lab), before);
    assert_eq!(lab.rollouts(), [began], "it begins no other one");
    assert_eq!(lab.in_rollout(began), BTreeSet::new());
}

#[tokio::test]
async fn many_items_of_several_tenants_in_one_mutation_go_out_in_steps() {
    let mut lab = lab().await;
    let tenants = lab.sites(30).await;
    // Of two tenants: too few items.
    for (count, rolls_out) in [(2, false), (30, true)] {
        let from = lab.store.head;
        for tenant in &tenants[..count] {
            let is_name =
                |one: &&Resource| one.kind == Kind::Fqdn && one.parent.as_deref() == Some(&*tenant.id);
            let id = lab.store.resources.values().find(is_name).unwrap().id.clone();
            lab.put(&id, json!({"webroot_id": null})).await.unwrap();
        }
        assert_eq!(lab.rollouts(), NONE, "each is one tenant's");
        let changes: Vec<PastChange> = lab
            .store
            .past
            .iter()
            .filter(|one| one.change.revision > from)
            .map(|one| PastChange { part: Part::Chosen, ..one.change.clone() })
            .collect();
        let undone = undo(&mut lab.store, &changes).await;
        assert_eq!(lab.end(undone).unwrap().taken_back.len(), count);
        assert_eq!(!lab.rollouts().is_empty(), rolls_out, "{count}");
    }
    assert_eq!(lab.in_rollout(lab.store.head).iter().filter(|key| key.starts_with("route/")).count(), 30);
}
