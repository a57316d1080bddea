use hosting_intent::message::{PoolNode, Route, ShardPool, State, TenantState};
use hosting_intent::{Bytes, Cause, Key, Kind};

use super::*;

fn upsert(kind: Kind, name: &str, intent: EdgeIntent) -> (Item, EdgeIntent) {
    let item = Item {
        key: Key::new(kind, name),
        revision: 1,
        value: Bytes::new(),
        cause: Cause::Person,
        traceparent: String::new(),
        rollout: 0,
    };
    (item, intent)
}

fn route(fqdn: &str, tenant: &str, webroot: &str, shard: &str) -> (Item, EdgeIntent) {
    let route = Route {
        tenant_id: tenant.into(),
        webroot_id: webroot.into(),
        shard_id: shard.into(),
        ..Route::default()
    };
    upsert(Kind::Route, fqdn, EdgeIntent::Route(route))
}

fn tenant(id: &str, state: State) -> (Item, EdgeIntent) {
    upsert(
        Kind::TenantState,
        id,
        EdgeIntent::TenantState(TenantState { state: state as i32, ..TenantState::default() }),
    )
}

fn pool(id: &str, nodes: &[(&str, bool)]) -> (Item, EdgeIntent) {
    let nodes = nodes
        .iter()
        .map(|(id, in_service)| PoolNode {
            node_id: (*id).into(),
            addresses: vec!["192.0.2.1:80".into()],
            in_service: *in_service,
        })
        .collect();
    upsert(Kind::ShardPool, id, EdgeIntent::ShardPool(ShardPool { name: format!("{id}-name"), nodes }))
}

fn gone(kind: Kind, name: &str) -> Removal {
    Removal { key: Key::new(kind, name), cause: Cause::Person, traceparent: String::new(), rollout: 0 }
}

#[test]
fn the_table_shows_what_it_has_of_a_host_as_the_intents_say_it() {
    let (routing, mut writer) = Routing::new(64);
    let all = [
        route("www.example.com", "t_a", "web_a", "s1"),
        route("parked.example.com", "t_b", "", ""),
        tenant("t_a", State::Suspended),
        pool("s1", &[("n1", true), ("n2", false)]),
    ];
    writer.apply(&all, &[]);
    let [(www, on_www), (parked, on_parked), (t_a, suspended), (s1, nodes)] = &all;
    for (host, intents) in [(www, vec![on_www, suspended, nodes]), (parked, vec![on_parked])] {
        let table = routing.seen(&host.key.name);
        for line in intents.into_iter().flat_map(seen::wanted) {
            assert!(table.contains(&line), "{line} in {table:?}");
        }
    }
    assert_eq!(writer.host_of(&t_a.key).as_deref(), Some("www.example.com"));
    assert_eq!(writer.host_of(&s1.key).as_deref(), Some("www.example.com"));
    assert_eq!(writer.host_of(&Key::new(Kind::ShardPool, "s2")), None);
    assert!(routing.seen("other.example.com").is_empty());
    // Each change shows.
    let before = routing.seen("www.example.com");
    for change in [
        tenant("t_a", State::Active),
        pool("s1", &[("n1", true)]),
        route("www.example.com", "t_a", "web_a", "s2"),
        route("www.example.com", "t_a", "web_b", "s2"),
        route("www.example.com", "t_b", "web_b", "s2"),
    ] {
        let missing = seen::wanted(&change.1).into_iter().any(|line| !before.contains(&line));
        assert!(missing, "{:?}", change.1);
        writer.apply(std::slice::from_ref(&change), &[]);
        let table = routing.seen("www.example.com");
        assert!(seen::wanted(&change.1).iter().all(|line| table.contains(line)));
    }
}

/// Where the table leads a host.
fn word(routing: &Routing, host: &str) -> String {
    match routing.resolve(host).map(|found| found.leads) {
        Some(Leads::Site(target)) => {
            format!("{} at {}", target.webroot, target.candidates.pool().name())
        }
        Some(Leads::Suspended) => "suspended".into(),
        Some(Leads::Unbound) => "unbound".into(),
        Some(Leads::NoNode) => "no node".into(),
        None => "unknown".into(),
    }
}

