//! What is passed on for each tenant, counted, and told to the controller minute by minute (ADR 43).
//!
//! A minute's counts become reports, each a file before it is sent, and are sent in their order until the controller has them. It counts a report that
//! comes again once, so that nothing is counted twice and only what was counted since the last minute is lost with a process that dies.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ahash::RandomState;
use hosting_edge_map::Tenant;
use hosting_intent_sync::client::{TrafficError, TrafficLink};
use hosting_proto::feed::{TenantTraffic, TrafficReport};
use hosting_scaffold::file::write_whole;
use prometheus_client::metrics::counter::Counter;
use prost::Message as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Memories for counts, so that threads seldom meet at one.
const SLOTS: usize = 16;
/// Between two reports.
const EACH: Duration = Duration::from_secs(60);
/// Seconds of an hour.
const HOUR: u64 = 3_600;
/// Tenants of one report, as the controller takes them.
const TENANTS: usize = 1_000;
/// Reports that wait for the controller: two weeks of an edge with less than a thousand busy tenants.
const WAITING: usize = 20_000;
/// Between two attempts while the controller takes none.
const AGAIN: Duration = Duration::from_secs(15);
/// Largest file that is a report.
const FILE_BYTES: u64 = 1 << 20;

/// What a request was to its tenant.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Passed {
    /// Of the answer; 0: there was none.
    pub(crate) status: u16,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// No node was asked.
    pub(crate) is_cached: bool,
    /// Until the node's answer began.
    pub(crate) node: Option<Duration>,
}

/// Adds a request to what was passed on for its tenant.
fn add(sum: &mut TenantTraffic, passed: Passed) {
    sum.requests += 1;
    match passed.status / 100 {
        1 => sum.informational += 1,
        2 => sum.successful += 1,
        3 => sum.redirected += 1,
        4 => sum.client_errors += 1,
        5 => sum.server_errors += 1,
        _ => {}
    }
    sum.received = sum.received.saturating_add(passed.received);
    sum.sent = sum.sent.saturating_add(passed.sent);
    sum.cached += u64::from(passed.is_cached);
    let micros = passed.node.map_or(0, |node| u64::try_from(node.as_micros()).unwrap_or(u64::MAX));
    sum.node_us = sum.node_us.saturating_add(micros);
}

fn merge(sum: &mut TenantTraffic, more: &TenantTraffic) {
    sum.requests += more.requests;
    sum.informational += more.informational;
    sum.successful += more.successful;
    sum.redirected += more.redirected;
    sum.client_errors += more.client_errors;
    sum.server_errors += more.server_errors;
    sum.received = sum.received.saturating_add(more.received);
    sum.sent = sum.sent.saturating_add(more.sent);
    sum.cached += more.cached;
    sum.node_us = sum.node_us.saturating_add(more.node_us);
}

/// By the tenant's place in memory, which this holds. Whose it is is written down when it is taken.
type Slot = HashMap<usize, (Arc<Tenant>, TenantTraffic), RandomState>;

/// What was counted and is in no report yet.
#[derive(Debug, Default)]
pub struct TrafficBook {
    slots: [Mutex<Slot>; SLOTS],
}

thread_local! {
    static SLOT: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Ordering::Relaxed))
    };
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TrafficBook {
    /// TenantCounts a request that ended.
    pub(crate) fn count(&self, tenant: &Arc<Tenant>, passed: Passed) {
        let Some(slot) = self.slots.get(SLOT.get() % SLOTS) else { return };
        let place = Arc::as_ptr(tenant).addr();
        let mut slot = lock(slot);
        add(
            &mut slot.entry(place).or_insert_with(|| (Arc::clone(tenant), TenantTraffic::default())).1,
            passed,
        );
    }

    /// Takes what was counted, of each tenant once.
    #[must_use]
    pub fn take(&self) -> Vec<TenantTraffic> {
        let mut all: HashMap<String, TenantTraffic> = HashMap::new();
        for slot in &self.slots {
            let taken = std::mem::take(&mut *lock(slot));
            for (tenant, counted) in taken.into_values() {
                merge(all.entry(tenant.id().to_owned()).or_default(), &counted);
            }
        }
        all.into_iter().map(|(tenant_id, sum)| TenantTraffic { tenant_id, ..sum }).collect()
    }
}

