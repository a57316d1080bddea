//! A site.

pub mod env;

use std::{collections::BTreeMap, sync::OnceLock};

use hosting_intent::php::{Bounds, Problem, ProcessNumbers, Processes, Settings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::env::{EnvValue, EnvVarBody};
use super::fqdn::{Fqdn, FqdnCreate};
use super::subscription::Subscription;
use super::zone_record::AutoRecord;
use crate::definition::{Build, Definition, to_map};
use crate::document::is_false;
use crate::input::Unserved;
use crate::faults::Faults;
use crate::{Codes, Doc, Document, Facet, Filter, Id, IdPolicy, Index, Kind, KindInfo, Owns, Parent, Ref, Resource, Secret, SpecError, Status, Tier, check};

/// What is stored of a webroot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WebrootSpec {
    /// What it is billed with.
    pub subscription_id: Id<Subscription>,
    /// `php` or `static`; `node`, `python` and `ruby` are not served yet.
    pub runtime: String,
    /// PHP: e.g. `8.2`.
    #[serde(default)]
    pub runtime_version: String,
    /// PHP: see [`PhpConfig`].
    #[serde(default)]
    pub runtime_config: Map<String, Value>,
    /// The document root, relative to the webroot (`current/public`); empty: the webroot itself.
    #[serde(default)]
    pub public_folder: String,
    /// Name of the dotenv file in the webroot.
    #[serde(default)]
    pub env_file_name: String,
    /// Whether `{webroot}.{tenant}.{brand.base_hostname}` is wanted.
    #[serde(default)]
    pub service_hostname_enabled: bool,
    /// What its programs find in their environment, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
}

/// A PHP webroot's `runtime_config`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PhpConfig {
    /// The pool's processes.
    pub pm: PhpPm,
    /// `php_value[..]`: the application may change them. Only settings of a list (docs/operators/php.md), each of a type.
    pub php_values: BTreeMap<String, Value>,
    /// `php_admin_value[..]`: the application may not.
    pub php_admin_values: BTreeMap<String, Value>,
    /// Longest request in seconds; default 300, at most what the operator allows.
    #[schemars(range(min = 1, max = 86_400))]
    pub request_seconds: Option<i64>,
}

/// A pool's processes. What is absent follows from what is given; without any of `start_servers`, `min_spare_servers` and
/// `max_spare_servers` a process is started when a request comes.
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PhpPool {
    /// Its processes.
    pub processes: Processes,
    /// Settings and limits.
    pub settings: Settings,
}

static BOUNDS: OnceLock<Bounds> = OnceLock::new();

/// Says once, when the process starts, what its operator allows PHP sites; before that the defaults hold.
pub fn set_php_bounds(bounds: Bounds) {
    // A second call changes nothing: what was accepted must not depend on when it came.
    let _ = BOUNDS.set(bounds);
}

fn php_bounds() -> Bounds {
    BOUNDS.get().copied().unwrap_or_default()
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
    let within =
        |problem: Problem| SpecError::invalid(format!("runtime_config.{}", problem.field), problem.problem);
    let seconds = match config.request_seconds {
        None => 0,
        Some(given) => {
            let most = i64::from(hosting_intent::php::REQUEST_SECONDS_MOST);
            check::between("runtime_config.request_seconds", given, 1, most)?;
            u32::try_from(given).unwrap_or_default()
        }
    };
    let values = texts("runtime_config.php_values", &config.php_values)?;
    let admin_values = texts("runtime_config.php_admin_values", &config.php_admin_values)?;
    let settings = Settings::new(&values, &admin_values, seconds).map_err(within)?;
    let PhpPm { max_children, start_servers, min_spare_servers, max_spare_servers, max_requests } = config.pm;
    let numbers =
        ProcessNumbers { max_children, start_servers, min_spare_servers, max_spare_servers, max_requests };
    Ok(PhpPool { processes: Processes::new(&numbers).map_err(within)?, settings })
}

