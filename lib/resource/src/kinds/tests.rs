//! Every kind: its example, its schemas, its rules.

mod records;

use serde_json::{Map, Value, json};

use super::webroot::{php_pool, stored_php_pool};
use super::zone_record::{ZoneRecordSpec, rdata};
use super::*;
use crate::{Creation, Facet, IdPolicy, Ref, Resource, SpecError, Status, Unique};

fn entropy() -> impl FnMut(&mut [u8]) + Send {
    let mut next = 1u8;
    move |buffer: &mut [u8]| {
        for byte in buffer {
            *byte = next;
            next = next.wrapping_mul(31).wrapping_add(7);
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            panic!("no object")
        }
    }
}

/// A stored resource of any kind with a given spec, for tests of other modules.
pub(crate) fn stored(kind: Kind, spec: Value) -> Resource {
    Resource {
        id: format!("{kind}-1"),
        kind,
        parent: kind.info().parent.map(|_| "parent-1".to_owned()),
        tenant: Some("t_aaaaaaaaaa".into()),
        brand: Some("acme".into()),
        label: "customer-1.example".into(),
        status: Status::Active,
        status_message: None,
        shape: kind.info().shape,
        generation: 1,
        created_revision: 5,
        created_at: 1_700_000_000_000,
        updated_at: 1_700_000_000_000,
        spec: object(spec),
        state: Map::new(),
    }
}

fn parent_of(kind: Kind) -> Option<Resource> {
    kind.info().parent.map(|parent| Resource { id: "parent-1".into(), ..stored(parent.kind, json!({})) })
}

fn create(kind: Kind, body: Value) -> Result<Creation, SpecError> {
    kind.def().create(parent_of(kind).as_ref(), &object(body), &mut entropy())
}

fn created(kind: Kind, body: Value) -> Resource {
    let new = create(kind, body).unwrap().resources.remove(0);
    let brand = Resource { tenant: None, ..stored(Kind::Brand, json!({})) };
    let owner = new.owner.as_ref().map(|_| parent_of(kind).unwrap_or(brand));
    new.into_resource(owner.as_ref(), 7, 1_700_000_000_000)
}

fn with(kind: Kind, changes: Value) -> Value {
    let mut body = object(kind.def().example());
    for (field, value) in object(changes) {
        if value == json!("<absent>") {
            body.remove(&field);
        } else {
            body.insert(field, value);
        }
    }
    Value::Object(body)
}

fn problem(kind: Kind, changes: Value) -> String {
    create(kind, with(kind, changes)).unwrap_err().to_string()
}

fn update(resource: &Resource, body: Value) -> Result<crate::Update, SpecError> {
    resource.kind.def().update(resource, &object(body))
}

#[test]
fn the_table_is_in_the_order_of_the_kinds() {
    for kind in Kind::ALL {
        assert_eq!(kind.info().kind, *kind);
    }
    assert_eq!(TABLE.len(), Kind::ALL.len());
}

#[test]
fn paths_and_parameters_agree() {
    for kind in Kind::ALL {
        let info = kind.info();
        assert!(info.item.ends_with("/{id}"), "{kind}");
        assert_eq!(info.collection.contains('{'), info.parent.is_some(), "{kind}");
        if let Some(parent) = info.parent {
            assert!(info.collection.contains(&format!("{{{}}}", parent.param)), "{kind}");
            let place = |wanted| Kind::ALL.iter().position(|kind| *kind == wanted);
            assert!(place(parent.kind) < place(*kind), "{kind}: parents come first");
        }
        for list in info.lists {
            assert!(list.path.contains(&format!("{{{}}}", list.param)), "{kind}");
        }
        assert_eq!(u32::try_from(1).unwrap(), info.shape, "{kind}: a new shape needs an upcaster and a test");
    }
    assert_eq!(Kind::ZoneRecord.info().plural(), "zone-records");
    assert_eq!(Kind::ZoneRecord.info().dashed(), "zone-record");
}

