//! What strangers' tools make of the API's description: a fuzzer finds no answer outside of it, and a client made from it works.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::alone::Controller;
use crate::harness::{eventually, skipped};

/// What the tools are driven with.
const SCRIPTS: [(&str, &str); 4] = [
    ("hooks.py", include_str!("api_tools/hooks.py")),
    ("lab.py", include_str!("api_tools/lab.py")),
    ("schemathesis.toml", include_str!("api_tools/schemathesis.toml")),
    ("walk.py", include_str!("api_tools/walk.py")),
];

/// A program of `infra/needs.sh`; without it the test is skipped, loudly.
fn tool(test: &str, name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("HOSTING_CI_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/hosting-ci")));
    let program =
        cache.map(|cache| cache.join("tools/api-tools/bin").join(name)).filter(|file| file.is_file());
    if program.is_none() {
        skipped(
            &format!("api_tools::{test}"),
            &format!("{name}; ./test installs it where Python can be used"),
        );
    }
    program
}

/// A controller with a region, a cluster, a shard, a brand and one node of each role, and what a client of it has to know.
struct Lab {
    controller: Controller,
    http: reqwest::Client,
    key: String,
    region: String,
    cluster: String,
    shard: String,
}

impl Lab {
    async fn start() -> Self {
        let controller = Controller::start(tempfile::tempdir().unwrap(), &[]);
        let http = reqwest::Client::new();
        let ready = format!("http://{}/readyz", controller.api);
        eventually("the controller answers", Duration::from_secs(20), async || {
            http.get(&ready).send().await.ok().filter(|answer| answer.status().is_success())
        })
        .await;
        let key = std::fs::read_to_string(controller.key_file()).unwrap().trim().to_owned();
        let (region, cluster, shard) = Default::default();
        let mut lab = Self { controller, http, key, region, cluster, shard };
        lab.region = lab.create("/regions", json!({"name": "north"})).await;
        lab.cluster = lab.create(&format!("/regions/{}/clusters", lab.region), json!({"name": "one"})).await;
        let shards = format!("/clusters/{}/shards", lab.cluster);
        lab.shard = lab.create(&shards, json!({"name": "web-1", "role": "web"})).await;
        for (id, role, shards) in [("edge-1", "lb", vec![]), ("web-1", "web", vec![&lab.shard])] {
            let node = json!({"id": id, "hostname": id, "ip_address": "192.0.2.9", "roles": [role], "shard_ids": shards});
            lab.create(&format!("/clusters/{}/nodes", lab.cluster), node).await;
        }
        let brand = json!({
            "id": "acme", "name": "acme", "base_hostname": "acme.example", "primary_ns": "ns1.acme.example",
            "secondary_ns": "ns2.acme.example", "hostmaster_email": "hostmaster@acme.example", "undelete_days": 30,
        });
        lab.create("/brands", brand).await;
        lab
    }

    /// Has a tenant with one of everything, and writes down for the scripts what there is, by the words that ids stand behind in paths.
    async fn furnish(&self) {
        let tenant = json!({
            "brand_id": "acme", "customer_id": "c-1", "region_id": self.region, "cluster_id": self.cluster,
            "shard_id": self.shard, "subscriptions": [{"id": "crm-1", "name": "default"}],
        });
        let tenant = self.create("/tenants", tenant).await;
        let of_it = |what: &str| format!("/tenants/{tenant}/{what}");
        let webroot = self.create(&of_it("webroots"), json!({"runtime": "static"})).await;
        // The name that the certificate of the document's example is for.
        let name = json!({"fqdn": "www.customer-1.example", "webroot_id": webroot});
        let fqdn = self.create(&of_it("fqdns"), name).await;
        let zone = json!({"name": "lab.example", "tenant_id": tenant, "region_id": self.region});
        let zone = self.create("/zones", zone).await;
        let webhook = json!({"name": "lab", "url": "https://crm.example/hook", "brand_id": "acme"});
        let webhook = self.create("/webhooks", webhook).await;
        let url = format!("http://{}", self.controller.api);
        let keys =
            self.http.get(format!("{url}/api/v1/api-keys")).bearer_auth(&self.key).send().await.unwrap();
        let keys: Value = keys.json().await.unwrap();
        let lab = json!({"url": url, "key": self.key, "things": {
            "regions": self.region, "clusters": self.cluster, "shards": self.shard, "nodes": "web-1", "brands": "acme",
            "tenants": tenant, "subscriptions": "crm-1", "webroots": webroot, "fqdns": fqdn, "zones": zone,
            "webhooks": webhook, "api-keys": keys["items"][0]["id"],
        }});
        for (name, text) in SCRIPTS {
            std::fs::write(self.controller.path().join(name), text).unwrap();
        }
        std::fs::write(self.controller.path().join("lab.json"), lab.to_string()).unwrap();
    }

