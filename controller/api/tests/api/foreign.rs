//! Ids of what belongs to others, wherever a caller may write one: they are refused as ids of nothing are, so that nobody learns by them
//! what there is. Paths alone say that something is another brand's, as clients expect it.

use axum::http::Method;
use hosting_api::{Op, Route, Shape, table};
use hosting_resource::{Kind, Tier};
use serde_json::{Value, json};

use crate::authorization::path_of;
use crate::harness::{Answer, Ids, TestApi, example, id_of};

/// What is the id of nothing, of the same form as `id`.
fn nothing_like(id: &str) -> String {
    id.chars()
        .map(|c| match c {
            '0'..='8' => '9',
            '9' => '1',
            c => c,
        })
        .chain(if id.contains(|c: char| c.is_ascii_digit()) { None } else { Some('x') })
        .collect()
}

/// What the caller is told, whatever the id is, the request and the time.
fn told(answer: &Answer, id: &str) -> (u16, String) {
    let mut body = if [201, 202].contains(&answer.status) { Value::Null } else { answer.body.clone() };
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|field, _| {
            !["instance", "revision", "generation", "created_at", "updated_at", "id"]
                .contains(&field.as_str())
        });
    }
    (answer.status, body.to_string().replace(id, "ID"))
}

/// The kind that a field is the id of.
fn kind_of(field: &str) -> Option<Kind> {
    let name = field.strip_suffix("_id")?;
    Kind::ALL.iter().copied().find(|kind| kind.name() == name && kind.info().tier == Tier::Brand)
}

/// An item of a bulk that names an id.
type Item = Box<dyn Fn(&str) -> Value>;

struct Two {
    test: TestApi,
    ours: Ids,
    theirs: Ids,
    /// Of the brand `theirs` alone.
    key: String,
}

async fn two() -> Two {
    let test = TestApi::with_fleet().await;
    let ours = test.brand("ours").await;
    let theirs = test.brand("theirs").await;
    let (_, key) = test.key(&["*:*"], &["theirs"]).await;
    Two { test, ours, theirs, key }
}

impl Two {
    async fn call(&self, method: &Method, path: &str, body: Value) -> Answer {
        self.test.call(method.clone(), path, Some(&self.key), Some(body)).await
    }

    /// The fields of a route's body that name something of a brand.
    fn references(&self, route: &Route) -> Vec<(String, Kind)> {
        let mut generator = schemars::SchemaGenerator::default();
        let schema = match route.request {
            Shape::Create(kind) => kind.def().create_schema(&mut generator),
            Shape::Update(kind) => kind.def().update_schema(&mut generator),
            Shape::Empty | Shape::View(_) | Shape::Page(_) | Shape::Named(_) => return Vec::new(),
        };
        let fields = schema.to_value()["properties"].as_object().cloned().unwrap_or_default();
        fields.into_iter().filter_map(|(field, _)| Some((field.clone(), kind_of(&field)?))).collect()
    }
}

#[tokio::test]
async fn in_a_body_what_is_foreign_is_as_what_is_not_there() {
    let two = two().await;
    let mut tried = 0;
    for route in table().iter().filter(|route| route.tier == Tier::Brand) {
        for (field, kind) in two.references(route) {
            let foreign = id_of(&two.test, &two.ours, kind);
            let mut body = json!({});
            if let Shape::Create(kind) = route.request {
                body = example(&two.test, &two.theirs, kind);
            }
            if field == "brand_id" {
                // Of what has a tenant, the tenant's brand is the brand.
                for decides in ["tenant_id", "subscription_id"] {
                    body.as_object_mut().unwrap().remove(decides);
                }
            }
            if body.get("fqdn").is_some() {
                body["fqdn"] = json!("new.theirs-zone.example");
            }
            let path = path_of(&two.test, &two.theirs, route);
            if route.path.contains(&format!("{{{}", field.replace("_id", "ID"))) {
                continue;
            }
            let mut answers = Vec::new();
            for id in [foreign.clone(), nothing_like(&foreign)] {
                body[&field] = json!(id);
                let answer = two.call(&route.method, &path, body.clone()).await;
                // A webhook of a tenant that is not the brand's hears of nothing, whether there is one or not.
                let is_filter = path.starts_with("/webhooks") && field == "tenant_id";
                let is_refused = (400..500).contains(&answer.status);
                assert!(is_refused || is_filter, "{} {path} {field}={id}: {answer:?}", route.method);
                answers.push(told(&answer, &id));
            }
            assert_eq!(answers[0], answers[1], "{} {} {field}", route.method, route.path);
            tried += 1;
        }
    }
    assert!(tried >= 10, "{tried}");
    // What is no resource is named by the same rule.
    let incident = json!({"dedupe_key": "x", "type": "t", "severity": "info", "title": "t", "source": "s"});
    let gap = json!({"tool_name": "x", "description": "d", "category": "remediation"});
    for (path, body, field, foreign) in [
        ("/incidents", incident, "resource_id", &two.ours.tenant),
        ("/capability-gaps", gap, "incident_id", &two.ours.incident),
    ] {
        let mut answers = Vec::new();
        for id in [foreign.clone(), nothing_like(foreign)] {
            let mut body = body.clone();
            body[field] = json!(id);
            let answer = two.call(&Method::POST, path, body).await;
            answers.push(told(&answer, &id));
        }
        assert_eq!(answers[0], answers[1], "{path} {field}");
    }
}