/// Each kind's example is accepted by its own schema and validator; what is rendered is accepted by the view's schema; what
/// is rendered can be sent back as an update that changes nothing and warns of nothing.
#[test]
fn every_kind_accepts_its_own_example() {
    for kind in Kind::ALL {
        let def = kind.def();
        let body = def.example();
        let schema = def.create_schema(&mut schemars::SchemaGenerator::default());
        accepts(&with_defs(schema, |g| def.create_schema(g)), &body, &format!("{kind} create"));

        let creation = create(*kind, body).unwrap();
        assert_eq!(creation.warnings, [], "{kind}");
        let resource = created(*kind, def.example());
        let view = resource.view();
        accepts(
            &with_defs(def.view_schema(&mut schemars::SchemaGenerator::default()), |g| def.view_schema(g)),
            &Value::Object(view.clone()),
            &format!("{kind} view"),
        );
        accepts(
            &with_defs(def.spec_schema(&mut schemars::SchemaGenerator::default()), |g| def.spec_schema(g)),
            &Value::Object(resource.spec.clone()),
            &format!("{kind} spec"),
        );
        for hidden in kind.info().hidden {
            assert!(!view.contains_key(*hidden), "{kind} shows {hidden}");
        }
        let again = def.update(&resource, &view).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!((again.changed, again.warnings.len(), again.status), (false, 0, None), "{kind}");
        assert_eq!(again.label, resource.label, "{kind}");

        let mut deleting = resource.clone();
        deleting.status = Status::Deleting;
        let (live, gone) = (resource.index(), deleting.index());
        assert_eq!((gone.uniques.len(), gone.refs.len()), (0, 0), "{kind}");
        assert_eq!(live.facets, gone.facets, "{kind}");
    }
}

fn with_defs(
    schema: schemars::Schema,
    again: impl Fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
) -> Value {
    let mut generator = schemars::SchemaGenerator::default();
    let _ = again(&mut generator);
    let mut whole = schema.to_value();
    whole["$defs"] = Value::Object(generator.take_definitions(true));
    whole
}

fn accepts(schema: &Value, value: &Value, what: &str) {
    let validator = jsonschema::validator_for(schema).unwrap();
    let errors: Vec<_> =
        validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:?}\n{value:#}");
}

#[test]
fn schemas_refuse_what_is_required_and_absent() {
    for kind in Kind::ALL {
        let def = kind.def();
        let schema =
            with_defs(def.create_schema(&mut schemars::SchemaGenerator::default()), |g| def.create_schema(g));
        assert!(!jsonschema::is_valid(&schema, &json!({})), "{kind}");
        let error = create(*kind, json!({})).unwrap_err().to_string();
        assert!(error.starts_with("validation error: ") && error.ends_with("is required"), "{kind}: {error}");
    }
}

#[test]
fn unknown_fields_are_warned_of_and_unknown_stored_fields_survive() {
    for kind in Kind::ALL {
        let creation = create(*kind, with(*kind, json!({"frobnicate": 1}))).unwrap();
        assert_eq!(creation.warnings, [crate::Warning::unknown_field("frobnicate")], "{kind}");
        let mut resource = created(*kind, kind.def().example());
        resource.spec.insert("from_the_future".into(), json!({"a": 1}));
        let mut body = resource.view();
        body.insert("frobnicate".into(), json!(1));
        let update = kind.def().update(&resource, &body).unwrap();
        assert_eq!(update.spec.get("from_the_future"), Some(&json!({"a": 1})), "{kind}");
        assert_eq!(update.warnings, [crate::Warning::unknown_field("frobnicate")], "{kind}");
        assert!(!update.changed, "{kind}");
    }
}

#[test]
fn ids_follow_the_kinds_policy() {
    for kind in Kind::ALL {
        let id = created(*kind, kind.def().example()).id;
        match kind.info().id {
            IdPolicy::Prefixed(prefix) => {
                assert!(id.starts_with(prefix) && id.len() == prefix.len() + 10, "{kind}: {id}");
            }
            IdPolicy::Uuid => assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{kind}: {id}"),
            IdPolicy::CallerOrUuid | IdPolicy::Caller => assert_eq!(json!(id), kind.def().example()["id"]),
        }
    }
    assert_eq!(created(Kind::Brand, with(Kind::Brand, json!({"id": "<absent>"}))).id.len(), 36);
    assert!(problem(Kind::Node, json!({"id": "../etc"})).contains("id: "));
    assert!(problem(Kind::Subscription, json!({"id": ""})).contains("id: is required"));
}

