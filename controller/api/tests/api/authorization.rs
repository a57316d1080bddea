//! The authorization matrix: every route of the table against every kind of caller.

use axum::body::Body;
use axum::http::{Method, Request};
use hosting_api::{Op, Route, Shape, table};
use hosting_planner::World;
use hosting_resource::{Kind, Tier};
use serde_json::{Value, json};

use crate::harness::{Answer, Ids, TestApi, example, id_of};

pub(crate) fn path_of(test: &TestApi, ids: &Ids, route: &Route) -> String {
    let value = match (route.op, route.subject) {
        (Op::Ask(ask), _) if matches!(ask.name, "explain" | "name-history") => ids.fqdn_name.clone(),
        (Op::Ask(ask), _) if ask.name == "job" => ids.job.clone(),
        (Op::Act(act), _) if act.name.starts_with("job-") => ids.job.clone(),
        (Op::Ask(ask), _) if ask.name.starts_with("incident") => ids.incident.clone(),
        (Op::Act(act), _) if act.name.starts_with("incident-") => ids.incident.clone(),
        (Op::Ask(ask), _) if ["gap", "gap incidents"].contains(&ask.name) => ids.gap.clone(),
        (Op::Act(act), _) if act.name == "gap-patch" => ids.gap.clone(),
        (Op::Ask(ask), _) if ask.name == "await" => format!("create-webroot-{}", ids.webroot),
        (Op::Ask(ask), _) if ask.name == "rollout" => ids.rollout.clone(),
        (Op::Act(act), _) if act.name.starts_with("rollout-") => ids.rollout.clone(),
        (_, Some(kind)) => id_of(test, ids, kind),
        (_, None) => String::new(),
    };
    // What is meant of a resource by a second parameter need not be there.
    let path = route
        .param()
        .map_or_else(|| route.path.clone(), |name| route.path.replace(&format!("{{{name}}}"), &value));
    path.replace("{name}", "NO_SUCH_NAME").replace("{deliveryID}", "no-such-delivery")
}

pub(crate) fn body_of(test: &TestApi, ids: &Ids, route: &Route) -> Option<Value> {
    match route.request {
        Shape::Empty => None,
        Shape::Create(kind) => {
            let mut body = example(test, ids, kind);
            if kind == Kind::Brand {
                body["id"] = json!("a-new-brand");
            }
            Some(body)
        }
        Shape::Update(Kind::Zone) => Some(json!({"tenant_id": ids.tenant})),
        Shape::Update(Kind::ApiKey) => {
            Some(json!({"name": "x", "scopes": ["tenants:read"], "brands": ["*"]}))
        }
        Shape::Update(_) => Some(json!({})),
        Shape::Named("SetEnvVars") => Some(json!({"vars": [{"name": "A", "value": "b", "secret": true}]})),
        Shape::Named("VaultPlain") => Some(json!({"plaintext": "a text"})),
        Shape::Named("VaultToken") => Some(json!({"token": "vault:v1:none"})),
        Shape::Named("AuthorityRef" | "RetireAuthority") => Some(json!({"fingerprint": "ab"})),
        Shape::Named("Rotate") => Some(json!({"overlap_seconds": 60})),
        // What made the brand's zone.
        Shape::Named("Undo") => Some(json!({"revision": ids.zone_revision})),
        Shape::Named("Bulk") => Some(json!({"items": [
            {"op": "patch", "kind": "zone_record", "id": ids.record, "body": {"content": "of a bulk"}},
        ]})),
        Shape::Named("Reissue") => Some(json!({})),
        Shape::Named("NewSettings") => Some(json!({"a": "b"})),
        Shape::Named("NewOidcClient") => Some(json!({
            "id": "c", "secret": "a-long-client-secret", "name": "c", "redirect_uris": ["https://c.example/"],
        })),
        Shape::Named("NewNodeHealth") => Some(json!({"status": "healthy"})),
        Shape::Named("NewDriftEvents") => Some(json!({"events": []})),
        Shape::Named("NewIncident") => Some(json!({
            "dedupe_key": "d", "type": "t", "severity": "info", "title": "t", "source": "s", "resource_id": ids.tenant,
        })),
        Shape::Named("IncidentPatch" | "Cancellation") => Some(json!({})),
        Shape::Named("Resolution") => Some(json!({"resolution": "done"})),
        Shape::Named("Escalation") => Some(json!({"reason": "why"})),
        Shape::Named("NewIncidentEvent") => Some(json!({"action": "commented", "detail": "x"})),
        Shape::Named("NewGap") => Some(
            json!({"tool_name": "t", "description": "d", "category": "remediation", "incident_id": ids.incident}),
        ),
        Shape::Named("GapPatch") => Some(json!({"status": "open"})),
        Shape::Named("Drain") => Some(json!({"force": true})),
        Shape::Named("Suspend") => Some(json!({"reason": "unpaid"})),
        Shape::Named("PurgeCache") => Some(json!({"everything": true})),
        Shape::Named("BrandClusters") => Some(json!({"cluster_ids": []})),
        Shape::Named("Runtime") => Some(json!({"runtime": "php", "version": "8.2"})),
        Shape::View(_) | Shape::Page(_) | Shape::Named(_) => panic!("{} {}", route.method, route.path),
    }
}

