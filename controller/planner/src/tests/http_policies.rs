//! What edges are told to do with requests before a site sees them, and what they are to forget.

use hosting_resource::purge::Purged;

use super::*;
use crate::{purge_cache, set_in_service, suspend};

const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

fn state(lab: &Lab, tenant: &Resource) -> m::TenantState {
    match lab.intent(&format!("edge/{}", lab.cluster), IntentKind::TenantState, &tenant.id) {
        Some(Intent::TenantState(state)) => state,
        other => panic!("{other:?}"),
    }
}

fn action(verdict: m::CrawlerVerdict, per_minute: u32) -> Option<m::CrawlerAction> {
    Some(m::CrawlerAction { verdict: verdict as i32, per_minute })
}

fn policy(lab: &Lab, tenant: &Resource) -> Option<m::HttpPolicy> {
    state(lab, tenant).http.map(|http| *http)
}

#[tokio::test]
async fn a_purge_goes_to_the_edges_and_the_tenant_is_active_when_they_have_it() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.settle().await;
    assert_eq!(state(&lab, &tenant).purges, None);
    let before = lab.get(&tenant.id).unwrap().generation;
    let tag = |tag: &str| Purged::Tag(tag.to_owned());
    let purged = purge_cache(&mut lab.store, &tenant.id, vec![tag("a"), tag("b")]).await.unwrap();
    assert_eq!((purged.status, purged.generation), (Status::Converging, before + 1));
    let told = |generation, tag: &str| m::CachePurge {
        generation,
        what: Some(m::cache_purge::What::Tag(tag.to_owned())),
    };
    let wanted = m::CachePurges { generation: 1, all: 0, recent: vec![told(1, "a"), told(1, "b")] };
    assert_eq!(state(&lab, &tenant).purges, Some(wanted));
    lab.settle().await;
    assert_eq!(lab.status(&tenant.id), Some(Status::Active));
    // The same again is another purge: what was stored since goes too.
    purge_cache(&mut lab.store, &tenant.id, vec![tag("a")]).await.unwrap();
    let wanted = m::CachePurges { generation: 2, all: 0, recent: vec![told(1, "b"), told(2, "a")] };
    assert_eq!(state(&lab, &tenant).purges, Some(wanted));
    // Other changes leave it; a suspended tenant stays suspended.
    lab.put(&tenant.id, json!({"http": {"max_body_bytes": 9}})).await.unwrap();
    assert_eq!(state(&lab, &tenant).purges.unwrap().generation, 2);
    suspend(&mut lab.store, &tenant.id, "unpaid").await.unwrap();
    let purged = purge_cache(&mut lab.store, &tenant.id, Vec::new()).await.unwrap();
    assert_eq!(purged.status, Status::Suspended);
    let wanted = m::CachePurges { generation: 3, all: 3, recent: Vec::new() };
    assert_eq!(state(&lab, &tenant).purges, Some(wanted));
    lab.settle().await;
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_names_policy_goes_with_its_route_and_a_tenants_with_its_state() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    let fqdn = lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.route("www.example.com").unwrap().http, None);
    let body = json!({"http": {"https_redirect": true, "hsts": {"max_age_seconds": 300},
        "redirects": [{"from": "/a/*", "to": "/b/*", "code": 308}],
        "access": {"deny": ["192.0.2.1"], "allow_countries": ["de"], "deny_countries": ["XX"]}, "rate_limits": [{"requests": 5, "seconds": 1, "per": "network"}],
        "max_body_bytes": 7, "max_header_bytes": 8, "maintenance": {"enabled": false},
        "compression": true,
        "cache": {"enabled": true, "default_ttl_seconds": 1, "max_ttl_seconds": 2,
            "stale_while_revalidate_seconds": 3, "stale_if_error_seconds": 4,
            "bypass_cookies": ["a"], "ignored_query": ["b"], "max_object_bytes": 5},
        "crawlers": {"rules": [
            {"agent": "a", "action": "allow", "impostors": {"per_minute": 3}},
            {"class": "seo", "action": {"per_minute": 4}}]},
        "challenge": {"mode": "suspicious", "exempt_paths": ["/api/"], "exempt_networks": ["192.0.2.3"],
            "difficulty": 9, "pass_seconds": 61},
        "basic_auth": {"enabled": true, "realm": "r", "users": [{"name": "anna", "password_hash": HASH}],
            "paths": ["/a/"], "exempt": ["/a/b"], "pass_authorization": true}}});
    lab.put(&fqdn.id, body.clone()).await.unwrap();
    let http = lab.route("www.example.com").unwrap().http.unwrap();
    let wanted = m::HttpPolicy {
        https_redirect: Some(true),
        canonical_host: String::new(),
        hsts: Some(m::Hsts { max_age_seconds: 300, include_subdomains: false, preload: false }),
        redirects: vec![m::PathRedirect { from: "/a/*".into(), to: "/b/*".into(), code: 308 }],
        access: Some(m::Access {
            allow: vec![],
            deny: vec!["192.0.2.1/32".into()],
            allow_countries: vec!["DE".into()],
            deny_countries: vec!["XX".into()],
        }),
        rate_limits: vec![m::RateLimit { requests: 5, seconds: 1, per: m::RatePer::Network as i32 }],
        max_body_bytes: Some(7),
        max_header_bytes: Some(8),
        maintenance: Some(m::Maintenance { enabled: false, retry_after_seconds: 600, allow: vec![] }),
        compression: Some(true),
        cache: Some(m::CachePolicy {
            enabled: true,
            default_ttl_seconds: 1,
            max_ttl_seconds: 2,
            stale_while_revalidate_seconds: 3,
            stale_if_error_seconds: 4,
            bypass_cookies: vec!["a".into()],
            ignored_query: vec!["b".into()],
            max_object_bytes: 5,
        }),
        crawlers: Some(m::CrawlerPolicy {
            rules: vec![
                m::CrawlerRule {
                    of: Some(m::crawler_rule::Of::Agent("a".into())),
                    action: action(m::CrawlerVerdict::Allow, 0),
                    impostors: action(m::CrawlerVerdict::Limit, 3),
                },
                m::CrawlerRule {
                    of: Some(m::crawler_rule::Of::Class(m::CrawlerClass::Seo as i32)),
                    action: action(m::CrawlerVerdict::Limit, 4),
                    impostors: action(m::CrawlerVerdict::Deny, 0),
                },
            ],
        }),
        challenge: Some(m::ChallengePolicy {
            mode: m::ChallengeMode::Suspicious as i32,
            exempt_paths: vec!["/api/".into()],
            exempt_networks: vec!["192.0.2.3/32".into()],
            difficulty: 9,
            pass_seconds: 61,
        }),
        basic_auth: Some(Box::new(m::BasicAuth {
            enabled: true,
            realm: "r".into(),
            users: vec![m::BasicAuthUser { name: "anna".into(), password_hash: HASH.into() }],
            paths: vec!["/a".into()],
            exempt: vec!["/a/b".into()],
            pass_authorization: true,
        })),
    };
    assert_eq!(*http, wanted);
    // A user without a password keeps his hash, and an unchanged policy is no change.
    let generation = lab.get(&fqdn.id).unwrap().generation;
    let mut same = body.clone();
    same["http"]["basic_auth"]["users"] = json!([{"name": "anna"}]);
    lab.put(&fqdn.id, same).await.unwrap();
    let now = (lab.get(&fqdn.id).unwrap().generation, lab.route("www.example.com").unwrap().http);
    assert_eq!(now, (generation, Some(Box::new(wanted))));
    // Other changes leave it; null takes it away.
    let before = lab.store.head;
    lab.put(&fqdn.id, json!({"ssl_enabled": false})).await.unwrap();
    assert!(lab.route("www.example.com").unwrap().http.is_some());
    lab.put(&fqdn.id, json!({"http": null})).await.unwrap();
    assert!(lab.store.head > before && lab.route("www.example.com").unwrap().http.is_none());

    assert_eq!(policy(&lab, &tenant), None);
    lab.put(&tenant.id, json!({"http": {"max_body_bytes": 9}})).await.unwrap();
    assert_eq!(policy(&lab, &tenant).unwrap().max_body_bytes, Some(9));
    lab.put(&tenant.id, json!({"http": {}})).await.unwrap();
    assert_eq!(policy(&lab, &tenant), None);
    lab.settle().await;
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_brands_word_is_one_item_for_the_edges_of_each_cluster() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.settle().await;
    let word =
        |lab: &Lab, cluster: &str| match lab.intent(&format!("edge/{cluster}"), IntentKind::Brand, "acme") {
            Some(Intent::Brand(brand)) => Some(brand),
            None => None,
            other => panic!("{other:?}"),
        };
    assert_eq!(state(&lab, &tenant).brand_id, "acme");
    let (cluster, before) = (lab.cluster.clone(), state(&lab, &tenant));
    assert_eq!(word(&lab, &cluster), None, "a brand that says nothing costs nothing");
    let page = |word: &str, html: &str| m::BrandPage { word: word.into(), html: html.into() };
    let body = json!({"pages": {"suspended": "<p>{{message}}</p>", "default": "d"},
        "http": {"max_body_bytes": 9}, "log_addresses": "network"});
    lab.put("acme", body).await.unwrap();
    lab.settle().await;
    let wanted = m::Brand {
        pages: vec![page("default", "d"), page("suspended", "<p>{{message}}</p>")],
        http: Some(Box::new(m::HttpPolicy { max_body_bytes: Some(9), ..m::HttpPolicy::default() })),
        log_addresses: m::LogAddresses::Network as i32,
    };
    assert_eq!(word(&lab, &cluster).as_ref(), Some(&wanted));
    assert_eq!(state(&lab, &tenant), before, "its tenants are not told anew");
    // A cluster that comes later hears of it.
    let region = lab.region.clone();
    let other = lab.post(Kind::Cluster, Some(&region), json!({"name": "c2"})).await.unwrap().id;
    lab.settle().await;
    assert_eq!(word(&lab, &other).as_ref(), Some(&wanted));
    lab.put("acme", json!({"pages": {}, "http": null, "log_addresses": "edge"})).await.unwrap();
    lab.settle().await;
    assert_eq!((word(&lab, &cluster), word(&lab, &other)), (None, None));
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_name_on_its_way_to_another_site_has_its_new_policy_at_once() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let webroot = lab.webroot(&tenant).await;
    let fqdn = lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    lab.settle().await;
    let other = lab.webroot(&tenant).await;
    let body = json!({"webroot_id": other.id, "http": {"access": {"deny": ["192.0.2.0/24"]}}});
    lab.put(&fqdn.id, body).await.unwrap();
    let route = lab.route("www.example.com").unwrap();
    assert_eq!(route.webroot_id, webroot.id, "the new site is at no node yet");
    assert_eq!(route.http.unwrap().access.unwrap().deny, ["192.0.2.0/24"]);
    lab.settle().await;
    let route = lab.route("www.example.com").unwrap();
    assert!(route.webroot_id == other.id && route.http.is_some());
}

