//! What visitors put on the node's disk.

use std::{net::SocketAddr, os::linux::fs::MetadataExt, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::support::{Node, folder, layout, missing, php_webroot, send, static_webroot, upload};

/// Bytes of files below `folder`, those without a name included, that processes hold open.
fn held(folder: &Path) -> u64 {
    let folder = folder.to_str().unwrap();
    let mut files = std::collections::BTreeMap::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        for fd in std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = std::fs::read_link(fd.path()) else { continue };
            if target.to_string_lossy().starts_with(folder)
                && let Ok(stat) = std::fs::metadata(fd.path())
                && stat.is_file()
            {
                files.insert((stat.st_dev(), stat.st_ino()), stat.len());
            }
        }
    }
    files.values().sum()
}

/// A body that is announced and never ends.
async fn endless(address: SocketAddr, host: &str, visitor: &str, head: &str, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("POST /index.php HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {visitor}\r\n{head}\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..bytes / piece.len() {
        if stream.write_all(&piece).await.is_err() {
            break;
        }
    }
    stream
}

async fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut head = [0; 12];
    let read = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut head)).await;
    read.ok()?.ok()?;
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_never_end_are_few_and_cost_nobody_else() {
    if missing("uploads_that_never_end_are_few_and_cost_nobody_else") {
        return;
    }
    let folder = folder();
    let mut layout = layout(folder.path(), "web-1");
    layout.web.uploads_per_site = 6;
    layout.web.uploads_per_visitor = 3;
    let sites = [("web_p", php_webroot("t_a")), ("web_q", php_webroot("t_a"))];
    let node = Node::with_sites(layout, folder.path(), &sites).await;
    let address = node.layout.listen[0];
    let count = "<?php echo strlen(file_get_contents('php://input'));";
    for site in ["web_p", "web_q"] {
        upload(&node.document_root("t_a", site).join("index.php"), count);
    }
    let long = "Content-Length: 50000000\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n1000000";
    let mut open = Vec::new();
    // Eight of one visitor, then eight of eight others, in an IPv6 /64 of their own too.
    for n in 0..8 {
        open.push(
            endless(address, "web_p", "2001:db8:1:2::7", if n % 2 == 0 { long } else { chunked }, 1 << 20)
                .await,
        );
    }
    let mut refused = 0;
    for stream in &mut open {
        refused += usize::from(status(stream).await == Some(429));
    }
    assert_eq!(refused, 5, "one visitor has three");
    let same_network = &mut endless(address, "web_q", "2001:db8:1:2:3:4:5:6", long, 0).await;
    assert_eq!(status(same_network).await, Some(429));
    for n in 0..8 {
        open.push(endless(address, "web_p", &format!("192.0.2.{n}"), long, 1 << 20).await);
    }
    let mut refused = 0;
    for stream in &mut open[8..] {
        refused += usize::from(status(stream).await == Some(429));
    }
    assert_eq!(refused, 5, "one site has six");

    let run = held(&node.layout.roots.run);
    let temp = held(&node.layout.roots.temp);
    assert!(run < 1 << 20, "the run folder holds {run} bytes");
    assert!((1 << 20..7 << 20).contains(&temp), "the temp folder holds {temp} bytes");

    // Another site takes small and large bodies all the same, and so does this one small ones.
    for n in 0..30_usize {
        for (site, bytes) in [("web_q", 10 + n), ("web_q", 100_000 + n), ("web_p", 10 + n), ("web_p", 59_000)]
        {
            let request = format!(
                "POST /index.php HTTP/1.0\r\nHost: {site}\r\nX-Forwarded-For: 198.51.100.{n}\r\nContent-Length: {bytes}\r\n\r\n{}",
                "x".repeat(bytes)
            );
            let answer = send(address, request.as_bytes()).await.unwrap();
            assert_eq!((answer.status, answer.body), (200, bytes.to_string()), "{site}: {bytes} bytes, {n}");
        }
    }
    drop(open);
    let began = Instant::now();
    while held(&node.layout.roots.temp) > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "bodies stay on disk");
        sleep(Duration::from_millis(50)).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_costs_no_disk() {
    if missing("a_reader_that_does_not_read_costs_no_disk") {
        return;
    }
    let folder = folder();
    let sites = [("web_p", php_webroot("t_a"))];
    let node = Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &sites).await;
    upload(
        &node.document_root("t_a", "web_p").join("big.php"),
        "<?php while (ob_get_level()) ob_end_clean(); for ($i = 0; $i < 100; $i++) { echo str_repeat('y', 1 << 20); flush(); }",
    );
    let mut stream = TcpStream::connect(node.layout.listen[0]).await.unwrap();
    stream.write_all(b"GET /big.php HTTP/1.0\r\nHost: web_p\r\n\r\n").await.unwrap();
    let mut some = [0; 1000];
    stream.read_exact(&mut some).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(held(&node.layout.roots.temp) + held(&node.layout.roots.run), 0);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() + 1000 > 100 << 20, "{} bytes arrived", rest.len());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_site_does_not_keep_what_is_sent_to_it() {
    if missing("a_static_site_does_not_keep_what_is_sent_to_it") {
        return;
    }
    let folder = folder();
    let sites = [("web_s", static_webroot("t_a"))];
    let node = Node::with_sites(layout(folder.path(), "web-1"), folder.path(), &sites).await;
    let mut stream =
        endless(node.layout.listen[0], "web_s", "192.0.2.1", "Content-Length: 400000000\r\n", 1 << 20).await;
    assert_eq!(status(&mut stream).await, Some(405));
    assert_eq!(held(&node.layout.roots.temp), 0);
    node.stop().await;
}
