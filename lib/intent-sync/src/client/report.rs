//! A node agent's reports: what it sees of each key, kept as a level and sent as changes.
//!
//! What changed and what is gone is sent, nothing else. Whatever is lost on the way is sent again: a new connection begins with
//! everything, in pages of key ranges, and so does a controller that asks for it. One call is under way at a time, and what
//! changes meanwhile shares the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{KeyRange, KeyReport, ReportRequest, ReportedKey};
use prost::Message as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::Link;
use crate::dial::{chain_text, full_jitter};

/// Keys that one node reports; more than any machine can serve.
const MAX_KEYS: usize = 500_000;
/// Bytes of a message in a report; the rest is in the node's own log.
const MAX_MESSAGE: usize = 500;
/// Keys of one call.
const PAGE_KEYS: usize = 2_000;
/// Bytes of one call.
const PAGE_BYTES: usize = 1 << 20;
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Least time between two times that everything is said because the controller asks for it.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// A report was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The agent reports more keys than a node can have.
    #[error("{MAX_KEYS} keys are reported already; {0} more are not")]
    TooMany(usize),
}

/// Kind and name, in the order of the pages.
type Id = (u32, String);

#[derive(Debug, Default)]
struct Level {
    epoch: String,
    revision: u64,
    keys: BTreeMap<Id, KeyReport>,
    changed: BTreeSet<Id>,
    gone: BTreeSet<Id>,
    /// Everything is being said: what comes after this key is still to be.
    all_after: Option<Bound<Id>>,
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
            level.all_after = Some(Bound::Unbounded);
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
            level.gone.remove(&key);
            level.changed.insert(key);
            news = true;
        }
        for key in gone {
            if level.keys.remove(&key).is_some() {
                level.changed.remove(&key);
                level.gone.insert(key);
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
        let mut asked: Option<tokio::time::Instant> = None;
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
                self.say_all();
            }
            let Some(request) = self.next() else {
                tokio::select! {
                    () = self.state.work.notified() => {}
                    changed = self.link.changed() => if changed.is_err() { return },
                    () = stop.cancelled() => return,
                }
                continue;
            };
            let sent = tokio::select! {
                sent = send(&link, &request) => sent,
                () = stop.cancelled() => return,
            };
            match sent {
                Ok(want_all) => {
                    failures = 0;
                    let now = tokio::time::Instant::now();
                    if want_all && asked.is_none_or(|at| now >= at + ASKED_EVERY) {
                        asked = Some(now);
                        self.say_all();
                    }
                }
                Err(status) => {
                    failures += 1;
                    self.put_back(&request);
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

    /// From the first key on, everything is said.
    fn say_all(&self) {
        self.state.level().all_after = Some(Bound::Unbounded);
    }

    /// What to send now, taken out of the level; `None`: nothing.
    fn next(&self) -> Option<ReportRequest> {
        let mut level = self.state.level();
        if level.epoch.is_empty() {
            // No pass yet: saying that there is nothing would take everything away.
            return None;
        }
        let request = ReportRequest {
            epoch: level.epoch.clone(),
            revision: level.revision,
            ..ReportRequest::default()
        };
        match level.all_after.take() {
            Some(after) => Some(level.page(after, request)),
            None => level.news(request),
        }
    }

    fn put_back(&self, request: &ReportRequest) {
        let mut level = self.state.level();
        if request.full || request.all_of.is_some() {
            let after = request.all_of.as_ref().and_then(|range| range.after.as_ref());
            let after = after.map_or(Bound::Unbounded, |key| Bound::Excluded((key.kind, key.key.clone())));
            // A new connection may have begun with the first key meanwhile.
            if level.all_after != Some(Bound::Unbounded) {
                level.all_after = Some(after);
            }
            return;
        }
        for report in &request.reports {
            let key = (report.kind, report.key.clone());
            if level.keys.contains_key(&key) {
                level.changed.insert(key);
            }
        }
        for key in &request.gone {
            let key = (key.kind, key.key.clone());
            // Not one that is there again.
            if !level.keys.contains_key(&key) {
                level.gone.insert(key);
            }
        }
    }
}

/// Counts what goes into one call.
#[derive(Default)]
struct Room {
    keys: usize,
    bytes: usize,
}

impl Room {
    /// Whether one more fits. One always does.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.keys == 0 || (self.keys < PAGE_KEYS && self.bytes + bytes <= PAGE_BYTES);
        if fits {
            self.keys += 1;
            self.bytes += bytes;
        }
        fits
    }
}

impl Level {
    /// The next keys of everything.
    fn page(&mut self, after: Bound<Id>, mut request: ReportRequest) -> ReportRequest {
        let mut room = Room::default();
        let mut rest = self.keys.range((after.clone(), Bound::Unbounded)).peekable();
        while let Some((_, report)) = rest.next_if(|(_, report)| room.take(report.encoded_len() + 8)) {
            request.reports.push(report.clone());
        }
        let is_last = rest.next().is_none();
        let last = request.reports.last().map(|report| (report.kind, report.key.clone()));
        let upto = last.filter(|_| !is_last);
        // What the page says need not be said again.
        let to = upto.clone().map_or(Bound::Unbounded, Bound::Included);
        for set in [&mut self.changed, &mut self.gone] {
            let said: Vec<Id> = set.range((after.clone(), to.clone())).cloned().collect();
            for key in said {
                set.remove(&key);
            }
        }
        let after = match after {
            Bound::Excluded(key) | Bound::Included(key) => Some(key),
            Bound::Unbounded => None,
        };
        if after.is_none() && upto.is_none() {
            request.full = true;
        } else {
            request.all_of =
                Some(KeyRange { after: after.map(reported_key), upto: upto.clone().map(reported_key) });
        }
        self.all_after = upto.map(Bound::Excluded);
        request
    }

    /// Some of what changed or is gone.
    fn news(&mut self, mut request: ReportRequest) -> Option<ReportRequest> {
        let mut room = Room::default();
        while let Some(key) = self.gone.first() {
            if !room.take(key.1.len() + 16) {
                return Some(request);
            }
            request.gone.extend(self.gone.pop_first().map(reported_key));
        }
        while let Some(key) = self.changed.first() {
            let report = self.keys.get(key);
            if !room.take(report.map_or(0, |report| report.encoded_len() + 8)) {
                return Some(request);
            }
            request.reports.extend(report.cloned());
            self.changed.pop_first();
        }
        (room.keys > 0).then_some(request)
    }
}

fn reported_key((kind, key): Id) -> ReportedKey {
    ReportedKey { kind, key }
}

/// Sends one call; whether the controller asks for everything.
async fn send(link: &Link, request: &ReportRequest) -> Result<bool, tonic::Status> {
    let mut client = IntentFeedClient::new(link.channel.clone());
    let mut request = tonic::Request::new(request.clone());
    request.set_timeout(CALL_TIMEOUT);
    let answer = tokio::time::timeout(CALL_TIMEOUT, client.report(request))
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("no answer to a report"))??;
    Ok(answer.into_inner().want_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(key: &str, revision: u64) -> KeyReport {
        KeyReport { kind: 21, key: key.into(), phase: 2, revision, message: String::new() }
    }

    fn id(key: &str) -> (u32, String) {
        (21, key.into())
    }

    fn task() -> (Reporter, ReporterTask) {
        let (_, link) = watch::channel(None);
        new(link, (Duration::from_millis(1), Duration::from_millis(10)))
    }

    fn keys(request: &ReportRequest) -> Vec<&str> {
        request.reports.iter().map(|report| report.key.as_str()).collect()
    }

    fn gone(request: &ReportRequest) -> Vec<&str> {
        request.gone.iter().map(|key| key.key.as_str()).collect()
    }

    #[test]
    fn what_changed_and_what_is_gone_is_sent_and_nothing_else() {
        let (reporter, task) = task();
        assert_eq!(task.next(), None, "nothing was seen yet, which is not the same as nothing there");
        reporter.report("e", 5, [seen("a", 1), seen("b", 1)], []).unwrap();
        let first = task.next().unwrap();
        assert!(first.full);
        assert_eq!(keys(&first), ["a", "b"]);
        reporter.report("e", 6, [seen("a", 1), seen("b", 2)], []).unwrap();
        reporter.report("e", 7, [seen("b", 3)], []).unwrap();
        let second = task.next().unwrap();
        assert!(!second.full && second.all_of.is_none());
        assert_eq!((keys(&second), second.revision, second.reports[0].revision), (vec!["b"], 7, 3));
        assert_eq!(task.next(), None);
        reporter.report("e", 8, [], [id("a"), id("never there")]).unwrap();
        let third = task.next().unwrap();
        assert!(!third.full && third.all_of.is_none());
        assert_eq!((keys(&third), gone(&third)), (vec![], vec!["a"]));
        assert_eq!(task.next(), None);
    }

    #[test]
    fn a_key_that_is_there_again_is_not_gone() {
        let (reporter, task) = task();
        reporter.report("e", 1, [seen("a", 1), seen("b", 1)], []).unwrap();
        task.next().unwrap();
        reporter.report("e", 2, [], [id("a"), id("b")]).unwrap();
        reporter.report("e", 3, [seen("a", 3)], []).unwrap();
        let sent = task.next().unwrap();
        assert_eq!((keys(&sent), gone(&sent)), (vec!["a"], vec!["b"]));
        // The call fails, and the other one comes back meanwhile, while the first goes.
        reporter.report("e", 4, [seen("b", 4)], [id("a")]).unwrap();
        task.put_back(&sent);
        let sent = task.next().unwrap();
        assert_eq!((keys(&sent), gone(&sent)), (vec!["b"], vec!["a"]));
        assert_eq!(task.next(), None);
    }

    #[test]
    fn what_could_not_be_sent_is_sent_again_as_it_is_then() {
        let (reporter, task) = task();
        reporter.report("e", 1, [seen("a", 1)], []).unwrap();
        let lost = task.next().unwrap();
        task.put_back(&lost);
        reporter.report("e", 2, [seen("a", 2)], []).unwrap();
        let again = task.next().unwrap();
        assert!(again.full);
        assert_eq!(again.reports, [seen("a", 2)]);
        assert_eq!(task.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_epoch_is_news_though_nothing_else_changed() {
        let (reporter, task) = task();
        let work = async || tokio::time::timeout(ASKED_EVERY, task.state.work.notified()).await.is_ok();
        reporter.report("e", 5, [seen("a", 1)], []).unwrap();
        assert!(work().await);
        reporter.report("e", 5, [seen("a", 1)], []).unwrap();
        assert!(!work().await);
        reporter.report("f", 5, [], []).unwrap();
        assert!(work().await, "nobody is told, and the controller forgot everything");
        let sent = task.next().unwrap();
        assert!(sent.full && sent.epoch == "f");
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
    fn everything_is_said_in_pages_that_touch_and_do_not_overlap() {
        let (reporter, task) = task();
        let name = |n: usize| format!("k{n:05}");
        let long = "x".repeat(500);
        let all = (0..5_000).map(|n| KeyReport { message: long.clone(), ..seen(&name(n), 1) });
        reporter.report("e", 1, all, []).unwrap();
        let mut pages = vec![task.next().unwrap()];
        // Behind the pages that were said, and before them.
        reporter.report("e", 2, [seen(&name(1), 2)], [id(&name(2)), id(&name(4_999))]).unwrap();
        task.put_back(&pages.pop().unwrap());
        while pages.last().is_none_or(|page| page.all_of.as_ref().is_none_or(|range| range.upto.is_some())) {
            pages.push(task.next().unwrap());
        }
        assert!(pages.len() > 2);
        assert!(pages.iter().all(|page| {
            page.encoded_len() <= PAGE_BYTES + 200 && page.reports.len() <= PAGE_KEYS && !page.full
        }));
        for pair in pages.windows(2) {
            let [before, after] = [&pair[0], &pair[1]].map(|page| page.all_of.clone().unwrap());
            assert_eq!(before.upto, after.after);
        }
        let said: Vec<&str> = pages.iter().flat_map(keys).collect();
        assert_eq!(said.len(), 4_998);
        assert!(said.is_sorted());
        assert_eq!(pages[0].reports[1].revision, 2);
        assert_eq!(task.next(), None, "what the pages say is not said again");
    }

    #[test]
    fn many_changes_are_split() {
        let (reporter, task) = task();
        reporter.report("e", 1, [], []).unwrap();
        assert!(task.next().unwrap().full);
        let all: Vec<_> = (0..PAGE_KEYS * 2 + 1).map(|n| seen(&n.to_string(), 1)).collect();
        reporter.report("e", 2, all.clone(), []).unwrap();
        let sizes: Vec<_> = std::iter::from_fn(|| task.next()).map(|request| request.reports.len()).collect();
        assert_eq!(sizes, [PAGE_KEYS, PAGE_KEYS, 1]);
        reporter.report("e", 3, [], all.into_iter().map(|one| (one.kind, one.key))).unwrap();
        let sizes: Vec<_> = std::iter::from_fn(|| task.next()).map(|request| request.gone.len()).collect();
        assert_eq!(sizes, [PAGE_KEYS, PAGE_KEYS, 1]);
    }
}
