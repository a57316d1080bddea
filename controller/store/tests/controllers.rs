//! Several controllers on one store: what they tell each other, and what one of them does at a time.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod databases;
mod writing;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hosting_intent::{Key, Kind};
use hosting_planner::{ApplyError, Change, Draft};
use hosting_proto::feed::KeyReport;
use hosting_store::{
    Commit, FleetOrder, Kek, KeyRange, NodeReport, Origin, ReportChange, Store, StoreConfig, StoreError,
    Watermark, WriteError,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use self::databases::{Backend, Place, Postgres};
use self::writing::{open, tenant, write};

/// Two controllers on one database: revisions follow the order of commits, and none is given twice.
#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_write_one_store() {
    let place = Place::new(Backend::Postgres);
    let stores = [open(&place, &place.database).await, open(&place, &place.database).await];
    let writers = (0..200_u64).map(|n| {
        let store = stores[usize::try_from(n % 2).unwrap()].clone();
        tokio::spawn(async move { write(&store, n).await })
    });
    futures::future::try_join_all(writers).await.unwrap();
    let mut tx = stores[0].read().await.unwrap();
    assert_eq!(tx.head(), 200);
    let audience = "edge/a".parse().unwrap();
    let log = tx.log_since(&audience, 0, usize::MAX).await.unwrap();
    let revisions: Vec<u64> = log.iter().map(|entry| entry.revision).collect();
    assert_eq!(revisions, (1..=200).collect::<Vec<_>>());
    assert!(tx.digest_is_true(&audience).await.unwrap());
}

/// What a controller remembers from one group to the next is forgotten when it hears of somebody else's commit between two groups, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_controller_changed_is_read_anew_once_it_was_heard_of() {
    let place = Place::new(Backend::Postgres);
    let stores = [open(&place, &place.database).await, open(&place, &place.database).await];
    for round in 0..6_usize {
        let (writer, reader) = (&stores[round % 2], &stores[(round + 1) % 2]);
        let mut changed = tenant("t_shared");
        changed.spec.insert("round".into(), round.into());
        let change = Change { put: vec![changed], ..Change::default() };
        let written =
            writer.write(Origin::default(), move |tx| Box::pin(async move { tx.apply(change).await }));
        let revision = written.await.unwrap().revision;
        let mut doorbell = reader.doorbell();
        let heard = doorbell.wait_for(|head| *head >= revision);
        tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap().unwrap();
        let read = reader.write(Origin::default(), |tx| {
            Box::pin(async move {
                let found = hosting_planner::World::resource(tx, "t_shared").await?;
                Ok::<_, ApplyError>(found.unwrap().spec["round"].clone())
            })
        });
        assert_eq!(read.await.unwrap().value, round);
    }
}

/// A controller that did not make the follower keeps events of its own changes all the same, from the next one on, and ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn every_controller_keeps_events_for_a_follower_of_another_one() {
    let place = Place::new(Backend::Postgres);
    let stores = [open(&place, &place.database).await, open(&place, &place.database).await];
    let put = async |store: &Store, kind, id: &str| {
        let mut one = tenant(id);
        one.kind = kind;
        let change = Change { put: vec![one], ..Change::default() };
        let written =
            store.write(Origin::default(), move |tx| Box::pin(async move { tx.apply(change).await }));
        written.await.unwrap();
    };
    let [one, other] = &stores;
    put(other, hosting_resource::Kind::Tenant, "t_0").await;
    put(one, hosting_resource::Kind::Webhook, "h_1").await;
    put(other, hosting_resource::Kind::Tenant, "t_1").await;
    put(one, hosting_resource::Kind::Tenant, "t_2").await;
    let gone = Change { remove: vec!["h_1".into()], ..Change::default() };
    let removed = other.write(Origin::default(), move |tx| Box::pin(async move { tx.apply(gone).await }));
    removed.await.unwrap();
    put(one, hosting_resource::Kind::Tenant, "t_3").await;
    let start = hosting_store::EventPlace { revision: 0, place: 0 };
    let events = one.read().await.unwrap().events_after(start, 100).await.unwrap();
    let ids: Vec<&str> = events.iter().map(|logged| logged.event.id.as_str()).collect();
    assert_eq!(ids, ["h_1", "t_1", "t_2", "h_1"]);
}

