//! PHP-FPM: the configuration of a site's master and its one pool.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hosting_agent_engine::{Place, Root, Secret};
use hosting_intent::env::{check_name, check_value};
use hosting_intent::php::{Processes, Settings, Waiting, check_version, in_bytes, is_path};

use super::{BadValue, fingerprint, keyed, plain_id, word};
use crate::web::layout::{Layout, PING_PATH, php_socket, php_sockets, tenant_logs};

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
    /// php.ini settings and limits.
    pub settings: Settings,
    /// What scripts find in their environment, by name.
    pub env: BTreeMap<String, Secret>,
}

/// A value of the environment, any that [`hosting_intent::env::check_value`] takes: quoted in pieces, because single quotes keep
/// everything but themselves.
fn quote_env(name: &str, value: &str) -> Result<String, BadValue> {
    check_value(value).map_err(|why| BadValue::new(name, why))?;
    let pieces: Vec<String> = value.split('\'').map(|piece| format!("'{piece}'")).collect();
    Ok(pieces.join("\"'\""))
}

/// The lines of the environment. A value that is empty is left out: php-fpm takes none.
fn environment(pool: &Pool) -> Result<String, BadValue> {
    let mut lines = String::new();
    for (name, Secret(value)) in pool.env.iter().filter(|(_, value)| !value.0.is_empty()) {
        check_name(name).map_err(|why| BadValue::new("env", why))?;
        let _ = writeln!(lines, "env[{name}] = {}", quote_env(name, value)?);
    }
    Ok(lines)
}

/// A value as php-fpm's INI scanner reads it back: single quotes keep everything but themselves, double quotes keep all but
/// `"`, `\` and `$`. What fits neither is refused, and so is `$pool`, which php-fpm replaces by the name of the pool.
fn quote(what: &str, value: &str) -> Result<String, BadValue> {
    if value.len() > 4096 {
        return Err(BadValue::new(what, "must be at most 4096 bytes"));
    }
    if let Some(odd) = value.chars().find(|c| c.is_control()) {
        return Err(BadValue::new(what, format!("must not hold {odd:?}")));
    }
    if value.contains("$pool") {
        return Err(BadValue::new(what, "must not hold $pool"));
    }
    // php-fpm takes '' for no value at all.
    if !value.is_empty() && !value.contains('\'') {
        return Ok(format!("'{value}'"));
    }
    match value.chars().find(|c| "\"\\$".contains(*c)) {
        Some(odd) => Err(BadValue::new(what, format!("must not hold both ' and {odd:?}"))),
        None => Ok(format!("\"{value}\"")),
    }
}

fn path(what: &str, layout: &Layout, at: &Place) -> Result<String, BadValue> {
    quote(what, &layout.roots.text(at))
}

/// The setting of an expression over constants must stand without quotes, which would make a text of it.
fn value(layout: &Layout, pool: &Pool, name: &str, given: &str) -> Result<String, BadValue> {
    if is_path(name) {
        let mut at = Place::new(Root::Storage, [pool.tenant.as_str(), "webroots", pool.id.as_str()]);
        for part in given.split('/') {
            at = at.child(part);
        }
        return path(name, layout, &at);
    }
    if name.ends_with("error_reporting") || name.ends_with("error_level") {
        return Ok(given.to_owned());
    }
    quote(name, given)
}

/// Longest path of a socket (`sun_path` of unix(7) with its final zero).
const SOCKET_BYTES: usize = 107;

/// File that a tenant's scripts report errors to.
#[must_use]
pub fn error_log(tenant: &str) -> Place {
    tenant_logs(tenant).child("php-error.log")
}

/// What a site's master runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Its configuration.
    pub text: String,
    /// Follows from all that it runs with, and answers its probe: two masters with one name are the same.
    pub name: String,
}

/// Where the master of a name listens.
#[must_use]
pub fn socket(name: &str) -> Place {
    php_sockets().child(format!("{name}.sock"))
}

