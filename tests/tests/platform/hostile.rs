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
use hosting_intent::{Audience, Bytes, Cause, Key, Kind, audience_key_of, message};
use hosting_intent_sync::sealing::{AudienceKey, Place, SealingKey};
use hosting_planner::{Change, Draft, IntentChange};
use hosting_store::{Kek, Origin, Store, StoreConfig};
use prost::Message;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::certificates::{fqdn_id, own_certificate};
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
        rollout: 0,
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
            http: None,
        };
        poison(&edge, Key::new(Kind::Route, name), clusters.encode_to_vec())
    };
    let record = |key: &str, rdata: &str| {
        let records = message::Records { rdata: vec![rdata.to_owned()] };
        let set =
            message::RrSet { ttl: 60, data: Some(message::rr_set::Data::Records(records)), https: false };
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

    let rejected = |subscribers: &[Value], audience: &str| -> (usize, usize) {
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

/// The controller's store as it is now, copied and opened while the controller goes on.
async fn copy_of_store(platform: &Platform, name: &str) -> Store {
    let controller = platform.data().join("controller");
    let folder = platform.folder().join(name);
    fs::create_dir(&folder).unwrap();
    for file in ["store.db", "store.db-wal"] {
        let _ = fs::copy(controller.join(file), folder.join(file));
    }
    let kek = Kek::load(&controller.join("kek")).unwrap();
    Store::open(&StoreConfig::new(folder.join("store.db")), kek).await.unwrap()
}

/// The private keys of certificates that were uploaded, replaced and refused: a line of their PEM, and their bytes.
async fn customers_keys(platform: &Platform) -> Vec<(String, Vec<u8>)> {
    let fqdn = fqdn_id(platform, "acme-1001", "bakery.test").await;
    let path = format!("/fqdns/{fqdn}/certificates");
    let mut keys = Vec::new();
    let mut note = |body: &Value| {
        let pem = body["key_pem"].as_str().unwrap();
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        // The private number stands behind the algorithm (RFC 5915): bytes that no certificate holds.
        keys.push((pem.lines().nth(1).unwrap().to_owned(), der.secret_der()[36..68].to_vec()));
    };
    // Taken, and deleted again.
    let body = own_certificate(&["bakery.test"]);
    note(&body);
    let made = platform.post(&format!("{path}?wait=ready"), body).await;
    let gone = format!("/certificates/{}?wait=ready", made["id"].as_str().unwrap());
    assert_eq!(platform.call("DELETE", &gone, None).await.0, 200);
    // From the command line, and staying.
    let body = own_certificate(&["bakery.test", "*.bakery.test"]);
    note(&body);
    let file = tempfile::tempdir().unwrap();
    let write = |name: &str, field: &str| {
        let path = file.path().join(name);
        fs::write(&path, body[field].as_str().unwrap()).unwrap();
        format!("{field}=@{}", path.display())
    };
    let made = platform
        .hostctl()
        .args(["create", "certificate", "--in", "bakery.test", "--wait", "-s"])
        .args([write("crt", "cert_pem"), "-s".into(), write("key", "key_pem")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Refused: in the wrong fields, in fields that do not exist, for another name, by another kind.
    let body = own_certificate(&["other.test"]);
    note(&body);
    let key = body["key_pem"].as_str().unwrap();
    for wrong in [
        body.clone(),
        json!({"cert_pem": key, "key_pem": key, "chain_pem": key}),
        json!({"cert_pem": body["cert_pem"], "key_pem": [key], "private_key": key}),
        json!({"cert_pem": {"key": key}, "key_pem": {"key": key}}),
        json!({"comment": {"a": [key]}}),
    ] {
        let (code, answer) = platform.call("POST", &path, Some(wrong)).await;
        assert_eq!(code, 400, "{answer}");
        assert!(!answer.to_string().contains(key.lines().nth(1).unwrap()), "{answer}");
    }
    keys
}

/// Secrets of a site's environment: set and changed, sealed in the vault, and refused.
async fn customers_variables(platform: &Platform) -> Vec<String> {
    let (_, webroot) = platform.site("acme-1002").await;
    let path = format!("/webroots/{webroot}/env-vars");
    let canary = |what: &str| format!("canary-{what}-5d2f9c0b7e");
    let (first, second, sealed) = (canary("first"), canary("second"), canary("sealed"));
    let token =
        platform.post(&format!("/webroots/{webroot}/vault/encrypt"), json!({"plaintext": sealed})).await;
    for text in [&first, &second] {
        let vars = json!({"vars": [
            {"name": "APP_SECRET", "value": text, "secret": true},
            {"name": "APP_KEY", "value": token["token"]},
        ]});
        let (code, answer) = platform.call("PUT", &format!("{path}?wait=ready"), Some(vars)).await;
        assert_eq!(code, 200, "{answer}");
    }
    // In effect, and the token is what it stands for.
    let page = platform
        .data()
        .join("storage")
        .join(format!("{}/webroots/{webroot}", platform.site("acme-1002").await.0));
    let folder = [page.join("public"), page].into_iter().find(|folder| folder.is_dir()).unwrap();
    let name = "probe-of-the-environment.php";
    fs::write(
        folder.join(name),
        "<?php echo hash('sha256', getenv('APP_SECRET')), ' ', hash('sha256', getenv('APP_KEY'));",
    )
    .unwrap();
    let (_, found) = platform.page("guestbook.acme-hosting.test", name).await.unwrap();
    assert_eq!(found, format!("{} {}", sha256(&second), sha256(&sealed)));
    let refused = canary("refused");
    for wrong in [
        json!({"vars": [{"name": "1", "value": refused, "secret": true}]}),
        json!({"vars": [{"name": "A", "value": [refused], "secret": true}]}),
        json!({"vars": {"A": refused}}),
        json!({"APP_SECRET": refused}),
    ] {
        let (code, answer) = platform.call("PUT", &path, Some(wrong)).await;
        assert_eq!(code, 400, "{answer}");
    }
    vec![first, second, sealed, refused]
}

fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn who_was_removed_opens_nothing_that_is_sealed_from_then_on() {
    if machine_lacks_daemons("who_was_removed_opens_nothing_that_is_sealed_from_then_on") {
        return;
    }
    let platform = Platform::start(&[]).await;
    let subscribers = platform.subscribers().await;
    let of = |node: &str| subscribers.iter().find(|one| one["node_id"] == node).unwrap()["audience"].as_str();
    let edge = subscribers.iter().find(|one| one["audience"].as_str().unwrap().starts_with("edge/")).unwrap();
    let node = edge["node_id"].as_str().unwrap();
    let audience: Audience = of(node).unwrap().parse().unwrap();
    // What somebody has who took the machine along.
    let pair = SealingKey::load_or_create(&platform.data().join("edge/sealing.key")).unwrap();
    // How many of the audience's certificates it can open, of how many.
    let opens = async |name: &str| -> (usize, usize) {
        let store = copy_of_store(&platform, name).await;
        let mut tx = store.read().await.unwrap();
        let rows = tx.intents(&audience, None, 1_000).await.unwrap();
        let keys: Vec<AudienceKey> = rows
            .iter()
            .filter(|row| row.key.known_kind() == Some(Kind::AudienceKey))
            .filter_map(|row| {
                let share = message::AudienceKey::decode(row.value.clone()).unwrap();
                let (version, _) = audience_key_of(&row.key.name).unwrap();
                AudienceKey::from_share(&audience, version, &share, &pair).ok()
            })
            .collect();
        let certificates: Vec<_> =
            rows.iter().filter(|row| row.key.known_kind() == Some(Kind::Certificate)).collect();
        let open = certificates.iter().filter(|row| {
            let sealed = message::Certificate::decode(row.value.clone()).unwrap().key.unwrap();
            let place = Place { audience: &audience, key: &row.key, field: "key" };
            keys.iter().any(|key| key.open(place, &sealed).is_ok())
        });
        (open.count(), certificates.len())
    };
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    let path = format!("/fqdns/{fqdn}/certificates");
    platform.post(&format!("{path}?wait=ready"), own_certificate(&["bakery.test"])).await;
    assert_eq!(opens("before").await, (1, 1));
    let (code, answer) = platform.call("DELETE", &format!("/nodes/{node}"), None).await;
    assert_eq!(code, 204, "{answer}");
    platform.post(&path, own_certificate(&["bakery.test"])).await;
    // The one from before is sealed anew as well.
    eventually("nothing is left that it opens", LIMIT, async || {
        let place = format!("after-{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
        (opens(&place).await == (0, 2)).then_some(())
    })
    .await;
    // Nor is it given anything: what it had from before is all that it has.
    eventually("its session is over", LIMIT, async || {
        (!platform.subscribers().await.iter().any(|one| one["node_id"] == node && one["connected"] == true))
            .then_some(())
    })
    .await;
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
    let derived = copy_of_store(&platform, "edge-keys").await.cluster_edge_key(cluster);
    let node = derived.for_node("web-1");
    assert_eq!(edge_keys, [derived.as_bytes(), node.as_bytes()]);
    // It outlives rotations of the key-encryption key, and so does not follow from it.
    assert_ne!(ClusterEdgeKey::derive(&kek, cluster).as_bytes(), derived.as_bytes());
    assert!(!platform.data().join("dns/edge.key").exists());
    canaries.push(("node's edge key", node.header_value()));
    let mut raw =
        vec![("KEK", kek), ("edge key", edge_keys[0].clone()), ("node's edge key", edge_keys[1].clone())];
    for role in ["edge", "nodeagent"] {
        let file = platform.data().join(role).join("sealing.key");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        raw.push(("private sealing key", fs::read(file).unwrap()[..32].to_vec()));
    }
    for (text, der) in customers_keys(&platform).await {
        canaries.push(("private key of a certificate", text));
        raw.push(("private key of a certificate", der));
    }
    for text in customers_variables(&platform).await {
        canaries.push(("secret variable", text));
    }

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

    // What the API says, to whom may see everything.
    let mut shown = Vec::new();
    for path in [
        "/audit-logs?limit=200",
        "/search?q=bakery",
        "/search?q=PRIVATE",
        "/explain/bakery.test",
        "/subscribers",
        "/platform/keks",
        "/tenants?limit=200",
    ] {
        shown.push((path.to_owned(), platform.get(path).await));
    }
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    let certificates = platform.items(&format!("/fqdns/{fqdn}/certificates")).await;
    assert!(!certificates.is_empty());
    for one in certificates {
        let path = format!("/certificates/{}", one["id"].as_str().unwrap());
        shown.push((path.clone(), platform.get(&path).await));
        shown.push((path, one));
    }
    for (path, answer) in shown {
        let answer = answer.to_string();
        // A token's own prefix is shown, and made to be.
        for (what, canary) in &canaries {
            assert!(!contains(answer.as_bytes(), canary), "GET {path} shows the {what}");
        }
        assert!(
            !answer.contains("$secret") && !answer.contains("\"sealed\""),
            "GET {path} shows what is sealed"
        );
    }
    // A backup, into the folder that is looked through.
    let copy = copy_of_store(&platform, "copy").await;
    copy.backup_to(&platform.folder().join("backup.db")).await.unwrap();
    copy.close().await;

    // Files that exist to hold a secret, each for its owner only.
    let may_hold = |file: &Path| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let inside = file.components().any(|part| part.as_os_str() == "identity");
        // What php-fpm reads, before it becomes the user of the site.
        let of_php = file.starts_with(platform.data().join("nodeagent/config/php"));
        inside
            || of_php
            || ["admin.key", "join-token", "kek", "dev-ca.key", "edge.key", "sealing.key", "nginx.conf"]
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
