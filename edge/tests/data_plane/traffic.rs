//! What is counted of tenants' requests.

use hosting_edge::TenantCounts;
use hosting_intent::message::State;

use crate::harness::{Edge, Node, pool, route, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn each_request_counts_for_its_tenant_over_every_protocol() {
    let node = Node::start("node-1").await;
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            pool("s1", &[("n1", node.address, true)]),
            route("www.example.com", "t_a", "web_a", "s1"),
            route("shop.example.com", "t_a", "web_c", "s1"),
            route("off.example.com", "t_b", "web_b", "s1"),
            tenant("t_b", State::Suspended),
        ],
        Vec::new(),
    );
    let hosts = ["www.example.com", "shop.example.com", "off.example.com", "none.example.com"];
    let client = edge.client(&hosts);
    for host in ["www.example.com", "shop.example.com"] {
        let echoed = client.post(edge.url(host, "/echo")).body("12345").send().await.unwrap();
        assert_eq!(echoed.text().await.unwrap(), "12345");
    }
    // Over TLS it is HTTP/2.
    let page = client.get(edge.tls_url("www.example.com", "/x")).send().await.unwrap();
    let length = page.bytes().await.unwrap().len() as u64;
    for host in ["off.example.com", "none.example.com"] {
        client.get(edge.url(host, "/")).send().await.unwrap().bytes().await.unwrap();
    }
    drop(client);
    let mut counted = std::collections::HashMap::new();
    // A request is counted when it ends, which the client may have seen before.
    for _ in 0..200 {
        for (tenant, counts) in edge.traffic.take() {
            let sum: &mut TenantCounts = counted.entry(tenant).or_default();
            sum.requests += counts.requests;
            sum.received += counts.received;
            sum.sent += counts.sent;
            sum.node_us += counts.node_us;
            for (class, more) in sum.classes.iter_mut().zip(counts.classes) {
                *class += more;
            }
        }
        if counted.values().map(|counts: &TenantCounts| counts.requests).sum::<u64>() == 4 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let own = counted["t_a"];
    assert_eq!((own.requests, own.classes), (3, [0, 3, 0, 0, 0]));
    assert_eq!((own.received, own.sent, own.cached), (10, 10 + length, 0));
    assert!(own.node_us > 0, "the node took some time");
    let suspended = counted["t_b"];
    assert_eq!((suspended.requests, suspended.classes, suspended.node_us), (1, [0, 0, 0, 0, 1], 0));
    assert_eq!(counted.len(), 2, "what is nobody's counts for nobody");
    assert!(edge.traffic.take().is_empty(), "what was taken is not counted again");
}
