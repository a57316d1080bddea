//! Files: locks, modes, versions, damage, copies, kills.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hosting_intent_sync::FeedSource;
use hosting_planner::World;
use hosting_resource::Kind;
use hosting_store::{
    AuditEntry, AuditQuery, Database, Kek, OpenError, Origin, Store, StoreConfig, StoreError,
};

use crate::harness::{Bench, applied, at, config, intents, kek, open, put, set, tenant};

fn file_config(path: &Path) -> StoreConfig {
    config(&Database::Sqlite(path.to_owned()))
}

fn file_of(bench: &Bench) -> PathBuf {
    bench.folder().join("store.db")
}

fn file_kek(path: &Path) -> Kek {
    Kek::load_or_create(&path.with_file_name("kek")).unwrap()
}

async fn open_file(path: &Path) -> Store {
    Store::open(&file_config(path), file_kek(path)).await.unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_ours_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/data/store.db");
    let store = open_file(&path).await;
    applied(&store, put([tenant("t_a")])).await;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let mut names = Vec::new();
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        assert_eq!(mode(&file.path()), 0o600, "{}", file.path().display());
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["kek", "store.db", "store.db-shm", "store.db-wal"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_on_one_file_are_refused() {
    let bench = Bench::new().await;
    let error = Store::open(&config(&bench.place.database), kek(&bench.place)).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&format!("(process {})", std::process::id())) && text.contains("stop that one"),
        "{text}"
    );
    // Nothing that lies beside the database is what keeps the second one out.
    for name in ["store.db.lock", "store.db-shm"] {
        let _ = std::fs::remove_file(bench.folder().join(name));
    }
    assert!(matches!(
        Store::open(&config(&bench.place.database), kek(&bench.place)).await,
        Err(OpenError::InUse { .. })
    ));
    // Dropping the last handle ends the writer, which lets go of the lock.
    let Bench { store, place } = bench;
    drop(store);
    let mut tries = 0;
    while let Err(error) = Store::open(&config(&place.database), kek(&place)).await {
        assert!(matches!(error, OpenError::InUse { .. }) && tries < 500, "{error}");
        tries += 1;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// The log of a store from before its size was kept is measured once; from then on the oldest rows make room.
#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_has_a_largest_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let entry = |n: usize| AuditEntry {
        method: "POST".into(),
        path: format!("/{n}"),
        resource_type: "x".into(),
        status_code: 400,
        body: Some(serde_json::json!({"n": "x".repeat(1_000)})),
        ..AuditEntry::default()
    };
    of_version(&path, 3);
    edit(
        &path,
        "WITH RECURSIVE n (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM n WHERE n < 299) \
         INSERT INTO audit (id, at, method, path, resource_type, status_code, body, traceparent) \
         SELECT 'a' || n, 1, 'POST', '/' || n, 'x', 400, '{\"n\":\"' || printf('%.*c', 1000, 'x') || '\"}', '' FROM n",
    );
    let mut small = file_config(&path);
    small.audit_bytes = 1 << 20;
    let store = Store::open(&small, file_kek(&path)).await.unwrap();
    for n in 300..2_000 {
        store.audit(Origin::default(), entry(n)).await.unwrap();
    }
    let mut rows = Vec::new();
    let mut list = AuditQuery { limit: 1_000, ..AuditQuery::default() };
    loop {
        let page = store.read().await.unwrap().audit_page(&list).await.unwrap();
        rows.extend(page.rows.into_iter().map(|row| row.entry.path));
        match page.next {
            Some(next) => list.after = Some(next),
            None => break,
        }
    }
    // Each row counts some 1 400 bytes, and the oldest 256 go at once.
    assert!((450..=760).contains(&rows.len()), "{}", rows.len());
    assert_eq!(rows[0], "/1999");
    let expected: Vec<String> = (0..2_000).rev().take(rows.len()).map(|n| format!("/{n}")).collect();
    assert_eq!(rows, expected, "the newest are kept, without a gap");
    // Time goes on as it did.
    assert_eq!(store.prune_audit(store.now() + 1).await.unwrap(), rows.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut bad = file_config(&path);
    bad.cell = Some("Cell 1".into());
    assert!(matches!(Store::open(&bad, file_kek(&path)).await, Err(OpenError::Config { field: "cell", .. })));
    bad.cell = None;
    bad.readers = 0;
    assert!(matches!(
        Store::open(&bad, file_kek(&path)).await,
        Err(OpenError::Config { field: "readers", .. })
    ));
    let mut good = file_config(&path);
    good.cell = Some("eu-1".into());
    let store = Store::open(&good, file_kek(&path)).await.unwrap();
    assert_eq!(store.cell(), "eu-1");
    store.close().await;
    assert_eq!(open_file(&path).await.cell(), "eu-1", "the stored one counts");
    good.cell = Some("eu-2".into());
    let mut tries = 0;
    loop {
        match Store::open(&good, file_kek(&path)).await {
            Err(OpenError::InUse { .. }) if tries < 500 => tries += 1,
            Err(OpenError::WrongCell { .. }) => break,
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// A file as a former build left it.
fn of_version(path: &Path, version: usize) {
    const MIGRATIONS: [&str; 3] = [
        include_str!("../../migrations/0001_first.sql"),
        include_str!("../../migrations/0002_zone_suffixes.sql"),
        include_str!("../../migrations/0003_enrolments.sql"),
    ];
    for migration in &MIGRATIONS[..version] {
        edit(path, migration);
    }
    // "hstr", as the store marks its files.
    edit(path, &format!("PRAGMA application_id = 1752396914; PRAGMA user_version = {version}"));
}

fn edit(path: &Path, sql: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_and_a_foreign_file_are_refused() {
    let bench = Bench::new().await;
    bench.store.close().await;
    edit(&file_of(&bench), "PRAGMA user_version = 999");
    let error = Store::open(&config(&bench.place.database), kek(&bench.place)).await.unwrap_err();
    assert!(matches!(error, OpenError::NewerSchema { found: 999, .. }));
    assert!(error.to_string().contains("start a newer controller"), "{error}");

    let foreign = bench.folder().join("foreign.db");
    edit(&foreign, "CREATE TABLE notes (text TEXT)");
    assert!(matches!(
        Store::open(&file_config(&foreign), file_kek(&foreign)).await,
        Err(OpenError::Foreign(_))
    ));

    let garbage = bench.folder().join("garbage.db");
    std::fs::write(&garbage, "no database at all, but long enough to be looked at".repeat(100)).unwrap();
    let error = Store::open(&file_config(&garbage), file_kek(&garbage)).await.unwrap_err();
    assert!(matches!(error, OpenError::Store { source: StoreError::Corrupt(_), .. }), "{error:?}");
    assert!(error.to_string().contains("put back a backup"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_file_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    of_version(&path, 1);
    edit(
        &path,
        "INSERT INTO resources VALUES ('z1', 'zone', NULL, NULL, NULL, 'a.b.example', 'active', NULL, 1, 1, 1, 0, 0, '{}', '{}'), \
         ('z2', 'zone', NULL, NULL, NULL, 'wonderful.test', 'active', NULL, 1, 1, 1, 0, 0, '{}', '{}')",
    );
    let store = open_file(&path).await;
    for (name, found) in [("a.b.example", 1), ("b.example", 1), ("example", 1), ("x.example", 0)] {
        let zones = store.read().await.unwrap().with_facet(Kind::Zone, "suffix", name, "", 9).await.unwrap();
        assert_eq!(zones.len(), found, "{name}");
    }
    let search = Some("onderful.tes".to_owned());
    let list = hosting_store::ListQuery { search, ..hosting_store::ListQuery::new(Kind::Zone) };
    assert_eq!(store.read().await.unwrap().page(&list).await.unwrap().items[0].id, "z2");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_inside_is_told_apart() {
    let bench = Bench::new().await;
    applied(&bench.store, put((0..500).map(|n| tenant(&format!("t_{n}"))).collect::<Vec<_>>())).await;
    bench.store.close().await;
    let mut bytes = std::fs::read(file_of(&bench)).unwrap();
    // Everything behind the schema.
    for byte in bytes.iter_mut().skip(4096 * 45) {
        *byte = 0xa5;
    }
    std::fs::write(file_of(&bench), bytes).unwrap();
    let damaged = match Store::open(&config(&bench.place.database), kek(&bench.place)).await {
        Ok(store) => store
            .read()
            .await
            .unwrap()
            .page(&hosting_store::ListQuery::new(Kind::Tenant))
            .await
            .unwrap_err()
            .to_string(),
        Err(error) => error.to_string(),
    };
    assert!(damaged.contains("damaged"), "{damaged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_put_back_is_seen_by_its_head_and_gets_a_new_epoch() {
    let bench = Bench::new().await;
    let store = &bench.store;
    applied(store, intents([set("edge/a", "old", "u", b"1")])).await;
    let copy = bench.folder().join("backup.db");
    store.backup_to(&copy).await.unwrap();
    assert_eq!(mode(&copy), 0o600);
    assert!(matches!(store.backup_to(&copy).await, Err(StoreError::Value { field: "path", .. })));
    assert!(!bench.folder().join("backup.db.partial").exists());
    for n in 0..5 {
        applied(store, intents([set("edge/a", &format!("new{n}"), "u", b"2")])).await;
    }
    let ahead = store.audience(&at("edge/a")).await.unwrap();
    store.close().await;

    std::fs::copy(&copy, file_of(&bench)).unwrap();
    let store = open(&bench.place).await;
    let back = store.audience(&at("edge/a")).await.unwrap();
    // A subscriber's cursor beyond the head of the same epoch is the proof.
    assert_eq!(back.epoch, ahead.epoch);
    assert!(ahead.revision > back.head);
    assert_eq!((back.count, back.revision), (1, 1));
    store.begin_epoch(&ahead.epoch).await.unwrap();
    assert_ne!(store.audience(&at("edge/a")).await.unwrap().epoch, ahead.epoch);
    assert_eq!(applied(&store, intents([set("edge/a", "next", "u", b"3")])).await, 2);
    assert!(store.read().await.unwrap().digest_is_true(&at("edge/a")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_put_back_without_the_log_that_a_killed_controller_left() {
    let bench = Bench::new().await;
    let store = &bench.store;
    applied(store, intents([set("edge/a", "h", "u", b"1")])).await;
    let copy = bench.folder().join("backup.db");
    store.backup_to(&copy).await.unwrap();
    assert!(matches!(Store::restore(&file_of(&bench), &copy), Err(OpenError::InUse { .. })));
    applied(store, intents([set("edge/a", "h", "u", b"2")])).await;
    // What a kill would leave.
    let left = tempfile::tempdir().unwrap();
    for name in ["kek", "store.db", "store.db-wal", "store.db-shm"] {
        std::fs::copy(bench.folder().join(name), left.path().join(name)).unwrap();
    }
    assert!(std::fs::metadata(left.path().join("store.db-wal")).unwrap().len() > 0);
    let path = left.path().join("store.db");
    let missing = Store::restore(&path, &left.path().join("none")).unwrap_err();
    assert!(matches!(missing, OpenError::File { .. }) && path.exists());
    Store::restore(&path, &copy).unwrap();
    assert_eq!(mode(&path), 0o600);
    let back = open_file(&path).await;
    let page = back.page(&at("edge/a"), None, 9).await.unwrap();
    assert_eq!((page.len(), page[0].value.as_ref()), (1, b"1".as_slice()));
    assert!(back.read().await.unwrap().digest_is_true(&at("edge/a")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_one_moment_while_others_write() {
    let bench = Bench::new().await;
    let store = bench.store.clone();
    let writer = tokio::spawn(async move {
        for n in 0..300_u32 {
            // Both or neither, in every moment.
            let value = n.to_be_bytes();
            applied(&store, intents([set("edge/a", "x", "u", &value), set("edge/b", "x", "u", &value)]))
                .await;
        }
    });
    for n in 0..5 {
        let folder = bench.folder().join(format!("copy{n}"));
        std::fs::create_dir(&folder).unwrap();
        bench.store.backup_to(&folder.join("store.db")).await.unwrap();
        std::fs::copy(bench.folder().join("kek"), folder.join("kek")).unwrap();
        let copy = open_file(&folder.join("store.db")).await;
        let (a, b) = (
            copy.page(&at("edge/a"), None, 9).await.unwrap(),
            copy.page(&at("edge/b"), None, 9).await.unwrap(),
        );
        assert_eq!(a, b);
        assert!(copy.read().await.unwrap().digest_is_true(&at("edge/a")).await.unwrap());
    }
    writer.await.unwrap();
}

/// The parent runs this very test as a child, which writes until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_loses_nothing_that_it_acknowledged() {
    const CHILD: &str = "STORE_TEST_CHILD";
    if let Some(path) = std::env::var_os(CHILD) {
        let store = open_file(Path::new(&path)).await;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0_u64.. {
                        let (id, host) = (
                            format!("t_{}_{writer}_{n}", std::process::id()),
                            format!("h{writer}-{}", n % 20),
                        );
                        let mut change = put([tenant(&id)]);
                        change.intents.push(set("edge/a", &host, "u", id.as_bytes()));
                        let revision = applied(&store, change).await;
                        println!("ack {revision} {id}");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        return;
    }

    let bench = Bench::new().await;
    bench.store.close().await;
    let mut head = 0;
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "files::a_killed_writer_loses_nothing_that_it_acknowledged", "--nocapture"])
            .env(CHILD, file_of(&bench))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = Vec::new();
        let output = BufReader::new(child.stdout.take().unwrap());
        for line in output.lines() {
            let line = line.unwrap();
            let Some(ack) = line.split_once("ack ").map(|(_, ack)| ack) else { continue };
            let (revision, id) = ack.split_once(' ').unwrap();
            acknowledged.push((revision.parse::<u64>().unwrap(), id.to_owned()));
            if acknowledged.len() == 300 {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success());
        assert!(acknowledged.len() >= 300);

        let store = open(&bench.place).await;
        let mut tx = store.read().await.unwrap();
        let newest = acknowledged.iter().map(|(revision, _)| *revision).max().unwrap();
        assert!(tx.head() >= newest && newest > head, "{} {newest} {head}", tx.head());
        head = tx.head();
        for (_, id) in &acknowledged {
            assert!(tx.resource(id).await.unwrap().is_some(), "{id}");
        }
        assert!(tx.digest_is_true(&at("edge/a")).await.unwrap());
        let window = tx.log_since(&at("edge/a"), 0, usize::MAX).await.unwrap();
        let mut prev = 0;
        for entry in window {
            assert_eq!(entry.prev, prev);
            prev = entry.revision;
        }
        drop(tx);
        store.close().await;
    }
}
