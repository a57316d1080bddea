//! What a new store needs before anybody can use it: certificate authority and first API key.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use hosting_feed::pki::Authorities;
use hosting_intent::Cause;
use hosting_planner::{PlanError, Unit, World};
use hosting_resource::kinds::api_key;
use hosting_resource::{Creation, Kind};
use hosting_scaffold::file::write_private;
use hosting_store::{Origin, Store, WriteError};

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
    let roots = authorities.roots_der();
    let told = store
        .write(Origin::default(), move |tx| {
            Box::pin(async move {
                for root in &roots {
                    tx.add_trust_root(root)
                        .await
                        .map_err(|error| PlanError::from(hosting_planner::WorldError::from(error)))?;
                }
                let mut after = String::new();
                loop {
                    let audiences = tx
                        .audiences(&after, 200)
                        .await
                        .map_err(|error| PlanError::from(hosting_planner::WorldError::from(error)))?;
                    let Some(last) = audiences.last() else { break };
                    after.clone_from(last);
                    hosting_planner::replan(audiences.into_iter().map(Unit::Audience), tx, Cause::Planner)
                        .await?;
                }
                Ok::<(), PlanError>(())
            })
        })
        .await;
    told.context("cannot tell the fleet whom to trust")?;
    Ok(authorities)
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
            let key = api_key::key_from(&rand::random());
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
                if tx.holder(Kind::ApiKey, api_key::KEY_SCOPE, &api_key::key_hash(&key)).await?.is_some() {
                    return Ok(());
                }
                let all = || vec!["*".to_owned()];
                let mut random = |bytes: &mut [u8]| rand::fill(bytes);
                let key = api_key::from_raw("bootstrap", &key, vec!["*:*".to_owned()], all(), &mut random)
                    .map_err(|error| {
                        PlanError::from(hosting_planner::WorldError::from(Box::<
                            dyn std::error::Error + Send + Sync,
                        >::from(
                            error
                        )))
                    })?;
                let creation = Creation { resources: vec![key], ..Creation::default() };
                hosting_planner::create(tx, creation).await.map(|_| ())
            })
        })
        .await;
    match made {
        Ok(_) => Ok(()),
        Err(WriteError::Refused(error)) => bail!("the API key in {path} cannot be used: {error}"),
        Err(error) => Err(error).context("cannot store the first API key"),
    }
}
