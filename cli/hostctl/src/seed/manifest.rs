//! The seed file.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::environment;

/// The whole file. Unknown fields are an error: a misspelt one must not be lost.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Manifest {
    pub api_url: Option<String>,
    pub api_key: Option<String>,
    #[serde(rename = "lb_traffic_url")]
    _lb_traffic_url: Option<String>,
    pub region: Option<String>,
    pub cluster: Option<String>,
    pub brands: Vec<Brand>,
    pub zones: Vec<Zone>,
    pub oidc_clients: Vec<Value>,
    pub tenants: Vec<Tenant>,
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
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tenant {
    pub name: String,
    pub brand: String,
    pub customer_id: String,
    pub shard: Option<String>,
    pub sftp_enabled: bool,
    pub ssh_enabled: bool,
    pub subscriptions: Vec<Subscription>,
    pub webroots: Vec<Webroot>,
    pub ssh_keys: Vec<Value>,
    pub egress_rules: Vec<Value>,
    pub databases: Vec<Value>,
    pub valkey_instances: Vec<Value>,
    pub s3_buckets: Vec<Value>,
    pub email_accounts: Vec<Value>,
    pub backups: Vec<Value>,
    pub wireguard_peers: Vec<Value>,
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
    pub env_vars: Vec<Value>,
    pub fqdns: Vec<Fqdn>,
    pub fixture: Option<Fixture>,
    pub daemons: Vec<Value>,
    pub cron_jobs: Vec<Value>,
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
    pub env_vars: Map<String, Value>,
    pub setup_path: Option<String>,
    #[serde(rename = "hosts_entry")]
    _hosts_entry: Option<Value>,
}

impl Manifest {
    /// Reads the file; `${NAME}` in it is replaced from `vars`, then from the environment.
    pub(super) fn read(file: &Path, vars: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = substitute(&text, |name| vars.get(name).cloned().or_else(|| environment::variable(name)))
            .with_context(|| file.display().to_string())?;
        serde_saphyr::from_str(&text).with_context(|| format!("{} is no seed file", file.display()))
    }

    /// Before anything is written: what the platform does not serve yet.
    pub(super) fn refuse_what_is_not_served(&self, file: &Path) -> anyhow::Result<()> {
        let mut found = Vec::new();
        if !self.oidc_clients.is_empty() {
            found.push("oidc_clients".to_owned());
        }
        for tenant in &self.tenants {
            let lists = [
                ("ssh_keys", &tenant.ssh_keys),
                ("egress_rules", &tenant.egress_rules),
                ("databases", &tenant.databases),
                ("valkey_instances", &tenant.valkey_instances),
                ("s3_buckets", &tenant.s3_buckets),
                ("email_accounts", &tenant.email_accounts),
                ("backups", &tenant.backups),
                ("wireguard_peers", &tenant.wireguard_peers),
            ];
            let name = &tenant.name;
            found.extend(
                lists.iter().filter(|(_, list)| !list.is_empty()).map(|(list, _)| format!("{name}: {list}")),
            );
            for (index, webroot) in tenant.webroots.iter().enumerate() {
                let at = format!("{name}: webroots[{index}]");
                let lists = [
                    ("env_vars", &webroot.env_vars),
                    ("daemons", &webroot.daemons),
                    ("cron_jobs", &webroot.cron_jobs),
                ];
                found.extend(
                    lists.iter().filter(|(_, list)| !list.is_empty()).map(|(list, _)| format!("{at}.{list}")),
                );
                if let Some(fixture) = &webroot.fixture
                    && (!fixture.env_vars.is_empty() || fixture.setup_path.is_some())
                {
                    found.push(format!("{at}.fixture: env_vars, setup_path"));
                }
            }
        }
        if !found.is_empty() {
            bail!(
                "{} asks for what the platform does not serve yet; nothing was changed. Leave out:\n  {}",
                file.display(),
                found.join("\n  ")
            );
        }
        Ok(())
    }
}

impl Webroot {
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

/// Replaces `${NAME}`.
fn substitute(text: &str, value: impl Fn(&str) -> Option<String>) -> anyhow::Result<String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        let end = after.find('}').context("a `${` without `}`")?;
        let name = &after[..end];
        result.push_str(before);
        result.push_str(&value(name).with_context(|| format!("${{{name}}} is not set in the environment"))?);
        rest = &after[end + 1..];
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_a_missing_one_is_named() {
        let value = |name: &str| (name == "V").then(|| "8.2".to_owned());
        assert_eq!(substitute("a: ${V}, b: ${V}\n", value).unwrap(), "a: 8.2, b: 8.2\n");
        assert!(substitute("${W}", value).unwrap_err().to_string().contains("${W}"));
        assert!(substitute("${V", value).is_err());
    }

    #[test]
    fn a_misspelt_field_and_an_unserved_list_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seed.yaml");
        std::fs::write(&file, "tenants:\n  - name: a\n    brnad: b\n").unwrap();
        let error = format!("{:#}", Manifest::read(&file, &BTreeMap::new()).unwrap_err());
        assert!(error.contains("brnad"), "{error}");

        std::fs::write(&file, "tenants:\n  - name: a\n    databases: [{subscription: x}]\n").unwrap();
        let manifest = Manifest::read(&file, &BTreeMap::new()).unwrap();
        let error = manifest.refuse_what_is_not_served(&file).unwrap_err().to_string();
        assert!(error.contains("a: databases"), "{error}");
    }
}
