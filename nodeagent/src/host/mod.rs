//! The real machine behind [`Host`].

pub mod files;
pub mod logs;
mod probe;
mod process;
mod purge;
pub mod supervisor;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Answer, DataId, Entry, Host, HostError, Place, Probe, ServiceSpec, ServiceState,
};

use crate::roots::Roots;
use files::Files;
use supervisor::{Supervisor, blocking};

/// Files by `openat`, services by the supervisor.
#[derive(Debug, Clone)]
pub struct RealHost {
    files: Arc<Files>,
    supervisor: Supervisor,
    roots: Roots,
    removing: Arc<Mutex<BTreeSet<Place>>>,
}

/// How long the removal of a tree is waited for; after that it goes on in the background.
const REMOVE_WAIT: Duration = Duration::from_secs(2);

/// Between two looks at whether a service that is retired has taken in what came to it.
const DRAIN_PAUSE: Duration = Duration::from_millis(100);

impl RealHost {
    /// From its parts.
    #[must_use]
    pub fn new(files: Arc<Files>, supervisor: Supervisor, roots: Roots) -> Self {
        Self { files, supervisor, roots, removing: Arc::default() }
    }

    /// The services.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    async fn file<T: Send + 'static>(
        &self,
        at: &Place,
        work: impl FnOnce(&Files, &Place) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, HostError> {
        let (files, at) = (self.files.clone(), at.clone());
        blocking(move || work(&files, &at)).await
    }
}

#[async_trait]
impl Host for RealHost {
    async fn entry(&self, at: &Place) -> Result<Option<Entry>, HostError> {
        self.file(at, Files::entry).await
    }

    async fn read(&self, at: &Place) -> Result<Option<Vec<u8>>, HostError> {
        self.file(at, Files::read).await
    }

    async fn names(&self, at: &Place) -> Result<Vec<String>, HostError> {
        self.file(at, Files::names).await
    }

    async fn write(&self, at: &Place, content: &[u8], access: Access) -> Result<(), HostError> {
        let content = content.to_vec();
        self.file(at, move |files, at| files.write(at, &content, access)).await
    }

    async fn link(&self, at: &Place, target: &str) -> Result<(), HostError> {
        let target = target.to_owned();
        self.file(at, move |files, at| files.link(at, &target)).await
    }

    async fn link_target(&self, at: &Place) -> Result<Option<String>, HostError> {
        self.file(at, Files::link_target).await
    }

    async fn remove(&self, at: &Place) -> Result<(), HostError> {
        self.file(at, Files::remove).await
    }

    async fn remove_tree(&self, at: &Place) -> Result<(), HostError> {
        Files::check_removable(at)?;
        if !self.removing.lock().unwrap_or_else(PoisonError::into_inner).insert(at.clone()) {
            return Ok(());
        }
        let (files, removing, place) = (self.files.clone(), self.removing.clone(), at.clone());
        let supervisor = self.supervisor.clone();
        let work = tokio::task::spawn_blocking(move || {
            let result = files.remove_tree(&place);
            if let Err(error) = &result {
                tracing::warn!(%error, "a removal failed and will be tried again");
            }
            removing.lock().unwrap_or_else(PoisonError::into_inner).remove(&place);
            supervisor.finished();
            result
        });
        match tokio::time::timeout(REMOVE_WAIT, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(HostError::file("remove", at, error)),
            Err(_) => Ok(()),
        }
    }

    async fn is_removing(&self, at: &Place) -> bool {
        self.removing.lock().unwrap_or_else(PoisonError::into_inner).contains(at)
    }

    async fn make_dir(&self, at: &Place, access: Access) -> Result<(), HostError> {
        self.file(at, move |files, at| files.make_dir(at, access)).await
    }

    async fn make_file(&self, at: &Place, access: Access) -> Result<(), HostError> {
        self.file(at, move |files, at| files.make_file(at, access)).await
    }

    async fn offer_dir(&self, at: &Place, access: Access) -> Result<(), HostError> {
        self.file(at, move |files, at| files.offer_dir(at, access)).await
    }

    async fn claim(&self, data: &DataId) -> Result<(), HostError> {
        let (files, data) = (self.files.clone(), data.clone());
        blocking(move || files.claim(&data)).await
    }

    async fn discard(&self, data: &DataId) -> Result<(), HostError> {
        let (files, data) = (self.files.clone(), data.clone());
        blocking(move || files.discard(&data)).await
    }

    async fn service(&self, name: &str) -> Result<ServiceState, HostError> {
        Ok(self.supervisor.state(name))
    }

    async fn run_service(&self, spec: &ServiceSpec) -> Result<(), HostError> {
        let (supervisor, spec) = (self.supervisor.clone(), spec.clone());
        to_its_end(async move { supervisor.run(&spec).await }).await
    }

    async fn stop_service(&self, name: &str) -> Result<(), HostError> {
        let (supervisor, name) = (self.supervisor.clone(), name.to_owned());
        to_its_end(async move { supervisor.stop(&name).await }).await
    }

    async fn retire_service(
        &self,
        name: &str,
        drained: Option<&Probe>,
        grace: Duration,
    ) -> Result<(), HostError> {
        let (host, probe) = (self.clone(), drained.cloned());
        let drained = async move {
            let Some(probe) = probe else { return };
            // Connections are answered in the order in which they came: once this one is, those before it are in work.
            while host.probe(&probe, Duration::ZERO).await == Answer::Busy {
                tokio::time::sleep(DRAIN_PAUSE).await;
            }
        };
        self.supervisor.retire(name, drained, grace).await;
        Ok(())
    }

    async fn services(&self, prefix: &str) -> Result<Vec<String>, HostError> {
        Ok(self.supervisor.names(prefix))
    }

    async fn install(&self, service: &str, at: &Place, content: Option<&[u8]>) -> Result<(), HostError> {
        let (supervisor, service, at) = (self.supervisor.clone(), service.to_owned(), at.clone());
        let content = content.map(<[u8]>::to_vec);
        to_its_end(async move { supervisor.install(&service, &at, content.as_deref()).await }).await
    }

    async fn reload(&self, service: &str) -> Result<(), HostError> {
        let (supervisor, service) = (self.supervisor.clone(), service.to_owned());
        to_its_end(async move { supervisor.reload(&service).await }).await
    }

    async fn probe(&self, probe: &Probe, patience: Duration) -> Answer {
        match probe {
            Probe::Http { address, host, path, header, expect, .. } => {
                let ask = probe::Http { address, host, path, header: (&header.0, &header.1.0) };
                // nginx always has time; somebody else on its port has not.
                let late = Answer::Silent(format!("{address} takes connections and does not answer"));
                probe::until(patience, late, || probe::http(&ask, expect)).await
            }
            Probe::FastCgi { socket, path, expect, .. } => {
                let socket = std::path::PathBuf::from(self.roots.text(socket));
                probe::until(patience, Answer::Busy, || probe::fast_cgi(&socket, path, expect)).await
            }
        }
    }
}

/// Runs an operation that must not be left halfway when the pass that asked for it is given up.
async fn to_its_end(
    work: impl Future<Output = Result<(), HostError>> + Send + 'static,
) -> Result<(), HostError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(HostError::service("agent", error)),
    }
}
