//! Who is let in by country, and the file that says who is where.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hosting_edge::Settings;
use hosting_intent::message::{Access, HttpPolicy, State};
use tempfile::TempDir;

use crate::cache_site::{HOST, ask};
use crate::harness::{Edge, Node, pool, route, settings, tenant, with_policy};
use crate::http3_client::Browser;
use crate::mmdb;

const BUILT: u64 = 1_700_000_000;

/// Clients of tests are at home in Luxembourg.
const NETWORKS: [(&str, &str); 6] = [
    ("127.0.0.0/8", "LU"),
    ("192.0.2.0/24", "FR"),
    ("198.51.100.0/24", "DE"),
    ("203.0.113.0/24", ""),
    ("2001:db8::/33", "AT"),
    ("2001:db8:8000::/33", "q7"),
];

fn list(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn countries(allow: &[&str], deny: &[&str]) -> Access {
    Access { allow_countries: list(allow), deny_countries: list(deny), ..Access::default() }
}

/// An edge that believes what a request says of its client, with a file of countries.
async fn edge(file: PathBuf, access: Access) -> (Edge, Node) {
    let node = Node::start("node-1").await;
    let settings =
        Settings { countries_file: file, forwarded_from: vec!["127.0.0.0/8".parse().unwrap()], ..settings() };
    let mut edge = Edge::with(settings).await;
    publish(&mut edge, &node, access);
    (edge, node)
}

fn publish(edge: &mut Edge, node: &Node, access: Access) {
    let policy = HttpPolicy { access: Some(access), ..HttpPolicy::default() };
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            with_policy(route(HOST, "t_a", "web_a", "s1"), policy),
        ],
        Vec::new(),
    );
}

async fn from(edge: &Edge, address: &str) -> u16 {
    ask(edge, "GET", "/", &format!("x-forwarded-for: {address}")).await.status
}

fn written(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("countries.mmdb");
    std::fs::write(&file, bytes).unwrap();
    (folder, file)
}

fn built(edge: &Edge) -> u64 {
    edge.metric("hosting_edge_countries_file_built_timestamp_seconds")
}

fn refused(edge: &Edge) -> u64 {
    edge.metric("hosting_edge_countries_files_refused_total")
}

