//! The page by which visitors show that they are browsers, solved as its script does.

use hosting_edge::Settings;
use hosting_intent::message::{
    CachePolicy, ChallengeMode, ChallengePolicy, HttpPolicy, RateLimit, RatePer, State,
};
use reqwest::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HeaderMap, RETRY_AFTER, SET_COOKIE,
};
use reqwest::{Client, Response};
use sha2::{Digest, Sha256};

use crate::harness::{Edge, Node, pool, route, settings, tenant, with_policy};
use crate::http3_client::Browser;
use crate::tenant_certificates::share;
use crate::tickets::ticket_keys;

const HOST_NAME: &str = "www.example.com";
const OTHER: &str = "other.example.com";
const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

fn asks(mode: ChallengeMode) -> HttpPolicy {
    let challenge = ChallengePolicy {
        mode: mode as i32,
        exempt_paths: vec!["/api/".into()],
        exempt_networks: Vec::new(),
        difficulty: 10,
        pass_seconds: 600,
    };
    HttpPolicy { challenge: Some(challenge), ..HttpPolicy::default() }
}

async fn edge_before(node: &Node, settings: Settings, policy: HttpPolicy) -> Edge {
    let mut edge = Edge::with(settings).await;
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            with_policy(route(HOST_NAME, "t_a", "web_a", "s1"), policy.clone()),
            with_policy(route(OTHER, "t_a", "web_b", "s1"), policy),
            route("free.example.com", "t_a", "web_c", "s1"),
        ],
        Vec::new(),
    );
    edge
}

async fn edge(policy: HttpPolicy) -> (Edge, Node) {
    let node = Node::start("node-1").await;
    (edge_before(&node, settings(), policy).await, node)
}

/// What the page gives its script.
fn given(page: &str, field: &str) -> String {
    let from = page.split_once(&format!(" data-{field}=\"")).unwrap_or_else(|| panic!("{page}")).1;
    from.split_once('"').unwrap().0.to_owned()
}

fn base_36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::try_from(number % 36).unwrap()]);
        number /= 36;
        if number == 0 {
            digits.reverse();
            return String::from_utf8(digits).unwrap();
        }
    }
}

/// Where the answer to a page is sent, as `(path, token, number)`.
fn solved(page: &str) -> (String, String, String) {
    let (token, bits) = (given(page, "token"), given(page, "bits").parse::<u32>().unwrap());
    let is_found = |number: &String| {
        let digest = Sha256::digest(format!("{token}.{number}"));
        u32::from_be_bytes(digest[..4].try_into().unwrap()).leading_zeros() >= bits
    };
    let number = (0..).map(base_36).find(is_found).unwrap();
    (given(page, "path"), token, number)
}

fn answer_of(page: &str) -> String {
    let (path, token, number) = solved(page);
    format!("{path}?{token}.{number}")
}

async fn page(client: &Client, url: &str) -> String {
    let answer = client.get(url).header(ACCEPT, HTML).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    answer.text().await.unwrap()
}

