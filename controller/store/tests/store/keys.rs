//! Keys: of tenants, of audiences, and the one that seals them all, rotated while the store is written to.

use std::collections::BTreeSet;
use std::path::Path;

use hosting_intent::{Key, Kind as IntentKind, audience_key_name};
use hosting_intent_sync::sealing::{AudienceKey, Place, SealingKey};
use hosting_planner::{Admitted, Draft, SealFor, SealedFor, World};
use hosting_resource::{Kind, PlainText, SealedText, SecretPlace};
use hosting_store::{Kek, OpenError, Resealed, Store};
use serde_json::json;

use crate::harness::{Bench, applied, at, config, kek, open, put, remove, resource, write};

const CANARY: &str = "canary-7d1f0a-of-a-tenant";

fn place(tenant: Option<&str>, resource: &str, path: &str) -> SecretPlace {
    SecretPlace { tenant: tenant.map(str::to_owned), resource: resource.into(), path: path.into() }
}

async fn seal(store: &Store, place: &SecretPlace, text: &str) -> SealedText {
    let (place, text) = (place.clone(), PlainText::new(text.to_owned()));
    write(store, |tx| Box::pin(async move { Ok(tx.seal(&place, &text).await?) })).await.unwrap().value
}

async fn opened(store: &Store, place: &SecretPlace, sealed: &SealedText) -> Option<String> {
    let secret = store.open_secret(place, sealed).await.unwrap()?;
    Some(String::from_utf8(secret.expose().to_vec()).unwrap())
}

