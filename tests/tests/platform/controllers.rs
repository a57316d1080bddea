//! Two controllers on one PostgreSQL: any of them may die, stand still or lose the store, and nothing is lost.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{Platform, binaries, eventually, free_port, machine_lacks_daemons};

/// The controller beside that of `up`.
struct Second {
    process: Child,
}

impl Second {
    fn start(platform: &Platform, [api, feed]: &[String; 2]) -> Self {
        let data = platform.data();
        let own = platform.folder().join("second");
        // Both seal with one key: it is what an operator distributes.
        let kek = data.join("controller/kek");
        let log = File::options().create(true).append(true).open(data.join("log/second.log")).unwrap();
        let process = Command::new(binaries().join("hosting-controller"))
            .arg("--data-dir")
            .arg(&own)
            .arg("--database-file")
            .arg(data.join("controller/database"))
            .args(["--listen", api, "--feed-listen", feed])
            .env("HOSTING_CONTROLLER_KEK_FILE", kek)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The nodes that a controller says are out of service; `None`: it does not answer.
async fn out_of_service(http: &reqwest::Client, api: &str, key: &str) -> Option<Vec<&'static str>> {
    let mut out = Vec::new();
    for node in ["edge-1", "dns-1", "web-1"] {
        let answer = http.get(format!("{api}/api/v1/nodes/{node}")).bearer_auth(key).send().await.ok()?;
        let view: Value = answer.error_for_status().ok()?.json().await.ok()?;
        if view["in_service"] != true {
            out.push(node);
        }
    }
    Some(out)
}

/// Writes names as fast as it is told, to whichever controller answers, until it is stopped; each is written until it is there.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(apis: Vec<String>, key: String, tenant: String, webroot: String, prefix: &str) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count, prefix) = (stop.clone(), written.clone(), prefix.to_owned());
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(3)).build().unwrap();
        let task = tokio::spawn(async move {
            let mut names = Vec::new();
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for n in 0_usize.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                pace.tick().await;
                let name = format!("{prefix}{n}.bakery.test");
                let body = json!({"fqdn": name, "webroot_id": webroot});
                for attempt in n.. {
                    let api = &apis[attempt % apis.len()];
                    let url = format!("{api}/api/v1/tenants/{tenant}/fqdns");
                    match http.post(url).bearer_auth(&key).json(&body).send().await {
                        // A conflict: an attempt whose answer was lost has written it.
                        Ok(answer) if answer.status().is_success() || answer.status() == 409 => break,
                        Ok(answer) if answer.status().is_server_error() => {}
                        Ok(answer) => panic!("{name}: {} {}", answer.status(), answer.text().await.unwrap()),
                        Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                names.push(name);
                count.fetch_add(1, Ordering::Relaxed);
            }
            names
        });
        Self { stop, written, task }
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// The pids that a process's connections to PostgreSQL end at.
fn backends(database_folder: &Path) -> Vec<i32> {
    // Each session is a process of the server, which says of itself what it is.
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            line.starts_with("postgres: hosting hosting") && folder.starts_with(database_folder)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn either_controller_may_die_or_stand_still_under_load() {
    if machine_lacks_daemons("either_controller_may_die_or_stand_still_under_load") {
        return;
    }
    let mut platform = Platform::start(&["--database", "postgres", "--no-restart"]).await;
    let listen = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let mut second = Second::start(&platform, &listen);
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(3)).build().unwrap();
    let (key, first_api) = (platform.admin_key(), platform.summary["api"].as_str().unwrap().to_owned());
    let apis = [first_api, format!("http://{}", listen[0])];
    eventually("the second controller answers", Duration::from_secs(30), async || {
        http.get(format!("{}/readyz", apis[1]))
            .send()
            .await
            .ok()
            .filter(|it| it.status().is_success())
            .map(drop)
    })
    .await;
    // Nodes hear of the second controller with the first one's next bookmark.
    tokio::time::sleep(Duration::from_secs(12)).await;

    let (tenant, webroot) = platform.site("acme-1001").await;
    let start =
        |prefix: &str| Writer::start(apis.to_vec(), key.clone(), tenant.clone(), webroot.clone(), prefix);
    let mut names = Vec::new();
    for (round, what) in
        ["kill first", "kill second", "stop first", "stop second", "cut first"].into_iter().enumerate()
    {
        let began = Instant::now();
        let writer = start(&format!("w{round}-"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        match what {
            "kill first" => {
                platform.kill("controller").await;
                tokio::time::sleep(Duration::from_secs(4)).await;
                platform.restart("controller").await;
            }
            "kill second" => {
                drop(second);
                tokio::time::sleep(Duration::from_secs(4)).await;
                second = Second::start(&platform, &listen);
            }
            "stop first" | "stop second" => {
                let pid = if what == "stop first" {
                    Pid::from_raw(platform.pid("controller"))
                } else {
                    second.pid()
                };
                kill(pid, Signal::SIGSTOP).unwrap();
                for _ in 0..30 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let api = &apis[usize::from(what == "stop first")];
                    if let Some(out) = out_of_service(&http, api, &key).await {
                        assert_eq!(out, [""; 0], "{what}: a healthy node is out of service");
                    }
                }
                kill(pid, Signal::SIGCONT).unwrap();
            }
            // Every session with the database is cut, again and again.
            _ => {
                for _ in 0..20 {
                    for pid in backends(&platform.data().join("postgres")) {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                    }
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
        // However slow the machine: writing goes on after it, and comes to as many.
        let until = writer.written.load(Ordering::Relaxed);
        eventually(&format!("names are written after {what}"), Duration::from_secs(60), async || {
            let count = writer.written.load(Ordering::Relaxed);
            (count > 20 && count > until + 3).then_some(())
        })
        .await;
        let count = writer.written.load(Ordering::Relaxed);
        names.extend(writer.end().await);
        println!("{what}: {count} names in {:?}", began.elapsed());
        for api in &apis {
            eventually(&format!("{api} answers after {what}"), Duration::from_secs(30), async || {
                out_of_service(&http, api, &key).await.filter(Vec::is_empty).map(drop)
            })
            .await;
        }
    }

    // No acknowledged write is lost, and every one is served.
    let last = names.last().unwrap().clone();
    eventually("the last name is live", Duration::from_secs(60), async || {
        platform.is_live(&last).await.then_some(())
    })
    .await;
    for name in &names {
        assert!(platform.web(name).await.is_some_and(|(code, _)| code == 200), "{name} is not served");
    }
    eventually("every subscriber is at its head", Duration::from_secs(30), async || {
        let all = platform.subscribers().await;
        (all.len() == 3 && all.iter().all(|one| one["in_service"] == true)).then_some(())
    })
    .await;
    for role in ["edge", "dns"] {
        assert_eq!(platform.metric(role, "intent_digest_mismatches_total", &[]).await, 0.0, "{role}");
    }

    // Whichever controller is asked tells of requests, though the edge's session is with one of them.
    let fqdns = platform.items(&format!("/tenants/{tenant}/fqdns?search=bakery.test")).await;
    let watched = fqdns[0]["fqdn"].as_str().unwrap();
    for api in &apis {
        let url = format!("{api}/api/v1/fqdns/{}/requests", fqdns[0]["id"].as_str().unwrap());
        let mut stream = http.get(&url).bearer_auth(&key).send().await.unwrap().error_for_status().unwrap();
        let mut text = String::new();
        eventually(&format!("{api} tells of requests"), Duration::from_secs(60), async || {
            platform.web(watched).await?;
            let chunk = tokio::time::timeout(Duration::from_millis(500), stream.chunk()).await.ok()?;
            text.push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
            text.contains("event: request\n").then_some(())
        })
        .await;
    }
}