/// The size of the history is a sum that goes on from row to row, whichever controller writes the next one.
#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_the_history_is_one_sum_over_all_controllers() {
    let place = Place::new(Backend::Postgres);
    let stores = [open(&place, &place.database).await, open(&place, &place.database).await];
    for n in 0..200_u64 {
        write(&stores[usize::from(n % 7 < 3)], n).await;
    }
    // Two hundred rows without a document have 400 bytes each.
    assert_eq!(stores[0].prune_history(0, 200 * 400).await.unwrap(), 0);
    assert_eq!(stores[1].prune_history(0, 100 * 400).await.unwrap(), 99);
    write(&stores[0], 200).await;
    assert_eq!(stores[1].prune_history(0, 100 * 400).await.unwrap(), 1);
}

async fn next(commits: &mut tokio::sync::broadcast::Receiver<Arc<Commit>>) -> Arc<Commit> {
    tokio::time::timeout(Duration::from_secs(10), commits.recv()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hears_of_all_revisions_in_order() {
    let place = Place::new(Backend::Postgres);
    let stores = [open(&place, &place.database).await, open(&place, &place.database).await];
    let mut heard = [stores[0].commits(), stores[1].commits()];
    let writers = (0..100_u64).map(|n| {
        let store = stores[usize::try_from(n % 2).unwrap()].clone();
        tokio::spawn(async move { write(&store, n).await })
    });
    futures::future::try_join_all(writers).await.unwrap();
    for commits in &mut heard {
        let mut last = 0;
        while last < 100 {
            let commit = next(commits).await;
            assert!(commit.revision > last, "{} after {last}", commit.revision);
            assert_eq!(commit.audiences, ["edge/a".parse().unwrap()]);
            last = commit.revision;
        }
    }
    // It rings once everybody was told.
    for store in &stores {
        let mut doorbell = store.doorbell();
        let rung =
            tokio::time::timeout(Duration::from_secs(10), doorbell.wait_for(|head| *head == 100)).await;
        rung.unwrap().unwrap();
    }
}

fn mark(applied: u64) -> Watermark {
    Watermark {
        node: "lb-1".into(),
        audience: "edge/a".parse().unwrap(),
        epoch: "e".into(),
        applied,
        durable: applied,
        seen_at: 1,
        controller: String::new(),
        connected: true,
        in_service: true,
        build: "1".into(),
        served: Vec::new(),
    }
}

async fn applied(store: &Store) -> (u64, String) {
    let row =
        store.read().await.unwrap().subscriber("lb-1", &"edge/a".parse().unwrap()).await.unwrap().unwrap();
    (row.applied, row.controller)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_belongs_to_the_controller_that_claimed_it_last() {
    let place = Place::new(Backend::Postgres);
    let (a, b) = (open(&place, &place.database).await, open(&place, &place.database).await);
    let mut heard = b.commits();
    a.save_watermarks(&[mark(1)], true).await.unwrap();
    a.save_watermarks(&[mark(2)], false).await.unwrap();
    assert_eq!(applied(&b).await, (2, a.controller().to_owned()));
    assert!(next(&mut heard).await.fleet.subscribers.contains(&("edge/a".parse().unwrap(), "lb-1".into())));
    b.save_watermarks(&[mark(3)], true).await.unwrap();
    // The first one does not know yet that the node went.
    a.save_watermarks(&[mark(9)], false).await.unwrap();
    assert_eq!(applied(&a).await, (3, b.controller().to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_and_orders_reach_the_other_controller() {
    let place = Place::new(Backend::Postgres);
    let (a, b) = (open(&place, &place.database).await, open(&place, &place.database).await);
    let (mut heard, mut own) = (b.commits(), a.commits());
    let key = Key::new(Kind::Webroot, "web_1");
    let all = hosting_proto::feed::ReportRequest { full: true, ..Default::default() };
    let all_of = |reports| NodeReport { all_of: KeyRange::of(&all), reports, ..NodeReport::default() };
    let said =
        |n: usize| KeyReport { kind: key.kind, key: format!("web_{n}"), phase: 2, ..Default::default() };
    a.save_reports("web-1", all_of((0..1_000).map(said).collect())).await.unwrap();
    let mut keys = BTreeSet::new();
    while keys.len() < 1_000 {
        keys.extend(next(&mut heard).await.fleet.reports["web-1"].keys.clone());
    }
    // What was said before changes nothing.
    a.save_reports("web-1", all_of((0..1_000).filter(|n| *n != 1).map(said).collect())).await.unwrap();
    let only = ReportChange { keys: [key].into(), everything: false };
    assert_eq!(next(&mut heard).await.fleet.reports["web-1"], only);
    let forgotten = a.write(Origin::default(), |tx| {
        Box::pin(
            async move { tx.forget_node("web-1").await.map(drop).map_err(hosting_planner::WorldError::from) },
        )
    });
    let _: hosting_store::Committed<()> =
        forgotten.await.map_err(|error: WriteError<_>| error.to_string()).unwrap();
    assert_eq!(next(&mut heard).await.fleet.reports["web-1"], ReportChange::everything());
    let order = FleetOrder::Release { audience: "edge/a".into(), node: "lb-1".into(), by: "ops".into() };
    a.order(order.clone()).await.unwrap();
    assert_eq!(next(&mut heard).await.fleet.orders, [order]);
    assert!(own.try_recv().is_err(), "who wrote it knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_controller_runs_at_a_time_a_dead_one_holds_no_lease() {
    let place = Place::new(Backend::Sqlite);
    let term = Duration::from_secs(3_600);
    let killed = open(&place, &place.database).await;
    let first = killed.hold("gatekeeper", term).await.unwrap().unwrap();
    // As a killed process: the file's lock is gone, the lease was not given back.
    killed.close().await;
    let next = open(&place, &place.database).await;
    let second = next.hold("gatekeeper", term).await.unwrap().unwrap();
    assert!(second.fence > first.fence);
    assert_eq!(next.hold("gatekeeper", term).await.unwrap(), Some(second), "held on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_has_one_holder_and_what_was_done_by_a_lost_one_is_refused() {
    let place = Place::new(Backend::Postgres);
    let (a, b) = (open(&place, &place.database).await, open(&place, &place.database).await);
    let term = Duration::from_millis(600);
    let first = a.hold("gatekeeper", term).await.unwrap().unwrap();
    assert_eq!(a.hold("gatekeeper", term).await.unwrap(), Some(first.clone()), "held on");
    assert_eq!(b.hold("gatekeeper", term).await.unwrap(), None);
    assert!(b.hold("another", term).await.unwrap().is_some());
    let under = |lease| Origin { lease: Some(lease), ..Origin::default() };
    let change = || Change { put: vec![tenant("t_1")], ..Change::default() };
    let put = |store: Store, origin: Origin, change: Change| async move {
        store.write(origin, move |tx| Box::pin(async move { tx.apply(change).await })).await
    };
    put(a.clone(), under(first.clone()), change()).await.unwrap();
    tokio::time::sleep(term).await;
    let second = b.hold("gatekeeper", term).await.unwrap().unwrap();
    assert!(second.fence > first.fence);
    assert_eq!(a.hold("gatekeeper", term).await.unwrap(), None);
    let late = Change { remove: vec!["t_1".into()], ..Change::default() };
    let refused: Result<_, WriteError<ApplyError>> = put(a.clone(), under(first), late).await;
    assert!(matches!(refused, Err(WriteError::Store(StoreError::LostLease))), "{refused:?}");
    put(b.clone(), under(second.clone()), Change { put: vec![tenant("t_2")], ..Change::default() })
        .await
        .unwrap();
    b.let_go(second).await.unwrap();
    assert!(a.hold("gatekeeper", term).await.unwrap().is_some(), "given back");
    let others: Vec<String> = {
        a.beat(&["192.0.2.1:8091".into(), "192.0.2.1:8092".into()]).await.unwrap();
        b.beat(&[]).await.unwrap().into_iter().flat_map(|other| other.feed).collect()
    };
    assert_eq!(others, ["192.0.2.1:8091", "192.0.2.1:8092"]);
}

/// A controller that stands still in the middle of a transaction does not stop the others.
#[tokio::test(flavor = "multi_thread")]
async fn who_stands_still_with_the_head_locked_is_ended() {
    let place = Place::new(Backend::Postgres);
    let (a, b) = (open(&place, &place.database).await, open(&place, &place.database).await);
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let still = tokio::spawn(async move {
        a.write(Origin::default(), move |tx| {
            Box::pin(async move {
                tx.apply(Change { put: vec![tenant("t_a")], ..Change::default() }).await?;
                locked.send(()).unwrap();
                // The thread stands, as a stopped process would.
                std::thread::sleep(Duration::from_secs(8));
                Ok::<_, ApplyError>(())
            })
        })
        .await
        .map(|_| ())
    });
    is_locked.await.unwrap();
    let began = std::time::Instant::now();
    write(&b, 1).await;
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    assert!(still.await.unwrap().is_err(), "its transaction was rolled back");
    assert!(b.read().await.unwrap().resources(&["t_a".into()]).await.unwrap().is_empty());
}

/// Between a controller and its database: what is in the way can be made to swallow everything, as a broken network does.
struct Wire {
    port: u16,
    swallows: Arc<AtomicBool>,
}

impl Wire {
    async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self { port: listener.local_addr().unwrap().port(), swallows: Arc::default() };
        let swallows = wire.swallows.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let (socket, swallows) = (socket.clone(), swallows.clone());
                tokio::spawn(async move {
                    let far = UnixStream::connect(socket).await.unwrap();
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::join!(pump(near_in, far_out, &swallows), pump(far_in, near_out, &swallows));
                });
            }
        });
        wire
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, swallows: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(length) = from.read(&mut bytes).await {
        if length == 0 || (!swallows.load(Ordering::SeqCst) && to.write_all(&bytes[..length]).await.is_err())
        {
            return;
        }
    }
}

/// Packets to and from the database are lost, and no connection breaks: the controller says so in time, and goes on when they come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_says_nothing_is_given_up_in_time() {
    let postgres = Postgres::start();
    let place = Place::on(&postgres);
    let wire = Wire::to(postgres.socket()).await;
    let name = place.database.to_string();
    let name = name.rsplit('/').next().unwrap();
    let database =
        format!("postgres://hosting@127.0.0.1:{}/{name}?sslmode=disable", wire.port).parse().unwrap();
    let mut config = StoreConfig::of(database);
    config.mutation_timeout = Duration::from_secs(1);
    let store = Store::open(&config, Kek::load_or_create(&place.kek()).unwrap()).await.unwrap();
    write(&store, 1).await;
    wire.swallows.store(true, Ordering::SeqCst);
    let began = std::time::Instant::now();
    let change = Change { put: vec![tenant("t_lost")], ..Change::default() };
    let lost: Result<_, WriteError<ApplyError>> =
        store.write(Origin::default(), move |tx| Box::pin(async move { tx.apply(change).await })).await;
    assert!(lost.is_err());
    assert!(store.read().await.is_err());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    wire.swallows.store(false, Ordering::SeqCst);
    let mut tries = 0;
    while store.probe().await.is_err() {
        tries += 1;
        assert!(tries < 20, "it does not come back");
    }
    write(&store, 2).await;
    assert_eq!(store.read().await.unwrap().head(), 2, "what was lost is not there");
}
