//! Names that have to be shown to be their tenant's: from the claim over the record to the route, with a real name server on loopback.

use std::time::Duration;

use axum::http::Method;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_jobs::kinds::certificate::SharedFleet;
use hosting_jobs::kinds::ownership::OwnershipRules;
use hosting_jobs::kinds::{self, JobDeps};
use hosting_jobs::{JobMetrics, Runner, RunnerConfig};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::TestApi;
use crate::loopback_dns::LoopbackDns;

/// A runner of the platform's jobs that asks this name server.
fn run_jobs(test: &TestApi, dns: &LoopbackDns) -> tokio_util::sync::DropGuard {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let deps = JobDeps {
        audit_head_minutes: 10,
        store: test.store.clone(),
        callbacks: CallbackRules::default(),
        history_days: 90,
        history_bytes: 1 << 30,
        fleet: SharedFleet(test.fleet.clone()),
        audit_days: 90,
        ownership: OwnershipRules {
            resolvers: vec![dns.address],
            networks: vec!["127.0.0.0/8".parse().unwrap()],
            dns_port: dns.address.port(),
            http_port: 9,
        },
    };
    let stop = CancellationToken::new();
    let config = RunnerConfig { poll: Duration::from_millis(50), ..RunnerConfig::new() };
    let runner =
        Runner::new(test.store.clone(), kinds::all(&deps), test.bell.clone(), config, JobMetrics::default());
    tokio::spawn(runner.run(stop.clone()));
    stop.drop_guard()
}

/// Defect 14 of the reference: anybody could claim the names of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_served_once_its_record_is_there() {
    let (test, _place) = crate::platform().await;
    let dns = LoopbackDns::start().await;
    let ids = test.brand("acme").await;
    let _jobs = run_jobs(&test, &dns);
    test.put("/brands/acme", json!({"name_verification": "required"})).await.ok(200);
    let old = test.get(&format!("/fqdns/{}", ids.fqdn)).await.ok(200);
    assert!(old.get("verification").is_none(), "claimed before the policy: {old}");

    let claim = json!({"fqdn": "www.Bücher.example.", "webroot_id": ids.webroot});
    let claimed = test.post(&format!("/tenants/{}/fqdns", ids.tenant), claim).await.ok(202);
    let path = format!("/fqdns/{}", claimed["id"].as_str().unwrap());
    let verification = &claimed["verification"];
    assert_eq!(
        (&claimed["fqdn"], &verification["state"]),
        (&json!("www.xn--bcher-kva.example"), &json!("unverified"))
    );
    let record = &verification["record"];
    assert_eq!(record["name"], "_hosting-challenge.www.xn--bcher-kva.example");
    // The job looks by itself, and says what it found.
    let looked =
        test.until(&path, |answer| answer.body["verification"]["checked_at"].is_string()).await.ok(200);
    let message = looked["verification"]["message"].as_str().unwrap();
    assert!(message.contains("there is no TXT record"), "{message}");
    assert_ne!(looked["status"], "active");

    dns.text(record["name"].as_str().unwrap(), &[record["content"].as_str().unwrap()]);
    let asked = test.call(Method::POST, &format!("{path}/verify"), Some(&test.admin), None).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let shown = test.until(&path, |answer| answer.body["status"] == "active").await.ok(200);
    let verification = &shown["verification"];
    assert_eq!((&verification["state"], &verification["proof"]), (&json!("verified"), &json!("txt")));
    let explained = test.get("/explain/www.xn--bcher-kva.example").await.ok(200);
    assert!(explained["links"].as_array().is_some_and(|links| !links.is_empty()), "{explained}");

    // A zone by delegation; a name in it is shown by the zone.
    let zone = json!({"name": "shop.example", "region_id": test.region, "tenant_id": ids.tenant,
        "subscription_id": ids.subscription});
    let zone = test.post("/zones", zone).await.ok(202);
    assert_eq!(zone["verification"]["name_servers"], json!(["ns1.acme.example", "ns2.acme.example"]));
    let below = json!({"fqdn": "www.shop.example", "webroot_id": ids.webroot});
    let below = test.post(&format!("/tenants/{}/fqdns", ids.tenant), below).await.ok(202);
    dns.name_servers("example", &["a.nic.example"]);
    dns.address("a.nic.example", "127.0.0.1");
    dns.delegate("shop.example", &["ns1.acme.example"]);
    let zone_path = format!("/zones/{}", zone["id"].as_str().unwrap());
    test.call(Method::POST, &format!("{zone_path}/verify"), Some(&test.admin), None).await.ok(202);
    let shown = test.until(&zone_path, |answer| answer.body["status"] == "active").await.ok(200);
    assert_eq!(shown["verification"]["proof"], "delegation");
    let below_path = format!("/fqdns/{}", below["id"].as_str().unwrap());
    let below = test.until(&below_path, |answer| answer.body["status"] == "active").await.ok(200);
    assert_eq!(below["verification"]["proof"], "zone");

    // Nobody has to show anything any more: what was not shown is served.
    let late = json!({"fqdn": "late.example", "webroot_id": ids.webroot});
    let late = test.post(&format!("/tenants/{}/fqdns", ids.tenant), late).await.ok(202);
    test.put("/brands/acme", json!({"name_verification": "off"})).await.ok(200);
    let late_path = format!("/fqdns/{}", late["id"].as_str().unwrap());
    let late = test.until(&late_path, |answer| answer.body["status"] == "active").await.ok(200);
    assert_eq!(late.get("verification"), None::<&Value>);
    test.call(Method::POST, &format!("{late_path}/verify"), Some(&test.admin), None).await.ok(202);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let names =
        test.get(&format!("/jobs?kind=ownership&subject={}", late["id"].as_str().unwrap())).await.ok(200);
    let now = names["items"].as_array().unwrap().iter().filter(|job| job["params"]["once"] == true).count();
    assert_eq!(now, 0, "nothing is looked for: {names}");
}
