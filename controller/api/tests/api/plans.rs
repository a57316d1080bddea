//! `dry_run=true`: the plan of a change in its place.

use hosting_api::{Op, Route, table};
use hosting_resource::Tier;
use serde_json::{Value, json};

use crate::authorization::{body_of, path_of};
use crate::harness::{Answer, Ids, TestApi};

fn plannable() -> impl Iterator<Item = Route> {
    table().into_iter().filter(|route| route.is_mutating() && !matches!(route.op, Op::Order(_)))
}

async fn ask(test: &TestApi, ids: &Ids, route: &Route, query: &str, key: &str) -> Answer {
    let path = format!("{}{query}", path_of(test, ids, route));
    test.call(route.method.clone(), &path, Some(key), body_of(test, ids, route)).await
}

/// Everything that a change leaves behind: the revision, the audit log, the jobs.
async fn traces(test: &TestApi) -> (u64, Value, Value) {
    let head = test.store.read().await.unwrap().head();
    (head, test.get("/audit-logs?limit=200").await.body, test.get("/jobs?limit=200").await.body)
}

fn strings<'v>(value: &'v Value, field: &str) -> Vec<&'v str> {
    value.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_change_can_be_planned_and_the_plan_is_what_it_does() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let mut with_effect = 0;
    for route in plannable() {
        let shown = format!("{} {}", route.method, route.path);
        let before = traces(&test).await;
        let mut plan = ask(&test, &ids, &route, "?dry_run=true", &test.admin).await;
        assert_eq!(traces(&test).await, before, "{shown}: a plan leaves nothing behind");
        let twin = test.copy().await;
        // Nothing moves on by itself while the outcome is compared.
        twin.gatekeeper.0.abort();
        let mut real = ask(&twin, &ids, &route, "", &twin.admin).await;
        if real.status >= 400 {
            // It names the request.
            for answer in [&mut plan, &mut real] {
                answer.body.as_object_mut().unwrap().remove("instance");
            }
            assert_eq!((plan.status, &plan.body), (real.status, &real.body), "{shown}");
            continue;
        }
        let plan = plan.ok(200);
        assert_eq!(plan["dry_run"], true, "{shown}: {plan}");
        let resources = plan["resources"].as_array().unwrap();
        let moved = twin.store.read().await.unwrap().head() > before.0;
        let has_effect = !resources.is_empty() || !plan["audiences"].as_array().unwrap().is_empty();
        assert_eq!(moved, has_effect || plan["later_steps"] != 0, "{shown}: {plan}");
        with_effect += usize::from(has_effect);
        for resource in resources {
            let (kind, label) = (resource["kind"].as_str().unwrap(), resource["label"].as_str().unwrap());
            let kind = hosting_resource::Kind::from_name(kind).unwrap();
            let mut tx = twin.store.read().await.unwrap();
            let found = hosting_planner::World::list(&mut tx, kind, "", 1_000).await.unwrap();
            let id = resource["id"].as_str().unwrap();
            // What is made has another id each time, and some are called by it.
            let is_it = |one: &&hosting_resource::Resource| match resource["change"].as_str() {
                Some("created") => one.created_revision > before.0 && (one.label == label || label == id),
                _ => one.id.ends_with(id),
            };
            let status = found.iter().find(is_it).map(|one| one.status.as_str());
            let planned = resource["status"].as_str();
            assert_eq!(status, planned, "{shown}: {resource}");
        }
    }
    assert!(with_effect > 20, "{with_effect}");
}

#[tokio::test]
async fn a_plan_is_refused_to_those_that_the_change_is_refused_to() {
    let test = TestApi::with_fleet().await;
    let ours = test.brand("ours").await;
    test.brand("theirs").await;
    let (_, key) = test.key(&["*:*"], &["theirs"]).await;
    let (_, reads) = test.key(&["*:read"], &["*"]).await;
    for route in plannable() {
        let answer = ask(&test, &ours, &route, "?dry_run=true", &key).await;
        let message = match route.tier {
            Tier::Admin => "platform admin access required",
            Tier::Brand => "no access to this brand",
        };
        if route.op == Op::Bulk || matches!(route.op, Op::Act(act) if act.name == "undo") {
            assert_eq!(answer.status, 404, "foreign resources are not there: {answer:?}");
        } else if answer.status == 400 && ["/zones", "/capability-gaps"].contains(&route.path.as_str()) {
            assert!(answer.error().contains("there is no "), "what the body names is not there: {answer:?}");
        } else {
            assert_eq!((answer.status, answer.error()), (403, message), "{} {}", route.method, route.path);
        }
        let answer = ask(&test, &ours, &route, "?dry_run=true", &reads).await;
        assert_eq!(answer.status, 403, "{} {}", route.method, route.path);
    }
}