#[tokio::test]
async fn in_a_filter_what_is_foreign_is_as_what_is_not_there() {
    let two = two().await;
    let mut tried = 0;
    for route in table().iter().filter(|route| route.tier == Tier::Brand && route.method == Method::GET) {
        if matches!(route.op, Op::Ask(ask) if ask.name == "events") {
            continue;
        }
        let path = path_of(&two.test, &two.theirs, route);
        for param in &route.params {
            let name = param.name;
            let kind = kind_of(name);
            let foreign = match (name, kind) {
                (_, Some(kind)) => id_of(&two.test, &two.ours, kind),
                ("subject" | "resource_id", None) => two.ours.record.clone(),
                ("search", None) => two.ours.webroot.clone(),
                ("fqdn" | "name", None) => two.ours.fqdn_name.clone(),
                _ => continue,
            };
            let mut answers = Vec::new();
            for id in [foreign.clone(), nothing_like(&foreign)] {
                let answer =
                    two.test.call(Method::GET, &format!("{path}?{name}={id}"), Some(&two.key), None).await;
                answers.push(told(&answer, &id));
            }
            assert_eq!(answers[0], answers[1], "{path}?{name}");
            tried += 1;
        }
    }
    assert!(tried >= 8, "{tried}");
}

#[tokio::test]
async fn in_an_item_of_a_bulk_what_is_foreign_is_as_what_is_not_there() {
    let two = two().await;
    let mut tried = 0;
    for kind in Kind::ALL.iter().copied().filter(|kind| kind.info().tier == Tier::Brand) {
        let foreign = id_of(&two.test, &two.ours, kind);
        let mut items: Vec<(String, Item)> = Vec::new();
        for op in ["replace", "patch", "delete"] {
            let change = move |id: &str| {
                let mut item = json!({"op": op, "kind": kind.name(), "id": id});
                if op != "delete" {
                    item["body"] = json!({});
                }
                item
            };
            items.push((foreign.clone(), Box::new(change)));
        }
        if let Some(parent) = kind.info().parent.filter(|parent| parent.kind.info().tier == Tier::Brand) {
            let body = example(&two.test, &two.theirs, kind);
            let create =
                move |id: &str| json!({"op": "create", "kind": kind.name(), "parent": id, "body": body});
            items.push((id_of(&two.test, &two.ours, parent.kind), Box::new(create)));
        }
        for (foreign, item) in items {
            for query in ["", "?atomic=true", "?dry_run=true"] {
                let mut answers = Vec::new();
                for id in [foreign.clone(), nothing_like(&foreign)] {
                    let body = json!({"items": [item(&id)]});
                    let answer = two.call(&Method::POST, &format!("/bulk{query}"), body).await;
                    let result = answer.body["results"][0]["status"].as_u64().unwrap_or(answer.status.into());
                    assert!(matches!(result, 404 | 405), "{}: {answer:?}", item(&id));
                    answers.push(told(&answer, &id));
                }
                assert_eq!(answers[0], answers[1], "{query} {}", item("ID"));
                tried += 1;
            }
        }
    }
    assert!(tried > 60, "{tried}");
}

#[tokio::test]
async fn in_an_undo_what_is_foreign_is_as_what_is_not_there() {
    let two = two().await;
    let made = two
        .test
        .post(
            &format!("/zones/{}/records", two.ours.zone),
            json!({"type": "TXT", "name": "x", "content": "y"}),
        )
        .await;
    let trace = made.headers["traceparent"].to_str().unwrap().to_owned();
    let (admin_key, span) =
        (two.test.get("/api-keys").await.body["items"][0]["id"].clone(), ("2020-01-01", "2999-01-01"));
    let admin_key = admin_key.as_str().unwrap().to_owned();
    let pairs = [
        (json!({"revision": two.ours.zone_revision}), json!({"revision": 999_999})),
        (json!({"trace": trace}), json!({"trace": nothing_like(&trace)})),
        (
            json!({"key": admin_key, "from": span.0, "to": span.1}),
            json!({"key": nothing_like(&admin_key), "from": span.0, "to": span.1}),
        ),
    ];
    for (foreign, missing) in pairs {
        let id = |body: &Value| body.as_object().unwrap().values().next().unwrap().to_string();
        let mut answers = Vec::new();
        for body in [foreign, missing] {
            let answer = two.call(&Method::POST, "/undo?dry_run=true", body.clone()).await;
            answers.push(told(&answer, id(&body).trim_matches('"')));
        }
        if answers[0].0 == 200 {
            // The platform's key made what is theirs as well: of that alone it tells.
            assert!(!answers[0].1.contains("ours"), "{answers:?}");
            continue;
        }
        assert_eq!(answers[0], answers[1]);
    }
}
