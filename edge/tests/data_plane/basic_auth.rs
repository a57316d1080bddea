//! Names and passwords before a site.

use hosting_edge::Settings;
use hosting_intent::message::{BasicAuth, BasicAuthUser, HttpPolicy, State};
use reqwest::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};

use crate::cache_site::{Got, HOST, Site, ask, cache, says};
use crate::harness::{Edge, Node, audience, pool, route, settings, tenant, with_policy};
use crate::http3_client::Browser;
use crate::tenant_certificates::{Authority, key, share};

/// That of `myPassword`, as `htpasswd -nbB` made it.
const BCRYPT: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
/// `anna:myPassword`, `anna:mypassword`, `berta:pässword`, `carl:myPassword`, `carl:pässword`. A name that nobody has is checked against the
/// hash of either user, so one of both is the password that fits it.
const ANNA: &str = "Basic YW5uYTpteVBhc3N3b3Jk";
const WRONG: &str = "Basic YW5uYTpteXBhc3N3b3Jk";
const BERTA: &str = "Basic YmVydGE6cMOkc3N3b3Jk";
const CARL: &str = "Basic Y2FybDpteVBhc3N3b3Jk";
const CARL_TOO: &str = "Basic Y2FybDpww6Rzc3dvcmQ=";

fn user(name: &str, hash: &str) -> BasicAuthUser {
    BasicAuthUser { name: name.into(), password_hash: hash.into() }
}

fn auth() -> BasicAuth {
    let berta = hosting_passwords::hash("pässword".as_bytes(), &[7; 16]).unwrap();
    let users = vec![user("anna", BCRYPT), user("berta", &berta)];
    BasicAuth { enabled: true, users, ..BasicAuth::default() }
}

fn policy(auth: BasicAuth) -> HttpPolicy {
    HttpPolicy { basic_auth: Some(Box::new(auth)), ..HttpPolicy::default() }
}

/// An edge that checks one password at a time, and believes what a request says of its client.
async fn edge_of(address: std::net::SocketAddr, policy: HttpPolicy) -> Edge {
    let forwarders = vec!["127.0.0.0/8".parse().unwrap()];
    let settings = Settings { threads: 1, https_port: 4_433, forwarded_from: forwarders, ..settings() };
    let mut edge = Edge::with(settings).await;
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", address, true)]),
            with_policy(route(HOST, "t_a", "web_a", "s1"), policy),
        ],
        Vec::new(),
    );
    edge
}

async fn edge(policy: HttpPolicy) -> (Edge, Node) {
    let node = Node::start("node-1").await;
    (edge_of(node.address, policy).await, node)
}

fn checked(edge: &Edge, outcome: &str) -> u64 {
    edge.metric(&format!("hosting_edge_password_checks_total{{outcome=\"{outcome}\"}}"))
}

fn rulings(edge: &Edge, outcome: &str) -> u64 {
    edge.metric(&format!("hosting_edge_policy_rulings_total{{outcome=\"{outcome}\"}}"))
}

