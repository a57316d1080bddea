//! What each unit derives, and what a change costs.

use hosting_resource::Doc;
use hosting_resource::kinds::node::Node;

use super::*;
use crate::{Draft, converge_shard, retry, set_in_service, suspend, unsuspend};

#[tokio::test]
async fn a_site_goes_live_in_stages() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.zone(&tenant, "example.com").await.unwrap();
    let webroot = lab.webroot(&tenant).await;
    let fqdn = lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    lab.drain().await;
    assert_eq!(tenant.state["uid"], 5000);
    for node in ["node/web1", "node/web2"] {
        let Some(Intent::Tenant(on_node)) = lab.intent(node, IntentKind::Tenant, &tenant.id) else {
            panic!()
        };
        assert_eq!((on_node.uid, on_node.state()), (5000, m::State::Active));
        assert_eq!(on_node.incarnation, tenant.created_revision);
        let Some(Intent::Webroot(site)) = lab.intent(node, IntentKind::Webroot, &webroot.id) else {
            panic!()
        };
        assert_eq!(
            (site.runtime.as_str(), site.shard_name.as_str(), site.tenant_uid),
            ("static", "web-1", 5000)
        );
        assert_eq!(site.php, None);
    }
    // Nothing is routed before a node has the site, nothing is answered before the edges have the route.
    assert_eq!(lab.route("www.example.com"), None);
    let fleet = Everybody::of(&lab.store);
    let verdict = lab.look(&fqdn.id, &fleet).await;
    assert_eq!(verdict.conditions.iter().map(|c| c.status.as_str()).collect::<Vec<_>>(), ["waiting"; 3]);
    let verdict = lab.look(&webroot.id, &fleet).await;
    assert_eq!(verdict.open, [crate::gates::Gate::SiteReady]);
    open_gates(&mut lab.store, &webroot.id, &verdict.open).await.unwrap();
    lab.store.commit();
    let route = lab.route("www.example.com").unwrap();
    assert_eq!(
        (route.webroot_id.as_str(), route.shard_id.as_str()),
        (webroot.id.as_str(), lab.shard.as_str())
    );
    assert_eq!(lab.rr_set("example.com/www.example.com/A"), None);
    let before = lab.serial("example.com");
    let verdict = lab.look(&fqdn.id, &fleet).await;
    assert_eq!(verdict.open, [crate::gates::Gate::Routed]);
    open_gates(&mut lab.store, &fqdn.id, &verdict.open).await.unwrap();
    lab.store.commit();
    let set = lab.rr_set("example.com/www.example.com/A").unwrap();
    assert_eq!((set.ttl, set.data), (300, Some(m::rr_set::Data::AddressSet(lab.cluster.clone()))));
    assert_eq!(lab.rr_set("example.com/www.example.com/AAAA"), None);
    assert_eq!(lab.serial("example.com"), before + 1);
    lab.settle().await;
    for id in [&tenant.id, &webroot.id, &fqdn.id] {
        assert_eq!(lab.status(id), Some(Status::Active));
    }
    lab.assert_planned().await;
}

#[tokio::test]
async fn what_is_nested_is_made_in_one_revision() {
    let mut lab = Lab::new().await;
    let head = lab.store.head;
    let body = json!({
        "brand_id": "acme", "customer_id": "c9", "region_id": lab.region, "cluster_id": lab.cluster,
        "shard_id": lab.shard, "subscriptions": [{"id": "s9", "name": "main"}],
        "zones": [{"subscription_id": "s9", "name": "nine.example"}],
        "webroots": [{"subscription_id": "s9", "runtime": "php", "runtime_version": "8.2",
            "runtime_config": {"php_values": {"memory_limit": "1G"}}, "fqdns": [{"fqdn": "www.nine.example"}]}],
        "fqdns": [{"fqdn": "later.nine.example"}],
    });
    let tenant = lab.post(Kind::Tenant, None, body).await.unwrap();
    assert_eq!(lab.store.head, head + 1);
    assert!(lab.store.intents.values().filter(|row| row.revision == head + 1).count() >= 7);
    let webroot = lab.store.resources.values().find(|r| r.kind == Kind::Webroot).unwrap().id.clone();
    let Some(Intent::Webroot(site)) = lab.intent("node/web1", IntentKind::Webroot, &webroot) else {
        panic!()
    };
    let php = site.php.unwrap();
    assert_eq!((php.max_children, php.values["memory_limit"].as_str()), (5, "1G"));
    // A name that is bound to nothing is known at once.
    assert_eq!(lab.route("later.nine.example").unwrap().webroot_id, "");
    lab.settle().await;
    assert_eq!(lab.route("www.nine.example").unwrap().webroot_id, webroot);
    assert_eq!(lab.status(&tenant.id), Some(Status::Active));
    lab.assert_planned().await;
}

