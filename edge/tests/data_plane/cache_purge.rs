//! What takes effect at once whatever is stored: purges, and what keeps requests from a site.

use std::time::Duration;

use hosting_intent::EdgeIntent;
use hosting_intent::message::cache_purge::What;
use hosting_intent::message::{
    Access, CachePurge, CachePurges, HttpPolicy, RateLimit, RatePer, State, TenantState,
};
use hosting_intent_sync::self_check::SelfCheck as _;

use crate::cache_site::{HOST, Site, ask_at, cache, edge_of, get, says};
use crate::harness::{route, settings, tenant, with_policy};

/// A tenant with these purges.
fn purged(generation: u64, all: u64, recent: &[(u64, What)]) -> (hosting_intent::Item, EdgeIntent) {
    let recent = recent
        .iter()
        .map(|(generation, what)| CachePurge { generation: *generation, what: Some(what.clone()) });
    let purges = CachePurges { generation, all, recent: recent.collect() };
    let (item, intent) = tenant("t_a", State::Active);
    let EdgeIntent::TenantState(state) = intent else { panic!("it is a tenant") };
    (item, EdgeIntent::TenantState(TenantState { purges: Some(purges), ..state }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_is_in_effect_when_it_is_applied() {
    let site = Site::start(|head| {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let after = if path == "/slow" { 400 } else { 0 };
        says(
            200,
            &format!("cache-control: max-age=60|cache-tag: site, page{path}|surrogate-key: s{path} all"),
            "x",
        )
        .after(after)
    })
    .await;
    let mut edge = edge_of(&site, cache(), settings()).await;
    let paths = ["/1", "/2", "/blog/1", "/blog/2"];
    for path in paths {
        let got = get(&edge, path).await;
        assert_eq!(
            (got.field("cache-tag"), got.field("surrogate-key")),
            ("", ""),
            "tags are nobody's business"
        );
    }
    let steps: Vec<(What, &[&str])> = vec![
        (What::Tag("page/1".into()), &["/1"]),
        (What::Tag("s/2".into()), &["/2"]),
        (What::Tag("nothing".into()), &[]),
        (What::Url(format!("{HOST}/1")), &["/1"]),
        (What::Url(format!("{HOST}/blog/*")), &["/blog/1", "/blog/2"]),
        (What::Host("other.example.com".into()), &[]),
        (What::Host(HOST.into()), &paths),
    ];
    let mut recent = Vec::new();
    for (what, dead) in steps {
        let generation = recent.len() as u64 + 1;
        recent.push((generation, what.clone()));
        // What an edge says of itself is the receipt that a purge is waited for with.
        let (item, intent) = purged(generation, 0, &recent);
        let before = edge.check.check(&item.key, Some(&intent)).await.unwrap_err();
        assert!(before.contains("has another `purged "), "{before}");
        edge.publish(vec![(item.clone(), intent.clone())], Vec::new());
        assert_eq!(edge.check.check(&item.key, Some(&intent)).await, Ok(()));
        for path in paths {
            let got = get(&edge, path).await;
            assert_eq!(got.is_hit(), !dead.contains(&path), "{what:?} {path}: {got:?}");
            assert!(!got.is_hit() || got.field("cache-tag").is_empty());
        }
    }
    edge.publish(vec![purged(20, 20, &[])], Vec::new());
    for path in ["/1", "/2"] {
        assert!(!get(&edge, path).await.is_hit() && get(&edge, path).await.is_hit());
    }
    edge.publish(vec![purged(19, 0, &[])], Vec::new());
    assert!(!get(&edge, "/1").await.is_hit(), "generations that go back kill all");
    edge.publish(vec![purged(21, 0, &[])], Vec::new());
    assert!(!get(&edge, "/2").await.is_hit(), "also once they are again where they were");
    // What was under way is dead, for its own client's next request and for who waited for it.
    let http = edge.http;
    let slow = [(); 2].map(|()| tokio::spawn(async move { ask_at(http, "GET", "/slow", "").await }));
    tokio::time::sleep(Duration::from_millis(150)).await;
    edge.publish(vec![purged(22, 22, &[])], Vec::new());
    for slow in slow {
        assert!(!slow.await.unwrap().is_hit());
    }
    assert_eq!(site.asked().iter().filter(|head| head.starts_with("GET /slow ")).count(), 2);
    assert!(get(&edge, "/slow").await.is_hit(), "what was asked for after it is stored");
    edge.publish(vec![purged(23, 23, &[])], Vec::new());
    let slow = tokio::spawn(async move { ask_at(http, "GET", "/slow", "").await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    edge.publish(vec![purged(24, 24, &[])], Vec::new());
    assert!(!slow.await.unwrap().is_hit());
    assert!(!get(&edge, "/slow").await.is_hit());
    assert!((edge.look)(HOST).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_behind_everything_that_keeps_requests_from_a_site() {
    let site = Site::start(|_| says(200, "cache-control: max-age=60", "x")).await;
    let mut edge = edge_of(&site, cache(), settings()).await;
    get(&edge, "/").await;
    assert!(get(&edge, "/").await.is_hit());
    let with = |policy: HttpPolicy| {
        with_policy(route(HOST, "t_a", "web_a", "s1"), HttpPolicy { cache: Some(cache()), ..policy })
    };
    edge.publish(vec![tenant("t_a", State::Suspended)], Vec::new());
    assert_eq!(get(&edge, "/").await.status, 503);
    edge.publish(vec![tenant("t_a", State::Active)], Vec::new());
    let closed = Access { allow: vec!["192.0.2.0/24".into()], ..Access::default() };
    edge.publish(vec![with(HttpPolicy { access: Some(closed), ..HttpPolicy::default() })], Vec::new());
    assert_eq!(get(&edge, "/").await.status, 403);
    let limit = RateLimit { requests: 2, seconds: 1_000, per: RatePer::Unspecified as i32 };
    edge.publish(vec![with(HttpPolicy { rate_limits: vec![limit], ..HttpPolicy::default() })], Vec::new());
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(get(&edge, "/").await.status);
    }
    assert_eq!(codes, [200, 200, 429]);
    edge.publish(vec![with(HttpPolicy::default())], Vec::new());
    assert!(get(&edge, "/").await.is_hit());
    // Another site at the name has pages of its own.
    // So has another tenant.
    let policy = HttpPolicy { cache: Some(cache()), ..HttpPolicy::default() };
    for (tenant_id, webroot) in [("t_a", "web_b"), ("t_b", "web_b")] {
        let moved = with_policy(route(HOST, tenant_id, webroot, "s1"), policy.clone());
        edge.publish(vec![tenant(tenant_id, State::Active), moved], Vec::new());
        assert!(!get(&edge, "/").await.is_hit() && get(&edge, "/").await.is_hit(), "{tenant_id} {webroot}");
    }
}
