//! A node agent's reports: what it sees of each key, kept as a level and sent as changes.
//!
//! The level is in memory; whatever is lost on the way is sent again, because a new connection begins with everything. One
//! call is under way at a time, and what changes meanwhile shares the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{KeyReport, ReportRequest};
use prost::Message as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{Link, chain_text, full_jitter};

/// Keys that one node reports; more than any machine can serve.
const MAX_KEYS: usize = 500_000;
/// Bytes of a message in a report; the rest is in the node's own log.
const MAX_MESSAGE: usize = 500;
/// Bytes of one call.
const MAX_REQUEST_BYTES: usize = 8 << 20;
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// A withdrawal costs a full report; several share one.
const FULL_EVERY: Duration = Duration::from_secs(1);

/// A report was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The agent reports more keys than a node can have.
    #[error("{MAX_KEYS} keys are reported already; {0} more are not")]
    TooMany(usize),
}

#[derive(Debug, Default)]
struct Level {
    epoch: String,
    revision: u64,
    keys: BTreeMap<(u32, String), KeyReport>,
    changed: BTreeSet<(u32, String)>,
    /// A key is gone, which only a full report can say; or the other side may know nothing.
    full: bool,
}

#[derive(Debug, Default)]
struct State {
    level: Mutex<Level>,
    work: Notify,
}

