//! The real file: what survives what.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hosting_intent::{Bytes, Cause, Kind};
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::*;
use crate::{Quarantined, Stored, Why};

type View = BTreeMap<Key, Record>;

/// Bytes that the file may have; writes beyond fail as on a full disk.
#[derive(Debug, Clone)]
pub(super) struct Quota(Arc<AtomicU64>);

impl Default for Quota {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl Quota {
    pub(super) fn backend(&self, file: File) -> Result<Limited, Fault> {
        Ok(Limited { file: FileBackend::new(file)?, quota: self.clone() })
    }
}

#[derive(Debug)]
pub(super) struct Limited {
    file: FileBackend,
    quota: Quota,
}

impl StorageBackend for Limited {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> Result<(), io::Error> {
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if offset + data.len() as u64 > self.quota.0.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(offset, data)
    }
    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }
}

fn key(n: u32) -> Key {
    Key::new(Kind::Route, format!("host-{n}.example"))
}

fn stored(revision: u64, value: &[u8]) -> Stored {
    Stored { revision, value: Bytes::copy_from_slice(value), cause: Cause::Person }
}

fn accepted(revision: u64, value: &[u8]) -> Record {
    Record::Accepted(stored(revision, value))
}

fn meta(revision: u64, view: &View) -> Meta {
    let mut digest = Digest::EMPTY;
    let mut count = 0;
    for (key, record) in view {
        if let Some(wanted) = record.wanted() {
            digest.add(key, &wanted.value);
            count += 1;
        }
    }
    Meta { epoch: "e1".into(), revision, count, digest }
}

fn write_all(ledger: &mut Ledger, revision: u64, view: &View) -> Result<(), LedgerError> {
    let meta = meta(revision, view);
    ledger.write(LedgerBatch {
        meta: &meta,
        replace_all: true,
        records: Box::new(view.iter().map(|(key, record)| (key.clone(), Some(record.clone())))),
    })
}

fn read_all(ledger: &mut Ledger) -> Result<(Option<Meta>, View), LedgerError> {
    let mut view = View::new();
    let meta = ledger.load(&mut |key, record| {
        view.insert(key.clone(), record);
    })?;
    Ok((meta, view))
}

fn every_sort() -> View {
    let quarantined = |why, wanted, good| {
        Record::Quarantined(Box::new(Quarantined {
            why,
            reason: "because".into(),
            revision: 7,
            wanted,
            good,
        }))
    };
    View::from([
        (key(1), accepted(3, b"one")),
        (key(2), quarantined(Why::Rejected, Some(stored(7, b"bad")), Some(stored(2, b"good")))),
        (key(3), quarantined(Why::Held, None, Some(stored(2, b"held")))),
        (Key { kind: 4711, name: "x".into() }, quarantined(Why::Unsupported, Some(stored(7, b"raw")), None)),
    ])
}

#[test]
fn a_view_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/feed.ledger");
    let view = every_sort();
    let mut ledger = Ledger::open(&path, "edge/a").unwrap();
    assert_eq!(read_all(&mut ledger).unwrap(), (None, View::new()));
    write_all(&mut ledger, 7, &view).unwrap();
    drop(ledger);
    let mut ledger = Ledger::open(&path, "edge/a").unwrap();
    assert_eq!(read_all(&mut ledger).unwrap(), (Some(meta(7, &view)), view.clone()));

    // An ordinary write touches what it names only.
    let mut next = view;
    next.remove(&key(1));
    next.insert(key(9), accepted(8, b"nine"));
    let after = meta(8, &next);
    let changed = Box::new([(key(1), None), (key(9), next.get(&key(9)).cloned())].into_iter());
    ledger.write(LedgerBatch { meta: &after, replace_all: false, records: changed }).unwrap();
    assert_eq!(read_all(&mut ledger).unwrap(), (Some(after), next));

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[test]
fn an_empty_view_is_not_an_unknown_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feed.ledger");
    let mut ledger = Ledger::open(&path, "edge/a").unwrap();
    write_all(&mut ledger, 0, &View::new()).unwrap();
    drop(ledger);
    let (meta, view) = read_all(&mut Ledger::open(&path, "edge/a").unwrap()).unwrap();
    assert!(meta.is_some());
    assert!(view.is_empty());
}

