//! Certificates of a public authority: a real one (Pebble) that looks at our name server and our edge.

mod outside;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use self::outside::{Between, Fault, Pebble, Resolver, Said, authority};
use crate::certificates::fqdn_id;
use crate::harness::{Platform, eventually, free_port, machine_lacks_daemons, skipped};

const LIMIT: Duration = Duration::from_secs(60);

/// A platform whose controller asks the resolver, which asks the platform's name server.
async fn start() -> (Platform, Resolver) {
    let resolver = Resolver::start().await;
    let env = [
        ("HOSTING_CONTROLLER_VERIFICATION_RESOLVERS", format!("[\"{}\"]", resolver.address)),
        ("HOSTING_CONTROLLER_VERIFICATION_NETWORKS", "[127.0.0.0/8]".to_owned()),
    ];
    let platform = Platform::start_with(&["--no-restart"], &env).await;
    *resolver.behind.lock().unwrap() = Some(platform.summary["dns"].as_str().unwrap().parse().unwrap());
    (platform, resolver)
}

fn lacks(test: &str) -> bool {
    if machine_lacks_daemons(test) {
        return true;
    }
    let lacks = !std::path::Path::new("/usr/bin/pebble").is_file();
    if lacks {
        skipped(test, "pebble");
    }
    lacks
}

async fn want(platform: &Platform, fqdn: &str) {
    let (code, answer) =
        platform.call("PUT", &format!("/fqdns/{fqdn}"), Some(json!({"ssl_enabled": true}))).await;
    assert_eq!(code, 200, "{answer}");
}