fn said(edge: &Edge) -> String {
    (edge.look)(HOST).unwrap()["countries"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_country_decides_where_no_network_does_over_every_version() {
    let (_folder, file) = written(&mmdb::file(&NETWORKS, BUILT));
    let (mut edge, node) = edge(file, countries(&[], &["FR", "LU"])).await;
    let all = [
        ("127.0.0.1", 403),
        ("192.0.2.1", 403),
        ("::ffff:192.0.2.1", 403),
        ("198.51.100.7", 200),
        ("203.0.113.1", 200),
        ("2001:db8::1", 200),
        ("2001:db8:8000::1", 200),
        ("2001:db9::1", 200),
    ];
    for (address, status) in all {
        assert_eq!(from(&edge, address).await, status, "{address}");
    }
    let secure = edge.client_with(&[HOST], |builder| builder.resolve(HOST, edge.https));
    let h2 = secure.get(edge.tls_url(HOST, "/")).send().await.unwrap();
    assert_eq!((h2.status().as_u16(), h2.version()), (403, reqwest::Version::HTTP_2));
    let mut h3 = Browser::connect(&edge, HOST).await;
    let url = format!("https://{HOST}/");
    assert_eq!(h3.get(&url).await.head.status(), 403);
    assert_eq!((&*said(&edge), built(&edge)), ("Test-Country of 2023-11-14T22:13:20Z", BUILT));

    let access = Access {
        allow: list(&["2001:db8::/48"]),
        deny: list(&["198.51.100.7/32"]),
        ..countries(&["DE", "LU"], &[])
    };
    publish(&mut edge, &node, access);
    for (address, status) in [
        ("127.0.0.1", 200),
        ("192.0.2.1", 403),
        ("198.51.100.7", 403),
        ("198.51.100.8", 200),
        ("203.0.113.1", 403),
        ("2001:db8::1", 200),
        ("2001:db8:1::1", 403),
        ("2001:db8:8000::1", 403),
    ] {
        assert_eq!(from(&edge, address).await, status, "{address}");
    }
    assert_eq!(secure.get(edge.tls_url(HOST, "/")).send().await.unwrap().status(), 200);
    assert_eq!(h3.get(&url).await.head.status(), 200);

    publish(&mut edge, &node, countries(&[], &["XX"]));
    for (address, status) in
        [("192.0.2.1", 200), ("203.0.113.1", 403), ("2001:db8:8000::1", 403), ("2001:db9::1", 403)]
    {
        assert_eq!(from(&edge, address).await, status, "{address}");
    }
    publish(&mut edge, &node, Access { deny: list(&["192.0.2.1/32"]), ..Access::default() });
    assert!((edge.look)(HOST).unwrap().get("countries").is_none(), "nobody asks");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_no_country_is_known() {
    for file in ["", "missing.mmdb"] {
        let (mut edge, node) = edge(file.into(), countries(&[], &["FR"])).await;
        assert_eq!(from(&edge, "192.0.2.1").await, 200, "those who are shut out cannot be told");
        assert_eq!((built(&edge), refused(&edge)), (0, u64::from(!file.is_empty())));
        let told = if file.is_empty() { "no countries_file is set" } else { "countries_file cannot be used" };
        assert!(said(&edge).starts_with(told), "{}", said(&edge));
        publish(&mut edge, &node, countries(&["FR"], &[]));
        assert_eq!(from(&edge, "192.0.2.1").await, 403, "nor can those who are let in");
        publish(&mut edge, &node, countries(&["FR", "XX"], &[]));
        assert_eq!(from(&edge, "192.0.2.1").await, 200);
    }
}

async fn replace(file: &Path, bytes: &[u8]) {
    let new = file.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_is_taken_and_a_broken_one_is_not() {
    let sound = mmdb::file(&NETWORKS, BUILT);
    let (_folder, file) = written(&sound);
    let (edge, _node) = edge(file.clone(), countries(&[], &["FR"])).await;
    assert_eq!((from(&edge, "192.0.2.1").await, from(&edge, "198.51.100.1").await), (403, 200));
    replace(&file, &mmdb::file(&[("192.0.2.0/24", "DE"), ("198.51.100.0/24", "FR")], BUILT + 1)).await;
    until("the new one is in use", || built(&edge) == BUILT + 1).await;
    assert_eq!((from(&edge, "192.0.2.1").await, from(&edge, "198.51.100.1").await), (200, 403));
    // Not one of these: something else, a file that is cut short, one whose tree leads nowhere, one with a record that is damaged, which is
    // not among the first, and one without countries.
    let mut lost = sound.clone();
    lost[..6].fill(0xff);
    let mut damaged = sound.clone();
    let last = damaged.windows(2).position(|text| text == b"q7").unwrap();
    damaged[last] = 0xff;
    let without = mmdb::file(&[("192.0.2.0/24", "")], BUILT);
    let all = [&b"nonsense"[..], &sound[..sound.len() / 2], &lost, &damaged, &without];
    for (n, broken) in all.into_iter().enumerate() {
        replace(&file, broken).await;
        until("it is refused", || refused(&edge) == n as u64 + 1).await;
        assert_eq!(
            (built(&edge), from(&edge, "198.51.100.1").await),
            (BUILT + 1, 403),
            "{n}: the one before stays"
        );
    }
    std::fs::remove_file(&file).unwrap();
    until("it is missed", || refused(&edge) == 6).await;
    assert_eq!(from(&edge, "198.51.100.1").await, 403);
    // Written in place, as `cp` does.
    std::fs::write(&file, &sound).unwrap();
    until("a sound one is in use", || built(&edge) == BUILT).await;
    assert_eq!((from(&edge, "192.0.2.1").await, refused(&edge)), (403, 6));
}