#[tokio::test]
async fn canonical_hosts_do_not_lead_on() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    let stranger = lab.tenant("acme", "c2").await;
    let leads = |host: &str| json!({"http": {"canonical_host": host}});
    let apex = lab.fqdn(&tenant, "example.test", None).await.unwrap();
    let www = lab.fqdn(&tenant, "www.example.test", None).await.unwrap();
    let shop = lab.fqdn(&tenant, "shop.example.test", None).await.unwrap();
    lab.put(&apex.id, leads("www.example.test")).await.unwrap();
    assert_eq!(lab.route("example.test").unwrap().http.unwrap().canonical_host, "www.example.test");
    for (id, host) in [(&www.id, "example.test"), (&shop.id, "example.test")] {
        let refused = lab.put(id, leads(host)).await.unwrap_err().to_string();
        assert!(refused.contains("http.canonical_host") && refused.contains("www.example.test"), "{refused}");
    }
    lab.put(&shop.id, leads("www.example.test")).await.unwrap();
    lab.put(&shop.id, leads("elsewhere.test")).await.unwrap();
    // Where a stranger's name leads is not told.
    let theirs = lab.fqdn(&stranger, "www.stranger.test", None).await.unwrap();
    lab.put(&theirs.id, leads("secret.test")).await.unwrap();
    lab.put(&shop.id, leads("www.stranger.test")).await.unwrap();
    lab.settle().await;
    lab.assert_planned().await;
}

