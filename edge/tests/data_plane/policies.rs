//! What the policy of a host does with its requests, by both versions of HTTP.

use std::time::Duration;

use bytes::Bytes;
use hosting_edge::Settings;
use hosting_intent::message::{
    Access, Hsts, HttpPolicy, Maintenance, PathRedirect, RateLimit, RatePer, State,
};
use hosting_intent_sync::self_check::SelfCheck as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::header::{CONNECTION, HOST, LOCATION, RETRY_AFTER, STRICT_TRANSPORT_SECURITY};
use reqwest::{Body, Client, Method, Response, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Edge, Node, audience, pool, route, settings, tenant, with_policy};
use crate::http3_client::Browser;
use crate::tenant_certificates::{Authority, key, share};

const HOST_NAME: &str = "www.example.com";

/// An edge whose HTTPS clients reach at port 4433, with a site whose host has this policy.
async fn edge(policy: HttpPolicy) -> (Edge, Node) {
    let node = Node::start("node-1").await;
    let mut edge = Edge::with(Settings { https_port: 4_433, ..settings() }).await;
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            with_policy(route(HOST_NAME, "t_a", "web_a", "s1"), policy),
        ],
        Vec::new(),
    );
    (edge, node)
}

/// A client that goes nowhere by itself.
fn client(edge: &Edge) -> Client {
    edge.client_with(&[HOST_NAME], |builder| builder.redirect(reqwest::redirect::Policy::none()))
}

fn location(answer: &Response) -> &str {
    answer.headers()[LOCATION].to_str().unwrap()
}

