//! The seed file.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::yaml;

/// What seed files may ask for and the platform does not serve yet: a list's name, then the fields of its entries. What
/// stands there is left out with a warning; any other field is a misspelt one.
const NOT_SERVED: &[(&str, &[&str])] = &[
    ("oidc_clients", &["id", "secret", "name", "redirect_uris"]),
    ("ssh_keys", &["name", "public_key"]),
    ("egress_rules", &["cidr", "description"]),
    ("databases", &["subscription", "shard", "users"]),
    ("databases.users", &["suffix", "username", "password", "privileges"]),
    ("valkey_instances", &["subscription", "shard", "max_memory_mb", "users"]),
    ("valkey_instances.users", &["suffix", "username", "password", "privileges", "key_pattern"]),
    ("s3_buckets", &["subscription", "shard", "public", "quota_bytes"]),
    (
        "email_accounts",
        &[
            "subscription",
            "fqdn",
            "address",
            "display_name",
            "quota_bytes",
            "aliases",
            "forwards",
            "autoreply",
        ],
    ),
    ("email_accounts.aliases", &["address"]),
    ("email_accounts.forwards", &["destination", "keep_copy"]),
    ("email_accounts.autoreply", &["subject", "body", "start_date", "end_date", "enabled"]),
    ("backups", &["type"]),
    ("wireguard_peers", &["subscription", "name"]),
    ("env_vars", &["name", "value", "secret"]),
    (
        "daemons",
        &[
            "command",
            "proxy_path",
            "num_procs",
            "stop_signal",
            "stop_wait_secs",
            "max_memory_mb",
            "environment",
        ],
    ),
    ("cron_jobs", &["schedule", "command", "working_directory", "timeout_seconds", "max_memory_mb"]),
];

/// Entries that are not served: only their fields' names are looked at.
type NotServed = Option<Vec<Map<String, Value>>>;