/// How many edges the cluster's are told that there are in service.
fn edges_told(lab: &Lab) -> u32 {
    match lab.intent(&format!("edge/{}", lab.cluster), IntentKind::EdgeCount, "edges") {
        Some(Intent::EdgeCount(count)) => count.in_service,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn edges_are_told_how_many_of_them_are_in_service() {
    let mut lab = Lab::new().await;
    lab.drain().await;
    let before = edges_told(&lab);
    assert_eq!(before, 1);
    lab.node("edge-x", &["lb"], false, "192.0.2.81").await;
    lab.node("edge-y", &["lb", "web"], true, "192.0.2.82").await;
    assert_eq!(edges_told(&lab), before + 2);
    lab.assert_planned().await;
    // Its share goes to the others while it is silent, and comes back with it.
    for (in_service, then) in [(false, before + 1), (true, before + 2)] {
        let turned = set_in_service(&mut lab.store, "edge-x", in_service).await;
        assert!(lab.end(turned).unwrap());
        assert_eq!(edges_told(&lab), then);
        lab.assert_planned().await;
    }
    // One that is no edge any more, and one that is gone.
    lab.put("edge-y", json!({"roles": ["web"]})).await.unwrap();
    assert_eq!(edges_told(&lab), before + 1);
    lab.delete("edge-x").await.unwrap();
    assert_eq!(edges_told(&lab), before);
    lab.drain().await;
    lab.assert_planned().await;
}

#[tokio::test]
async fn when_all_edges_are_silent_each_keeps_its_share() {
    let mut lab = Lab::new().await;
    lab.node("edge-x", &["lb"], false, "192.0.2.81").await;
    lab.drain().await;
    assert_eq!(edges_told(&lab), 2);
    for edge in ["edge1", "edge-x"] {
        let turned = set_in_service(&mut lab.store, edge, false).await;
        assert!(lab.end(turned).unwrap());
    }
    assert_eq!(edges_told(&lab), 1, "the last word: the one that fell silent last");
    lab.assert_planned().await;
}
