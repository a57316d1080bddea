//! What edges passed on for tenants: each report counts once, for tenants of its cluster, in its hour.

use hosting_resource::Kind;
use hosting_store::{Store, TRAFFIC_HOUR, Traffic, TrafficReport};
use serde_json::json;

use crate::harness::{Bench, applied, put, resource};

fn passed(requests: u64) -> Traffic {
    Traffic {
        requests,
        classes: [0, requests - 1, 0, 1, 0],
        received: 10 * requests,
        sent: 1_000 * requests,
        cached: 1,
        node_us: 7,
    }
}

fn report(source: &str, number: u64, hour: i64, tenants: &[(&str, u64)]) -> TrafficReport {
    let tenants = tenants.iter().map(|(id, requests)| ((*id).to_owned(), passed(*requests))).collect();
    TrafficReport { source: source.into(), number, hour: hour * TRAFFIC_HOUR, tenants }
}

async fn requests(store: &Store, tenant: &str) -> Vec<(i64, u64)> {
    let rows = store.read().await.unwrap().traffic(tenant, 0, i64::MAX).await.unwrap();
    rows.into_iter().map(|(hour, traffic)| (hour / TRAFFIC_HOUR, traffic.requests)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_counts_once_for_tenants_of_its_cluster() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let tenant = |id: &str, cluster: &str| {
        let spec = json!({"brand_id": "acme", "customer_id": id, "region_id": "r", "cluster_id": cluster});
        resource(Kind::Tenant, id, spec)
    };
    applied(store, put([tenant("t_a", "c1"), tenant("t_b", "c1"), tenant("t_c", "c2")])).await;
    let first = report("aa", 1, 5, &[("t_a", 3), ("t_b", 4), ("t_c", 9), ("t_gone", 2)]);
    assert_eq!(
        store.add_traffic("c1", first.clone()).await.unwrap(),
        2,
        "another cluster's, and one that is none"
    );
    for _ in 0..2 {
        assert_eq!(store.add_traffic("c1", first.clone()).await.unwrap(), 0, "it is in already");
    }
    store.add_traffic("c1", report("bb", 1, 5, &[("t_a", 10)])).await.unwrap();
    store.add_traffic("c1", report("aa", 2, 6, &[("t_a", 20)])).await.unwrap();
    // An earlier one that comes late was given up, or is in.
    store.add_traffic("c1", report("aa", 1, 6, &[("t_a", 40)])).await.unwrap();
    assert_eq!(requests(store, "t_a").await, [(5, 13), (6, 20)]);
    assert_eq!(requests(store, "t_b").await, [(5, 4)]);
    assert_eq!(requests(store, "t_c").await, []);
    let mut tx = store.read().await.unwrap();
    let mut both = passed(3);
    both += passed(10);
    assert_eq!(
        tx.traffic("t_a", 5 * TRAFFIC_HOUR, 6 * TRAFFIC_HOUR).await.unwrap(),
        [(5 * TRAFFIC_HOUR, both)]
    );
    drop(tx);

    // More tenants than one statement has rows.
    let many: Vec<String> = (0..300).map(|n| format!("t_{n}")).collect();
    applied(store, put(many.iter().map(|id| tenant(id, "c1")).collect::<Vec<_>>())).await;
    let all: Vec<(&str, u64)> = many.iter().map(|id| (id.as_str(), 2)).collect();
    assert_eq!(store.add_traffic("c1", report("cc", 1, 7, &all)).await.unwrap(), 0);
    assert_eq!(requests(store, "t_299").await, [(7, 2)]);

    assert_eq!(store.prune_traffic(6 * TRAFFIC_HOUR).await.unwrap(), 2, "those of hour 5");
    assert_eq!(requests(store, "t_a").await, [(6, 20)]);
    assert_eq!(store.prune_traffic(6 * TRAFFIC_HOUR).await.unwrap(), 0, "sources of today stay");
    assert_eq!(store.add_traffic("c1", first).await.unwrap(), 0);
    assert_eq!(requests(store, "t_a").await, [(6, 20)], "what was pruned is not counted again");
}