impl State {
    fn level(&self) -> MutexGuard<'_, Level> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a node agent says what it sees. Cheap to clone; never waits.
#[derive(Debug, Clone)]
pub struct Reporter {
    state: Arc<State>,
}

/// Sends what a [`Reporter`] was told.
#[derive(Debug)]
pub struct ReporterTask {
    state: Arc<State>,
    link: watch::Receiver<Option<Link>>,
    backoff: (Duration, Duration),
}

pub(super) fn new(
    link: watch::Receiver<Option<Link>>,
    backoff: (Duration, Duration),
) -> (Reporter, ReporterTask) {
    let state = Arc::new(State::default());
    (Reporter { state: Arc::clone(&state) }, ReporterTask { state, link, backoff })
}

impl Reporter {
    /// The outcome of a pass that worked from `revision` of `epoch`: what it saw of some keys, and keys that are gone.
    /// Reports that say what was said before cost nothing.
    ///
    /// # Errors
    /// [`ReportError::TooMany`]; the others are taken.
    pub fn report(
        &self,
        epoch: &str,
        revision: u64,
        seen: impl IntoIterator<Item = KeyReport>,
        gone: impl IntoIterator<Item = (u32, String)>,
    ) -> Result<(), ReportError> {
        let mut level = self.state.level();
        // A pass over an unchanged world is no news, but for the epoch and revision it worked from.
        let mut news = level.epoch != epoch || level.revision != revision;
        if level.epoch != epoch {
            epoch.clone_into(&mut level.epoch);
            level.full = true;
        }
        level.revision = revision;
        let mut left_out = 0;
        for mut report in seen {
            shorten(&mut report.message);
            let key = (report.kind, report.key.clone());
            if level.keys.get(&key) == Some(&report) {
                continue;
            }
            if level.keys.len() >= MAX_KEYS && !level.keys.contains_key(&key) {
                left_out += 1;
                continue;
            }
            level.keys.insert(key.clone(), report);
            level.changed.insert(key);
            news = true;
        }
        for key in gone {
            if level.keys.remove(&key).is_some() {
                level.changed.remove(&key);
                level.full = true;
                news = true;
            }
        }
        drop(level);
        if news {
            self.state.work.notify_one();
        }
        if left_out == 0 { Ok(()) } else { Err(ReportError::TooMany(left_out)) }
    }
}

fn shorten(message: &mut String) {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
}

impl ReporterTask {
    /// Sends until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut known = None;
        let mut failures = 0;
        let mut last_full = None;
        loop {
            let link = self.link.borrow_and_update().clone();
            let Some(link) = link else {
                tokio::select! {
                    changed = self.link.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => return,
                }
                continue;
            };
            if known != Some(link.number) {
                known = Some(link.number);
                self.state.level().full = true;
                last_full = None;
            }
            let Some(requests) = self.next(&mut last_full) else {
                let later = last_full.map(|at: tokio::time::Instant| at + FULL_EVERY);
                tokio::select! {
                    () = self.state.work.notified() => {}
                    changed = self.link.changed() => if changed.is_err() { return },
                    () = wait_until(later), if self.state.level().full => {}
                    () = stop.cancelled() => return,
                }
                continue;
            };
            let sent = tokio::select! {
                sent = send(&link, &requests) => sent,
                () = stop.cancelled() => return,
            };
            match sent {
                Ok(()) => failures = 0,
                Err(status) => {
                    failures += 1;
                    self.put_back(&requests);
                    let (base, cap) = self.backoff;
                    let refused = matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument);
                    let wait = full_jitter(failures, if refused { cap } else { base }, cap);
                    tracing::warn!(reason = chain_text(&status), code = ?status.code(), ?wait, "report");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        changed = self.link.changed() => if changed.is_err() { return },
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// What to send now, taken out of the level; `None`: nothing, or not yet.
    fn next(&self, last_full: &mut Option<tokio::time::Instant>) -> Option<Vec<ReportRequest>> {
        let mut level = self.state.level();
        if level.epoch.is_empty() {
            // No pass yet: saying that there is nothing would take everything away.
            return None;
        }
        let now = tokio::time::Instant::now();
        let full_now = level.full && last_full.is_none_or(|at| now >= at + FULL_EVERY);
        let reports: Vec<KeyReport> = if full_now {
            *last_full = Some(now);
            level.full = false;
            level.changed.clear();
            level.keys.values().cloned().collect()
        } else {
            let changed = std::mem::take(&mut level.changed);
            changed.iter().filter_map(|key| level.keys.get(key).cloned()).collect()
        };
        if reports.is_empty() && !full_now {
            return None;
        }
        Some(split(&level.epoch, level.revision, reports, full_now))
    }

    fn put_back(&self, requests: &[ReportRequest]) {
        let mut level = self.state.level();
        for request in requests {
            level.full |= request.full;
            for report in &request.reports {
                let key = (report.kind, report.key.clone());
                if level.keys.contains_key(&key) {
                    level.changed.insert(key);
                }
            }
        }
    }
}

/// One request, or several partial ones if it would be too large: then keys that are gone stay until they are fewer.
fn split(epoch: &str, revision: u64, reports: Vec<KeyReport>, full: bool) -> Vec<ReportRequest> {
    let new = |full| ReportRequest { epoch: epoch.to_owned(), revision, reports: Vec::new(), full };
    let size: usize = reports.iter().map(|report| report.encoded_len() + 8).sum();
    if size <= MAX_REQUEST_BYTES {
        return vec![ReportRequest { reports, ..new(full) }];
    }
    if full {
        tracing::error!(size, "a full report is too large for one call; keys that are gone stay listed");
    }
    let mut requests = vec![];
    let (mut request, mut used) = (new(false), 0);
    for report in reports {
        used += report.encoded_len() + 8;
        if used > MAX_REQUEST_BYTES {
            requests.push(std::mem::replace(&mut request, new(false)));
            used = report.encoded_len() + 8;
        }
        request.reports.push(report);
    }
    requests.push(request);
    requests
}

async fn wait_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn send(link: &Link, requests: &[ReportRequest]) -> Result<(), tonic::Status> {
    let mut client = IntentFeedClient::new(link.channel.clone());
    for request in requests {
        let mut request = tonic::Request::new(request.clone());
        request.set_timeout(CALL_TIMEOUT);
        tokio::time::timeout(CALL_TIMEOUT, client.report(request))
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("no answer to a report"))??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(key: &str, revision: u64) -> KeyReport {
        KeyReport { kind: 21, key: key.into(), phase: 2, revision, message: String::new() }
    }

    fn task() -> (Reporter, ReporterTask) {
        let (_, link) = watch::channel(None);
        new(link, (Duration::from_millis(1), Duration::from_millis(10)))
    }

    fn keys(requests: &[ReportRequest]) -> Vec<&str> {
        requests.iter().flat_map(|r| r.reports.iter().map(|k| k.key.as_str())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_merged_and_a_withdrawal_sends_everything() {
        let (reporter, task) = task();
        let mut last_full = None;
        assert_eq!(
            task.next(&mut last_full),
            None,
            "nothing was seen yet, which is not the same as nothing there"
        );
        reporter.report("e", 5, [seen("a", 1), seen("b", 1)], []).unwrap();
        let first = task.next(&mut last_full).unwrap();
        assert!(first[0].full);
        assert_eq!(keys(&first), ["a", "b"]);
        reporter.report("e", 6, [seen("a", 1), seen("b", 2)], []).unwrap();
        reporter.report("e", 7, [seen("b", 3)], []).unwrap();
        let second = task.next(&mut last_full).unwrap();
        assert!(!second[0].full);
        assert_eq!((keys(&second), second[0].revision, second[0].reports[0].revision), (vec!["b"], 7, 3));
        assert_eq!(task.next(&mut last_full), None);
        reporter.report("e", 8, [], [(21, "a".into())]).unwrap();
        assert_eq!(task.next(&mut last_full), None, "not so soon after the last full one");
        tokio::time::advance(FULL_EVERY).await;
        let third = task.next(&mut last_full).unwrap();
        assert!(third[0].full);
        assert_eq!(keys(&third), ["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_sent_is_sent_again_as_it_is_then() {
        let (reporter, task) = task();
        let mut last_full = None;
        reporter.report("e", 1, [seen("a", 1)], []).unwrap();
        let lost = task.next(&mut last_full).unwrap();
        task.put_back(&lost);
        reporter.report("e", 2, [seen("a", 2)], []).unwrap();
        tokio::time::advance(FULL_EVERY).await;
        let again = task.next(&mut last_full).unwrap();
        assert!(again[0].full);
        assert_eq!(again[0].reports, [seen("a", 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_epoch_is_news_though_nothing_else_changed() {
        let (reporter, task) = task();
        let work = async || tokio::time::timeout(FULL_EVERY, task.state.work.notified()).await.is_ok();
        reporter.report("e", 5, [seen("a", 1)], []).unwrap();
        assert!(work().await);
        reporter.report("e", 5, [seen("a", 1)], []).unwrap();
        assert!(!work().await);
        reporter.report("f", 5, [], []).unwrap();
        assert!(work().await, "nobody is told, and the controller forgot everything");
        let sent = task.next(&mut None).unwrap();
        assert!(sent[0].full && sent[0].epoch == "f");
        assert_eq!(keys(&sent), ["a"]);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let (reporter, task) = task();
        let report = KeyReport { message: "ä".repeat(1000), ..seen("a", 1) };
        reporter.report("e", 1, [report], []).unwrap();
        let level = task.state.level();
        let message = &level.keys[&(21, "a".to_owned())].message;
        assert!(message.len() <= MAX_MESSAGE + 3 && message.ends_with("ä…"));
    }

    #[test]
    fn a_report_too_large_for_one_call_is_split() {
        let reports: Vec<KeyReport> =
            (0..30_000).map(|n| KeyReport { message: "x".repeat(500), ..seen(&n.to_string(), 1) }).collect();
        let requests = split("e", 1, reports, true);
        assert!(requests.len() > 1);
        assert!(
            requests.iter().all(|request| !request.full && request.encoded_len() <= MAX_REQUEST_BYTES + 100)
        );
        assert_eq!(requests.iter().map(|request| request.reports.len()).sum::<usize>(), 30_000);
    }
}
