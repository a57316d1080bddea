//! php-fpm: the main configuration of a version, one pool per site.

use std::{collections::BTreeMap, fmt::Write as _};

use hosting_agent_engine::{ConfigLayout, Place, Root};

use super::{BadValue, fingerprint, nginx::Rendered, plain_id, safe_path, word};
use crate::layout::{Layout, PING_PATH, php_folder, pool_socket, tenant_logs};

/// A site's pool, before its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Webroot id.
    pub id: String,
    /// Its tenant.
    pub tenant: String,
    /// PHP version.
    pub version: String,
    /// Processes.
    pub processes: Processes,
    /// php.ini settings that scripts may change.
    pub values: BTreeMap<String, String>,
    /// php.ini settings that they may not.
    pub admin_values: BTreeMap<String, String>,
}

/// How many processes a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processes {
    /// 1–200.
    pub max_children: u32,
    /// 1–200.
    pub start: u32,
    /// 1–200.
    pub min_spare: u32,
    /// 1–200.
    pub max_spare: u32,
    /// Requests after which a process is replaced: 0 (never) to 100 000.
    pub max_requests: u32,
}

/// Settings that hold a site inside its own folders, would load code past them, or write where they say. No site sets them.
/// The API refuses the same (`lib/resource/src/kinds/webroot.rs`).
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
const FORBIDDEN_PREFIXES: &[&str] = &["ffi.", "opcache.", "xdebug."];

/// What a site may say of the script cache all the same.
const OPCACHE: &[&str] =
    &["opcache.enable", "opcache.revalidate_freq", "opcache.validate_timestamps", "opcache.save_comments"];

const SESSION_PATH: &str = "session.save_path";

impl Processes {
    /// From an intent, where 0 means that nothing was said (`max_requests` excepted).
    ///
    /// # Errors
    /// Numbers that php-fpm would not start a pool with.
    pub fn from_intent(pool: Option<&hosting_intent::message::PhpPool>) -> Result<Self, BadValue> {
        let Some(pool) = pool else {
            return Ok(Self { max_children: 5, start: 2, min_spare: 1, max_spare: 3, max_requests: 500 });
        };
        let given = |value: u32, default: u32| if value == 0 { default } else { value };
        let max_children = given(pool.max_children, 5);
        let max_spare = given(pool.max_spare_servers, 3.min(max_children));
        let min_spare = given(pool.min_spare_servers, 1.min(max_spare));
        let start = given(pool.start_servers, 2.clamp(min_spare, max_spare.max(min_spare)));
        let processes = Self { max_children, start, min_spare, max_spare, max_requests: pool.max_requests };
        processes.check()?;
        Ok(processes)
    }

    fn check(&self) -> Result<(), BadValue> {
        let rule = |holds: bool, what: &str, problem: &str| {
            if holds { Ok(()) } else { Err(BadValue::new(what, problem)) }
        };
        rule((1..=200).contains(&self.max_children), "php.max_children", "must be 1 to 200")?;
        rule(
            (1..=self.max_children).contains(&self.max_spare),
            "php.max_spare_servers",
            "must be 1 to php.max_children",
        )?;
        rule(
            (1..=self.max_spare).contains(&self.min_spare),
            "php.min_spare_servers",
            "must be 1 to php.max_spare_servers",
        )?;
        rule(
            (self.min_spare..=self.max_spare).contains(&self.start),
            "php.start_servers",
            "must be php.min_spare_servers to php.max_spare_servers",
        )?;
        rule(self.max_requests <= 100_000, "php.max_requests", "must be at most 100000")
    }
}

/// Double quotes; refuses what the INI scanner or php-fpm expand inside of them.
fn quote(what: &str, value: &str) -> Result<String, BadValue> {
    if value.len() > 4096 {
        return Err(BadValue::new(what, "must be at most 4096 bytes"));
    }
    if let Some(odd) = value.chars().find(|c| c.is_control() || "\"\\$".contains(*c)) {
        return Err(BadValue::new(what, format!("must not hold {odd:?}")));
    }
    Ok(format!("\"{value}\""))
}

/// The name of a php.ini setting that a site may have.
fn setting<'a>(what: &str, name: &'a str) -> Result<&'a str, BadValue> {
    let fits = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    if !fits {
        return Err(BadValue::new(what, format!("{name:?} is no PHP setting")));
    }
    let lower = name.to_ascii_lowercase();
    let in_family = FORBIDDEN_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    if FORBIDDEN.contains(&lower.as_str()) || in_family && !OPCACHE.contains(&lower.as_str()) {
        return Err(BadValue::new(format!("{what}.{name}"), "is set by the platform and cannot be changed"));
    }
    Ok(name)
}

/// `error_reporting` is an expression over constants (`E_ALL & ~E_NOTICE`), which quotes would make a text of.
fn value(what: &str, name: &str, given: &str) -> Result<String, BadValue> {
    // PHP holds no folder that the configuration names to `open_basedir`: it could be another site's.
    if name.eq_ignore_ascii_case(SESSION_PATH)
        && !["tcp://", "tls://"].iter().any(|scheme| given.starts_with(scheme))
    {
        return Err(BadValue::new(format!("{what}.{name}"), "must begin with tcp:// or tls://"));
    }
    let is_expression = name.eq_ignore_ascii_case("error_reporting")
        && !given.is_empty()
        && given.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b"_ &|~^()".contains(&b));
    if is_expression { Ok(given.to_owned()) } else { quote(&format!("{what}.{name}"), given) }
}

fn path(what: &str, layout: &Layout, at: &Place) -> Result<String, BadValue> {
    quote(what, safe_path(what, &layout.roots.text(at))?)
}