async fn until(platform: &Platform, fqdn: &str, state: &str) -> Value {
    let began = Instant::now();
    loop {
        let view = platform.get(&format!("/fqdns/{fqdn}")).await;
        if view["issuance"]["state"] == state {
            return view["issuance"].clone();
        }
        assert!(began.elapsed() < LIMIT, "not {state} within {LIMIT:?}: {view:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The certificates of a name that authorities issued.
async fn issued(platform: &Platform, fqdn: &str) -> Vec<Value> {
    let all = platform.items(&format!("/fqdns/{fqdn}/certificates")).await;
    all.into_iter().filter(|one| one["type"] == "lets_encrypt").collect()
}

#[tokio::test]
async fn names_get_their_certificates_and_are_served_with_them() {
    let test = "names_get_their_certificates_and_are_served_with_them";
    if lacks(test) {
        return;
    }
    let (platform, resolver) = start().await;
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    want(&platform, &fqdn).await;
    // Nobody can be asked yet, and the name says so.
    let waiting = until(&platform, &fqdn, "waiting").await;
    eventually("the name says what is missing", LIMIT, async || {
        let view = platform.get(&format!("/fqdns/{fqdn}")).await;
        (view["issuance"]["problem"]["code"] == "no_authority").then_some(())
    })
    .await;
    assert_eq!(waiting["failures"], 0);

    let pebble = Pebble::start(&platform, &resolver, 90 * 86_400).await;
    let root = pebble.root().await;
    let authority = platform.post("/certificate-authorities", pebble.body("pebble", json!({}))).await;
    let done = until(&platform, &fqdn, "issued").await;
    assert!(done["problem"].is_null() && done["renews_at"].is_string(), "{done}");
    let is_served =
        async || platform.web_trusting("bakery.test", root.as_bytes()).await.filter(|(code, _)| *code == 200);
    eventually("the name is served with it", LIMIT, is_served).await;
    let certificates = issued(&platform, &fqdn).await;
    assert_eq!(certificates.len(), 1);
    let shown = &certificates[0];
    assert_eq!((&shown["authority_id"], &shown["is_active"]), (&authority["id"], &json!(true)), "{shown}");
    assert!(shown["names"].as_array().unwrap().contains(&json!("bakery.test")), "{shown}");
    let (code, _) = platform.page("bakery.test", ".well-known/acme-challenge/x").await.unwrap();
    assert_eq!(code, 404, "what was to be found is gone");

    // Names of one site come together, by the other way of looking.
    let path = format!("/certificate-authorities/{}", authority["id"].as_str().unwrap());
    let (code, answer) = platform.call("PUT", &path, Some(json!({"challenges": ["tls-alpn-01"]}))).await;
    assert_eq!(code, 200, "{answer}");
    let mut ids = Vec::new();
    let (tenant, webroot) = platform.site("acme-1001").await;
    for name in ["one", "two", "three"] {
        let body = json!({"fqdn": format!("{name}.acme-hosting.test"), "webroot_id": webroot});
        let made = platform.post(&format!("/tenants/{tenant}/fqdns?wait=ready"), body).await;
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    for id in &ids {
        want(&platform, id).await;
    }
    for id in &ids {
        until(&platform, id, "issued").await;
    }
    let name = "three.acme-hosting.test";
    let is_served =
        async || platform.web_trusting(name, root.as_bytes()).await.filter(|(code, _)| *code == 200);
    eventually("a name of several is served", LIMIT, is_served).await;
    let looked = platform.metric("edge", "hosting_edge_handshakes_total", &["acme_challenge"]).await;
    assert!(looked >= 3.0, "{looked}");
    let mut fingerprints = Vec::new();
    for id in &ids {
        fingerprints.push(issued(&platform, id).await[0]["fingerprint"].clone());
    }
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 1, "one order for names of one site");
    assert!(!pebble.log().contains("There are now 2 accounts"), "one account, whatever is ordered");

    // A certificate is no longer wanted: nothing is asked any more, and the name says nothing of it.
    let (code, _) =
        platform.call("PUT", &format!("/fqdns/{fqdn}"), Some(json!({"ssl_enabled": false}))).await;
    assert_eq!(code, 200);
    assert!(platform.get(&format!("/fqdns/{fqdn}")).await.get("issuance").is_none());
}

#[tokio::test]
async fn short_lived_certificates_are_renewed_and_the_former_ones_go() {
    let test = "short_lived_certificates_are_renewed_and_the_former_ones_go";
    if lacks(test) {
        return;
    }
    let (mut platform, resolver) = start().await;
    let pebble = Pebble::start(&platform, &resolver, 20).await;
    let root = pebble.root().await;
    platform.post("/certificate-authorities", pebble.body("pebble", json!({}))).await;
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    want(&platform, &fqdn).await;
    until(&platform, &fqdn, "issued").await;
    let first = issued(&platform, &fqdn).await[0]["id"].clone();
    // A controller that dies goes on where it was.
    platform.kill("controller").await;
    platform.restart("controller").await;
    eventually("there is another one, alone", LIMIT, async || {
        let all = issued(&platform, &fqdn).await;
        (all.len() == 1 && all[0]["id"] != first && all[0]["status"] == "active").then_some(())
    })
    .await;
    let is_served =
        async || platform.web_trusting("bakery.test", root.as_bytes()).await.filter(|(code, _)| *code == 200);
    eventually("it is served with the new one", LIMIT, is_served).await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_named_and_mended_names_go_on_at_once() {
    let test = "what_stands_in_the_way_is_named_and_mended_names_go_on_at_once";
    if lacks(test) {
        return;
    }
    let (platform, resolver) = start().await;
    let pebble = Pebble::start(&platform, &resolver, 90 * 86_400).await;
    // The first one is down: the second one has its turn.
    let down = json!({
        "name": "down", "directory_url": format!("https://localhost:{}/dir", free_port()), "terms_agreed": true, "priority": 0,
    });
    let down = platform.post("/certificate-authorities", down).await;
    let up = platform.post("/certificate-authorities", pebble.body("pebble", json!({"priority": 1}))).await;
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    resolver.says("bakery.test", Said::Address("192.0.2.1"));
    want(&platform, &fqdn).await;
    let failed = until(&platform, &fqdn, "failed").await;
    let problem = failed["problem"].clone();
    assert_eq!(problem["code"], "dns", "{problem}");
    assert!(problem["message"].as_str().unwrap().contains("192.0.2.1"), "{problem}");
    assert!(problem["remedy"].as_str().unwrap().contains("bakery.test A 127.0.0.1"), "{problem}");
    assert!(failed["next_attempt_at"].is_string() && failed["failures"] == 1, "{failed}");
    let path = format!("/certificate-authorities/{}", down["id"].as_str().unwrap());
    let paused = platform.get(&path).await;
    assert!(paused["paused_until"].is_string() && paused["problem"].is_string(), "{paused}");

    resolver.says_no_more();
    resolver.says("bakery.test", Said::Nothing);
    let (code, answer) = platform.call("POST", &format!("/fqdns/{fqdn}/issue"), None).await;
    assert_eq!(code, 202, "{answer}");
    eventually("it is tried again", LIMIT, async || {
        let view = platform.get(&format!("/fqdns/{fqdn}")).await;
        (view["issuance"]["failures"] == 2).then_some(())
    })
    .await;
    let problem = platform.get(&format!("/fqdns/{fqdn}")).await["issuance"]["problem"].clone();
    assert!(problem["message"].as_str().unwrap().contains("has no address"), "{problem}");

    resolver.says_no_more();
    let (code, _) = platform.call("POST", &format!("/fqdns/{fqdn}/issue"), None).await;
    assert_eq!(code, 202);
    let done = until(&platform, &fqdn, "issued").await;
    assert_eq!((&done["failures"], &done["problem"]), (&json!(0), &Value::Null), "{done}");
    assert_eq!(issued(&platform, &fqdn).await[0]["authority_id"], up["id"]);

    // What the authority refuses is said in its words.
    let (tenant, webroot) = platform.site("acme-1001").await;
    let body = json!({"fqdn": "blocked.acme-hosting.test", "webroot_id": webroot, "ssl_enabled": true});
    let blocked = platform.post(&format!("/tenants/{tenant}/fqdns?wait=ready"), body).await;
    let failed = until(&platform, blocked["id"].as_str().unwrap(), "failed").await;
    assert_eq!(failed["problem"]["code"], "rejected_identifier", "{failed}");
}

#[tokio::test]
async fn the_authority_says_when_to_renew() {
    let test = "the_authority_says_when_to_renew";
    if lacks(test) {
        return;
    }
    let (platform, resolver) = start().await;
    let pebble = Pebble::start(&platform, &resolver, 90 * 86_400).await;
    let suggesting = Between::before(&pebble).await;
    let body = authority("suggesting", suggesting.port, &suggesting.root, json!({}));
    platform.post("/certificate-authorities", body).await;
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    want(&platform, &fqdn).await;
    let seen = || {
        let seen = suggesting.seen.lock().unwrap();
        (seen.asked.clone(), seen.replaced.clone())
    };
    eventually("the new one was asked about too", LIMIT, async || {
        let (asked, _) = seen();
        asked.iter().any(|id| *id != asked[0]).then_some(())
    })
    .await;
    let (asked, replaced) = seen();
    assert_eq!(replaced, [asked[0].clone()], "the order names the certificate that it replaces");
    eventually("the former one is gone", LIMIT, async || {
        (issued(&platform, &fqdn).await.len() == 1).then_some(())
    })
    .await;
    let done = until(&platform, &fqdn, "issued").await;
    // Never after its end, whatever the authority suggests.
    let ends = issued(&platform, &fqdn).await[0]["expires_at"].clone();
    assert_eq!(done["renews_at"], ends, "{done}");
    assert_eq!(seen().1.len(), 1);
}

#[tokio::test]
async fn a_wildcard_gets_its_certificate_by_a_record_in_its_zone() {
    let test = "a_wildcard_gets_its_certificate_by_a_record_in_its_zone";
    if lacks(test) {
        return;
    }
    let (platform, resolver) = start().await;
    let pebble = Pebble::start(&platform, &resolver, 90 * 86_400).await;
    let root = pebble.root().await;
    let own = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    let zone = platform.items("/zones?name=bakery.test").await[0]["id"].as_str().unwrap().to_owned();
    let record = json!({"name": "_acme-challenge", "type": "TXT", "content": "\"of somebody else\""});
    platform.post(&format!("/zones/{zone}/records?wait=ready"), record).await;
    // Until an authority may look by records there is nobody to ask for a wildcard.
    let ways = json!({"challenges": ["http-01", "tls-alpn-01"]});
    let authority = platform.post("/certificate-authorities", pebble.body("pebble", ways)).await;
    let (tenant, webroot) = platform.site("acme-1001").await;
    let body = json!({"fqdn": "*.bakery.test", "webroot_id": webroot, "ssl_enabled": true});
    let made = platform.post(&format!("/tenants/{tenant}/fqdns?wait=ready"), body).await;
    assert_eq!(made["fqdn"], "*.bakery.test");
    let wildcard = made["id"].as_str().unwrap().to_owned();
    let (code, _) = platform.page("shop.bakery.test", "").await.unwrap();
    assert_eq!(code, 200, "every host one label below");
    let problem = async |code: &str| {
        eventually(&format!("the wildcard says {code}"), LIMIT, async || {
            let view = platform.get(&format!("/fqdns/{wildcard}")).await;
            (view["issuance"]["problem"]["code"] == code).then_some(())
        })
        .await;
    };
    problem("no_authority").await;

    // The name beside it is looked for at the same record, in the same order.
    want(&platform, &own).await;
    until(&platform, &own, "issued").await;
    let path = format!("/certificate-authorities/{}", authority["id"].as_str().unwrap());
    let (code, answer) = platform.call("PUT", &path, Some(json!({"challenges": ["dns-01"]}))).await;
    assert_eq!(code, 200, "{answer}");
    let body = json!({"fqdn": "more.bakery.test", "webroot_id": webroot, "ssl_enabled": true});
    let more = platform.post(&format!("/tenants/{tenant}/fqdns?wait=ready"), body).await;
    let more = more["id"].as_str().unwrap();
    for id in [&wildcard, more] {
        until(&platform, id, "issued").await;
    }
    for name in ["shop.bakery.test", "any.bakery.test"] {
        let is_served =
            async || platform.web_trusting(name, root.as_bytes()).await.filter(|(code, _)| *code == 200);
        eventually("a host below is served with it", LIMIT, is_served).await;
    }
    let shown = issued(&platform, &wildcard).await;
    assert!(shown[0]["names"].as_array().unwrap().contains(&json!("*.bakery.test")), "{shown:?}");
    let said = resolver.texts("_acme-challenge.bakery.test").await;
    assert_eq!(said, ["of somebody else"], "what the order left is gone, and what a person made stays");

    // A record that leads authorities away is named.
    let body = json!({"name": "_acme-challenge.club", "type": "CNAME", "content": "elsewhere.test."});
    platform.post(&format!("/zones/{zone}/records?wait=ready"), body).await;
    let body = json!({"fqdn": "*.club.bakery.test", "webroot_id": webroot, "ssl_enabled": true});
    let made = platform.post(&format!("/tenants/{tenant}/fqdns?wait=ready"), body).await;
    let wildcard = made["id"].as_str().unwrap().to_owned();
    eventually("the record in the way is named", LIMIT, async || {
        let view = platform.get(&format!("/fqdns/{wildcard}")).await;
        let remedy = view["issuance"]["problem"]["remedy"].as_str()?.to_owned();
        remedy.contains("delete the CNAME or NS record _acme-challenge.club.bakery.test").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_authority_that_answers_wrongly_is_asked_again_and_never_believed() {
    let test = "an_authority_that_answers_wrongly_is_asked_again_and_never_believed";
    if lacks(test) {
        return;
    }
    let (platform, resolver) = start().await;
    let pebble = Pebble::start(&platform, &resolver, 90 * 86_400).await;
    let between = Between::before(&pebble).await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let faults = |faults: &[Fault]| between.seen.lock().unwrap().faults.extend(faults);
    // Another name of the site would take wrong answers that are meant for this one.
    let (tenant, _) = platform.site("acme-1001").await;
    for other in platform.items(&format!("/tenants/{tenant}/fqdns")).await {
        let body = json!({"ssl_enabled": false});
        platform.call("PUT", &format!("/fqdns/{}", other["id"].as_str().unwrap()), Some(body)).await;
    }
    // Too much was asked: it is left alone for as long as it says. Then it answers nonsense while it certifies.
    faults(&[Fault::RateLimited, Fault::Garbage]);
    let body = authority("between", between.port, &between.root, json!({}));
    let between_id = platform.post("/certificate-authorities", body).await["id"].as_str().unwrap().to_owned();
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    want(&platform, &fqdn).await;
    eventually("the authority is left alone", LIMIT, async || {
        let shown = platform.get(&format!("/certificate-authorities/{between_id}")).await;
        let problem = shown["problem"].as_str()?.to_owned();
        (shown["paused_until"].is_string() && problem.contains("too many orders")).then_some(())
    })
    .await;
    let done = until(&platform, &fqdn, "issued").await;
    assert_eq!(done["failures"], 0, "the name is not to blame: {done}");
    {
        let seen = between.seen.lock().unwrap();
        assert_eq!((seen.orders, seen.faults.len()), (2, 0));
    }
    let shown = platform.get(&format!("/certificate-authorities/{between_id}")).await;
    assert!(shown.get("problem").is_none() && shown.get("paused_until").is_none(), "{shown}");

    let again = async || {
        let (code, answer) =
            platform.call("PUT", &format!("/fqdns/{fqdn}"), Some(json!({"ssl_enabled": false}))).await;
        assert_eq!(code, 200, "{answer}");
        for certificate in issued(&platform, &fqdn).await {
            let path = format!("/certificates/{}?wait=ready", certificate["id"].as_str().unwrap());
            platform.call("DELETE", &path, None).await;
        }
        want(&platform, &fqdn).await;
    };
    // It refuses the nonces of one request, as often as the request is made: that is no reason to ask another one.
    let spare = Between::before(&pebble).await;
    let body = authority("spare", spare.port, &spare.root, json!({"priority": 1_000}));
    let spare_id = platform.post("/certificate-authorities", body).await["id"].as_str().unwrap().to_owned();
    faults(&[Fault::Nonce; 3]);
    again().await;
    until(&platform, &fqdn, "issued").await;
    assert_eq!(issued(&platform, &fqdn).await[0]["authority_id"], between_id);
    assert_eq!(between.seen.lock().unwrap().faults, []);
    platform.call("DELETE", &format!("/certificate-authorities/{spare_id}"), None).await;

    // A certificate with another key is none.
    faults(&[Fault::Stranger]);
    again().await;
    let failed = until(&platform, &fqdn, "failed").await;
    assert_eq!(failed["problem"]["code"], "unusable", "{failed}");
    assert_eq!(issued(&platform, &fqdn).await.len(), 0);
    let (code, _) = platform.call("POST", &format!("/fqdns/{fqdn}/issue"), None).await;
    assert_eq!(code, 202);
    until(&platform, &fqdn, "issued").await;

    // Its clock is ahead of ours: nobody is shown a certificate that is not good yet.
    let begins = now() + 8;
    faults(&[Fault::Early(begins)]);
    again().await;
    until(&platform, &fqdn, "issued").await;
    assert!(now() >= begins, "shown {} s early", begins - now());
    between.seen.lock().unwrap().faults.clear();
    // By more than an hour: one of both clocks is wrong, and that is said.
    faults(&[Fault::Early(now() + 86_400)]);
    again().await;
    let failed = until(&platform, &fqdn, "failed").await;
    assert_eq!(failed["problem"]["code"], "clock", "{failed}");
}

/// `HOSTING_ACME_NAMES` is how many names: the 40 of a usual run show that it works, 10 000 how long it takes.
#[tokio::test]
async fn many_certificates_are_replaced_when_their_authority_has_to_go() {
    let test = "many_certificates_are_replaced_when_their_authority_has_to_go";
    if lacks(test) {
        return;
    }
    let names: usize = std::env::var("HOSTING_ACME_NAMES").map_or(40, |names| names.parse().unwrap());
    let limit = Duration::from_secs(60 + names as u64);
    let (platform, resolver) = start().await;
    let pebble = Pebble::start(&platform, &resolver, 90 * 86_400).await;
    let between = Between::before(&pebble).await;
    let bakery = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    // The one that is moved to has issued one already, so that it is known how long that takes.
    let many = json!({"count": 1_000_000, "seconds": 1});
    let per_order = names.div_ceil(12).min(25);
    let orders = json!({"count": names.div_ceil(per_order).div_ceil(3), "seconds": 8});
    let spec = json!({"priority": 2, "per_domain": many, "orders": orders, "names_per_order": per_order});
    let second = authority("second", between.port, &between.root, spec);
    let second = platform.post("/certificate-authorities", second).await["id"].as_str().unwrap().to_owned();
    want(&platform, &bakery).await;
    until(&platform, &bakery, "issued").await;
    let spec = json!({"priority": 1, "per_domain": many, "orders": many});
    let in_turn = Between::before(&pebble).await;
    let first = authority("first", in_turn.port, &in_turn.root, spec);
    let first = platform.post("/certificate-authorities", first).await["id"].as_str().unwrap().to_owned();

    let began = Instant::now();
    let (tenant, webroot) = platform.site("acme-1001").await;
    let mut made = Vec::new();
    for part in (0..names).collect::<Vec<_>>().chunks(100) {
        let item = |n: &usize| {
            json!({"op": "create", "kind": "fqdn", "parent": tenant, "body": {
                "fqdn": format!("n{n}.bakery.test"), "webroot_id": webroot, "ssl_enabled": true,
            }})
        };
        let items: Vec<Value> = part.iter().map(item).collect();
        let (code, answer) = platform.call("POST", "/bulk", Some(json!({"items": items}))).await;
        assert_eq!(code, 200, "{answer}");
        for item in answer["results"].as_array().unwrap() {
            made.push(item["id"].as_str().unwrap_or_else(|| panic!("{item}")).to_owned());
        }
    }
    println!("{names} names made in {:.1} s", began.elapsed().as_secs_f64());
    let mut waiting = made.clone();
    eventually("all names have a certificate", limit, async || {
        while let Some(id) = waiting.last() {
            let view = platform.get(&format!("/fqdns/{id}")).await;
            if view["issuance"]["state"] != "issued" {
                return None;
            }
            waiting.pop();
        }
        Some(())
    })
    .await;
    println!("{names} names have certificates after {:.1} s", began.elapsed().as_secs_f64());

    let drill = |more: &str| {
        let mut hostctl = platform.hostctl();
        hostctl.args(["certificates", "drill", "first", "--to", "second", "--json"]);
        hostctl.args(more.split(' ').chain(["--timeout", "7200"]));
        async move {
            let output = tokio::task::spawn_blocking(move || hostctl.output().unwrap()).await.unwrap();
            assert!(output.status.success(), "{output:?}");
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        }
    };
    let forecast = drill("--dry-run").await["forecast"].clone();
    // The site has other names than ours, and one whose certificate was just replaced counts for as long as the former one is there.
    let is_all = |counted: u64| (names as u64..names as u64 + 3).contains(&counted);
    assert!(is_all(forecast["names"].as_u64().unwrap()), "{forecast}");
    let before = platform.get(&format!("/fqdns/{}", made[0])).await;
    assert!(before["issuance"].get("replaces_authority_id").is_none(), "a dry run does nothing: {before}");
    let done = drill("--yes").await["reissue"].clone();
    let all = done["names"].as_u64().unwrap();
    assert!(is_all(all) && done["done"] == all, "{done}");
    let at = |field: &str| done[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let (thought, took) =
        (at("forecast_done_at").duration_since(at("since")), at("done_at").duration_since(at("since")));
    println!("{all} names moved: {} s forecast, {} s taken", thought.as_secs(), took.as_secs());
    // The allowance is kept, whatever the machine does meanwhile.
    assert!(took.as_secs_f64() > 0.8 * thought.as_secs_f64(), "{took:?} of {thought:?}");
    for id in made.iter().step_by(names.div_ceil(20)) {
        let shown = issued(&platform, id).await;
        assert!(shown.iter().any(|one| one["authority_id"] == second), "{shown:?}");
        eventually("the former one is gone", LIMIT, async || {
            let shown = issued(&platform, id).await;
            shown.iter().all(|one| one["authority_id"] == second).then_some(())
        })
        .await;
    }
    let (code, _) = platform.call("DELETE", &format!("/certificate-authorities/{first}"), None).await;
    assert!(code < 300, "an authority that nobody needs can go: {code}");
}
