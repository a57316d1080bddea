//! What the model test does not look at: sizes, and what a session refuses.

use hosting_intent::{Bytes, Cause, Kind, Removal};

use super::*;
use crate::model::{Change, Flaws, MemoryStore, ModelStore};

fn item(n: usize, bytes: usize) -> Item {
    Item {
        key: Key::new(Kind::Route, format!("host-{n}.example")),
        revision: 7,
        value: Bytes::from(vec![7; bytes]),
        cause: Cause::Planner,
        traceparent: String::new(),
        rollout: 0,
    }
}

fn deltas(frames: &[Down]) -> Vec<&wire::Delta> {
    frames
        .iter()
        .map(|down| match &down.frame {
            Some(Frame::Delta(delta)) => delta,
            other => panic!("not a delta: {other:?}"),
        })
        .collect()
}

async fn store(revisions: usize) -> MemoryStore {
    let store = MemoryStore::new(Flaws::default());
    for n in 0..revisions {
        let change = |audience: &str| Change {
            audience: at(audience),
            key: Key::new(Kind::Route, format!("host-{n}.example")),
            value: Some(Bytes::from_static(b"value")),
            cause: Cause::Person,
            rollout: 0,
        };
        store.commit(&[change("edge/a")]).await.unwrap();
        store.commit(&[change("edge/b")]).await.unwrap();
    }
    store
}

fn at(audience: &str) -> Audience {
    audience.parse().unwrap()
}

async fn open(store: &MemoryStore, cursor: Option<(&str, u64)>, limits: Limits) -> (Session, Vec<Down>) {
    let cursor = cursor.map(|(epoch, revision)| wire::Cursor { epoch: epoch.into(), revision });
    Session::open(store, at("edge/a"), cursor.as_ref(), limits).await.unwrap()
}

/// Polls until there is nothing more to say.
async fn all(session: &mut Session, store: &MemoryStore, now: Instant) -> Vec<String> {
    let mut names = Vec::new();
    let mut silent = 0;
    while silent < 2 {
        let frames = session.poll(store, now).await.unwrap();
        silent = if frames.is_empty() { silent + 1 } else { 0 };
        names.extend(frames.iter().map(|down| match &down.frame {
            Some(Frame::SnapshotBegin(begin)) => format!("begin {} {}", begin.epoch, begin.base),
            Some(Frame::SnapshotItems(items)) => format!("items {}", items.items.len()),
            Some(Frame::SnapshotEnd(end)) => format!("end {} {}", end.revision, end.count),
            Some(Frame::Delta(delta)) => format!("delta {} {}", delta.prev, delta.revision),
            Some(Frame::Bookmark(bookmark)) => format!("bookmark {} {}", bookmark.revision, bookmark.head),
            Some(Frame::GoAway(_)) => "go away".to_owned(),
            other => panic!("unexpected: {other:?}"),
        }));
    }
    names
}

fn ack(epoch: &str, applied: u64, durable: u64) -> Up {
    crate::convert::up(wire::up::Frame::Ack(wire::Ack {
        epoch: epoch.into(),
        applied,
        durable,
        ..wire::Ack::default()
    }))
}

#[test]
fn frames_stay_small_and_lose_nothing() {
    let removals = (0..2_000)
        .map(|n| Removal {
            key: Key::new(Kind::Route, format!("gone-{n}.example")),
            cause: Cause::Person,
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            rollout: 0,
        })
        .collect();
    let upserts: Vec<Item> = (0..40).map(|n| item(n, if n == 20 { 3 << 20 } else { 200 << 10 })).collect();
    let entry = LogEntry { prev: 3, revision: 7, upserts, removals };
    let frames = delta_frames(&entry, MAX_FRAME_BYTES);
    for frame in &frames {
        let alone = deltas(std::slice::from_ref(frame))[0].upserts.len() == 1;
        assert!(frame.encoded_len() <= MAX_FRAME_BYTES || alone, "{} bytes", frame.encoded_len());
    }
    let parts = deltas(&frames);
    assert!(parts.iter().all(|part| (part.prev, part.revision) == (3, 7)));
    assert_eq!(parts.iter().filter(|part| !part.more).count(), 1);
    assert!(!parts.last().unwrap().more);
    let keys: Vec<_> =
        parts.iter().flat_map(|part| part.upserts.iter().map(|item| item.key.clone())).collect();
    assert_eq!(keys, entry.upserts.iter().map(|item| item.key.name.clone()).collect::<Vec<_>>());
    assert_eq!(parts.iter().map(|part| part.removals.len()).sum::<usize>(), 2_000);

    let snapshot = snapshot_frames(&entry.upserts, MAX_FRAME_BYTES);
    assert!(snapshot.iter().filter(|frame| frame.encoded_len() > MAX_FRAME_BYTES).count() == 1);
    let nothing = LogEntry { prev: 3, revision: 7, upserts: vec![], removals: vec![] };
    assert_eq!(delta_frames(&nothing, MAX_FRAME_BYTES).len(), 1, "a revision is told even if it is empty");
}

