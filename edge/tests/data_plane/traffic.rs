//! What is counted of tenants' requests.

use std::collections::HashMap;
use std::time::Duration;

use hosting_intent::message::State;
use hosting_proto::feed::TenantTraffic;

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
    // A request is counted when it ends, which the client may have seen before.
    let mut counted: HashMap<String, TenantTraffic> = HashMap::new();
    for _ in 0..200 {
        for more in edge.traffic.take() {
            let sum = counted.entry(more.tenant_id).or_default();
            sum.requests += more.requests;
            sum.successful += more.successful;
            sum.server_errors += more.server_errors;
            sum.received += more.received;
            sum.sent += more.sent;
            sum.cached += more.cached;
            sum.node_us += more.node_us;
        }
        if counted.values().map(|counted| counted.requests).sum::<u64>() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let own = &counted["t_a"];
    assert_eq!((own.requests, own.successful), (3, 3));
    assert_eq!((own.received, own.sent, own.cached), (10, 10 + length, 0));
    assert!(own.node_us > 0, "the node took some time");
    let suspended = &counted["t_b"];
    assert_eq!((suspended.requests, suspended.server_errors, suspended.node_us), (1, 1, 0));
    assert_eq!(counted.len(), 2, "what is nobody's counts for nobody");
    assert!(edge.traffic.take().is_empty(), "what was taken is not counted again");
}