#[test]
fn ownership_follows_the_chain() {
    let tenant = created(Kind::Tenant, Kind::Tenant.def().example());
    assert_eq!((tenant.tenant.as_deref(), tenant.brand.as_deref()), (Some(tenant.id.as_str()), Some("acme")));
    let brand = created(Kind::Brand, Kind::Brand.def().example());
    assert_eq!((brand.tenant, brand.brand.as_deref()), (None, Some("acme")));
    let mut region = create(Kind::Region, Kind::Region.def().example()).unwrap();
    let region = region.resources.remove(0);
    assert_eq!(region.owner, None);
    let region = region.into_resource(None, 1, 0);
    assert_eq!((region.tenant, region.brand), (None, None));

    let zone = create(Kind::Zone, Kind::Zone.def().example()).unwrap().resources.remove(0);
    assert_eq!(zone.owner.as_ref().map(|owner| owner.kind), Some(Kind::Tenant));
    let zone = zone.into_resource(Some(&tenant), 9, 0);
    assert_eq!((zone.text("brand_id"), zone.brand.as_deref()), ("acme", Some("acme")));
    assert_eq!(zone.tenant.as_deref(), Some(tenant.id.as_str()));
    assert_eq!((zone.generation, zone.created_revision), (1, 9));

    let other = Resource { id: "t_bbbbbbbbbb".into(), tenant: Some("t_bbbbbbbbbb".into()), ..tenant.clone() };
    let mut moved = zone.clone();
    let change = update(&zone, json!({"tenant_id": "t_bbbbbbbbbb"})).unwrap();
    assert_eq!(change.owner.as_ref().map(|owner| owner.id.as_str()), Some("t_bbbbbbbbbb"));
    change.apply(&mut moved, Some(&other), 77);
    assert_eq!(moved.tenant.as_deref(), Some("t_bbbbbbbbbb"));
    assert_eq!((moved.generation, moved.updated_at), (2, 77));
}

#[test]
fn brands() {
    for field in ["name", "base_hostname", "primary_ns", "secondary_ns", "hostmaster_email"] {
        assert_eq!(
            problem(Kind::Brand, json!({field: "<absent>"})),
            format!("validation error: {field}: is required")
        );
    }
    assert!(problem(Kind::Brand, json!({"primary_ns": "ns1"})).contains("primary_ns: "));
    assert!(problem(Kind::Brand, json!({"hostmaster_email": "nobody"})).contains("hostmaster_email: "));
    assert!(problem(Kind::Brand, json!({"dns_group": "No Slug"})).contains("dns_group: "));
    let brand = created(Kind::Brand, with(Kind::Brand, json!({"primary_ns": "NS1.Acme.Example."})));
    assert_eq!((brand.text("primary_ns"), brand.text("dns_group")), ("ns1.acme.example", "default"));
    assert_eq!(
        brand.index().uniques,
        [Unique { scope: String::new(), key: "Acme Hosting".into(), field: "name" }]
    );
    let change = update(&brand, json!({"name": "New"})).unwrap();
    assert!(change.changed);
    assert_eq!(
        (change.label.as_str(), change.spec["primary_ns"].as_str()),
        ("New", Some("ns1.acme.example"))
    );
    let clusters = brand::set_clusters(&brand, &object(json!({"cluster_ids": ["c2", "c1", "c2"]}))).unwrap();
    assert_eq!(clusters.spec["cluster_ids"], json!(["c2", "c1"]));
    let mut brand = brand;
    clusters.apply(&mut brand, None, 1);
    assert_eq!(brand.index().refs.len(), 2);
    assert!(!brand.view().contains_key("cluster_ids"));
}

