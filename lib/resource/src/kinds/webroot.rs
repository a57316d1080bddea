//! A site.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fqdn::{Fqdn, FqdnCreate};
use super::tenant::suspend_reason;
use crate::definition::{Build, Definition, to_map};
use crate::input::Unserved;
use crate::{
    Codes, Facet, Filter, IdPolicy, Index, Kind, KindInfo, Parent, Ref, Resource, SpecError, Status, Tier,
    check,
};

/// What is stored of a webroot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WebrootSpec {
    /// What it is billed with.
    pub subscription_id: String,
    /// `php` or `static`; `node`, `python` and `ruby` are not served yet.
    pub runtime: String,
    /// PHP: e.g. `8.2`.
    #[serde(default)]
    pub runtime_version: String,
    /// PHP: see [`PhpConfig`].
    #[serde(default)]
    pub runtime_config: Map<String, Value>,
    /// The document root, relative to the webroot; empty: the webroot itself.
    #[serde(default)]
    pub public_folder: String,
    /// Name of the dotenv file in the webroot; empty: none.
    #[serde(default)]
    pub env_file_name: String,
    /// Whether `{webroot}.{tenant}.{brand.base_hostname}` is wanted.
    #[serde(default)]
    pub service_hostname_enabled: bool,
}

/// A PHP webroot's `runtime_config`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PhpConfig {
    /// The pool's processes.
    pub pm: PhpPm,
    /// `php_value[..]`: the application may change them.
    pub php_values: BTreeMap<String, Value>,
    /// `php_admin_value[..]`: the application may not.
    pub php_admin_values: BTreeMap<String, Value>,
}

/// A pool's processes. What is absent follows from what is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PhpPm {
    /// Most at a time; default 5.
    #[schemars(range(min = 1, max = 200))]
    pub max_children: Option<i64>,
    /// At the start; default 2.
    #[schemars(range(min = 1, max = 200))]
    pub start_servers: Option<i64>,
    /// Idle ones, at least; default 1.
    #[schemars(range(min = 1, max = 200))]
    pub min_spare_servers: Option<i64>,
    /// Idle ones, at most; default 3.
    #[schemars(range(min = 1, max = 200))]
    pub max_spare_servers: Option<i64>,
    /// Requests after which a process is replaced, 0: never; default 500.
    #[schemars(range(min = 0, max = 100_000))]
    pub max_requests: Option<i64>,
}

/// A PHP pool with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhpPool {
    /// 1..=200
    pub max_children: u32,
    /// 1..=200
    pub start_servers: u32,
    /// 1..=200
    pub min_spare_servers: u32,
    /// 1..=200
    pub max_spare_servers: u32,
    /// 0..=100000
    pub max_requests: u32,
    /// Texts without control characters.
    pub values: BTreeMap<String, String>,
    /// Texts without control characters.
    pub admin_values: BTreeMap<String, String>,
}

/// Settings that keep a site inside its own folders, load code past them, or write where they say; no site sets them. Nodes
/// refuse the same (`nodeagent/src/render/php.rs`).
const FORBIDDEN: &[&str] = &[
    "open_basedir",
    "error_log",
    "slowlog",
    "disable_functions",
    "disable_classes",
    "doc_root",
    "user_dir",
    "extension",
    "extension_dir",
    "zend_extension",
    "enable_dl",
    "sys_temp_dir",
    "upload_tmp_dir",
    "mail.log",
    "soap.wsdl_cache_dir",
];

/// Families of settings that no site sets. The script cache is shared by all sites of a PHP version.
const FORBIDDEN_FAMILIES: &[&str] = &["ffi.", "opcache.", "xdebug."];

/// What a site may say of the script cache all the same.
const OPCACHE: &[&str] =
    &["opcache.enable", "opcache.revalidate_freq", "opcache.validate_timestamps", "opcache.save_comments"];

