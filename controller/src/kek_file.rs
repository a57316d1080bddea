//! The file of the key-encryption keys while the controller runs: a rotation is asked for here or put there by an operator, and
//! everything is sealed anew in the background.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hosting_api::{KekChange, KekChangeError};
use hosting_store::{Kek, Store};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(10);
/// After a step that failed.
const AGAIN: Duration = Duration::from_secs(60);

/// The file, and the store that is sealed by what is in it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KekFile {
    path: PathBuf,
    store: Store,
    /// One change at a time.
    turn: Arc<Mutex<()>>,
    changed: Arc<Notify>,
}

impl KekFile {
    pub(crate) fn new(path: PathBuf, store: Store) -> Self {
        Self { path, store, turn: Arc::default(), changed: Arc::default() }
    }

    pub(crate) async fn change(&self, change: KekChange) -> Result<(), KekChangeError> {
        let _turn = self.turn.lock().await;
        // The file counts, which may have changed since it was last looked at.
        self.take_over().await?;
        if !self.store.is_resealed().await.map_err(failed)? {
            let why = "what a former key sealed is still being sealed anew; try again in a moment";
            return Err(KekChangeError::Conflict(why.to_owned()));
        }
        let path = self.path.clone();
        let changed = tokio::task::spawn_blocking(move || match change {
            KekChange::Rotate => Kek::rotate(&path),
            KekChange::ForgetFormer => Kek::forget_former(&path),
        });
        let kek = changed.await.map_err(failed)?.map_err(failed)?;
        self.store.use_kek(kek.clone()).await.map_err(failed)?;
        tracing::info!(
            current = kek.id(),
            former = kek.former_ids().count(),
            ?change,
            "the key file changed"
        );
        self.changed.notify_one();
        Ok(())
    }

    /// Takes over what somebody else put into the file.
    async fn take_over(&self) -> Result<(), KekChangeError> {
        let path = self.path.clone();
        let kek =
            tokio::task::spawn_blocking(move || Kek::load(&path)).await.map_err(failed)?.map_err(failed)?;
        let known = self.store.kek();
        if kek.id() == known.id() && kek.former_ids().eq(known.former_ids()) {
            return Ok(());
        }
        self.store.use_kek(kek.clone()).await.map_err(failed)?;
        tracing::info!(current = kek.id(), former = kek.former_ids().count(), "the key file was changed");
        Ok(())
    }

    /// Looks at the file and seals anew what a former key sealed, until `stop`. A failure is logged and tried again: everything
    /// opens meanwhile.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), String> {
        loop {
            let looked = async {
                let _turn = self.turn.lock().await;
                self.take_over().await
            };
            let mut wait = EVERY;
            if let Err(error) = looked.await {
                tracing::error!(%error, "the key file cannot be taken over; the keys before stay in use");
                wait = AGAIN;
            }
            match self.reseal(&stop).await {
                Ok(0) => {}
                Ok(rows) => tracing::info!(rows, "everything is sealed by the current key-encryption key"),
                Err(error) => {
                    tracing::error!(%error, "not everything could be sealed anew");
                    wait = AGAIN;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Seals everything anew that is to be; answers how many rows that were.
    async fn reseal(&self, stop: &CancellationToken) -> Result<u64, hosting_store::StoreError> {
        let mut rows = 0;
        if self.store.is_resealed().await? {
            return Ok(rows);
        }
        while !stop.is_cancelled() {
            let step = self.store.reseal().await?;
            rows += step.rows;
            if step.done {
                break;
            }
        }
        Ok(rows)
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> KekChangeError {
    KekChangeError::Failed(Box::new(error))
}

#[cfg(test)]
mod tests {
    use hosting_store::StoreConfig;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_rotation_is_finished_in_the_background_whoever_began_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        let kek = Kek::load_or_create(&path).unwrap();
        let first = kek.id().to_owned();
        let store = Store::open(&StoreConfig::new(folder.path().join("store.db")), kek).await.unwrap();
        store.seal("ca", b"private").await.unwrap();
        // By hand, before the controller looks.
        let second = Kek::rotate(&path).unwrap();
        let file = KekFile::new(path.clone(), store.clone());
        let stop = CancellationToken::new();
        let running = tokio::spawn(file.clone().run(stop.clone()));
        let done = async |id: &str| {
            for _ in 0..500 {
                if store.kek().id() == id && store.is_resealed().await.unwrap() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("not sealed anew");
        };
        done(second.id()).await;
        // By request.
        file.change(KekChange::Rotate).await.unwrap();
        let third = Kek::load(&path).unwrap();
        assert_eq!(third.former_ids().collect::<Vec<_>>(), [second.id(), &first]);
        done(third.id()).await;
        assert_eq!(store.unseal("ca").await.unwrap().unwrap().expose(), b"private");
        file.change(KekChange::ForgetFormer).await.unwrap();
        assert_eq!(Kek::load(&path).unwrap().former_ids().count(), 0);
        assert_eq!(store.unseal("ca").await.unwrap().unwrap().expose(), b"private");
        stop.cancel();
        running.await.unwrap().unwrap();
        // A file that lost a key that is still needed is not taken over.
        let lost = Kek::rotate(&path).unwrap();
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..32]).unwrap();
        assert!(file.take_over().await.is_err());
        assert_ne!(store.kek().id(), lost.id());
        assert_eq!(store.unseal("ca").await.unwrap().unwrap().expose(), b"private");
    }
}