    async fn create(&self, path: &str, body: Value) -> String {
        let url = format!("http://{}/api/v1{path}", self.controller.api);
        let answer = self.http.post(url).bearer_auth(&self.key).json(&body).send().await.unwrap();
        let status = answer.status();
        let made: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{path}: {made}");
        made["id"].as_str().unwrap().to_owned()
    }

    fn document(&self) -> String {
        format!("http://{}/docs/openapi.json", self.controller.api)
    }

    fn run(&self, command: &mut Command) -> Output {
        command.current_dir(self.controller.path()).output().unwrap()
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Nothing is left out. Of endless streams a few events are read; the key that is asked with, and what the lab stands on, stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_fuzzer_finds_no_answer_outside_of_the_description() {
    let Some(schemathesis) = tool("a_fuzzer_finds_no_answer_outside_of_the_description", "schemathesis")
    else {
        return;
    };
    let lab = Lab::start().await;
    lab.furnish().await;
    let output = lab.run(
        Command::new(schemathesis)
            .env("SCHEMATHESIS_HOOKS", "hooks")
            .args(["--config-file", "schemathesis.toml"])
            .args(["run", &lab.document(), "-H", &format!("Authorization: Bearer {}", lab.key)])
            .args([
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            ])
            .args(["--phases", "examples,fuzzing,stateful", "--max-time", "45", "--request-timeout", "20"])
            .args(["--generation-deterministic", "--no-shrink", "--continue-on-failure", "--warnings", "off", "--no-color"]),
    );
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("test cases") || said.contains("Test cases"), "{said}");
}

/// What no call succeeds with where there is a controller and no machine, and why; each is tested where there are some.
const NEVER: &[(&str, &str)] = &[
    ("GET /api/v1/events", "a stream has no end: the fuzzer reads the beginning of it"),
    ("GET /api/v1/fqdns/{fqdnID}/requests", "a stream has no end: the fuzzer reads the beginning of it"),
    ("POST /api/v1/certificates/{id}/retry", RETRY),
    ("POST /api/v1/fqdns/{id}/retry", RETRY),
    ("POST /api/v1/shards/{id}/retry", RETRY),
    ("POST /api/v1/tenants/{id}/retry", RETRY),
    ("POST /api/v1/webroots/{id}/retry", RETRY),
    ("POST /api/v1/zones/{id}/retry", RETRY),
    ("POST /api/v1/zone-records/{id}/retry", RETRY),
    ("POST /api/v1/certificates/{id}/undelete", "one that is deleted for itself is not kept"),
    ("POST /api/v1/fqdns/{id}/undelete", "one that is deleted for itself is not kept"),
    ("POST /api/v1/jobs/{id}/cancel", "there may be no job that waits"),
    ("POST /api/v1/jobs/{id}/retry", "there may be no job that was given up"),
    ("POST /api/v1/platform/keks/forget", "a key is forgotten once nothing is sealed with it any more"),
    ("POST /api/v1/rollouts/{id}/abort", ROLLOUT),
    ("POST /api/v1/rollouts/{id}/pause", ROLLOUT),
    ("POST /api/v1/rollouts/{id}/resume", ROLLOUT),
    ("POST /api/v1/subscribers/{id}/release", "there is no subscriber whose brake holds something"),
    (
        "POST /api/v1/webhooks/{id}/deliveries/{deliveryID}/redeliver",
        "there is no delivery before one was attempted",
    ),
];
const RETRY: &str = "what no machine refused has not failed";
const ROLLOUT: &str = "a rollout without machines is over at once";

#[tokio::test(flavor = "multi_thread")]
async fn every_link_of_the_description_leads_on() {
    let Some(schemathesis) = tool("every_link_of_the_description_leads_on", "schemathesis") else { return };
    let lab = Lab::start().await;
    lab.furnish().await;
    let output = lab.run(Command::new(schemathesis.with_file_name("python")).arg("walk.py"));
    assert!(output.status.success(), "{}", text(&output));
    let walked: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |name: &str| walked[name].as_u64().unwrap();
    assert!(number("links") > 250 && number("followed") * 10 >= number("links") * 9, "{walked:#}");
    assert!(walked["creates"].as_array().unwrap().len() >= 18, "{walked:#}");
    assert_eq!(walked["unread"], json!([]), "what these made was not read: {walked:#}");
    let never = walked["never"].as_object().unwrap();
    let unexplained: Vec<_> =
        never.keys().filter(|call| !NEVER.iter().any(|(known, _)| known == call)).collect();
    assert!(unexplained.is_empty(), "these never succeeded: {unexplained:?} {:#}", walked["failed"]);
}

const CLIENT: &str = r#"
import sys
from hosting_platform_client import AuthenticatedClient
from hosting_platform_client.api.tenants import post_tenants, get_tenants_by_id
from hosting_platform_client.api.webroots import post_tenants_by_tenant_id_webroots
from hosting_platform_client.api.fqdns import post_tenants_by_tenant_id_fqdns
from hosting_platform_client.models import FqdnCreate, TenantCreate, WebrootCreate

url, key, region, cluster, shard = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)
body = TenantCreate.from_dict({
    "brand_id": "acme", "customer_id": "made-by-a-client", "region_id": region, "cluster_id": cluster, "shard_id": shard,
})
tenant = post_tenants.sync(client=client, body=body)
site = post_tenants_by_tenant_id_webroots.sync(tenant.id, client=client, body=WebrootCreate.from_dict({"runtime": "static"}))
name = FqdnCreate.from_dict({"fqdn": "www.made-by-a-client.example", "webroot_id": site.id})
fqdn = post_tenants_by_tenant_id_fqdns.sync(tenant.id, client=client, body=name)
read = get_tenants_by_id.sync(tenant.id, client=client)
print(read.customer_id, fqdn.fqdn, fqdn.webroot_id == site.id)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_makes_a_tenant_a_site_and_a_name() {
    let Some(generator) =
        tool("a_generated_client_makes_a_tenant_a_site_and_a_name", "openapi-python-client")
    else {
        return;
    };
    let lab = Lab::start().await;
    let python = generator.with_file_name("python");
    let made = lab.run(Command::new(generator).args([
        "generate",
        "--url",
        &lab.document(),
        "--output-path",
        "client",
    ]));
    assert!(made.status.success(), "{}", text(&made));
    std::fs::write(lab.controller.path().join("use.py"), CLIENT).unwrap();
    let url = format!("http://{}", lab.controller.api);
    let output = lab.run(
        Command::new(python)
            .args(["use.py", &url, &lab.key, &lab.region, &lab.cluster, &lab.shard])
            .env("PYTHONPATH", lab.controller.path().join("client")),
    );
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output).trim(), "made-by-a-client www.made-by-a-client.example True");
}
