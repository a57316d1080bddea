//! A wanted state in files, against a whole platform.

use std::{fs, path::PathBuf, process::Output, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::certificates::own_certificate;
use crate::harness::{Platform, eventually, machine_lacks_daemons};

/// A brand with all that it has.
const TREE: &str = "items:
- {kind: brand, id: petit, spec: {name: Petit Hosting, base_hostname: petit.test, primary_ns: ns1.petit.test,
   secondary_ns: ns2.petit.test, hostmaster_email: hostmaster@petit.test}}
- {kind: package, in: petit, spec: {name: small, limits: {webroots: 5, fqdns: 20}}}
- {kind: tenant, spec: {brand_id: petit, customer_id: c-1, region_id: REGION, cluster_id: CLUSTER, package_id: small}}
- {kind: subscription, in: c-1, id: petit-web, spec: {name: web}}
- {kind: webroot, in: c-1, name: site, spec: {subscription_id: web, runtime: static}}
- {kind: webroot, in: petit/c-1, name: shop, spec: {subscription_id: petit-web, runtime: static, public_folder: public}}
- {kind: fqdn, in: c-1, spec: {fqdn: WWW.Petit.Test., webroot_id: site}}
- {kind: fqdn, in: c-1, spec: {fqdn: shop.petit.test, webroot_id: shop}}
- {kind: zone, spec: {name: petit.test, region_id: REGION, brand_id: petit}}
- {kind: zone-record, in: petit.test, spec: {type: A, name: ns1, content: 192.0.2.53}}
- {kind: zone-record, in: petit.test, spec: {type: txt, name: '@', content: one, ttl: 300}}
- {kind: zone-record, in: petit.test, spec: {type: TXT, name: petit.test., content: two, ttl: 300}}
- {kind: zone-record, in: petit.test, spec: {type: MX, name: '@', content: mail, priority: 10}}
";

struct Files<'p> {
    platform: &'p Platform,
    region: String,
    cluster: String,
}

impl<'p> Files<'p> {
    async fn new(platform: &'p Platform) -> Self {
        let cluster = platform.get("/nodes/web-1").await["cluster_id"].as_str().unwrap().to_owned();
        let cluster = platform.get(&format!("/clusters/{cluster}")).await;
        let region = platform.get(&format!("/regions/{}", cluster["region_id"].as_str().unwrap())).await;
        let name = |one: &Value| one["name"].as_str().unwrap().to_owned();
        Self { platform, region: name(&region), cluster: name(&cluster) }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.platform.folder().join(name);
        fs::write(&path, text.replace("REGION", &self.region).replace("CLUSTER", &self.cluster)).unwrap();
        path
    }

