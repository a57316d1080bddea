//! `hostctl` as scripts use it: files, flags, JSON, exit codes.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Client, LIMIT, has, id};
use crate::harness::{Platform, binaries, eventually, machine_lacks_daemons};

#[tokio::test]
async fn hostctl_does_what_scripts_expect() {
    if machine_lacks_daemons("hostctl_does_what_scripts_expect") {
        return;
    }
    let platform = Platform::start(&["--no-seed"]).await;
    let admin = Client::admin(&platform);
    applying_a_cluster_twice_changes_nothing(&admin).await;
    seeding_twice_changes_nothing(&admin).await;
    names_are_enough(&admin).await;
    every_kind_has_its_verbs(&admin).await;
    plans_are_shown_and_asked_about(&admin).await;
    exit_codes_tell_what_happened(&admin).await;
    completions_are_valid();
}

fn run(platform: &Platform, arguments: &[&str]) -> Output {
    platform.hostctl().args(arguments).output().unwrap()
}

/// What it prints with `--json`, when it succeeds.
#[track_caller]
fn json_of(platform: &Platform, arguments: &[&str]) -> Value {
    let output = run(platform, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"))
}

/// The store's revision once nothing moves any more.
async fn head(admin: &Client<'_>) -> Value {
    let mut last = Value::Null;
    eventually("the store is at rest", LIMIT, async || {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let head = admin.get("/subscribers").await["head"].clone();
        let still = head == last;
        last = head.clone();
        still.then_some(head)
    })
    .await
}

async fn applying_a_cluster_twice_changes_nothing(admin: &Client<'_>) {
    let platform = admin.platform;
    let (api, key) = (platform.summary["api"].as_str().unwrap(), platform.admin_key());
    let (base, more) = (platform.folder().join("cluster.yaml"), platform.folder().join("more.yaml"));
    let text = "
region:
  name: west
cluster:
  name: west-1
  lb_addresses:
    - {address: 192.0.2.80, label: public}
    - {address: '2001:db8::80', label: public 6}
  config: {mail_hostname: mail.example}
  spec:
    shards:
      - {name: web-1, role: web, lb_backend: shard-web-1, node_count: 2}
      - {name: db-1, role: database, node_count: 1}
    infrastructure: {haproxy: true, powerdns: true, valkey: false}
  nodes:
    - {id: west-web-1, hostname: west-web-1, shard_name: web-1, ip_address: 192.0.2.81}
    - {id: west-web-2, hostname: west-web-2, shard_names: [web-1, db-1], ip_address: 192.0.2.82}
cluster_runtimes:
  - {runtime: php, version: '8.5'}
";
    // Files of other tools name the API with the path that all its routes have.
    fs::write(&base, format!("api_url: {api}/api/v1\napi_key: {key}\n{text}")).unwrap();
    fs::write(&more, "cluster_runtimes:\n  - {runtime: static, version: '1'}\n").unwrap();
    // The files say where the API is: nothing else of this machine is asked, and long flags may have one dash.
    let apply = || {
        let output = Command::new(binaries().join("hostctl"))
            .current_dir(platform.folder())
            .env_remove("HOSTING_API_KEY")
            .env_remove("HOSTING_API_URL")
            .args(["cluster", "apply", "-f", "cluster.yaml", "-f", "more.yaml", "-timeout", "1m", "--json"])
            .args(["--data", "/nonexistent"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let first = apply();
    assert_eq!(
        first["created"],
        json!([
            "region west",
            "cluster west-1",
            "lb-address 192.0.2.80",
            "lb-address 2001:db8::80",
            "shard web-1",
            "shard db-1",
            "node west-web-1",
            "node west-web-2",
            "runtime php 8.5",
            "runtime static 1",
        ])
    );
    let cluster = format!("/clusters/{}", first["cluster_id"].as_str().unwrap());
    has(
        &admin.get(&cluster).await,
        json!({"status": "active", "name": "west-1", "config": {"mail_hostname": "mail.example"}}),
    );
    let shards = &first["shard_ids"];
    has(
        &admin.get("/nodes/west-web-2").await,
        json!({"roles": ["database", "web"], "shards": [
            {"shard_id": shards["web-1"], "shard_role": "web", "shard_index": 2},
            {"shard_id": shards["db-1"], "shard_role": "database", "shard_index": 1},
        ]}),
    );
    let before = head(admin).await;
    let second = apply();
    assert_eq!((&second["created"], &second["shard_ids"]), (&json!([]), shards));
    assert_eq!(head(admin).await, before, "applying again writes nothing");

    let shard = shards["web-1"].as_str().unwrap();
    assert_eq!(json_of(platform, &["converge-shard", shard]), json!({"status": "converging"}));
    let output = Command::new(binaries().join("hostctl"))
        .args(["--data", "/nonexistent", "converge-shard", "-api", api, "-api-key", &key, shard])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "converging\n", "{output:?}");
    assert_eq!(head(admin).await, before, "converging what is in line writes nothing");
    for node in ["west-web-1", "west-web-2"] {
        admin.ok(204, "DELETE", &format!("/nodes/{node}"), Value::Null).await;
    }
}

async fn seeding_twice_changes_nothing(admin: &Client<'_>) {
    let platform = admin.platform;
    let folder = platform.folder().join("seed");
    fs::create_dir_all(folder.join("site")).unwrap();
    fs::write(folder.join("site/index.html"), "seeded").unwrap();
    fs::write(folder.join(".env"), "# for the seed\nSEED_CUSTOMER=\"crm-77\"\n").unwrap();
    let text = "
lb_traffic_url: http://127.0.0.1
region: default
cluster: cluster-1
brands:
  - id: seeded
    name: Seeded
    base_hostname: seeded.test
    primary_ns: ns1.seeded.test
    secondary_ns: ns2.seeded.test
    hostmaster_email: hostmaster@seeded.test
    mail_hostname: mail.seeded.test
    spf_includes: spf.example.org
    dkim_selector: k1
    dkim_public_key: MIIB
    dmarc_policy: v=DMARC1; p=none
    allowed_clusters: [cluster-1]
zones:
  - name: seeded.test
    brand: Seeded
    records:
      - {name: ns1, content: 192.0.2.53}
      - {name: ns2, content: '2001:db8::53'}
      - {type: MX, name: '@', content: mail, priority: 10, ttl: 600}
  - {name: own.example, brand: Seeded, tenant: first, subscription: main}
oidc_clients: []
tenants:
  - name: first
    brand: Seeded
    customer_id: ${SEED_CUSTOMER}
    shard: web-1
    sftp_enabled: false
    ssh_enabled: false
    subscriptions:
      - {id: crm-77-main, name: main}
      - {name: side}
    ssh_keys: []
    webroots:
      - subscription: main
        runtime: static
        runtime_version: '1'
        runtime_config: {}
        public_folder: public
        env_file_name: .env
        service_hostname_enabled: false
        env_vars: []
        fqdns:
          - {fqdn: www.own.example, ssl_enabled: true}
          - {fqdn: first.seeded.test}
        fixture: {tarball: site, hosts_entry: true}
        daemons: []
      - {subscription: side, runtime: static, runtime_version: '2'}
    databases: []
    backups: []
  - name: second
    brand: Seeded
    customer_id: crm-78
    shard: web-1
";
    fs::write(folder.join("seed.yaml"), text).unwrap();
    let seed = |file: &str| {
        let mut command = platform.hostctl();
        command.current_dir(&folder).args(["seed", "-f", file, "--json"]).output().unwrap()
    };
    let json_of = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let first = json_of(seed("seed.yaml"));
    let created = first["created"].as_array().unwrap();
    for what in [
        "brand Seeded",
        "zone seeded.test",
        "record ns1.seeded.test A",
        "record ns2.seeded.test AAAA",
        "record seeded.test MX",
        "zone own.example",
        "tenant first",
        "subscription main",
        "subscription side",
        "site www.own.example of tenant first",
        "fqdn www.own.example",
        "fqdn first.seeded.test",
        "site without a name of tenant first",
        "tenant second",
        "subscription default",
    ] {
        assert!(created.contains(&json!(what)), "{what}: {first}");
    }
    assert_eq!(created.len(), 15, "{first}");
    let tenant = admin.items("/tenants?customer_id=crm-77").await.remove(0);
    let webroots = admin.items(&format!("/tenants/{}/webroots", id(&tenant))).await;
    let site = webroots.iter().find(|one| one["subscription_id"] == "crm-77-main").unwrap();
    has(site, json!({"public_folder": "public", "env_file_name": ".env", "service_hostname_enabled": false}));
    has(
        &admin.get("/brands/seeded").await,
        json!({"mail_hostname": "mail.seeded.test", "dkim_selector": "k1"}),
    );
    assert_eq!(admin.get("/brands/seeded/clusters").await["cluster_ids"].as_array().unwrap().len(), 1);
    for fqdn in admin.items(&format!("/tenants/{}/fqdns", id(&tenant))).await {
        admin.created("fqdn", &fqdn).await;
        has(&fqdn, json!({"ssl_enabled": fqdn["fqdn"] == "www.own.example"}));
    }
    // The fixture lies in the webroot; its document root is the folder below.
    let storage = Path::new(platform.summary["storage"].as_str().unwrap());
    let webroot = storage.join(id(&tenant)).join("webroots").join(id(site));
    assert_eq!(fs::read_to_string(webroot.join("index.html")).unwrap(), "seeded");

    let before = head(admin).await;
    let second = json_of(seed("seed.yaml"));
    assert_eq!((&second["created"], &second["sites"]), (&json!([]), &first["sites"]));
    assert_eq!(head(admin).await, before, "seeding again writes nothing");

    // A tenant of a brand that the file does not name again.
    let third = "tenants:\n  - {name: third, brand: Seeded, customer_id: crm-79, shard: web-1}\n";
    let head_line = "region: default\ncluster: cluster-1\n";
    fs::write(folder.join("third.yaml"), format!("{head_line}{third}")).unwrap();
    assert_eq!(json_of(seed("third.yaml"))["created"], json!(["tenant third", "subscription default"]));
    // What is not served is left out, each thing with a warning; a variable that is not set stays as it is.
    let fourth = "oidc_clients: [{id: web, secret: s, name: Web, redirect_uris: [https://a.example/]}]
tenants:
  - name: fourth
    brand: Seeded
    customer_id: crm-80-${SEED_UNSET}
    shard: web-1
    sftp_enabled: true
    subscriptions: [{id: crm-80-fourth, name: main}]
    ssh_keys: [{name: laptop, public_key: x}]
    databases: [{subscription: default, shard: db-1, users: [{suffix: _a, password: p, privileges: [ALL]}]}]
    webroots:
      - runtime: static
        env_vars: [{name: A, value: b, secret: true}]
        fqdns: [{fqdn: fourth.seeded.test}]
      - runtime: node
        runtime_version: '22'
        fqdns: [{fqdn: node.seeded.test}]
";
    fs::write(folder.join("fourth.yaml"), format!("{head_line}{fourth}")).unwrap();
    let output = seed("fourth.yaml");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let created = json_of(output)["created"].clone();
    assert_eq!(
        created,
        json!([
            "tenant fourth",
            "subscription main",
            "site fourth.seeded.test of tenant fourth",
            "fqdn fourth.seeded.test"
        ]),
        "{told}"
    );
    let wanted = [
        "${SEED_UNSET} is not set",
        "oidc_clients (1)",
        "tenant fourth: databases (1)",
        "tenant fourth: ssh_keys (1)",
        "tenant fourth: sftp_enabled",
        "tenant fourth: site fourth.seeded.test: env_vars (1)",
        "site node.seeded.test of tenant fourth",
    ];
    for what in wanted {
        assert_eq!(told.matches(what).count(), 1, "{what}: {told}");
    }
    assert_eq!(told.matches("warning:").count(), wanted.len(), "{told}");
    assert_eq!(admin.items("/tenants?customer_id=crm-80-%24%7BSEED_UNSET%7D").await.len(), 1);
    // A misspelt field in it changes nothing, although the list is not served.
    let fifth =
        fourth.replace("fourth", "fifth").replace("crm-80", "crm-80-fifth").replace("suffix:", "sufix:");
    fs::write(folder.join("fifth.yaml"), format!("{head_line}{fifth}")).unwrap();
    let output = seed("fifth.yaml");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && text.contains("sufix"), "{output:?}");
    let tenants = admin.items("/tenants").await;
    assert!(
        tenants.iter().all(|one| !one["customer_id"].as_str().unwrap().starts_with("crm-80-fifth")),
        "{tenants:?}"
    );
}

/// What a person knows is enough: no id is copied from one command into the next.
async fn names_are_enough(admin: &Client<'_>) {
    let platform = admin.platform;
    let say = |line: &str| json_of(platform, &line.split(' ').collect::<Vec<_>>());
    let zone = say(
        "create zone -s name=named.example -s tenant_id=crm-77 -s subscription_id=main -s region_id=default --wait",
    );
    has(&zone, json!({"name": "named.example", "subscription_id": "crm-77-main", "status": "active"}));
    has(
        &say("create fqdn --in crm-77 -s fqdn=www.named.example -s webroot_id=www.own.example --wait"),
        json!({"fqdn": "www.named.example", "status": "active"}),
    );
    say("create zone-record --in named.example -s type=TXT -s name=note -s content=one --wait");
    has(
        &say("update zone-record named.example/note/TXT -s content=two -s ttl=60 --wait"),
        json!({"ttl": 60}),
    );
    has(&say("describe zone-record --in named.example note"), json!({"ttl": 60}));
    assert_eq!(say("get zone named.example")[0]["id"], zone["id"]);
    assert_eq!(say("get zones --filter tenant_id=crm-77").as_array().unwrap().len(), 2);
    for (line, field) in [
        ("describe fqdn www.named.example", "fqdn"),
        ("describe webroot www.named.example", "runtime"),
        ("describe tenant Seeded/crm-77", "customer_id"),
        ("describe tenant www.named.example", "customer_id"),
        ("describe brand Seeded", "name"),
        ("describe region default", "name"),
        ("describe cluster default/cluster-1", "name"),
        ("describe shard cluster-1/web-1", "role"),
        ("describe node web-1.localdomain", "hostname"),
        ("describe subscription crm-77/main", "name"),
        ("describe lb-address cluster-1/127.0.0.1", "address"),
        ("describe api-key bootstrap", "key_prefix"),
    ] {
        assert!(say(line)[field].is_string(), "{line}");
    }
    has(&say("wait fqdn www.named.example"), json!({"status": "active"}));
    has(
        &say("suspend tenant crm-77 --reason unpaid --wait"),
        json!({"status": "suspended", "suspend_reason": "unpaid"}),
    );
    has(&say("unsuspend crm-77 --wait"), json!({"status": "active"}));
    let table = String::from_utf8_lossy(&run(platform, &["get", "zones"]).stdout).into_owned();
    let line =
        table.lines().find(|line| line.starts_with("named.example")).unwrap_or_else(|| panic!("{table}"));
    assert!(line.contains("Seeded") && line.contains("crm-77"), "{table}");
    let table = run(platform, &["get", "zone-records", "--in", "named.example"]).stdout;
    assert!(String::from_utf8_lossy(&table).contains("TTL"), "{table:?}");
    // A name that is taken is told in words that a person would say.
    let taken = run(platform, &["create", "fqdn", "--in", "crm-77", "-s", "fqdn=www.named.example"]);
    let text = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(
        taken.status.code() == Some(6) && text.contains("error: fqdn \"www.named.example\" is"),
        "{text}"
    );
    say("delete fqdn www.named.example --wait");
    say("delete zone named.example --wait");
    assert_eq!(run(platform, &["get", "zone", "named.example"]).status.code(), Some(4));
    say("delete zone named.example --ignore-not-found");
}

async fn every_kind_has_its_verbs(admin: &Client<'_>) {
    let platform = admin.platform;
    let (region, cluster, shard) = admin.place().await;
    let brand_file = platform.folder().join("brand.yaml");
    fs::write(
        &brand_file,
        "id: typed\nname: Typed\nbase_hostname: typed.test\nprimary_ns: ns1.typed.test\n\
         secondary_ns: ns2.typed.test\nhostmaster_email: h@typed.test\n",
    )
    .unwrap();
    let mut made: Vec<(&str, String)> = Vec::new();
    let mut create = |kind: &'static str, parent: &str, fields: &[String], wait: bool| {
        let mut arguments = vec!["create", kind];
        if !parent.is_empty() {
            arguments.extend(["--in", parent]);
        }
        for field in fields {
            arguments.extend(["-s", field]);
        }
        if wait {
            arguments.push("--wait");
        }
        let answer = json_of(platform, &arguments);
        made.push((kind, id(&answer)));
        answer
    };
    let fields = |list: &[&str]| list.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>();
    create(
        "brand",
        "",
        &fields(&[
            "id=typed-0",
            "name=Typed 0",
            "base_hostname=typed0.test",
            "primary_ns=ns1.typed0.test",
            "secondary_ns=ns2.typed0.test",
            "hostmaster_email=h@typed0.test",
        ]),
        false,
    );
    let in_file = json_of(platform, &["create", "brand", "-f", brand_file.to_str().unwrap()]);
    has(&in_file, json!({"id": "typed", "status": "active"}));
    let own_region = create("region", "", &fields(&["name=typed"]), false);
    let own_cluster =
        create("cluster", &id(&own_region), &fields(&["name=typed", "config={\"a\": 1}"]), false);
    has(&own_cluster, json!({"config": {"a": 1}}));
    create("lb-address", &id(&own_cluster), &fields(&["address=192.0.2.99"]), false);
    let own_shard = create("shard", &id(&own_cluster), &fields(&["name=web-1", "role=web"]), false);
    let places = format!("shard_ids=[\"{}\"]", id(&own_shard));
    create(
        "node",
        &id(&own_cluster),
        &fields(&["id=typed-1", "hostname=typed-1", "roles=[\"web\"]", &places]),
        false,
    );
    let tenant = create(
        "tenant",
        "",
        &[
            "brand_id=typed".to_owned(),
            "customer_id=typed-1".to_owned(),
            format!("region_id={region}"),
            format!("cluster_id={cluster}"),
            format!("shard_id={shard}"),
        ],
        true,
    );
    has(&tenant, json!({"status": "active", "lagging": []}));
    let tenant = id(&tenant);
    create("subscription", &tenant, &fields(&["id=typed-sub", "name=web"]), false);
    let webroot = create(
        "webroot",
        &tenant,
        &fields(&["subscription_id=typed-sub", "runtime=static", "runtime_version=1"]),
        true,
    );
    has(&webroot, json!({"status": "active", "runtime_version": "1"}));
    let zone = create(
        "zone",
        "",
        &[
            "name=typed.example".to_owned(),
            format!("tenant_id={tenant}"),
            "subscription_id=typed-sub".to_owned(),
            format!("region_id={region}"),
        ],
        true,
    );
    create(
        "zone-record",
        &id(&zone),
        &fields(&["type=MX", "name=@", "content=mail.typed.test", "priority=10"]),
        true,
    );
    let bound = format!("webroot_id={}", id(&webroot));
    create("fqdn", &tenant, &fields(&["fqdn=www.typed.example", &bound]), true);
    let key = create(
        "api-key",
        "",
        &fields(&["name=typed", "scopes=[\"zones:read\"]", "brands=[\"typed\"]"]),
        false,
    );
    assert!(key["key"].as_str().unwrap().starts_with("hst_"));

    let parents = [
        ("cluster", id(&own_region)),
        ("lb-address", id(&own_cluster)),
        ("shard", id(&own_cluster)),
        ("node", id(&own_cluster)),
        ("subscription", tenant.clone()),
        ("webroot", tenant.clone()),
        ("fqdn", tenant.clone()),
        ("zone-record", id(&zone)),
    ];
    for (kind, one) in &made {
        let shown = json_of(platform, &["describe", kind, one]);
        assert_eq!(shown["id"], one.as_str(), "{kind}");
        let got = json_of(platform, &["get", kind, one]);
        assert_eq!(got.as_array().unwrap().len(), 1, "{kind}: {got}");
        let plural = if *kind == "lb-address" { "lb-addresses".to_owned() } else { format!("{kind}s") };
        let mut list = vec!["get", plural.as_str()];
        if let Some((_, parent)) = parents.iter().find(|(of, _)| of == kind) {
            list.extend(["--in", parent]);
        }
        let all = json_of(platform, &list);
        assert!(all.as_array().unwrap().iter().any(|item| item["id"] == one.as_str()), "{kind}: {all}");
        let table = run(platform, &list);
        let text = String::from_utf8_lossy(&table.stdout);
        assert!(
            text.lines().next().is_some_and(|head| head.split("  ").any(|word| word == "ID")),
            "{kind}: {text}"
        );
        assert!(text.contains(one.as_str()), "{kind}: {text}");
        let text = String::from_utf8_lossy(&run(platform, &["describe", kind, one]).stdout).into_owned();
        assert!(text.contains("created_at") && text.contains(one.as_str()), "{kind}: {text}");
    }
    made.reverse();
    for (kind, one) in &made {
        // A key is revoked at once, and stays visible.
        let key = *kind == "api-key";
        let wait = if key { &[][..] } else { &["--wait"] };
        let gone = json_of(platform, &[&["delete", kind, one], wait].concat());
        has(&gone, json!({"id": one, "status": "deleted"}));
        let missing = run(platform, &["get", kind, one]);
        assert_eq!(missing.status.code(), Some(if key { 0 } else { 4 }), "{kind}: {missing:?}");
    }
}

async fn plans_are_shown_and_asked_about(admin: &Client<'_>) {
    let platform = admin.platform;
    let tenant = id(&admin.items("/tenants?customer_id=crm-77").await[0]);
    let plan = json_of(platform, &["delete", "tenant", "crm-77", "--dry-run"]);
    assert!(plan["dry_run"] == true && !plan["destroyed"].as_array().unwrap().is_empty(), "{plan}");
    let shown =
        String::from_utf8(run(platform, &["delete", "tenant", "crm-77", "--dry-run"]).stdout).unwrap();
    assert!(shown.contains("DESTROYS the data of tenant") && shown.contains("edge/"), "{shown}");
    // Whoever sits at a terminal is asked, and nothing happens without a yes.
    let mut typed = platform.hostctl();
    typed.args(["delete", "tenant", "crm-77"]);
    let words = std::iter::once(typed.get_program()).chain(typed.get_args());
    let line: Vec<_> = words.map(|word| word.to_str().unwrap().to_owned()).collect();
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line.join(" "), "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut terminal = terminal.spawn().unwrap();
    terminal.stdin.take().unwrap().write_all(b"n\n").unwrap();
    let output = terminal.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("Go on? [y/N]") && shown.contains("nothing was changed"), "{shown}");
    assert_eq!(output.status.code(), Some(130), "{shown}");
    assert_eq!(admin.get(&format!("/tenants/{tenant}")).await["status"], "active");
}

