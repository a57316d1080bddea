//! Changes of other sites while requests are under way.

use std::time::Duration;

use hosting_agent_engine::Phase;
use hosting_intent::Kind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::support::{Node, folder, key, layout, missing, static_webroot, upload, webroot};

/// Larger than what two sockets hold.
const LARGE: usize = 64 << 20;

/// A download that was begun and is not read on.
async fn begun(node: &Node) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut stream = socket.connect(node.layout.listen[0]).await.unwrap();
    stream.write_all(b"GET /large.bin HTTP/1.0\r\nHost: web_s\r\n\r\n").await.unwrap();
    let mut some = [0; 1000];
    stream.read_exact(&mut some).await.unwrap();
    stream
}

async fn read_on(mut stream: TcpStream) -> usize {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    rest.len() + 1000
}

/// Processes of a service that are about to end.
fn old_workers(master: i32) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|process| {
            let read = |name: &str| std::fs::read_to_string(process.path().join(name)).unwrap_or_default();
            let parent = read("stat")
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse::<i32>().ok());
            parent == Some(master) && read("cmdline").contains("shutting down")
        })
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_outlives_every_change_and_old_workers_are_few() {
    if missing("a_download_outlives_every_change_and_old_workers_are_few") {
        return;
    }
    let folder = folder();
    let mut layout = layout(folder.path(), "web-1");
    layout.web.old_workers = 2;
    let node = Node::with_sites(layout, folder.path(), &[("web_s", static_webroot("t_a"))]).await;
    upload(&node.document_root("t_a", "web_s").join("large.bin"), &"x".repeat(LARGE));
    let nginx = node.host.supervisor().pids()["nginx"];

    let mut downloads = Vec::new();
    for round in 0..2 {
        downloads.push(begun(&node).await);
        let id = format!("web_{round}");
        let revision = node.apply(vec![webroot(&id, &static_webroot("t_a"))], vec![]);
        node.until(&key(Kind::Webroot, &id), Phase::Ready, revision).await;
    }
    downloads.push(begun(&node).await);
    assert_eq!(old_workers(nginx), 2);

    // There may be no third: the change says what it waits for, and nobody is cut for it.
    let id = key(Kind::Webroot, "web_2");
    let revision = node.apply(vec![webroot("web_2", &static_webroot("t_a"))], vec![]);
    let report = node.until(&id, Phase::Failed, revision).await;
    assert!(report.message.contains("2 workers of earlier configurations"), "{report:?}");
    sleep(Duration::from_secs(2)).await;
    assert_eq!((old_workers(nginx), node.get("web_s", "/").await.status), (2, 404));
    assert_eq!(node.get("web_2", "/").await.status, 421);

    for stream in downloads {
        assert!(read_on(stream).await > LARGE, "a download was cut");
    }
    node.until(&id, Phase::Ready, revision).await;
    assert_eq!(node.get("web_2", "/").await.status, 404);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_end_with_the_time_that_is_set() {
    if missing("requests_under_way_end_with_the_time_that_is_set") {
        return;
    }
    let folder = folder();
    let mut layout = layout(folder.path(), "web-1");
    layout.web.shutdown_timeout = Duration::from_secs(1);
    let node = Node::with_sites(layout, folder.path(), &[("web_s", static_webroot("t_a"))]).await;
    upload(&node.document_root("t_a", "web_s").join("large.bin"), &"x".repeat(LARGE));
    let download = begun(&node).await;
    let revision = node.apply(vec![webroot("web_n", &static_webroot("t_a"))], vec![]);
    node.until(&key(Kind::Webroot, "web_n"), Phase::Ready, revision).await;
    let nginx = node.host.supervisor().pids()["nginx"];
    let began = tokio::time::Instant::now();
    while old_workers(nginx) > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "an old worker stays");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(read_on(download).await < LARGE);
    node.stop().await;
}