    fn run(&self, verb: &str, file: &PathBuf, more: &[&str]) -> Output {
        self.platform.hostctl().arg(verb).arg("-f").arg(file).args(more).output().unwrap()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(output: Output) -> String {
    let text = said(&output);
    assert!(output.status.success(), "{:?}: {text}", output.status);
    text
}

#[tokio::test]
async fn a_brands_tree_is_made_from_a_file_and_kept_as_the_file_says() {
    if machine_lacks_daemons("a_brands_tree_is_made_from_a_file_and_kept_as_the_file_says") {
        return;
    }
    let platform = Platform::start(&[]).await;
    let files = Files::new(&platform).await;
    let tree = files.file("tree.yaml", TREE);

    // Only planned, then made, then there.
    let planned = done(files.run("apply", &tree, &["--dry-run"]));
    assert!(
        planned.contains("+ fqdn www.petit.test  in c-1") && planned.contains("nothing was changed"),
        "{planned}"
    );
    assert_eq!(platform.call("GET", "/brands/petit", None).await.0, 404);
    let made = done(files.run("apply", &tree, &["--wait", "--timeout", "2m"]));
    assert!(made.contains("done: 13 created"), "{made}");
    assert!(
        done(files.run("apply", &tree, &[])).contains("nothing to change: 13 resources are as the files say")
    );
    assert!(done(files.run("diff", &tree, &[])).contains("no differences"));
    let tenant = platform.items("/tenants?customer_id=c-1").await[0]["id"].as_str().unwrap().to_owned();
    let fqdns = platform.items(&format!("/tenants/{tenant}/fqdns")).await;
    assert_ne!(fqdns[0]["webroot_id"], fqdns[1]["webroot_id"], "{fqdns:?}");
    eventually("the site answers", Duration::from_secs(20), async || platform.web("www.petit.test").await)
        .await;

    // Somebody else changes a field that the file says, and one that it does not.
    let zone = platform.items("/zones?name=petit.test").await[0]["id"].as_str().unwrap().to_owned();
    let records = platform.items(&format!("/zones/{zone}/records")).await;
    let one = records.iter().find(|one| one["content"] == "one").unwrap()["id"].as_str().unwrap().to_owned();
    let patch = async |id: &str, body: Value| {
        platform.call("PATCH", &format!("/zone-records/{id}"), Some(body)).await
    };
    assert_eq!(patch(&one, json!({"ttl": 900})).await.0, 202);
    let mail = records.iter().find(|one| one["type"] == "MX").unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(patch(&mail, json!({"ttl": 120})).await.0, 202);
    let differs = files.run("diff", &tree, &[]);
    assert_eq!(differs.status.code(), Some(8), "{}", said(&differs));
    let text = String::from_utf8_lossy(&differs.stdout).into_owned();
    assert_eq!(text, "~ zone-record petit.test TXT  in petit.test  ttl: 900 -> 300\n");
    assert!(done(files.run("apply", &tree, &[])).contains("done: 1 changed"));
    assert_eq!(platform.get(&format!("/zone-records/{mail}")).await["ttl"], 120, "the file does not say it");

    // What cannot be changed is refused with the place, and one refusal refuses all.
    let fixed = files.file(
        "fixed.yaml",
        &TREE
            .replace("name: web}}", "name: other}}")
            .replace("subscription_id: web,", "subscription_id: petit-web,"),
    );
    let refused = files.run("apply", &fixed, &[]);
    assert!(
        refused.status.code() == Some(2) && said(&refused).contains("spec.name: cannot be changed"),
        "{}",
        said(&refused)
    );
    let half = files.file(
        "half.yaml",
        "items:\n- {kind: zone-record, in: petit.test, spec: {type: A, name: new, content: 192.0.2.9}}\n\
         - {kind: zone-record, in: petit.test, spec: {type: CNAME, name: ns1, content: new}}\n",
    );
    let refused = files.run("apply", &half, &["--yes"]);
    let text = said(&refused);
    assert!(
        !refused.status.success() && text.contains("half.yaml:3: create zone-record ns1.petit.test CNAME"),
        "{text}"
    );
    assert!(
        platform.items(&format!("/zones/{zone}/records?name=new")).await.is_empty(),
        "nothing is half done"
    );

    // What nobody names goes with --prune, in what the files name alone; what the platform made stays.
    let other = json!({"type": "TXT", "name": "other", "content": "not in the file"});
    platform.post(&format!("/zones/{zone}/records"), other).await;
    platform.post(&format!("/tenants/{tenant}/fqdns"), json!({"fqdn": "unnamed.petit.test"})).await;
    let customer = json!({"brand_id": "acme", "customer_id": "spared", "region_id": files.region_id().await, "cluster_id": files.cluster_id().await});
    platform.post("/tenants", customer).await;
    let gone = TREE.replace("- {kind: fqdn, in: c-1, spec: {fqdn: shop.petit.test, webroot_id: shop}}\n", "");
    let gone = gone.lines().filter(|line| !line.contains("name: shop")).collect::<Vec<_>>().join("\n");
    let pruned = files.file("pruned.yaml", &gone);
    let without = done(files.run("apply", &pruned, &[]));
    assert!(without.contains("nothing to change"), "without --prune nothing goes: {without}");
    let needs = files.run("apply", &pruned, &["--prune"]);
    assert!(needs.status.code() == Some(2) && said(&needs).contains("--yes"), "{}", said(&needs));
    let planned = done(files.run("apply", &pruned, &["--prune", "--dry-run", "--json"]));
    let planned: Value = serde_json::from_str(&planned).unwrap();
    let mut deleted: Vec<String> = planned["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {} {}", one["change"], one["kind"], one["label"]).replace('"', ""))
        .collect();
    deleted.sort();
    let webroot =
        fqdns.iter().find(|one| one["fqdn"] == "shop.petit.test").unwrap()["webroot_id"].as_str().unwrap();
    let wanted = [
        "delete fqdn shop.petit.test".to_owned(),
        "delete fqdn unnamed.petit.test".to_owned(),
        format!("delete webroot {webroot} (static)"),
        "delete zone_record other.petit.test TXT (not in the file)".to_owned(),
    ];
    assert_eq!(deleted, wanted, "{planned:#}");
    assert_eq!(planned["plan"]["destroyed"][0]["id"], webroot, "{planned:#}");
    let text = done(files.run("apply", &pruned, &["--prune", "--yes", "--wait", "--timeout", "2m"]));
    assert!(text.contains("done: 4 deleted"), "{text}");
    assert!(done(files.run("apply", &pruned, &["--prune", "--yes"])).contains("nothing to change"));
    assert_eq!(platform.items("/tenants?customer_id=spared").await.len(), 1, "other brands' tenants stay");
    let records = platform.items(&format!("/zones/{zone}/records")).await;
    assert!(records.iter().any(|one| one["managed_by"] == "auto"), "{records:?}");
    // A certificate shows neither its key nor its name, and is the one that it was all the same; another one stands beside it.
    for made in [1, 2] {
        let pem = own_certificate(&["www.petit.test"]);
        let item = json!({"kind": "certificate", "in": "www.petit.test", "spec": pem});
        let certificate = files.file("certificate.json", &item.to_string());
        assert!(done(files.run("apply", &certificate, &[])).contains("done: 1 created"));
        let again = done(files.run("apply", &certificate, &[]));
        assert!(
            again.contains("nothing to change") && again.contains("key_pem of a certificate is never shown"),
            "{again}"
        );
        let www = fqdns.iter().find(|one| one["fqdn"] == "www.petit.test").unwrap()["id"].as_str().unwrap();
        assert_eq!(platform.items(&format!("/fqdns/{www}/certificates")).await.len(), made);
    }
    // A platform can be made again from what is exported.
    for brand in ["petit", "acme"] {
        let exported = platform.hostctl().args(["export", "--brand", brand]).output().unwrap();
        assert!(exported.status.success(), "{}", said(&exported));
        let text = String::from_utf8(exported.stdout).unwrap();
        assert!(!text.contains("managed_by") && !text.contains("auto"), "{text}");
        let exported = files.file("exported.yaml", &text);
        let again = files.run("apply", &exported, &["--prune", "--yes"]);
        assert!(
            again.status.success() && said(&again).contains("nothing to change"),
            "{text}\n{}",
            said(&again)
        );
    }
    let all = platform.hostctl().args(["export", "--json"]).output().unwrap();
    let exported = files.file("all.json", &String::from_utf8_lossy(&all.stdout));
    assert!(done(files.run("apply", &exported, &[])).contains("nothing to change"));
}

impl Files<'_> {
    async fn cluster_id(&self) -> String {
        self.platform.get("/nodes/web-1").await["cluster_id"].as_str().unwrap().to_owned()
    }