async fn show(edge: &Edge, path: &str, shown: &str) -> Got {
    ask(edge, "GET", path, &format!("authorization: {shown}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_users_name_and_password_sees_the_site_over_every_version() {
    let (edge, node) = edge(policy(auth())).await;
    let challenge = format!("Basic realm=\"{HOST}\", charset=\"UTF-8\"");
    let h1 = edge.client_with(&[HOST], |builder| builder.http1_only().resolve(HOST, edge.https));
    let h2 = edge.client_with(&[HOST], |builder| builder.resolve(HOST, edge.https));
    let mut h3 = Browser::connect(&edge, HOST).await;
    let mut seen = 0;
    for (shown, is_right) in [
        (None, false),
        (Some(ANNA), true),
        (Some(WRONG), false),
        (Some(BERTA), true),
        (Some(CARL), false),
        (Some(CARL_TOO), false),
    ] {
        let mut answers = Vec::new();
        for client in [&h1, &h2] {
            let request = client.post(edge.tls_url(HOST, "/a?b")).body("x");
            let request =
                if let Some(shown) = shown { request.header(AUTHORIZATION, shown) } else { request };
            let answer = request.send().await.unwrap();
            let (status, asked) = (answer.status(), answer.headers().get(WWW_AUTHENTICATE).cloned());
            answers.push((status.as_u16(), asked, answer.text().await.unwrap()));
        }
        let request = http::Request::get(format!("https://{HOST}/a?b"));
        let request = if let Some(shown) = shown { request.header("authorization", shown) } else { request };
        let answer = h3.ask(request.body(()).unwrap(), b"").await;
        let (status, asked) = (answer.head.status(), answer.head.headers().get("www-authenticate").cloned());
        answers.push((status.as_u16(), asked, String::from_utf8(answer.body).unwrap()));
        for (n, (status, asked, body)) in answers.into_iter().enumerate() {
            if is_right {
                assert_eq!((status, asked), (200, None), "{n} {shown:?}");
                assert!(body.contains("/a?b\n") && !body.contains("authorization"), "{body}");
            } else {
                assert_eq!((status, asked.unwrap().to_str().unwrap()), (401, &*challenge), "{n} {shown:?}");
                assert!(body.contains("asks for a name and a password"), "{body}");
            }
        }
        seen += if is_right { 3 } else { 0 };
        assert_eq!(node.requests(), seen);
    }
    // Each was checked once: the name that nobody has, too.
    assert_eq!(
        (checked(&edge, "right"), checked(&edge, "wrong"), rulings(&edge, "unauthorized")),
        (2, 3, 12)
    );

    let head = ask(&edge, "HEAD", "/", "").await;
    assert_eq!((head.status, head.field("www-authenticate"), &*head.body), (401, &*challenge, ""));
    assert_eq!(head.field("cache-control"), "no-store");
    let upgrade = "connection: upgrade|upgrade: websocket|sec-websocket-key: eA==|sec-websocket-version: 13";
    assert_eq!(ask(&edge, "GET", "/upgrade", upgrade).await.status, 401);
    for malformed in ["Basic", "Basic !", "Bearer YW5uYTpteVBhc3N3b3Jk", "Basic YW5uYQ=="] {
        assert_eq!(show(&edge, "/", malformed).await.status, 401, "{malformed}");
    }
    let twice = ask(&edge, "GET", "/", &format!("authorization: {ANNA}|authorization: {ANNA}")).await;
    assert_eq!(twice.status, 401, "who shows two things shows none");
    assert_eq!(node.requests(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_site_can_be_open_and_the_site_may_be_told() {
    let parts = BasicAuth {
        paths: vec!["/admin".into()],
        exempt: vec!["/admin/open".into()],
        realm: "Inside".into(),
        ..auth()
    };
    let (mut edge, node) = edge(policy(parts.clone())).await;
    for (path, status) in [
        ("/", 200),
        ("/admin", 401),
        ("/%61dmin/x", 401),
        ("/x/..%2fadmin", 401),
        ("/admin/open/x", 200),
        ("/admin/open/../x", 401),
    ] {
        assert_eq!(ask(&edge, "GET", path, "").await.status, status, "{path}");
    }
    assert_eq!(
        ask(&edge, "GET", "/admin", "").await.field("www-authenticate"),
        "Basic realm=\"Inside\", charset=\"UTF-8\""
    );
    // A browser shows on open paths what it was asked for on others; what a site asks for itself is its own.
    for (shown, is_passed) in [(ANNA, false), (WRONG, false), (CARL, true), ("Bearer abc", true)] {
        let got = show(&edge, "/", shown).await;
        assert_eq!((got.status, got.body.contains("authorization: ")), (200, is_passed), "{shown}");
    }
    assert_eq!(checked(&edge, "right") + checked(&edge, "wrong"), 0, "open paths cost no check");
    let told = BasicAuth { pass_authorization: true, ..parts };
    edge.publish(vec![with_policy(route(HOST, "t_a", "web_a", "s1"), policy(told))], Vec::new());
    for path in ["/", "/admin"] {
        let got = show(&edge, path, ANNA).await;
        assert!(got.status == 200 && got.body.contains(&format!("authorization: {ANNA}\n")), "{}", got.body);
    }
    assert_eq!(show(&edge, "/admin", WRONG).await.status, 401);
    // Off, it is nothing; a changed password holds at once.
    let other = hosting_passwords::hash(b"another-password", &[8; 16]).unwrap();
    let changed = BasicAuth { users: vec![user("anna", &other)], ..auth() };
    edge.publish(vec![with_policy(route(HOST, "t_a", "web_a", "s1"), policy(changed))], Vec::new());
    assert_eq!(show(&edge, "/admin", ANNA).await.status, 401);
    let off = BasicAuth { enabled: false, ..auth() };
    edge.publish(vec![with_policy(route(HOST, "t_a", "web_a", "s1"), policy(off))], Vec::new());
    let before = node.requests();
    let got = show(&edge, "/admin", WRONG).await;
    assert!(got.status == 200 && got.body.contains("authorization: ") && node.requests() == before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_for_those_who_are_let_in() {
    let site = Site::start(|_| says(200, "cache-control: max-age=60", "secret")).await;
    let policy = HttpPolicy { cache: Some(cache()), ..policy(auth()) };
    let mut edge = edge_of(site.address, policy.clone()).await;
    let got = show(&edge, "/", ANNA).await;
    assert_eq!((got.status, &*got.body, got.is_hit()), (200, "secret", false));
    assert!(!site.asked()[0].to_lowercase().contains("authorization"));
    // Another user has it from the cache; strangers do not.
    let got = show(&edge, "/", BERTA).await;
    assert_eq!((got.status, &*got.body, got.is_hit()), (200, "secret", true));
    for fields in [
        String::new(),
        format!("authorization: {WRONG}"),
        "cache-control: only-if-cached".into(),
        "if-none-match: *".into(),
        "range: bytes=0-1".into(),
    ] {
        let got = ask(&edge, "GET", "/", &fields).await;
        assert_eq!((got.status, got.body.contains("secret")), (401, false), "{fields}");
        assert_eq!(got.field("cache-status"), "");
    }
    assert_eq!(site.count(), 1);
    // What the site is told of, it may answer by: RFC 9111 §3.5 keeps that from others.
    let told = BasicAuth { pass_authorization: true, ..auth() };
    let policy = HttpPolicy { cache: Some(cache()), ..self::policy(told) };
    edge.publish(vec![with_policy(route(HOST, "t_a", "web_a", "s1"), policy)], Vec::new());
    for shown in [ANNA, BERTA, ANNA] {
        let got = show(&edge, "/told", shown).await;
        assert_eq!((got.status, got.is_hit()), (200, false));
    }
    assert_eq!(site.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_with_many_pictures_costs_one_check() {
    let (edge, node) = edge(policy(auth())).await;
    let client = edge.client_with(&[HOST], |builder| builder.resolve(HOST, edge.https));
    let get = |n: usize| {
        let request = client.get(edge.tls_url(HOST, &format!("/{n}"))).header(AUTHORIZATION, BERTA);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let all = futures::future::join_all((0..80).map(get)).await;
    assert!(all.iter().all(|status| *status == 200), "{all:?}");
    assert_eq!((node.requests(), checked(&edge, "right"), checked(&edge, "wrong")), (80, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_few() {
    use base64::Engine as _;
    let (edge, node) = edge(policy(auth())).await;
    let guess = async |from: &str, n: usize| {
        let shown = base64::engine::general_purpose::STANDARD.encode(format!("anna:guess-{n}"));
        ask(&edge, "GET", "/", &format!("x-forwarded-for: {from}|authorization: Basic {shown}")).await
    };
    let of = async |from: &str, shown: &str| {
        ask(&edge, "GET", "/", &format!("x-forwarded-for: {from}|authorization: {shown}")).await.status
    };
    assert_eq!(of("192.0.2.1", BERTA).await, 200);
    for n in 0..19 {
        assert_eq!(guess("192.0.2.1", n).await.status, 401, "{n}");
    }
    // The time in which these are checked gives room for some more.
    let mut told = None;
    for n in 19..60 {
        let got = guess("192.0.2.1", n).await;
        if got.status == 429 {
            told = Some(got.field("retry-after").parse::<u32>().unwrap());
            break;
        }
    }
    assert!(told.is_some_and(|seconds| (1..=3).contains(&seconds)), "{told:?}");
    let spent = checked(&edge, "wrong");
    // What is known costs nothing: neither what is right, nor what was wrong before.
    assert_eq!((of("192.0.2.1", BERTA).await, guess("192.0.2.1", 0).await.status), (200, 401));
    assert_eq!(guess("192.0.2.2", 100).await.status, 401, "another address");
    assert_eq!(checked(&edge, "wrong"), spent + 1);
    assert!(rulings(&edge, "too_many") >= 1);
    assert_eq!(node.requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_asked_for_over_https_where_it_leads_there() {
    let (mut edge, node) = edge(HttpPolicy { https_redirect: Some(true), ..policy(auth()) }).await;
    assert_eq!(ask(&edge, "GET", "/", "").await.status, 401, "there is no certificate yet");
    let certificate = Authority::new().certificate("c1", &[HOST], (&key(1), &audience()));
    edge.publish(vec![share(&edge, 1), certificate], Vec::new());
    let got = show(&edge, "/a", ANNA).await;
    assert_eq!((got.status, got.field(LOCATION.as_str())), (301, &*format!("https://{HOST}:4433/a")));
    assert_eq!(got.field("www-authenticate"), "");
    assert_eq!(node.requests(), 0);
}
