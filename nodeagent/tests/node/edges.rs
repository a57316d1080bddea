//! Who is believed, and who gets anything at all.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use hosting_agent_engine::{Phase, Secret};
use hosting_intent::Kind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::support::{
    Answer, Node, folder, key, layout, missing, php_webroot, send, static_webroot, tenant, upload,
};

const KEY: &str = "5ec0ffee5ec0ffee5ec0ffee5ec0ffee5ec0ffee5ec0ffee5ec0ffee5ec0ffee";

fn shown(value: &str) -> String {
    format!(
        "X-Hosting-Key: {value}\r\nX-Hosting-Host: shop.example\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-For: 192.0.2.7\r\n"
    )
}

/// Until the status is this one each time: for a moment two configurations answer by turns.
async fn until_status(node: &Node, host: &str, headers: &str, status: u16) -> Answer {
    let (began, mut times) = (Instant::now(), 0);
    loop {
        let answer = node.ask(host, "/", headers).await;
        times = if answer.status == status { times + 1 } else { 0 };
        if times == 10 {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{host} is not {status}: {answer:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A head without what changes from answer to answer.
fn lasting(answer: &Answer) -> String {
    answer.head.lines().filter(|line| !line.starts_with("Date:")).collect::<Vec<_>>().join("\n")
}

const WHO: &str = r#"<?php
echo json_encode(['addr' => $_SERVER['REMOTE_ADDR'], 'host' => $_SERVER['HTTP_HOST'], 'https' => $_SERVER['HTTPS'] ?? '',
  'headers' => implode(' ', array_keys($_SERVER)), 'all' => json_encode($_SERVER) . json_encode(getallheaders())]);
"#;

#[tokio::test(flavor = "multi_thread")]
async fn with_a_key_nobody_else_gets_anything() {
    if missing("with_a_key_nobody_else_gets_anything") {
        return;
    }
    let folder = folder();
    let sites = [("web_s", static_webroot("t_a")), ("web_p", php_webroot("t_a"))];
    let node = Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &sites).await;
    upload(&node.document_root("t_a", "web_s").join("index.html"), "static");
    upload(&node.document_root("t_a", "web_p").join("index.php"), WHO);
    // Before the first key the address decides.
    assert_eq!(node.get("web_s", "/").await.body, "static");

    node.key.send_replace(Some(Secret(KEY.into())));
    let refused = until_status(&node, "web_s", "", 421).await;
    for wrong in ["", "5ec0", &KEY.replace('5', "6"), &format!("{KEY}0"), "1", "\"; 1", "~.*"] {
        for host in ["web_s", "web_p"] {
            let answer = node.ask(host, "/", &shown(wrong)).await;
            assert_eq!(answer.status, 421, "{wrong:?}");
            // Nor does it show which sites there are.
            let stranger = node.ask("web_none", "/", &shown(wrong)).await;
            assert_eq!((lasting(&answer), &answer.body), (lasting(&stranger), &stranger.body), "{wrong:?}");
        }
    }
    assert!(!refused.head.contains("X-Shard"), "{}", refused.head);
    for path in ["/index.php", "/nothing", "/.hosting/ready", "/.hosting/empty.html", "/index.php/x", "/.env"]
    {
        assert_eq!(node.get("web_p", path).await.status, 421, "{path}");
    }
    for method in ["POST", "PUT", "OPTIONS"] {
        assert_eq!(node.method(method, "web_s", "/", "x").await.status, 421, "{method}");
        assert_eq!(node.method(method, "web_p", "/", "x").await.status, 421, "{method}");
    }

    assert_eq!(node.ask("web_s", "/", &shown(KEY)).await.body, "static");
    let seen: serde_json::Value =
        serde_json::from_str(&node.ask("web_p", "/", &shown(KEY)).await.body).unwrap();
    assert_eq!((&seen["addr"], &seen["host"]), (&"192.0.2.7".into(), &"shop.example".into()));
    assert_eq!(seen["https"], "on");
    for secret in ["HTTP_X_HOSTING", KEY, "a-secret-token"] {
        assert!(!seen.to_string().contains(secret), "{seen}");
    }

    // A site's own script that asks the node as if it were an edge.
    let port = node.layout.listen[0].port();
    let forged = format!(
        "<?php $s = stream_socket_client('tcp://127.0.0.1:{port}'); fwrite($s, \"GET /index.php HTTP/1.0\\r\\nHost: web_p\\r\\n\
         X-Hosting-Host: internal.example\\r\\nX-Forwarded-For: 203.0.113.66\\r\\n\\r\\n\"); echo stream_get_contents($s);"
    );
    upload(&node.document_root("t_a", "web_p").join("forge.php"), &forged);
    let answer = node.ask("web_p", "/forge.php", &shown(KEY)).await;
    assert!(answer.body.starts_with("HTTP/1.1 421 ") && !answer.body.contains("203.0.113.66"), "{answer:?}");

    // What is refused is written down under the address that it came from, and the key nowhere.
    let log = std::fs::read_to_string(node.layout.roots.logs.join("nginx/access.log")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert!(
        lines.filter(|line| line["status"] == 421).all(|line| line["remote_addr"] == "127.0.0.1"),
        "{log}"
    );
    let error = std::fs::read_to_string(node.layout.roots.logs.join("nginx/error.log")).unwrap();
    assert!(!log.contains(KEY) && !error.contains(KEY));
    let main = node.layout.roots.config.join("nginx/nginx.conf");
    assert!(std::fs::read_to_string(&main).unwrap().contains(KEY));
    assert_eq!(std::fs::metadata(&main).unwrap().permissions().mode() & 0o777, 0o600);

    // Another key takes the place of the first; changes of sites go on under it; a suspended site is no exception.
    let next = shown(&KEY.replace('5', "7"));
    node.key.send_replace(Some(Secret(KEY.replace('5', "7"))));
    until_status(&node, "web_s", &next, 200).await;
    until_status(&node, "web_s", &shown(KEY), 421).await;
    let revision = node.apply(vec![tenant("t_a", true)], vec![]);
    node.until(&key(Kind::Tenant, "t_a"), Phase::Ready, revision).await;
    assert_eq!(node.get("web_s", "/").await.status, 421);
    assert_eq!(node.ask("web_s", "/", &next).await.status, 503);
    node.until_ready().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_shows_the_mark_of_its_request_and_no_script_knows_or_says_it() {
    if missing("every_answer_shows_the_mark_of_its_request_and_no_script_knows_or_says_it") {
        return;
    }
    let folder = folder();
    let sites =
        [("web_s", static_webroot("t_a")), ("web_p", php_webroot("t_a")), ("web_e", php_webroot("t_a"))];
    let node = Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &sites).await;
    upload(&node.document_root("t_a", "web_s").join("index.html"), "static");
    upload(&node.document_root("t_a", "web_s").join("folder/x"), "");
    let script = "<?php header('X-Hosting-Request: forged', false); header('x-hosting_request: forged', false); \
                  http_response_code((int) ($_GET['code'] ?? 200)); echo json_encode($_SERVER), json_encode(getallheaders());";
    upload(&node.document_root("t_a", "web_p").join("index.php"), script);
    let mark = "0123456789abcdef";
    let shown = format!("X-Hosting-Request: {mark}\r\n");
    let asked = [
        ("GET", "web_s", "/"),
        ("HEAD", "web_s", "/"),
        ("GET", "web_s", "/folder"),
        ("GET", "web_s", "/folder/"),
        ("GET", "web_s", "/nothing"),
        ("GET", "web_s", "/.env"),
        ("POST", "web_s", "/"),
        ("GET", "web_p", "/"),
        ("HEAD", "web_p", "/"),
        ("GET", "web_p", "/index.php?code=204"),
        ("GET", "web_p", "/index.php?code=304"),
        ("GET", "web_p", "/index.php?code=404"),
        ("GET", "web_p", "/index.php?code=500"),
        ("GET", "web_e", "/"),
        ("GET", "web_none", "/"),
    ];
    for (method, host, path) in asked {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{shown}\r\n");
        let answer = send(node.layout.listen[0], request.as_bytes()).await.unwrap();
        let marks: Vec<&str> = answer
            .head
            .lines()
            .filter(|line| line.to_ascii_lowercase().starts_with("x-hosting-request"))
            .collect();
        assert_eq!(marks, [shown.trim_end()], "{method} {host}{path}: {}", answer.head);
        assert!(!answer.body.contains(mark), "{}", answer.body);
    }
    let answer = node.get("web_s", "/").await;
    assert!(!answer.head.contains("X-Hosting-Request"), "{}", answer.head);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_edges_are_a_second_condition() {
    if missing("addresses_of_edges_are_a_second_condition") {
        return;
    }
    for (edges, status) in [(vec!["192.0.2.0/24".to_owned(), "2001:db8::/32".to_owned()], 421), (vec![], 200)]
    {
        let folder = folder();
        let mut layout = layout(folder.path(), "web-1");
        layout.edges = edges;
        let node = Node::with_sites(layout, folder.path(), &[("web_p", php_webroot("t_a"))]).await;
        upload(&node.document_root("t_a", "web_p").join("index.php"), WHO);
        // Without a key a stranger is served, and not believed.
        let seen: serde_json::Value =
            serde_json::from_str(&node.ask("web_p", "/", &shown("")).await.body).unwrap();
        assert_eq!((&seen["addr"], &seen["host"]), (&"127.0.0.1".into(), &"web_p".into()));
        node.key.send_replace(Some(Secret(KEY.into())));
        until_status(&node, "web_p", "", 421).await;
        let answer = until_status(&node, "web_p", &shown(KEY), status).await;
        assert_eq!(answer.body.contains("192.0.2.7"), status == 200, "{answer:?}");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_edges_say_is_taken_as_a_text_and_nothing_more() {
    if missing("what_edges_say_is_taken_as_a_text_and_nothing_more") {
        return;
    }
    let folder = folder();
    let node =
        Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &[("web_p", php_webroot("t_a"))])
            .await;
    upload(&node.document_root("t_a", "web_p").join("index.php"), WHO);
    for odd in ["a\"b", "a;b", "${uri}", "$host", "a\\b", "a\tb", "../x", "a{b}", "%0d%0a", "é", "a,b", " "]
    {
        for header in
            ["X-Hosting-Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Hosting-Probe", "X_Hosting_Key"]
        {
            let answer = node.ask("web_p", "/", &format!("{header}: {odd}\r\n")).await;
            assert_eq!(answer.status, 200, "{header}: {odd}: {answer:?}");
            let seen: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(
                (&seen["addr"], &seen["host"]),
                (&"127.0.0.1".into(), &"web_p".into()),
                "{header}: {odd}"
            );
            assert_eq!(seen["https"], "", "{header}: {odd}");
        }
    }
    // The edge speaks of the visitor that it saw last, whatever the visitor said before.
    let answer = node.ask("web_p", "/", "X-Forwarded-For: 127.0.0.9, 192.0.2.8\r\n").await;
    assert!(answer.body.contains("\"addr\":\"192.0.2.8\""), "{answer:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_to_change_protocols_serves_one_request() {
    if missing("a_connection_that_was_to_change_protocols_serves_one_request") {
        return;
    }
    let folder = folder();
    let node =
        Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &[("web_p", php_webroot("t_a"))])
            .await;
    let root = node.document_root("t_a", "web_p");
    upload(
        &root.join("switch.php"),
        "<?php header('HTTP/1.1 101 Switching Protocols'); header('Upgrade: websocket');",
    );
    upload(
        &root.join("echo.php"),
        "<?php echo 'SERVED ', $_SERVER['REQUEST_METHOD'], file_get_contents('php://input');",
    );
    for path in ["/switch.php", "/switch.php/deep"] {
        let mut stream = TcpStream::connect(node.layout.listen[0]).await.unwrap();
        let first = format!(
            "GET {path} HTTP/1.1\r\nHost: web_p\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        stream.write_all(first.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(300)).await;
        let _ = stream
            .write_all(b"GET /echo.php HTTP/1.1\r\nHost: web_p\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n")
            .await;
        let mut said = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut said)).await;
        assert!(read.is_ok(), "{path}: the connection stays open");
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!said.contains("SERVED"), "{path}: {said}");
    }
    // Who offers another protocol with a request is served by this one, and with its body.
    let request = "POST /echo.php?x HTTP/1.1\r\nHost: web_p\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nContent-Length: 5\r\n\r\nhello";
    let answer = send(node.layout.listen[0], request.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        answer.head.contains("Connection: close") && answer.body.contains("SERVED POSThello"),
        "{answer:?}"
    );
    node.stop().await;
}
