//! What is written of requests.

use hosting_edge::{Addresses, Settings};
use hosting_intent::message::State;

use crate::harness::{Edge, Node, pool, route, settings, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn every_request_leaves_a_line_over_every_protocol() {
    let node = Node::start("node-1").await;
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            pool("s1", &[("n1", node.address, true)]),
            route("www.example.com", "t_a", "web_a", "s1"),
            route("off.example.com", "t_b", "web_b", "s1"),
            tenant("t_b", State::Suspended),
        ],
        Vec::new(),
    );
    let client = edge.client(&["www.example.com", "off.example.com", "none.example.com"]);
    let echoed = client
        .post(edge.url("www.example.com", "/echo?a=b"))
        .header("user-agent", "agent \"1\"")
        .header("referer", "https://elsewhere.example/")
        .body("12345")
        .send()
        .await
        .unwrap();
    assert_eq!(echoed.text().await.unwrap(), "12345");
    let over_tls = client.get(edge.tls_url("www.example.com", "/x")).send().await.unwrap();
    let length = over_tls.bytes().await.unwrap().len();
    for host in ["off.example.com", "none.example.com"] {
        client.get(edge.url(host, "/")).send().await.unwrap();
    }
    edge.raw(b"GET / HTTP/1.1\r\nHost: www.example.com\r\nbad field: x\r\n\r\n").await;
    drop(client);

    let mut lines = edge.logged(5).await;
    // Threads write for themselves, so lines of the same moment stand in any order.
    lines.sort_by_key(|line| (line["status"].as_u64(), line["tls"].as_bool()));
    let field = |line: usize, name: &str| lines[line][name].clone();
    for (name, value) in [
        ("method", "POST"),
        ("target", "/echo?a=b"),
        ("client", "127.0.0.1"),
        ("tenant", "t_a"),
        ("webroot", "web_a"),
        ("shard", "s1-name"),
        ("node", "n1"),
        ("user_agent", "agent \"1\""),
        ("referer", "https://elsewhere.example/"),
    ] {
        assert_eq!(field(0, name), value, "{}", lines[0]);
    }
    assert_eq!(field(0, "host"), format!("www.example.com:{}", edge.http.port()));
    assert_eq!((field(0, "received"), field(0, "sent"), field(0, "tls")), (5.into(), 5.into(), false.into()));
    let took = |name: &str| lines[0][name].as_f64().unwrap();
    assert!(took("upstream_seconds") > 0.0 && took("upstream_seconds") <= took("seconds"), "{}", lines[0]);
    assert_eq!((field(1, "tls"), field(1, "sent")), (true.into(), length.into()));
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 400, 404, 503]);
    assert!(lines[3].get("tenant").is_none() && lines[3].get("node").is_none(), "{}", lines[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_can_be_left_out_down_to_the_network() {
    let mut edge = Edge::with(Settings { access_log_addresses: Addresses::Network, ..settings() }).await;
    edge.raw(b"GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n").await;
    let lines = edge.logged(1).await;
    assert_eq!((lines.len(), &lines[0]["client"]), (1, &"127.0.0.0".into()));
}