/// What a folder's files hold, those of the write-ahead log among them.
fn holds(folder: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|file| {
        let path = file.unwrap().path();
        path.is_file() && std::fs::read(path).unwrap().windows(text.len()).any(|window| window == text)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_opens_in_its_place_only_and_is_nowhere_in_clear() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let here = place(Some("t_a"), "r1", "/key");
    let sealed = seal(store, &here, CANARY).await;
    assert_eq!(opened(store, &here, &sealed).await.as_deref(), Some(CANARY));
    assert_ne!(seal(store, &here, CANARY).await.sealed, sealed.sealed, "no two are the same");
    // Each tenant has a key, and so has the platform.
    seal(store, &place(Some("t_b"), "r1", "/key"), CANARY).await;
    let platform = place(None, "r1", "/key");
    let of_platform = seal(store, &platform, CANARY).await;
    assert_eq!(opened(store, &platform, &of_platform).await.as_deref(), Some(CANARY));
    for other in [
        place(Some("t_b"), "r1", "/key"),
        place(Some("t_c"), "r1", "/key"),
        place(None, "r1", "/key"),
        place(Some("t_a"), "r2", "/key"),
        place(Some("t_a"), "r1", "/yek"),
    ] {
        assert_eq!(opened(store, &other, &sealed).await, None, "{other:?}");
    }
    let other_version = SealedText { key: sealed.key + 1, ..sealed.clone() };
    assert_eq!(opened(store, &here, &other_version).await, None);
    let bent = SealedText { sealed: sealed.sealed.replacen(&sealed.sealed[..1], "_", 1), ..sealed.clone() };
    assert_eq!(opened(store, &here, &bent).await, None);
    assert!(!holds(bench.folder(), CANARY.as_bytes()));
    let copy = bench.folder().join("copies");
    std::fs::create_dir(&copy).unwrap();
    store.backup_to(&copy.join("copy.db")).await.unwrap();
    assert!(!holds(&copy, CANARY.as_bytes()));

    store.close().await;
    let again = open(&bench.place).await;
    assert_eq!(opened(&again, &here, &sealed).await.as_deref(), Some(CANARY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_mutation_that_is_given_up_seals_nothing() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let here = place(Some("t_a"), "r1", "/key");
    let (inner, text) = (here.clone(), PlainText::new(CANARY.to_owned()));
    let refused = write::<(), _>(store, |tx| {
        Box::pin(async move {
            tx.seal(&inner, &text).await?;
            Err(hosting_planner::ApplyError::TooLarge(0))
        })
    })
    .await;
    assert!(refused.is_err());
    let sealed = seal(store, &here, CANARY).await;
    assert_eq!(opened(store, &here, &sealed).await.as_deref(), Some(CANARY));
    store.close().await;
    assert_eq!(opened(&open(&bench.place).await, &here, &sealed).await.as_deref(), Some(CANARY));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_tenants_that_are_gone_are_dropped() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let tenants = ["t_a", "t_b"].map(|id| resource(Kind::Tenant, id, json!({})));
    applied(store, put(tenants)).await;
    let (stays, gone, platform) =
        (place(Some("t_a"), "r", "/k"), place(Some("t_b"), "r", "/k"), place(None, "r", "/k"));
    let mut sealed = Vec::new();
    for place in [&stays, &gone, &platform] {
        sealed.push(seal(store, place, CANARY).await);
    }
    assert!(opened(store, &gone, &sealed[1]).await.is_some());
    applied(store, remove(&["t_b"])).await;
    assert!(opened(store, &stays, &sealed[0]).await.is_some());
    assert!(opened(store, &gone, &sealed[1]).await.is_none());
    assert!(opened(store, &platform, &sealed[2]).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_all_keys_is_rotated_while_the_store_is_written_to() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let file = bench.place.kek();
    let tenants: Vec<SecretPlace> = (0..250).map(|n| place(Some(&format!("t_{n}")), "r", "/k")).collect();
    let mut sealed = Vec::new();
    for tenant in &tenants {
        sealed.push(seal(store, tenant, CANARY).await);
    }
    store.seal("ca", b"private").await.unwrap();
    let (edge_key, derived) = (store.cluster_edge_key("c1"), store.derive("test"));
    let former = store.kek().id().to_owned();
    let former_file = std::fs::read(&file).unwrap();

    store.use_kek(Kek::rotate(&file).unwrap()).await.unwrap();
    assert_ne!(store.kek().id(), former);
    assert!(!store.is_resealed().await.unwrap());
    let (mut steps, mut rows) = (0, 0);
    loop {
        // In between, and after a crash, everything opens and new things can be sealed.
        let (tenant, known) = (&tenants[steps * 60], &sealed[steps * 60]);
        assert_eq!(opened(store, tenant, known).await.as_deref(), Some(CANARY));
        seal(store, &place(Some(&format!("t_new{steps}")), "r", "/k"), CANARY).await;
        assert_eq!(store.unseal("ca").await.unwrap().unwrap().expose(), b"private");
        steps += 1;
        match store.reseal().await.unwrap() {
            Resealed { done: true, .. } => break,
            step => rows += step.rows,
        }
        if steps == 2 {
            // The file before the rotation does not open a store in the middle of it.
            std::fs::write(bench.folder().join("former"), &former_file).unwrap();
            let former_only = Kek::load_or_create(&set_private(&bench.folder().join("former"))).unwrap();
            assert!(store.use_kek(former_only).await.is_err());
        }
    }
    assert!(steps > 3, "in steps");
    // The tenants' keys, the CA, the derivation root.
    assert_eq!(rows, 252);
    assert!(store.is_resealed().await.unwrap());
    assert_eq!((store.cluster_edge_key("c1"), store.derive("test")), (edge_key.clone(), derived.clone()));

    // The former key is needed no more.
    let only = Kek::forget_former(&file).unwrap();
    store.use_kek(only).await.unwrap();
    store.close().await;
    let again = open(&bench.place).await;
    for (tenant, sealed) in tenants.iter().zip(&sealed) {
        assert_eq!(opened(&again, tenant, sealed).await.as_deref(), Some(CANARY));
    }
    assert_eq!((again.cluster_edge_key("c1"), again.derive("test")), (edge_key, derived));
    again.close().await;
    std::fs::write(&file, &former_file).unwrap();
    let error = Store::open(&config(&bench.place.database), kek(&bench.place)).await.unwrap_err();
    assert!(matches!(error, OpenError::WrongKek { ref found, .. } if *found == former), "{error}");
}

fn set_private(path: &Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_cut_short_goes_on_at_the_next_start_and_needs_both_keys_until_then() {
    let bench = Bench::new().await;
    let file = bench.place.kek();
    let here = place(Some("t_a"), "r", "/k");
    let sealed = seal(&bench.store, &here, CANARY).await;
    bench.store.use_kek(Kek::rotate(&file).unwrap()).await.unwrap();
    bench.store.reseal().await.unwrap();
    let keys = std::fs::read(&file).unwrap();
    bench.store.close().await;
    // Rows need the new key, the head the former one.
    for half in [&keys[..32], &keys[32..]] {
        std::fs::write(&file, half).unwrap();
        let error = Store::open(&config(&bench.place.database), kek(&bench.place)).await.unwrap_err();
        assert!(matches!(error, OpenError::WrongKek { .. }), "{error}");
    }
    std::fs::write(&file, &keys).unwrap();
    let store = open(&bench.place).await;
    while !store.reseal().await.unwrap().done {}
    assert!(store.is_resealed().await.unwrap());
    assert_eq!(opened(&store, &here, &sealed).await.as_deref(), Some(CANARY));
}

/// A subscriber's key pair, and what it can open.
struct Reader {
    pair: SealingKey,
    node: &'static str,
}

impl Reader {
    fn new(folder: &Path, node: &'static str, file: &str) -> Self {
        Self { pair: SealingKey::load_or_create(&folder.join(file)).unwrap(), node }
    }

    async fn join(&self, store: &Store) -> Admitted {
        let (node, key) = (self.node, *self.pair.public());
        write(store, move |tx| {
            Box::pin(async move { Ok(tx.admit_reader(&at("edge/c1"), node, &key).await?) })
        })
        .await
        .unwrap()
        .value
    }

    /// Opens a value with the shares that the store has for it.
    async fn reads(&self, store: &Store, value: &SealedFor) -> bool {
        let audience = at("edge/c1");
        let shares = store.read().await.unwrap().key_shares(&audience).await.unwrap();
        shares.iter().filter(|share| share.reader == *self.pair.public()).any(|share| {
            let key = AudienceKey::from_share(&audience, share.version, &share.share, &self.pair).unwrap();
            let subject = subject();
            key.open(Place { audience: &audience, key: &subject, field: "key" }, &value.sealed)
                .is_ok_and(|plain| plain.as_slice() == CANARY.as_bytes())
        })
    }
}

fn subject() -> Key {
    Key::new(IntentKind::Route, "a.example")
}

async fn seal_for_edges(store: &Store, secret: &SealedText) -> SealedFor {
    let secret = secret.clone();
    write(store, move |tx| {
        Box::pin(async move {
            let (audience, key, place) = (at("edge/c1"), subject(), place(Some("t_a"), "r", "/k"));
            let wanted =
                SealFor { audience: &audience, key: &key, field: "key", place: &place, secret: &secret };
            Ok(tx.seal_for(wanted).await?.unwrap())
        })
    })
    .await
    .unwrap()
    .value
}

async fn leave(store: &Store, node: &'static str) -> bool {
    write(store, move |tx| Box::pin(async move { Ok(tx.expel_reader(&at("edge/c1"), node).await?) }))
        .await
        .unwrap()
        .value
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_an_audience_opens_nothing_that_is_sealed_from_then_on() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let folder = bench.folder();
    let (one, two) = (Reader::new(folder, "e1", "one"), Reader::new(folder, "e2", "two"));
    assert_eq!(one.join(store).await, Admitted::NothingSealed);
    let secret = seal(store, &place(Some("t_a"), "r", "/k"), CANARY).await;
    let first = seal_for_edges(store, &secret).await;
    assert_eq!((first.is_first, first.sealed.version), (true, 1));
    let again = seal_for_edges(store, &secret).await;
    assert_eq!((again.is_first, &again.sealed), (false, &first.sealed), "the same bytes");
    // Who comes later opens what was sealed before.
    assert!(!two.reads(store, &first).await);
    assert_eq!(two.join(store).await, Admitted::Added);
    assert_eq!(two.join(store).await, Admitted::Known);
    assert!(one.reads(store, &first).await && two.reads(store, &first).await);
    let shares = store.read().await.unwrap().key_shares(&at("edge/c1")).await.unwrap();
    let names: BTreeSet<String> =
        shares.iter().map(|share| audience_key_name(share.version, &share.reader)).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(
        store.read().await.unwrap().key_shares(&at("edge/c1")).await.unwrap(),
        shares,
        "kept, not made"
    );

    assert!(!leave(store, "stranger").await);
    assert!(leave(store, "e2").await);
    let second = seal_for_edges(store, &secret).await;
    assert_eq!(second.sealed.version, 2);
    assert!(one.reads(store, &second).await && one.reads(store, &first).await);
    assert!(!two.reads(store, &second).await && !two.reads(store, &first).await);

    // Another machine in its place: the key pair is another one.
    let replaced = Reader::new(folder, "e1", "three");
    assert_eq!(replaced.join(store).await, Admitted::Replaced);
    let third = seal_for_edges(store, &secret).await;
    assert_eq!(third.sealed.version, 3);
    assert!(replaced.reads(store, &third).await && !one.reads(store, &third).await);
    // Nobody can be made to seal to a key that everybody can open.
    let refused = write(store, move |tx| {
        Box::pin(async move { Ok(tx.admit_reader(&at("edge/c1"), "e3", &[0; 32]).await?) })
    })
    .await;
    assert!(refused.unwrap_err().to_string().contains("no X25519 public key"));
    assert!(replaced.reads(store, &seal_for_edges(store, &secret).await).await);
}