fn rulings(edge: &Edge, outcome: &str) -> u64 {
    edge.metric(&format!("hosting_edge_policy_rulings_total{{outcome=\"{outcome}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn http_is_led_to_https_once_there_is_a_certificate() {
    let policy = HttpPolicy { https_redirect: Some(true), ..HttpPolicy::default() };
    let (mut edge, node) = edge(policy).await;
    let client = client(&edge);
    let get = async |edge: &Edge| client.get(edge.url(HOST_NAME, "/a?b=c")).send().await.unwrap();
    assert_eq!(get(&edge).await.status(), 200, "a redirect would lead to a certificate that nobody trusts");
    let certificate = Authority::new().certificate("c1", &[HOST_NAME], (&key(1), &audience()));
    edge.publish(vec![share(&edge, 1), certificate], Vec::new());
    let answer = get(&edge).await;
    assert_eq!(answer.status(), 301);
    assert_eq!(location(&answer), "https://www.example.com:4433/a?b=c");
    assert!(!answer.headers().contains_key(STRICT_TRANSPORT_SECURITY));
    let sent = client.post(edge.url(HOST_NAME, "/form")).body("x").send().await.unwrap();
    assert_eq!((sent.status().as_u16(), location(&sent)), (308, "https://www.example.com:4433/form"));
    assert_eq!(node.requests(), 1);
    assert_eq!(rulings(&edge, "redirected"), 2);
    // The edge knows that it serves the route all the same.
    let policy = HttpPolicy { https_redirect: Some(true), ..HttpPolicy::default() };
    let (item, intent) = with_policy(route(HOST_NAME, "t_a", "web_a", "s1"), policy);
    assert_eq!(edge.check.check(&item.key, Some(&intent)).await, Ok(()));
    let (item, other) = route(HOST_NAME, "t_a", "web_a", "s1");
    assert!(edge.check.check(&item.key, Some(&other)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_of_https_with_every_answer_over_tls() {
    let policy = HttpPolicy {
        hsts: Some(Hsts { max_age_seconds: 600, include_subdomains: true, preload: false }),
        redirects: vec![PathRedirect { from: "/old".into(), to: "/new".into(), code: 302 }],
        max_body_bytes: Some(10),
        ..HttpPolicy::default()
    };
    let (edge, _node) = edge(policy).await;
    let told = |answer: &Response| {
        let values: Vec<_> = answer.headers().get_all(STRICT_TRANSPORT_SECURITY).iter().collect();
        assert!(values.len() < 2);
        values.first().map(|value| value.to_str().unwrap().to_owned())
    };
    let h1 = edge.client_with(&[HOST_NAME], |builder| {
        builder.http1_only().redirect(reqwest::redirect::Policy::none()).resolve(HOST_NAME, edge.https)
    });
    let h2 = edge.client_with(&[HOST_NAME], |builder| {
        builder.redirect(reqwest::redirect::Policy::none()).resolve(HOST_NAME, edge.https)
    });
    for client in [h1, h2] {
        let page = client.post(edge.tls_url(HOST_NAME, "/")).body(vec![0; 11]);
        for (request, code) in [
            (client.get(edge.tls_url(HOST_NAME, "/")), 200),
            (client.get(edge.tls_url(HOST_NAME, "/old")), 302),
            (page, 413),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), code);
            assert_eq!(told(&answer).as_deref(), Some("max-age=600; includeSubDomains"), "{code}");
        }
    }
    let plain = client(&edge).get(edge.url(HOST_NAME, "/")).send().await.unwrap();
    assert_eq!(told(&plain), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_site_leads_elsewhere() {
    let (mut edge, node) = edge(HttpPolicy::default()).await;
    let policy = HttpPolicy { canonical_host: HOST_NAME.into(), ..HttpPolicy::default() };
    edge.publish(vec![with_policy(route("example.com", "t_a", "", ""), policy)], Vec::new());
    let client = client(&edge);
    let ask = async |method: Method, host: &str| {
        let url = format!("http://{}/a", edge.http);
        client.request(method, url).header(HOST, host).send().await.unwrap()
    };
    let answer = ask(Method::GET, "EXAMPLE.com.").await;
    assert_eq!((answer.status().as_u16(), location(&answer)), (301, "http://www.example.com/a"));
    let answer = ask(Method::PUT, "example.com:8080").await;
    assert_eq!((answer.status().as_u16(), location(&answer)), (308, "http://www.example.com:8080/a"));
    assert_eq!(ask(Method::GET, HOST_NAME).await.status(), 200);
    assert_eq!(node.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_writes_does_not_break_out_of_a_redirect() {
    let (edge, _node) = edge(HttpPolicy {
        redirects: vec![PathRedirect { from: "/a/*".into(), to: "/in/*".into(), code: 301 }],
        ..HttpPolicy::default()
    })
    .await;
    for (target, location) in [
        ("/a//evil.example/", "http://www.example.com/in//evil.example/"),
        ("/a/\u{e4}", "http://www.example.com/in/%C3%A4"),
        ("http://www.example.com/a/?q", "http://www.example.com/in/?q"),
        ("/a/%0d%0aset-cookie:a", "http://www.example.com/in/%0d%0aset-cookie:a"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n");
        let answer = edge.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{answer}");
        assert!(answer.contains(&format!("\r\nlocation: {location}\r\n")), "{target}: {answer}");
        assert!(answer.ends_with("content-length: 0\r\nconnection: close\r\n\r\n"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_reaches_nothing() {
    let access = Access { deny: vec!["127.0.0.0/8".into()], ..Access::default() };
    let (mut edge, node) = edge(HttpPolicy { access: Some(access), ..HttpPolicy::default() }).await;
    let answer = client(&edge).get(edge.url(HOST_NAME, "/")).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let over_tls = client(&edge).get(format!("https://{}/", edge.https)).header(HOST, HOST_NAME);
    // The certificate is for no address; what matters is that the request is refused in every way.
    assert!(over_tls.send().await.is_err_and(|error| error.is_connect()));
    let mut v6 = TcpStream::connect(edge.http6).await.unwrap();
    let get = format!("GET / HTTP/1.1\r\nHost: {HOST_NAME}\r\nConnection: close\r\n\r\n");
    v6.write_all(get.as_bytes()).await.unwrap();
    let mut answer = String::new();
    v6.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!((node.requests(), rulings(&edge, "forbidden")), (1, 1));
    let lines = edge.logged(2).await;
    assert_eq!((&lines[0]["reason"], &lines[0]["tenant"]), (&"forbidden".into(), &"t_a".into()));
    assert!(lines[1].get("reason").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_clients_are_told_apart() {
    let node = Node::start("node-1").await;
    let forwarded_from = vec!["127.0.0.0/8".parse().unwrap()];
    let mut edge = Edge::with(Settings { forwarded_from, ..settings() }).await;
    let access = Access { allow: vec!["192.0.2.0/24".into()], ..Access::default() };
    let policy = HttpPolicy { access: Some(access), ..HttpPolicy::default() };
    edge.publish(
        vec![
            pool("s1", &[("n1", node.address, true)]),
            with_policy(route(HOST_NAME, "t_a", "web_a", "s1"), policy),
        ],
        Vec::new(),
    );
    let client = client(&edge);
    let from = async |address: &str| {
        let request = client.get(edge.url(HOST_NAME, "/")).header("x-forwarded-for", address);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(from("192.0.2.9").await, 200);
    assert_eq!(from("198.51.100.9").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_has_its_page_and_those_at_work_pass() {
    let maintenance = |enabled, allow: &[&str]| HttpPolicy {
        maintenance: Some(Maintenance {
            enabled,
            retry_after_seconds: 900,
            allow: allow.iter().map(ToString::to_string).collect(),
        }),
        ..HttpPolicy::default()
    };
    let (mut edge, node) = edge(maintenance(true, &[])).await;
    let client = client(&edge);
    let get = async |edge: &Edge| client.get(edge.url(HOST_NAME, "/")).send().await.unwrap();
    let page = get(&edge).await;
    assert_eq!((page.status().as_u16(), &page.headers()[RETRY_AFTER]), (503, &"900".parse().unwrap()));
    assert_eq!(node.requests(), 0);
    for policy in [maintenance(true, &["127.0.0.1/32"]), maintenance(false, &[])] {
        edge.publish(vec![with_policy(route(HOST_NAME, "t_a", "web_a", "s1"), policy)], Vec::new());
        assert_eq!(get(&edge).await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_limit_holds_over_all_its_names_and_a_change_of_it_at_once() {
    let (mut edge, node) = edge(HttpPolicy::default()).await;
    let limit = |requests| HttpPolicy {
        rate_limits: vec![RateLimit { requests, seconds: 3_600, per: RatePer::Address as i32 }],
        ..HttpPolicy::default()
    };
    edge.publish(
        vec![
            with_policy(tenant("t_a", State::Active), limit(4)),
            route("shop.example.com", "t_a", "web_b", "s1"),
            route("www.other.example", "t_b", "web_c", "s1"),
        ],
        Vec::new(),
    );
    let client = client(&edge);
    let get = async |edge: &Edge, host: &str| {
        client.get(format!("http://{}/", edge.http)).header(HOST, host).send().await.unwrap()
    };
    for _ in 0..2 {
        for host in [HOST_NAME, "shop.example.com"] {
            assert_eq!(get(&edge, host).await.status(), 200);
        }
    }
    let refused = get(&edge, HOST_NAME).await;
    assert_eq!(refused.status(), 429);
    let after: u64 = refused.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((890..=900).contains(&after), "{after}");
    assert_eq!(get(&edge, "www.other.example").await.status(), 200);
    assert_eq!((node.requests(), rulings(&edge, "too_many")), (5, 1));
    edge.publish(vec![tenant("t_a", State::Active)], Vec::new());
    assert_eq!(get(&edge, HOST_NAME).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_ends_where_it_becomes_so() {
    let policy =
        HttpPolicy { max_body_bytes: Some(100_000), max_header_bytes: Some(2_000), ..HttpPolicy::default() };
    let (edge, node) = edge(policy).await;
    let h1 = client(&edge);
    let h2 = edge.client_with(&[HOST_NAME], |builder| builder.resolve(HOST_NAME, edge.https));
    for (client, url) in [(&h1, edge.url(HOST_NAME, "/echo")), (&h2, edge.tls_url(HOST_NAME, "/echo"))] {
        let post = |body: Body| client.post(&url).body(body).send();
        let fits = post(vec![7; 100_000].into()).await.unwrap();
        assert_eq!(fits.bytes().await.unwrap().len(), 100_000);
        let before = node.requests();
        // Said in advance: no byte of it is passed on.
        assert_eq!(post(vec![7; 100_001].into()).await.unwrap().status(), 413);
        assert_eq!(node.requests(), before);
        // Not said: the client is cut off, or told.
        let piece = || Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![7; 8_192])));
        let pieces = futures::stream::iter((0..64).map(move |_| piece()));
        match post(Body::wrap(StreamBody::new(pieces))).await {
            Ok(answer) => {
                assert_eq!(answer.status(), 413);
                // Nobody knows how much is still to come: the client must not send its next request behind it.
                assert!(answer.version() == Version::HTTP_2 || answer.headers()[CONNECTION] == "close");
            }
            Err(error) => assert!(error.is_request(), "{error}"),
        }
        let long = client.get(&url).header("x-long", "a".repeat(2_000)).send().await.unwrap();
        assert_eq!(long.status(), 431);
    }
    // A client that asks first is spared the upload.
    let mut tcp = TcpStream::connect(edge.http).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n";
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    tokio::time::timeout(Duration::from_secs(2), tcp.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_holds_over_http3_too() {
    let policy = HttpPolicy {
        https_redirect: Some(true),
        hsts: Some(Hsts { max_age_seconds: 600, ..Hsts::default() }),
        redirects: vec![PathRedirect { from: "/old/*".into(), to: "/new/*".into(), code: 308 }],
        max_body_bytes: Some(10),
        rate_limits: vec![RateLimit { requests: 3, seconds: 3_600, per: RatePer::Address as i32 }],
        ..HttpPolicy::default()
    };
    let (edge, node) = edge(policy).await;
    let mut browser = Browser::connect(&edge, HOST_NAME).await;
    let ask = |method: &str, path: &str, length: usize| {
        let uri = format!("https://{HOST_NAME}{path}");
        http::Request::builder().method(method).uri(uri).header("content-length", length).body(()).unwrap()
    };
    let mut seen = Vec::new();
    for (method, path, body) in
        [("GET", "/", ""), ("GET", "/old/a?b", ""), ("POST", "/", "eleven byte"), ("GET", "/", "")]
    {
        let answer = browser.ask(ask(method, path, body.len()), body.as_bytes()).await;
        assert_eq!(answer.head.headers()[STRICT_TRANSPORT_SECURITY], "max-age=600");
        seen.push((answer.head.status().as_u16(), answer.head.headers().get(LOCATION).cloned()));
    }
    let location = format!("https://{HOST_NAME}/new/a?b").parse().unwrap();
    assert_eq!(seen, [(200, None), (308, Some(location)), (413, None), (429, None)]);
    assert_eq!(node.requests(), 1);
}
