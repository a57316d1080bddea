//! Tenants and their sites, from the request to what a visitor gets and what lies on the nodes.

use std::fs;

use hickory_proto::{op::ResponseCode, rr::RecordType};
use serde_json::{Value, json};

use super::{Client, LIMIT, ask, folder_of, has, id, write};
use crate::harness::{Platform, eventually, machine_lacks_daemons};

#[tokio::test]
async fn tenants_and_sites_do_as_their_clients_expect() {
    if machine_lacks_daemons("tenants_and_sites_do_as_their_clients_expect") {
        return;
    }
    let platform = Platform::start(&["--no-seed"]).await;
    let admin = Client::admin(&platform);
    admin.brand("acme", "acme.test").await;
    let (region, ..) = admin.place().await;
    let zone = json!({"name": "acme.test", "brand_id": "acme", "region_id": region});
    admin.created("zone", &admin.ok(202, "POST", "/zones", zone).await).await;

    what_is_not_served_is_named(&admin).await;
    let tenant = one_request_makes_a_tenant(&admin).await;
    suspension_covers_what_lies_in_it(&admin, &tenant).await;
    names_move_between_sites(&admin, &tenant).await;
    service_hostnames_come_and_go(&admin, &tenant).await;
    php_is_configured(&admin, &tenant).await;
    what_failed_is_tried_again(&admin, &tenant).await;
    deletions_take_along_what_lies_below(&admin, &tenant).await;
}

