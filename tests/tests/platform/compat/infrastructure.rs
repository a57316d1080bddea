//! Keys, scopes, brands, and the places that tenants lie in. Nothing here needs a site.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Client, has, id};
use crate::harness::{Platform, machine_lacks_daemons};

#[tokio::test]
async fn the_api_answers_as_its_clients_expect() {
    if machine_lacks_daemons("the_api_answers_as_its_clients_expect") {
        return;
    }
    let platform = Platform::start(&["--no-seed"]).await;
    let admin = Client::admin(&platform);
    errors_have_their_words(&admin).await;
    keys_live_and_die(&admin).await;
    places_are_made_and_unmade(&admin).await;
    nodes_are_numbered(&admin).await;
    brands_keep_apart(&admin).await;
    lists_are_paged(&admin).await;
    overviews_count(&admin).await;
}

async fn errors_have_their_words(admin: &Client<'_>) {
    let api = admin.platform.summary["api"].as_str().unwrap();
    for (path, wanted) in [("/healthz", r#"{"status":"ok"}"#), ("/readyz", r#"{"core_db":"ok"}"#)] {
        let answer = admin.http.get(format!("{api}{path}")).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, wanted));
    }
    for path in ["/docs", "/docs/openapi.json", "/metrics"] {
        let answer = admin.http.get(format!("{api}{path}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
    }
    for (key, wanted) in [("", "missing API key"), ("hst_nobody-has-this", "invalid API key")] {
        let other = Client::new(admin.platform, key.to_owned());
        assert_eq!(other.refused(401, "GET", "/regions", Value::Null).await, wanted);
    }
    let (code, body) = admin.send("POST", "/regions", Some("{".to_owned())).await;
    assert!(code == 400 && body["error"].as_str().unwrap().starts_with("invalid JSON: "), "{body}");
    let (code, body) = admin.send("POST", "/regions", None).await;
    assert!(code == 400 && body["error"].as_str().unwrap().starts_with("invalid JSON: "), "{body}");
    for (body, field) in
        [(json!({}), "name"), (json!({"name": "Upper"}), "name"), (json!({"name": "a".repeat(64)}), "name")]
    {
        let text = admin.refused(400, "POST", "/regions", body).await;
        assert!(text.starts_with(&format!("validation error: {field}: ")), "{text}");
    }
    let text = admin.refused(400, "POST", "/regions", json!({"name": 5})).await;
    assert!(text.starts_with("invalid JSON: ") && text.contains("name"), "{text}");
    for path in ["/regions/nowhere", "/tenants/t_nowhere000", "/zones/x", "/no-such-path"] {
        admin.refused(404, "GET", path, Value::Null).await;
    }
    admin.refused(404, "DELETE", "/fqdns/nowhere", Value::Null).await;
    admin.refused(405, "PATCH", "/regions", json!({})).await;
    let (code, body) = admin.send("POST", "/regions", Some("[1]".to_owned())).await;
    assert!(code == 400 && body["error"].as_str().unwrap().starts_with("invalid JSON: "), "{body}");
    let large = json!({"name": "x".repeat(2 << 20)});
    admin.refused(413, "POST", "/regions", large).await;
    // What nobody knows is ignored, and said so.
    let made = admin.ok(201, "POST", "/regions", json!({"name": "odd", "colour": "red"})).await;
    assert!(made["warnings"].to_string().contains("colour"), "{made}");
    admin.ok(204, "DELETE", &format!("/regions/{}", id(&made)), Value::Null).await;
}

async fn keys_live_and_die(admin: &Client<'_>) {
    let body = json!({"name": "billing", "scopes": ["zones:read", "tenants:read"], "brands": ["*"]});
    let made = admin.ok(201, "POST", "/api-keys", body.clone()).await;
    has(&made, body);
    let key = made["key"].as_str().unwrap();
    assert!(key.len() == 68 && key.starts_with("hst_"), "{key}");
    assert_eq!(made["key_prefix"], key[..12]);
    assert!(made["created_at"].as_str().unwrap().ends_with('Z'));
    let path = format!("/api-keys/{}", id(&made));
    for shown in [admin.get(&path).await, admin.get("/api-keys").await] {
        let text = shown.to_string();
        assert!(!text.contains(key) && !text.contains("key_hash"), "{text}");
    }
    assert!(admin.get(&path).await.get("revoked_at").is_none());

    let client = Client::new(admin.platform, key.to_owned());
    client.get("/tenants").await;
    let text = client.refused(403, "GET", "/brands", Value::Null).await;
    assert_eq!(text, "insufficient scope: requires brands:read");
    let text = client.refused(403, "POST", "/zones", json!({})).await;
    assert_eq!(text, "insufficient scope: requires zones:write");
    let text = client.refused(403, "DELETE", "/zones/x", Value::Null).await;
    assert_eq!(text, "insufficient scope: requires zones:delete");

    // All of it is replaced, at once.
    let body = json!({"name": "renamed", "scopes": ["*:*"], "brands": ["acme"]});
    has(&admin.ok(200, "PUT", &path, body.clone()).await, body);
    client.get("/brands").await;
    for path in ["/regions", "/dashboard/stats", "/audit-logs", "/search?q=x", "/api-keys"] {
        let text = client.refused(403, "GET", path, Value::Null).await;
        assert_eq!(text, "platform admin access required", "{path}");
    }
    for body in [
        json!({"name": "x"}),
        json!({"name": "", "scopes": ["*:*"], "brands": ["*"]}),
        json!({"name": "x", "scopes": [], "brands": ["*"]}),
        json!({"name": "x", "scopes": ["*:*"], "brands": []}),
    ] {
        admin.refused(400, "POST", "/api-keys", body).await;
    }
    assert_eq!(admin.ok(204, "DELETE", &path, Value::Null).await, Value::Null);
    assert_eq!(client.refused(401, "GET", "/brands", Value::Null).await, "invalid API key");
    assert!(admin.get(&path).await["revoked_at"].is_string());
    let again = json!({"name": "x", "scopes": ["*:*"], "brands": ["*"]});
    admin.refused(404, "PUT", &path, again).await;
    admin.refused(404, "DELETE", &path, Value::Null).await;
}

async fn places_are_made_and_unmade(admin: &Client<'_>) {
    let region = admin.ok(201, "POST", "/regions", json!({"name": "north", "config": {"a": 1}})).await;
    has(&region, json!({"name": "north", "config": {"a": 1}}));
    admin.refused(409, "POST", "/regions", json!({"name": "north"})).await;
    let region_path = format!("/regions/{}", id(&region));
    has(
        &admin.ok(200, "PUT", &region_path, json!({"config": {}})).await,
        json!({"name": "north", "config": {}}),
    );

    let clusters = format!("{region_path}/clusters");
    let cluster = admin.ok(201, "POST", &clusters, json!({"name": "c1", "spec": {"shards": []}})).await;
    has(&cluster, json!({"name": "c1", "region_id": id(&region), "status": "pending", "config": {}}));
    admin.refused(409, "POST", &clusters, json!({"name": "c1"})).await;
    admin.refused(404, "POST", "/regions/nowhere/clusters", json!({"name": "c2"})).await;
    let cluster_path = format!("/clusters/{}", id(&cluster));
    let changed = json!({"name": "c2", "status": "provisioning", "config": {"mail_hostname": "m"}});
    has(&admin.ok(200, "PUT", &cluster_path, changed.clone()).await, changed);
    admin.refused(400, "PUT", &cluster_path, json!({"status": "sunny"})).await;

    let addresses = format!("{cluster_path}/lb-addresses");
    let v4 = admin.ok(201, "POST", &addresses, json!({"address": "192.0.2.10", "label": "edge"})).await;
    has(&v4, json!({"cluster_id": id(&cluster), "address": "192.0.2.10", "family": 4, "label": "edge"}));
    let v6 = admin.ok(201, "POST", &addresses, json!({"address": "2001:DB8::1"})).await;
    has(&v6, json!({"address": "2001:db8::1", "family": 6, "label": ""}));
    admin.refused(409, "POST", &addresses, json!({"address": "2001:db8:0::1"})).await;
    admin.refused(400, "POST", &addresses, json!({"address": "edge.example"})).await;
    assert_eq!(admin.items(&addresses).await.len(), 2);
    for address in [v4, v6] {
        let path = format!("/lb-addresses/{}", id(&address));
        admin.get(&path).await;
        admin.ok(204, "DELETE", &path, Value::Null).await;
        admin.refused(404, "GET", &path, Value::Null).await;
    }

    let shards = format!("{cluster_path}/shards");
    let shard = admin.ok(201, "POST", &shards, json!({"name": "db-1", "role": "database"})).await;
    has(&shard, json!({"cluster_id": id(&cluster), "role": "database", "status": "active", "config": {}}));
    admin.refused(409, "POST", &shards, json!({"name": "db-1", "role": "web"})).await;
    admin.refused(400, "POST", &shards, json!({"name": "x", "role": "wibble"})).await;
    let shard_path = format!("/shards/{}", id(&shard));
    let changed = json!({"lb_backend": "b", "config": {"primary_node_id": "n"}, "status": "degraded"});
    has(&admin.ok(200, "PUT", &shard_path, changed.clone()).await, changed);
    let converging = admin.ok(202, "POST", &format!("{shard_path}/converge"), Value::Null).await;
    assert_eq!(converging, json!({"status": "converging"}));
    let text = admin.refused(409, "POST", &format!("{shard_path}/retry"), Value::Null).await;
    assert!(text.contains("is not in failed state (current: degraded)"), "{text}");

    let runtimes = format!("{cluster_path}/runtimes");
    let php = json!({"runtime": "php", "version": "8.2"});
    let made = admin.ok(201, "POST", &runtimes, php.clone()).await;
    assert_eq!(
        made,
        json!({"cluster_id": id(&cluster), "runtime": "php", "version": "8.2", "available": true})
    );
    assert_eq!(admin.items(&runtimes).await, [made]);
    admin.ok(204, "DELETE", &runtimes, php.clone()).await;
    admin.refused(404, "DELETE", &runtimes, php).await;
    assert!(admin.items(&runtimes).await.is_empty());

    // What others lie in stays.
    admin.refused(400, "DELETE", &region_path, Value::Null).await;
    admin.refused(400, "DELETE", &cluster_path, Value::Null).await;
    has(&admin.get(&cluster_path).await, json!({"name": "c2", "status": "provisioning"}));
    for path in [shard_path, cluster_path, region_path] {
        assert_eq!(admin.ok(204, "DELETE", &path, Value::Null).await, Value::Null);
        admin.refused(404, "GET", &path, Value::Null).await;
    }
}

fn indexes(node: &Value) -> Vec<(String, u64)> {
    let of =
        |one: &Value| (one["shard_id"].as_str().unwrap().to_owned(), one["shard_index"].as_u64().unwrap());
    node["shards"].as_array().unwrap().iter().map(of).collect()
}

async fn nodes_are_numbered(admin: &Client<'_>) {
    let region = id(&admin.ok(201, "POST", "/regions", json!({"name": "numbers"})).await);
    let clusters = format!("/regions/{region}/clusters");
    let cluster = id(&admin.ok(201, "POST", &clusters, json!({"name": "numbers"})).await);
    let shards = format!("/clusters/{cluster}/shards");
    let web = id(&admin.ok(201, "POST", &shards, json!({"name": "web-1", "role": "web"})).await);
    let database = id(&admin.ok(201, "POST", &shards, json!({"name": "db-1", "role": "database"})).await);
    let nodes = format!("/clusters/{cluster}/nodes");
    let node = async |name: &str, more: Value| {
        let mut body = json!({"id": name, "hostname": format!("{name}.example"), "roles": ["web"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        admin.ok(201, "POST", &nodes, body).await
    };
    let one = node("n-1", json!({"shard_ids": [web], "ip_address": "192.0.2.21"})).await;
    has(&one, json!({"id": "n-1", "cluster_id": cluster, "hostname": "n-1.example", "status": "active"}));
    assert_eq!(one["shards"], json!([{"shard_id": web, "shard_role": "web", "shard_index": 1}]));
    // The older field for one shard; and one in two.
    assert_eq!(indexes(&node("n-2", json!({"shard_id": web})).await), [(web.clone(), 2)]);
    let third = node("n-3", json!({"shard_ids": [database, web], "roles": ["web", "database"]})).await;
    assert_eq!(indexes(&third), [(database.clone(), 1), (web.clone(), 3)]);
    assert_eq!(third["roles"], json!(["web", "database"]));
    // One above the highest, whatever is free below.
    admin.ok(204, "DELETE", "/nodes/n-2", Value::Null).await;
    assert_eq!(indexes(&node("n-4", json!({"shard_ids": [web]})).await), [(web.clone(), 4)]);
    // All assignments are replaced and numbered anew.
    let moved = admin.ok(200, "PUT", "/nodes/n-1", json!({"shard_ids": [database, web]})).await;
    assert_eq!(indexes(&moved), [(database.clone(), 2), (web.clone(), 5)]);
    let renamed = admin.ok(200, "PUT", "/nodes/n-1", json!({"hostname": "other.example"})).await;
    assert_eq!(indexes(&renamed), indexes(&moved), "a node that stays keeps its places");
    assert!(indexes(&admin.ok(200, "PUT", "/nodes/n-1", json!({"shard_ids": []})).await).is_empty());

    admin.refused(409, "POST", &nodes, json!({"id": "n-1", "hostname": "x", "roles": ["web"]})).await;
    admin.refused(400, "POST", &nodes, json!({"hostname": "x", "roles": []})).await;
    admin.refused(400, "POST", &nodes, json!({"hostname": "x", "roles": ["web"], "shard_ids": ["no"]})).await;
    let found = admin.items(&format!("{nodes}?search=N-&sort=hostname&order=asc")).await;
    let names: Vec<&str> = found.iter().map(|node| node["hostname"].as_str().unwrap()).collect();
    assert_eq!(names, ["n-3.example", "n-4.example", "other.example"], "by hostname or id");
    admin.refused(400, "DELETE", &format!("/shards/{web}"), Value::Null).await;
    let mut paths = vec![];
    paths.extend(found.iter().map(|node| format!("/nodes/{}", id(node))));
    paths.extend([web, database].map(|shard| format!("/shards/{shard}")));
    paths.extend([format!("/clusters/{cluster}"), format!("/regions/{region}")]);
    for path in paths {
        admin.ok(204, "DELETE", &path, Value::Null).await;
    }
}

async fn brands_keep_apart(admin: &Client<'_>) {
    let brand = admin.brand("ours", "ours.test").await;
    has(
        &brand,
        json!({"id": "ours", "name": "ours", "primary_ns": "ns1.ours.test", "mail_hostname": "", "status": "active"}),
    );
    admin.brand("theirs", "theirs.test").await;
    admin.refused(409, "POST", "/brands", json!({
        "name": "ours", "base_hostname": "x.test", "primary_ns": "a.x.test", "secondary_ns": "b.x.test",
        "hostmaster_email": "h@x.test",
    })).await;
    admin.refused(400, "POST", "/brands", json!({"name": "incomplete"})).await;
    has(
        &admin.ok(200, "PUT", "/brands/ours", json!({"dmarc_policy": "v=DMARC1"})).await,
        json!({"name": "ours", "dmarc_policy": "v=DMARC1"}),
    );

    let (ours, theirs) =
        (admin.with_key(&["*:*"], &["ours"]).await, admin.with_key(&["*:*"], &["theirs"]).await);
    let mut tenants = Vec::new();
    for (client, brand) in [(&ours, "ours"), (&theirs, "theirs")] {
        let mut body = admin.tenant_body(brand, &format!("{brand}-1")).await;
        body["subscriptions"] = json!([{"id": format!("{brand}-sub"), "name": "web"}]);
        let tenant = client.ok(202, "POST", "/tenants", body).await;
        has(
            &tenant,
            json!({"brand_id": brand, "status": "pending", "suspend_reason": "", "sftp_enabled": false}),
        );
        assert!(tenant["uid"].as_u64().unwrap() >= 5000 && id(&tenant).starts_with("t_"), "{tenant}");
        let zone = json!({"name": format!("{brand}.example"), "tenant_id": id(&tenant),
            "subscription_id": format!("{brand}-sub"), "region_id": tenant["region_id"]});
        let zone = client.ok(202, "POST", "/zones", zone).await;
        has(&zone, json!({"brand_id": brand, "tenant_id": id(&tenant), "status": "pending"}));
        tenants.push((id(&tenant), id(&zone)));
    }
    let [(our_tenant, our_zone), (their_tenant, their_zone)] = &tenants[..] else { panic!() };
    for path in [
        format!("/tenants/{their_tenant}"),
        format!("/tenants/{their_tenant}/fqdns"),
        format!("/tenants/{their_tenant}/resource-summary"),
        "/subscriptions/theirs-sub".to_owned(),
        format!("/zones/{their_zone}"),
        format!("/zones/{their_zone}/records"),
        "/brands/theirs".to_owned(),
        "/brands/theirs/clusters".to_owned(),
    ] {
        assert_eq!(ours.refused(403, "GET", &path, Value::Null).await, "no access to this brand", "{path}");
        theirs.get(&path).await;
    }
    for (method, path, body) in [
        ("PUT", format!("/tenants/{their_tenant}"), json!({"customer_id": "x"})),
        ("POST", format!("/tenants/{their_tenant}/suspend"), json!({"reason": "x"})),
        ("DELETE", format!("/tenants/{their_tenant}"), Value::Null),
        ("DELETE", format!("/zones/{their_zone}"), Value::Null),
        ("POST", "/tenants".to_owned(), admin.tenant_body("theirs", "x").await),
        (
            "POST",
            format!("/zones/{their_zone}/records"),
            json!({"type": "A", "name": "@", "content": "192.0.2.1"}),
        ),
    ] {
        assert_eq!(
            ours.refused(403, method, &path, body).await,
            "no access to this brand",
            "{method} {path}"
        );
    }
    // Whether there is such a tenant is not told.
    let given =
        ours.refused(400, "PUT", &format!("/zones/{our_zone}"), json!({"tenant_id": their_tenant})).await;
    assert_eq!(given, format!("validation error: tenant_id: there is no tenant {their_tenant:?}"));
    for (client, tenant, zone, brand) in
        [(&ours, our_tenant, our_zone, "ours"), (&theirs, their_tenant, their_zone, "theirs")]
    {
        for (path, only) in [("/tenants", tenant.as_str()), ("/zones", zone), ("/brands", brand)] {
            let seen: Vec<String> = client.items(path).await.iter().map(id).collect();
            assert_eq!(seen, [only], "{path}");
        }
    }
    assert!(admin.items("/tenants").await.len() >= 2);

    // On which clusters a brand may create tenants.
    assert_eq!(admin.get("/brands/ours/clusters").await, json!({"cluster_ids": []}));
    let (region, cluster, _) = admin.place().await;
    let other =
        id(&admin.ok(201, "POST", &format!("/regions/{region}/clusters"), json!({"name": "other"})).await);
    has(
        &admin.ok(200, "PUT", "/brands/ours/clusters", json!({"cluster_ids": [other]})).await,
        json!({"cluster_ids": [other]}),
    );
    let text = ours.refused(400, "POST", "/tenants", admin.tenant_body("ours", "ours-2").await).await;
    assert!(text.contains(&format!("cluster {cluster} is not allowed for brand ours")), "{text}");
    admin.refused(400, "PUT", "/brands/ours/clusters", json!({"cluster_ids": ["nowhere"]})).await;
    admin.ok(200, "PUT", "/brands/ours/clusters", json!({"cluster_ids": []})).await;
    admin.ok(204, "DELETE", &format!("/clusters/{other}"), Value::Null).await;

    // A brand goes when nothing of it is left.
    admin.refused(400, "DELETE", "/brands/theirs", Value::Null).await;
    theirs.ok(202, "DELETE", &format!("/tenants/{their_tenant}"), Value::Null).await;
    admin.until_gone(&format!("/tenants/{their_tenant}")).await;
    admin.refused(404, "GET", &format!("/zones/{their_zone}"), Value::Null).await;
    assert_eq!(admin.ok(200, "DELETE", "/brands/theirs", Value::Null).await, Value::Null);
}

async fn lists_are_paged(admin: &Client<'_>) {
    let body = admin.tenant_body("ours", "").await;
    let mut made = BTreeSet::new();
    for n in 0..5 {
        let mut body = body.clone();
        body["customer_id"] = json!(format!("page-{}", n % 2));
        made.insert(id(&admin.ok(202, "POST", "/tenants", body).await));
    }
    let mut seen = Vec::new();
    let mut path = "/tenants?limit=2&sort=created_at&order=asc".to_owned();
    loop {
        let page = admin.get(&path).await;
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(id));
        if page["has_more"] == false {
            assert!(page.get("next_cursor").is_none(), "{page}");
            break;
        }
        assert_eq!(items.len(), 2);
        let cursor = page["next_cursor"].as_str().unwrap();
        path = format!("/tenants?limit=2&sort=created_at&order=asc&cursor={cursor}");
    }
    let distinct: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(distinct.len(), seen.len(), "{seen:?}");
    assert!(made.is_subset(&distinct));
    let newest_first: Vec<String> = admin.items("/tenants").await.iter().map(id).collect();
    assert_eq!(newest_first, seen.iter().rev().cloned().collect::<Vec<_>>());

    assert_eq!(admin.items("/tenants?customer_id=page-0").await.len(), 3);
    let one = made.first().unwrap();
    let found = admin.items(&format!("/tenants?search={}", &one[3..9])).await;
    assert_eq!(found.iter().map(id).collect::<Vec<_>>(), [one.as_str()]);
    for id in &made {
        admin.until(&format!("/tenants/{id}"), "active").await;
    }
    admin.ok(202, "POST", &format!("/tenants/{one}/suspend"), json!({"reason": "x"})).await;
    let found = admin.items("/tenants?status=suspended").await;
    assert_eq!(found.iter().map(id).collect::<Vec<_>>(), [one.as_str()]);
    admin.items("/tenants?limit=5000").await;
    for query in ["limit=0", "limit=x", "page=2", "status="] {
        admin.refused(400, "GET", &format!("/tenants?{query}"), Value::Null).await;
    }
    assert_eq!(
        admin.get("/zones?search=nothing-is-called-so").await,
        json!({"items": [], "has_more": false})
    );
    // What a list does not offer is refused; what never is finds nothing.
    admin.refused(400, "GET", &format!("/tenants/{one}/fqdns?sort=name"), Value::Null).await;
    assert!(admin.items(&format!("/tenants/{one}/fqdns?search=x")).await.is_empty());
    assert!(admin.items("/tenants?status=deleted").await.is_empty());
    let text = admin.refused(409, "POST", &format!("/tenants/{one}/retry"), Value::Null).await;
    assert!(text.contains("is not in failed state (current: suspended)"), "{text}");
    let zones = admin.items("/zones?search=OURS&sort=name&order=asc").await;
    assert_eq!(zones[0]["name"], "ours.example");
    for id in made {
        admin.ok(202, "DELETE", &format!("/tenants/{id}"), Value::Null).await;
    }
}

async fn overviews_count(admin: &Client<'_>) {
    let stats = admin.get("/dashboard/stats").await;
    for field in [
        "regions",
        "clusters",
        "shards",
        "nodes",
        "tenants",
        "tenants_active",
        "tenants_suspended",
        "databases",
        "zones",
        "valkey_instances",
        "fqdns",
        "incidents_open",
        "incidents_critical",
        "incidents_escalated",
        "capability_gaps_open",
    ] {
        assert!(stats[field].is_u64(), "{field} in {stats}");
    }
    let region = id(&admin.items("/regions").await[0]);
    let cluster = id(&admin.items(&format!("/regions/{region}/clusters")).await[0]);
    for node in admin.items(&format!("/clusters/{cluster}/nodes")).await {
        assert!(node["last_health_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{node}");
    }
    has(&stats, json!({"regions": 1, "clusters": 1, "zones": 1, "databases": 0, "mttr_minutes": null}));
    assert_eq!(stats["nodes_per_cluster"][0]["count"], stats["nodes"]);
    let shards = stats["tenants_per_shard"].as_array().unwrap();
    let web = shards.iter().find(|shard| shard["role"] == "web").unwrap();
    assert!(web["shard_name"].is_string() && web["count"].as_u64().unwrap() >= 1, "{web}");

    let found = admin.get("/search?q=ours&limit=3").await;
    let results = found["results"].as_array().unwrap();
    let types: BTreeSet<&str> = results.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["brand", "tenant", "zone"].into(), "{found}");
    for one in results {
        assert!(one["id"].is_string() && one["label"].is_string() && one["status"].is_string(), "{one}");
    }
    assert_eq!(admin.get("/search").await, json!({"results": []}));

    let rows = admin.items("/audit-logs?action=POST&resource_type=tenants&limit=3").await;
    for row in &rows {
        has(row, json!({"method": "POST", "resource_type": "tenants"}));
        assert!(
            row["id"].is_string() && row["api_key_id"].is_string() && row["status_code"].is_u64(),
            "{row}"
        );
    }
    assert_eq!(rows.len(), 3);
}
