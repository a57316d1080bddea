//! Where tenants are placed, what is drained, and what would fail without some nodes.

use super::*;
use crate::{
    Of, Place, drain_node, drain_shard, failing_names, set_in_service, undrain_node, undrain_shard, without,
};

impl Lab {
    async fn shard(&mut self, name: &str, body: Value) -> String {
        let mut fields = json!({"name": name, "role": "web"});
        fields.as_object_mut().unwrap().extend(body.as_object().cloned().unwrap());
        self.post(Kind::Shard, Some(&self.cluster.clone()), fields).await.unwrap().id
    }

    async fn member(&mut self, id: &str, shard: &str, domain: &str) {
        let body = json!({
            "id": id, "hostname": id, "roles": ["web"], "ip_address": "192.0.2.77", "shard_ids": [shard],
            "failure_domain": domain,
        });
        self.post(Kind::Node, Some(&self.cluster.clone()), body).await.unwrap();
    }

    async fn placed(&mut self, customer: &str) -> Result<Resource, PlanError> {
        let body = json!({
            "brand_id": "acme", "customer_id": customer, "region_id": self.region, "cluster_id": self.cluster,
        });
        self.post(Kind::Tenant, None, body).await
    }

    async fn node_drains(&mut self, id: &str, forced: bool) -> Result<Resource, PlanError> {
        let drained = drain_node(&mut self.store, id, forced).await;
        self.end(drained)
    }

    async fn shard_drains(&mut self, id: &str, forced: bool) -> Result<Resource, PlanError> {
        let drained = drain_shard(&mut self.store, id, forced).await;
        self.end(drained)
    }

    async fn turn(&mut self, node: &str, in_service: bool) {
        let turned = set_in_service(&mut self.store, node, in_service).await;
        self.end(turned).unwrap();
    }

    /// The nodes of a pool that get requests.
    fn serving(&self, shard: &str) -> Vec<String> {
        match self.intent(&format!("edge/{}", self.cluster), IntentKind::ShardPool, shard) {
            Some(Intent::ShardPool(pool)) => {
                pool.nodes.into_iter().filter(|node| node.in_service).map(|node| node.node_id).collect()
            }
            other => panic!("no pool: {other:?}"),
        }
    }
}