#[test]
fn only_one_opener_and_only_its_audience() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feed.ledger");
    let ledger = Ledger::open(&path, "edge/a").unwrap();
    assert!(matches!(Ledger::open(&path, "edge/a"), Err(LedgerError::Locked { .. })));
    drop(ledger);
    let error = Ledger::open(&path, "edge/b").unwrap_err();
    assert!(matches!(&error, LedgerError::OtherAudience { found, .. } if found == "edge/a"), "{error}");
    Ledger::open(&path, "edge/a").unwrap();
}

#[test]
fn a_released_ledger_is_another_ones_until_that_one_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feed.ledger");
    let view = every_sort();
    let mut ours = Ledger::open(&path, "edge/a").unwrap();
    write_all(&mut ours, 7, &view).unwrap();
    ours.release();
    let mut theirs = Ledger::open(&path, "edge/a").unwrap();
    assert_eq!(read_all(&mut theirs).unwrap(), (Some(meta(7, &view)), view.clone()));
    assert!(matches!(write_all(&mut ours, 8, &view), Err(LedgerError::Locked { .. })));
    write_all(&mut theirs, 9, &View::new()).unwrap();
    drop(theirs);
    assert_eq!(read_all(&mut ours).unwrap(), (Some(meta(9, &View::new())), View::new()));
    write_all(&mut ours, 8, &view).unwrap();
    assert!(matches!(Ledger::open(&path, "edge/a"), Err(LedgerError::Locked { .. })));
}

#[test]
fn another_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feed.ledger");
    drop(Ledger::open(&path, "edge/a").unwrap());
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(META).unwrap().insert("format", (FORMAT + 1).to_le_bytes().as_slice()).unwrap();
    write.commit().unwrap();
    drop(database);
    assert!(
        matches!(Ledger::open(&path, "edge/a"), Err(LedgerError::Format { found, .. }) if found == FORMAT + 1)
    );
    assert!(path.exists());
}

#[test]
fn damage_is_found_wherever_it_is_and_the_file_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let clean = folder.path().join("clean");
    let mut view = every_sort();
    for n in 100..400 {
        view.insert(key(n), accepted(3, format!("value of {n}").repeat(4).as_bytes()));
    }
    let mut ledger = Ledger::open(&clean, "edge/a").unwrap();
    write_all(&mut ledger, 7, &view).unwrap();
    drop(ledger);
    let bytes = std::fs::read(&clean).unwrap();
    let (mut found, mut harmless) = (0, 0);
    let mut damage = |what: String, damaged: &[u8]| {
        let path = folder.path().join("damaged-one");
        std::fs::write(&path, damaged).unwrap();
        let seen = Ledger::open(&path, "edge/a").and_then(|mut ledger| read_all(&mut ledger));
        match seen {
            // Wanted items are covered by the digest; a lie about them must not pass.
            Ok((Some(meta_read), view_read)) => {
                assert_eq!(meta_read, meta(meta_read.revision, &view_read), "{what}");
                harmless += 1;
            }
            Ok((None, _)) => panic!("{what}: read as never written"),
            Err(LedgerError::Corrupt { aside, .. }) => {
                assert!(aside.exists() && !path.exists(), "{what}");
                read_all(&mut Ledger::open(&path, "edge/a").unwrap()).unwrap();
                found += 1;
            }
            // Bytes that happen to make another format or audience are told apart like real ones.
            Err(LedgerError::Format { .. } | LedgerError::OtherAudience { .. }) => found += 1,
            Err(error) => panic!("{what}: {error}"),
        }
    };
    std::panic::set_hook(Box::new(|info| {
        if !info.location().is_some_and(|location| location.file().contains("redb")) {
            writeln!(io::stderr(), "{info}").ok();
        }
    }));
    // Most of the file is room to grow; only what was written is worth damaging.
    let written: Vec<usize> = (0..bytes.len())
        .step_by(512)
        .filter(|at| bytes[*at..].iter().take(64).any(|byte| *byte != 0))
        .collect();
    for at in written {
        let mut damaged = bytes.clone();
        for byte in damaged.iter_mut().skip(at).take(64) {
            *byte ^= 0x5a;
        }
        damage(format!("64 bytes at {at}"), &damaged);
    }
    damage("cut in half".into(), &bytes[..bytes.len() / 2]);
    damage("text".into(), b"this is no ledger");
    let _hook = std::panic::take_hook();
    assert!(found > 50, "only {found} damages found, {harmless} harmless");
}

