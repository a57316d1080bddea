//! Zones and records, from the request to the answers of the name server.

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, RecordType},
};
use serde_json::{Value, json};

use super::{Client, LIMIT, ask, has, id, until_dns, write};
use crate::harness::{Platform, eventually, machine_lacks_daemons};

#[tokio::test]
async fn zones_and_records_answer_as_their_clients_expect() {
    if machine_lacks_daemons("zones_and_records_answer_as_their_clients_expect") {
        return;
    }
    let platform = Platform::start(&["--no-seed"]).await;
    let admin = Client::admin(&platform);
    admin.brand("acme", "acme.test").await;
    let mut body = admin.tenant_body("acme", "names").await;
    body["subscriptions"] = json!([{"id": "crm-1", "name": "web"}]);
    body["webroots"] = json!([{
        "subscription_id": "crm-1", "runtime": "static", "runtime_version": "1",
        "fqdns": [{"fqdn": "www.names.example"}],
    }]);
    let tenant = admin.ok(202, "POST", "/tenants", body).await;
    admin.created("tenant", &tenant).await;
    let webroot = admin.items(&format!("/tenants/{}/webroots", id(&tenant))).await.remove(0);
    admin.created("webroot", &webroot).await;
    write(&platform, &id(&tenant), &id(&webroot), "index.html", "a site with names");
    let fqdn = admin.items(&format!("/tenants/{}/fqdns", id(&tenant))).await.remove(0);
    admin.created("fqdn", &fqdn).await;

    let zone = zones_come(&admin, &tenant).await;
    every_type_is_answered(&admin, &zone).await;
    records_of_one_name_live_apart(&admin, &zone).await;
    records_are_checked(&admin, &zone).await;
    automatic_records_step_back_and_return(&admin, &zone, &fqdn).await;
    zones_go(&admin, &zone).await;
}

/// The name server knows nothing of the name, not even that there is a zone.
async fn is_refused(platform: &Platform, name: &str) -> bool {
    ask(platform, name, RecordType::SOA).await.code == ResponseCode::Refused
}

async fn zones_come(admin: &Client<'_>, tenant: &Value) -> String {
    let platform = admin.platform;
    assert!(is_refused(platform, "names.example").await);
    let region = &tenant["region_id"];
    let body = json!({
        "name": "Names.Example.", "tenant_id": id(tenant), "subscription_id": "crm-1", "region_id": region,
    });
    let zone = admin.ok(202, "POST", "/zones", body.clone()).await;
    has(
        &zone,
        json!({
            "name": "names.example", "brand_id": "acme", "tenant_id": id(tenant), "region_name": "default",
            "status": "pending", "suspend_reason": "",
        }),
    );
    admin.created("zone", &zone).await;
    admin.refused(409, "POST", "/zones", body).await;
    admin.refused(400, "POST", "/zones", json!({"name": "x.example", "region_id": region})).await;
    admin
        .refused(400, "POST", "/zones", json!({"name": "nodots", "region_id": region, "brand_id": "acme"}))
        .await;
    let path = format!("/zones/{}", id(&zone));
    has(&admin.get(&path).await, json!({"status": "active", "tenant_name": "names"}));
    assert_eq!(admin.ok(200, "PUT", &path, json!({"tenant_id": id(tenant)})).await["id"], zone["id"]);
    admin.refused(409, "POST", &format!("{path}/retry"), Value::Null).await;

    let soa = ask(platform, "names.example", RecordType::SOA).await;
    let [record] = &soa.answers[..] else { panic!("one SOA") };
    assert_eq!(record.ttl, 86400);
    let RData::SOA(data) = &record.data else { panic!("{record}") };
    assert_eq!(data.mname.to_string(), "ns1.acme.test.");
    // The mailbox as a domain name (RFC 1035 §8): the dot of its local part is escaped.
    assert_eq!(data.rname.to_string(), r"host\.master.acme.test.");
    assert_eq!((data.refresh, data.retry, data.expire, data.minimum), (10800, 3600, 604_800, 300));
    let servers = ask(platform, "names.example", RecordType::NS).await;
    assert_eq!(servers.data(), ["ns1.acme.test.", "ns2.acme.test."]);
    assert!(servers.answers.iter().all(|record| record.ttl == 86400));
    let missing = ask(platform, "nothing.names.example", RecordType::A).await;
    assert_eq!(missing.code, ResponseCode::NXDomain);
    assert!(missing.authorities.iter().any(|record| matches!(record.data, RData::SOA(_))));

    // The zone came after the name: its records are made all the same.
    until_dns(platform, "www.names.example", RecordType::A, &["127.0.0.1"]).await;
    let records = admin.items(&format!("{path}/records")).await;
    let [auto] = &records[..] else { panic!("{records:?}") };
    has(
        auto,
        json!({
            "type": "A", "name": "www.names.example", "managed_by": "auto", "source_type": "fqdn", "ttl": 300,
            "content": "127.0.0.1", "status": "active", "zone_id": id(&zone),
        }),
    );
    id(&zone)
}