async fn call(test: &TestApi, ids: &Ids, route: &Route, key: Option<&str>) -> Answer {
    test.call(route.method.clone(), &path_of(test, ids, route), key, body_of(test, ids, route)).await
}

fn refused(answer: &Answer, status: u16, message: &str, route: &Route) {
    assert_eq!((answer.status, answer.error()), (status, message), "{} {}", route.method, route.path);
}

#[tokio::test]
async fn strangers_open_nothing() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let (revoked_id, revoked) = test.key(&["*:*"], &["*"]).await;
    test.delete(&format!("/api-keys/{revoked_id}")).await.ok(204);
    let unknown = format!("hst_{}", "0".repeat(64));
    let head = test.store.read().await.unwrap().head();
    for route in table() {
        refused(&call(&test, &ids, &route, None).await, 401, "missing API key", &route);
        for bad in [unknown.as_str(), revoked.as_str(), "x", "hst_test-admin-ke", "' OR 1=1 --"] {
            refused(&call(&test, &ids, &route, Some(bad)).await, 401, "invalid API key", &route);
        }
    }
    assert_eq!(test.store.read().await.unwrap().head(), head, "nothing was written");
    let rows = test.get("/audit-logs?limit=200").await.ok(200);
    let strangers = rows["items"].as_array().unwrap().iter().filter(|row| row["status_code"] == 401).count();
    assert_eq!(strangers, 0, "strangers write no rows");
}

#[tokio::test]
async fn a_scope_opens_only_its_own_routes() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let (_, narrow) = test.key(&["audit_logs:read"], &["*"]).await;
    for route in table() {
        let Some(scope) = route.scope else { continue };
        let answer = call(&test, &ids, &route, Some(&narrow)).await;
        refused(&answer, 403, &format!("insufficient scope: requires {scope}"), &route);
    }
    // Reading is not writing, and writing is not deleting.
    for route in table() {
        let Some(scope) = route.scope else { continue };
        let others: Vec<String> = ["read", "write", "delete"]
            .into_iter()
            .filter(|action| *action != scope.action.as_str())
            .map(|action| format!("{}:{action}", scope.resource))
            .collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let (_, key) = test.key(&others, &["*"]).await;
        let answer = call(&test, &ids, &route, Some(&key)).await;
        refused(&answer, 403, &format!("insufficient scope: requires {scope}"), &route);
    }
}

