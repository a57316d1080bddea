//! Crawlers: who they are, what a policy lets them do, and a list of them that is replaced while the edge runs.

use std::time::Duration;

use hosting_edge::Settings;
use hosting_intent::message::crawler_rule::Of;
use hosting_intent::message::{
    CrawlerAction, CrawlerClass, CrawlerPolicy, CrawlerRule, CrawlerVerdict, EdgeCount, HttpPolicy, State,
};
use hosting_intent::{EdgeIntent, Kind};
use reqwest::header::{RETRY_AFTER, USER_AGENT};

use crate::harness::{Edge, Node, pool, route, settings, tenant, upsert, with_policy};
use crate::http3_client::Browser;

const HOST_NAME: &str = "www.example.com";
const BOT: &str = "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)";

fn action(verdict: CrawlerVerdict, per_minute: u32) -> Option<CrawlerAction> {
    Some(CrawlerAction { verdict: verdict as i32, per_minute })
}

fn rules(rules: &[(Of, (CrawlerVerdict, u32))]) -> HttpPolicy {
    let rule = |(of, (verdict, per_minute)): &(Of, (CrawlerVerdict, u32))| CrawlerRule {
        of: Some(of.clone()),
        action: action(*verdict, *per_minute),
        impostors: action(CrawlerVerdict::Deny, 0),
    };
    let crawlers = Some(CrawlerPolicy { rules: rules.iter().map(rule).collect() });
    HttpPolicy { crawlers, ..HttpPolicy::default() }
}

async fn edge(settings: Settings, policy: HttpPolicy) -> (Edge, Node) {
    let node = Node::start("node-1").await;
    let mut edge = Edge::with(settings).await;
    edge.publish(
        vec![
            tenant("t_a", State::Active),
            pool("s1", &[("n1", node.address, true)]),
            with_policy(route(HOST_NAME, "t_a", "web_a", "s1"), policy),
            route("free.example.com", "t_a", "web_b", "s1"),
        ],
        Vec::new(),
    );
    (edge, node)
}

fn counted(edge: &Edge, class: &str, outcome: &str) -> u64 {
    edge.metric(&format!("hosting_edge_crawler_requests_total{{class=\"{class}\",outcome=\"{outcome}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawler_that_is_not_let_in_is_told_so_over_every_version_of_http() {
    let denied = rules(&[(Of::Class(CrawlerClass::Ai as i32), (CrawlerVerdict::Deny, 0))]);
    let (mut edge, node) = edge(settings(), denied).await;
    let h1 = edge.client(&[HOST_NAME, "free.example.com"]);
    let h2 = edge.client_with(&[HOST_NAME], |builder| builder.resolve(HOST_NAME, edge.https));
    for (client, url) in [(&h1, edge.url(HOST_NAME, "/")), (&h2, edge.tls_url(HOST_NAME, "/"))] {
        let ask =
            async |agent: &str| client.get(&url).header(USER_AGENT, agent).send().await.unwrap().status();
        assert_eq!((ask(BOT).await.as_u16(), ask("Mozilla/5.0 Firefox/140.0").await.as_u16()), (403, 200));
    }
    let mut browser = Browser::connect(&edge, HOST_NAME).await;
    let request = http::Request::get(format!("https://{HOST_NAME}/")).header(USER_AGENT, BOT);
    assert_eq!(browser.ask(request.body(()).unwrap(), b"").await.head.status(), 403);
    // A name whose policy says nothing of crawlers.
    let free = h1.get(edge.url("free.example.com", "/")).header(USER_AGENT, BOT).send().await.unwrap();
    assert_eq!(free.status(), 200);
    assert_eq!(node.requests(), 3);
    assert_eq!((counted(&edge, "ai", "denied"), counted(&edge, "ai", "passed")), (3, 0));
    assert_eq!(edge.metric("hosting_edge_policy_rulings_total{outcome=\"crawler\"}"), 3);
    let lines = edge.logged(6).await;
    let said = |line: &serde_json::Value| {
        ["crawler", "crawler_is", "reason"].map(|field| line[field].as_str().unwrap_or_default().to_owned())
    };
    for line in &lines {
        let is_ruled = line["user_agent"] == BOT && !line["host"].as_str().unwrap().starts_with("free.");
        let wanted = if is_ruled { ["gptbot", "unknown", "crawler"] } else { ["", "", ""] };
        assert_eq!(said(line), wanted, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_gives_its_share_of_a_names_budget_and_more_when_others_are_gone() {
    let budget = rules(&[(Of::Agent("gptbot".into()), (CrawlerVerdict::Limit, 6))]);
    let (mut edge, node) = edge(settings(), budget).await;
    let told = |in_service| upsert(Kind::EdgeCount, "edges", EdgeIntent::EdgeCount(EdgeCount { in_service }));
    edge.publish(vec![told(3)], Vec::new());
    let client = edge.client(&[HOST_NAME]);
    let ask = async |edge: &Edge, agent: &str| {
        client.get(edge.url(HOST_NAME, "/")).header(USER_AGENT, agent).send().await.unwrap()
    };
    for _ in 0..2 {
        assert_eq!(ask(&edge, BOT).await.status(), 200);
    }
    let refused = ask(&edge, BOT).await;
    assert_eq!(refused.status(), 429);
    let after: u64 = refused.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((25..=30).contains(&after), "two a minute: {after}");
    assert_eq!(ask(&edge, "Mozilla/5.0").await.status(), 200);
    // The others are out of service: what they do not take is this one's. It has spent a minute's share of two.
    edge.publish(vec![told(1)], Vec::new());
    let after: u64 = ask(&edge, BOT).await.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((5..=10).contains(&after), "six a minute: {after}");
    assert_eq!((node.requests(), counted(&edge, "ai", "limited"), counted(&edge, "ai", "passed")), (3, 2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_replaced_holds_at_once_and_a_broken_one_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("crawlers.json");
    let put = |networks: &str| {
        let new = dir.path().join("new");
        let text = format!(
            r#"{{"crawlers": [{{"name": "own", "class": "search", "user_agents": ["OwnBot"], "networks": [{networks}]}}]}}"#
        );
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    put("\"127.0.0.0/8\"");
    let allowed = rules(&[(Of::Agent("own".into()), (CrawlerVerdict::Allow, 0))]);
    let (mut edge, _node) = edge(Settings { crawlers_file: file.clone(), ..settings() }, allowed).await;
    let client = edge.client(&[HOST_NAME]);
    let ask = async |edge: &Edge| {
        client
            .get(edge.url(HOST_NAME, "/"))
            .header(USER_AGENT, "OwnBot/1")
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(ask(&edge).await, 200);
    let until = async |edge: &Edge, wanted: &dyn Fn(u64) -> bool| {
        for _ in 0..400 {
            if wanted(edge.metric("hosting_edge_crawlers_file_refused")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the file was not read");
    };
    put("broken");
    until(&edge, &|refused| refused == 1).await;
    assert_eq!(ask(&edge).await, 200);
    put("\"192.0.2.0/24\"");
    until(&edge, &|refused| refused == 0).await;
    assert_eq!(ask(&edge).await, 403, "it is an impostor now");
    assert_eq!(edge.metric("hosting_edge_crawlers_known"), 1);
    let lines = edge.logged(3).await;
    let mut proofs: Vec<_> = lines.iter().map(|line| line["crawler_is"].as_str().unwrap()).collect();
    proofs.sort_unstable();
    assert_eq!(proofs, ["impostor", "verified", "verified"]);
}