#[tokio::test]
async fn a_plan_says_who_is_told_and_what_is_waited_for() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/tenants/{}/fqdns?dry_run=true", ids.tenant);
    let plan =
        test.post(&path, json!({"fqdn": "shop.first-zone.example", "webroot_id": ids.webroot})).await.ok(200);
    assert_eq!(plan["resources"][0]["change"], "created");
    assert!(strings(&plan["resources"], "label").contains(&"shop.first-zone.example"), "{plan}");
    assert!(plan["names"].as_array().unwrap().contains(&json!("shop.first-zone.example")), "{plan}");
    assert_eq!((&plan["tenants"], &plan["destroyed"]), (&json!([ids.tenant]), &json!([])));
    let audiences = strings(&plan["audiences"], "audience");
    assert_eq!(audiences, [format!("edge/{}", test.cluster)], "DNS is told when the edge has it: {plan}");
    assert!(strings(&plan["resources"][0]["waits_for"], "name").contains(&"dns"), "{plan}");

    let plan =
        test.put(&format!("/webroots/{}?dry_run=true", ids.webroot), json!({"public_folder": "new"})).await;
    let plan = plan.ok(200);
    assert_eq!(plan["resources"][0]["fields"], json!(["/public_folder"]));
    assert_eq!(plan["resources"][0]["change"], "changed");

    let plan = test.delete(&format!("/tenants/{}?dry_run=true", ids.tenant)).await.ok(200);
    let lost = strings(&plan["destroyed"], "kind");
    assert!(lost.contains(&"tenant") && lost.contains(&"webroot"), "{plan}");
    let withdrawn =
        plan["audiences"].as_array().unwrap().iter().map(|one| one["takes_away"].as_u64().unwrap());
    assert!(withdrawn.sum::<u64>() > 0, "{plan}");
    assert!(plan["names"].as_array().unwrap().contains(&json!(ids.fqdn_name)), "{plan}");
    assert_eq!(test.get(&format!("/tenants/{}", ids.tenant)).await.body["status"], "active");

    let waits = test.delete(&format!("/tenants/{}?dry_run=true&wait=ready", ids.tenant)).await;
    assert_eq!((waits.status, &waits.body["field"]), (400, &json!("wait")));
    let plan = test.delete(&format!("/tenants/{}?dry_run=false", ids.tenant)).await;
    assert_eq!(plan.status, 202, "{plan:?}");
}

/// The number of a plan confirms the change that was planned, and no other.
#[tokio::test]
async fn a_large_change_is_confirmed_with_the_number_of_its_plan() {
    let confirm = hosting_api::ConfirmRules { above: 3, required: true };
    let test =
        TestApi::behaving(hosting_api::ApiConfig { confirm, ..Default::default() }).await.equipped().await;
    let ids = test.brand("first").await;
    let tenant = format!("/tenants/{}", ids.tenant);
    let small = test.put(&format!("/webroots/{}", ids.webroot), json!({"public_folder": "new"})).await;
    assert_eq!(small.status, 202, "what is small needs no number: {small:?}");
    let plan = test.delete(&format!("{tenant}?dry_run=true")).await.ok(200);
    let number = plan["confirm"].as_u64().unwrap();
    let destroyed = plan["destroyed"].as_array().unwrap().len() as u64;
    assert_eq!(number, plan["names_total"].as_u64().unwrap() + destroyed, "{plan}");
    let refused = test.delete(&tenant).await;
    assert_eq!((refused.status, &refused.body["confirm"]), (428, &json!(number)), "{refused:?}");
    assert!(refused.error().contains(&format!("confirm={number}")), "{refused:?}");
    // Something comes to it after the plan.
    let site = json!({
        "subscription_id": ids.subscription, "runtime": "static", "runtime_version": "1",
        "service_hostname_enabled": false,
    });
    test.post(&format!("{tenant}/webroots?wait=ready"), site).await.ok(200);
    let stale = test.delete(&format!("{tenant}?confirm={number}")).await;
    assert_eq!((stale.status, &stale.body["confirm"]), (409, &json!(number + 1)), "{stale:?}");
    assert_eq!(test.get(&tenant).await.body["status"], "active", "nothing was changed");
    test.delete(&format!("{tenant}?confirm={}", number + 1)).await.ok(202);
}

/// Clients that know nothing of numbers are let through, as long as the operator does not ask for them.
#[tokio::test]
async fn a_number_is_told_and_not_required_by_default() {
    let confirm = hosting_api::ConfirmRules { above: 0, ..Default::default() };
    let test =
        TestApi::behaving(hosting_api::ApiConfig { confirm, ..Default::default() }).await.equipped().await;
    let ids = test.brand("first").await;
    // All tenants of a shard notice when its pool changes.
    let node =
        json!({"hostname": "web-2", "roles": ["web"], "ip_address": "192.0.2.99", "shard_ids": [test.shard]});
    let plan =
        test.post(&format!("/clusters/{}/nodes?dry_run=true", test.cluster), node.clone()).await.ok(200);
    assert_eq!((&plan["tenants_behind"], &plan["confirm"]), (&json!(1), &json!(1)), "{plan}");
    test.post(&format!("/clusters/{}/nodes", test.cluster), node).await.ok(201);
    let site = format!("/webroots/{}", ids.webroot);
    assert_eq!(
        test.delete(&format!("{site}?confirm=999")).await.status,
        409,
        "a wrong number is wrong all the same"
    );
    test.delete(&site).await.ok(202);
}