/// `session.save_path` leads to a server or stays where the platform put it: PHP does not hold a folder that the
/// configuration names to `open_basedir`, so it could be another site's.
fn is_session_server(path: &str) -> bool {
    ["tcp://", "tls://"].iter().any(|scheme| path.starts_with(scheme))
}

const RUNTIMES: &[&str] = &["php", "node", "python", "ruby", "static"];

/// The pool that a PHP webroot's `runtime_config` means.
///
/// # Errors
/// The first rule that the configuration breaks; fields are named from `runtime_config` on.
pub fn php_pool(config: &Map<String, Value>) -> Result<PhpPool, SpecError> {
    let config = crate::input::parse::<PhpConfig>(&crate::input::without_nulls(config))
        .map_err(|error| error.within("runtime_config"))?
        .value;
    let number = |field: &str, given: Option<i64>, default: i64, low: i64, high: i64| {
        let value = given.unwrap_or(default);
        check::between(&format!("runtime_config.pm.{field}"), value, low, high)?;
        u32::try_from(value).map_err(|_| SpecError::invalid(field, "out of range"))
    };
    let pm = config.pm;
    // A default never contradicts a number that was given: php-fpm refuses to start a pool that does not fit together.
    let max_children = number("max_children", pm.max_children, 5, 1, 200)?;
    let most = i64::from(max_children);
    let max_spare_servers = number("max_spare_servers", pm.max_spare_servers, most.min(3), 1, 200)?;
    let spare = i64::from(max_spare_servers);
    let min_spare_servers = number("min_spare_servers", pm.min_spare_servers, 1, 1, 200)?;
    let least = i64::from(min_spare_servers);
    let start_servers = number("start_servers", pm.start_servers, 2.clamp(least, spare.max(least)), 1, 200)?;
    let max_requests = number("max_requests", pm.max_requests, 500, 0, 100_000)?;
    if max_spare_servers > max_children {
        return Err(SpecError::invalid(
            "runtime_config.pm.max_spare_servers",
            format!("{max_spare_servers} must not exceed max_children ({max_children})"),
        ));
    }
    if min_spare_servers > max_spare_servers {
        return Err(SpecError::invalid(
            "runtime_config.pm.min_spare_servers",
            format!("{min_spare_servers} must not exceed max_spare_servers ({max_spare_servers})"),
        ));
    }
    if !(min_spare_servers..=max_spare_servers).contains(&start_servers) {
        return Err(SpecError::invalid(
            "runtime_config.pm.start_servers",
            format!("{start_servers} must lie between min_spare_servers and max_spare_servers"),
        ));
    }
    Ok(PhpPool {
        max_children,
        start_servers,
        min_spare_servers,
        max_spare_servers,
        max_requests,
        values: settings("runtime_config.php_values", &config.php_values)?,
        admin_values: settings("runtime_config.php_admin_values", &config.php_admin_values)?,
    })
}

fn settings(field: &str, given: &BTreeMap<String, Value>) -> Result<BTreeMap<String, String>, SpecError> {
    if given.len() > 100 {
        return Err(SpecError::invalid(field, "at most 100 settings"));
    }
    given
        .iter()
        .map(|(name, value)| {
            let at = format!("{field}.{name}");
            let sound = (1..=64).contains(&name.len())
                && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
            if !sound {
                return Err(SpecError::invalid(field, format!("{name:?} is no PHP setting")));
            }
            let lower = name.to_ascii_lowercase();
            let in_family = FORBIDDEN_FAMILIES.iter().any(|family| lower.starts_with(family));
            if FORBIDDEN.contains(&lower.as_str()) || in_family && !OPCACHE.contains(&lower.as_str()) {
                return Err(SpecError::invalid(at, "is set by the platform and cannot be changed"));
            }
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(true) => "1".to_owned(),
                Value::Bool(false) => "0".to_owned(),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err(SpecError::invalid(at, "must be a text, a number or a boolean"));
                }
            };
            check::optional_text(&at, &text, 1024)?;
            if let Some(odd) = text.chars().find(|c| "\"\\$".contains(*c)) {
                return Err(SpecError::invalid(at, format!("must not contain {odd:?}")));
            }
            if lower == "session.save_path" && !is_session_server(&text) {
                return Err(SpecError::invalid(
                    at,
                    "must begin with tcp:// or tls://; files stay where they are",
                ));
            }
            Ok((name.clone(), text))
        })
        .collect()
}