/// The whole file. Unknown fields are an error: a misspelt one must not be lost.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Manifest {
    pub api_url: Option<String>,
    pub api_key: Option<String>,
    #[serde(rename = "lb_traffic_url")]
    _lb_traffic_url: Option<String>,
    pub region: Option<String>,
    pub cluster: Option<String>,
    pub(super) brands: Vec<Brand>,
    pub(super) zones: Vec<Zone>,
    oidc_clients: NotServed,
    pub(super) tenants: Vec<Tenant>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Brand {
    pub id: Option<String>,
    pub name: String,
    pub base_hostname: String,
    pub primary_ns: String,
    pub secondary_ns: String,
    pub hostmaster_email: String,
    pub mail_hostname: Option<String>,
    pub spf_includes: Option<String>,
    pub dkim_selector: Option<String>,
    pub dkim_public_key: Option<String>,
    pub dmarc_policy: Option<String>,
    pub allowed_clusters: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Zone {
    pub name: String,
    pub brand: String,
    pub tenant: Option<String>,
    pub subscription: Option<String>,
    /// Custom records.
    #[serde(default)]
    pub records: Vec<Record>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Of an address it need not be said.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Relative to the zone, `@` for the zone itself.
    pub name: String,
    pub content: String,
    pub ttl: Option<u32>,
    pub priority: Option<u16>,
}

impl Record {
    /// Whether it says something: a variable that is not set is no content.
    pub(super) fn is_given(&self) -> bool {
        !self.content.contains("${")
    }

    /// The type that is said, else that of the address.
    pub(super) fn kind(&self) -> anyhow::Result<&str> {
        match (&self.kind, self.content.parse()) {
            (Some(kind), _) => Ok(kind),
            (None, Ok(IpAddr::V4(_))) => Ok("A"),
            (None, Ok(IpAddr::V6(_))) => Ok("AAAA"),
            (None, Err(_)) => {
                bail!("record {}: `type` is missing, and {:?} is no address", self.name, self.content)
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tenant {
    pub name: String,
    pub brand: String,
    pub customer_id: String,
    pub shard: Option<String>,
    sftp_enabled: bool,
    ssh_enabled: bool,
    pub subscriptions: Vec<Subscription>,
    pub webroots: Vec<Webroot>,
    ssh_keys: NotServed,
    egress_rules: NotServed,
    databases: NotServed,
    valkey_instances: NotServed,
    s3_buckets: NotServed,
    email_accounts: NotServed,
    backups: NotServed,
    wireguard_peers: NotServed,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscription {
    pub id: Option<String>,
    pub name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Webroot {
    pub subscription: Option<String>,
    pub runtime: String,
    pub runtime_version: String,
    pub runtime_config: Map<String, Value>,
    pub public_folder: String,
    pub env_file_name: Option<String>,
    pub service_hostname_enabled: Option<bool>,
    env_vars: NotServed,
    pub fqdns: Vec<Fqdn>,
    pub fixture: Option<Fixture>,
    daemons: NotServed,
    cron_jobs: NotServed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fqdn {
    pub fqdn: String,
    #[serde(default)]
    pub ssl_enabled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fixture {
    /// A .tar.gz, a .tar or a folder, relative to the seed file.
    pub tarball: String,
    env_vars: Map<String, Value>,
    setup_path: Option<String>,
    #[serde(rename = "hosts_entry")]
    _hosts_entry: Option<Value>,
}

impl Manifest {
    /// Reads the file; `${NAME}` in it is replaced from `vars`, then from the environment.
    pub(crate) fn read(file: &Path, vars: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let manifest: Self = yaml::read(file, "a seed file", vars)?;
        for (place, list, entries) in manifest.lists() {
            for (n, entry) in entries.iter().enumerate() {
                if let Some(problem) = misspelt(list, entry) {
                    bail!("{} is not a seed file: {place}{list}[{n}]: {problem}", file.display());
                }
            }
        }
        for zone in &manifest.zones {
            for record in zone.records.iter().filter(|record| record.is_given()) {
                let place = || format!("{} is not a seed file: zone {}", file.display(), zone.name);
                record.kind().with_context(place)?;
            }
        }
        Ok(manifest)
    }

    /// What the file asks for and the platform does not serve yet, one sentence each.
    pub(super) fn not_served(&self) -> Vec<String> {
        let mut found: Vec<String> = self
            .lists()
            .filter(|(_, _, entries)| !entries.is_empty())
            .map(|(place, list, entries)| format!("{place}{list} ({})", entries.len()))
            .collect();
        for tenant in &self.tenants {
            let switches = [("sftp_enabled", tenant.sftp_enabled), ("ssh_enabled", tenant.ssh_enabled)];
            let on = switches.iter().filter(|(_, on)| *on);
            found.extend(on.map(|(field, _)| format!("tenant {}: {field}", tenant.name)));
            for webroot in &tenant.webroots {
                let Some(fixture) = &webroot.fixture else { continue };
                let parts = [
                    ("env_vars", !fixture.env_vars.is_empty()),
                    ("setup_path", fixture.setup_path.is_some()),
                ];
                let parts = parts.iter().filter(|(_, is_there)| *is_there);
                found.extend(parts.map(|(field, _)| format!("{}fixture.{field}", webroot.place(tenant))));
            }
        }
        found.iter().map(|what| format!("{what}: not served by this platform yet, left out")).collect()
    }

    /// Every list that is not served: its place, its name, its entries.
    fn lists(&self) -> impl Iterator<Item = (String, &'static str, &[Map<String, Value>])> {
        let mut lists = vec![(String::new(), "oidc_clients", &self.oidc_clients)];
        for tenant in &self.tenants {
            let own = [
                ("ssh_keys", &tenant.ssh_keys),
                ("egress_rules", &tenant.egress_rules),
                ("databases", &tenant.databases),
                ("valkey_instances", &tenant.valkey_instances),
                ("s3_buckets", &tenant.s3_buckets),
                ("email_accounts", &tenant.email_accounts),
                ("backups", &tenant.backups),
                ("wireguard_peers", &tenant.wireguard_peers),
            ];
            lists.extend(own.map(|(list, entries)| (format!("tenant {}: ", tenant.name), list, entries)));
            for webroot in &tenant.webroots {
                let own = [
                    ("env_vars", &webroot.env_vars),
                    ("daemons", &webroot.daemons),
                    ("cron_jobs", &webroot.cron_jobs),
                ];
                lists.extend(own.map(|(list, entries)| (webroot.place(tenant), list, entries)));
            }
        }
        lists.into_iter().map(|(place, list, entries)| (place, list, entries.as_deref().unwrap_or_default()))
    }
}

/// The first field that no entry of the list has.
fn misspelt(list: &str, entry: &Map<String, Value>) -> Option<String> {
    let (_, fields) = NOT_SERVED.iter().find(|(name, _)| *name == list)?;
    entry.iter().find_map(|(field, value)| {
        if !fields.contains(&field.as_str()) {
            return Some(format!("unknown field {field:?}; there are {}", fields.join(", ")));
        }
        let nested = format!("{list}.{field}");
        let entries = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        entries.iter().filter_map(Value::as_object).find_map(|entry| misspelt(&nested, entry))
    })
}

impl Webroot {
    /// Where it stands, for messages about its fields.
    fn place(&self, tenant: &Tenant) -> String {
        let name = self.fqdns.first().map_or("without a name", |first| first.fqdn.as_str());
        format!("tenant {}: site {name}: ", tenant.name)
    }

    pub(super) fn body(&self, subscription: &str) -> Value {
        let mut body = json!({
            "subscription_id": subscription,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "runtime_config": self.runtime_config,
            "public_folder": self.public_folder,
        });
        if let Some(name) = &self.env_file_name {
            body["env_file_name"] = json!(name);
        }
        if let Some(enabled) = self.service_hostname_enabled {
            body["service_hostname_enabled"] = json!(enabled);
        }
        body
    }

    /// Whether an existing webroot is the one meant, for those without a host name to go by.
    pub(super) fn is_like(&self, one: &Value, subscription: &str) -> bool {
        one["subscription_id"] == subscription
            && one["runtime"] == self.runtime.as_str()
            && one["runtime_version"] == self.runtime_version.as_str()
            && one["public_folder"] == self.public_folder.as_str()
            && one["status"] != "deleting"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Manifest, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seed.yaml");
        std::fs::write(&file, text).unwrap();
        Manifest::read(&file, &BTreeMap::new()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_misspelt_field_is_an_error_also_in_what_is_not_served() {
        for (text, part) in [
            ("tenants:\n  - name: a\n    brnad: b\n", "brnad"),
            ("tennants: []\n", "tennants"),
            (
                "tenants: [{name: a, databases: [{sharrd: x}]}]\n",
                "tenant a: databases[0]: unknown field \"sharrd\"",
            ),
            ("tenants: [{name: a, databases: [{users: [{pasword: x}]}]}]\n", "\"pasword\""),
            ("tenants: [{name: a, email_accounts: [{autoreply: {subjekt: x}}]}]\n", "\"subjekt\""),
            (
                "tenants: [{name: a, webroots: [{daemons: [{comand: x}]}]}]\n",
                "site without a name: daemons[0]",
            ),
            ("oidc_clients: [{clientid: x}]\n", "\"clientid\""),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_record_of_an_address_needs_no_type_and_any_other_does() {
        let text = "zones:
  - name: a.example
    brand: A
    records:
      - {name: ns1, content: 192.0.2.1}
      - {name: ns2, content: '2001:db8::1'}
      - {name: www, content: a.example., type: CNAME}
      - {name: unset, content: '${NO_SUCH_VARIABLE}'}
";
        let zone = read(text).unwrap().zones.remove(0);
        let kinds: Vec<Option<&str>> = zone.records.iter().map(|record| record.kind().ok()).collect();
        assert_eq!(kinds, [Some("A"), Some("AAAA"), Some("CNAME"), None]);
        let error = read(&format!("{text}      - {{name: x, content: a.example.}}\n")).unwrap_err();
        assert!(error.contains("zone a.example") && error.contains("`type` is missing"), "{error}");
    }

    #[test]
    fn what_is_not_served_is_named_once_each_and_what_is_empty_is_not() {
        let text = "
oidc_clients: [{id: a, secret: s, name: n, redirect_uris: [x]}]
tenants:
  - name: first
    sftp_enabled: true
    ssh_enabled: false
    ssh_keys: []
    databases: [{subscription: main, shard: db-1, users: [{suffix: _a, password: p, privileges: [ALL]}]}, {shard: x}]
    valkey_instances:
    backups: [{type: web}]
    webroots:
      - fqdns: [{fqdn: www.a.example}]
        env_vars: [{name: A, value: b, secret: true}]
        fixture: {tarball: x, env_vars: {A: b}, setup_path: /setup}
";
        let found = read(text).unwrap().not_served();
        let wanted = [
            "oidc_clients (1)",
            "tenant first: databases (2)",
            "tenant first: backups (1)",
            "tenant first: site www.a.example: env_vars (1)",
            "tenant first: sftp_enabled",
            "tenant first: site www.a.example: fixture.env_vars",
            "tenant first: site www.a.example: fixture.setup_path",
        ];
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found.starts_with(&format!("{wanted}: not served")), "{found}");
        }
        assert!(read("tenants: []\n").unwrap().not_served().is_empty());
    }
}