#[test]
fn a_full_disk_keeps_what_was_there_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feed.ledger");
    let view = every_sort();
    let mut ledger = Ledger::open(&path, "edge/a").unwrap();
    write_all(&mut ledger, 7, &view).unwrap();
    let room = std::fs::metadata(&path).unwrap().len();
    ledger.quota.0.store(room, Ordering::Relaxed);
    let mut large = view.clone();
    for n in 0..20_000 {
        large.insert(key(n), accepted(8, &[7; 100]));
    }
    for _ in 0..3 {
        let error = write_all(&mut ledger, 8, &large).unwrap_err();
        assert!(error.is_full(), "{error}");
    }
    assert_eq!(read_all(&mut ledger).unwrap(), (Some(meta(7, &view)), view));
    assert!(
        matches!(Ledger::open(&path, "edge/a"), Err(LedgerError::Locked { .. })),
        "the lock outlives a failure"
    );
    ledger.quota.0.store(u64::MAX, Ordering::Relaxed);
    write_all(&mut ledger, 8, &large).unwrap();
    drop(ledger);
    let (meta_read, view_read) = read_all(&mut Ledger::open(&path, "edge/a").unwrap()).unwrap();
    assert_eq!(meta_read, Some(meta(8, &large)));
    assert_eq!(view_read, large);
}

/// The view that the child below has written at `revision`.
fn view_at(revision: u64) -> View {
    (0..revision.min(40)).map(|n| (key(n as u32), accepted(revision, &revision.to_le_bytes()))).collect()
}

#[test]
fn a_kill_loses_nothing_that_was_written() {
    if let Ok(path) = std::env::var("LEDGER_TEST_CHILD") {
        let mut ledger = Ledger::open(path, "edge/a").unwrap();
        let start = read_all(&mut ledger).unwrap().0.map_or(0, |meta| meta.revision);
        for revision in start + 1.. {
            write_all(&mut ledger, revision, &view_at(revision)).unwrap();
            let mut out = io::stdout();
            writeln!(out, "wrote {revision}").unwrap();
            out.flush().unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feed.ledger");
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::a_kill_loses_nothing_that_was_written", "--nocapture"])
            .env("LEDGER_TEST_CHILD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut promised = 0;
        let mut seen = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        for line in &mut lines {
            if let Some(revision) = line.strip_prefix("wrote ") {
                promised = revision.parse().unwrap();
                seen += 1;
                if seen > 3 + round * 5 {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            if let Some(revision) = line.strip_prefix("wrote ") {
                promised = revision.parse().unwrap();
            }
        }
        assert!(seen > 3, "the child did not write");
        let (meta_read, view_read) = read_all(&mut Ledger::open(&path, "edge/a").unwrap()).unwrap();
        let revision = meta_read.as_ref().unwrap().revision;
        assert!(revision >= promised, "{revision} on disk, {promised} promised");
        assert_eq!(view_read, view_at(revision));
        assert_eq!(meta_read, Some(meta(revision, &view_read)));
    }
}
