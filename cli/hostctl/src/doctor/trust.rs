//! What the platform's secrets and its memory of who did what rest on: authorities, sealing keys, signed heads.

use serde_json::Value;

use super::check::{Check, Finding, Look, Seen, Trouble, View, items, text};
use crate::output::span;

pub(super) const CHECKS: &[&dyn Check] = &[&Authorities, &SealingKeys, &AuditHeads];

/// Heads are signed each ten minutes by default; a head that is older than this, in seconds, says that nobody signs.
const OLD_HEAD: i64 = 2 * 3_600;
/// Requests that the search for the newest head may take: each halves what is left of the numbers, and heads are kept for ten years.
const MOST_LOOKS: usize = 40;

struct Authorities;

impl Check for Authorities {
    fn name(&self) -> &'static str {
        "certificate authorities"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let answer = view.get("/platform/authorities", "/platform/authorities").await?;
            let is_time = view.seconds_since(&answer["retirable_at"]).is_some_and(|since| since > 0);
            Ok(authorities(&answer, is_time))
        })
    }
}

fn authorities(answer: &Value, is_time: bool) -> Seen {
    let all = items(answer, "items");
    let waiting: Vec<&Value> = all.iter().filter(|one| one["issues"] != true).collect();
    let mut findings = Vec::new();
    if !all.iter().any(|one| one["issues"] == true) {
        findings.push(Finding::fail("No authority issues certificates.", "hostctl ca show"));
    }
    if let Some(first) = waiting.first() {
        let fingerprint = text(first, "fingerprint");
        let short = fingerprint.get(..12).unwrap_or(fingerprint);
        let untold = items(answer, "untold").len();
        let (words, next) = match (untold, is_time) {
            (0, true) => (
                "what does not issue can be promoted or retired".to_owned(),
                format!("hostctl ca promote {short}, or hostctl ca retire {short}"),
            ),
            (0, false) => (
                "every machine has been told".to_owned(),
                format!("hostctl ca promote {short} if it is new; else wait, see hostctl ca show"),
            ),
            (untold, _) => {
                (format!("{untold} machines have not been told yet"), "hostctl ca show".to_owned())
            }
        };
        findings.push(
            Finding::warn(
                format!("An exchange of authorities is open: {} are trusted, and {words}.", all.len()),
                next,
            )
            .with("certificate-expired.md"),
        );
    }
    Seen::new("one, which issues", findings)
}

struct SealingKeys;

impl Check for SealingKeys {
    fn name(&self) -> &'static str {
        "sealing keys"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move { Ok(sealing_keys(&view.get("/platform/keks", "/platform/keks").await?)) })
    }
}

fn sealing_keys(answer: &Value) -> Seen {
    let former = items(answer, "former").len();
    let finding = match (answer["resealed"] == true, former) {
        (false, _) => Some(Finding::warn(
            "A rotation of the sealing keys is under way: not everything is sealed by the new one yet.",
            "hostctl kek show",
        )),
        (true, 0) => None,
        (true, former) => Some(Finding::warn(
            format!(
                "A rotation of the sealing keys is not closed: {former} former ones are kept, and nothing needs them."
            ),
            "make a backup, then hostctl kek forget",
        )),
    };
    let findings = finding.into_iter().map(|finding| finding.with("secrets-not-opened.md")).collect();
    Seen::new("one, and everything is sealed by it", findings)
}

struct AuditHeads;

impl Check for AuditHeads {
    fn name(&self) -> &'static str {
        "audit heads"
    }

    fn look<'v>(&'v self, view: &'v View) -> Look<'v> {
        Box::pin(async move {
            let Some(head) = newest_head(view).await? else {
                return Ok(Seen::new("none is signed yet", Vec::new()));
            };
            let age = view.seconds_since(&head["at"]).unwrap_or_default();
            let since = span(jiff::SignedDuration::from_secs(age));
            let findings = if age > OLD_HEAD {
                let what =
                    format!("The newest signed head of the audit log is {since} old, so nobody signs it.");
                vec![
                    Finding::warn(what, "hostctl jobs list --state failed, then the controller's log")
                        .with("jobs-fail.md"),
                ]
            } else {
                Vec::new()
            };
            Ok(Seen::new(
                format!("the newest is {since} old; the chain is followed by hostctl audit verify"),
                findings,
            ))
        })
    }
}

/// The newest head. The list begins with the oldest, and a cursor in it is a number: it is found by halving.
async fn newest_head(view: &View) -> Result<Option<Value>, Trouble> {
    let mut newest = None::<Value>;
    let (mut low, mut high) = (0_u64, None::<u64>);
    for _ in 0..MOST_LOOKS {
        let after = match high {
            Some(high) if high <= low + 1 => break,
            Some(high) => low + (high - low) / 2,
            None if low == 0 => 0,
            None => low * 2,
        };
        let cursor = if after == 0 { String::new() } else { format!("&cursor={after}") };
        let answer = view.again("/audit/heads", &format!("/audit/heads?limit=1{cursor}")).await?;
        match items(&answer, "items").first() {
            Some(head) => {
                low = head["number"].as_u64().unwrap_or(after).max(after + 1);
                newest = Some(head.clone());
                if answer["has_more"] != true {
                    break;
                }
            }
            None if newest.is_none() => break,
            None => high = Some(after),
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::check::Severity;

    #[test]
    fn an_open_exchange_of_authorities_is_told_with_the_next_step() {
        let one = |issues: bool| json!({"fingerprint": "ab12cd34ef5678901234", "issues": issues});
        let found = |items: Value, untold: Value| {
            authorities(&json!({"items": items, "untold": untold}), false).findings
        };
        assert_eq!(found(json!([one(true)]), json!([])), []);
        let open = found(json!([one(true), one(false)]), json!(["web-1"]));
        assert!(open[0].what.contains("1 machines have not been told") && open[0].next == "hostctl ca show");
        let told = found(json!([one(true), one(false)]), json!([]));
        assert!(told[0].next.contains("hostctl ca promote ab12cd34ef56"), "{}", told[0].next);
        assert_eq!(found(json!([one(false)]), json!([]))[0].severity, Severity::Fail);
    }

    #[test]
    fn a_rotation_is_open_until_the_former_keys_are_dropped() {
        let found = |resealed: bool, former: Value| {
            sealing_keys(&json!({"resealed": resealed, "former": former})).findings
        };
        assert_eq!(found(true, json!([])), []);
        assert!(found(false, json!(["k1"]))[0].what.contains("under way"));
        assert!(found(true, json!(["k1"]))[0].next.contains("hostctl kek forget"));
    }
}