#[test]
fn places() {
    assert!(problem(Kind::Region, json!({"name": "Nord"})).contains("name: "));
    assert!(problem(Kind::Cluster, json!({"name": "1a"})).contains("name: "));
    let cluster = created(Kind::Cluster, Kind::Cluster.def().example());
    assert_eq!(cluster.status, Status::Pending);
    assert_eq!(cluster.index().uniques[0].scope, "parent-1");
    assert_eq!(update(&cluster, json!({"status": "active"})).unwrap().status, Some(Status::Active));
    assert_eq!(update(&cluster, json!({"status": "pending"})).unwrap().status, None);
    assert!(update(&cluster, json!({"status": "deleting"})).is_err());
    assert!(update(&cluster, json!({"region_id": "other"})).is_err());
    let config = json!({"config": {"kept": null}});
    assert_eq!(created(Kind::Cluster, with(Kind::Cluster, config)).spec["config"], json!({"kept": null}));
}

#[test]
fn lb_addresses() {
    let v6 = created(Kind::LbAddress, json!({"address": "2001:DB8:0::1"}));
    assert_eq!(v6.view()["address"], json!("2001:db8::1"));
    assert_eq!(v6.view()["family"], json!(6));
    assert_eq!(created(Kind::LbAddress, json!({"address": "192.0.2.1"})).view()["family"], json!(4));
    assert!(problem(Kind::LbAddress, json!({"address": "192.0.2.256"})).contains("no IP address"));
    assert!(!v6.view().contains_key("status"));
}

#[test]
fn shards() {
    assert!(problem(Kind::Shard, json!({"role": "webb"})).contains("must be one of web, database"));
    let shard = created(Kind::Shard, Kind::Shard.def().example());
    assert_eq!((shard.text("lb_backend"), shard.status), ("shard-web-1", Status::Active));
    assert!(update(&shard, json!({"role": "dns"})).is_err());
    assert_eq!(update(&shard, json!({"lb_backend": "x"})).unwrap().spec["lb_backend"], json!("x"));
}

#[test]
fn nodes() {
    assert!(problem(Kind::Node, json!({"roles": []})).contains("roles: at least one"));
    assert!(problem(Kind::Node, json!({"roles": ["web", "king"]})).contains("roles[1]: "));
    assert!(problem(Kind::Node, json!({"web_port": 0})).contains("web_port: "));
    assert!(problem(Kind::Node, json!({"web_port": 65536})).contains("web_port: "));
    assert!(problem(Kind::Node, json!({"ip_address": "2001:db8::1"})).contains("ip_address: "));
    let node = created(Kind::Node, with(Kind::Node, json!({"shard_id": "s9", "web_port": "<absent>"})));
    assert_eq!((node.spec["web_port"].clone(), node.text("dns_group")), (json!(80), "default"));
    assert_eq!(node.spec["shard_ids"][0], json!("s9"));
    assert_eq!(node.view()["shards"], json!([]));
    let index = node.index();
    assert_eq!(index.refs.len(), 2);
    assert!(index.facets.contains(&Facet { field: "shard", value: "s9".into() }));
    assert!(index.facets.contains(&Facet { field: "role", value: "web".into() }));
    let change = update(&node, json!({"shard_ids": ["s2"], "roles": ["dns", "web", "dns"]})).unwrap();
    assert_eq!((&change.spec["shard_ids"], &change.spec["roles"]), (&json!(["s2"]), &json!(["dns", "web"])));
    assert_eq!(update(&node, json!({"ip6_address": null})).unwrap().spec["ip6_address"], Value::Null);
    let mut node = node;
    node.state.insert("shards".into(), json!([{"shard_id": "s9", "shard_role": "web", "shard_index": 2}]));
    assert_eq!(node.view()["shards"][0]["shard_index"], json!(2));
}

