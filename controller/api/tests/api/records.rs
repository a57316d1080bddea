//! Settings of the platform, OIDC clients, login sessions, and what nodes say of themselves.

use axum::http::Method;
use futures::future::join_all;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_set_one_by_one_and_their_values_are_not_in_the_audit_log() {
    let (test, _place) = crate::platform().await;
    assert_eq!(test.get("/platform/config").await.ok(200), json!([]));
    let hook = "https://chat.example/hook/a-token";
    let set = json!({"webhook.critical.url": hook, "webhook.critical.template": "slack", "own.key": "1"});
    let shown = test.put("/platform/config", set).await.ok(200);
    assert_eq!(
        shown,
        json!([
            {"key": "own.key", "value": "1"},
            {"key": "webhook.critical.template", "value": "slack"},
            {"key": "webhook.critical.url", "value": hook},
        ])
    );
    // What is not named stays, null takes away.
    let shown =
        test.put("/platform/config", json!({"own.key": null, "agent.concurrency.disk": "3"})).await.ok(200);
    assert_eq!(shown.as_array().unwrap().len(), 3);
    assert_eq!(test.get("/platform/config").await.ok(200), shown);
    let rows = test.get("/audit-logs?limit=200").await.ok(200).to_string();
    assert!(rows.contains("webhook.critical.url") && !rows.contains("a-token"), "{rows}");
    for (key, value) in [
        ("webhook.critical.url", json!("http://chat.example/")),
        ("webhook.escalated.url", json!("nothing")),
        ("webhook.critical.template", json!("xml")),
        ("agent.concurrency.disk", json!("many")),
        ("own.key", json!(1)),
        ("own.key", json!({"a": "b"})),
        ("own.key", json!("x".repeat(17_000))),
        ("a key", json!("x")),
    ] {
        let refused = test.put("/platform/config", json!({key: value})).await;
        assert_eq!((refused.status, &refused.body["field"]), (400, &json!(key)), "{refused:?}");
    }
    for chunk in 0..3 {
        let many: Value =
            (0..400).map(|n| (format!("k{chunk}.{n}"), json!("x"))).collect::<serde_json::Map<_, _>>().into();
        let answer = test.put("/platform/config", many).await;
        assert_eq!(answer.status, if chunk < 2 { 200 } else { 409 }, "{chunk}");
    }
    assert_eq!(
        test.get("/platform/config").await.ok(200).as_array().unwrap().len(),
        803,
        "what was refused is not kept"
    );
}

