//! What a new store needs before anybody can use it: certificate authority and first API key.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use hosting_feed::pki::Authorities;
use hosting_intent::{Audience, Cause};
use hosting_planner::{PlanError, Unit, WorldError};
use hosting_resource::key_from;
use hosting_scaffold::file::write_private;
use hosting_store::{Origin, Store, WriteError};

/// Audiences that one mutation plans.
const AUDIENCES: u32 = 200;

/// Where the authorities are sealed.
const AUTHORITIES: &str = "feed authorities";

/// The cell's authorities, made at the first start. The fleet is told whom to trust.
pub(crate) async fn authorities(store: &Store) -> anyhow::Result<Authorities> {
    let stored = match store.unseal(AUTHORITIES).await? {
        Some(secret) => secret,
        None => {
            let new = Authorities::create(store.cell(), store.now() / 1000)?;
            store.seal_once(AUTHORITIES, &new.to_secret()?).await?
        }
    };
    let authorities = Authorities::from_secret(stored.expose())?;
    tell_whom_to_trust(store, authorities.roots_der())
        .await
        .context("cannot tell the fleet whom to trust")?;
    Ok(authorities)
}

/// Keeps the roots and plans each audience there is, a page in each mutation: one that nobody can subscribe to any more goes.
async fn tell_whom_to_trust(store: &Store, roots: Vec<Vec<u8>>) -> anyhow::Result<()> {
    store
        .write(Origin::default(), move |tx| {
            Box::pin(async move {
                for root in &roots {
                    tx.add_trust_root(root)
                        .await
                        .map_err(|error| PlanError::from(WorldError::from(error)))?;
                }
                Ok::<(), PlanError>(())
            })
        })
        .await?;
    let mut after: Option<Audience> = None;
    loop {
        let page = store.read().await?.audiences(after.as_ref(), AUDIENCES).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        store
            .write(Origin::default(), move |tx| {
                Box::pin(async move {
                    hosting_planner::replan(page.into_iter().map(Unit::Audience), tx, Cause::Planner).await
                })
            })
            .await?;
    }
}

/// Makes sure that the key in `file` opens everything; writes a new one if the file is not there.
pub(crate) async fn first_key(store: &Store, file: &Path) -> anyhow::Result<()> {
    let key = match fs::read_to_string(file) {
        Ok(text) => {
            let mode = fs::metadata(file)?.mode() & 0o777;
            if mode & 0o077 != 0 {
                bail!(
                    "the API key file {} can be read by others (mode {mode:o}); run chmod 600 on it, and change the \
                     key if anybody may have read it",
                    file.display()
                );
            }
            text.trim().to_owned()
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = key_from(&rand::random());
            write_private(file, format!("{key}\n").as_bytes())
                .with_context(|| format!("cannot write the API key to {}", file.display()))?;
            key
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let path = file.display().to_string();
    let made = store
        .write(Origin::default(), move |tx| {
            Box::pin(async move {
                hosting_planner::admit_key(tx, "bootstrap", &key, &mut |bytes: &mut [u8]| rand::fill(bytes))
                    .await
            })
        })
        .await;
    match made {
        Ok(_) => Ok(()),
        Err(WriteError::Refused(error)) => bail!("the API key in {path} cannot be used: {error}"),
        Err(error) => Err(error).context("cannot store the first API key"),
    }
}

#[cfg(test)]
mod tests {
    use hosting_intent::{Bytes, Key, Kind as IntentKind};
    use hosting_planner::{Change, Draft, IntentChange};
    use hosting_store::{Kek, StoreConfig};

    use super::*;

    /// Older builds planned trust roots for each node, whatever it subscribed to.
    #[tokio::test]
    async fn audiences_that_nobody_can_subscribe_to_go_at_the_start_however_many_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::load_or_create(&folder.path().join("kek")).unwrap();
        let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
        let dead = |n: u32| {
            let audience = Audience::node(&format!("edge-{n}")).unwrap();
            IntentChange {
                owner: Unit::Audience(audience.clone()).owner(),
                audience,
                key: Key::new(IntentKind::TrustRoots, "roots"),
                value: Some(Bytes::from_static(b"roots")),
                cause: Cause::Planner,
                traceparent: None,
            }
        };
        for half in [0..600, 600..1_200] {
            let change = Change { intents: half.map(dead).collect(), ..Change::default() };
            let written =
                store.write(Origin::default(), move |tx| Box::pin(async move { tx.apply(change).await }));
            written.await.unwrap();
        }
        authorities(&store).await.unwrap();
        let mut tx = store.read().await.unwrap();
        let all = tx.audiences(None, 2_000).await.unwrap();
        assert_eq!(all.len(), 1_200);
        for audience in all {
            assert_eq!(tx.audience(&audience).await.unwrap().count, 0, "{audience}");
        }
        drop(tx);
        store.close().await;
    }
}