#[tokio::test]
async fn suspending_is_one_intent_for_each_audience_whatever_lies_in_the_tenant() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.zone(&tenant, "example.com").await.unwrap();
    for n in 0..20 {
        let webroot = lab.webroot(&tenant).await;
        lab.fqdn(&tenant, &format!("n{n}.example.com"), Some(&webroot)).await.unwrap();
    }
    lab.settle().await;
    let logged = lab.store.log.len();
    lab.store.reads = 0;
    let suspended = suspend(&mut lab.store, &tenant.id, "unpaid").await.unwrap();
    lab.store.commit();
    assert_eq!(suspended.status, Status::Suspended);
    let changes = &lab.store.log[logged..];
    let audiences: BTreeSet<_> = changes.iter().map(|logged| &logged.change.audience).collect();
    assert_eq!((changes.len(), audiences.len()), (3, 3), "{changes:?}");
    assert!(lab.store.reads < 20, "{} reads", lab.store.reads);
    let edge = format!("edge/{}", lab.cluster);
    let Some(Intent::TenantState(state)) = lab.intent(&edge, IntentKind::TenantState, &tenant.id) else {
        panic!()
    };
    assert_eq!((state.state(), state.reason.as_str()), (m::State::Suspended, "unpaid"));
    lab.assert_planned().await;
    assert!(matches!(retry(&mut lab.store, Kind::Tenant, &tenant.id).await, Err(PlanError::Conflict(_))));
    let back = unsuspend(&mut lab.store, &tenant.id).await.unwrap();
    lab.store.commit();
    assert_eq!(back.status, Status::Pending);
    assert_eq!(unsuspend(&mut lab.store, &tenant.id).await.unwrap(), back, "what is on stays as it is");
    lab.settle().await;
    assert_eq!(lab.status(&tenant.id), Some(Status::Active));
    lab.assert_planned().await;
}

/// What a cluster says of HTTP/3 reaches its edges and all name servers as one item each, whatever there is of names.
#[tokio::test]
async fn a_cluster_says_how_its_edges_are_spoken_to() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    for n in 0..20 {
        lab.zone(&tenant, &format!("z{n}.example")).await.unwrap();
        lab.fqdn(&tenant, &format!("www.z{n}.example"), Some(&webroot)).await.unwrap();
    }
    lab.settle().await;
    let cluster = lab.cluster.clone();
    let said = |lab: &Lab| {
        let set = lab.intent("dns/default", IntentKind::AddressSet, &lab.cluster);
        let settings = lab.intent(&format!("edge/{}", lab.cluster), IntentKind::EdgeSettings, "settings");
        let serials = lab.intent("dns/default", IntentKind::SerialOffset, "serial");
        match (set, settings, serials) {
            (
                Some(Intent::AddressSet(set)),
                Some(Intent::EdgeSettings(settings)),
                Some(Intent::SerialOffset(offset)),
            ) => (set.https, settings.http3_off, settings.http3_port, offset.value),
            other => panic!("{other:?}"),
        }
    };
    let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let first = said(&lab).3;
    assert_eq!(said(&lab), (texts(&["1 . alpn=h3,h2"]), false, 0, first));
    let cases = [
        (json!({"http3": false}), texts(&["1 . alpn=h2"]), true, 0, first + 1),
        (json!({"http3_port": 8443}), texts(&["1 . alpn=h2"]), true, 8443, first + 1),
        (
            json!({"http3": true}),
            texts(&["1 . alpn=h3 no-default-alpn port=8443", "2 . alpn=h2"]),
            false,
            8443,
            first + 2,
        ),
        (json!({"http3_port": 443}), texts(&["1 . alpn=h3,h2"]), false, 443, first + 3),
        (json!({"http3_port": 0}), texts(&["1 . alpn=h3,h2"]), false, 0, first + 3),
        (json!({"name": "other"}), texts(&["1 . alpn=h3,h2"]), false, 0, first + 3),
    ];
    for (change, https, off, port, offset) in cases {
        let logged = lab.store.log.len();
        lab.put(&cluster, change.clone()).await.unwrap();
        lab.settle().await;
        assert_eq!(said(&lab), (https, off, port, offset), "{change}");
        assert!(lab.store.log.len() <= logged + 3, "{change}: no more than settings, addresses and serials");
        lab.assert_planned().await;
    }
    let current = lab.get(&cluster).unwrap().clone();
    for wrong in [json!({"http3_port": 65536}), json!({"http3_port": -1}), json!({"http3": "no"})] {
        assert!(Kind::Cluster.def().update(&current, wrong.as_object().unwrap()).is_err(), "{wrong}");
    }
    // A cluster whose last address is gone leads nowhere.
    let all = lab.store.resources.values().filter(|one| one.kind == Kind::LbAddress);
    let all: Vec<String> = all.map(|one| one.id.clone()).collect();
    for address in all {
        lab.delete(&address).await.unwrap();
    }
    lab.settle().await;
    assert_eq!(said(&lab).0, texts(&[]));
}