/// A site's master.
///
/// # Errors
/// A value that must not stand in the file.
pub fn master(layout: &Layout, pool: &Pool) -> Result<Master, BadValue> {
    let id = plain_id("webroot id", &pool.id)?;
    let tenant = plain_id("tenant id", &pool.tenant)?;
    check_version(&pool.version).map_err(|why| BadValue::new("PHP version", why))?;
    let home = layout.roots.text(&Place::new(Root::Storage, [tenant]));
    if home.contains(':') {
        return Err(BadValue::new("storage", format!("{home:?} holds ':', which separates folders for PHP")));
    }
    let tmp = path("storage", layout, &Place::new(Root::Storage, [tenant, "tmp"]))?;
    let log = |name: &str| path("log folder", layout, &tenant_logs(tenant).child(name));
    let seconds = pool.settings.request_seconds();

    let mut body = String::new();
    if let Some(user) = &layout.site_user {
        let (name, group) = (word("site user", &user.name, 32)?, word("site group", &user.group, 32)?);
        let _ =
            write!(body, "user = {name}\ngroup = {group}\nlisten.owner = {name}\nlisten.group = {group}\n");
    }
    body.push_str("listen.mode = 0600\n");
    let (max_children, max_requests) = (pool.processes.max_children(), pool.processes.max_requests());
    let _ = match pool.processes.waiting() {
        None => body.write_str("pm = ondemand\npm.process_idle_timeout = 60s\n"),
        Some(Waiting { start, min_spare, max_spare }) => write!(
            body,
            "pm = dynamic
pm.start_servers = {start}
pm.min_spare_servers = {min_spare}
pm.max_spare_servers = {max_spare}
"
        ),
    };
    let _ = write!(
        body,
        "pm.max_children = {max_children}
pm.max_requests = {max_requests}
clear_env = yes
security.limit_extensions = .php
request_terminate_timeout = {seconds}s
request_slowlog_timeout = {slow}s
slowlog = {slowlog}
php_admin_flag[log_errors] = on
php_admin_value[error_log] = {error_log}
php_admin_value[open_basedir] = {open_basedir}
php_admin_value[sys_temp_dir] = {tmp}
php_admin_value[upload_tmp_dir] = {tmp}
php_admin_value[soap.wsdl_cache_dir] = {tmp}
php_admin_value[realpath_cache_ttl] = 2
",
        slow = seconds.min(5),
        slowlog = log("php-slow.log")?,
        error_log = path("log folder", layout, &error_log(tenant))?,
        // The final slash keeps `/storage/t_a` from allowing `/storage/t_ab`.
        open_basedir = quote("storage", &format!("{home}/"))?,
    );
    // php-fpm takes the first of two lines, so a default stands only where the site says nothing.
    for (name, default) in [
        ("upload_max_filesize", in_bytes(pool.settings.upload_bytes())),
        ("post_max_size", in_bytes(pool.settings.body_bytes())),
        ("opcache.revalidate_freq", "2".to_owned()),
        // A path is looked up anew, so that it is what its links lead to now.
        ("opcache.revalidate_path", "1".to_owned()),
        ("session.gc_probability", "1".to_owned()),
        ("session.save_path", tmp),
    ] {
        if !pool.settings.has(name) {
            let _ = writeln!(body, "php_value[{name}] = {default}");
        }
    }
    for (kind, settings) in
        [("php_value", pool.settings.values()), ("php_admin_value", pool.settings.admin_values())]
    {
        for (name, given) in settings {
            let _ = writeln!(body, "{kind}[{name}] = {}", value(layout, pool, name, given)?);
        }
    }

    let env = environment(pool)?;
    let program = layout.php.get(&pool.version).map(|path| path.to_string_lossy()).unwrap_or_default();
    let user = if layout.sites_are_root { "root" } else { "site" };
    // The name is no secret, and must not let anybody try out what may be one.
    let mark = keyed(&layout.probe_token, &env);
    let mut all = vec!["php", &pool.version, &program, user, id, &body];
    all.extend((!env.is_empty()).then_some(mark.as_str()));
    let name = fingerprint(&all);
    let name: String = name.chars().take(16).collect();
    let socket = socket(&name);
    for at in [&socket, &php_socket(id)] {
        let at = layout.roots.text(at);
        if at.len() > SOCKET_BYTES || at.contains(':') {
            let problem = format!(
                "{at:?} must have at most {SOCKET_BYTES} bytes (it has {}) and no ':'; choose another --run-dir",
                at.len()
            );
            return Err(BadValue::new("socket", problem));
        }
    }
    let text = format!(
        "; Written by the node agent; changes made here are overwritten.
[global]
daemonize = no
error_log = {log}
log_level = warning
process_control_timeout = {seconds}s
[{id}]
listen = {listen}
ping.path = {PING_PATH}
ping.response = {name}
{body}{env}",
        log = log(&format!("php-fpm-{id}.log"))?,
        listen = path("socket", layout, &socket)?,
    );
    Ok(Master { text, name })
}