async fn every_type_is_answered(admin: &Client<'_>, zone: &str) {
    let platform = admin.platform;
    let records = format!("/zones/{zone}/records");
    let long: String = (0..700).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let quoted = "v=spf1 include:\"x\" -all";
    let cases = [
        ("A", "@", "192.0.2.1", None, "names.example", "192.0.2.1"),
        ("AAAA", "@", "2001:db8::1", None, "names.example", "2001:db8::1"),
        ("A", "relative", "192.0.2.2", None, "relative.names.example", "192.0.2.2"),
        ("A", "two.labels", "192.0.2.3", None, "two.labels.names.example", "192.0.2.3"),
        ("A", "absolute.names.example", "192.0.2.4", None, "absolute.names.example", "192.0.2.4"),
        ("A", "dotted.names.example", "192.0.2.5", None, "dotted.names.example", "192.0.2.5"),
        ("A", "*.wild", "192.0.2.6", None, "any.thing.wild.names.example", "192.0.2.6"),
        ("CNAME", "alias", "relative.names.example", None, "alias.names.example", "relative.names.example."),
        ("MX", "@", "mail.example.org", Some(10), "names.example", "10 mail.example.org."),
        ("MX", "zero", "mail.example.org", Some(0), "zero.names.example", "0 mail.example.org."),
        (
            "SRV",
            "_sip._tcp",
            "5 5060 sip.example.org",
            Some(20),
            "_sip._tcp.names.example",
            "20 5 5060 sip.example.org.",
        ),
        ("SRV", "_none._tcp", "0 0 .", Some(0), "_none._tcp.names.example", "0 0 0 ."),
        ("CAA", "@", "0 issue \"ca.example\"", None, "names.example", "0 issue \"ca.example\""),
        ("NS", "child", "ns.example.org", None, "child.names.example", "ns.example.org."),
        ("TXT", "short", quoted, None, "short.names.example", quoted),
        ("TXT", "_long", &long, None, "_long.names.example", &long),
    ];
    let mut made = Vec::new();
    for (kind, name, content, priority, ..) in &cases {
        let mut body = json!({"type": kind, "name": name, "content": content});
        if let Some(priority) = priority {
            body["priority"] = json!(priority);
        }
        let record = admin.ok(202, "POST", &records, body.clone()).await;
        has(&record, body);
        has(&record, json!({"zone_id": zone, "ttl": 3600, "managed_by": "custom", "source_type": ""}));
        made.push(record);
    }
    for record in &made {
        admin.created("zone-record", record).await;
    }
    for (kind, _, _, _, asked, wanted) in &cases {
        let answer = ask(platform, asked, kind.parse().unwrap()).await;
        let data: Vec<String> = match *kind {
            // A delegation is not the zone's own to answer (RFC 1034 §4.3.2).
            "NS" => answer.authorities.iter().map(|record| record.data.to_string()).collect(),
            "TXT" => answer
                .answers
                .iter()
                .map(|record| match &record.data {
                    RData::TXT(txt) => {
                        assert!(txt.txt_data.iter().all(|part| part.len() <= 255));
                        String::from_utf8(txt.txt_data.concat()).unwrap()
                    }
                    other => panic!("{other}"),
                })
                .collect(),
            _ => answer.data(),
        };
        assert_eq!(data, [*wanted], "{asked} {kind}");
        if *kind != "NS" {
            assert!(answer.answers.iter().all(|record| record.ttl == 3600), "{asked} {kind}");
        }
    }
    // However it is spelt, it is shown in one form, and is there once.
    let other = json!({"type": "AAAA", "name": "Names.Example.", "content": "2001:DB8:0::1"});
    admin.refused(409, "POST", &records, other).await;
    let other = json!({"type": "A", "name": "Spelt.Names.Example.", "content": " 192.0.2.7 "});
    has(
        &admin.ok(202, "POST", &records, other).await,
        json!({"name": "spelt.names.example", "content": "192.0.2.7"}),
    );
    // The alias is followed, a wildcard does not cover what is there.
    let alias = ask(platform, "alias.names.example", RecordType::A).await;
    assert_eq!(alias.data(), ["192.0.2.2", "relative.names.example."]);
    let relative = ask(platform, "relative.names.example", RecordType::TXT).await;
    assert_eq!((relative.code, relative.answers.len()), (ResponseCode::NoError, 0));
    // Found again by the names that they were given.
    let listed = admin.items(&format!("{records}?limit=200")).await;
    for (kind, name, ..) in &cases {
        assert!(listed.iter().any(|one| one["type"] == *kind && one["name"] == *name), "{kind} {name}");
    }
}

