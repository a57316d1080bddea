//! Hosts that lead nowhere.

use hosting_intent::message::State;
use reqwest::header::ACCEPT;

use crate::harness::{Edge, Node, ask, gone, one_site, pool, route, tenant};

const HOSTS: &[&str] =
    &["www.example.com", "bad.example.com", "parked.example.com", "down.example.com", "no.example.com"];

async fn edge() -> (Edge, Node) {
    let (mut edge, node) = one_site().await;
    edge.publish(
        vec![
            tenant("t_b", State::Suspended),
            pool("s2", &[("n1", node.address, false)]),
            route("bad.example.com", "t_b", "web_b", "s1"),
            route("parked.example.com", "t_a", "", ""),
            route("down.example.com", "t_a", "web_d", "s2"),
        ],
        Vec::new(),
    );
    (edge, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_has_its_page_for_people_and_for_programs() {
    let (edge, node) = edge().await;
    let client = edge.client(HOSTS);
    for (host, code, word, retry) in [
        ("no.example.com", 404, "unknown_host", None),
        ("parked.example.com", 404, "no_site", None),
        ("bad.example.com", 503, "suspended", Some("3600")),
        ("down.example.com", 503, "unavailable", Some("10")),
    ] {
        for url in [edge.url(host, "/some/path"), edge.tls_url(host, "/some/path")] {
            if host == "no.example.com" && url.starts_with("https") {
                continue;
            }
            let page = client.get(&url).send().await.unwrap();
            assert_eq!(page.status(), code, "{url}");
            assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
            assert_eq!(page.headers()["cache-control"], "no-store");
            assert_eq!(page.headers().get("retry-after").map(|v| v.to_str().unwrap()), retry, "{url}");
            assert!(!page.headers().contains_key("x-shard"));
            let length: usize = page.headers()["content-length"].to_str().unwrap().parse().unwrap();
            let text = page.text().await.unwrap();
            assert_eq!(text.len(), length);
            for leak in ["t_b", "web_", "unpaid", "127.0.0.1", "s1", "example.com", "ingora"] {
                assert!(!text.contains(leak), "{leak} in {text}");
            }
            let json = client.get(&url).header(ACCEPT, "application/json").send().await.unwrap();
            let json: serde_json::Value = json.json().await.unwrap();
            assert_eq!((&json["error"], &json["status"]), (&word.into(), &code.into()));
            let head = client.head(&url).send().await.unwrap();
            assert_eq!(
                (head.status().as_u16(), &head.headers()["content-length"]),
                (code, &length.to_string()[..].parse().unwrap())
            );
            assert_eq!(head.bytes().await.unwrap().len(), 0);
        }
    }
    assert_eq!(node.requests(), 0);
    assert!(edge.metric("hosting_edge_requests_total{code=\"5xx\"}") >= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_takes_effect_when_publish_returns() {
    let (mut edge, node) = edge().await;
    let client = edge.client(HOSTS);
    let code = async |edge: &Edge, host: &str| {
        client.get(edge.url(host, "/")).send().await.unwrap().status().as_u16()
    };
    assert_eq!(code(&edge, "bad.example.com").await, 503);
    edge.publish(vec![tenant("t_b", State::Active)], Vec::new());
    assert_eq!(code(&edge, "bad.example.com").await, 200);
    edge.publish(vec![pool("s2", &[("n1", node.address, true)])], Vec::new());
    assert_eq!(code(&edge, "down.example.com").await, 200);
    edge.publish(Vec::new(), vec![gone("www.example.com")]);
    assert_eq!(code(&edge, "www.example.com").await, 404);
    assert_eq!(edge.metric("hosting_edge_routes"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_requests_get_a_clean_answer_and_harm_nobody() {
    let (edge, node) = edge().await;
    let long = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(300));
    let huge = format!("GET / HTTP/1.1\r\nHost: a.example\r\nx: {}\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a.example\r\n{}\r\n", "x: y\r\n".repeat(5_000));
    for (request, code) in [
        ("GET / HTTP/1.1\r\nHost: a..b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: ../../etc/passwd\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: www.example.com:99999\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: user@www.example.com\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: www.example.com\r\nHost: bad.example.com\r\n\r\n", "400"),
        ("GET http://bad.example.com/ HTTP/1.1\r\nHost: www.example.com\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "400"),
        (
            "GET / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "400",
        ),
        (
            "GET / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
            "400",
        ),
        ("GET / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 2, 2\r\n\r\nab", "400"),
        ("GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: x-hosting-host, host\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01", "400"),
        ("CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", "404"),
        ("GET / HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\n\r\n", "404"),
        (long.as_str(), "400"),
        (huge.as_str(), "431"),
        (many.as_str(), "4"),
    ] {
        let answer = ask(edge.http, request.as_bytes()).await;
        let start = &request[..request.len().min(80)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{start:?} got {answer:?}");
    }
    assert_eq!(node.requests(), 0);
    let answer = edge.raw(b"GET / HTTP/1.1\r\nHost: WWW.example.COM.:80\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("x-hosting-host: www.example.com:80\n"), "{answer}");
}
