//! Secrets, trust roots, join tokens.

use hosting_planner::World;
use hosting_store::{Enrolled, Kek, OpenError, Store, StoreError, TokenUse};

use crate::harness::{Bench, config, open, write};

#[tokio::test(flavor = "multi_thread")]
async fn secrets_open_again_and_are_nowhere_in_clear() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let canary = b"canary-5f0c1d2e-private-key";
    assert!(store.unseal("ca").await.unwrap().is_none());
    store.seal("ca", canary).await.unwrap();
    assert_eq!(store.unseal("ca").await.unwrap().unwrap().expose(), canary);
    let first = store.seal_once("ca", b"another").await.unwrap();
    assert_eq!(first.expose(), canary, "who was first wins");
    assert_eq!(store.seal_once("token-key", b"fresh").await.unwrap().expose(), b"fresh");
    store.seal("ca", b"replaced").await.unwrap();
    store.seal("ca", canary).await.unwrap();
    for file in std::fs::read_dir(bench.folder()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(16).any(|window| window == &canary[..16]), "{}", path.display());
    }
    store.close().await;
    assert_eq!(open(&bench.place).await.unseal("ca").await.unwrap().unwrap().expose(), canary);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_file_is_refused_at_the_start() {
    let bench = Bench::new().await;
    bench.store.close().await;
    let other = Kek::load_or_create(&bench.folder().join("elsewhere")).unwrap();
    let error = Store::open(&config(&bench.place.database), other).await.unwrap_err();
    assert!(matches!(error, OpenError::WrongKek { .. }));
    assert!(error.to_string().contains("put back the key file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_roots_are_a_set() {
    let bench = Bench::new().await;
    let store = &bench.store;
    write(store, |tx| {
        Box::pin(async move {
            tx.add_trust_root(b"first").await?;
            tx.add_trust_root(b"second").await?;
            tx.add_trust_root(b"first").await?;
            assert_eq!(tx.trust_roots().await?.len(), 2);
            Ok(())
        })
    })
    .await
    .unwrap();
    let removed = write(store, |tx| {
        Box::pin(
            async move { Ok((tx.remove_trust_root(b"first").await?, tx.remove_trust_root(b"x").await?)) },
        )
    })
    .await
    .unwrap();
    assert_eq!(removed.value, (true, false));
    assert_eq!(store.read().await.unwrap().trust_roots().await.unwrap(), [b"second".as_slice()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_good_once_for_one_node_in_time() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let (token, other, old) = ([1; 32], [2; 32], [3; 32]);
    store.put_join_token(token, "n1", 100, 200).await.unwrap();
    store.put_join_token(old, "n1", 100, 150).await.unwrap();
    assert_eq!(store.consume_join_token(other, "n1", 110).await.unwrap(), TokenUse::Unknown);
    assert_eq!(store.consume_join_token(token, "n2", 110).await.unwrap(), TokenUse::Unknown);
    assert_eq!(store.consume_join_token(old, "n1", 150).await.unwrap(), TokenUse::Expired);
    let good = async |hash, node: &'static str, now| {
        store.read().await.unwrap().is_join_token_good(hash, node, now).await.unwrap()
    };
    assert!(good(token, "n1", 110).await);
    assert!(!good(other, "n1", 110).await && !good(token, "n2", 110).await && !good(old, "n1", 150).await);
    let uses = futures::future::join_all((0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.consume_join_token(token, "n1", 110).await.unwrap() })
    }))
    .await;
    let granted = uses.iter().filter(|used| *used.as_ref().unwrap() == TokenUse::Granted).count();
    assert_eq!((uses.len(), granted), (50, 1));
    assert!(!good(token, "n1", 110).await, "spent");
    assert_eq!(store.consume_join_token(token, "n1", 110).await.unwrap(), TokenUse::Used);
    assert_eq!(store.revoke_join_tokens("n1").await.unwrap(), 1);
    assert_eq!(store.consume_join_token(old, "n1", 110).await.unwrap(), TokenUse::Unknown);
    // The same secret twice is a mistake of the caller.
    assert!(matches!(store.put_join_token(token, "n3", 100, 200).await, Err(StoreError::Sql(_))));
    // Long after, a token leaves no row.
    store.put_join_token(other, "n1", 10_000_000, 10_000_001).await.unwrap();
    assert_eq!(store.consume_join_token(token, "n1", 110).await.unwrap(), TokenUse::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolments_are_in_order_whatever_the_clock_says() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let of = |role: &str, at, incarnation| Enrolled { role: role.to_owned(), at, incarnation };
    let known = async || store.read().await.unwrap().enrolments("n1").await.unwrap();
    assert_eq!(known().await, []);
    assert_eq!(store.enrol("n1", of("web", 1_000, 3)).await.unwrap(), 1_000);
    // The clock was put back, or two came in the same millisecond; of another role or node of the same id.
    assert_eq!(store.enrol("n1", of("web", 1_000, 3)).await.unwrap(), 1_001);
    assert_eq!(store.enrol("n1", of("dns", 500, 4)).await.unwrap(), 1_002);
    assert_eq!(store.enrol("n2", of("web", 500, 5)).await.unwrap(), 500);
    assert_eq!(known().await, [of("dns", 1_002, 4), of("web", 1_001, 3)]);
    // Learnt from a certificate: only forwards.
    store.learn_enrolment("n1", of("web", 900, 3)).await.unwrap();
    store.learn_enrolment("n1", of("dns", 2_000, 4)).await.unwrap();
    assert_eq!(known().await, [of("dns", 2_000, 4), of("web", 1_001, 3)]);
    store.close().await;
    let again = open(&bench.place).await;
    assert_eq!(again.read().await.unwrap().enrolments("n1").await.unwrap().len(), 2);
}