#[tokio::test]
async fn a_known_cursor_resumes_and_any_other_gets_a_snapshot() {
    let (store, now) = (store(5).await, Instant::now());
    store.compact(&at("edge/a"), 5).await.unwrap();
    for (cursor, expected) in [
        (Some(("epoch-1", 9)), &["bookmark 9 10"][..]),
        (Some(("epoch-1", 5)), &["delta 5 7", "delta 7 9", "bookmark 9 10"]),
        (Some(("epoch-1", 6)), &["begin epoch-1 9", "items 5", "end 9 5", "bookmark 9 10"]),
        (Some(("epoch-1", 3)), &["begin epoch-1 9", "items 5", "end 9 5", "bookmark 9 10"]),
        (Some(("epoch-0", 9)), &["begin epoch-1 9", "items 5", "end 9 5", "bookmark 9 10"]),
        (None, &["begin epoch-1 9", "items 5", "end 9 5", "bookmark 9 10"]),
    ] {
        let (mut session, welcome) = open(&store, cursor, Limits::default()).await;
        assert!(matches!(&welcome[..], [Down { frame: Some(Frame::Welcome(w)) }] if w.head == 9));
        assert_eq!(session.resumed(), expected.len() != 4, "{cursor:?}");
        assert_eq!(all(&mut session, &store, now).await, expected, "{cursor:?}");
        assert_eq!(session.follows(), Some(9));
    }
    // Beyond the head of the audience: the store is older than the subscriber.
    let (mut session, _) = open(&store, Some(("epoch-1", 10)), Limits::default()).await;
    assert_eq!(session.epoch(), "epoch-2");
    let expected = ["begin epoch-2 9", "items 5", "end 9 5", "bookmark 9 10"];
    assert_eq!(all(&mut session, &store, now).await, expected);
}

#[tokio::test]
async fn bookmarks_come_at_the_head_and_now_and_then() {
    let (store, now) = (store(1).await, Instant::now());
    let (mut session, _) = open(&store, Some(("epoch-1", 1)), Limits::default()).await;
    assert_eq!(all(&mut session, &store, now).await, ["bookmark 1 2"]);
    assert!(all(&mut session, &store, now + Duration::from_secs(29)).await.is_empty());
    assert_eq!(all(&mut session, &store, now + Duration::from_secs(30)).await, ["bookmark 1 2"]);
}

#[tokio::test]
async fn a_snapshot_that_is_overtaken_begins_again() {
    let (store, now) = (store(3).await, Instant::now());
    let limits = Limits { page_items: 2, snapshots: 2, ..Limits::default() };
    let (mut session, _) = open(&store, None, limits).await;
    session.poll(&store, now).await.unwrap();
    session.poll(&store, now).await.unwrap();
    let gone = Change {
        audience: at("edge/a"),
        key: Key::new(Kind::Route, "host-0.example"),
        value: None,
        cause: Cause::Person,
        rollout: 0,
    };
    store.commit(&[gone]).await.unwrap();
    store.compact(&at("edge/a"), 7).await.unwrap();
    let expected = ["items 1", "begin epoch-1 7", "items 2", "end 7 2", "bookmark 7 7"];
    assert_eq!(all(&mut session, &store, now).await, expected);
    let want =
        crate::convert::up(wire::up::Frame::WantSnapshot(wire::WantSnapshot { reason: "test".into() }));
    assert_eq!(session.on_up(want), Ok(Heard::WantSnapshot("test".into())));
    assert_eq!(all(&mut session, &store, now).await, ["go away"]);
    assert!(session.ended());
}

#[tokio::test]
async fn shared_frames_are_taken_only_where_they_fit() {
    let (store, now) = (store(3).await, Instant::now());
    let (mut session, _) = open(&store, Some(("epoch-1", 1)), Limits::default()).await;
    assert!(!session.skip_to("epoch-1", 3, 5));
    assert!(!session.skip_to("epoch-2", 1, 3));
    assert!(session.skip_to("epoch-1", 1, 3));
    assert_eq!(all(&mut session, &store, now).await, ["delta 3 5", "bookmark 5 6"]);
}

#[tokio::test]
async fn an_ack_of_what_was_never_sent_ends_the_session() {
    let store = store(3).await;
    let (mut session, _) = open(&store, Some(("epoch-1", 3)), Limits::default()).await;
    assert!(matches!(session.on_up(ack("epoch-1", 3, 2)), Ok(Heard::Ack(_))));
    assert_eq!(session.on_up(ack("epoch-0", 99, 99)), Ok(Heard::Heartbeat), "of another epoch");
    assert_eq!(
        session.on_up(ack("epoch-1", 5, 0)),
        Err(ProtocolError::Impossible { applied: 5, durable: 0, sent: 3 })
    );
    assert!(session.on_up(ack("epoch-1", 1, 2)).is_err());
    assert!(matches!(
        session.on_up(crate::convert::up(wire::up::Frame::Hello(wire::Hello::default()))),
        Err(ProtocolError::Unexpected(_))
    ));
}