/// Defect 3 of the reference: many routes did not look at whose a thing is.
#[tokio::test]
async fn a_brand_opens_only_its_own_things() {
    let test = TestApi::with_fleet().await;
    let ours = test.brand("ours").await;
    let theirs = test.brand("theirs").await;
    let (_, key) = test.key(&["*:*"], &["theirs"]).await;
    let before = test.store.read().await.unwrap().head();
    for route in table() {
        let answer = call(&test, &ours, &route, Some(&key)).await;
        if route.tier == Tier::Admin {
            refused(&answer, 403, "platform admin access required", &route);
        } else if matches!(route.op, Op::Order(order) if order.name == "callback-secret") {
            assert_eq!(answer.status, 201, "each key has a secret of its own");
        } else if matches!(route.op, Op::Ask(ask) if ask.name == "events") {
            assert_eq!(answer.status, 200, "what it hears of, tests of events look at");
        } else if matches!(route.op, Op::List(_)) && route.subject.is_none()
            || matches!(route.op, Op::Ask(ask) if ["jobs", "incidents", "gaps"].contains(&ask.name))
        {
            assert_eq!(answer.status, 200, "{}", route.path);
            let items = answer.body["items"].as_array().unwrap();
            let text = answer.body.to_string();
            assert!(!items.is_empty() && !text.contains("ours"), "{}: {text}", route.path);
        } else if route.op == Op::Bulk {
            let result = &answer.body["results"][0];
            assert_eq!(
                (&result["status"], &result["problem"]["error"]),
                (&json!(404), &json!("zone record not found"))
            );
        } else if matches!(route.op, Op::Act(_)) && route.path == "/capability-gaps" {
            let wanted = format!("validation error: incident_id: there is no incident {:?}", ours.incident);
            refused(&answer, 400, &wanted, &route);
        } else if route.op == Op::Create(Kind::Zone) {
            // Its body says whose it is to be: a foreign tenant is as one that is not there.
            let wanted = format!("validation error: tenant_id: there is no tenant {:?}", ours.tenant);
            refused(&answer, 400, &wanted, &route);
        } else if matches!(route.op, Op::Act(act) if act.name == "undo") {
            // Changes of foreign resources are not there.
            assert_eq!(answer.status, 404, "{answer:?}");
            let missing = json!({"revision": 1_000_000});
            let missing = test.call(Method::POST, "/undo", Some(&key), Some(missing)).await;
            assert_eq!((answer.status, answer.error()), (missing.status, missing.error()));
        } else {
            refused(&answer, 403, "no access to this brand", &route);
        }
    }
    assert_eq!(test.store.read().await.unwrap().head(), before, "nothing was written");
    // The same key on its own brand is let through everywhere but to the platform's routes.
    for route in table().iter().filter(|route| route.tier == Tier::Brand && route.method == Method::GET) {
        let answer = call(&test, &theirs, route, Some(&key)).await;
        assert_eq!(answer.status, 200, "{} {}: {answer:?}", route.method, route.path);
    }
    // What is theirs cannot be moved to what is not, nor made for it.
    let moved = test
        .call(
            Method::PUT,
            &format!("/zones/{}", theirs.zone),
            Some(&key),
            Some(json!({"tenant_id": ours.tenant})),
        )
        .await;
    let absent = format!("validation error: tenant_id: there is no tenant {:?}", ours.tenant);
    assert_eq!((moved.status, moved.error()), (400, absent.as_str()));
    let foreign = json!({"fqdn": "x.theirs-zone.example", "webroot_id": ours.webroot});
    let bound = test
        .call(Method::POST, &format!("/tenants/{}/fqdns", theirs.tenant), Some(&key), Some(foreign))
        .await;
    assert_eq!(bound.status, 400, "{bound:?}");
    let own = json!({
        "id": "theirs-2", "name": "theirs-2", "base_hostname": "t2.example", "primary_ns": "ns1.t2.example",
        "secondary_ns": "ns2.t2.example", "hostmaster_email": "h@t2.example",
    });
    assert_eq!(test.call(Method::POST, "/brands", Some(&key), Some(own.clone())).await.status, 403);
    let (_, granted) = test.key(&["*:*"], &["theirs", "theirs-2"]).await;
    assert_eq!(test.call(Method::POST, "/brands", Some(&granted), Some(own)).await.status, 201);
}