#[test]
fn tenants() {
    for field in ["brand_id", "customer_id", "region_id", "cluster_id"] {
        assert_eq!(
            problem(Kind::Tenant, json!({field: "<absent>"})),
            format!("validation error: {field}: is required")
        );
    }
    // The platform chooses one.
    for shard in ["", "<absent>"] {
        let tenant = created(Kind::Tenant, with(Kind::Tenant, json!({"shard_id": shard})));
        assert!(tenant.spec.get("shard_id").is_none_or(Value::is_null), "{tenant:?}");
    }
    for field in ["databases", "valkey_instances", "s3_buckets", "ssh_keys", "egress_rules"] {
        let error = create(Kind::Tenant, with(Kind::Tenant, json!({field: [{"a": 1}]}))).unwrap_err();
        assert!(matches!(&error, SpecError::NotServed { field: named, .. } if named == field), "{error}");
        assert!(create(Kind::Tenant, with(Kind::Tenant, json!({field: []}))).is_ok());
    }
    for (field, value) in
        [("ssh_enabled", json!(true)), ("sftp_enabled", json!(true)), ("disk_quota_bytes", json!(9))]
    {
        let error = create(Kind::Tenant, with(Kind::Tenant, json!({field: value}))).unwrap_err();
        assert!(matches!(error, SpecError::NotServed { .. }), "{error}");
    }
    let creation = create(Kind::Tenant, Kind::Tenant.def().example()).unwrap();
    let kinds: Vec<_> = creation.resources.iter().map(|new| new.kind).collect();
    assert_eq!(kinds, [Kind::Tenant, Kind::Subscription, Kind::Zone, Kind::Webroot, Kind::Fqdn]);
    let tenant = &creation.resources[0];
    for child in &creation.resources[1..] {
        assert_eq!(
            child.owner.as_ref().map(|owner| owner.id.as_str()),
            Some(tenant.id.as_str()),
            "{}",
            child.kind
        );
    }
    assert_eq!(creation.resources[4].spec["webroot_id"], json!(creation.resources[3].id));
    assert_eq!(creation.resources[4].parent.as_deref(), Some(tenant.id.as_str()));
    assert_eq!(creation.resources[2].spec["brand_id"], json!("acme"));

    let mut stored = created(Kind::Tenant, Kind::Tenant.def().example());
    stored.state.insert("uid".into(), json!(5000));
    assert_eq!((&stored.view()["uid"], &stored.view()["suspend_reason"]), (&json!(5000), &json!("")));
    assert!(update(&stored, json!({"brand_id": "other"})).is_err());
    assert_eq!(update(&stored, json!({"customer_id": "c2"})).unwrap().label, "c2");
}

#[test]
fn nested_bodies_obey_the_same_rules() {
    let nested = |changes: Value| {
        let mut webroot = json!({"subscription_id": "s", "runtime": "php", "runtime_version": "8.2"});
        for (field, value) in object(changes) {
            webroot[field] = value;
        }
        create(Kind::Tenant, with(Kind::Tenant, json!({"webroots": [webroot]})))
    };
    let creation = nested(json!({})).unwrap();
    let webroot = creation.resources.iter().find(|new| new.kind == Kind::Webroot).unwrap();
    assert_eq!(webroot.spec["env_file_name"], json!(".env.hosting"));
    assert_eq!(webroot.spec["service_hostname_enabled"], json!(true));
    assert_eq!(
        nested(json!({"runtime_config": {"pm": {"max_children": 201}}})).unwrap_err().to_string(),
        "validation error: webroots[0].runtime_config.pm.max_children: 201 must be between 1 and 200"
    );
    assert!(matches!(
        nested(json!({"runtime": "node"})),
        Err(SpecError::NotServed { field, .. }) if field == "webroots[0].runtime"
    ));
    assert_eq!(
        nested(json!({"fqdns": [{"fqdn": "*.a.example"}, {"fqdn": "*.*.example"}]})).unwrap_err().to_string(),
        "validation error: webroots[0].fqdns[1].fqdn: \"*.example\" is no valid domain name"
    );
    assert_eq!(
        nested(json!({"daemons": [{"command": "x"}]})).unwrap_err().to_string(),
        "webroots[0].daemons: not served by this platform yet"
    );
    let warned = nested(json!({"colour": "red"})).unwrap();
    assert_eq!(warned.warnings[0].message, "webroots[0].colour: unknown field, ignored");
}

#[test]
fn subscriptions_are_unique_in_their_tenant() {
    let subscription = created(Kind::Subscription, Kind::Subscription.def().example());
    assert_eq!(subscription.index().uniques[0].scope, "parent-1");
    assert_eq!(subscription.status, Status::Active);
}

