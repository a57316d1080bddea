//! What must never get through: unsound intents, and secrets.

use std::{
    fs,
    io::Read,
    net::Ipv4Addr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use hosting_intent::edge_key::ClusterEdgeKey;
use hosting_intent::{Bytes, Cause, Key, Kind, message};
use hosting_planner::{Change, Draft, IntentChange};
use hosting_store::{Kek, Origin, Store, StoreConfig};
use prost::Message;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::harness::{Platform, eventually, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(30);

fn poison(audience: &str, key: Key, value: Vec<u8>) -> IntentChange {
    IntentChange {
        audience: audience.parse().unwrap(),
        key,
        owner: "test:poison".to_owned(),
        value: Some(Bytes::from(value)),
        cause: Cause::Planner,
        traceparent: None,
    }
}

/// Written straight into the store, past every check of the API and the planner.
#[tokio::test]
async fn poisoned_intents_are_rejected_one_by_one() {
    if machine_lacks_daemons("poisoned_intents_are_rejected_one_by_one") {
        return;
    }
    let mut platform = Platform::start(&["--no-restart"]).await;
    let (tenant, webroot) = platform.site("acme-1001").await;
    let audiences: Vec<String> =
        platform.subscribers().await.iter().map(|one| one["audience"].as_str().unwrap().to_owned()).collect();
    let of = |prefix: &str| audiences.iter().find(|one| one.starts_with(prefix)).unwrap().clone();
    let (edge, dns, node) = (of("edge/"), of("dns/"), of("node/"));
    platform.kill("controller").await;

    let route = |name: &str| {
        let clusters = message::Route {
            tenant_id: tenant.clone(),
            webroot_id: webroot.clone(),
            shard_id: "shard".to_owned(),
            may_upgrade: false,
        };
        poison(&edge, Key::new(Kind::Route, name), clusters.encode_to_vec())
    };
    let record = |key: &str, rdata: &str| {
        let records = message::Records { rdata: vec![rdata.to_owned()] };
        let set = message::RrSet { ttl: 60, data: Some(message::rr_set::Data::Records(records)) };
        poison(&dns, Key::new(Kind::RrSet, key), set.encode_to_vec())
    };
    let site = |key: &str, folder: &str| {
        let site = message::Webroot {
            tenant_id: tenant.clone(),
            runtime: "static".to_owned(),
            public_folder: folder.to_owned(),
            shard_name: "web-1".to_owned(),
            incarnation: 1,
            ..message::Webroot::default()
        };
        poison(&node, Key::new(Kind::Webroot, key), site.encode_to_vec())
    };
    let unknown =
        |audience: &str| poison(audience, Key { kind: 4711, name: "later".to_owned() }, vec![1, 2, 3]);
    let long = format!("{}.acme-hosting.test", "a".repeat(300));
    let zone = "acme-hosting.test";
    let intents = vec![
        route("not a name.test"),
        route(&long),
        poison(&edge, Key::new(Kind::Route, "garbage.acme-hosting.test"), vec![0xff; 40]),
        unknown(&edge),
        record(&format!("{zone}/{long}/A"), "192.0.2.1"),
        record(&format!("{zone}/absurd.{zone}/A"), "999.1.2.3"),
        record(&format!("{zone}/absurd.{zone}/MX"), "ten ../../etc/passwd."),
        unknown(&dns),
        site("../../../etc", ""),
        site("web_poisoned01", "../../../../etc"),
        unknown(&node),
        // A sound neighbour of theirs.
        record(&format!("{zone}/sound.{zone}/A"), "192.0.2.7"),
    ];
    let controller = platform.data().join("controller");
    let kek = Kek::load_or_create(&controller.join("kek")).unwrap();
    let store = Store::open(&StoreConfig::new(controller.join("store.db")), kek).await.unwrap();
    store
        .write(Origin::default(), move |tx| {
            Box::pin(async move { tx.apply(Change { intents, ..Change::default() }).await })
        })
        .await
        .unwrap();
    store.close().await;
    drop(store);
    platform.restart("controller").await;

    let rejected = |subscribers: &[serde_json::Value], audience: &str| -> (usize, usize) {
        let one = subscribers.iter().find(|one| one["audience"] == audience).unwrap();
        (one["rejected"].as_array().unwrap().len(), one["unsupported"].as_array().unwrap().len())
    };
    eventually("each subscriber says what it rejects", LIMIT, async || {
        let all = platform.subscribers().await;
        let found = [&edge, &dns, &node].map(|audience| rejected(&all, audience));
        (found == [(3, 1), (3, 1), (2, 1)]).then_some(())
    })
    .await;

    // Neighbours are applied, and the next change too.
    let (_, addresses) = platform.dig("sound.acme-hosting.test").await.unwrap();
    assert_eq!(addresses, [Ipv4Addr::new(192, 0, 2, 7)]);
    let (code, answer) = platform.add_fqdn("acme-1001", "next.acme-hosting.test", "?wait=ready").await;
    assert_eq!(code, 200, "{answer}");
    assert!(platform.is_live("next.acme-hosting.test").await);
    assert!(platform.is_live("bakery.test").await);
    assert!(!Path::new("/etc/index.html").exists());
}

/// Keeps every byte that it is sent; answers nothing that a gRPC client would take for an answer.
async fn trace_sink() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&kept);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move {
                // An empty SETTINGS frame, so that the client goes on to send (RFC 9113 §3.4).
                let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    sink.lock().unwrap().extend_from_slice(&buffer[..length]);
                }
            });
        }
    });
    (format!("http://{address}"), kept)
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test]
async fn canary_secrets_stay_where_they_belong() {
    if machine_lacks_daemons("canary_secrets_stay_where_they_belong") {
        return;
    }
    let (endpoint, traces) = trace_sink().await;
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned())];
    let platform = Platform::start_with(&[], &env).await;

    // Secrets of every kind that exists so far.
    let made = platform
        .post("/api-keys", json!({"name": "canary", "scopes": ["tenants:read"], "brands": ["acme"]}))
        .await;
    let api_key = made["key"].as_str().unwrap().to_owned();
    let token =
        platform.post("/nodes/web-1/join-tokens", json!({})).await["token"].as_str().unwrap().to_owned();
    let admin_key = platform.admin_key();
    let mut canaries = vec![("API key", api_key.clone()), ("admin key", admin_key), ("join token", token)];
    for role in ["edge", "dns", "nodeagent"] {
        let mut all = Vec::new();
        files(&platform.data().join(role).join("identity"), &mut all);
        for file in all {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if text.contains("PRIVATE KEY") {
                assert_eq!(fs::metadata(&file).unwrap().mode() & 0o077, 0, "{}", file.display());
                canaries.push(("node key", text.lines().nth(1).unwrap().to_owned()));
            }
        }
    }
    assert!(canaries.len() >= 6, "the nodes' keys are among the canaries");
    // Raw bytes; what edges show to nodes is their hexadecimal form.
    let kek = fs::read(platform.data().join("controller/kek")).unwrap();
    let edge_keys = ["edge", "nodeagent"].map(|role| {
        let file = platform.data().join(role).join("edge.key");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        fs::read(file).unwrap()
    });
    let subscribers = platform.subscribers().await;
    let cluster = subscribers.iter().find_map(|one| one["audience"].as_str()?.strip_prefix("edge/")).unwrap();
    let cluster = ClusterEdgeKey::derive(&kek, cluster);
    let node = cluster.for_node("web-1");
    assert_eq!(edge_keys, [cluster.as_bytes(), node.as_bytes()]);
    assert!(!platform.data().join("dns/edge.key").exists());
    canaries.push(("node's edge key", node.header_value()));
    let raw = [("KEK", kek), ("edge key", edge_keys[0].clone()), ("node's edge key", edge_keys[1].clone())];

    // Every way a key can arrive: good, wrong scope, wrong place.
    let api = platform.summary["api"].as_str().unwrap().to_owned();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, header) in [("/tenants", "authorization"), ("/zones", "x-api-key"), ("/nowhere", "x-api-key")]
    {
        let value = if header == "authorization" { format!("Bearer {api_key}") } else { api_key.clone() };
        client.get(format!("{api}/api/v1{path}")).header(header, value).send().await.unwrap();
    }
    client
        .post(format!("{api}/api/v1/api-keys"))
        .header("x-api-key", &api_key)
        .json(&json!({"name": api_key, "key": api_key, "nested": {"password": api_key}}))
        .send()
        .await
        .unwrap();
    let (code, answer) = platform.add_fqdn("acme-1001", "traced.acme-hosting.test", "?wait=ready").await;
    assert_eq!(code, 200, "{answer}");
    let sent = async || (!traces.lock().unwrap().is_empty()).then_some(());
    eventually("traces are sent", LIMIT, sent).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    // Files that exist to hold a secret, each for its owner only.
    let may_hold = |file: &Path| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let inside = file.components().any(|part| part.as_os_str() == "identity");
        inside
            || ["admin.key", "join-token", "kek", "dev-ca.key", "edge.key", "nginx.conf"]
                .contains(&name.as_str())
    };
    let mut all = Vec::new();
    files(platform.folder(), &mut all);
    assert!(all.len() > 10);
    for file in all {
        let mut bytes = Vec::new();
        if fs::File::open(&file).and_then(|mut open| open.read_to_end(&mut bytes)).is_err() {
            continue;
        }
        if may_hold(&file) {
            let public = file.extension().is_some_and(|extension| extension == "pem");
            let mode = fs::metadata(&file).unwrap().mode() & 0o077;
            assert!(public || mode == 0, "{} is open to others: {mode:o}", file.display());
            continue;
        }
        for (what, canary) in &canaries {
            assert!(!contains(&bytes, canary), "{} holds the {what}", file.display());
        }
        for (what, secret) in &raw {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret),
                "{} holds the {what}",
                file.display()
            );
        }
    }
    // Nothing in argv or the environment of any process of the platform.
    let pids = ["up", "controller", "edge", "dns", "nodeagent"].map(|role| platform.pid(role));
    for pid in pids {
        for what in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{what}")).unwrap();
            for (secret, canary) in &canaries {
                assert!(!contains(&bytes, canary), "{what} of {pid} holds the {secret}");
            }
        }
    }
    let traces = traces.lock().unwrap().clone();
    for (what, canary) in &canaries {
        assert!(!contains(&traces, canary), "traces hold the {what}");
    }
}