/// Defect 36 of the reference: users could be sent anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_oidc_client_names_the_places_that_users_are_sent_back_to() {
    let (test, _place) = crate::platform().await;
    let client = |uris: Value| json!({"id": "grafana", "secret": "a-long-client-secret", "name": "Grafana", "redirect_uris": uris});
    let made = test.post("/oidc/clients", client(json!(["https://grafana.example/login"]))).await.ok(201);
    assert_eq!(made, json!({"id": "grafana"}));
    test.post("/oidc/clients", client(json!(["https://grafana.example/b?x=1", "http://localhost:3000/cb"])))
        .await
        .ok(201);
    let kept = test.store.read().await.unwrap().oidc_client("grafana").await.unwrap().unwrap();
    assert_eq!(kept.redirect_uris, ["https://grafana.example/b?x=1", "http://localhost:3000/cb"]);
    // The secret is sealed: in no row that is shown, and not in the audit log.
    let sealed = test.store.unseal("oidc-client/grafana").await.unwrap().unwrap();
    assert_eq!(sealed.expose(), b"a-long-client-secret");
    let rows = test.get("/audit-logs?limit=200").await.ok(200).to_string();
    assert!(rows.contains("Grafana") && !rows.contains("a-long-client-secret"), "{rows}");
    for uri in [
        "http://grafana.example/",
        "https://user@grafana.example/",
        "https://grafana.example/#here",
        "javascript:alert(1)",
        "https://*.example/",
        "/relative",
        "https:// grafana.example/",
        "//grafana.example/",
    ] {
        let refused = test.post("/oidc/clients", client(json!([uri]))).await;
        assert_eq!(
            (refused.status, &refused.body["field"]),
            (400, &json!("redirect_uris[0]")),
            "{uri}: {refused:?}"
        );
    }
    for (field, value) in
        [("id", json!("a/b")), ("secret", json!("short")), ("name", json!("")), ("redirect_uris", json!([]))]
    {
        let mut body = client(json!(["https://a.example/"]));
        body[field] = value;
        let refused = test.post("/oidc/clients", body).await;
        assert_eq!((refused.status, &refused.body["field"]), (400, &json!(field)), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_session_opens_once() {
    let (test, _place) = crate::platform().await;
    let ids = test.brand("acme").await;
    let open = format!("/tenants/{}/login-sessions", ids.tenant);
    let session = async || {
        let made = test.call(Method::POST, &open, Some(&test.admin), None).await.ok(201);
        assert!(made["expires_at"].is_string());
        made["session_id"].as_str().unwrap().to_owned()
    };
    let validate = |session: String| {
        let test = &test;
        async move {
            let path = format!("/internal/v1/login-sessions/validate?session_id={session}");
            test.call(Method::POST, &path, Some(&test.admin), None).await
        }
    };
    let first = session().await;
    assert!(first.len() >= 43, "{first}");
    // Of many who come at the same time one is let in.
    let answers = join_all((0..20).map(|_| validate(first.clone()))).await;
    let opened: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!((opened.len(), &opened[0].body), (1, &json!({"tenant_id": ids.tenant})));
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((answer.status, answer.error()), (403, "invalid login session"));
    }
    assert_eq!(validate("made-up".into()).await.status, 403);
    let missing =
        test.call(Method::POST, "/internal/v1/login-sessions/validate", Some(&test.admin), None).await;
    assert_eq!((missing.status, &missing.body["field"]), (400, &json!("session_id")));
    // A tenant that was switched off since is not let in.
    let late = session().await;
    test.call(Method::POST, &format!("/tenants/{}/suspend", ids.tenant), Some(&test.admin), Some(json!({})))
        .await
        .ok(202);
    assert_eq!(validate(late).await.status, 403);
    assert_eq!(test.call(Method::POST, &open, Some(&test.admin), None).await.status, 409);
    // Of what was opened nothing is kept that opens.
    let rows = test.get("/audit-logs?limit=200").await.ok(200).to_string();
    assert!(!rows.contains(&first), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_say_how_they_are_and_what_they_found() {
    let (test, _place) = crate::platform().await;
    let (health, drift) = ("/internal/v1/nodes/web-1/health", "/internal/v1/nodes/web-1/drift-events");
    assert_eq!(test.get(health).await.status, 404);
    let said = json!({"status": "healthy", "checks": {"nginx": "ok"}, "reported_at": "2026-01-02T03:04:05Z"});
    test.post(health, said).await.ok(204);
    test.post(health, json!({"status": "degraded", "reconciliation": {"failed": 2}, "reported_at": "2026-01-02T03:05:05+01:00"})).await.ok(204);
    let shown = test.get(health).await.ok(200);
    assert_eq!(
        (
            &shown["node_id"],
            &shown["status"],
            &shown["checks"],
            &shown["reconciliation"],
            &shown["reported_at"]
        ),
        (
            &json!("web-1"),
            &json!("degraded"),
            &json!({}),
            &json!({"failed": 2}),
            &json!("2026-01-02T02:05:05Z")
        )
    );
    let event = |n: usize| json!({"kind": "webroot", "resource": format!("web_{n}"), "action": "repaired"});
    for batch in 0..3 {
        let events: Vec<Value> = (batch * 400..(batch + 1) * 400).map(event).collect();
        test.post(drift, json!({"events": events})).await.ok(204);
    }
    let shown = test.get(drift).await.ok(200);
    let items = shown["items"].as_array().unwrap();
    assert_eq!(
        (items.len(), &items[0]["resource"], &shown["has_more"]),
        (100, &json!("web_1199"), &json!(true))
    );
    assert_eq!(
        test.store.read().await.unwrap().drift_events("web-1", 5_000).await.unwrap().len(),
        1_000,
        "the oldest go"
    );
    let other = test.get("/internal/v1/nodes/edge-1/drift-events").await.ok(200);
    assert_eq!(other, json!({"items": [], "has_more": false}));
    for (path, body, field) in [
        (health, json!({"status": ""}), "status"),
        (health, json!({"status": "ok", "reported_at": "yesterday"}), "reported_at"),
        (health, json!({"status": "ok", "checks": {"x": "y".repeat(17_000)}}), "checks"),
        (
            drift,
            json!({"events": [event(1), {"kind": "", "resource": "x", "action": "y"}]}),
            "events[1].kind",
        ),
        (drift, json!({"events": vec![event(1); 501]}), "events"),
    ] {
        let refused = test.post(path, body).await;
        assert_eq!((refused.status, &refused.body["field"]), (400, &json!(field)), "{refused:?}");
    }
    assert_eq!(test.post("/internal/v1/nodes/nobody/health", json!({"status": "ok"})).await.status, 404);
}