#[test]
fn webroots() {
    assert!(problem(Kind::Webroot, json!({"runtime": "perl"})).contains("must be one of php, node"));
    assert!(problem(Kind::Webroot, json!({"runtime_version": "8"})).contains("runtime_version: "));
    assert!(problem(Kind::Webroot, json!({"public_folder": "../x"})).contains("public_folder: "));
    for folder in ["/abs", "...", "a/...", "a//b"] {
        assert!(
            problem(Kind::Webroot, json!({"public_folder": folder})).contains("public_folder: "),
            "{folder}"
        );
    }
    assert!(problem(Kind::Webroot, json!({"env_file_name": "a/b"})).contains("env_file_name: "));
    // Empty is no name: the default on creation, no change later.
    for given in [json!(""), json!(null)] {
        let made = created(Kind::Webroot, with(Kind::Webroot, json!({"env_file_name": given})));
        assert_eq!(made.spec["env_file_name"], json!(".env.hosting"));
    }
    assert!(
        problem(Kind::Webroot, json!({"env_vars": [{"name": "A"}]}))
            .contains("env_vars[0].value: is required")
    );
    let billed_later = created(Kind::Webroot, with(Kind::Webroot, json!({"subscription_id": "<absent>"})));
    assert_eq!(billed_later.text("subscription_id"), "");
    assert!(problem(Kind::Webroot, json!({"subscription_id": "a/b"})).contains("subscription_id"));
    let webroot = created(Kind::Webroot, Kind::Webroot.def().example());
    assert_eq!(webroot.index().refs[0].relation, "subscription_id");
    let changed = update(&webroot, json!({"runtime": "static", "runtime_version": "1"})).unwrap();
    assert_eq!(changed.spec["runtime"], json!("static"));
    assert!(matches!(update(&webroot, json!({"runtime": "ruby"})), Err(SpecError::NotServed { .. })));
    assert!(update(&webroot, json!({"subscription_id": "other"})).is_err());
    let env = update(&webroot, json!({"env_file_name": ".env"})).unwrap();
    assert_eq!(env.spec["env_file_name"], json!(".env"));
    let empty = json!({"env_file_name": "", "runtime": "", "runtime_version": ""});
    assert_eq!(update(&webroot, empty).unwrap().spec, webroot.spec);
    // The operator's bounds hold what is written, and not what is stored.
    let large = json!({"runtime_config": {"php_values": {"upload_max_filesize": "600M"}}});
    let error = problem(Kind::Webroot, large.clone());
    assert!(
        error.contains("runtime_config.php_values.upload_max_filesize: ") && error.contains("512M"),
        "{error}"
    );
    assert!(update(&webroot, large.clone()).is_err());
    let mut stored = webroot.clone();
    stored.spec.insert("runtime_config".into(), large["runtime_config"].clone());
    assert!(update(&stored, json!({"public_folder": "www"})).is_ok());
    let named = |given: Value| {
        created(Kind::Webroot, with(Kind::Webroot, json!({"service_hostname_enabled": given}))).spec["service_hostname_enabled"]
            == json!(true)
    };
    assert_eq!((named(json!(null)), named(json!(false))), (true, false));
}

