//! The memory that the process may take, shared out when the edge starts.
//!
//! [`check`] refuses settings that promise more than `memory_bytes`. What is left after everything with a bound of its own is what
//! connections and requests draw on ([`crate::memory`]).

use hosting_scaffold::config::SettingsError;

use crate::memory::{CONNECTION, TLS_CONNECTION};
use crate::settings::Settings;

const KIB: usize = 1_024;
const MIB: usize = 1_024 * KIB;

/// The program itself, its threads and what the allocator keeps for them. An edge without names takes 19 MiB.
const PROGRAM: usize = 48 * MIB;
/// The memories of the access log, and what of them is being written.
const ACCESS_LOG: usize = 20 * MIB;
/// First packets of HTTP/3 that nobody looked at yet, for each address.
const EARLY_PACKETS: usize = 4 * MIB;
/// An answer that is being compressed.
const COMPRESSION: usize = MIB;
/// A certificate that is ready for handshakes.
const CERTIFICATE: usize = 5 * KIB;
/// An idle connection to a node.
const IDLE_NODE: usize = KIB;

/// What one request can take at most: what is held for its client and of its node's answer, and its fields in each form that they have
/// on their way.
const fn request(header_bytes: usize) -> usize {
    const BUFFERS: usize = 128 * KIB;
    BUFFERS + 3 * header_bytes
}

/// One part of what settings promise.
struct Part {
    what: String,
    bytes: usize,
    /// What an operator can lower to make it smaller.
    setting: Option<&'static str>,
}

fn part(setting: &'static str, count: usize, each: usize) -> Part {
    let bytes = count.saturating_mul(each);
    let what = if each == 1 {
        format!("{setting} {}", mib(bytes))
    } else {
        format!("{setting} {count} of {} KiB each {}", each / KIB, mib(bytes))
    };
    Part { what, bytes, setting: Some(setting) }
}

fn fixed(what: &str, bytes: usize) -> Part {
    Part { what: format!("{what} {}", mib(bytes)), bytes, setting: None }
}

fn mib(bytes: usize) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}

/// What is set aside, whatever clients do.
fn set_aside(settings: &Settings) -> Vec<Part> {
    let log = if settings.access_log.as_os_str().is_empty() { 0 } else { ACCESS_LOG };
    vec![
        fixed("the program", PROGRAM),
        fixed("the access log", log),
        fixed("first packets of HTTP/3", settings.http3_addresses().len() * EARLY_PACKETS),
        part("cache_bytes", settings.cache_bytes, 1),
        part("h2_window_memory", settings.h2_window_memory, 1),
        part("max_compressions", settings.max_compressions, COMPRESSION),
        part("certificate_cache", settings.certificate_cache, 2 * CERTIFICATE),
        part("upstream_pool", settings.upstream_pool, IDLE_NODE),
    ]
}

/// What clients draw on has to be enough for: every connection that may be there, idle, and one more that asks for all it may.
fn drawn_on(settings: &Settings) -> Vec<Part> {
    let each = if settings.https_listen.is_empty() { CONNECTION } else { TLS_CONNECTION };
    let streams = settings.h2_max_streams.max(1) as usize;
    let connections = settings.max_connections;
    vec![
        part("max_connections", connections, each),
        part("h2_max_streams", streams, request(settings.max_header_bytes)),
    ]
}

fn sum(parts: &[Part]) -> usize {
    parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
}

/// What is left for connections and requests. As much again is for what the allocator rounds up and keeps for its threads: under clients that
/// hold as much as they can, of one kind after the other, the process was seen to take 1.8 bytes for each that is counted.
pub(crate) fn working(settings: &Settings) -> usize {
    settings.memory_bytes.saturating_sub(sum(&set_aside(settings))) / 2
}

/// Whether `memory_bytes` is enough for what the other settings allow.
///
/// # Errors
/// It is not: the parts, and which numbers to change.
pub(crate) fn check(settings: &Settings) -> Result<(), SettingsError> {
    let mut parts = set_aside(settings);
    parts.extend(drawn_on(settings));
    // Of what clients draw on, new connections leave an eighth to requests; the allocator has as much again.
    let drawn_on = sum(&drawn_on(settings)).saturating_mul(16) / 7;
    let needed = sum(&set_aside(settings)).saturating_add(drawn_on);
    if needed <= settings.memory_bytes {
        return Ok(());
    }
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    let said: Vec<&str> = parts.iter().filter(|part| part.bytes > 0).map(|part| part.what.as_str()).collect();
    let lower: Vec<&str> = parts.iter().filter_map(|part| part.setting).take(3).collect();
    Err(SettingsError::invalid(
        "memory_bytes",
        format!(
            "{} is less than what the other settings allow ({}); set it to {needed} or more, or lower {}",
            mib(settings.memory_bytes),
            said.join(", "),
            lower.join(" or ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_and_what_does_not_is_told_with_its_parts() {
        check(&Settings::default()).unwrap();
        let small = Settings { memory_bytes: 1_024 * MIB, ..Settings::default() };
        let error = check(&small).unwrap_err().to_string();
        assert!(error.starts_with("memory_bytes: 1024 MiB is less"), "{error}");
        assert!(error.contains("(max_connections 50000 of 36 KiB each 1758 MiB, "), "{error}");
        assert!(
            error.ends_with("or lower max_connections or h2_window_memory or max_compressions"),
            "{error}"
        );
        let needed = error.split("set it to ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        check(&Settings { memory_bytes: needed, ..Settings::default() }).unwrap();
        assert!(check(&Settings { memory_bytes: needed - 1, ..Settings::default() }).is_err());
        let odd = Settings { max_connections: usize::MAX, ..Settings::default() };
        assert!(check(&odd).is_err());
    }
}
