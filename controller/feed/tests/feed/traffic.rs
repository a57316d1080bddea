//! What edges passed on: taken from edges of the cluster alone, and only what can be.

use hosting_intent_sync::identity::unix_now;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{TenantTraffic, TrafficReport};
use tonic::Code;

use crate::hostile::as_node;
use crate::support::{EDGE, Feed};

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_taken_from_edges_of_the_cluster() {
    let feed = Feed::start().await;
    feed.registry.add("lb-1", &["lb"]);
    feed.registry.add("web-1", &["web"]);
    let one = |id: &str| TenantTraffic {
        tenant_id: id.into(),
        requests: 3,
        successful: 3,
        ..TenantTraffic::default()
    };
    let good = TrafficReport {
        audience: EDGE.into(),
        source: vec![1; 16].into(),
        number: 1,
        hour: unix_now() / 3_600 * 3_600,
        tenants: vec![one("t_a"), one("t_b")],
    };
    let send = async |node: &str, report: &TrafficReport| {
        let mut client = IntentFeedClient::new(as_node(&feed, node).await);
        client.add_traffic(report.clone()).await.map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(send("lb-1", &good).await, Ok(()));
    assert_eq!(*feed.registry.traffic.lock().unwrap(), [("c1".to_owned(), good.clone())]);
    // Neither a machine of another role, nor for another cluster, nor for what is no cluster's.
    assert_eq!(send("web-1", &good).await, Err(Code::PermissionDenied));
    for audience in ["edge/c2", "node/web-1", "dns/default", ""] {
        let wrong = TrafficReport { audience: audience.into(), ..good.clone() };
        assert_eq!(send("lb-1", &wrong).await, Err(Code::PermissionDenied), "{audience}");
    }
    let own = TrafficReport { audience: "node/web-1".into(), ..good.clone() };
    assert_eq!(send("web-1", &own).await, Err(Code::InvalidArgument), "it is no edge");
    let large = TenantTraffic { sent: (1 << 42) + 1, ..one("t_a") };
    let class = TenantTraffic { server_errors: u64::MAX, ..one("t_a") };
    for (what, wrong) in [
        ("source", TrafficReport { source: vec![1; 15].into(), ..good.clone() }),
        ("number", TrafficReport { number: 0, ..good.clone() }),
        ("half an hour", TrafficReport { hour: good.hour + 1_800, ..good.clone() }),
        ("next year", TrafficReport { hour: good.hour + 365 * 86_400, ..good.clone() }),
        ("the end of time", TrafficReport { hour: i64::MIN / 3_600 * 3_600, ..good.clone() }),
        ("twice", TrafficReport { tenants: vec![one("t_a"), one("t_a")], ..good.clone() }),
        ("too large", TrafficReport { tenants: vec![large], ..good.clone() }),
        ("a class", TrafficReport { tenants: vec![class], ..good.clone() }),
        (
            "many",
            TrafficReport { tenants: (0..1_001).map(|n| one(&n.to_string())).collect(), ..good.clone() },
        ),
    ] {
        assert_eq!(send("lb-1", &wrong).await, Err(Code::InvalidArgument), "{what}");
    }
    assert_eq!(feed.registry.traffic.lock().unwrap().len(), 1);
}