/// The cookie as it is sent back.
fn pass(fields: &HeaderMap) -> String {
    fields[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned()
}

fn rulings(edge: &Edge, outcome: &str) -> u64 {
    edge.metric(&format!("hosting_edge_policy_rulings_total{{outcome=\"{outcome}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_does_the_work_is_let_in_over_every_version_of_http() {
    let (mut edge, node) = edge(asks(ChallengeMode::All)).await;
    let h1 = edge.client(&[HOST_NAME]);
    let h2 = edge.client_with(&[HOST_NAME], |builder| builder.resolve(HOST_NAME, edge.https));
    for (client, base) in [(&h1, edge.url(HOST_NAME, "")), (&h2, edge.tls_url(HOST_NAME, ""))] {
        let asked = client.get(format!("{base}/a?b")).header(ACCEPT, HTML).send().await.unwrap();
        let fields = asked.headers();
        assert_eq!((asked.status().as_u16(), &fields[CACHE_CONTROL]), (403, &"no-store".parse().unwrap()));
        assert!(fields[CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
        let policy = fields[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        let page = asked.text().await.unwrap();
        let shown = client.post(format!("{base}{}", answer_of(&page))).send().await.unwrap();
        assert_eq!(
            (shown.status().as_u16(), &shown.headers()[CACHE_CONTROL]),
            (204, &"no-store".parse().unwrap())
        );
        let cookie = shown.headers()[SET_COOKIE].to_str().unwrap();
        let is_tls = base.starts_with("https");
        let name = if is_tls { "__Host-hosting-browser=" } else { "hosting-browser=" };
        let more =
            format!("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax{}", if is_tls { "; Secure" } else { "" });
        assert!(cookie.starts_with(name) && cookie.ends_with(&more), "{cookie}");
        let with = format!("a=b; {}; c=d", pass(shown.headers()));
        let site = client.get(format!("{base}/a?b")).header(COOKIE, with).send().await.unwrap();
        assert_eq!(site.status(), 200);
        // The site is not told of it.
        let seen = site.text().await.unwrap();
        assert!(seen.contains("\ncookie: a=b; c=d\n"), "{seen}");
    }
    let mut browser = Browser::connect(&edge, HOST_NAME).await;
    let get = |cookie: Option<String>| {
        let request = http::Request::get(format!("https://{HOST_NAME}/")).header(ACCEPT, HTML);
        cookie.into_iter().fold(request, |request, cookie| request.header(COOKIE, cookie)).body(()).unwrap()
    };
    let asked = browser.ask(get(None), b"").await;
    let url = format!("https://{HOST_NAME}{}", answer_of(&String::from_utf8(asked.body).unwrap()));
    let shown = browser.ask(http::Request::post(url).body(()).unwrap(), b"").await;
    assert_eq!((asked.head.status().as_u16(), shown.head.status().as_u16()), (403, 204));
    let site = browser.ask(get(Some(pass(shown.head.headers()))), b"").await;
    let seen = String::from_utf8(site.body).unwrap();
    assert!(site.head.status() == 200 && !seen.contains("\ncookie:"), "{seen}");
    assert_eq!(
        (node.requests(), rulings(&edge, "browser_check"), rulings(&edge, "browser_shown")),
        (3, 3, 3)
    );
    let lines = edge.logged(9).await;
    for reason in ["browser_check", "browser_shown", ""] {
        let with = lines.iter().filter(|line| line["reason"].as_str().unwrap_or_default() == reason);
        assert_eq!(with.count(), 3, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_visit_of_a_page_gets_no_page() {
    let (edge, node) = edge(asks(ChallengeMode::All)).await;
    let client = edge.client(&[HOST_NAME, "free.example.com"]);
    let url = edge.url(HOST_NAME, "/");
    let refused = async |answer: Response, wanted: bool| {
        assert_eq!(answer.status(), 403);
        assert!(!answer.headers().contains_key(SET_COOKIE));
        assert_eq!(answer.text().await.unwrap().contains("data-token"), wanted);
    };
    let html = || client.get(&url).header(ACCEPT, HTML);
    refused(html().header("sec-fetch-mode", "navigate").send().await.unwrap(), true).await;
    refused(html().header("sec-fetch-mode", "cors").send().await.unwrap(), false).await;
    refused(client.get(&url).header(ACCEPT, "application/json").send().await.unwrap(), false).await;
    refused(client.get(&url).send().await.unwrap(), false).await;
    refused(client.post(&url).header(ACCEPT, HTML).body("a=b").send().await.unwrap(), false).await;
    let upgrade = html().header("connection", "upgrade").header("upgrade", "websocket");
    refused(upgrade.send().await.unwrap(), false).await;
    assert_eq!(client.head(&url).header(ACCEPT, HTML).send().await.unwrap().status(), 403);
    assert_eq!(
        (node.requests(), rulings(&edge, "browsers_only"), rulings(&edge, "browser_check")),
        (0, 6, 1)
    );
    // What is exempt is not asked; where nobody is asked, the path is the site's.
    let api = client.get(edge.url(HOST_NAME, "/api/a")).send().await.unwrap();
    let path = given(&page(&client, &url).await, "path");
    let free = client.post(edge.url("free.example.com", &path)).send().await.unwrap();
    assert_eq!((api.status().as_u16(), free.status().as_u16(), node.requests()), (200, 200, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_not_done_or_was_done_for_another_buys_nothing() {
    let (edge, _node) = edge(asks(ChallengeMode::All)).await;
    let client = edge.client(&[HOST_NAME, OTHER]);
    let (path, token, number) = solved(&page(&client, &edge.url(HOST_NAME, "/")).await);
    let post = async |host: &str, query: &str| {
        client.post(edge.url(host, &format!("{path}{query}"))).send().await.unwrap()
    };
    let wrong = (0..).map(base_36).find(|number| Sha256::digest(format!("{token}.{number}"))[0] != 0);
    // A token that this edge did not sign, with work that was done.
    let mut forged = token.clone();
    forged.replace_range(..16, "00000000ffffffff");
    let page = format!("<script data-token=\"{forged}\" data-bits=\"10\" data-path=\"{path}\">");
    let (_, forged, of_forged) = solved(&page);
    for query in [
        String::new(),
        "?".into(),
        format!("?{token}"),
        format!("?{token}.{}", wrong.unwrap()),
        format!("?{token}.{number}0000000"),
        format!("?{token}.{}", number.to_uppercase() + "A"),
        format!("?{forged}.{of_forged}"),
    ] {
        let refused = post(HOST_NAME, &query).await;
        assert!(refused.status() == 403 && !refused.headers().contains_key(SET_COOKIE), "{query}");
    }
    assert_eq!(post(OTHER, &format!("?{token}.{number}")).await.status(), 403, "another host");
    assert_eq!(rulings(&edge, "browser_not_shown"), 8);
    let shown = post(HOST_NAME, &format!("?{token}.{number}")).await;
    let pass = pass(shown.headers());
    let get = async |host: &str, cookie: &str| {
        client.get(edge.url(host, "/")).header(COOKIE, cookie).send().await.unwrap().status().as_u16()
    };
    assert_eq!((get(HOST_NAME, &pass).await, get(OTHER, &pass).await), (200, 403));
    // A token is no pass, nor is a pass for ever, or of somebody's own making.
    let value = pass.split_once('=').unwrap().1;
    let later = format!("hosting-browser=00000000ffffffff{}", &value[16..]);
    for cookie in
        [format!("hosting-browser={token}"), later, format!("__Host-{pass}"), "hosting-browser=".into()]
    {
        assert_eq!(get(HOST_NAME, &cookie).await, 403, "{cookie}");
    }
    assert_eq!(
        get(HOST_NAME, &format!("hosting-browser=x; {pass}")).await,
        200,
        "one of a name is not the only one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_holds_for_the_clients_network_alone_and_not_longer_than_it_says() {
    let node = Node::start("node-1").await;
    let forwarded_from = vec!["127.0.0.0/8".parse().unwrap()];
    let mut policy = asks(ChallengeMode::All);
    policy.challenge.as_mut().unwrap().pass_seconds = 2;
    let edge = edge_before(&node, Settings { forwarded_from, ..settings() }, policy).await;
    let client = edge.client(&[HOST_NAME]);
    let url = edge.url(HOST_NAME, "/");
    let asked =
        client.get(&url).header(ACCEPT, HTML).header("x-forwarded-for", "192.0.2.7").send().await.unwrap();
    let answer = answer_of(&asked.text().await.unwrap());
    let show = async |from: &str| {
        client.post(edge.url(HOST_NAME, &answer)).header("x-forwarded-for", from).send().await.unwrap()
    };
    assert_eq!(show("192.0.3.7").await.status(), 403, "work of another network");
    let shown = show("192.0.2.200").await;
    let pass = pass(shown.headers());
    let get = async |from: &str| {
        let request = client.get(&url).header(COOKIE, &pass).header("x-forwarded-for", from);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((get("192.0.2.9").await, get("192.0.3.9").await), (200, 403));
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(get("192.0.2.9").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_of_one_edge_holds_at_all_until_its_key_ends() {
    let node = Node::start("node-1").await;
    let mut one = edge_before(&node, settings(), asks(ChallengeMode::All)).await;
    let mut other = edge_before(&node, settings(), asks(ChallengeMode::All)).await;
    for edge in [&mut one, &mut other] {
        edge.publish(vec![share(edge, 1), ticket_keys(&[(1, 0), (2, i64::MAX)])], Vec::new());
    }
    let (first, second) = (one.client(&[HOST_NAME]), other.client(&[HOST_NAME]));
    // Asked at one, shown to the other, let in at both.
    let answer = answer_of(&page(&first, &one.url(HOST_NAME, "/")).await);
    let shown = second.post(other.url(HOST_NAME, &answer)).send().await.unwrap();
    let pass = pass(shown.headers());
    let get = async |client: &Client, edge: &Edge| {
        client.get(edge.url(HOST_NAME, "/")).header(COOKIE, &pass).send().await.unwrap().status().as_u16()
    };
    assert_eq!((get(&first, &one).await, get(&second, &other).await), (200, 200));
    // The next key seals; the one before still opens, until it is gone.
    one.publish(vec![ticket_keys(&[(1, 0), (2, 0)])], Vec::new());
    assert_eq!(get(&first, &one).await, 200);
    one.publish(vec![ticket_keys(&[(2, 0)])], Vec::new());
    assert_eq!(get(&first, &one).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_beyond_a_limit_may_show_that_he_is_a_browser() {
    let limit = RateLimit { requests: 2, seconds: 3_600, per: RatePer::Unspecified as i32 };
    let policy = HttpPolicy { rate_limits: vec![limit], ..asks(ChallengeMode::Suspicious) };
    let (edge, node) = edge(policy).await;
    let client = edge.client(&[HOST_NAME]);
    let get = async |cookie: &str| {
        let request = client.get(edge.url(HOST_NAME, "/")).header(ACCEPT, HTML).header(COOKIE, cookie);
        request.send().await.unwrap()
    };
    assert_eq!([get("a=b").await.status(), get("a=b").await.status()], [200, 200]);
    let asked = get("a=b").await;
    assert!(asked.status() == 429 && asked.headers().contains_key(RETRY_AFTER));
    let answer = answer_of(&asked.text().await.unwrap());
    let shown = client.post(edge.url(HOST_NAME, &answer)).send().await.unwrap();
    let pass = pass(shown.headers());
    assert_eq!([get(&pass).await.status(), get(&pass).await.status()], [200, 200]);
    // It has the limit once more, and not more.
    let refused = get(&pass).await;
    assert_eq!(refused.status(), 429);
    assert!(!refused.text().await.unwrap().contains("data-token"));
    let api = client.get(edge.url(HOST_NAME, "/")).header(ACCEPT, "application/json").send().await.unwrap();
    assert_eq!((api.status().as_u16(), node.requests()), (429, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_does_not_see_passes() {
    let cache = CachePolicy {
        enabled: true,
        default_ttl_seconds: 600,
        max_ttl_seconds: 600,
        bypass_cookies: vec!["hosting-browser".into(), "__Host-*".into()],
        max_object_bytes: 1_000_000,
        ..CachePolicy::default()
    };
    let node = crate::http3::node_that(|mut stream: tokio::net::TcpStream| async move {
        use tokio::io::AsyncWriteExt as _;
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\nconnection: close\r\n\r\nsite";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let mut edge = Edge::start().await;
    let policy = HttpPolicy { cache: Some(cache), ..asks(ChallengeMode::All) };
    edge.publish(
        vec![pool("s1", &[("n1", node, true)]), with_policy(route(HOST_NAME, "t_a", "web_a", "s1"), policy)],
        Vec::new(),
    );
    let client = edge.client(&[HOST_NAME]);
    let answer = answer_of(&page(&client, &edge.url(HOST_NAME, "/")).await);
    let shown = client.post(edge.url(HOST_NAME, &answer)).send().await.unwrap();
    let pass = pass(shown.headers());
    let status = async |cookie: &str| {
        let site = client.get(edge.url(HOST_NAME, "/")).header(COOKIE, cookie).send().await.unwrap();
        let status = site.headers().get("cache-status").map(|value| value.to_str().unwrap().to_owned());
        (site.text().await.unwrap(), status.unwrap_or_default())
    };
    // Stored as if no cookie had come, though this cookie would have kept it out, and the response says nothing.
    let (body, first) = status(&pass).await;
    assert!(body == "site" && first.contains("stored"), "{first}");
    assert!(status(&pass).await.1.starts_with("edge; hit"));
    // What is stored is behind the check like the site.
    let refused = client.get(edge.url(HOST_NAME, "/")).header(ACCEPT, HTML).send().await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(status(&pass).await.1.starts_with("edge; hit"), "the page of the check is not stored");
}

/// Runs the page's script where there is a browser of few words. Prints what it sends.
const FEW_WORDS: &str = r#"
const page = require("fs").readFileSync(0, "utf8");
const [, fields, script] = page.match(/<script([^>]*)>([^]*?)<\/script>/);
const dataset = Object.fromEntries([...fields.matchAll(/data-(\w+)="([^"]*)"/g)].map(([, name, value]) => [name, value]));
const said = {}, memory = {};
require("vm").runInNewContext(script, {
  document: { currentScript: { dataset }, getElementById: () => said },
  navigator: { cookieEnabled: true },
  sessionStorage: { getItem: (name) => memory[name], setItem: (name, value) => { memory[name] = value; } },
  fetch: async (url, { method }) => { console.log(method, url); },
  location: { reload: () => console.log("again") },
  setTimeout,
});
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_script_of_the_page_does_what_the_edge_asks() {
    let (edge, _node) = edge(asks(ChallengeMode::All)).await;
    let client = edge.client(&[HOST_NAME]);
    let asked = client.get(edge.url(HOST_NAME, "/")).header(ACCEPT, HTML).send().await.unwrap();
    let policy = asked.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    let page = asked.text().await.unwrap();
    // The browser runs the script by its digest.
    for kind in ["script", "style"] {
        let from = page.split_once(&format!("<{kind}")).unwrap().1.split_once('>').unwrap().1;
        let text = from.split_once(&format!("</{kind}>")).unwrap().0;
        let digest = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, Sha256::digest(text));
        assert!(policy.contains(&format!("{kind}-src 'sha256-{digest}'")), "{kind} {digest}: {policy}");
    }
    let node = std::process::Command::new("node")
        .args(["-e", FEW_WORDS])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut node) = node else {
        eprintln!("SKIPPED: the page's script is run by node, which is not there");
        return;
    };
    std::io::Write::write_all(&mut node.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let said = String::from_utf8(node.wait_with_output().unwrap().stdout).unwrap();
    let path = said.strip_prefix("POST ").and_then(|said| said.strip_suffix("\nagain\n"));
    let path = path.unwrap_or_else(|| panic!("{said}"));
    let shown = client.post(edge.url(HOST_NAME, path)).send().await.unwrap();
    assert_eq!(shown.status(), 204, "{path}");
}
