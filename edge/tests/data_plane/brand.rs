//! What a brand says for all its tenants: pages, policies, what the log has of addresses.

use hosting_intent::message::{Brand, HttpPolicy, LogAddresses, State};
use reqwest::header::{ACCEPT, HOST};
use serde_json::Value;

use crate::harness::{Edge, Node, acme, of_acme, pool, route, tenant};
use crate::http3_client::Browser;

const HOSTS: &[&str] = &["www.example.com", "off.example.com", "other.example.com", "none.example.com"];

/// Two tenants of a brand, one of them suspended, and one of nobody.
async fn edge() -> (Edge, Node) {
    let node = Node::start("node-1").await;
    let mut edge = Edge::start().await;
    edge.publish(
        vec![
            of_acme(tenant("t_a", State::Active)),
            of_acme(tenant("t_b", State::Suspended)),
            tenant("t_c", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            route("www.example.com", "t_a", "web_a", "s1"),
            route("off.example.com", "t_b", "web_b", "s1"),
            route("other.example.com", "t_c", "", ""),
        ],
        Vec::new(),
    );
    (edge, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn its_page_stands_where_a_site_cannot_answer_with_the_number_that_the_log_has() {
    let (mut edge, _node) = edge().await;
    let pages =
        [("default", "{{status}} {{host}} {{request_id}}"), ("suspended", "<p>Acme: {{message}}</p>")];
    edge.publish(vec![acme(&pages, Brand::default())], Vec::new());
    let client = edge.client(HOSTS);
    let page = async |url: String| client.get(url).send().await.unwrap().text().await.unwrap();
    let suspended = "<p>Acme: This site is not available at the moment.</p>";
    for url in [edge.url("off.example.com", "/"), edge.tls_url("off.example.com", "/")] {
        let answer = client.get(&url).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (503, &"3600".parse().unwrap())
        );
        assert_eq!(answer.text().await.unwrap(), suspended);
        let json = client.get(&url).header(ACCEPT, "application/json").send().await.unwrap();
        assert_eq!(json.headers()["content-type"], "application/json");
        assert_eq!(json.json::<Value>().await.unwrap()["error"], "suspended");
    }
    let mut browser = Browser::connect(&edge, "off.example.com").await;
    let answer = browser.get("https://off.example.com/").await;
    assert_eq!(String::from_utf8(answer.body).unwrap(), suspended);
    // One that is of nobody, or of no tenant at all, has the page that all have.
    for host in ["other.example.com", "none.example.com"] {
        assert!(page(edge.url(host, "/")).await.contains("<small>Request "), "{host}");
    }
    // The next change takes effect like any other: here the policy of all its tenants.
    let limits = HttpPolicy { max_body_bytes: Some(3), ..HttpPolicy::default() };
    let brand = Brand {
        http: Some(Box::new(limits)),
        log_addresses: LogAddresses::Network as i32,
        ..Brand::default()
    };
    edge.publish(vec![acme(&pages, brand)], Vec::new());
    let post = async |body: &'static str| {
        client.post(edge.url("www.example.com", "/echo")).body(body).send().await.unwrap()
    };
    assert_eq!(post("abc").await.status(), 200);
    let refused = post("abcd").await;
    let id = refused.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(refused.status(), 413);
    let told = refused.text().await.unwrap();
    assert_eq!(told, format!("413 www.example.com:{} {id}", edge.http.port()));
    // On the same connection a request comes after the line of the one before.
    assert_eq!(post("abc").await.status(), 200);
    let lines = edge.logged(10).await;
    let line = lines.iter().find(|line| line["request"] == *id).unwrap();
    assert_eq!((&line["status"], &line["client"]), (&413.into(), &"127.0.0.0".into()));
    let of = |host: &str| lines.iter().find(|line| line["host"].as_str().unwrap().starts_with(host)).unwrap();
    assert_eq!(of("off.example.com")["client"], "127.0.0.1", "written before the brand said so");
    let passed = lines.iter().find(|line| line["webroot"] == "web_a").unwrap();
    assert!(passed["request"].as_str().is_some_and(|mark| mark.len() == 16), "{passed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brand_can_have_no_addresses_written() {
    let (mut edge, _node) = edge().await;
    let silent = Brand { log_addresses: LogAddresses::None as i32, ..Brand::default() };
    edge.publish(vec![acme(&[], silent)], Vec::new());
    let client = edge.client(HOSTS);
    // Over one connection, so that the lines come in their order.
    for host in ["www.example.com", "other.example.com", "none.example.com"] {
        let url = format!("http://{}/", edge.http);
        client.get(url).header(HOST, host).send().await.unwrap().bytes().await.unwrap();
    }
    let lines = edge.logged(3).await;
    let client_at = |at: usize| lines[at].get("client").cloned();
    assert_eq!((client_at(0), client_at(1)), (None, Some("127.0.0.1".into())));
}