#[test]
fn php_pools() {
    let pool = |config: Value| php_pool(&object(config)).map_err(|error| error.to_string());
    let numbers = |config: Value| {
        let pool = pool(config).unwrap();
        let waiting = pool.processes.waiting();
        (
            pool.processes.max_children(),
            waiting.map_or(0, |waiting| waiting.start),
            waiting.map_or(0, |waiting| waiting.min_spare),
            waiting.map_or(0, |waiting| waiting.max_spare),
            pool.processes.max_requests(),
        )
    };
    // Nobody asked for processes that wait: they are started when a request comes.
    assert_eq!(numbers(json!({})), (5, 0, 0, 0, 500));
    assert_eq!(numbers(json!({"pm": {"max_children": 1}})), (1, 0, 0, 0, 500));
    assert_eq!(numbers(json!({"pm": {"start_servers": 2}})), (5, 2, 1, 3, 500));
    assert_eq!(numbers(json!({"pm": {"max_children": 1, "min_spare_servers": 1}})), (1, 1, 1, 1, 500));
    assert_eq!(
        numbers(json!({"pm": {"max_children": 2, "max_spare_servers": 2, "max_requests": 0}})),
        (2, 2, 1, 2, 0)
    );
    for low_high in
        [("max_children", 0), ("start_servers", 201), ("max_requests", 100_001), ("max_requests", -1)]
    {
        assert!(pool(json!({"pm": {low_high.0: low_high.1}})).is_err(), "{low_high:?}");
    }
    let tight = json!({"pm": {"max_children": 2, "max_spare_servers": 3}});
    assert!(pool(tight).unwrap_err().contains("max_spare_servers"));
    let start = json!({"pm": {"max_children": 9, "start_servers": 9}});
    assert!(pool(start).unwrap_err().contains("start_servers"));
    for key in ["open_basedir", "error_log", "slowlog", "disable_functions", "doc_root", "Open_Basedir"] {
        assert!(
            pool(json!({"php_admin_values": {key: "/"}})).unwrap_err().contains("set by the platform"),
            "{key}"
        );
        assert!(pool(json!({"php_values": {key: "/"}})).is_err(), "{key}");
    }
    for key in
        ["extension", "mail.log", "opcache.error_log", "OPcache.restrict_api", "ffi.enable", "xdebug.log"]
    {
        assert!(
            pool(json!({"php_values": {key: "1"}})).unwrap_err().contains("set by the platform"),
            "{key}"
        );
    }
    pool(json!({"php_values": {"opcache.revalidate_freq": 60, "opcache.enable": false}})).unwrap();
    for path in [
        "/storage/t_other/tmp",
        "5;/storage/t_other/tmp",
        "../t_other/tmp",
        "tcp://x;/storage/t_other/tmp",
        "tcp://10.0.0.1:6379",
        "",
    ] {
        let error = pool(json!({"php_admin_values": {"session.save_path": path}})).unwrap_err();
        assert!(error.contains("runtime_config.php_admin_values.session.save_path: "), "{path}: {error}");
    }
    pool(json!({"php_values": {"session.save_path": "var/sessions"}})).unwrap();
    for bad in [
        json!({"memory_limit": "1G\"; user = root"}),
        json!({"user_agent": "${PATH}"}),
        json!({"user_agent": "a\\"}),
        json!({"a": 5}),
        json!({"a]b": "x"}),
        json!({"user_agent": "x\ny"}),
        json!({"memory_limit": ["x"]}),
        json!({"": "x"}),
        json!({"sqlite3.extension_dir": "x"}),
        json!({"Memory_Limit": "1G"}),
    ] {
        assert!(pool(json!({"php_values": bad.clone()})).is_err(), "{bad}");
    }
    let settings = pool(json!({"php_values": {"memory_limit": "1G", "precision": 5, "short_open_tag": true},
        "request_seconds": 60}))
    .unwrap()
    .settings;
    let values = settings.values();
    assert_eq!(
        (values["memory_limit"].as_str(), values["precision"].as_str(), values["short_open_tag"].as_str()),
        ("1G", "5", "1")
    );
    assert_eq!(settings.request_seconds(), 60);
    assert!(pool(json!({"request_seconds": 0})).unwrap_err().contains("runtime_config.request_seconds: "));
    // What was stored under other rules loses what is not allowed any more, and nothing else.
    let stored =
        stored_php_pool(&object(json!({"pm": {"max_children": 9}, "php_values": {"memory_limit": "1G",
        "session.save_path": "tcp://10.0.0.1:6379"}, "php_admin_values": {"sendmail_path": "/x"}})));
    assert_eq!((stored.processes.max_children(), stored.settings.values().len()), (9, 1));
    assert!(stored.settings.admin_values().is_empty());
    assert!(pool(json!({"pm": "lots"})).unwrap_err().starts_with("invalid JSON: "));
}