#[tokio::test]
async fn a_new_address_is_two_intents_however_many_zones() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    for n in 0..30 {
        lab.zone(&tenant, &format!("z{n}.example")).await.unwrap();
        lab.fqdn(&tenant, &format!("www.z{n}.example"), Some(&webroot)).await.unwrap();
    }
    lab.settle().await;
    let offset = |lab: &Lab| match lab.intent("dns/default", IntentKind::SerialOffset, "serial") {
        Some(Intent::SerialOffset(offset)) => offset.value,
        other => panic!("{other:?}"),
    };
    let (logged, before) = (lab.store.log.len(), offset(&lab));
    lab.store.reads = 0;
    let cluster = lab.cluster.clone();
    let address = lab.post(Kind::LbAddress, Some(&cluster), json!({"address": "192.0.2.81"})).await.unwrap();
    assert!(lab.store.reads < 30, "{} reads", lab.store.reads);
    lab.drain().await;
    let changes: Vec<_> = lab.store.log[logged..].iter().map(|l| l.change.key.to_string()).collect();
    assert_eq!(changes, [format!("address_set/{cluster}"), "serial_offset/serial".to_owned()]);
    assert_eq!(offset(&lab), before + 1);
    // What people see in the automatic records follows.
    let shown = |lab: &Lab| {
        let mut all = lab.store.resources.values().filter(|r| r.kind == Kind::ZoneRecord);
        all.all(|record| record.text("content") == "192.0.2.80, 192.0.2.81")
    };
    assert!(shown(&lab));
    lab.delete(&address.id).await.unwrap();
    lab.drain().await;
    assert!(!shown(&lab));
    assert_eq!(offset(&lab), before + 2);
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_new_family_brings_its_records_and_takes_them_along() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.zone(&tenant, "example.com").await.unwrap();
    let webroot = lab.webroot(&tenant).await;
    lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    lab.settle().await;
    let cluster = lab.cluster.clone();
    let address =
        lab.post(Kind::LbAddress, Some(&cluster), json!({"address": "2001:db8::80"})).await.unwrap();
    lab.settle().await;
    assert!(lab.rr_set("example.com/www.example.com/AAAA").is_some());
    lab.assert_planned().await;
    lab.delete(&address.id).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.rr_set("example.com/www.example.com/AAAA"), None);
    assert!(lab.rr_set("example.com/www.example.com/A").is_some());
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_pool_never_goes_from_some_to_none_by_silence() {
    let mut lab = Lab::new().await;
    lab.drain().await;
    let shard = lab.shard.clone();
    let pool = |lab: &Lab| -> Vec<(String, bool)> {
        let edge = format!("edge/{}", lab.cluster);
        match lab.intent(&edge, IntentKind::ShardPool, &shard) {
            Some(Intent::ShardPool(pool)) => {
                pool.nodes.into_iter().map(|n| (n.node_id, n.in_service)).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    let of = |a: bool, b: bool| vec![("web1".to_owned(), a), ("web2".to_owned(), b)];
    assert_eq!(pool(&lab), of(true, true));
    for (node, in_service, then) in [
        ("web1", false, of(false, true)),
        ("web2", false, of(false, true)),
        ("web1", true, of(true, false)),
        ("web2", true, of(true, true)),
    ] {
        let done = set_in_service(&mut lab.store, node, in_service).await;
        assert!(lab.end(done).unwrap());
        assert_eq!(pool(&lab), then, "{node} {in_service}");
        assert!(!set_in_service(&mut lab.store, node, in_service).await.unwrap());
        lab.assert_planned().await;
    }
    // A person's word is another matter.
    lab.put("web1", json!({"shard_ids": []})).await.unwrap();
    lab.put("web2", json!({"shard_ids": []})).await.unwrap();
    assert_eq!(pool(&lab), []);
}

#[tokio::test]
async fn places_in_a_shard_are_unique_and_never_move() {
    let mut lab = Lab::new().await;
    let index = |lab: &Lab, node: &str| -> Vec<u32> {
        let node = Doc::<Node>::of(&lab.store.resources[node]).unwrap();
        node.state.shards.iter().map(|place| place.shard_index).collect()
    };
    assert_eq!((index(&lab, "web1"), index(&lab, "web2")), (vec![1], vec![2]));
    lab.delete("web1").await.unwrap();
    lab.node("web3", &["web"], true, "192.0.2.13").await;
    assert_eq!(index(&lab, "web3"), [3]);
    let (cluster, first) = (lab.cluster.clone(), lab.shard.clone());
    let second = json!({"name": "web-2", "role": "web"});
    let second = lab.post(Kind::Shard, Some(&cluster), second).await.unwrap().id;
    lab.put("web2", json!({"shard_ids": [second, first]})).await.unwrap();
    assert_eq!(index(&lab, "web2"), [1, 4]);
    lab.drain().await;
    lab.assert_planned().await;
}

#[tokio::test]
async fn joining_a_shard_is_walked_in_bounded_steps() {
    let mut lab = Lab::new().await;
    for n in 0..130 {
        let tenant = lab.tenant("acme", &format!("c{n}")).await;
        if n == 7 {
            for _ in 0..15 {
                lab.webroot(&tenant).await;
            }
        } else if n % 10 == 0 {
            lab.webroot(&tenant).await;
        }
    }
    lab.settle().await;
    let mut most = 0;
    lab.node("web3", &["web"], true, "192.0.2.13").await;
    let mut steps = 1;
    while !lab.store.queue.is_empty() {
        // A crash in the middle of a step loses nothing.
        drain(&mut lab.store).await.unwrap();
        lab.store.roll_back();
        let drained = drain(&mut lab.store).await.unwrap();
        assert!(drained.entries > 0);
        most = most.max(lab.store.rows);
        lab.store.commit();
        steps += 1;
    }
    assert!(steps >= 2 && most <= 900, "{steps} steps, {most} rows");
    let on_node = lab.store.intents.values().filter(|row| row.audience == at("node/web3")).count();
    assert_eq!(on_node, 130 + 13 + 15);
    lab.assert_planned().await;
    let done = lab.delete("web3").await.unwrap();
    assert_eq!(done, Deleted::Gone);
    lab.drain().await;
    assert_eq!(lab.store.intents.values().filter(|row| row.audience == at("node/web3")).count(), 0);
    lab.assert_planned().await;
    let shard = lab.shard.clone();
    let logged = lab.store.log.len();
    converge_shard(&mut lab.store, &shard).await.unwrap();
    lab.store.commit();
    lab.drain().await;
    assert_eq!(lab.store.log.len(), logged, "what is as planned is not written again");
}

#[tokio::test]
async fn a_brand_moves_its_zones() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let zone = lab.zone(&tenant, "example.com").await.unwrap();
    lab.record(&zone, "TXT", "@", "hello").await.unwrap();
    lab.settle().await;
    let before = lab.serial("example.com");
    lab.put("acme", json!({"secondary_ns": "ns9.acme.example"})).await.unwrap();
    lab.drain().await;
    assert_eq!(lab.serial("example.com"), before + 1);
    let Some(Intent::Zone(apex)) = lab.intent("dns/default", IntentKind::Zone, "example.com") else {
        panic!()
    };
    assert_eq!(apex.nameservers, ["ns1.acme.example", "ns9.acme.example"]);
    lab.store.admin = true;
    lab.put("acme", json!({"dns_group": "other"})).await.unwrap();
    lab.drain().await;
    assert_eq!(lab.intent("dns/default", IntentKind::Zone, "example.com"), None);
    assert!(lab.intent("dns/other", IntentKind::Zone, "example.com").is_some());
    assert!(lab.intent("dns/other", IntentKind::RrSet, "example.com/example.com/TXT").is_some());
    assert!(lab.intent("dns/other", IntentKind::AddressSet, &lab.cluster).is_some());
    assert!(lab.intent("dns/other", IntentKind::SerialOffset, "serial").is_some());
    assert_eq!(lab.intent("dns/default", IntentKind::AddressSet, &lab.cluster), None);
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_failed_resource_is_tried_again_with_a_new_revision() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    let mut fleet = Everybody::of(&lab.store);
    let key = Key::new(IntentKind::Webroot, &webroot.id);
    let failed = Report { phase: Phase::Failed, revision: lab.store.head, message: "disk full".into() };
    for node in ["web1", "web2"] {
        fleet.reports.insert((node.into(), key.clone()), failed.clone());
    }
    lab.settle_with(&fleet).await;
    assert_eq!(lab.status(&webroot.id), Some(Status::Failed));
    let message = lab.get(&webroot.id).unwrap().status_message.clone().unwrap();
    assert_eq!(message, "site: web1: disk full; web2: disk full");
    retry(&mut lab.store, Kind::Webroot, &webroot.id).await.unwrap();
    let revision = lab.store.commit();
    assert_eq!(lab.status(&webroot.id), Some(Status::Provisioning));
    let row = &lab.store.intents[&(at("node/web1"), key.clone())];
    assert_eq!(row.revision, revision);
    // The old report speaks of the old revision: the verdict is open again.
    let verdict = lab.look(&webroot.id, &fleet).await;
    assert_eq!(verdict.status, Status::Provisioning);
    fleet.reports.clear();
    lab.settle_with(&fleet).await;
    assert_eq!(lab.status(&webroot.id), Some(Status::Active));
    lab.assert_planned().await;
}

#[tokio::test]
async fn our_own_unsound_intents_are_a_clear_error() {
    let mut lab = Lab::new().await;
    let shard = lab.shard.clone();
    lab.store.resources.get_mut(&shard).unwrap().spec["name"] = json!("a/b");
    let planned =
        crate::replan([Unit::Of(Kind::Shard, shard.clone())], &mut lab.store, hosting_intent::Cause::Planner)
            .await;
    let error = planned.unwrap_err();
    assert!(matches!(error, PlanError::Unsound { .. }));
    assert!(error.to_string().contains("shard_pool") && error.to_string().contains("name"), "{error}");
    // In the queue it is noted, and its neighbours go on.
    lab.store.roll_back();
    lab.store.resources.get_mut("web1").unwrap().state.insert("out_of_service".into(), json!(true));
    lab.store.queue = vec![Unit::Of(Kind::Shard, shard), Unit::Of(Kind::Cluster, lab.cluster.clone())];
    let drained = drain(&mut lab.store).await.unwrap();
    assert_eq!((drained.entries, drained.unsound.len(), lab.store.queue.len()), (2, 1, 0));
}

#[tokio::test]
async fn trust_roots_reach_every_audience() {
    let mut lab = Lab::new().await;
    lab.store.roots = vec![hosting_intent::Bytes::from_static(b"root")];
    let audiences = ["node/web1".to_owned(), "dns/default".to_owned(), format!("edge/{}", lab.cluster)];
    let units = audiences.iter().map(|audience| Unit::Audience(at(audience)));
    crate::replan(units, &mut lab.store, hosting_intent::Cause::Planner).await.unwrap();
    for audience in &audiences {
        assert!(lab.intent(audience, IntentKind::TrustRoots, "roots").is_some(), "{audience}");
    }
    // A node that comes later gets them with its creation.
    lab.store.commit();
    lab.node("web9", &["web"], false, "192.0.2.19").await;
    assert!(lab.intent("node/web9", IntentKind::TrustRoots, "roots").is_some());
    // Somebody else's roots are left as they are.
    lab.store.roots.clear();
    crate::replan([Unit::Audience(at("node/web1"))], &mut lab.store, hosting_intent::Cause::Planner)
        .await
        .unwrap();
    assert!(lab.intent("node/web1", IntentKind::TrustRoots, "roots").is_some());
}

fn told(lab: &Lab) -> BTreeSet<String> {
    let roots = lab.store.intents.values().filter(|row| row.key.known_kind() == Some(IntentKind::TrustRoots));
    roots.map(|row| row.audience.to_string()).collect()
}

#[tokio::test]
async fn nothing_is_planned_for_an_audience_that_nobody_can_subscribe_to() {
    let mut lab = Lab::bare().await;
    lab.store.roots = vec![hosting_intent::Bytes::from_static(b"root")];
    lab.brand("acme", "acme.example").await;
    for (id, role) in
        [("web1", "web"), ("edge1", "lb"), ("dns1", "dns"), ("gw1", "gateway"), ("db1", "database")]
    {
        lab.node(id, &[role], false, "192.0.2.7").await;
    }
    lab.settle().await;
    let edge = format!("edge/{}", lab.cluster);
    let all = |more: &[&str]| -> BTreeSet<String> { more.iter().map(ToString::to_string).collect() };
    assert_eq!(told(&lab), all(&["dns/default", &edge, "gateway/gw1", "node/web1"]));

    // A row that an older build planned for an edge goes when its audience is planned again.
    let dead = crate::IntentChange {
        audience: at("node/edge1"),
        key: Key::new(IntentKind::TrustRoots, "roots"),
        owner: Unit::Audience(at("node/edge1")).owner(),
        value: Some(hosting_intent::Bytes::from_static(b"x")),
        cause: hosting_intent::Cause::Planner,
        traceparent: None,
        rollout: 0,
    };
    lab.store.apply(crate::Change { intents: vec![dead], ..crate::Change::default() }).await.unwrap();
    lab.store.commit();
    crate::replan([Unit::Audience(at("node/edge1"))], &mut lab.store, hosting_intent::Cause::Planner)
        .await
        .unwrap();
    lab.store.commit();
    assert!(!told(&lab).contains("node/edge1"));

    // Other roles, another group: what a node subscribes to follows, and what it left goes if nobody else is there.
    lab.put("gw1", json!({"roles": ["web", "gateway"]})).await.unwrap();
    lab.put("web1", json!({"roles": ["database"]})).await.unwrap();
    lab.put("dns1", json!({"dns_group": "spare"})).await.unwrap();
    lab.settle().await;
    assert_eq!(told(&lab), all(&["dns/default", "dns/spare", &edge, "gateway/gw1", "node/gw1"]));
    lab.put("dns1", json!({"dns_group": "default"})).await.unwrap();
    lab.delete("gw1").await.unwrap();
    lab.settle().await;
    assert_eq!(told(&lab), all(&["dns/default", &edge]));
}

#[test]
fn units_survive_the_queue() {
    let walk = Unit::Walk {
        over: crate::Walk::NodeRows,
        of: "web1".into(),
        after: "20/t_a/b".into(),
        cause: hosting_intent::Cause::Person,
        rollout: 0,
    };
    let set = Unit::RrSet { zone: "z".into(), name: "*.a.example".into(), record_type: "A".into() };
    for unit in [walk, set, Unit::Audience(at("edge/c")), Unit::Retire("web_a".into())] {
        assert_eq!(Unit::from_owner(&unit.owner()), Some(unit));
    }
}