/// As [`php_pool`], for what is stored already: what today's rules refuse of it is left out, so that the site stays up.
#[must_use]
pub fn stored_php_pool(config: &Map<String, Value>) -> PhpPool {
    let mut pool = php_pool(config).unwrap_or_else(|_| {
        let mut kept = Map::new();
        for (field, value) in config {
            let mut value = value.clone();
            if let (true, Value::Object(settings)) = (field.starts_with("php_"), &mut value) {
                settings.retain(|name, value| {
                    let one = [(
                        field.clone(),
                        Value::Object([(name.clone(), value.clone())].into_iter().collect()),
                    )];
                    php_pool(&one.into_iter().collect()).is_ok()
                });
            }
            kept.insert(field.clone(), value);
            if php_pool(&kept).is_err() {
                kept.remove(field);
            }
        }
        php_pool(&kept).unwrap_or_else(|_| PhpPool::default())
    });
    if let Ok(settings) = pool.settings.clone().within(&php_bounds()) {
        pool.settings = settings;
    }
    pool
}

/// Settings as texts: what their types make of these is decided by [`Settings`].
fn texts(field: &str, given: &BTreeMap<String, Value>) -> Result<BTreeMap<String, String>, SpecError> {
    given
        .iter()
        .map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(true) => "1".to_owned(),
                Value::Bool(false) => "0".to_owned(),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    let at = format!("{field}.{name}");
                    return Err(SpecError::invalid(at, "must be a text, a number or a boolean"));
                }
            };
            Ok((name.clone(), text))
        })
        .collect()
}

/// What a caller writes is held to what the operator allows. What is stored is not: a lowered bound must not refuse every
/// other change of a site.
fn bounded(config: &Map<String, Value>) -> Result<(), SpecError> {
    let pool = php_pool(config)?;
    pool.settings
        .within(&php_bounds())
        .map(drop)
        .map_err(|problem| SpecError::invalid(format!("runtime_config.{}", problem.field), problem.problem))
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
    #[serde(default)]
    env_file_name: String,
    #[serde(default = "yes")]
    service_hostname_enabled: bool,
    /// Names to bind to it.
    #[serde(default)]
    fqdns: Vec<FqdnCreate>,
    /// What its programs find in their environment.
    #[serde(default)]
    env_vars: Vec<EnvVarBody>,
    #[serde(default)]
    daemons: Unserved,
    #[serde(default)]
    cron_jobs: Unserved,
}

/// Name of the dotenv file where none is given.
const ENV_FILE: &str = ".env.hosting";

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
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
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
    let mut faults = Faults::default();
    if !spec.subscription_id.is_empty() {
        faults.note(check::reference("subscription_id", &spec.subscription_id));
    }
    match spec.runtime.as_str() {
        unknown if !RUNTIMES.contains(&unknown) => {
            faults.note(check::one_of("runtime", unknown, RUNTIMES));
        }
        "php" => {
            let version = hosting_intent::php::check_version(&spec.runtime_version);
            faults.note(version.map_err(|why| SpecError::invalid("runtime_version", why)));
            faults.note(php_pool(&spec.runtime_config));
        }
        "static" => {
            let version = &spec.runtime_version;
            if version.len() > 32
                || !version.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            {
                let problem = "must be at most 32 of A-Z a-z 0-9 . _ -";
                faults.note::<()>(Err(SpecError::invalid("runtime_version", problem)));
            }
        }
        other => {
            faults.note::<()>(Err(SpecError::NotServed {
                field: "runtime".to_owned(),
                detail: format!("{other:?} is not served by this platform yet; php and static are"),
            }));
        }
    }
    let folder = check::folder("public_folder", &spec.public_folder);
    faults.put(&mut spec.public_folder, folder);
    let file = &spec.env_file_name;
    let sound = file.len() <= 255
        && file != "."
        && file != ".."
        && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !sound {
        faults.note::<()>(Err(SpecError::invalid("env_file_name", "must be a file name of A-Z a-z 0-9 . _ -")));
    }
    faults.end()
}

