//! Signed heads of the audit chain.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use hosting_planner::ApplyError;
use hosting_resource::audit_head::AuditHead;
use hosting_store::{AuditEntry, AuditQuery, Origin, Store};

use crate::harness::{Bench, open, write};

async fn audited(store: &Store, path: &str) {
    let entry =
        AuditEntry { method: "PUT".into(), path: path.into(), status_code: 200, ..AuditEntry::default() };
    store.audit(Origin::default(), entry).await.unwrap();
}

async fn heads(store: &Store) -> Vec<AuditHead> {
    store.read().await.unwrap().audit_heads(0, 100).await.unwrap()
}

fn verifies(head: &AuditHead) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, hex::decode(&head.key).unwrap());
    key.verify(head.signed_text().as_bytes(), &hex::decode(&head.signature).unwrap()).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_signed_when_there_is_something_new_and_follow_one_another() {
    let bench = Bench::new().await;
    assert_eq!(bench.store.sign_audit_head().await.unwrap(), None, "nothing was audited yet");
    audited(&bench.store, "/one").await;
    let first = bench.store.sign_audit_head().await.unwrap().unwrap();
    assert_eq!(bench.store.sign_audit_head().await.unwrap(), None, "nothing new");
    audited(&bench.store, "/two").await;
    bench.store.close().await;
    // The key is sealed in the store: it is the same after a restart.
    let store = open(&bench.place).await;
    let second = store.sign_audit_head().await.unwrap().unwrap();
    assert_eq!(heads(&store).await, [first.clone(), second.clone()]);
    assert!(verifies(&first) && verifies(&second));
    assert_eq!((first.number, second.number, &second.key), (1, 2, &first.key));
    assert_eq!((first.previous.as_str(), &second.previous), ("", &first.digest()));
    let list = AuditQuery { limit: 10, ..AuditQuery::default() };
    let rows = store.read().await.unwrap().audit_page(&list).await.unwrap().rows;
    for head in [&first, &second] {
        let row = rows.iter().find(|row| row.id == head.row_id).unwrap();
        assert_eq!(hex::encode(&row.link), head.link);
    }
    assert_eq!(store.read().await.unwrap().audit_heads(1, 1).await.unwrap(), [second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_way_to_another_by_its_own_signature_and_old_heads_go() {
    let bench = Bench::new().await;
    audited(&bench.store, "/one").await;
    let first = bench.store.sign_audit_head().await.unwrap().unwrap();
    let said = write(&bench.store, |tx| {
        Box::pin(async move { tx.replace_audit_key().await.map_err(|error| ApplyError::World(error.into())) })
    });
    let said = said.await.unwrap().value;
    assert!(verifies(&said) && said.key == first.key);
    audited(&bench.store, "/two").await;
    let third = bench.store.sign_audit_head().await.unwrap().unwrap();
    assert!(verifies(&third) && Some(&third.key) == said.successor.as_ref() && third.key != first.key);
    assert_eq!(heads(&bench.store).await.len(), 3);
    assert_eq!(bench.store.prune_audit_heads(i64::MAX).await.unwrap(), 2, "the newest one stays");
    assert_eq!(heads(&bench.store).await, [third]);
}