async fn exit_codes_tell_what_happened(admin: &Client<'_>) {
    let platform = admin.platform;
    let code = |arguments: &[&str]| run(platform, arguments).status.code().unwrap();
    assert_eq!(code(&["get", "brands"]), 0);
    // 1: the API did not take it.
    assert_eq!(code(&["create", "region", "-s", "name=Not A Slug"]), 1);
    assert_eq!(code(&["seed", "-f", "/nonexistent.yaml"]), 1);
    // 2: it cannot be meant.
    for wrong in [
        &["get", "--frobnicate", "brands"][..],
        &["frobnicate"],
        &["get", "zonks"],
        &["get", "fqdns"],
        &["create", "region", "-s", "name"],
        &["create", "region"],
    ] {
        assert_eq!(code(wrong), 2, "{wrong:?}");
    }
    // 4: there is no such thing.
    assert_eq!(code(&["get", "tenant", "t_nowhere000"]), 4);
    assert_eq!(code(&["delete", "fqdn", "nowhere"]), 4);
    // 5: not with this key.
    let narrow = admin.with_key(&["zones:read"], &["seeded"]).await;
    let files = ["wrong.key", "narrow.key"].map(|name| platform.folder().join(name));
    for (file, key) in files.iter().zip(["hst_nobody-has-this", narrow.key.as_str()]) {
        fs::write(file, key).unwrap();
        assert_eq!(code(&["get", "brands", "--key-file", file.to_str().unwrap()]), 5);
    }
    // 6: in the way of something else.
    assert_eq!(code(&["create", "region", "-s", "name=default"]), 6);
    // 7: nobody there.
    assert_eq!(code(&["get", "brands", "--api", "http://127.0.0.1:1"]), 7);
    // With --json the error is JSON too.
    let output = run(platform, &["get", "tenant", "t_nowhere000", "--json"]);
    let body: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(body["exit_code"] == 4 && body["error"].as_str().unwrap().contains("not found"), "{body}");
    // 3: not within the time limit. Then it is.
    let tenant = id(&admin.items("/tenants?customer_id=crm-77").await[0]);
    platform.signal("edge", Signal::SIGSTOP);
    let fqdn =
        ["create", "fqdn", "--in", &tenant, "-s", "fqdn=late.own.example", "--wait", "--wait-timeout", "1"];
    let output = run(platform, &fqdn);
    platform.signal("edge", Signal::SIGCONT);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("edge-1"), "{output:?}");
}

fn completions_are_valid() {
    let script = Command::new(binaries().join("hostctl")).args(["completion", "bash"]).output().unwrap();
    assert!(script.status.success() && !script.stdout.is_empty());
    let mut bash =
        Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(&script.stdout).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