/// Mass assignment: of every field that a document of a brand's kinds has, stored or shown, a brand's key sets those that its
/// brand may set, and no other.
#[tokio::test]
async fn a_brands_key_sets_only_what_is_a_brands_to_set() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    test.brand("second").await;
    let (_, key) = test.key(&["*:*"], &["first"]).await;
    let writable: &[(Kind, &[&str])] = &[
        (
            Kind::Brand,
            &[
                "name",
                "base_hostname",
                "primary_ns",
                "secondary_ns",
                "hostmaster_email",
                "mail_hostname",
                "spf_includes",
                "dkim_selector",
                "dkim_public_key",
                "dmarc_policy",
                "name_verification",
                "undelete_days",
            ],
        ),
        (Kind::Package, &["name", "limits"]),
        (Kind::Tenant, &["customer_id", "package_id", "limits"]),
        (Kind::Subscription, &["package_id"]),
        (
            Kind::Webroot,
            &[
                "runtime",
                "runtime_version",
                "runtime_config",
                "public_folder",
                "env_file_name",
                "service_hostname_enabled",
            ],
        ),
        (Kind::Fqdn, &["webroot_id", "ssl_enabled"]),
        (Kind::Zone, &["tenant_id"]),
        (Kind::ZoneRecord, &["content", "ttl", "priority"]),
        (Kind::Webhook, &["name", "url", "kinds", "tenant_id", "enabled"]),
    ];
    let beside = [
        "id",
        "kind",
        "brand",
        "brand_id",
        "tenant",
        "tenant_id",
        "parent",
        "label",
        "status",
        "status_message",
        "state",
        "spec",
        "shape",
        "generation",
        "created_at",
        "updated_at",
        "created_revision",
        "uid",
        "suspend_reason",
        "managed_by",
        "site_ready",
        "routed",
        "serial",
        "cluster_ids",
        "dns_group",
        "key_hash",
        "revoked_at",
    ];
    let mut tried = 0;
    for kind in Kind::ALL.iter().copied().filter(|kind| kind.info().tier == Tier::Brand) {
        let info = kind.info();
        if info.codes.update.is_none() {
            continue;
        }
        let own = writable.iter().find(|(of, _)| *of == kind).map(|(_, fields)| *fields);
        let own = own.unwrap_or_else(|| panic!("{kind}: say what a brand's key may set"));
        let schema = kind.def().spec_schema(&mut schemars::SchemaGenerator::default()).to_value();
        let stored = schema["properties"].as_object().unwrap().keys().map(String::as_str);
        let fields: std::collections::BTreeSet<&str> = stored.chain(beside).collect();
        let id = id_of(&test, &ids, kind);
        let path = info.item.replace("{id}", &id);
        let id = if kind == Kind::Subscription { format!("{}~{id}", ids.brand) } else { id };
        for field in fields.into_iter().filter(|field| !own.contains(field)) {
            for value in
                [json!("second"), json!(7), json!(true), json!(["second"]), json!({"a": 1}), json!(null)]
            {
                let before = test.store.read().await.unwrap().resource(&id).await.unwrap().unwrap();
                let answer = test.call(Method::PUT, &path, Some(&key), Some(json!({field: value}))).await;
                assert!(answer.status < 500 || answer.status == 501, "{kind} {field}={value}: {answer:?}");
                let after = test.store.read().await.unwrap().resource(&id).await.unwrap().unwrap();
                assert_eq!(
                    (&after.spec, &after.brand, &after.tenant, after.generation),
                    (&before.spec, &before.brand, &before.tenant, before.generation),
                    "{kind} {field}={value}"
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 500, "{tried}");

    // A brand's limits are the platform's: not lifted by its key, nor by making the brand anew.
    let limit = json!({"cluster_ids": [test.cluster]});
    test.put("/brands/first/clusters", limit.clone()).await.ok(200);
    let call =
        async |method: Method, path: &str, body: Value| test.call(method, path, Some(&key), Some(body)).await;
    let lifted = call(Method::PUT, "/brands/first/clusters", json!({"cluster_ids": []})).await;
    assert_eq!((lifted.status, lifted.error()), (403, "cluster_ids: only a platform admin may change it"));
    assert_eq!(call(Method::PUT, "/brands/first/clusters", limit).await.status, 200, "as it is");
    let moved = call(Method::PUT, "/brands/first", json!({"dns_group": "other"})).await;
    assert_eq!((moved.status, moved.error()), (403, "dns_group: only a platform admin may change it"));
    assert_eq!(call(Method::DELETE, "/brands/first", json!({})).await.status, 403);
    let (_, both) = test.key(&["*:*"], &["third"]).await;
    let third = json!({
        "id": "third", "name": "third", "base_hostname": "t3.example", "primary_ns": "ns1.t3.example",
        "secondary_ns": "ns2.t3.example", "hostmaster_email": "h@t3.example", "dns_group": "other",
    });
    let chosen = test.call(Method::POST, "/brands", Some(&both), Some(third)).await;
    assert_eq!((chosen.status, chosen.error()), (403, "dns_group: only a platform admin may choose it"));
}

#[tokio::test]
async fn an_admin_passes_every_route() {
    let whole = TestApi::with_fleet().await;
    let ids = whole.brand("first").await;
    for route in table() {
        // What a route changes or deletes is there again for the next one.
        let copy = if route.is_mutating() { Some(whole.copy().await) } else { None };
        let test = copy.as_ref().unwrap_or(&whole);
        let answer = call(test, &ids, &route, Some(&test.admin)).await;
        assert!(
            !matches!(answer.status, 401 | 403 | 405 | 500..=599) || answer.status == 501,
            "{} {}: {answer:?}",
            route.method,
            route.path
        );
    }
}

#[tokio::test]
async fn a_key_grants_no_more_than_it_has() {
    let test = TestApi::with_fleet().await;
    test.brand("first").await;
    let (_, maker) = test.key(&["api_keys:write", "tenants:read"], &["*"]).await;
    let make = async |scopes: Value| {
        let body = json!({"name": "made", "scopes": scopes, "brands": ["first"]});
        test.call(Method::POST, "/api-keys", Some(&maker), Some(body)).await
    };
    let made = make(json!(["tenants:read"])).await;
    assert_eq!(made.status, 201);
    let refused = make(json!(["tenants:read", "tenants:delete"])).await;
    assert_eq!((refused.status, refused.error()), (403, "insufficient scope: requires tenants:delete"));
    assert_eq!(make(json!(["*:*"])).await.status, 403);
    let raised = json!({"name": "made", "scopes": ["*:*"], "brands": ["*"]});
    let raised =
        test.call(Method::PUT, &format!("/api-keys/{}", made.id()), Some(&maker), Some(raised)).await;
    assert_eq!(raised.status, 403);

    // The key is shown once, and nowhere else.
    let key = made.body["key"].as_str().unwrap();
    assert!(key.starts_with("hst_") && key.len() == 68);
    assert_eq!(made.body["key_prefix"].as_str().unwrap(), &key[..12]);
    let shown = test.get(&format!("/api-keys/{}", made.id())).await;
    assert!(!shown.body.to_string().contains(key) && shown.body.get("key_hash").is_none());
    let listed = test.get("/api-keys").await;
    assert!(!listed.body.to_string().contains(key));
    let rows = test.get("/audit-logs").await;
    assert!(!rows.body.to_string().contains(key));
}

#[tokio::test]
async fn both_headers_carry_a_key() {
    let test = TestApi::empty().await;
    for (name, value) in
        [("authorization", format!("Bearer {}", test.admin)), ("x-api-key", test.admin.clone())]
    {
        let request =
            Request::builder().uri("/api/v1/regions").header(name, value).body(Body::empty()).unwrap();
        assert_eq!(test.send(request).await.status, 200, "{name}");
    }
}

/// Defect 4 of the reference: the audit log missed PATCH, and lost rows.
#[tokio::test]
async fn every_change_leaves_its_row() {
    let whole = TestApi::with_fleet().await;
    let ids = whole.brand("first").await;
    for route in table().iter().filter(|route| route.is_mutating()) {
        let test = whole.copy().await;
        let path = path_of(&test, &ids, route);
        let answer = call(&test, &ids, route, Some(&test.admin)).await;
        let (_, narrow) = test.key(&["audit_logs:read"], &["*"]).await;
        assert_eq!(call(&test, &ids, route, Some(&narrow)).await.status, 403);
        let rows = test.get("/audit-logs?limit=200").await.ok(200);
        let of = |status: u16| {
            rows["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|row| {
                    row["method"] == route.method.as_str()
                        && row["path"] == format!("/api/v1{path}").as_str()
                        && row["status_code"] == status
                        && row["resource_type"] == route.group()
                        && row["api_key_id"].is_string()
                })
                .count()
        };
        assert!(of(answer.status) >= 1, "{} {path}: {answer:?}\n{rows:#}", route.method);
        assert_eq!(of(403), 1, "{} {path}: a refusal is recorded too", route.method);
    }
}