/// Makes reports of what was counted, and keeps them until the controller has them.
#[derive(Debug)]
pub(crate) struct TrafficReports {
    book: Arc<TrafficBook>,
    folder: PathBuf,
    source: [u8; 16],
    number: u64,
    lost: Counter,
    kept: Arc<Notify>,
}

fn name_of(source: &[u8], number: u64) -> String {
    format!("{}-{number:020}", hex::encode(source))
}

/// The files of the reports that wait, those of one source in their order.
fn waiting(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // A file that is being written has another name.
        if name.len() == 53 && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl TrafficReports {
    /// Reports are files in `folder`, which is made. `lost` counts requests that are in none.
    ///
    /// # Errors
    /// The folder cannot be made, or there are no random numbers.
    pub(crate) fn new(book: Arc<TrafficBook>, folder: PathBuf, lost: Counter) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut source = [0; 16];
        aws_lc_rs::rand::fill(&mut source).map_err(io::Error::other)?;
        Ok(Self { book, folder, source, number: 0, lost, kept: Arc::default() })
    }

    /// Makes reports each minute and at the end of each hour, the last ones when nobody counts any more.
    pub(crate) async fn run(mut self, ended: CancellationToken) {
        loop {
            let now = since_epoch();
            let hour = now.as_secs() / HOUR;
            let left = Duration::from_secs((hour + 1) * HOUR).saturating_sub(now);
            let has_ended = ended.run_until_cancelled(tokio::time::sleep(EACH.min(left))).await.is_none();
            // Each report is on disk before the next one is written.
            tokio::task::block_in_place(|| self.keep(hour * HOUR));
            if has_ended {
                return;
            }
        }
    }

    /// Puts what was counted into files.
    fn keep(&mut self, hour: u64) {
        let counted = self.book.take();
        if counted.is_empty() {
            return;
        }
        let mut room = waiting(&self.folder).map(|files| WAITING.saturating_sub(files.len()));
        for part in counted.chunks(TENANTS) {
            self.number += 1;
            let report = TrafficReport {
                audience: String::new(),
                source: self.source.to_vec().into(),
                number: self.number,
                hour: i64::try_from(hour).unwrap_or_default(),
                tenants: part.to_vec(),
            };
            let written = match &mut room {
                Ok(0) => Err(io::Error::other(format!("{WAITING} reports wait for the controller already"))),
                Ok(room) => {
                    *room -= 1;
                    let path = self.folder.join(name_of(&report.source, report.number));
                    write_whole(&path, &report.encode_to_vec(), 0o600)
                }
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            if let Err(error) = written {
                self.lost.inc_by(part.iter().map(|counted| counted.requests).sum());
                tracing::error!(%error, folder = %self.folder.display(), "what was passed on for tenants is not counted");
            }
        }
        self.kept.notify_one();
    }

    /// What sends the reports that are kept.
    pub(crate) fn sender(&self) -> TrafficSender {
        TrafficSender { folder: self.folder.clone(), kept: Arc::clone(&self.kept) }
    }
}

/// With a process that did not drain in time, what it counted last.
impl Drop for TrafficReports {
    fn drop(&mut self) {
        self.keep(since_epoch().as_secs() / HOUR * HOUR);
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Sends reports, those of earlier processes too.
#[derive(Debug)]
pub(crate) struct TrafficSender {
    folder: PathBuf,
    kept: Arc<Notify>,
}

impl TrafficSender {
    /// Sends until it is to stop.
    pub(crate) async fn run(self, mut link: TrafficLink, stop: CancellationToken) {
        loop {
            let went = stop.run_until_cancelled(self.send_all(&mut link)).await;
            let pause = match went {
                None => return,
                Some(Ok(())) => EACH,
                Some(Err(error)) => {
                    tracing::debug!(%error, "reports of traffic wait");
                    AGAIN
                }
            };
            let next = async {
                tokio::select! {
                    () = self.kept.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            };
            if stop.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
    }

    async fn send_all(&self, link: &mut TrafficLink) -> io::Result<()> {
        for path in waiting(&self.folder)? {
            let bytes = match fs::metadata(&path) {
                Ok(file) if file.len() > FILE_BYTES => Vec::new(),
                Ok(_) => fs::read(&path)?,
                // Another process of this edge sent it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let report = TrafficReport::decode(bytes.as_slice()).ok().filter(|report| report.number > 0);
            let sent = match report {
                Some(report) => link.send(report).await,
                None => Err(TrafficError::Refused("the file holds no report".to_owned())),
            };
            match sent {
                Ok(()) => {}
                Err(TrafficError::Refused(reason)) => {
                    tracing::error!(file = %path.display(), reason, "a report of traffic is given up");
                }
                Err(error @ TrafficError::NotTaken(_)) => return Err(io::Error::other(error)),
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hosting_edge_map::Routing;
    use hosting_intent::message::Route;
    use hosting_intent::{Bytes, Cause, EdgeIntent, Item, Key, Kind};

    use super::*;

    fn tenant(id: &str) -> Arc<Tenant> {
        let (routing, mut writer) = Routing::new(16);
        let item = Item {
            key: Key::new(Kind::Route, "www.example.com"),
            revision: 1,
            value: Bytes::new(),
            cause: Cause::Person,
            traceparent: String::new(),
            rollout: 0,
        };
        let route = Route { tenant_id: id.into(), ..Route::default() };
        writer.apply(&[(item, EdgeIntent::Route(route))], &[]);
        routing.resolve("www.example.com").unwrap().tenant
    }

    fn reports(folder: &Path, book: &Arc<TrafficBook>) -> TrafficReports {
        TrafficReports::new(Arc::clone(book), folder.to_owned(), Counter::default()).unwrap()
    }

    fn read(folder: &Path) -> Vec<TrafficReport> {
        let read = |path: &PathBuf| TrafficReport::decode(fs::read(path).unwrap().as_slice()).unwrap();
        waiting(folder).unwrap().iter().map(read).collect()
    }

    #[test]
    fn counts_of_an_hour_are_files_in_their_order_and_nothing_is_in_two_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let book = Arc::<TrafficBook>::default();
        let mut reports = reports(dir.path(), &book);
        let (one, again) = (tenant("t_a"), tenant("t_a"));
        let ok = Passed { status: 204, sent: 7, ..Passed::default() };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1_000).for_each(|_| book.count(&one, ok)));
            }
        });
        // The same tenant, whose routes were away meanwhile.
        book.count(&again, Passed { status: 0, is_cached: true, ..Passed::default() });
        reports.keep(7_200);
        reports.keep(7_200);
        for _ in 0..10 {
            book.count(&one, ok);
            reports.keep(10_800);
        }
        let all = read(dir.path());
        let numbers: Vec<(u64, i64, u64)> =
            all.iter().map(|one| (one.number, one.hour, one.tenants[0].requests)).collect();
        let later = (2..12).map(|number| (number, 10_800, 1));
        assert_eq!(numbers, [(1, 7_200, 8_001)].into_iter().chain(later).collect::<Vec<_>>());
        let first = &all[0].tenants[0];
        assert_eq!((first.tenant_id.as_str(), first.successful, first.sent), ("t_a", 8_000, 56_000));
        assert_eq!((first.cached, all[0].tenants.len()), (1, 1));
        assert!(all.iter().all(|one| one.source == all[0].source && one.source.len() == 16));
    }

    #[test]
    fn what_is_counted_last_is_kept_when_the_process_ends_and_a_next_one_counts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let book = Arc::<TrafficBook>::default();
        for _ in 0..2 {
            let reports = reports(dir.path(), &book);
            book.count(&tenant("t_a"), Passed::default());
            drop(reports);
        }
        fs::write(dir.path().join("notes.txt"), "not ours").unwrap();
        let all = read(dir.path());
        assert_eq!(all.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 1]);
        assert_ne!(all[0].source, all[1].source);
    }

    #[test]
    fn a_folder_that_is_full_of_reports_takes_no_more_and_says_how_many_requests_that_were() {
        let dir = tempfile::tempdir().unwrap();
        let book = Arc::<TrafficBook>::default();
        let mut reports = reports(dir.path(), &book);
        for number in 0..WAITING as u64 {
            fs::write(dir.path().join(name_of(&[0; 16], number)), "").unwrap();
        }
        book.count(&tenant("t_a"), Passed::default());
        reports.keep(0);
        assert_eq!((reports.lost.get(), waiting(dir.path()).unwrap().len()), (1, WAITING));
    }
}