/// Until the name answers with this code and a body that contains the text.
async fn until_web(platform: &Platform, name: &str, code: u16, text: &str) {
    let mut last = None;
    for _ in 0..400 {
        last = platform.web(name).await;
        if last.as_ref().is_some_and(|(found, body)| *found == code && body.contains(text)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{name}: {last:?}, not {code} with {text:?}");
}

/// A GET of `path` with this Host: code, headers of ours, body.
async fn visit(platform: &Platform, host: &str, path: &str) -> (u16, Vec<String>, String) {
    let edge = platform.summary["edge_http"].as_str().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("http://{edge}{path}")).header("host", host).send().await.unwrap();
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let headers = ["x-served-by", "x-shard"].into_iter().filter_map(header).collect();
    (answer.status().as_u16(), headers, answer.text().await.unwrap())
}

fn php_version() -> String {
    let mut found: Vec<String> = fs::read_dir("/usr/sbin")
        .unwrap()
        .flatten()
        .filter_map(|one| Some(one.file_name().to_str()?.strip_prefix("php-fpm")?.to_owned()))
        .filter(|version| !version.is_empty())
        .collect();
    found.sort();
    found.pop().unwrap()
}

async fn what_is_not_served_is_named(admin: &Client<'_>) {
    let plain = admin.tenant_body("acme", "none").await;
    let site = json!({"subscription_id": "s", "runtime": "static", "runtime_version": "1"});
    let with = |base: &Value, field: &str, value: Value| {
        let mut body = base.clone();
        body[field] = value;
        body
    };
    for (body, field) in [
        (with(&plain, "sftp_enabled", json!(true)), "sftp_enabled"),
        (with(&plain, "disk_quota_bytes", json!(1)), "disk_quota_bytes"),
        (with(&plain, "databases", json!([{"subscription_id": "s"}])), "databases"),
        (with(&plain, "ssh_keys", json!([{"name": "a"}])), "ssh_keys"),
        (
            with(&plain, "webroots", json!([with(&site, "daemons", json!([{"command": "x"}]))])),
            "webroots[0].daemons",
        ),
        (with(&plain, "webroots", json!([with(&site, "runtime", json!("node"))])), "webroots[0].runtime"),
        (
            with(&plain, "fqdns", json!([{"fqdn": "a.acme.test", "email_accounts": [{"address": "a"}]}])),
            "fqdns[0].email_accounts",
        ),
    ] {
        let (code, answer) = admin.call("POST", "/tenants", body).await;
        assert_eq!((code, &answer["field"]), (501, &json!(field)), "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(field), "{answer}");
    }
    assert!(admin.items("/tenants?customer_id=none").await.is_empty());
    // What is empty asks for nothing.
    let empty = with(&with(&plain, "databases", json!([])), "ssh_enabled", json!(false));
    let made = admin.ok(202, "POST", "/tenants", empty).await;
    admin.ok(202, "DELETE", &format!("/tenants/{}", id(&made)), Value::Null).await;
}

/// Subscriptions, zones, sites, names: one POST, one revision. Answers the tenant.
async fn one_request_makes_a_tenant(admin: &Client<'_>) -> String {
    let mut body = admin.tenant_body("acme", "shop").await;
    body["subscriptions"] = json!([{"id": "crm-1", "name": "web"}, {"id": "crm-2", "name": "more"}]);
    body["zones"] = json!([{"subscription_id": "crm-1", "name": "shop.example"}]);
    body["webroots"] = json!([{
        "subscription_id": "crm-1",
        "runtime": "static",
        "runtime_version": "1",
        "fqdns": [{"fqdn": "www.shop.example"}, {"fqdn": "shop.acme.test", "ssl_enabled": true}],
        "colour": "red",
    }]);
    body["fqdns"] = json!([{"fqdn": "later.shop.example"}]);

    // All or nothing: one wrong field, and there is no tenant.
    let mut wrong = body.clone();
    wrong["webroots"][0]["subscription_id"] = json!("crm-9");
    admin.refused(400, "POST", "/tenants", wrong).await;
    assert!(admin.items("/tenants?customer_id=shop").await.is_empty());

    let made = admin.ok(202, "POST", "/tenants", body).await;
    has(&made, json!({"status": "pending", "customer_id": "shop", "shard_name": "web-1"}));
    assert!(made["warnings"].to_string().contains("webroots[0].colour"), "{made}");
    admin.created("tenant", &made).await;
    let tenant = id(&made);
    let path = format!("/tenants/{tenant}");
    has(&admin.get(&path).await, json!({"status": "active", "region_name": "default"}));
    let mut names: Vec<String> = admin
        .items(&format!("{path}/subscriptions"))
        .await
        .iter()
        .map(|one| format!("{} {} {}", id(one), one["name"], one["status"]))
        .collect();
    names.sort();
    assert_eq!(names, [r#"crm-1 "web" "active""#, r#"crm-2 "more" "active""#]);
    let webroots = admin.items(&format!("{path}/webroots")).await;
    let webroot = id(&webroots[0]);
    has(
        &webroots[0],
        json!({
            "tenant_id": tenant, "subscription_id": "crm-1", "runtime": "static", "public_folder": "",
            "env_file_name": ".env.hosting", "service_hostname_enabled": true, "suspend_reason": "",
        }),
    );
    admin.created("webroot", &webroots[0]).await;
    let fqdns = admin.items(&format!("{path}/fqdns")).await;
    assert_eq!(fqdns.len(), 3);
    for fqdn in &fqdns {
        admin.created("fqdn", fqdn).await;
    }
    assert_eq!(admin.items(&format!("/webroots/{webroot}/fqdns")).await.len(), 2);
    let zones = admin.items(&format!("/zones?tenant_id={tenant}")).await;
    has(&zones[0], json!({"name": "shop.example", "brand_id": "acme", "subscription_id": "crm-1"}));

    write(admin.platform, &tenant, &webroot, "index.html", "the first shop");
    for name in ["www.shop.example", "shop.acme.test"] {
        until_web(admin.platform, name, 200, "the first shop").await;
        assert_eq!(ask(admin.platform, name, RecordType::A).await.data(), ["127.0.0.1"]);
    }
    // Whatever the case and the dot; and it says who answered.
    for host in ["WWW.Shop.Example", "www.shop.example.", "www.shop.example:80"] {
        let (code, headers, body) = visit(admin.platform, host, "/index.html").await;
        assert_eq!((code, body.as_str()), (200, "the first shop"), "{host}");
        assert_eq!(headers, ["web-1", "web-1"], "{host}");
    }
    write(admin.platform, &tenant, &webroot, ".htpasswd", "secret");
    for path in ["/missing", "/.htpasswd"] {
        let (code, _, body) = visit(admin.platform, "www.shop.example", path).await;
        assert!((code == 404 || code == 403) && !body.contains("secret"), "{path}: {code}");
    }
    // Bound to nothing: known, served by nobody, and active all the same.
    assert_eq!(admin.platform.web("later.shop.example").await.unwrap().0, 404);

    let summary = admin.get(&format!("{path}/resource-summary")).await;
    has(
        &summary,
        json!({
            "webroots": {"active": 1}, "fqdns": {"active": 3}, "zones": {"active": 1}, "databases": {},
            "email_accounts": {}, "certificates": {}, "cron_jobs": {}, "ssh_keys": {},
            "pending": 0, "provisioning": 0, "failed": 0,
        }),
    );
    let none = admin.ok(202, "POST", &format!("{path}/retry-failed"), Value::Null).await;
    assert_eq!(none, json!({"status": "retrying", "count": 0}));
    has(
        &admin.ok(202, "PUT", &path, json!({"customer_id": "shop-2"})).await,
        json!({"customer_id": "shop-2", "generation": 2}),
    );
    tenant
}

async fn suspension_covers_what_lies_in_it(admin: &Client<'_>, tenant: &str) {
    let path = format!("/tenants/{tenant}");
    admin.ok(202, "POST", &format!("{path}/unsuspend"), Value::Null).await;
    let answer = admin.ok(202, "POST", &format!("{path}/suspend"), json!({"reason": "unpaid"})).await;
    assert_eq!(answer, Value::Null);
    until_web(admin.platform, "www.shop.example", 503, "").await;
    let (_, page) = admin.platform.web("shop.acme.test").await.unwrap();
    assert!(!page.contains("unpaid"), "the reason is for operators: {page}");
    has(&admin.get(&path).await, json!({"status": "suspended", "suspend_reason": "unpaid"}));
    let webroot = admin.items(&format!("{path}/webroots")).await.remove(0);
    let zone = admin.items(&format!("/zones?tenant_id={tenant}")).await.remove(0);
    for (shown, path) in [
        (webroot.clone(), format!("/webroots/{}", id(&webroot))),
        (zone.clone(), format!("/zones/{}", id(&zone))),
    ] {
        for shown in [shown, admin.get(&path).await] {
            has(&shown, json!({"status": "suspended", "suspend_reason": "unpaid"}));
        }
    }
    let listed = |zones: Vec<Value>| zones.iter().map(|zone| zone["name"].clone()).collect::<Vec<_>>();
    assert_eq!(listed(admin.items("/zones?status=suspended").await), ["shop.example"]);
    assert_eq!(listed(admin.items("/zones?status=active").await), ["acme.test"]);
    let of_tenant = format!("/zones?tenant_id={tenant}");
    assert_eq!(listed(admin.items(&format!("{of_tenant}&status=suspended")).await), ["shop.example"]);
    assert!(admin.items(&format!("{of_tenant}&status=active")).await.is_empty());
    assert_eq!(admin.items(&format!("{path}/webroots?status=suspended")).await.len(), 1);
    let summary = admin.get(&format!("{path}/resource-summary")).await;
    has(&summary, json!({"webroots": {"suspended": 1}, "zones": {"suspended": 1}, "fqdns": {"active": 3}}));
    let found = admin.get("/search?q=shop.example").await;
    let zone = found["results"].as_array().unwrap().iter().find(|one| one["type"] == "zone").unwrap();
    assert_eq!(zone["status"], "suspended");
    has(&admin.get("/dashboard/stats").await, json!({"tenants_suspended": 1}));
    // Mail and everything else under the name goes on.
    assert_eq!(ask(admin.platform, "www.shop.example", RecordType::A).await.data(), ["127.0.0.1"]);

    admin.ok(202, "POST", &format!("{path}/unsuspend"), Value::Null).await;
    until_web(admin.platform, "www.shop.example", 200, "the first shop").await;
    let back = admin.until(&path, "active").await;
    has(&back, json!({"suspend_reason": ""}));
    let webroot = admin.items(&format!("{path}/webroots")).await.remove(0);
    has(&webroot, json!({"status": "active", "suspend_reason": ""}));
}

async fn site(admin: &Client<'_>, tenant: &str, subscription: &str, more: Value) -> String {
    let mut body = json!({"subscription_id": subscription, "runtime": "static", "runtime_version": "1"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = admin.ok(202, "POST", &format!("/tenants/{tenant}/webroots"), body).await;
    has(&made, json!({"subscription_id": subscription, "status": "pending"}));
    assert!(id(&made).starts_with("web_"), "{made}");
    admin.created("webroot", &made).await;
    id(&made)
}

async fn names_move_between_sites(admin: &Client<'_>, tenant: &str) {
    let fqdns = admin.items(&format!("/tenants/{tenant}/fqdns")).await;
    let named = |name: &str| fqdns.iter().find(|one| one["fqdn"] == name).unwrap().clone();
    let (www, later) = (named("www.shop.example"), named("later.shop.example"));
    assert_eq!(later["webroot_id"], Value::Null);
    assert_eq!(ask(admin.platform, "later.shop.example", RecordType::A).await.code, ResponseCode::NXDomain);
    let second = site(admin, tenant, "crm-2", json!({"fqdns": []})).await;
    write(admin.platform, tenant, &second, "index.html", "the second shop");

    let www_path = format!("/fqdns/{}", id(&www));
    let moved = admin.ok(200, "PUT", &www_path, json!({"webroot_id": second})).await;
    has(&moved, json!({"webroot_id": second, "fqdn": "www.shop.example"}));
    until_web(admin.platform, "www.shop.example", 200, "the second shop").await;
    let later_path = format!("/fqdns/{}", id(&later));
    admin.ok(200, "PUT", &later_path, json!({"webroot_id": second})).await;
    until_web(admin.platform, "later.shop.example", 200, "the second shop").await;
    admin.until(&later_path, "active").await;
    assert_eq!(ask(admin.platform, "later.shop.example", RecordType::A).await.data(), ["127.0.0.1"]);
    admin.ok(200, "PUT", &later_path, json!({"webroot_id": null})).await;
    until_web(admin.platform, "later.shop.example", 404, "").await;
    admin.until(&later_path, "active").await;

    let text = admin.refused(409, "POST", &format!("{www_path}/retry"), Value::Null).await;
    assert!(text.contains("is not in failed state"), "{text}");
    let fqdns = format!("/tenants/{tenant}/fqdns");
    admin.refused(409, "POST", &fqdns, json!({"fqdn": "WWW.shop.example."})).await;
    for bad in ["nodots", "*.*.shop.example", "a b.example", "192.0.2.1"] {
        admin.refused(400, "POST", &fqdns, json!({"fqdn": bad})).await;
    }
    admin
        .refused(400, "POST", &fqdns, json!({"fqdn": "x.shop.example", "webroot_id": "web_nowhere000"}))
        .await;
    admin.ok(202, "DELETE", &later_path, Value::Null).await;
    admin.until_gone(&later_path).await;
}

async fn service_hostnames_come_and_go(admin: &Client<'_>, tenant: &str) {
    let platform = admin.platform;
    let webroot = site(admin, tenant, "crm-1", json!({"service_hostname_enabled": false})).await;
    write(platform, tenant, &webroot, "index.html", "a site without a name");
    let names =
        [format!("{webroot}.{tenant}.acme.test").replace('_', "-"), format!("{webroot}.{tenant}.acme.test")];
    let path = format!("/webroots/{webroot}");
    for name in &names {
        assert_eq!(platform.web(name).await.unwrap().0, 404);
    }
    let on = admin.ok(202, "PUT", &path, json!({"service_hostname_enabled": true})).await;
    has(&on, json!({"service_hostname_enabled": true}));
    admin.until(&path, "active").await;
    for name in &names {
        until_web(platform, name, 200, "a site without a name").await;
        assert_eq!(ask(platform, name, RecordType::A).await.data(), ["127.0.0.1"], "{name}");
    }
    let zone = id(&admin.items("/zones?search=acme.test").await[0]);
    let records = admin.items(&format!("/zones/{zone}/records?managed_by=auto&limit=200")).await;
    for name in &names {
        let record = records.iter().find(|one| one["name"] == name.as_str()).unwrap();
        has(record, json!({"source_type": "service-hostname", "type": "A", "ttl": 300}));
    }
    admin.ok(202, "PUT", &path, json!({"service_hostname_enabled": false})).await;
    admin.until(&path, "active").await;
    for name in &names {
        until_web(platform, name, 404, "").await;
        eventually("the name is gone from DNS", LIMIT, async || {
            (ask(platform, name, RecordType::A).await.code == ResponseCode::NXDomain).then_some(())
        })
        .await;
    }
    admin.ok(202, "DELETE", &path, Value::Null).await;
    admin.until_gone(&path).await;
}

async fn php_is_configured(admin: &Client<'_>, tenant: &str) {
    let platform = admin.platform;
    let php = |values: Value, name: &str| {
        json!({
            "runtime": "php", "runtime_version": php_version(), "public_folder": "public",
            "runtime_config": {"pm": {"max_children": 3}, "php_values": values,
                "php_admin_values": {"upload_max_filesize": "7M"}},
            "fqdns": [{"fqdn": name}],
        })
    };
    let one = site(admin, tenant, "crm-1", php(json!({"memory_limit": "77M"}), "one.acme.test")).await;
    let two = site(admin, tenant, "crm-1", php(json!({"memory_limit": "55M"}), "two.acme.test")).await;
    let page = r#"<?php echo ini_get("memory_limit"), " ", ini_get("upload_max_filesize"), " ", getmypid();"#;
    for webroot in [&one, &two] {
        write(platform, tenant, webroot, "public/index.php", page);
    }
    until_web(platform, "one.acme.test", 200, "77M 7M").await;
    // One tenant, one version, two sites: each has its own pool and its own settings.
    until_web(platform, "two.acme.test", 200, "55M 7M").await;
    // What is no file is the application's.
    let (code, _, body) = visit(platform, "one.acme.test", "/deep/path?x=1").await;
    assert!(code == 200 && body.starts_with("77M 7M"), "{code} {body}");
    let process = async |name: &str| {
        let (_, body) = platform.web(name).await.unwrap();
        body.rsplit(' ').next().unwrap().to_owned()
    };
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        ones.push(process("one.acme.test").await);
        twos.push(process("two.acme.test").await);
    }
    assert!(ones.iter().all(|pid| !twos.contains(pid)), "{ones:?} {twos:?}");

    let path = format!("/webroots/{one}");
    let config = json!({"runtime_config": {"php_values": {"memory_limit": "88M"}}});
    admin.ok(202, "PUT", &path, config).await;
    until_web(platform, "one.acme.test", 200, "88M 64M").await;
    until_web(platform, "two.acme.test", 200, "55M 7M").await;
    admin.until(&path, "active").await;
    for (config, field) in [
        (json!({"pm": {"max_children": 201}}), "pm.max_children"),
        (json!({"pm": {"max_requests": -1}}), "pm.max_requests"),
        (json!({"php_admin_values": {"open_basedir": "/"}}), "php_admin_values.open_basedir"),
    ] {
        let text = admin.refused(400, "PUT", &path, json!({"runtime_config": config})).await;
        assert!(text.contains(field), "{text}");
    }
}

async fn what_failed_is_tried_again(admin: &Client<'_>, tenant: &str) {
    let body = json!({"subscription_id": "crm-1", "runtime": "php", "runtime_version": "5.1"});
    let made = admin.ok(202, "POST", &format!("/tenants/{tenant}/webroots"), body).await;
    let path = format!("/webroots/{}", id(&made));
    let failed = admin.until(&path, "failed").await;
    assert!(failed["status_message"].as_str().unwrap().contains("5.1"), "{failed}");
    let workflow = format!("/workflows/create-webroot-{}/await", id(&made));
    admin.refused(500, "GET", &workflow, Value::Null).await;
    has(&admin.get(&format!("/tenants/{tenant}/resource-summary")).await, json!({"failed": 1}));

    let answer = admin.ok(202, "POST", &format!("/tenants/{tenant}/retry-failed"), Value::Null).await;
    assert_eq!(answer, json!({"status": "retrying", "count": 1}));
    admin.until(&path, "failed").await;
    assert_eq!(admin.ok(202, "POST", &format!("{path}/retry"), Value::Null).await, Value::Null);
    admin.until(&path, "failed").await;
    admin.ok(202, "PUT", &path, json!({"runtime_version": php_version()})).await;
    let sound = admin.until(&path, "active").await;
    assert!(sound.get("status_message").is_none(), "{sound}");
    let text = admin.refused(409, "POST", &format!("{path}/retry"), Value::Null).await;
    assert!(text.contains("is not in failed state (current: active)"), "{text}");
    admin.ok(202, "DELETE", &path, Value::Null).await;
}

async fn deletions_take_along_what_lies_below(admin: &Client<'_>, tenant: &str) {
    let platform = admin.platform;
    let tenant_path = format!("/tenants/{tenant}");
    // A subscription takes its sites and zones with it, and their names with those.
    let extra = site(admin, tenant, "crm-2", json!({"fqdns": [{"fqdn": "extra.acme.test"}]})).await;
    write(platform, tenant, &extra, "index.html", "extra");
    until_web(platform, "extra.acme.test", 200, "extra").await;
    let other = json!({"id": "crm-2", "name": "again"});
    admin.refused(409, "POST", &format!("{tenant_path}/subscriptions"), other).await;
    admin.ok(202, "DELETE", "/subscriptions/crm-2", Value::Null).await;
    until_web(platform, "extra.acme.test", 404, "").await;
    until_web(platform, "www.shop.example", 404, "").await;
    admin.until_gone("/subscriptions/crm-2").await;
    admin.refused(404, "GET", &format!("/webroots/{extra}"), Value::Null).await;
    let left: Vec<String> = admin
        .items(&format!("{tenant_path}/fqdns"))
        .await
        .iter()
        .map(|one| one["fqdn"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(left, ["shop.acme.test", "one.acme.test", "two.acme.test"]);
    assert!(!folder_of(platform, tenant).join("webroots").join(&extra).exists());

    // A tenant goes whole; its names are free at once.
    assert!(folder_of(platform, tenant).is_dir());
    assert_eq!(admin.ok(202, "DELETE", &tenant_path, Value::Null).await, Value::Null);
    let mut body = admin.tenant_body("acme", "successor").await;
    body["subscriptions"] = json!([{"id": "crm-7", "name": "web"}]);
    body["zones"] = json!([{"subscription_id": "crm-7", "name": "shop.example"}]);
    body["webroots"] = json!([{
        "subscription_id": "crm-7", "runtime": "static", "runtime_version": "1",
        "fqdns": [{"fqdn": "www.shop.example"}, {"fqdn": "shop.acme.test"}],
    }]);
    let next = admin.ok(202, "POST", "/tenants", body).await;
    admin.created("tenant", &next).await;
    let webroot = id(&admin.items(&format!("/tenants/{}/webroots", id(&next))).await[0]);
    admin.until(&format!("/webroots/{webroot}"), "active").await;
    write(platform, &id(&next), &webroot, "index.html", "the successor's shop");
    for name in ["www.shop.example", "shop.acme.test"] {
        until_web(platform, name, 200, "the successor's shop").await;
        super::until_dns(platform, name, RecordType::A, &["127.0.0.1"]).await;
    }
    admin.until_gone(&tenant_path).await;
    assert!(!folder_of(platform, tenant).exists(), "its files are gone from the node");
    assert!(!folder_of(platform, &id(&next)).join("webroots").join(&webroot).join("public").exists());
    for path in ["one.acme.test", "two.acme.test"] {
        until_web(platform, path, 404, "").await;
        assert_eq!(ask(platform, path, RecordType::A).await.code, ResponseCode::NXDomain);
    }
    admin.refused(404, "GET", "/subscriptions/crm-1", Value::Null).await;
    let gone = admin.get(&format!("/workflows/delete-tenant-{tenant}/await")).await;
    assert_eq!(gone, json!({"status": "completed"}));
    until_web(platform, "www.shop.example", 200, "the successor's shop").await;
}