fn refused(answer: Result<Resource, PlanError>) -> String {
    match answer {
        Err(PlanError::Conflict(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_tenant_without_a_shard_gets_the_emptiest_for_its_weight_and_is_told_why() {
    let mut lab = Lab::new().await;
    let first = lab.shard.clone();
    let heavy = lab.shard("heavy", json!({"weight": 300})).await;
    lab.member("heavy1", &heavy, "").await;
    lab.member("heavy2", &heavy, "").await;
    lab.shard("empty", json!({})).await;
    let mut counts = BTreeMap::new();
    for n in 0..8 {
        let tenant = lab.placed(&format!("c{n}")).await.unwrap();
        *counts.entry(tenant.text("shard_id").to_owned()).or_insert(0) += 1;
        let placement = &tenant.view()["placement"];
        assert_eq!(placement["shard_id"], tenant.spec["shard_id"]);
        assert!(placement["reason"].as_str().unwrap().contains("fewest"), "{placement}");
        let passed: Vec<&str> = placement["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["passed_over"].as_str())
            .collect();
        assert_eq!(placement["candidates"].as_array().unwrap().len() - passed.len(), 1, "{placement}");
        assert!(passed.contains(&"has no node that serves"), "{placement}");
    }
    assert_eq!(counts, BTreeMap::from([(first.clone(), 2), (heavy, 6)]));
    // Who names one gets it, and no reasons.
    let named = lab.tenant("acme", "named").await;
    assert_eq!((named.text("shard_id"), named.view().get("placement")), (first.as_str(), None));
    lab.settle().await;
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_shard_in_several_failure_domains_goes_before_an_emptier_one() {
    let mut lab = Lab::bare().await;
    lab.brand("acme", "acme.example").await;
    let (one, two) = (lab.shard("one", json!({})).await, lab.shard("two", json!({})).await);
    for (node, shard, domain) in
        [("a1", &one, "rack-1"), ("a2", &one, "rack-1"), ("b1", &two, "rack-1"), ("b2", &two, "rack-2")]
    {
        lab.member(node, shard, domain).await;
    }
    for n in 0..3 {
        assert_eq!(lab.placed(&format!("c{n}")).await.unwrap().text("shard_id"), two);
    }
    // With one rack out of service neither is better than the other.
    lab.turn("b2", false).await;
    assert_eq!(lab.placed("c3").await.unwrap().text("shard_id"), one);
}

#[tokio::test]
async fn a_full_shard_takes_no_more_and_what_is_kept_has_its_place() {
    let mut lab = Lab::new().await;
    lab.put("acme", json!({"undelete_days": 7})).await.unwrap();
    let shard = lab.shard.clone();
    lab.put(&shard, json!({"max_tenants": 2})).await.unwrap();
    let (first, _) = (lab.placed("c0").await.unwrap(), lab.tenant("acme", "c1").await);
    let full = refused(lab.placed("c2").await);
    assert!(full.contains("web-1 has 2 of the 2 tenants"), "{full}");
    let body = json!({
        "brand_id": "acme", "customer_id": "c2", "region_id": lab.region, "cluster_id": lab.cluster,
        "shard_id": shard,
    });
    let named = refused(lab.post(Kind::Tenant, None, body).await);
    assert!(named.contains("leave shard_id out"), "{named}");
    // Its data is still there.
    lab.delete(&first.id).await.unwrap();
    lab.settle().await;
    assert!(refused(lab.placed("c2").await).contains("2 of the 2"));
    let back = crate::undelete(&mut lab.store, Kind::Tenant, &first.id).await;
    lab.end(back).unwrap();
    lab.settle().await;
    assert_eq!(lab.status(&first.id), Some(Status::Active));
    let gone = crate::delete_for_good(&mut lab.store, Kind::Tenant, &first.id).await;
    lab.end(gone).unwrap();
    lab.placed("c2").await.unwrap();
}

#[tokio::test]
async fn a_drained_node_gets_no_requests_once_others_serve() {
    let mut lab = Lab::new().await;
    let shard = lab.shard.clone();
    lab.turn("web2", false).await;
    assert_eq!(lab.serving(&shard), ["web1"]);
    let last = refused(lab.node_drains("web1", false).await);
    assert!(last.contains("last one of shard web-1"), "{last}");
    lab.turn("web2", true).await;
    lab.node_drains("web1", false).await.unwrap();
    assert_eq!(lab.serving(&shard), ["web2"]);
    assert!(lab.get("web1").unwrap().view()["draining"]["since"].is_string());
    // The other one goes silent: what is drained serves as long.
    lab.turn("web2", false).await;
    assert_eq!(lab.serving(&shard), ["web1"]);
    lab.turn("web2", true).await;
    assert_eq!(lab.serving(&shard), ["web2"]);
    // Forced, nothing is left, and nothing comes back by itself.
    assert!(refused(lab.node_drains("web2", false).await).contains("last one"));
    lab.node_drains("web2", true).await.unwrap();
    assert_eq!(lab.serving(&shard), ["web1"], "the one that is only drained serves");
    lab.node_drains("web1", true).await.unwrap();
    assert_eq!(lab.serving(&shard), Vec::<String>::new());
    lab.settle().await;
    lab.assert_planned().await;
    for node in ["web1", "web2"] {
        let back = undrain_node(&mut lab.store, node).await;
        lab.end(back).unwrap();
    }
    assert_eq!(lab.serving(&shard), ["web1", "web2"]);
    assert!(lab.get("web1").unwrap().view().get("draining").is_none());
    for (node, of) in [("edge1", "edges"), ("dns1", "name servers")] {
        let last = refused(lab.node_drains(node, false).await);
        assert!(last.contains(of), "{last}");
    }
    lab.settle().await;
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_drained_shard_takes_no_tenants_and_keeps_those_it_has() {
    let mut lab = Lab::new().await;
    let (first, tenant) = (lab.shard.clone(), lab.tenant("acme", "one").await);
    lab.settle().await;
    assert!(refused(lab.shard_drains(&first, false).await).contains("last one of its cluster"));
    let second = lab.shard("web-2", json!({})).await;
    assert!(lab.shard_drains(&first, false).await.is_err(), "a shard without nodes is no place");
    lab.member("other", &second, "").await;
    let told = lab.store.intents.clone();
    lab.shard_drains(&first, false).await.unwrap();
    assert_eq!(lab.store.intents, told, "what is there stays as it is");
    lab.settle().await;
    assert_eq!(lab.status(&tenant.id), Some(Status::Active));
    for n in 0..3 {
        assert_eq!(lab.placed(&format!("c{n}")).await.unwrap().text("shard_id"), second);
    }
    let body = json!({
        "brand_id": "acme", "customer_id": "named", "region_id": lab.region, "cluster_id": lab.cluster,
        "shard_id": first,
    });
    assert!(refused(lab.post(Kind::Tenant, None, body.clone()).await).contains("is being drained"));
    let back = undrain_shard(&mut lab.store, &first).await;
    lab.end(back).unwrap();
    lab.post(Kind::Tenant, None, body).await.unwrap();
}

#[tokio::test]
async fn names_that_hang_on_the_last_node_are_listed_page_by_page() {
    let mut lab = Lab::new().await;
    let (one, two) = (lab.tenant("acme", "one").await, lab.tenant("acme", "two").await);
    let (site, other) = (lab.webroot(&one).await, lab.webroot(&two).await);
    let mut wanted = BTreeSet::new();
    for n in 0..7 {
        let (tenant, site) = if n % 3 == 0 { (&two, &other) } else { (&one, &site) };
        let name = format!("n{n}.test");
        lab.fqdn(tenant, &name, Some(site)).await.unwrap();
        wanted.insert(name);
    }
    lab.fqdn(&one, "unbound.test", None).await.unwrap();
    lab.zone(&one, "one.example").await.unwrap();
    lab.settle().await;
    let set = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect::<BTreeSet<_>>();
    let found = without(&mut lab.store, &set(&["web1", "nobody"])).await.unwrap();
    assert_eq!(found.unknown, ["nobody"]);
    assert_eq!((found.left[0].serving, found.left[0].tenants), (1, Some(2)));
    let found = without(&mut lab.store, &set(&["web1", "web2", "edge1", "dns1"])).await.unwrap();
    let left: Vec<_> = found.left.iter().map(|left| (left.name.as_str(), left.serving)).collect();
    assert_eq!(left, [("web-1", 0), ("c1", 0), ("default", 0)]);
    // What is drained does not count as somebody who would serve on.
    lab.node_drains("web2", false).await.unwrap();
    assert_eq!(without(&mut lab.store, &set(&["web1"])).await.unwrap().left[0].serving, 0);
    for (lost, count) in [
        (vec![Of::Shard(lab.shard.clone())], 7),
        (vec![Of::Cluster(lab.cluster.clone())], 8),
        (vec![Of::Group("default".into())], 1),
        (vec![Of::Shard(lab.shard.clone()), Of::Group("default".into())], 8),
    ] {
        for limit in [1, 2, 3, 100] {
            let (mut names, mut place) = (Vec::new(), Some(Place::default()));
            while let Some(from) = place {
                let (page, next) = failing_names(&mut lab.store, &lost, &from, limit).await.unwrap();
                assert!(page.len() <= limit);
                names.extend(page.into_iter().map(|one| one.name));
                place = next;
            }
            let distinct: BTreeSet<_> = names.iter().cloned().collect();
            assert_eq!((names.len(), distinct.len()), (count, count), "{lost:?} by {limit}: {names:?}");
            if lost.len() == 1 && count == 7 {
                assert_eq!(distinct, wanted);
            }
        }
    }
}
