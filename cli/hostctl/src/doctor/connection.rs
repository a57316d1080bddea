//! The way to the API, the key that is used, and the store behind it.

use std::time::Duration;

use serde_json::Value;

use super::check::{Check, Finding, Look, Seen, Trouble, View, text};
use crate::output::span;

pub(super) const CHECKS: &[&dyn Check] = &[&Reachable, &Certificate, &Clock, &Store, &OwnKey, &OtherKeys];

/// An answer that takes longer is worth a remark.
const SLOW: Duration = Duration::from_secs(2);
/// What ends within these times is to be renewed, in seconds: soon, and at once.
const SOON: i64 = 14 * 86_400;
const AT_ONCE: i64 = 2 * 86_400;
/// Clocks that differ more than this, in seconds, make logs hard to read; tokens and certificates are judged wrongly beyond a minute.
const SKEW: (i64, i64) = (5, 60);

struct Reachable;

impl Check for Reachable {
    fn name(&self) -> &'static str {
        "API"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            view.note("/healthz", false);
            let took = view.shared.probe.took;
            let base = view.shared.api.base();
            let good = format!("{base} answers in {} ms", took.as_millis());
            let slow = Finding::warn(
                format!("{base} took {} ms to answer that it is there.", took.as_millis()),
                "hostctl fleet",
            );
            Ok(Seen::new(good, if took > SLOW { vec![slow.with("controller-down.md")] } else { Vec::new() }))
        })
    }
}

struct Certificate;

impl Check for Certificate {
    fn name(&self) -> &'static str {
        "API certificate"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let api = &view.shared.api;
            let Some(ends) = view.shared.probe.certificate_ends else {
                if api.is_plain() && !api.is_local() {
                    let what = format!("The key goes to {} in plain, where others can read it.", api.base());
                    let next = "set tls_certificate_file and tls_key_file of the controller, and name it with https://";
                    return Ok(Seen::new("", vec![Finding::warn(what, next)]));
                }
                return Ok(Seen::new("plain HTTP, which does not leave this machine", Vec::new()));
            };
            let left = ends.duration_since(view.now);
            Ok(Seen::new(
                format!("ends at {ends}"),
                ending(
                    left.as_secs(),
                    &format!("The certificate of {}", api.base()),
                    "put a new one into tls_certificate_file; it is taken over within five seconds",
                ),
            ))
        })
    }
}

/// What is to be said of something that ends in `left` seconds.
fn ending(left: i64, what: &str, next: &str) -> Vec<Finding> {
    let words = match left {
        ..0 => format!("{what} has ended {} ago.", span(jiff::SignedDuration::from_secs(-left))),
        _ => format!("{what} ends in {}.", span(jiff::SignedDuration::from_secs(left))),
    };
    match left {
        ..AT_ONCE => vec![Finding::fail(words, next)],
        AT_ONCE..SOON => vec![Finding::warn(words, next)],
        _ => Vec::new(),
    }
}

struct Clock;

impl Check for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let Some(ahead) = view.shared.probe.clock_ahead else {
                return Err(Trouble::NotServed("its answers have no Date".to_owned()));
            };
            Ok(Seen::new("the controller's and this machine's agree", skewed(ahead)))
        })
    }
}

fn skewed(ahead: i64) -> Vec<Finding> {
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    let what = format!("The controller's clock is {} s {side} this machine's.", ahead.abs());
    let next = "date -u on both machines, then set the one that is wrong (NTP)";
    match ahead.abs() {
        skew if skew > SKEW.1 => vec![Finding::fail(what, next)],
        skew if skew > SKEW.0 => vec![Finding::warn(what, next)],
        _ => Vec::new(),
    }
}

struct Store;

impl Check for Store {
    fn name(&self) -> &'static str {
        "controller and store"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let glimpse = view.shared.api.glimpse("/readyz", Duration::from_secs(30)).await?;
            view.note("/readyz", false);
            let body: Value = serde_json::from_slice(&glimpse.body).unwrap_or_default();
            let why = text(&body, "core_db");
            let findings = if glimpse.status == 200 {
                Vec::new()
            } else {
                let what = format!("The controller is not ready (HTTP {}): {why}.", glimpse.status);
                vec![
                    Finding::fail(what, "look at the controller's log and at its disk")
                        .with("controller-down.md"),
                ]
            };
            Ok(Seen::new("the store is read and written by the controller that answered", findings))
        })
    }
}

/// The check that says whether the key opens at all.
pub(super) const OWN_KEY: &str = "own key";
/// The key's first characters, by which the API lists it.
const PREFIX: usize = 12;

struct OwnKey;

impl Check for OwnKey {
    fn name(&self) -> &'static str {
        OWN_KEY
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let prefix: String = view.shared.api.key().chars().take(PREFIX).collect();
            let query = format!("key_prefix={}&limit=2", crate::api::encode(&prefix));
            let page = view.page("/api-keys", &query).await?;
            let [key] = page.items.as_slice() else {
                let what = "The key opens, and is not among those listed: another one has taken its place, and it ends soon.";
                return Ok(Seen::new(
                    "",
                    vec![Finding::warn(what, "hostctl get api-keys, then use the new key")],
                ));
            };
            let name = text(key, "name");
            let Some(since) = view.seconds_since(&key["expires_at"]) else {
                return Ok(Seen::new(format!("{name}, which does not end"), Vec::new()));
            };
            let good = format!("{name}, until {}", text(key, "expires_at"));
            let next = format!("hostctl update api-key {} -s expires_at=TIME", text(key, "id"));
            Ok(Seen::new(good, ending(-since, &format!("The key {name} that is used here"), &next)))
        })
    }
}

struct OtherKeys;

impl Check for OtherKeys {
    fn name(&self) -> &'static str {
        "keys that end"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let page = view.page("/api-keys", "").await?;
            let ends_soon = |key: &&Value| {
                key["status"] != "deleted"
                    && view.seconds_since(&key["expires_at"]).is_some_and(|since| (-SOON..0).contains(&since))
            };
            let findings = page.items.iter().filter(ends_soon).map(|key| {
                let what = format!("The API key {} ends at {}.", text(key, "name"), text(key, "expires_at"));
                Finding::warn(what, format!("hostctl update api-key {} -s expires_at=TIME", text(key, "id")))
            });
            Ok(Seen::new(format!("{} keys, none ends within 14 days", page.count()), findings.collect()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Severity;

    #[test]
    fn what_ends_is_told_in_time() {
        let severity = |left: i64| ending(left, "It", "renew").first().map(|one| one.severity);
        assert_eq!(severity(30 * 86_400), None);
        assert_eq!(severity(10 * 86_400), Some(Severity::Warn));
        assert_eq!(severity(86_400), Some(Severity::Fail));
        assert_eq!(ending(-7_200, "It", "renew")[0].what, "It has ended 2h ago.");
    }

    #[test]
    fn clocks_that_differ_are_told_with_the_direction() {
        assert!(skewed(2).is_empty() && skewed(-5).is_empty());
        assert!(skewed(-30)[0].what.contains("30 s behind") && skewed(-30)[0].severity == Severity::Warn);
        assert!(skewed(90)[0].what.contains("90 s ahead of") && skewed(90)[0].severity == Severity::Fail);
    }
}
