use super::*;

/// Certificates for `tls.example` and `www.tls.example` alone, HTTPS at port 8443.
pub(super) struct Around {
    pub(super) rates: Rates,
    pub(super) now: Nanos,
    pub(super) edges: u32,
}

impl Default for Around {
    fn default() -> Self {
        Self { rates: Rates::default(), now: 0, edges: 1 }
    }
}

impl Circumstances for Around {
    fn has_certificate(&self, host: &str) -> bool {
        host.ends_with("tls.example")
    }

    fn https_port(&self) -> &str {
        ":8443"
    }

    /// 203.0.113.0/24 is in Germany, 192.0.2.0/24 nowhere that is known.
    fn country(&self, address: IpAddr) -> Country {
        if address.to_string().starts_with("203.0.113.") { *b"DE" } else { UNKNOWN_COUNTRY }
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn now(&self) -> Nanos {
        self.now
    }

    fn edges(&self) -> u32 {
        self.edges
    }
}

pub(super) fn asked<'a>(host: &'a str, path: &'a str) -> Asked<'a> {
    Asked {
        host,
        is_below: false,
        port: "",
        path,
        is_read: true,
        is_post: false,
        tls: false,
        address: [192, 0, 2, 1].into(),
        head: 100,
        body: None,
        crawler: None,
        is_shown: false,
    }
}

pub(super) fn policies(own: Option<m::HttpPolicy>, tenant: Option<m::HttpPolicy>) -> Policies {
    let read = |policy: Option<m::HttpPolicy>| policy.map(|policy| Arc::new(Policy::new(&policy)));
    Policies { own: read(own), tenant: read(tenant), brand: None }
}

fn rule(own: m::HttpPolicy, asked: &Asked<'_>) -> Option<Ruling> {
    policies(Some(own), None).rule(asked, "t_a", &Around::default())
}

fn redirect(code: u16, location: &str) -> Option<Ruling> {
    Some(Ruling::Redirect { code, location: location.to_owned() })
}

fn to_https() -> m::HttpPolicy {
    m::HttpPolicy { https_redirect: Some(true), ..m::HttpPolicy::default() }
}

#[test]
fn http_leads_to_https_where_there_is_a_certificate() {
    let plain = asked("tls.example", "/a?b=c");
    assert_eq!(rule(to_https(), &plain), redirect(301, "https://tls.example:8443/a?b=c"));
    let upload = Asked { is_read: false, port: ":8080", ..plain };
    assert_eq!(rule(to_https(), &upload), redirect(308, "https://tls.example:8443/a?b=c"));
    assert_eq!(rule(to_https(), &Asked { tls: true, ..plain }), None);
    assert_eq!(rule(to_https(), &asked("other.example", "/")), None, "there is no certificate yet");
}

#[test]
fn all_leads_to_the_canonical_host_at_once() {
    let canonical = |https| m::HttpPolicy {
        canonical_host: "www.tls.example".into(),
        https_redirect: https,
        ..m::HttpPolicy::default()
    };
    let plain = Asked { port: ":8080", ..asked("tls.example", "/a") };
    assert_eq!(rule(canonical(None), &plain), redirect(301, "http://www.tls.example:8080/a"));
    assert_eq!(rule(canonical(Some(true)), &plain), redirect(301, "https://www.tls.example:8443/a"));
    let secure = Asked { tls: true, port: "", ..plain };
    assert_eq!(rule(canonical(None), &secure), redirect(301, "https://www.tls.example/a"));
    // A wildcard's canonical host may fall under it.
    assert_eq!(rule(canonical(None), &Asked { host: "www.tls.example", is_below: true, ..secure }), None);
}

#[test]
fn a_path_leads_elsewhere_in_one_step() {
    let message = |from: &str, to: &str, code| m::PathRedirect { from: from.into(), to: to.into(), code };
    let policy = m::HttpPolicy {
        redirects: vec![message("/old/*", "/new/*", 308), message("/away", "https://a.example/b", 302)],
        canonical_host: "www.tls.example".into(),
        ..to_https()
    };
    let at = |path| rule(policy.clone(), &asked("tls.example", path));
    assert_eq!(at("/old/x?y"), redirect(308, "https://www.tls.example:8443/new/x?y"));
    assert_eq!(at("/away"), redirect(302, "https://a.example/b"));
    // Whatever follows the path, the host stays ours.
    assert_eq!(at("/old//evil.example"), redirect(308, "https://www.tls.example:8443/new//evil.example"));
}

#[test]
fn who_is_not_let_in_learns_nothing_else() {
    let access = |allow: &[&str], deny: &[&str]| m::HttpPolicy {
        access: Some(m::Access {
            allow: allow.iter().map(ToString::to_string).collect(),
            deny: deny.iter().map(ToString::to_string).collect(),
            ..m::Access::default()
        }),
        ..to_https()
    };
    let plain = asked("tls.example", "/");
    assert_eq!(rule(access(&[], &["192.0.2.0/24"]), &plain), Some(Ruling::Forbidden));
    assert_eq!(rule(access(&["198.51.100.0/24"], &[]), &plain), Some(Ruling::Forbidden));
    assert!(matches!(rule(access(&["192.0.2.1/32"], &["0.0.0.0/0"]), &plain), Some(Ruling::Redirect { .. })));
    assert!(matches!(rule(access(&[], &["198.51.100.0/24"]), &plain), Some(Ruling::Redirect { .. })));
}

#[test]
fn networks_go_before_countries() {
    let access = |allow: &[&str], deny: &[&str], allow_countries: &[&str], deny_countries: &[&str]| {
        let list = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let access = m::Access {
            allow: list(allow),
            deny: list(deny),
            allow_countries: list(allow_countries),
            deny_countries: list(deny_countries),
        };
        let policy = m::HttpPolicy { access: Some(access), ..m::HttpPolicy::default() };
        assert!(policies(Some(policy.clone()), None).asks_for_countries());
        move |address: [u8; 4]| {
            rule(policy.clone(), &Asked { address: address.into(), ..asked("a.example", "/") }).is_none()
        }
    };
    let (german, unknown, elsewhere) = ([203, 0, 113, 1], [192, 0, 2, 1], [10, 0, 0, 1]);
    let only = access(&[], &[], &["DE"], &[]);
    assert!(only(german) && !only(unknown), "what is not known is not let in");
    let all_but = access(&[], &[], &[], &["DE"]);
    assert!(!all_but(german) && all_but(unknown), "what is not known is let in");
    let known = access(&[], &[], &[], &["XX"]);
    assert!(known(german) && !known(unknown));
    let wide = access(&[], &[], &["DE", "XX"], &[]);
    assert!(wide(german) && wide(unknown));
    let office = access(&["10.0.0.0/8"], &["203.0.113.1/32"], &["DE"], &[]);
    assert!(office(elsewhere) && !office(german) && office([203, 0, 113, 2]) && !office(unknown));
    let both = access(&["10.0.0.0/8"], &[], &[], &["DE"]);
    assert!(both(elsewhere) && !both(german) && !both(unknown), "a list of who is let in stands");
    assert!(!policies(Some(to_https()), None).asks_for_countries());
}

#[test]
fn a_name_may_be_open_where_its_tenant_asks_for_passwords() {
    let policy = |enabled| m::HttpPolicy {
        basic_auth: Some(Box::new(m::BasicAuth { enabled, ..m::BasicAuth::default() })),
        ..m::HttpPolicy::default()
    };
    assert!(policies(None, Some(policy(true))).basic_auth().is_some());
    assert!(policies(Some(to_https()), Some(policy(true))).basic_auth().is_some());
    assert!(policies(Some(policy(false)), Some(policy(true))).basic_auth().is_none());
    assert!(policies(Some(to_https()), None).basic_auth().is_none());
}

#[test]
fn maintenance_is_for_all_but_those_who_work_on_it() {
    let policy = |enabled| m::HttpPolicy {
        maintenance: Some(m::Maintenance {
            enabled,
            retry_after_seconds: 120,
            allow: vec!["198.51.100.0/24".into()],
        }),
        ..m::HttpPolicy::default()
    };
    let plain = asked("a.example", "/");
    assert_eq!(rule(policy(true), &plain), Some(Ruling::Maintenance(120)));
    assert_eq!(rule(policy(true), &Asked { address: [198, 51, 100, 9].into(), ..plain }), None);
    assert_eq!(rule(policy(false), &plain), None);
}

#[test]
fn what_is_too_large_is_refused() {
    let policy = || m::HttpPolicy {
        max_body_bytes: Some(1_000),
        max_header_bytes: Some(100),
        ..m::HttpPolicy::default()
    };
    let plain = asked("a.example", "/");
    assert_eq!(rule(policy(), &Asked { body: Some(1_000), ..plain }), None);
    assert_eq!(rule(policy(), &Asked { body: Some(1_001), ..plain }), Some(Ruling::BodyTooLarge));
    assert_eq!(rule(policy(), &Asked { head: 101, ..plain }), Some(Ruling::HeadTooLarge));
}

pub(super) fn limited(requests: u32) -> m::HttpPolicy {
    let limit = m::RateLimit { requests, seconds: 60, per: m::RatePer::Address as i32 };
    m::HttpPolicy { rate_limits: vec![limit], ..m::HttpPolicy::default() }
}

#[test]
fn requests_count_for_their_name_and_for_all_names_of_the_tenant() {
    let around = Around { now: 1, ..Around::default() };
    let policies = policies(Some(limited(2)), Some(limited(3)));
    let ask = |host, is_below| policies.rule(&Asked { is_below, ..asked(host, "/") }, "t_a", &around);
    assert_eq!(ask("a.example", false), None);
    assert_eq!(ask("a.example", false), None);
    assert_eq!(ask("a.example", false), Some(Ruling::TooMany(30)), "the name's third");
    assert_eq!(ask("x.b.example", true), None);
    assert_eq!(ask("y.b.example", true), Some(Ruling::TooMany(20)), "the tenant's fourth");
    let other = policies.rule(&asked("a.other", "/"), "t_b", &around);
    assert_eq!(other, None, "another tenant's name");
    // All names that a wildcard stands for are one.
    let wildcard = self::policies(Some(limited(1)), None);
    let ask = |host| wildcard.rule(&Asked { is_below: true, ..asked(host, "/") }, "t_a", &around);
    assert_eq!(ask("x.c.example"), None);
    assert_eq!(ask("y.c.example"), Some(Ruling::TooMany(60)));
}

#[test]
fn a_brands_limit_counts_for_each_of_its_tenants_beside_their_own() {
    let around = Around { now: 1, ..Around::default() };
    let read = |policy| Some(Arc::new(Policy::new(&policy)));
    let policies = Policies { own: None, tenant: read(limited(2)), brand: read(limited(2)) };
    let ask = |host, tenant| policies.rule(&asked(host, "/"), tenant, &around);
    assert_eq!([ask("a.example", "t_a"), ask("b.example", "t_a")], [None, None]);
    assert_eq!(ask("a.example", "t_a"), Some(Ruling::TooMany(30)));
    assert_eq!(
        [ask("c.example", "t_b"), ask("c.example", "t_b")],
        [None, None],
        "another tenant of the brand"
    );
    let brands = Policies { own: None, tenant: None, brand: read(limited(1)) };
    let ask = |tenant| brands.rule(&asked("d.example", "/"), tenant, &around);
    assert_eq!([ask("t_c"), ask("t_c")], [None, Some(Ruling::TooMany(60))]);
}

#[test]
fn a_name_has_its_own_word_and_its_tenants_for_the_rest() {
    let hsts = |max_age_seconds, preload| m::Hsts { max_age_seconds, include_subdomains: preload, preload };
    let tenant = m::HttpPolicy {
        hsts: Some(hsts(300, false)),
        max_body_bytes: Some(10),
        compression: Some(true),
        cache: Some(m::CachePolicy { enabled: true, ..m::CachePolicy::default() }),
        ..to_https()
    };
    let own = m::HttpPolicy {
        https_redirect: Some(false),
        hsts: Some(hsts(31_536_000, true)),
        ..m::HttpPolicy::default()
    };
    let both = policies(Some(own), Some(tenant.clone()));
    assert_eq!(both.hsts(), Some("max-age=31536000; includeSubDomains; preload"));
    assert_eq!(both.max_body(), Some(10));
    assert!(both.compresses() && !policies(Some(to_https()), None).compresses());
    let plain = asked("tls.example", "/");
    assert_eq!(both.rule(&plain, "t_a", &Around::default()), None);
    let tenants = policies(None, Some(tenant));
    assert_eq!(tenants.hsts(), Some("max-age=300"));
    assert!(matches!(tenants.rule(&plain, "t_a", &Around::default()), Some(Ruling::Redirect { .. })));
    assert!(policies(None, None).is_empty());
}

#[test]
fn what_is_said_can_be_shown() {
    let own = m::HttpPolicy {
        maintenance: Some(m::Maintenance { enabled: true, retry_after_seconds: 1, allow: Vec::new() }),
        access: Some(m::Access {
            allow: vec!["10.0.0.0/8".into()],
            deny: vec!["::/0".into()],
            deny_countries: vec!["DE".into()],
            ..m::Access::default()
        }),
        basic_auth: Some(Box::default()),
        crawlers: Some(m::CrawlerPolicy::default()),
        challenge: Some(m::ChallengePolicy {
            mode: m::ChallengeMode::All as i32,
            ..m::ChallengePolicy::default()
        }),
        ..to_https()
    };
    let [own, tenant, brand] = policies(Some(own), Some(limited(1))).said();
    assert!(brand.is_empty());
    let shown = |said: Vec<(&'static str, String)>| {
        said.into_iter().map(|(field, value)| format!("{field}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        shown(own),
        "https_redirect=true access_networks=2 access_countries=1 maintenance=true crawlers=0 challenge=all basic_auth=off"
    );
    assert_eq!(shown(tenant), "rate_limits=1");
}

#[test]
fn equal_policies_have_one_digest() {
    assert_eq!(digest(&to_https()), digest(&to_https()));
    assert_ne!(digest(&to_https()), digest(&limited(1)));
    assert_eq!(Policy::new(&to_https()).digest(), digest(&to_https()));
}