/// What the controller keeps about a webroot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WebrootState {
    /// One node has it ready, or had.
    #[serde(skip_serializing_if = "is_false")]
    pub site_ready: bool,
    /// Every edge in service applied the routes of its service host names, or had.
    #[serde(skip_serializing_if = "is_false")]
    pub routed: bool,
    /// The service host names that its automatic records were made for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_names: Vec<String>,
    /// Its automatic records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub auto_records: Vec<AutoRecord>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct Webroot;

impl Document for Webroot {
    const KIND: Kind = Kind::Webroot;
    type Spec = WebrootSpec;
    type State = WebrootState;
}

impl Webroot {
    pub(crate) fn build(input: WebrootCreate, tenant: &str, build: &mut Build<'_>) -> Result<(), SpecError> {
        input.daemons.check("daemons")?;
        input.cron_jobs.check("cron_jobs")?;
        let mut spec = WebrootSpec {
            subscription_id: input.subscription_id.into(),
            runtime: input.runtime,
            runtime_version: input.runtime_version,
            runtime_config: input.runtime_config,
            public_folder: input.public_folder,
            env_file_name: if input.env_file_name.is_empty() {
                ENV_FILE.to_owned()
            } else {
                input.env_file_name
            },
            service_hostname_enabled: input.service_hostname_enabled,
            env: env::set("env_vars", input.env_vars, &BTreeMap::new())?,
        };
        normalise(&mut spec)?;
        if spec.runtime == "php" {
            bounded(&spec.runtime_config)?;
        }
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id.clone(), Some(tenant), &spec)?;
        for (n, fqdn) in input.fqdns.into_iter().enumerate() {
            Fqdn::build(fqdn, tenant, Some(&id), build).map_err(|e| e.within(&format!("fqdns[{n}]")))?;
        }
        Ok(())
    }
}

impl Definition for Webroot {
    type Create = WebrootCreate;
    type Update = WebrootUpdate;
    type Extra = WebrootExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Webroot",
        about: "A site.",
        collection: "/tenants/{tenantID}/webroots",
        item: "/webroots/{id}",
        parent: Some(Parent { kind: Kind::Tenant, param: "tenantID", field: "tenant_id" }),
        lists: &[],
        scope: "webroots",
        tier: Tier::Brand,
        owns: Owns::Nothing,
        host_labels: false,
        suspends_with_tenant: true,
        codes: Codes { create: 202, update: Some(202), delete: 202 },
        retry: true,
        id: IdPolicy::Prefixed("web_"),
        shape: 1,
        status: true,
        sort: &[],
        filters: &[Filter::subscription("subscription_id")],
        platform_only: &[],
        global_search: true,
        hidden: &["env"],
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
        let configured = input.runtime_config.is_some();
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
        if configured && spec.runtime == "php" {
            bounded(&spec.runtime_config)?;
        }
        Ok(None)
    }

    fn label(id: &str, _: &WebrootSpec) -> String {
        id.to_owned()
    }

    fn index(resource: &Resource, spec: &WebrootSpec, index: &mut Index) {
        index.refs.push(Ref {
            relation: "subscription_id",
            kind: Kind::Subscription,
            to: spec.subscription_id.to_string(),
        });
        index.facets.push(Facet { field: "subscription_id", value: spec.subscription_id.to_string() });
        if let Some(tenant) = &resource.tenant {
            index.facets.push(Facet { field: "tenant_id", value: tenant.clone() });
        }
    }

    fn secrets(spec: &WebrootSpec, each: &mut dyn FnMut(String, &Secret)) {
        env::secrets(&spec.env, each);
    }

    fn extra(_: &Doc<Self>) -> WebrootExtra {
        WebrootExtra { suspend_reason: String::new() }
    }

    fn example() -> Value {
        let config = PhpConfig {
            pm: PhpPm { max_children: Some(10), ..PhpPm::default() },
            php_values: [("memory_limit".to_owned(), Value::from("256M"))].into(),
            php_admin_values: BTreeMap::new(),
            request_seconds: None,
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
