//! Incidents, their events, and gaps in what programs can do about them.

use axum::http::Method;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Answer, TestApi};

fn incident(dedupe_key: &str, about: Option<&str>) -> Value {
    json!({
        "dedupe_key": dedupe_key, "type": "disk_pressure", "severity": "critical", "title": "disk almost full",
        "source": "monitoring", "resource_type": "tenant", "resource_id": about,
    })
}

impl TestApi {
    async fn ask(&self, method: Method, path: &str, key: &str, body: Option<Value>) -> Answer {
        self.call(method, path, Some(key), body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_goes_its_way_and_everybody_sees_what_happened() {
    let (test, _place) = crate::platform().await;
    let made = test.post("/incidents", incident("disk:web-1", None)).await;
    assert_eq!((made.status, &made.body["status"]), (201, &json!("open")), "{made:?}");
    assert!(made.id().starts_with("inc_"));
    let path = format!("/incidents/{}", made.id());
    // The same trouble again is the same incident, as long as that is open.
    let again = test.post("/incidents", incident("disk:web-1", None)).await;
    assert_eq!((again.status, again.id()), (200, made.id()));
    let patch = json!({"status": "investigating", "assigned_to": "ann", "severity": "warning"});
    let patched = test.ask(Method::PATCH, &path, &test.admin, Some(patch)).await;
    assert_eq!((patched.status, &patched.body), (204, &json!("")));
    let event = json!({"actor": "somebody else", "action": "attempted_fix", "detail": "removed logs", "metadata": {"bytes": 5}});
    let event = test.post(&format!("{path}/events"), event).await.ok(201);
    assert!(
        event["actor"].as_str().unwrap().starts_with("api-key:"),
        "who it was is not the body's to say: {event}"
    );
    test.post(&format!("{path}/escalate"), json!({"reason": "it fills up again"})).await.ok(204);
    let escalated = test.get(&path).await.ok(200);
    assert!(escalated["status"] == "escalated" && escalated["escalated_at"].is_string(), "{escalated}");
    assert_eq!((&escalated["severity"], &escalated["assigned_to"]), (&json!("warning"), &json!("ann")));
    let stats = test.get("/dashboard/stats").await.ok(200);
    assert_eq!(
        (&stats["incidents_open"], &stats["incidents_critical"], &stats["incidents_escalated"]),
        (&json!(1), &json!(0), &json!(1))
    );
    test.post(&format!("{path}/resolve"), json!({"resolution": "a larger disk"})).await.ok(204);
    let resolved = test.get(&path).await.ok(200);
    assert_eq!((&resolved["status"], &resolved["resolution"]), (&json!("resolved"), &json!("a larger disk")));
    let stats = test.get("/dashboard/stats").await.ok(200);
    assert_eq!((&stats["incidents_open"], stats["mttr_minutes"].is_number()), (&json!(0), true), "{stats}");
    assert_eq!(stats["incidents_by_status"], json!([{"status": "resolved", "count": 1}]));
    // What is over stays so.
    for (action, body) in
        [("resolve", json!({"resolution": "x"})), ("escalate", json!({"reason": "x"})), ("cancel", json!({}))]
    {
        let refused = test.post(&format!("{path}/{action}"), body).await;
        assert!(refused.status == 409 && refused.error().contains("is resolved already"), "{refused:?}");
    }
    assert_eq!(
        test.ask(Method::PATCH, &path, &test.admin, Some(json!({"status": "open"}))).await.status,
        409
    );
    let events = test.get(&format!("{path}/events?limit=2")).await.ok(200);
    let actions = |page: &Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["action"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(actions(&events), ["attempted_fix", "escalated"]);
    let next = format!("{path}/events?limit=2&cursor={}", events["next_cursor"].as_str().unwrap());
    let rest = test.get(&next).await.ok(200);
    assert_eq!((actions(&rest), &rest["has_more"]), (vec!["resolved".to_owned()], &json!(false)));
    // A new one of the same key is another one, and this one is called off.
    let new = test.post("/incidents", incident("disk:web-1", None)).await;
    assert_eq!(new.status, 201);
    assert_ne!(new.id(), made.id());
    test.call(Method::POST, &format!("/incidents/{}/cancel", new.id()), Some(&test.admin), None)
        .await
        .ok(204);
    assert_eq!(test.get(&format!("/incidents/{}", new.id())).await.ok(200)["status"], "cancelled");
    let open = test
        .get("/incidents?status=resolved&type=disk_pressure&severity=warning&source=monitoring")
        .await
        .ok(200);
    assert_eq!((open["items"].as_array().unwrap().len(), &open["items"][0]["id"]), (1, &json!(made.id())));
    // Each change is in the audit log.
    let rows = test.get("/audit-logs?resource_type=incidents&limit=200").await.ok(200);
    assert!(rows["items"].as_array().unwrap().iter().any(|row| row["method"] == "PATCH"), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_who_notice_the_same_open_one_incident() {
    let (test, _place) = crate::platform().await;
    let answers = join_all((0..100).map(|_| test.post("/incidents", incident("same", None)))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert!(answers.iter().all(|answer| answer.id() == answers[0].id()));
    // A page neither skips nor repeats while others come.
    for n in 0..7 {
        test.post("/incidents", incident(&format!("n{n}"), None)).await.ok(201);
    }
    let mut seen = Vec::new();
    let mut path = "/incidents?limit=3".to_owned();
    loop {
        let page = test.get(&path).await.ok(200);
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["dedupe_key"].as_str().unwrap().to_owned()),
        );
        test.post("/incidents", incident(&format!("late{}", seen.len()), None)).await.ok(201);
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/incidents?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["n6", "n5", "n4", "n3", "n2", "n1", "n0", "same"]);
    let wrong = test.get("/incidents?cursor=x").await;
    assert_eq!((wrong.status, &wrong.body["field"]), (400, &json!("cursor")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_its_brands_and_gaps_too() {
    let (test, _place) = crate::platform().await;
    let (acme, bolt) = (test.brand("acme").await, test.brand("bolt").await);
    let (_, ours) = test.key(&["incidents:*"], &["acme"]).await;
    let (_, theirs) = test.key(&["incidents:*"], &["bolt"]).await;
    let made = test.ask(Method::POST, "/incidents", &ours, Some(incident("d", Some(&acme.tenant)))).await;
    assert_eq!((made.status, &made.body["brand_id"]), (201, &json!("acme")), "{made:?}");
    // The same key with another brand is another incident: nobody learns of the first one by it.
    let other = test.ask(Method::POST, "/incidents", &theirs, Some(incident("d", Some(&bolt.tenant)))).await;
    assert_eq!(other.status, 201);
    // Neither about what is not theirs, nor about what is not there, nor about the platform.
    for about in [Some(acme.tenant.as_str()), Some("nothing"), None] {
        let refused = test.ask(Method::POST, "/incidents", &theirs, Some(incident("e", about))).await;
        assert_eq!((refused.status, refused.error()), (403, "no access to this brand"), "{about:?}");
    }
    let path = format!("/incidents/{}", made.id());
    for (method, path, body) in [
        (Method::GET, path.clone(), None),
        (Method::PATCH, path.clone(), Some(json!({"status": "open"}))),
        (Method::POST, format!("{path}/resolve"), Some(json!({"resolution": "x"}))),
        (Method::POST, format!("{path}/escalate"), Some(json!({"reason": "x"}))),
        (Method::POST, format!("{path}/cancel"), None),
        (Method::GET, format!("{path}/events"), None),
        (Method::POST, format!("{path}/events"), Some(json!({"action": "commented", "detail": "x"}))),
        (Method::GET, format!("{path}/gaps"), None),
    ] {
        let refused = test.ask(method, &path, &theirs, body).await;
        assert_eq!((refused.status, refused.error()), (403, "no access to this brand"), "{path}");
    }
    let listed = |answer: Value| answer["items"].as_array().unwrap().len();
    // Each brand has one of before.
    assert_eq!(listed(test.ask(Method::GET, "/incidents", &theirs, None).await.ok(200)), 2);
    assert_eq!(listed(test.get("/incidents").await.ok(200)), 4);

    let gap = |incident: Option<&str>| json!({"tool_name": "restart_node", "description": "no way to restart it", "category": "remediation", "incident_id": incident});
    let first = test.ask(Method::POST, "/capability-gaps", &ours, Some(gap(Some(&made.id())))).await;
    assert_eq!((first.status, &first.body["occurrences"]), (201, &json!(1)), "{first:?}");
    let second = test.ask(Method::POST, "/capability-gaps", &ours, Some(gap(None))).await;
    assert_eq!((second.status, &second.body["occurrences"], second.id()), (200, &json!(2), first.id()));
    let foreign = test.ask(Method::POST, "/capability-gaps", &theirs, Some(gap(Some(&made.id())))).await;
    assert!(foreign.status == 400 && foreign.error().contains("there is no incident"), "{foreign:?}");
    test.ask(Method::POST, "/capability-gaps", &theirs, Some(gap(None))).await.ok(201);
    let page = test.ask(Method::GET, "/capability-gaps?status=open", &ours, None).await.ok(200);
    assert_eq!((listed(page.clone()), &page["items"][0]["id"]), (2, &json!(first.id())));
    // Those missed most come first, over pages too.
    let page = test.get("/capability-gaps?limit=1").await.ok(200);
    assert_eq!(page["items"][0]["occurrences"], 2);
    let next = test
        .get(&format!("/capability-gaps?limit=1&cursor={}", page["next_cursor"].as_str().unwrap()))
        .await
        .ok(200);
    assert_eq!((&next["items"][0]["occurrences"], &next["has_more"]), (&json!(1), &json!(true)));
    let gap_path = format!("/capability-gaps/{}", first.id());
    let linked = test.ask(Method::GET, &format!("{gap_path}/incidents"), &ours, None).await.ok(200);
    assert_eq!(linked["items"][0]["id"], json!(made.id()));
    assert_eq!(test.get(&format!("{path}/gaps")).await.ok(200)["items"][0]["id"], json!(first.id()));
    let refused = test.ask(Method::PATCH, &gap_path, &theirs, Some(json!({"status": "wont_fix"}))).await;
    assert_eq!((refused.status, refused.error()), (403, "no access to this brand"));
    test.ask(Method::PATCH, &gap_path, &ours, Some(json!({"status": "implemented"}))).await.ok(204);
    let done = test.get("/capability-gaps?status=implemented").await.ok(200);
    assert!(done["items"][0]["implemented_at"].is_string(), "{done}");
    assert_eq!(test.get("/dashboard/stats").await.ok(200)["capability_gaps_open"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_incident_is_named() {
    let (test, _place) = crate::platform().await;
    let made = test.post("/incidents", incident("a", None)).await.id();
    let with = |field: &str, value: Value| {
        let mut body = incident("b", None);
        body[field] = value;
        body
    };
    let (events, gaps) = (format!("/incidents/{made}/events"), "/capability-gaps".to_owned());
    for (path, body, field) in [
        ("/incidents".to_owned(), with("severity", json!("bad")), "severity"),
        ("/incidents".to_owned(), with("title", json!("x".repeat(257))), "title"),
        ("/incidents".to_owned(), with("dedupe_key", json!("")), "dedupe_key"),
        ("/incidents".to_owned(), with("source", json!("a\u{0}b")), "source"),
        ("/incidents".to_owned(), with("detail", json!("x".repeat(17_000))), "detail"),
        (format!("/incidents/{made}/resolve"), json!({}), "resolution"),
        (format!("/incidents/{made}/escalate"), json!({"reason": ""}), "reason"),
        (events.clone(), json!({"action": "danced", "detail": "x"}), "action"),
        (
            events,
            json!({"action": "commented", "detail": "x", "metadata": {"x": "y".repeat(17_000)}}),
            "metadata",
        ),
        (gaps.clone(), json!({"tool_name": "x", "description": "y", "category": "z"}), "category"),
        (
            gaps,
            json!({"tool_name": "x", "description": "y", "category": "remediation", "incident_id": "inc_0"}),
            "incident_id",
        ),
    ] {
        let refused = test.post(&path, body).await;
        assert_eq!((refused.status, &refused.body["field"]), (400, &json!(field)), "{path}: {refused:?}");
    }
    // What is tried is a question.
    let planned = test.post("/incidents?dry_run=true", incident("planned", None)).await;
    assert_eq!(planned.status, 200, "{planned:?}");
    assert_eq!(test.get("/incidents").await.ok(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_operators_place_is_told_of_what_is_critical_or_escalated() {
    let test = TestApi::with_fleet().await;
    let new = |key: &str, severity: &str| json!({"dedupe_key": key, "type": "t", "severity": severity, "title": "t", "source": "s"});
    let notices = async || {
        let list = test.get("/jobs?kind=incident_notice").await.ok(200);
        let trigger = |job: &Value| job["params"]["trigger"].as_str().unwrap().to_owned();
        list["items"].as_array().unwrap().iter().map(trigger).collect::<Vec<_>>()
    };
    test.post("/incidents", new("before", "critical")).await.ok(201);
    assert_eq!(notices().await, Vec::<String>::new(), "no place is set");
    let places = json!({
        "webhook.critical.url": "https://hooks.example/?token=secret-1", "webhook.escalated.url": "https://hooks.example/b",
    });
    test.put("/platform/config", places).await.ok(200);
    test.post("/incidents", new("small", "warning")).await.ok(201);
    let made = test.post("/incidents", new("large", "critical")).await;
    test.post("/incidents", new("large", "critical")).await.ok(200);
    assert_eq!(notices().await, ["critical"], "once, and not for the one that was open already");
    test.post(&format!("/incidents/{}/escalate", made.id()), json!({"reason": "r"})).await.ok(204);
    assert_eq!(notices().await, ["escalated", "critical"]);
    let shown = test.get("/jobs?kind=incident_notice").await.body.to_string();
    assert!(!shown.contains("secret-1"), "{shown}");
}
