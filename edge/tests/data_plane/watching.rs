//! The requests of one host as they come, on the admin port.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::load::ask_http1;
use crate::processes::{HOST, Site};

/// Opens a stream; what comes after its head.
fn watch(site: &Site, path: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(site.admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert!(!line.starts_with("HTTP/") || line.starts_with("HTTP/1.1 200"), "{line}");
    }
    reader
}

/// The next object, past the sizes of chunks. `None`: the stream has ended.
fn next(stream: &mut BufReader<TcpStream>) -> Option<Value> {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if line.starts_with('{') {
            return Some(serde_json::from_str(&line).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_a_host_sees_its_requests_as_they_come_and_keeps_nobody() {
    let site = Site::new().await;
    // Nothing is written, and addresses are cut down.
    let settings = [("HOSTING_EDGE_ACCESS_LOG", ""), ("HOSTING_EDGE_ACCESS_LOG_ADDRESSES", "network")];
    let mut edge = site.start(&settings).await;
    let answer = site.admin("/hosts/no.example/requests").unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let mut open = watch(&site, &format!("/hosts/{}/requests", HOST.to_uppercase()));
    let mut two = watch(&site, &format!("/hosts/{HOST}/requests?limit=2"));
    let mut client = tokio::net::TcpStream::connect(site.http).await.unwrap();
    for path in ["/one", "/two", "/three"] {
        ask_http1(&mut client, path).await.unwrap();
    }
    // Of another host, which is none of theirs.
    let mut other = tokio::net::TcpStream::connect(site.http).await.unwrap();
    let request = b"GET /other HTTP/1.1\r\nHost: other.example\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut other, request).await.unwrap();
    ask_http1(&mut client, "/four").await.unwrap();
    for target in ["/one", "/two", "/three", "/four"] {
        let line = next(&mut open).unwrap();
        assert_eq!(
            (&line["target"], &line["status"], &line["host"]),
            (&target.into(), &200.into(), &HOST.into())
        );
        assert_eq!((&line["client"], &line["tenant"]), (&"127.0.0.0".into(), &"t_a".into()));
    }
    assert_eq!(next(&mut two).unwrap()["target"], "/one");
    assert_eq!(next(&mut two).unwrap()["target"], "/two");
    assert_eq!(next(&mut two), None, "it has had what it asked for");
    // The end of the process waits for nobody who watches.
    drop((client, other));
    let begun = Instant::now();
    edge.signal(Signal::SIGTERM);
    assert_eq!(next(&mut open), None);
    assert!(edge.ends().await.success(), "{}", edge.said());
    assert!(begun.elapsed() < Duration::from_secs(20), "the drain has 30 seconds");
}