#[test]
fn every_decision() {
    let (routing, mut writer) = Routing::new(64);
    writer.apply(
        &[
            // Routes before what they refer to: order within a batch does not matter.
            route("www.example.com", "t_a", "web_a", "s1"),
            route("parked.example.com", "t_a", "", ""),
            route("lost.example.com", "t_a", "web_l", "s-none"),
            route("down.example.com", "t_a", "web_d", "s2"),
            route("bad.example.com", "t_b", "web_b", "s1"),
            tenant("t_a", State::Active),
            tenant("t_b", State::Suspended),
            pool("s1", &[("n1", true)]),
            pool("s2", &[("n1", false)]),
        ],
        &[],
    );
    let decide = |host: &str| word(&routing, host);
    assert_eq!(decide("www.example.com"), "web_a at s1-name");
    assert_eq!(decide("parked.example.com"), "unbound");
    assert_eq!(decide("lost.example.com"), "no node");
    assert_eq!(decide("down.example.com"), "no node");
    assert_eq!(decide("bad.example.com"), "suspended");
    assert_eq!(decide("example.com"), "unknown");
    assert!(routing.knows("parked.example.com") && !routing.knows("example.com"));
    assert_eq!(writer.sizes(), Sizes { routes: 5, tenants: 2, pools: 3 });

    // One intent each: the pool arrives late, the tenant comes back, the name moves to another site.
    writer.apply(&[pool("s-none", &[("n9", true)])], &[]);
    assert_eq!(decide("lost.example.com"), "web_l at s-none-name");
    writer.apply(&[tenant("t_b", State::Active)], &[]);
    assert_eq!(decide("bad.example.com"), "web_b at s1-name");
    writer.apply(&[route("www.example.com", "t_b", "web_b", "s1")], &[]);
    assert_eq!(decide("www.example.com"), "web_b at s1-name");
    writer.apply(&[], &[gone(Kind::Route, "www.example.com"), gone(Kind::ShardPool, "s1")]);
    assert_eq!(decide("www.example.com"), "unknown");
    assert_eq!(decide("bad.example.com"), "no node");
}

#[test]
fn a_withdrawn_state_does_not_bring_a_suspended_tenant_back() {
    let (routing, mut writer) = Routing::new(1);
    writer.apply(
        &[
            tenant("t_a", State::Suspended),
            route("a.example", "t_a", "web_a", "s1"),
            pool("s1", &[("n1", true)]),
        ],
        &[],
    );
    writer.apply(&[], &[gone(Kind::TenantState, "t_a")]);
    assert_eq!(word(&routing, "a.example"), "suspended");
}

#[test]
fn what_nothing_refers_to_is_forgotten() {
    let (routing, mut writer) = Routing::new(16);
    for n in 0..5_000 {
        let (host, tenant_id) = (format!("h{n}.example"), format!("t_{n}"));
        writer.apply(&[route(&host, &tenant_id, &format!("web_{n}"), &format!("s{n}"))], &[]);
        writer.apply(&[], &[gone(Kind::Route, &host), gone(Kind::TenantState, &tenant_id)]);
    }
    assert!(routing.is_empty());
    let sizes = writer.sizes();
    assert!(sizes.tenants < 3_000 && sizes.pools < 3_000, "{sizes:?}");
}

/// The most bytes that a body may have, which stands for a policy.
fn takes(bytes: u64) -> message::HttpPolicy {
    message::HttpPolicy { max_body_bytes: Some(bytes), ..message::HttpPolicy::default() }
}

fn with_policy((item, mut intent): (Item, EdgeIntent), bytes: u64) -> (Item, EdgeIntent) {
    let policy = Some(takes(bytes));
    if let EdgeIntent::Route(route) = &mut intent {
        route.http = policy.map(Box::new);
    } else if let EdgeIntent::TenantState(state) = &mut intent {
        state.http = policy.map(Box::new);
    }
    (item, intent)
}

#[test]
fn policies_hold_for_their_hosts_whatever_these_lead_to() {
    let (routing, mut writer) = Routing::new(16);
    writer.apply(
        &[
            with_policy(route("own.example", "t_a", "", ""), 1),
            route("plain.example", "t_a", "", ""),
            with_policy(route("*.below.example", "t_b", "web_b", "s1"), 3),
            with_policy(tenant("t_a", State::Active), 2),
        ],
        &[],
    );
    let most = |host: &str| routing.resolve(host).unwrap().policies.max_body();
    assert_eq!((most("own.example"), most("plain.example")), (Some(1), Some(2)));
    assert_eq!(most("x.below.example"), Some(3));
    assert!(routing.resolve("x.below.example").unwrap().is_below);
    assert!(!routing.resolve("own.example").unwrap().is_below);
    // It shows, and so does each change.
    for change in [
        with_policy(route("own.example", "t_a", "", ""), 4),
        with_policy(tenant("t_a", State::Active), 5),
        tenant("t_a", State::Active),
        route("own.example", "t_a", "", ""),
    ] {
        let shown = |line: &String| routing.seen("own.example").contains(line);
        assert!(!seen::wanted(&change.1).iter().all(shown), "{:?}", change.1);
        writer.apply(std::slice::from_ref(&change), &[]);
        assert!(seen::wanted(&change.1).iter().all(shown), "{:?}", change.1);
    }
    assert!(routing.resolve("own.example").unwrap().policies.is_empty());
    // Of a suspended tenant nothing is said but that.
    writer.apply(&[with_policy(tenant("t_b", State::Suspended), 6)], &[]);
    assert!(routing.resolve("x.below.example").unwrap().policies.is_empty());
}