#[test]
fn fqdns() {
    let fqdn = created(Kind::Fqdn, json!({"fqdn": "WWW.Bücher.example."}));
    assert_eq!(fqdn.text("fqdn"), "www.xn--bcher-kva.example");
    assert_eq!(fqdn.view()["webroot_id"], Value::Null);
    let suffixes: Vec<_> = fqdn
        .index()
        .facets
        .into_iter()
        .filter(|facet| facet.field == "suffix")
        .map(|facet| facet.value)
        .collect();
    assert_eq!(suffixes, ["www.xn--bcher-kva.example", "xn--bcher-kva.example", "example"]);
    assert!(matches!(
        create(Kind::Fqdn, json!({"fqdn": "a.example", "email_accounts": [{}]})),
        Err(SpecError::NotServed { .. })
    ));
    let bound = update(&fqdn, json!({"webroot_id": "web_aaaaaaaaaa"})).unwrap();
    let mut stored = fqdn.clone();
    bound.apply(&mut stored, None, 0);
    assert_eq!(
        stored.index().refs,
        [Ref { relation: "webroot_id", kind: Kind::Webroot, to: "web_aaaaaaaaaa".into() }]
    );
    assert!(!update(&stored, json!({"ssl_enabled": false})).unwrap().changed);
    assert_eq!(update(&stored, json!({"webroot_id": null})).unwrap().spec["webroot_id"], Value::Null);
    assert!(update(&stored, json!({"fqdn": "other.example"})).is_err());
    let inside = json!({"fqdns": [{"fqdn": "a.example", "webroot_id": "web_x"}]});
    assert!(problem(Kind::Webroot, inside).contains("fqdns[0].webroot_id: "));
}

#[test]
fn zones() {
    let none = json!({"tenant_id": "<absent>"});
    assert!(problem(Kind::Zone, none).contains("brand_id: is required"));
    assert!(problem(Kind::Zone, json!({"name": "example"})).contains("name: "));
    let zone = created(
        Kind::Zone,
        with(Kind::Zone, json!({"tenant_id": null, "brand_id": "acme", "name": "A.Example."})),
    );
    assert_eq!((zone.text("name"), zone.view()["tenant_id"].clone()), ("a.example", Value::Null));
    assert!(update(&zone, json!({"name": "b.example"})).is_err());
}

#[test]
fn api_keys() {
    let creation = create(Kind::ApiKey, Kind::ApiKey.def().example()).unwrap();
    let key = creation.secrets["key"].as_str().unwrap().to_owned();
    let spec = &creation.resources[0].spec;
    assert_eq!((key.len(), &key[..4]), (68, "hst_"));
    assert!(api_key::is_key(&key) && !api_key::is_key("") && !api_key::is_key("a b c d e f"));
    assert_eq!(spec["key_prefix"], json!(&key[..12]));
    assert_eq!(spec["key_hash"], json!(api_key::key_hash(&key)));
    assert_eq!(api_key::key_hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert!(!serde_json::to_string(&spec).unwrap().contains(&key));

    assert!(problem(Kind::ApiKey, json!({"scopes": []})).contains("scopes: "));
    assert!(problem(Kind::ApiKey, json!({"scopes": ["tenants:fly"]})).contains("scopes[0]: "));
    assert!(problem(Kind::ApiKey, json!({"brands": []})).contains("brands: "));
    assert!(problem(Kind::ApiKey, json!({"name": ""})).contains("name: is required"));

    let given = json!({"scopes": ["zones:read", "brands:read", "zones:read"], "brands": ["b", "a", "b"]});
    let kept = created(Kind::ApiKey, with(Kind::ApiKey, given));
    assert_eq!(kept.view()["scopes"], json!(["zones:read", "brands:read"]), "in the order given");
    assert_eq!(kept.view()["brands"], json!(["b", "a"]));

    let mut stored = created(Kind::ApiKey, Kind::ApiKey.def().example());
    assert!(!stored.view().contains_key("revoked_at"));
    stored.state.insert("revoked_at".into(), json!(0));
    assert_eq!(stored.view()["revoked_at"], json!("1970-01-01T00:00:00Z"));
    assert!(update(&stored, json!({"name": "x"})).unwrap_err().to_string().contains("scopes: is required"));

    let own = api_key::from_raw("boot", "hst_own-key", vec!["*:*".into()], vec!["*".into()], &mut entropy())
        .unwrap();
    assert_eq!(own.spec["key_hash"], json!(api_key::key_hash("hst_own-key")));
    assert!(
        api_key::from_raw("boot", "short", vec!["*:*".into()], vec!["*".into()], &mut entropy()).is_err()
    );
}
