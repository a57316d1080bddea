//! Why a host goes where it goes, for those who may know.

use hosting_edge::Settings;
use hosting_intent::message::{Access, Brand, HttpPolicy, State};
use serde_json::json;

use crate::harness::{Edge, Node, acme, of_acme, pool, route, settings, tenant, with_policy};

async fn edge(settings: Settings) -> (Edge, Node) {
    let node = Node::start("node-1").await;
    let mut edge = Edge::with(settings).await;
    let policy = HttpPolicy {
        access: Some(Access { deny: vec!["127.0.0.0/8".into()], ..Access::default() }),
        ..HttpPolicy::default()
    };
    let http = HttpPolicy { https_redirect: Some(false), ..HttpPolicy::default() };
    let brand = Brand { http: Some(Box::new(http)), ..Brand::default() };
    edge.publish(
        vec![
            of_acme(with_policy(
                tenant("t_a", State::Active),
                HttpPolicy { max_body_bytes: Some(7), ..HttpPolicy::default() },
            )),
            acme(&[("default", "<p>")], brand),
            tenant("t_b", State::Suspended),
            pool("s1", &[("n1", node.address, true), ("n2", node.address, false)]),
            pool("s2", &[("n1", node.address, false)]),
            route("*.example.com", "t_a", "web_a", "s1"),
            with_policy(route("shut.example.com", "t_a", "", ""), policy),
            route("bad.example.com", "t_b", "web_b", "s1"),
            route("down.example.com", "t_a", "web_d", "s2"),
        ],
        Vec::new(),
    );
    (edge, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_tells_of_a_host() {
    let (edge, node) = edge(settings()).await;
    let node = node.address.to_string();
    assert_eq!(
        (edge.look)("WWW.example.com.").unwrap(),
        json!({
            "host": "www.example.com", "route": "*.example.com", "tenant": "t_a",
            "policy": {}, "tenant_policy": {"max_body_bytes": "7"}, "has_certificate": false,
            "brand_policy": {"https_redirect": "false"}, "brand_pages": ["default"],
            "to": "site", "webroot": "web_a", "shard": "s1-name",
            "nodes": [{"id": "n1", "addresses": [node], "answers": true, "in_rotation": true, "requests": 0}],
        })
    );
    let shut = (edge.look)("shut.example.com").unwrap();
    assert_eq!((&shut["to"], &shut["policy"]), (&json!("unbound"), &json!({"access_networks": "1"})));
    assert_eq!((edge.look)("bad.example.com").unwrap()["to"], "suspended");
    assert_eq!((edge.look)("down.example.com").unwrap()["to"], "no node");
    for none in ["example.com", "127.0.0.1", "a..b", ""] {
        assert_eq!((edge.look)(none), None, "{none}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_client_that_asks_is_told_where_its_request_went() {
    let shown = |edge: &Edge, host: &'static str, asks: bool| {
        let request = edge.client(&[]).get(format!("http://{}/", edge.http)).header("host", host);
        let request = if asks { request.header("x-edge-map", "?") } else { request };
        async move {
            let answer = request.send().await.unwrap();
            answer.headers().get("x-edge-map").map(|map| map.to_str().unwrap().to_owned())
        }
    };
    let (trusting, _node) =
        edge(Settings { map_shown_to: vec!["127.0.0.1/32".parse().unwrap()], ..settings() }).await;
    for (host, map) in [
        ("www.example.com", "tenant=t_a webroot=web_a shard=s1-name node=n1"),
        ("shut.example.com", "tenant=t_a reason=forbidden"),
        ("bad.example.com", "tenant=t_b reason=suspended"),
        ("no.example", "reason=unknown_host"),
    ] {
        assert_eq!(shown(&trusting, host, true).await.as_deref(), Some(map));
        assert_eq!(shown(&trusting, host, false).await, None);
    }
    let (edge, _node) = edge(settings()).await;
    assert_eq!(shown(&edge, "www.example.com", true).await, None, "a stranger");
}
