//! What the cache answers with, and what it does not.

use std::time::{Duration, SystemTime};

use hosting_edge::Settings;
use hosting_intent::message::{CachePolicy, HttpPolicy, State};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::cache_site::{HOST, Says, Site, ask, ask_at, cache, edge_of, get, read, says};
use crate::harness::{route, settings, tenant, with_policy};
use crate::http3_client::Browser;

/// A date so many seconds from now.
fn date(seconds: i64) -> String {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { SystemTime::now() - by } else { SystemTime::now() + by };
    httpdate::fmt_http_date(time)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_used_again_is_and_nothing_else() {
    let tomorrow = date(86_400);
    // The first request, the response, the second request, whether the second one is answered without the node.
    let cases: Vec<(&str, u16, String, &str, bool)> = vec![
        ("", 200, "cache-control: max-age=60".into(), "", true),
        ("", 200, "cache-control: s-maxage=60, max-age=0".into(), "", true),
        ("", 200, format!("expires: {tomorrow}"), "", true),
        ("", 200, "cdn-cache-control: max-age=60|cache-control: no-store".into(), "", true),
        ("", 404, "cache-control: max-age=60".into(), "", true),
        ("", 301, "cache-control: max-age=60|location: /b".into(), "", true),
        ("", 200, "cache-control: public, max-age=60".into(), "authorization: Basic eA==", true),
        ("cookie: theme=dark", 200, "cache-control: max-age=60".into(), "cookie: theme=light", true),
        (
            "accept-language: de",
            200,
            "cache-control: max-age=60|vary: accept-language".into(),
            "accept-language: de",
            true,
        ),
        (
            "accept-encoding: gzip, br",
            200,
            "cache-control: max-age=60|vary: Accept-Encoding".into(),
            "accept-encoding: br,gzip;q=0.5",
            true,
        ),
        ("", 200, "cache-control: max-age=60".into(), "cache-control: max-age=30", true),
        ("", 200, "cache-control: max-age=60".into(), "cache-control: only-if-cached", true),
        ("", 200, "cache-control: max-age=1|age: 2|etag: \"a\"".into(), "cache-control: max-stale=60", true),
        // Not these.
        (
            "accept-encoding: gzip",
            200,
            "cache-control: max-age=60|content-encoding: gzip".into(),
            "accept-encoding: br",
            false,
        ),
        ("", 200, String::new(), "", false),
        ("", 200, "etag: \"a\"".into(), "", false),
        ("", 200, "cache-control: no-store, max-age=60".into(), "", false),
        ("", 200, "cache-control: private, max-age=60".into(), "", false),
        ("", 200, "cache-control: max-age=60|set-cookie: a=b".into(), "", false),
        ("", 200, "cache-control: max-age=60|vary: *".into(), "", false),
        ("", 200, "cache-control: max-age=0".into(), "", false),
        ("", 200, "cache-control: max-age=60|age: 60".into(), "", false),
        ("", 206, "cache-control: max-age=60|content-range: bytes 0-3/9".into(), "", false),
        (
            "authorization: Basic eA==",
            200,
            "cache-control: max-age=60".into(),
            "authorization: Basic eA==",
            false,
        ),
        ("", 200, "cache-control: max-age=60".into(), "authorization: Basic eA==", false),
        ("cookie: wordpress_logged_in_1=a", 200, "cache-control: max-age=60".into(), "", false),
        ("", 200, "cache-control: max-age=60".into(), "cookie: wordpress_logged_in_1=a", false),
        (
            "accept-language: de",
            200,
            "cache-control: max-age=60|vary: accept-language".into(),
            "accept-language: en",
            false,
        ),
        (
            "accept-encoding: gzip",
            200,
            "cache-control: max-age=60|vary: accept-encoding".into(),
            "accept-encoding: br",
            false,
        ),
        ("", 200, "cache-control: max-age=60".into(), "cache-control: no-cache", false),
        ("", 200, "cache-control: max-age=60".into(), "pragma: no-cache", false),
        ("", 200, "cache-control: max-age=60".into(), "cache-control: min-fresh=90", false),
        ("", 200, "cache-control: max-age=60".into(), "cache-control: no-store", false),
        ("cache-control: no-store", 200, "cache-control: max-age=60".into(), "", false),
        (
            "",
            200,
            "cache-control: max-age=1, must-revalidate|age: 2|etag: \"a\"".into(),
            "cache-control: max-stale=60",
            false,
        ),
        (
            "accept-language: de|connection: accept-language",
            200,
            "cache-control: max-age=60|vary: accept-language".into(),
            "accept-language: de",
            false,
        ),
    ];
    let responses: Vec<(u16, String)> =
        cases.iter().map(|(_, status, fields, ..)| (*status, fields.clone())).collect();
    let site = Site::start(move |head| {
        let case: usize = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        says(responses[case].0, &responses[case].1, "body")
    })
    .await;
    let edge = edge_of(&site, cache(), settings()).await;
    for (n, (first, status, response, second, hits)) in cases.iter().enumerate() {
        let before = site.count();
        let path = format!("/{n}");
        let one = ask(&edge, "GET", &path, first).await;
        let two = ask(&edge, "GET", &path, second).await;
        let said = format!("{n}: {first:?} {response:?} {second:?}: {one:?} {two:?}");
        assert_eq!((one.status, two.status, &*two.body), (*status, *status, "body"), "{said}");
        assert_eq!(site.count() - before, if *hits { 1 } else { 2 }, "{said}");
        assert_eq!(two.is_hit(), *hits, "{said}");
        if *hits {
            assert!(two.field("age").parse::<u64>().is_ok() && !two.field("date").is_empty(), "{said}");
        }
    }
    let none = ask(&edge, "GET", "/0?none", "cache-control: only-if-cached").await;
    assert_eq!((none.status, none.field("cache-status")), (504, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_http_gets_it_and_compressed_where_it_is_wanted() {
    let text = "<p>the same again</p>\n".repeat(1_000);
    let sent = text.clone();
    let site = Site::start(move |_| {
        says(200, "content-type: text/html|etag: \"v1\"|cache-control: max-age=60", &sent)
    })
    .await;
    let mut edge = edge_of(&site, cache(), settings()).await;
    let policy = HttpPolicy { cache: Some(cache()), compression: Some(true), ..HttpPolicy::default() };
    edge.publish(vec![with_policy(route(HOST, "t_a", "web_a", "s1"), policy)], Vec::new());
    // Each scheme is a page of its own.
    let h1 = edge.client_with(&[HOST], |builder| builder.resolve(HOST, edge.https).http1_only());
    let h2 = edge.client_with(&[HOST], |builder| builder.resolve(HOST, edge.https));
    let url = edge.tls_url(HOST, "/");
    assert!(h1.get(&url).send().await.unwrap().text().await.unwrap() == text);
    for client in [&h1, &h2] {
        for coding in ["", "gzip", "zstd"] {
            let answer = client.get(&url).header("accept-encoding", coding).send().await.unwrap();
            let fields = answer.headers().clone();
            assert!(fields["cache-status"].to_str().unwrap().starts_with("edge; hit; ttl="), "{fields:?}");
            assert_eq!(fields.get("content-encoding").map_or("", |value| value.to_str().unwrap()), coding);
            assert_eq!(fields["vary"], "accept-encoding");
            let bytes = answer.bytes().await.unwrap();
            assert!(if coding.is_empty() { bytes == text } else { bytes.len() < text.len() / 10 });
        }
        let known = client.get(&url).header("if-none-match", "W/\"v1\"").send().await.unwrap();
        assert_eq!(known.status(), 304);
    }
    let mut browser = Browser::connect(&edge, HOST).await;
    let answer = browser.ask(http::Request::get(&url).body(()).unwrap(), b"").await;
    let status = answer.head.headers()["cache-status"].to_str().unwrap();
    assert!(status.starts_with("edge; hit") && answer.body == text.as_bytes(), "{:?}", answer.head);
    assert_eq!(site.count(), 1);
    assert!(
        !site.asked()[0].to_lowercase().contains("accept-encoding"),
        "the node is asked for the text as it is"
    );
    let authority = url.strip_prefix("https://").unwrap().trim_end_matches('/');
    let request = format!("GET / HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    assert!(read(&edge.raw(request.as_bytes()).await).body == text);
    assert_eq!(site.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_conditions_and_heads_are_answered_from_the_whole() {
    let old = date(-1_000);
    let fields = format!("etag: \"v1\"|last-modified: {old}|cache-control: max-age=60|x-other: 1");
    let site = Site::start(move |_| says(200, &fields, "0123456789")).await;
    let edge = edge_of(&site, cache(), settings()).await;
    get(&edge, "/").await;
    let since = format!("if-modified-since: {old}");
    for (method, fields, status, range, body) in [
        ("GET", "range: bytes=2-4", 206, "bytes 2-4/10", "234"),
        ("GET", "range: bytes=-2", 206, "bytes 8-9/10", "89"),
        ("GET", "range: bytes=10-", 416, "bytes */10", ""),
        ("GET", "range: bytes=0-1,4-5", 200, "", "0123456789"),
        ("GET", "range: bytes=0-1|if-range: \"v1\"", 206, "bytes 0-1/10", "01"),
        ("GET", "range: bytes=0-1|if-range: \"v0\"", 200, "", "0123456789"),
        ("GET", "if-none-match: \"v0\", \"v1\"", 304, "", ""),
        ("GET", &since, 304, "", ""),
        ("GET", "if-none-match: \"v0\"", 200, "", "0123456789"),
        ("HEAD", "", 200, "", ""),
        ("HEAD", "if-none-match: \"v1\"", 304, "", ""),
    ] {
        let got = ask(&edge, method, "/", fields).await;
        assert_eq!(
            (got.status, got.field("content-range"), &*got.body),
            (status, range, body),
            "{method} {fields}"
        );
        assert!(got.is_hit() && got.field("etag") == "\"v1\"", "{got:?}");
        let length = match status {
            304 => String::new(),
            _ if method == "HEAD" => "10".to_owned(),
            _ => body.len().to_string(),
        };
        assert_eq!(got.field("content-length"), length, "{method} {fields}");
        assert_eq!(got.field("x-other"), if status == 304 { "" } else { "1" });
    }
    assert_eq!(site.count(), 1);
    // Parts and heads of what is not stored go to the node as they are, and are not stored.
    for _ in 0..2 {
        ask(&edge, "GET", "/other", "range: bytes=0-1").await;
        ask(&edge, "HEAD", "/other", "").await;
    }
    assert_eq!(site.count(), 5);
    assert!(site.asked()[1].contains("range: bytes=0-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_asked_whether_it_still_holds() {
    let site = Site::start(|head| match head {
        _ if head.contains("GET /same ") && head.contains("if-none-match: \"a\"") => {
            says(304, "etag: \"a\"|cache-control: max-age=60|x-news: 2", "")
        }
        _ if head.contains("GET /other ") && head.contains("if-none-match: \"a\"") => {
            says(304, "etag: \"b\"|cache-control: max-age=60", "")
        }
        _ if head.contains("if-none-match: \"a\"") => {
            says(200, "etag: \"b\"|cache-control: max-age=60", "new")
        }
        _ => says(200, "etag: \"a\"|cache-control: max-age=1|age: 5|x-news: 1", "old"),
    })
    .await;
    let edge = edge_of(&site, cache(), settings()).await;
    for path in ["/same", "/changed", "/other"] {
        assert_eq!(get(&edge, path).await.body, "old");
    }
    let same = get(&edge, "/same").await;
    assert_eq!((same.status, &*same.body, same.field("x-news")), (200, "old", "2"));
    assert_eq!(same.field("cache-status"), "edge; fwd=stale; fwd-status=304");
    assert!(get(&edge, "/same").await.is_hit());
    let changed = get(&edge, "/changed").await;
    assert_eq!((&*changed.body, changed.field("cache-status")), ("new", "edge; fwd=stale; stored"));
    assert!(get(&edge, "/changed").await.is_hit());
    let before = site.count();
    assert_eq!(get(&edge, "/other").await.body, "old", "a 304 about another one: asked for all of it");
    assert_eq!(site.count(), before + 2);
    // A client's own condition is answered by what was renewed.
    assert_eq!(ask(&edge, "GET", "/same", "if-none-match: \"a\"").await.status, 304);
    assert_eq!(edge.metric("hosting_edge_cache_requests_total{outcome=\"revalidated\"}"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_is_used_while_a_new_one_is_fetched() {
    let site = Site::start(|head| match head.contains("if-none-match") {
        true => says(200, "etag: \"b\"|cache-control: max-age=60", "new").after(300),
        false => says(200, "etag: \"a\"|cache-control: max-age=1, stale-while-revalidate=600|age: 5", "old"),
    })
    .await;
    let edge = edge_of(&site, cache(), settings()).await;
    get(&edge, "/").await;
    for _ in 0..5 {
        let got = get(&edge, "/").await;
        assert!(got.is_hit() && got.body == "old", "{got:?}");
    }
    while get(&edge, "/").await.body == "old" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(site.count(), 2, "one fetches for all");
    assert!(edge.metric("hosting_edge_cache_requests_total{outcome=\"stale\"}") >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_is_used_while_the_site_fails() {
    let control = "cache-control: max-age=1, stale-if-error=600|age: 5|etag: \"a\"";
    let site = Site::start(move |head| match head {
        _ if head.contains("GET /strict ") && !head.contains("if-none-match") => says(
            200,
            "cache-control: max-age=1, must-revalidate, stale-if-error=600|age: 5|etag: \"a\"",
            "old",
        ),
        _ if !head.contains("if-none-match") => says(200, control, "old"),
        _ if head.contains("GET /closes ") => Says { bytes: Vec::new(), after: Duration::ZERO },
        _ if head.contains("GET /missing ") => says(404, "", "gone"),
        _ => says(503, "", "broken").after(200),
    })
    .await;
    let edge = edge_of(&site, cache(), settings()).await;
    for (path, status, body) in [
        ("/fails", 200, "old"),
        ("/closes", 200, "old"),
        ("/strict", 503, "broken"),
        ("/missing", 404, "gone"),
    ] {
        get(&edge, path).await;
        let got = get(&edge, path).await;
        assert_eq!((got.status, &*got.body), (status, body), "{path}");
    }
    // Who waits for an answer has it too: one asks a site that fails.
    let before = site.count();
    for got in futures::future::join_all((0..20).map(|_| get(&edge, "/fails"))).await {
        assert_eq!((got.status, &*got.body, got.field("cache-status")), (200, "old", "edge; hit; ttl=-1"));
    }
    assert_eq!(site.count(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_not_stored() {
    let site = Site::start(|head| {
        let framing = match head {
            _ if head.contains("/chunked ") => "transfer-encoding: chunked",
            _ if head.contains("/closed ") => "x-length: unknown",
            _ => "content-length: 9",
        };
        let body = if head.contains("/chunked ") { "4\r\nhalf\r\n" } else { "half" };
        let text = format!("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\n{framing}\r\n\r\n{body}");
        Says { bytes: text.into_bytes(), after: Duration::ZERO }
    })
    .await;
    let edge = edge_of(&site, cache(), settings()).await;
    for path in ["/length", "/chunked"] {
        for _ in 0..2 {
            assert!(!get(&edge, path).await.is_hit());
        }
    }
    assert_eq!(edge.metric("hosting_edge_cache_bytes"), 0);
    for _ in 0..2 {
        assert!(!get(&edge, "/closed").await.is_hit(), "it may have broken off");
    }
    assert_eq!(site.count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_ask_for_the_same_one_goes() {
    let site = Site::start(|_| says(200, "cache-control: max-age=60", "shared").after(300)).await;
    let edge = edge_of(&site, cache(), settings()).await;
    let all = (0..50).map(|_| get(&edge, "/"));
    for got in futures::future::join_all(all).await {
        assert_eq!((got.status, &*got.body), (200, "shared"));
    }
    assert_eq!(site.count(), 1);
    assert_eq!(edge.metric("hosting_edge_cache_requests_total{outcome=\"hit\"}"), 49);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_one_is_shared_with_nobody() {
    let site = Site::start(|head| {
        let who = head.lines().find_map(|line| line.strip_prefix("x-who: ")).unwrap().to_owned();
        let fields = match head {
            _ if head.contains("/vary ") => "cache-control: max-age=60|vary: x-who".to_owned(),
            // A shared cache may store these, and has to ask for each request whether they hold for it.
            _ if head.contains("/checked ") => format!("cache-control: no-cache|etag: \"{who}\""),
            _ if head.contains("/past ") => format!("cache-control: max-age=0|etag: \"{who}\""),
            _ => "set-cookie: a=b".to_owned(),
        };
        says(200, &fields, &who).after(if who == "slow" { 3_000 } else { 200 })
    })
    .await;
    let edge = edge_of(&site, cache(), settings()).await;
    for path in ["/vary", "/checked", "/past", "/cookie"] {
        let all = (0..20).map(|who| {
            let (edge, fields) = (&edge, format!("x-who: {who}"));
            async move { (who, ask(edge, "GET", path, &fields).await.body) }
        });
        for (who, got) in futures::future::join_all(all).await {
            assert_eq!(got, who.to_string(), "{path}");
        }
    }
    assert_eq!(site.count(), 80);
    // That it is for nobody else is remembered: nobody waits, and conditions reach the node.
    ask(&edge, "GET", "/cookie", "x-who: 1|if-none-match: \"x\"").await;
    assert!(site.asked()[80].contains("if-none-match: \"x\""));
    // So is that each has to ask.
    let http = edge.http;
    let slow = tokio::spawn(async move { ask_at(http, "GET", "/checked", "x-who: slow").await });
    while site.count() == 81 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ask(&edge, "GET", "/checked", "x-who: quick").await.body, "quick");
    assert!(!slow.is_finished(), "nobody waits");
    assert_eq!(slow.await.unwrap().body, "slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_one_goes_when_the_first_client_leaves() {
    let site = Site::start(|_| says(200, "cache-control: max-age=60", "x").after(500)).await;
    let edge = edge_of(&site, cache(), settings()).await;
    let client = || edge.client_with(&[HOST], |builder| builder.resolve(HOST, edge.https));
    let url = edge.tls_url(HOST, "/");
    let leaving = tokio::spawn(client().get(&url).send());
    while site.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let waiting = tokio::spawn(client().get(&url).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(site.count(), 1);
    leaving.abort();
    assert_eq!(waiting.await.unwrap().unwrap().text().await.unwrap(), "x");
    assert_eq!(site.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_holds_nobody_up() {
    // More than the kernel holds for a client that reads nothing.
    let body = "0123456789".repeat(1_000_000);
    let sent = body.clone();
    let site = Site::start(move |_| says(200, "cache-control: max-age=60", &sent).after(100)).await;
    let policy = CachePolicy { max_object_bytes: 64 << 20, ..cache() };
    let edge = edge_of(&site, policy, Settings { cache_bytes: 1 << 30, ..settings() }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut slow = socket.connect(edge.http).await.unwrap();
    slow.write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    while site.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let got = get(&edge, "/").await;
    assert!(got.is_hit() && got.body == body);
    let mut all = String::new();
    slow.read_to_string(&mut all).await.unwrap();
    assert!(read(&all).body == body, "it gets all of it in the end");
    assert_eq!(site.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_makes_what_is_stored_of_a_page_out_of_date() {
    let site = Site::start(|head| match head {
        _ if head.starts_with("POST /fails ") => says(500, "", ""),
        _ if head.starts_with("POST ") => {
            says(303, "location: /list|content-location: http://www.example.com/item", "")
        }
        _ if head.starts_with("GET /slow ") => says(200, "cache-control: max-age=60", "before").after(400),
        _ => says(200, "cache-control: max-age=60", "x"),
    })
    .await;
    let edge = edge_of(&site, cache(), settings()).await;
    for path in ["/form", "/list", "/item", "/fails", "/other"] {
        get(&edge, path).await;
        assert!(get(&edge, path).await.is_hit());
    }
    for path in ["/form?utm_source=x", "/fails"] {
        assert_eq!(
            ask(&edge, "POST", path, "content-length: 0").await.field("cache-status"),
            "edge; fwd=method"
        );
    }
    for (path, is_hit) in
        [("/form", false), ("/list", false), ("/item", false), ("/fails", true), ("/other", true)]
    {
        assert_eq!(get(&edge, path).await.is_hit(), is_hit, "{path}");
    }
    // What was under way meanwhile is the state of before.
    let (slow, ()) = tokio::join!(get(&edge, "/slow"), async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        ask(&edge, "POST", "/slow", "content-length: 0").await;
    });
    assert_eq!(slow.body, "before");
    assert!(!get(&edge, "/slow").await.is_hit());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_everything_is_as_it_was() {
    for (cache_bytes, policy) in
        [(64 << 20, None), (64 << 20, Some(CachePolicy { enabled: false, ..cache() })), (0, Some(cache()))]
    {
        let site = Site::start(|_| says(200, "cache-control: max-age=60|cache-tag: a", "x")).await;
        let mut edge = edge_of(&site, cache(), Settings { cache_bytes, ..settings() }).await;
        let policy = HttpPolicy { cache: policy, ..HttpPolicy::default() };
        edge.publish(vec![with_policy(route(HOST, "t_a", "web_a", "s1"), policy)], Vec::new());
        for n in 1..3 {
            let got = ask(&edge, "GET", "/?utm_source=x", "if-none-match: \"a\"").await;
            assert_eq!((got.field("cache-status"), got.field("cache-tag"), site.count()), ("", "a", n));
        }
        assert!(site.asked()[0].contains("utm_source=x") && site.asked()[0].contains("if-none-match"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_cannot_be_poisoned_by_what_is_in_no_key() {
    let site = Site::start(|head| {
        let lines: Vec<_> = head.lines().filter(|line| !line.starts_with("x-hosting-")).collect();
        says(200, "cache-control: max-age=60", &lines.join("\n"))
    })
    .await;
    let edge = edge_of(&site, cache(), settings()).await;
    let evil = "x-original-url: /admin|X-Rewrite-Url: /evil|x_original_url: /evil|x-forwarded-host: evil|x-http-method-override: EVIL|x-host: evil|x-forwarded-scheme: evil";
    let first = ask(&edge, "GET", "/?a=1&utm_source=evil&b=2", evil).await;
    assert!(
        !first.body.contains("evil") && !first.body.contains("EVIL") && !first.body.contains("/admin"),
        "{}",
        first.body
    );
    assert!(first.body.starts_with("GET /?a=1&b=2 HTTP/1.1"), "{}", first.body);
    let second = get(&edge, "/?a=1&b=2&utm_medium=y").await;
    assert!(second.is_hit() && second.body == first.body);
    for other in ["/?b=2&a=1", "/?a=1&b=2&c", "/?a=1", "/A?a=1&b=2", "/%3Fa=1&b=2"] {
        assert!(!get(&edge, other).await.is_hit(), "{other}");
    }
    let other_port = format!("GET /?a=1&b=2 HTTP/1.1\r\nhost: {HOST}:81\r\nconnection: close\r\n\r\n");
    assert!(!read(&edge.raw(other_port.as_bytes()).await).is_hit());
    // What is in the body of a request is in no key either: neither is it answered from the cache, nor what is said to it stored.
    for path in ["/?a=1&b=2", "/new"] {
        let with_body = format!(
            "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: 4\r\n\r\nevil"
        );
        assert_eq!(read(&edge.raw(with_body.as_bytes()).await).field("cache-status"), "edge; fwd=bypass");
    }
    assert!(!get(&edge, "/new").await.is_hit());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_is_stored_as_the_policy_says_and_the_log_tells() {
    let site = Site::start(|_| says(200, "", "x")).await;
    let policy = CachePolicy { default_ttl_seconds: 600, ..cache() };
    let mut edge = edge_of(&site, policy, settings()).await;
    get(&edge, "/").await;
    assert!(ask(&edge, "GET", "/", "cookie: _ga=1; _gid=2").await.is_hit());
    assert!(!ask(&edge, "GET", "/", "cookie: theme=dark").await.is_hit());
    ask(&edge, "GET", "/", "cookie: wordpress_logged_in_x=1").await;
    ask(&edge, "POST", "/", "content-length: 0").await;
    let logged = edge.logged(5).await;
    let mut said: Vec<_> = logged.iter().map(|line| line["cache"].as_str().unwrap_or("none")).collect();
    // Lines of the same moment stand in any order.
    said.sort_unstable();
    assert_eq!(said, ["bypass", "bypass", "hit", "miss", "miss"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_and_a_tenant_has_its_share() {
    let body = "x".repeat(9_000);
    let site = Site::start(move |_| says(200, "cache-control: max-age=600", &body)).await;
    let bytes = 1 << 20;
    let mut edge = edge_of(&site, cache(), Settings { cache_bytes: bytes, ..settings() }).await;
    let policy = HttpPolicy { cache: Some(cache()), ..HttpPolicy::default() };
    edge.publish(
        vec![tenant("t_b", State::Active), with_policy(route("b.example.com", "t_b", "web_b", "s1"), policy)],
        Vec::new(),
    );
    let other = || async {
        let request = "GET / HTTP/1.1\r\nhost: b.example.com\r\nconnection: close\r\n\r\n";
        read(&edge.raw(request.as_bytes()).await)
    };
    other().await;
    for n in 0..200 {
        get(&edge, &format!("/{n}")).await;
        let held = edge.metric("hosting_edge_cache_bytes");
        assert!(held <= bytes as u64 / 4 + 11_000, "{n}: {held}");
    }
    assert!(edge.metric("hosting_edge_cache_evictions_total") > 100);
    assert!(edge.metric("hosting_edge_cache_pages") > 15);
    assert!(other().await.is_hit(), "the other tenant keeps what it has");
    assert!(get(&edge, "/199").await.is_hit() && !get(&edge, "/0").await.is_hit());
    // What is larger than an entry may be goes to the client, and is not stored.
    let large = Site::start(|_| says(200, "cache-control: max-age=600", &"y".repeat(100_000))).await;
    let edge = edge_of(&large, cache(), Settings { cache_bytes: bytes, ..settings() }).await;
    for _ in 0..2 {
        let got = get(&edge, "/").await;
        assert!(!got.is_hit() && got.body.len() == 100_000);
    }
    assert_eq!(edge.metric("hosting_edge_cache_bytes"), 0);
}