fn of_brand((item, mut intent): (Item, EdgeIntent), brand: &str) -> (Item, EdgeIntent) {
    if let EdgeIntent::TenantState(state) = &mut intent {
        state.brand_id = brand.into();
    }
    (item, intent)
}

fn brand(id: &str, page: &str, bytes: Option<u64>) -> (Item, EdgeIntent) {
    let pages = vec![message::BrandPage { word: "default".into(), html: page.into() }];
    let brand = message::Brand { pages, http: bytes.map(takes).map(Box::new), ..message::Brand::default() };
    upsert(Kind::Brand, id, EdgeIntent::Brand(brand))
}

#[test]
fn a_brands_word_holds_for_its_tenants_where_they_say_nothing() {
    let (routing, mut writer) = Routing::new(16);
    writer.apply(
        &[
            route("a.example", "t_a", "", ""),
            with_policy(route("own.example", "t_a", "", ""), 1),
            route("b.example", "t_b", "", ""),
            // The brand comes behind those that name it.
            of_brand(tenant("t_a", State::Active), "acme"),
            of_brand(with_policy(tenant("t_b", State::Active), 2), "acme"),
            brand("acme", "one", Some(3)),
        ],
        &[],
    );
    let look = |host: &str| {
        let found = routing.resolve(host).unwrap();
        let page = found.brand.as_ref().and_then(|word| word.page("busy")).map(|page| page.fill(|_| ""));
        (found.policies.max_body(), page)
    };
    let page = |page: &str| Some(page.to_owned());
    assert_eq!(look("a.example"), (Some(3), page("one")));
    assert_eq!(look("own.example"), (Some(1), page("one")));
    assert_eq!(look("b.example"), (Some(2), page("one")));
    // A change of the brand is one item, and a suspended tenant's page is the brand's too.
    writer.apply(&[brand("acme", "two", None), of_brand(tenant("t_b", State::Suspended), "acme")], &[]);
    assert_eq!((look("a.example"), look("b.example")), ((None, page("two")), (None, page("two"))));
    // It shows to which brand a tenant belongs.
    let moved = of_brand(tenant("t_a", State::Active), "other");
    assert!(!seen::wanted(&moved.1).iter().all(|line| routing.seen("a.example").contains(line)));
    writer.apply(std::slice::from_ref(&moved), &[]);
    assert!(seen::wanted(&moved.1).iter().all(|line| routing.seen("a.example").contains(line)));
    assert_eq!(look("a.example"), (None, None));
    writer.apply(&[of_brand(tenant("t_a", State::Active), "acme")], &[gone(Kind::Brand, "acme")]);
    assert_eq!(look("a.example"), (None, None));
    // Of a tenant that belongs to nobody nothing of a brand is left.
    writer.apply(&[brand("acme", "three", Some(4)), tenant("t_a", State::Active)], &[]);
    assert_eq!(look("a.example"), (None, None));
}

#[test]
fn equal_policies_are_one_and_those_of_nobody_are_forgotten() {
    let (routing, mut writer) = Routing::new(16);
    let hosts = (0..4_000).map(|n| format!("h{n}.example"));
    let all: Vec<_> = hosts.map(|host| with_policy(route(&host, "t_a", "", ""), 7)).collect();
    writer.apply(&all, &[]);
    assert_eq!(writer.policies.len(), 1);
    for n in 0..3_000 {
        writer.apply(&[with_policy(route("h0.example", "t_a", "", ""), n + 10)], &[]);
    }
    assert!(writer.policies.len() < 2_000, "{}", writer.policies.len());
    assert_eq!(routing.resolve("h1.example").unwrap().policies.max_body(), Some(7));
}

#[test]
fn what_an_edge_cannot_apply_is_rejected() {
    let problem = |(_, intent): (Item, EdgeIntent)| check(&intent).unwrap_err().to_string();
    assert!(problem(pool("s1", &[("n1", true), ("n1", true)])).contains("n1 is there twice"));
    for address in ["192.0.2.1:0", "0.0.0.0:80", "[::]:80", "[ff02::1]:80"] {
        let nodes = vec![PoolNode { node_id: "n".into(), addresses: vec![address.into()], in_service: true }];
        let pool = EdgeIntent::ShardPool(ShardPool { name: "s".into(), nodes });
        assert!(problem(upsert(Kind::ShardPool, "s", pool)).starts_with("nodes.addresses: "), "{address}");
    }
    assert_eq!(check(&route("a", "t", "w", "s").1), Ok(()));
}
