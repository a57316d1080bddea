//! What subscribers say in words, made fit for logs, terminals and memory: they are hostile input.

use hosting_proto::feed::{Exception, ReportRequest, RevisionRange, Served};
use hosting_scaffold::text::is_active;

/// Longest reason or message that is kept, in bytes.
pub(crate) const MAX_TEXT: usize = 1_024;
/// Longest key that is kept, in bytes. No key of an intent is longer.
const MAX_KEY: usize = 1_024;
/// Longest name of a build, audience or the like that is repeated, in bytes.
const MAX_NAME: usize = 128;

/// Shortens to `limit` bytes and puts U+FFFD in the place of active characters.
fn clean(text: &mut String, limit: usize) {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.shrink_to_fit();
    }
    if text.contains(is_active) {
        *text = text.replace(is_active, "\u{fffd}");
    }
}

/// A reason for the log.
pub(crate) fn text(mut said: String) -> String {
    clean(&mut said, MAX_TEXT);
    said
}

/// The name of a build, an audience or the like.
pub(crate) fn name(said: &str) -> String {
    let mut said = said.get(..said.floor_char_boundary(MAX_NAME)).unwrap_or_default().to_owned();
    clean(&mut said, MAX_NAME);
    said
}

/// Keys are compared, so they are never changed: one that no intent can have is not heard.
fn is_key(key: &str) -> bool {
    key.len() <= MAX_KEY && !key.contains(is_active)
}

/// At most `limit` exceptions, fit to be kept and shown.
pub(crate) fn exceptions(all: &mut Vec<Exception>, limit: usize) {
    all.retain(|one| is_key(&one.key));
    all.truncate(limit);
    all.shrink_to_fit();
    for one in all {
        clean(&mut one.reason, MAX_TEXT);
    }
}

/// Ranges of revisions that are kept of each list.
const MAX_RANGES: usize = 16;
/// Failed checks that are kept of one subscriber.
const MAX_FAILED: usize = 100;

/// What a subscriber serves, fit to be kept and shown. What has no place is taken for not served.
pub(crate) fn served(said: &mut Served) {
    said.marks.clear();
    let fits = |list: &[RevisionRange]| list.len() <= MAX_RANGES;
    if !fits(&said.pending) || !fits(&said.sampled) || said.failed.len() > MAX_FAILED {
        said.pending = vec![RevisionRange { first: 0, last: said.upto }];
        said.sampled.clear();
        said.failed.truncate(MAX_FAILED);
    }
    said.failed.retain(|one| is_key(&one.key));
    for one in &mut said.failed {
        clean(&mut one.reason, MAX_TEXT);
    }
}

/// A report, fit to be kept and shown.
pub(crate) fn report(said: &mut ReportRequest) {
    said.reports.retain(|one| is_key(&one.key));
    said.gone.retain(|one| is_key(&one.key));
    for one in &mut said.reports {
        clean(&mut one.message, MAX_TEXT);
    }
}

#[cfg(test)]
mod tests {
    use hosting_proto::feed::{KeyReport, ReportedKey};

    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_begins_a_line_is_left() {
        for active in [
            '\0', '\n', '\r', '\t', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{2028}', '\u{202e}',
            '\u{2067}',
        ] {
            assert_eq!(text(format!("a{active}b")), "a\u{fffd}b", "{active:?}");
            assert_eq!(name(&format!("a{active}")), "a\u{fffd}");
            assert!(!is_key(&format!("a{active}")));
        }
        assert_eq!(text("Grüße, 世界 🙂".into()), "Grüße, 世界 🙂");
        let cut = text("ä".repeat(2_000));
        assert!(cut.len() <= MAX_TEXT && cut.chars().all(|c| c == 'ä'));
    }

    #[test]
    fn what_has_no_key_of_an_intent_is_not_heard() {
        let report = |key: &str, message: &str| KeyReport {
            key: key.into(),
            message: message.into(),
            ..KeyReport::default()
        };
        let reports = vec![report("web_1", "m\n"), report("web\n2", ""), report(&"k".repeat(2_000), "")];
        let key = |key: &str| ReportedKey { kind: 21, key: key.into() };
        let gone = vec![key("web\n2"), key("web_3")];
        let mut said = ReportRequest { reports, gone, ..ReportRequest::default() };
        super::report(&mut said);
        assert_eq!((said.reports, said.gone), (vec![report("web_1", "m\u{fffd}")], vec![key("web_3")]));
        let exception =
            |key: &str| Exception { key: key.into(), reason: "r".repeat(5_000), ..Exception::default() };
        let mut all = vec![exception("\u{1b}[2J"), exception("a"), exception("b"), exception("c")];
        exceptions(&mut all, 2);
        assert_eq!(
            all.iter().map(|one| (one.key.as_str(), one.reason.len())).collect::<Vec<_>>(),
            [("a", MAX_TEXT), ("b", MAX_TEXT)]
        );
    }
}