/// Body of POST /tenants/{tenantID}/webroots.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct WebrootCreate {
    /// Absent: the tenant's subscription `default`, which is made when it is first needed.
    #[serde(default)]
    subscription_id: String,
    /// `php` or `static`; `node`, `python` and `ruby` are answered with 501.
    runtime: String,
    /// Required for PHP, e.g. `8.2`.
    #[serde(default)]
    runtime_version: String,
    #[serde(default)]
    #[schemars(with = "PhpConfig")]
    runtime_config: Map<String, Value>,
    #[serde(default)]
    public_folder: String,
    #[serde(default = "default_env_file")]
    env_file_name: String,
    #[serde(default = "yes")]
    service_hostname_enabled: bool,
    /// Names to bind to it.
    #[serde(default)]
    fqdns: Vec<FqdnCreate>,
    #[serde(default)]
    env_vars: Unserved,
    #[serde(default)]
    daemons: Unserved,
    #[serde(default)]
    cron_jobs: Unserved,
}

fn default_env_file() -> String {
    ".env.hosting".to_owned()
}

fn yes() -> bool {
    true
}

/// Body of PUT /webroots/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct WebrootUpdate {
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    runtime: Option<String>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    runtime_version: Option<String>,
    #[serde(default)]
    #[schemars(with = "Option<PhpConfig>")]
    runtime_config: Option<Map<String, Value>>,
    #[serde(default)]
    public_folder: Option<String>,
    #[serde(default)]
    env_file_name: Option<String>,
    #[serde(default)]
    service_hostname_enabled: Option<bool>,
    #[serde(default)]
    env_vars: Unserved,
}

/// What is shown beside the spec.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WebrootExtra {
    /// Why it is suspended; empty when it is not.
    suspend_reason: String,
}

fn normalise(spec: &mut WebrootSpec) -> Result<(), SpecError> {
    if !spec.subscription_id.is_empty() {
        check::reference("subscription_id", &spec.subscription_id)?;
    }
    check::one_of("runtime", &spec.runtime, RUNTIMES)?;
    match spec.runtime.as_str() {
        "php" => {
            let sound = spec.runtime_version.split_once('.').is_some_and(|(major, minor)| {
                [major, minor]
                    .iter()
                    .all(|part| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
            });
            if !sound {
                return Err(SpecError::invalid(
                    "runtime_version",
                    format!("{:?} must be a PHP version like 8.2", spec.runtime_version),
                ));
            }
            php_pool(&spec.runtime_config)?;
        }
        "static" => {
            let version = &spec.runtime_version;
            if version.len() > 32
                || !version.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            {
                return Err(SpecError::invalid("runtime_version", "must be at most 32 of A-Z a-z 0-9 . _ -"));
            }
        }
        other => {
            return Err(SpecError::NotServed {
                field: "runtime".to_owned(),
                detail: format!("{other:?} is not served by this platform yet; php and static are"),
            });
        }
    }
    spec.public_folder = check::folder("public_folder", &spec.public_folder)?;
    let file = &spec.env_file_name;
    let sound = file.len() <= 255
        && file != "."
        && file != ".."
        && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if sound {
        Ok(())
    } else {
        Err(SpecError::invalid("env_file_name", "must be a file name of A-Z a-z 0-9 . _ -"))
    }
}

pub(crate) struct Webroot;

impl Webroot {
    pub(crate) fn build(input: WebrootCreate, tenant: &str, build: &mut Build<'_>) -> Result<(), SpecError> {
        input.env_vars.check("env_vars")?;
        input.daemons.check("daemons")?;
        input.cron_jobs.check("cron_jobs")?;
        let mut spec = WebrootSpec {
            subscription_id: input.subscription_id,
            runtime: input.runtime,
            runtime_version: input.runtime_version,
            runtime_config: input.runtime_config,
            public_folder: input.public_folder,
            env_file_name: input.env_file_name,
            service_hostname_enabled: input.service_hostname_enabled,
        };
        normalise(&mut spec)?;
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id.clone(), Some(tenant), &spec)?;
        for (n, fqdn) in input.fqdns.into_iter().enumerate() {
            Fqdn::build(fqdn, tenant, Some(&id), build).map_err(|e| e.within(&format!("fqdns[{n}]")))?;
        }
        Ok(())
    }
}

