//! Whose request it is, with balancers and proxies in front of the edge.

use hosting_edge::Settings;
use hosting_intent_sync::self_check::SelfCheck as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Edge, Node, pool, read_all, route, settings};

const GET: &str = "GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n";

async fn edge(settings: Settings) -> (Edge, Node) {
    let node = Node::start("node-1").await;
    let mut edge = Edge::with(settings).await;
    edge.publish(
        vec![pool("s1", &[("n1", node.address, true)]), route("www.example.com", "t_a", "web_a", "s1")],
        Vec::new(),
    );
    (edge, node)
}

fn loopback() -> Vec<ipnet::IpNet> {
    vec!["127.0.0.0/8".parse().unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_says_whose_connection_it_is_and_nobody_else_does() {
    let (mut edge, _node) = edge(Settings { proxy_protocol_from: loopback(), ..settings() }).await;
    let answer = edge.raw(format!("PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n{GET}\r\n").as_bytes()).await;
    for line in ["x-forwarded-for: 192.0.2.7\n", "x-real-ip: 192.0.2.7\n", "forwarded: for=192.0.2.7;host="] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    // Its connections without a header are nobody's, and get nothing.
    let before = edge.metric("hosting_edge_proxy_headers_refused_total");
    assert_eq!(edge.raw(format!("{GET}\r\n").as_bytes()).await, "");
    assert_eq!(edge.metric("hosting_edge_proxy_headers_refused_total"), before + 1);
    // From elsewhere it is no HTTP.
    let mut stream = TcpStream::connect(edge.http6).await.unwrap();
    stream.write_all(format!("PROXY TCP6 2001:db8::5 ::1 1 80\r\n{GET}\r\n").as_bytes()).await.unwrap();
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 400 "));
    // The edge asks its own listeners all the same.
    let (item, intent) = route("www.example.com", "t_a", "web_a", "s1");
    assert_eq!(edge.check.check(&item.key, Some(&intent)).await, Ok(()));
    let clients: Vec<_> = edge.logged(2).await.iter().map(|line| line["client"].clone()).collect();
    assert_eq!(clients, ["192.0.2.7", "::1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_s_word_on_its_clients_counts_and_a_stranger_s_does_not() {
    let (edge, _node) = edge(Settings { forwarded_from: loopback(), ..settings() }).await;
    let asks = async |fields: &str| edge.raw(format!("{GET}{fields}\r\n").as_bytes()).await;
    let cases = [
        ("X-Forwarded-For: 203.0.113.9, 192.0.2.7\r\n", "x-forwarded-for: 192.0.2.7\n", "proto: http\n"),
        (
            "X-Forwarded-For: 192.0.2.7, 127.0.0.9\r\nX-Forwarded-Proto: https\r\n",
            "x-forwarded-for: 192.0.2.7\n",
            "proto: https\n",
        ),
        (
            "Forwarded: for=\"[2001:db8::5]:80\"\r\n",
            "forwarded: for=\"[2001:db8::5]\";host=",
            "x-real-ip: 2001:db8::5\n",
        ),
        (
            "Forwarded: for=192.0.2.7\r\nX-Forwarded-For: 203.0.113.9\r\n",
            "x-forwarded-for: 127.0.0.1\n",
            "proto: http\n",
        ),
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n",
            "x-forwarded-for: 127.0.0.1\n",
            "proto: http\n",
        ),
    ];
    for (fields, one, other) in cases {
        let answer = asks(fields).await;
        assert!(answer.contains(one) && answer.contains(other), "{fields}: {answer}");
    }
    let mut stranger = TcpStream::connect(edge.http6).await.unwrap();
    stranger.write_all(format!("{GET}X-Forwarded-For: 192.0.2.7\r\n\r\n").as_bytes()).await.unwrap();
    let answer = read_all(&mut stranger).await;
    assert!(answer.contains("x-forwarded-for: ::1\n") && !answer.contains("192.0.2.7"), "{answer}");
}
