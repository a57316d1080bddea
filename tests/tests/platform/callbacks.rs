//! A client that is told when its change is complete, through dead receivers and a killed controller.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Platform, eventually, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(60);

/// Keeps head and body of each request, and answers 500 until it is told to be well.
struct Receiver {
    url: String,
    well: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hosting?token=secret", listener.local_addr().unwrap());
        let (well, got) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (is_well, keep) = (Arc::clone(&well), Arc::clone(&got));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
                // The body is one JSON object, and short.
                while !request.ends_with(b"}") {
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => break,
                        Ok(length) => request.extend_from_slice(&buffer[..length]),
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                keep.lock().unwrap().push((head.to_ascii_lowercase(), serde_json::from_str(body).unwrap()));
                let status = if is_well.load(Ordering::SeqCst) { "204 No Content" } else { "500 Broken" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Self { url, well, got }
    }
}

fn id_in(head: &str) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix("webhook-id: "));
    line.unwrap_or_else(|| panic!("no webhook-id in {head}")).to_owned()
}

/// The receiver is broken and the controller is killed meanwhile: the callback is delivered all the same, under the same id.
#[tokio::test]
async fn a_callback_outlives_a_broken_receiver_and_a_killed_controller() {
    if machine_lacks_daemons("a_callback_outlives_a_broken_receiver_and_a_killed_controller") {
        return;
    }
    let env = [
        ("HOSTING_CONTROLLER_CALLBACK_PLAIN_HTTP", "true".to_owned()),
        ("HOSTING_CONTROLLER_CALLBACK_NETWORKS", "[127.0.0.0/8]".to_owned()),
    ];
    let platform = Platform::start_with(&[], &env).await;
    let receiver = Receiver::start();
    let (tenant, webroot) = platform.site("acme-1001").await;
    let made = platform
        .call_with(
            "POST",
            &format!("/tenants/{tenant}/fqdns"),
            Some(json!({"fqdn": "told.acme-hosting.test", "webroot_id": webroot})),
            &[("x-callback-url", receiver.url.as_str())],
        )
        .await;
    assert_eq!(made.0, 202, "{}", made.1);
    let id = made.1["id"].as_str().unwrap();
    let attempted = async || (!receiver.got.lock().unwrap().is_empty()).then_some(());
    eventually("the receiver is asked", LIMIT, attempted).await;
    assert!(platform.is_live("told.acme-hosting.test").await, "it is told what is so");

    let before = platform.pid("controller");
    platform.signal("controller", Signal::SIGKILL);
    receiver.well.store(true, Ordering::SeqCst);
    eventually("`up` starts the controller again", LIMIT, async || {
        let summary = std::fs::read(platform.data().join("up.json")).ok()?;
        let pid = serde_json::from_slice::<Value>(&summary).ok()?["pids"]["controller"].as_i64()?;
        let ready = platform.admin("controller", "/readyz").await.is_ok_and(|(code, _)| code == 200);
        (pid != i64::from(before) && ready).then_some(())
    })
    .await;
    let jobs = platform.items(&format!("/jobs?kind=callback&subject={id}")).await;
    let job = jobs[0]["id"].as_str().unwrap();
    assert_eq!(jobs.len(), 1);
    let (code, done) = platform.call("GET", &format!("/workflows/{job}/await"), None).await;
    assert_eq!(code, 200, "{done}");
    let got = receiver.got.lock().unwrap().clone();
    assert!(got.len() >= 2, "{got:?}");
    for (head, body) in &got {
        assert_eq!(id_in(head), job);
        assert_eq!(*body, json!({"resource_type": "fqdn", "resource_id": id, "status": "active"}));
    }

    // What an operator sees of it.
    let hostctl = |words: &[&str]| {
        let output = platform.hostctl().args(["jobs"]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = hostctl(&["get", job]);
    for part in ["done", "deliver", "http://127.0.0.1:"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("secret") && !platform.log("controller").contains("token=secret"));
    let listed = hostctl(&["list", "--kind", "audit_retention"]);
    assert!(listed.contains("waiting"), "the next run is planned: {listed}");
}