impl Definition for Webroot {
    type Spec = WebrootSpec;
    type Create = WebrootCreate;
    type Update = WebrootUpdate;
    type Extra = WebrootExtra;

    const INFO: KindInfo = KindInfo {
        kind: Kind::Webroot,
        title: "Webroot",
        about: "A site.",
        collection: "/tenants/{tenantID}/webroots",
        item: "/webroots/{id}",
        parent: Some(Parent { kind: Kind::Tenant, param: "tenantID", field: "tenant_id" }),
        lists: &[],
        scope: "webroots",
        tier: Tier::Brand,
        codes: Codes { create: 202, update: Some(202), delete: 202 },
        retry: true,
        id: IdPolicy::Prefixed("web_"),
        shape: 1,
        status: true,
        sort: &[],
        filters: &[Filter::id("subscription_id")],
        platform_only: &[],
        global_search: true,
        hidden: &[],
        nullable: &[],
        joins: &[],
    };
    const INITIAL: Status = Status::Pending;

    fn create(
        input: WebrootCreate,
        parent: Option<&Resource>,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        Self::build(input, parent.map(|parent| parent.id.as_str()).unwrap_or_default(), build)
    }

    fn update(
        spec: &mut WebrootSpec,
        input: WebrootUpdate,
        _: &Resource,
    ) -> Result<Option<Status>, SpecError> {
        input.env_vars.check("env_vars")?;
        if let Some(runtime) = input.runtime {
            spec.runtime = runtime;
        }
        if let Some(version) = input.runtime_version {
            spec.runtime_version = version;
        }
        if let Some(config) = input.runtime_config {
            spec.runtime_config = config;
        }
        if let Some(folder) = input.public_folder {
            spec.public_folder = folder;
        }
        if let Some(file) = input.env_file_name {
            spec.env_file_name = file;
        }
        if let Some(wanted) = input.service_hostname_enabled {
            spec.service_hostname_enabled = wanted;
        }
        normalise(spec)?;
        Ok(None)
    }

    fn label(id: &str, _: &WebrootSpec) -> String {
        id.to_owned()
    }

    fn index(resource: &Resource, spec: &WebrootSpec, index: &mut Index) {
        index.refs.push(Ref {
            relation: "subscription_id",
            kind: Kind::Subscription,
            to: spec.subscription_id.clone(),
        });
        index.facets.push(Facet { field: "subscription_id", value: spec.subscription_id.clone() });
        if let Some(tenant) = &resource.tenant {
            index.facets.push(Facet { field: "tenant_id", value: tenant.clone() });
        }
    }

    fn extra(resource: &Resource) -> WebrootExtra {
        WebrootExtra { suspend_reason: suspend_reason(resource) }
    }

    fn example() -> Value {
        let config = PhpConfig {
            pm: PhpPm { max_children: Some(10), ..PhpPm::default() },
            php_values: [("memory_limit".to_owned(), Value::from("256M"))].into(),
            php_admin_values: BTreeMap::new(),
        };
        json!({
            "subscription_id": "crm-4711",
            "runtime": "php",
            "runtime_version": "8.2",
            "runtime_config": Value::Object(crate::input::without_nulls(&to_map(&config).unwrap_or_default())),
            "public_folder": "public",
            "fqdns": [{"fqdn": "www.customer-1.example", "ssl_enabled": true}],
        })
    }
}