/// Longest path of a socket (`sun_path` of unix(7) with its final zero).
const SOCKET_BYTES: usize = 107;

fn listen(layout: &Layout, socket: &Place, text: &mut String) -> Result<(), BadValue> {
    let at = layout.roots.text(socket);
    if at.len() > SOCKET_BYTES {
        let problem =
            format!("{at:?} has {} bytes, at most {SOCKET_BYTES} fit; choose a shorter --run-dir", at.len());
        return Err(BadValue::new("socket", problem));
    }
    if let Some(user) = &layout.site_user {
        let _ = writeln!(text, "user = {}", word("site user", &user.name, 32)?);
        let _ = writeln!(text, "group = {}", word("site group", &user.group, 32)?);
    }
    let _ = writeln!(text, "listen = {}", path("socket", layout, socket)?);
    if let Some(user) = &layout.site_user {
        let _ = writeln!(text, "listen.owner = {}", user.name);
        let _ = writeln!(text, "listen.group = {}", user.group);
    }
    let _ = writeln!(text, "listen.mode = 0600");
    Ok(())
}

/// Socket of the pool that shows whether a version's master lives. No webroot id begins with a dot.
#[must_use]
pub fn own_socket(version: &str) -> Place {
    Place::new(Root::Run, [php_folder(version)]).child(".agent.sock")
}

/// The main configuration of a version; the pools go where [`ConfigLayout::INCLUDE`] stands.
///
/// # Errors
/// A value that must not stand in the file.
pub fn main(layout: &Layout, version: &str) -> Result<Rendered, BadValue> {
    word("PHP version", version, 16)?;
    let log = Place::new(Root::Logs, ["php-fpm"]).child(format!("{version}.log"));
    let mut text = format!(
        "; Written by the node agent; changes made here are overwritten.
[global]
daemonize = no
error_log = {}
log_level = notice
process_control_timeout = 5s
include = {}
[.agent]
",
        path("log folder", layout, &log)?,
        ConfigLayout::INCLUDE,
    );
    listen(layout, &own_socket(version), &mut text)?;
    text.push_str("pm = ondemand\npm.max_children = 1\npm.process_idle_timeout = 10s\n");
    let fingerprint = fingerprint(&["php", &text]);
    let _ = write!(text, "ping.path = {PING_PATH}\nping.response = {fingerprint}\n");
    Ok(Rendered { text, fingerprint })
}

/// File that a pool's scripts write their errors to.
#[must_use]
pub fn error_log(tenant: &str) -> Place {
    tenant_logs(tenant).child("php-error.log")
}

/// The pool of a site.
///
/// # Errors
/// A value that must not stand in the file.
pub fn pool(layout: &Layout, pool: &Pool) -> Result<Rendered, BadValue> {
    let id = plain_id("webroot id", &pool.id)?;
    let tenant = plain_id("tenant id", &pool.tenant)?;
    let version = word("PHP version", &pool.version, 16)?;
    pool.processes.check()?;
    let home = layout.roots.text(&Place::new(Root::Storage, [tenant]));
    let home = safe_path("storage", &home)?;
    let tmp = path("storage", layout, &Place::new(Root::Storage, [tenant, "tmp"]))?;

    let mut text = format!("; Written by the node agent; changes made here are overwritten.\n[{id}]\n");
    listen(layout, &pool_socket(version, id), &mut text)?;
    let Processes { max_children, start, min_spare, max_spare, max_requests } = pool.processes;
    let _ = write!(
        text,
        "pm = dynamic
pm.max_children = {max_children}
pm.start_servers = {start}
pm.min_spare_servers = {min_spare}
pm.max_spare_servers = {max_spare}
pm.max_requests = {max_requests}
clear_env = yes
security.limit_extensions = .php
request_terminate_timeout = 300s
request_slowlog_timeout = 5s
slowlog = {slowlog}
php_admin_flag[log_errors] = on
php_admin_value[error_log] = {error_log}
php_admin_value[open_basedir] = {open_basedir}
php_admin_value[sys_temp_dir] = {tmp}
php_admin_value[upload_tmp_dir] = {tmp}
php_admin_value[opcache.restrict_api] = /nowhere
php_admin_value[opcache.validate_permission] = 1
php_value[session.gc_probability] = 1
",
        slowlog = path("log folder", layout, &tenant_logs(tenant).child("php-slow.log"))?,
        error_log = path("log folder", layout, &error_log(tenant))?,
        // The final slash keeps `/storage/t_a` from allowing `/storage/t_ab`.
        open_basedir = quote("storage", &format!("{home}/"))?,
    );
    // php-fpm takes the first of two lines, so this one stands only where the site has none.
    let is_theirs = |name: &String| name.eq_ignore_ascii_case(SESSION_PATH);
    if !pool.values.keys().chain(pool.admin_values.keys()).any(is_theirs) {
        let _ = writeln!(text, "php_value[{SESSION_PATH}] = {tmp}");
    }
    for (name, given) in &pool.values {
        let name = setting("php.values", name)?;
        let _ = writeln!(text, "php_value[{name}] = {}", value("php.values", name, given)?);
    }
    for (name, given) in &pool.admin_values {
        let name = setting("php.admin_values", name)?;
        let _ = writeln!(text, "php_admin_value[{name}] = {}", value("php.admin_values", name, given)?);
    }
    let fingerprint = fingerprint(&["pool", &text]);
    let _ = write!(text, "ping.path = {PING_PATH}\nping.response = {fingerprint}\n");
    Ok(Rendered { text, fingerprint })
}
