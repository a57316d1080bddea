//! Records of zones.

use super::*;

fn record(changes: Value) -> Result<ZoneRecordSpec, SpecError> {
    let mut creation = create(Kind::ZoneRecord, with(Kind::ZoneRecord, changes))?;
    let resource = creation.resources.remove(0).into_resource(parent_of(Kind::ZoneRecord).as_ref(), 1, 0);
    Ok(resource.typed().unwrap())
}

#[test]
fn record_names_become_absolute() {
    let name = |given: &str| {
        record(json!({"name": given, "type": "A", "content": "192.0.2.1", "priority": null}))
            .map(|spec| spec.name)
    };
    for (given, wanted) in [
        ("@", "customer-1.example"),
        ("www", "www.customer-1.example"),
        ("WWW.Customer-1.Example", "www.customer-1.example"),
        ("www.customer-1.example.", "www.customer-1.example"),
        ("customer-1.example", "customer-1.example"),
        ("*", "*.customer-1.example"),
        ("*.shop", "*.shop.customer-1.example"),
        ("_dmarc", "_dmarc.customer-1.example"),
        ("a.b", "a.b.customer-1.example"),
        ("bücher", "xn--bcher-kva.customer-1.example"),
    ] {
        assert_eq!(name(given).as_deref(), Ok(wanted), "{given}");
    }
    for (given, shown) in [
        ("@", "@"),
        ("WWW", "www"),
        ("w\\119W", "www"),
        ("Bücher", "xn--bcher-kva"),
        ("*.Shop", "*.shop"),
        ("\\042.Shop", "*.shop"),
        ("WWW.Customer-1.Example.", "www.customer-1.example"),
        ("www.customer-1.example", "www.customer-1.example"),
    ] {
        let body = json!({"name": given, "type": "A", "content": "192.0.2.1", "priority": null});
        let view = created(Kind::ZoneRecord, with(Kind::ZoneRecord, body)).view();
        assert_eq!(view["name"], json!(shown), "{given}");
    }
    let wildcard = json!({"name": "*.w", "type": "NS", "content": "ns.example.net", "priority": null});
    assert!(problem(Kind::ZoneRecord, wildcard).contains("name: a wildcard delegates nothing"));
    let long = "a".repeat(64);
    for bad in [
        "a\\.b",
        "a\\",
        "\\@",
        "",
        "other.example.",
        "a..b",
        "-a",
        "a.*",
        "**",
        "a b",
        &long,
        &["abcdefghi"; 25].join("."),
    ] {
        assert!(name(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn record_content_follows_the_type() {
    let data = |record_type: &str, content: &str, priority: Option<i64>| {
        record(json!({"type": record_type, "name": "www", "content": content, "priority": priority}))
            .and_then(|spec| rdata(&spec, "customer-1.example"))
    };
    let long = "x".repeat(300);
    let long_txt = format!("\"{}\" \"{}\"", "x".repeat(255), "x".repeat(45));
    for (record_type, content, priority, wanted) in [
        ("A", "192.0.2.1", None, "192.0.2.1"),
        ("a", "192.0.2.1", None, "192.0.2.1"),
        ("AAAA", "2001:DB8::0:1", None, "2001:db8::1"),
        ("CNAME", "Target.Example.org", None, "target.example.org."),
        ("CNAME", "shop", None, "shop.customer-1.example."),
        ("CNAME", "@", None, "customer-1.example."),
        ("NS", "ns.example.org.", None, "ns.example.org."),
        ("MX", "mail.example.org", Some(10), "10 mail.example.org."),
        ("TXT", "v=spf1 mx ~all", None, "\"v=spf1 mx ~all\""),
        ("TXT", "\"a\" \"b;c\"", None, "\"a\" \"b;c\""),
        ("TXT", "say \"hi\" \\o/", None, "\"say \\\"hi\\\" \\\\o/\""),
        ("TXT", "ä", None, "\"\\195\\164\""),
        ("TXT", long.as_str(), None, long_txt.as_str()),
        ("SRV", "5 5060 sip.example.org", Some(1), "1 5 5060 sip.example.org."),
        ("SRV", "0 0 .", Some(0), "0 0 0 ."),
        ("MX", ".", Some(0), "0 ."),
        ("CAA", "0 policy x", None, "0 policy \"x\""),
        ("CAA", "0 issue letsencrypt.org", None, "0 issue \"letsencrypt.org\""),
        ("CAA", "128 iodef \"mailto:a@b.example\"", None, "128 iodef \"mailto:a@b.example\""),
        ("CAA", "0 issue ;", None, "0 issue \";\""),
    ] {
        assert_eq!(data(record_type, content, priority).as_deref(), Ok(wanted), "{record_type} {content}");
    }
    for (record_type, content, priority) in [
        ("A", "2001:db8::1", None),
        ("A", "192.0.2.1", Some(5)),
        ("AAAA", "192.0.2.1", None),
        ("CNAME", "a b", None),
        ("MX", "mail.example.org", None),
        ("MX", "mail.example.org", Some(65536)),
        ("TXT", "", None),
        ("TXT", &"x".repeat(4097), None),
        ("SRV", "5 5060", Some(1)),
        ("SRV", "5 70000 sip.example.org", Some(1)),
        ("SRV", "5 5060 sip.example.org x", Some(1)),
        ("CAA", "256 issue x", None),
        ("CAA", "0 pol-icy x", None),
        ("MX", ".", Some(10)),
        ("CAA", "0 issue", None),
        ("SOA", "x", None),
        ("BOGUS", "x", None),
    ] {
        assert!(
            matches!(data(record_type, content, priority), Err(SpecError::Invalid { .. })),
            "{record_type} {content}"
        );
    }
    for later in ["PTR", "ALIAS", "HTTPS", "SVCB", "TLSA", "DNSKEY", "DS", "NAPTR", "LOC", "SSHFP", "DNAME"] {
        assert!(matches!(data(later, "x", None), Err(SpecError::NotServed { .. })), "{later}");
    }
}

#[test]
fn record_rules() {
    assert_eq!(record(json!({"ttl": null})).unwrap().ttl, 3600);
    assert!(record(json!({"ttl": 59})).is_err());
    assert!(record(json!({"ttl": 86401})).is_err());
    let apex = json!({"type": "CNAME", "name": "@", "content": "a.example", "priority": null});
    assert!(record(apex).unwrap_err().to_string().contains("RFC 1034"));
    assert!(record(json!({"type": "NS", "name": "@", "content": "a.example", "priority": null})).is_err());

    let mx = created(Kind::ZoneRecord, Kind::ZoneRecord.def().example());
    let facets = mx.index().facets;
    assert!(facets.contains(&Facet { field: "owner", value: "parent-1/customer-1.example".into() }));
    assert!(facets.contains(&Facet { field: "rr_set", value: "parent-1/customer-1.example/MX".into() }));
    assert_eq!(mx.view()["managed_by"], json!("custom"));
    // Shown as it was written, kept absolute.
    assert_eq!((mx.text("name"), mx.view()["name"].clone()), ("customer-1.example", json!("@")));
    assert!(!update(&mx, json!({"name": "@", "ttl": mx.spec["ttl"]})).unwrap().changed);
    assert_eq!(update(&mx, json!({"content": "mx2.example"})).unwrap().spec["priority"], json!(10));
    assert!(update(&mx, json!({"ttl": 1})).is_err());
    assert!(update(&mx, json!({"name": "other"})).is_err());
    assert!(Kind::ZoneRecord.def().deletable(&mx).is_ok());

    let zone = parent_of(Kind::ZoneRecord).unwrap();
    let auto = zone_record::automatic(
        &zone,
        "A",
        "www.customer-1.example",
        "192.0.2.1",
        "fqdn",
        Some("f1"),
        &mut entropy(),
    )
    .unwrap()
    .into_resource(Some(&zone), 3, 0);
    assert_eq!((auto.view()["managed_by"].clone(), auto.view()["ttl"].clone()), (json!("auto"), json!(300)));
    assert!(matches!(update(&auto, json!({"ttl": 600})), Err(SpecError::Forbidden(_))));
    assert!(matches!(Kind::ZoneRecord.def().deletable(&auto), Err(SpecError::Forbidden(_))));
    assert!(auto.index().facets.contains(&Facet { field: "source_fqdn_id", value: "f1".into() }));
}