    async fn region_id(&self) -> String {
        let cluster = self.platform.get(&format!("/clusters/{}", self.cluster_id().await)).await;
        cluster["region_id"].as_str().unwrap().to_owned()
    }
}

/// Hands requests on to the API, and does something else first when one contains `before`.
async fn in_between(api: String, before: &'static str, meanwhile: impl AsyncFn() + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = api.trim_start_matches("http://").to_owned();
    tokio::task::spawn_local(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(&target).await.unwrap();
            let (mut from_client, mut from_server) = ([0; 65_536], [0; 65_536]);
            loop {
                tokio::select! {
                    read = client.read(&mut from_client) => {
                        let Ok(count @ 1..) = read else { break };
                        let text = String::from_utf8_lossy(&from_client[..count]).into_owned();
                        if text.contains(before) {
                            meanwhile().await;
                        }
                        server.write_all(&from_client[..count]).await.unwrap();
                    }
                    read = server.read(&mut from_server) => {
                        let Ok(count @ 1..) = read else { break };
                        client.write_all(&from_server[..count]).await.unwrap();
                    }
                }
            }
        }
    });
    url
}

#[tokio::test]
async fn what_somebody_else_changes_in_between_is_not_overwritten() {
    if machine_lacks_daemons("what_somebody_else_changes_in_between_is_not_overwritten") {
        return;
    }
    let platform = std::rc::Rc::new(Platform::start(&[]).await);
    let zone = platform.items("/zones?name=bakery.test").await[0]["id"].as_str().unwrap().to_owned();
    let body = json!({"type": "TXT", "name": "note", "content": "first", "ttl": 300});
    let record =
        platform.post(&format!("/zones/{zone}/records"), body).await["id"].as_str().unwrap().to_owned();
    let path = format!("/zone-records/{record}");
    let file = platform.folder().join("note.yaml");
    fs::write(
        &file,
        "items:\n- {kind: zone-record, in: bakery.test, spec: {type: TXT, name: note, content: mine, ttl: 300}}\n\
         - {kind: zone-record, in: bakery.test, spec: {type: TXT, name: beside, content: it, ttl: 300}}\n",
    )
    .unwrap();
    let local = tokio::task::LocalSet::new();
    let (inner, changed) = (std::rc::Rc::clone(&platform), path.clone());
    let output = local
        .run_until(async move {
            let api = inner.summary["api"].as_str().unwrap().to_owned();
            let (other, key) = (std::rc::Rc::clone(&inner), inner.admin_key());
            let url = in_between(api, "/bulk?atomic=true", async move || {
                let (code, answer) = other.call("PATCH", &changed, Some(json!({"content": "theirs"}))).await;
                assert_eq!(code, 202, "{answer}");
            })
            .await;
            let mut command = tokio::process::Command::new(crate::harness::binaries().join("hostctl"));
            command
                .args(["--api", &url, "apply", "-f"])
                .arg(&file)
                .env("HOSTING_API_KEY", key)
                .output()
                .await
                .unwrap()
        })
        .await;
    let text = said(&output);
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("note.yaml:2: change zone-record note.bakery.test TXT"), "{text}");
    assert_eq!(platform.get(&path).await["content"], "theirs");
    assert!(platform.items(&format!("/zones/{zone}/records?name=beside")).await.is_empty(), "all or none");

    // An editor that is a program: it changes one field.
    let edit = |editor: &str| {
        let mut command = platform.hostctl();
        command.args(["edit", "zone-record", &record]).env("EDITOR", editor).env_remove("VISUAL");
        command.output().unwrap()
    };
    let edited = edit("sed -i 's/^ttl: .*/ttl: 600/'");
    assert!(edited.status.success(), "{}", said(&edited));
    let now = platform.get(&path).await;
    assert_eq!((&now["ttl"], &now["content"]), (&json!(600), &json!("theirs")));
    let generation = now["generation"].clone();
    assert!(said(&edit("true")).contains("nothing was changed"));
    assert_eq!(platform.get(&path).await["generation"], generation);

    // Somebody else changes it while the editor is open: their change stays, and stands in the editor when it opens again.
    let (seen, hostctl) = (platform.folder().join("seen"), crate::harness::binaries().join("hostctl"));
    let script = platform.folder().join("editor.sh");
    let data = platform.data();
    fs::write(
        &script,
        format!(
            "cat \"$1\" >> {seen}\nsed -i 's/^ttl: .*/ttl: 60/' \"$1\"\n\
             test -e {seen}.once || {hostctl} --data {data} update zone-record {record} -s content=between >&2\ntouch {seen}.once\n",
            seen = seen.display(),
            hostctl = hostctl.display(),
            data = data.display(),
        ),
    )
    .unwrap();
    let edited = edit(&format!("sh {}", script.display()));
    assert!(edited.status.success(), "{}", said(&edited));
    let now = platform.get(&path).await;
    assert_eq!((&now["ttl"], &now["content"]), (&json!(60), &json!("between")));
    let seen = fs::read_to_string(seen).unwrap();
    assert!(
        seen.contains("Somebody else changed it") && seen.contains("#   content: theirs -> between"),
        "{seen}"
    );
}