async fn records_of_one_name_live_apart(admin: &Client<'_>, zone: &str) {
    let platform = admin.platform;
    let records = format!("/zones/{zone}/records");
    let serial = async || ask(platform, "names.example", RecordType::SOA).await.soa_serial();
    let before = serial().await;
    let mut paths = Vec::new();
    for address in ["192.0.2.11", "192.0.2.12", "192.0.2.13"] {
        let body = json!({"type": "A", "name": "many", "content": address, "ttl": 120});
        let made = admin.ok(202, "POST", &records, body).await;
        admin.created("zone-record", &made).await;
        paths.push(format!("/zone-records/{}", id(&made)));
    }
    let many = "many.names.example";
    until_dns(platform, many, RecordType::A, &["192.0.2.11", "192.0.2.12", "192.0.2.13"]).await;
    let after = serial().await;
    assert!(after.wrapping_sub(before) < 1 << 31 && after != before, "{before} {after}");
    admin.refused(409, "POST", &format!("{}/retry", paths[0]), Value::Null).await;
    // One is changed, one deleted: the others stay as they are.
    has(
        &admin.ok(202, "PUT", &paths[1], json!({"content": "192.0.2.22", "ttl": 60})).await,
        json!({"content": "192.0.2.22", "ttl": 60, "name": "many", "type": "A"}),
    );
    until_dns(platform, many, RecordType::A, &["192.0.2.11", "192.0.2.13", "192.0.2.22"]).await;
    assert_eq!(admin.ok(202, "DELETE", &paths[0], Value::Null).await, Value::Null);
    until_dns(platform, many, RecordType::A, &["192.0.2.13", "192.0.2.22"]).await;
    admin.until_gone(&paths[0]).await;
    for path in &paths[1..] {
        admin.ok(202, "DELETE", path, Value::Null).await;
    }
    eventually("the name is gone", LIMIT, async || {
        (ask(platform, many, RecordType::A).await.code == ResponseCode::NXDomain).then_some(())
    })
    .await;
    assert_ne!(serial().await, after);
}

async fn records_are_checked(admin: &Client<'_>, zone: &str) {
    let records = format!("/zones/{zone}/records");
    let record = |kind: &str, name: &str, content: &str, priority: Value| json!({"type": kind, "name": name, "content": content, "priority": priority});
    for body in [
        record("A", "a", "2001:db8::1", Value::Null),
        record("A", "a..b", "192.0.2.1", Value::Null),
        record("A", "a", "192.0.2.1", json!(5)),
        record("MX", "@", "mail.example.org", Value::Null),
        record("MX", "@", "mail.example.org", json!(65536)),
        record("SRV", "_a._tcp", "5 sip.example.org", json!(1)),
        record("CAA", "@", "300 issue x", Value::Null),
        record("TXT", "a", "", Value::Null),
        record("SOA", "@", "x", Value::Null),
        json!({"type": "A", "name": "a", "content": "192.0.2.1", "ttl": 59}),
        json!({"type": "A", "name": "a", "content": "192.0.2.1", "ttl": 86401}),
    ] {
        let text = admin.refused(400, "POST", &records, body).await;
        assert!(text.starts_with("validation error: "), "{text}");
    }
    for kind in ["PTR", "HTTPS", "TLSA", "DS"] {
        let (code, answer) = admin.call("POST", &records, record(kind, "a", "x", Value::Null)).await;
        assert_eq!((code, &answer["field"]), (501, &json!("type")), "{answer}");
    }
    // An alias stands alone (RFC 1034 §3.6.2).
    admin.refused(409, "POST", &records, record("CNAME", "relative", "a.example", Value::Null)).await;
    admin.refused(409, "POST", &records, record("A", "alias", "192.0.2.1", Value::Null)).await;
}

async fn automatic_records_step_back_and_return(admin: &Client<'_>, zone: &str, fqdn: &Value) {
    let platform = admin.platform;
    let records = format!("/zones/{zone}/records");
    let all = admin.items(&format!("{records}?managed_by=auto")).await;
    let auto = all.iter().find(|one| one["name"] == "www.names.example").unwrap();
    has(auto, json!({"source_fqdn_id": id(fqdn)}));
    let path = format!("/zone-records/{}", id(auto));
    let text = admin.refused(403, "PUT", &path, json!({"content": "192.0.2.9"})).await;
    assert_eq!(text, "auto-managed records cannot be edited; create a custom record to override");
    admin.refused(403, "DELETE", &path, Value::Null).await;

    let www = "www.names.example";
    let custom = async |kind: &str, content: &str| {
        let body = json!({"type": kind, "name": "www", "content": content});
        format!("/zone-records/{}", id(&admin.ok(202, "POST", &records, body).await))
    };
    let one = custom("A", "192.0.2.31").await;
    until_dns(platform, www, RecordType::A, &["192.0.2.31"]).await;
    let two = custom("A", "192.0.2.32").await;
    until_dns(platform, www, RecordType::A, &["192.0.2.31", "192.0.2.32"]).await;
    admin.get(&path).await;
    admin.ok(202, "DELETE", &one, Value::Null).await;
    until_dns(platform, www, RecordType::A, &["192.0.2.32"]).await;
    admin.ok(202, "DELETE", &two, Value::Null).await;
    until_dns(platform, www, RecordType::A, &["127.0.0.1"]).await;
    // The address families are one: whoever brings one of them brings both.
    let six = custom("AAAA", "2001:db8::31").await;
    until_dns(platform, www, RecordType::A, &[]).await;
    until_dns(platform, www, RecordType::AAAA, &["2001:db8::31"]).await;
    admin.ok(202, "DELETE", &six, Value::Null).await;
    until_dns(platform, www, RecordType::A, &["127.0.0.1"]).await;
    // Another type stands beside it.
    let text = custom("TXT", "hello").await;
    until_dns(platform, www, RecordType::TXT, &["hello"]).await;
    until_dns(platform, www, RecordType::A, &["127.0.0.1"]).await;
    admin.ok(202, "DELETE", &text, Value::Null).await;

    // It goes with what it is for.
    let fqdn_path = format!("/fqdns/{}", id(fqdn));
    admin.ok(200, "PUT", &fqdn_path, json!({"webroot_id": ""})).await;
    until_dns(platform, www, RecordType::A, &[]).await;
    admin.refused(404, "GET", &path, Value::Null).await;
    admin.ok(200, "PUT", &fqdn_path, json!({"webroot_id": fqdn["webroot_id"]})).await;
    until_dns(platform, www, RecordType::A, &["127.0.0.1"]).await;
    // A name that comes after the zone has its record at once.
    let tenant = fqdn["tenant_id"].as_str().unwrap();
    let body = json!({"fqdn": "deep.down.names.example", "webroot_id": fqdn["webroot_id"]});
    let made = admin.ok(202, "POST", &format!("/tenants/{tenant}/fqdns"), body).await;
    admin.created("fqdn", &made).await;
    assert_eq!(ask(platform, "deep.down.names.example", RecordType::A).await.data(), ["127.0.0.1"]);
    admin.ok(202, "DELETE", &format!("/fqdns/{}", id(&made)), Value::Null).await;
    eventually("the name is gone", LIMIT, async || {
        let answer = ask(platform, "deep.down.names.example", RecordType::A).await;
        (answer.code == ResponseCode::NXDomain).then_some(())
    })
    .await;
}

async fn zones_go(admin: &Client<'_>, zone: &str) {
    let path = format!("/zones/{zone}");
    let record = id(&admin.items(&format!("{path}/records")).await[0]);
    assert_eq!(admin.ok(202, "DELETE", &path, Value::Null).await, Value::Null);
    admin.until_gone(&path).await;
    assert!(is_refused(admin.platform, "names.example").await);
    admin.refused(404, "GET", &format!("/zone-records/{record}"), Value::Null).await;
    assert_eq!(
        admin.platform.web("www.names.example").await.unwrap().0,
        200,
        "the site needs no zone of ours"
    );
}
