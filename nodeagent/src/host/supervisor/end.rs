//! How services end: at once, when they have finished, or all together.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::future::join_all;
use hosting_agent_engine::{HostError, ServiceState};
use tokio::time::timeout;

use super::{
    super::process::{Record, Running, signal},
    Service, Supervisor, lock,
};

/// How long a service may take to finish what it is doing when it is stopped.
pub(super) const STOP_TIME: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Ends a service for good. Its configuration stays.
    pub(in super::super) async fn stop(&self, name: &str) -> Result<(), HostError> {
        self.adopt(name).await;
        let Some(service) = self.find(name) else {
            let _ = fs::remove_file(self.record(name));
            return Ok(());
        };
        let mut control = service.control.lock().await;
        if let Some(running) = control.running.take() {
            self.end(&running, self.stop_signal(name), STOP_TIME).await;
        }
        control.spec = None;
        self.forget(&service);
        Ok(())
    }

    /// The signal that ends what runs under a name, by what was written down when it was started.
    fn stop_signal(&self, name: &str) -> i32 {
        Record::load(&self.record(name)).map_or(15, |record| record.stop_signal)
    }

    /// Takes over a child of an earlier agent as it is, to end it.
    async fn adopt(&self, name: &str) {
        let Some((record, running)) = lock(&self.inner.inherited).remove(name) else { return };
        let service = self.service(name);
        let mut control = service.control.lock().await;
        let running = Arc::new(running);
        control.running = Some(running.clone());
        self.watch(&service, running, None, record);
    }

    /// Lets a service finish what it is doing and end, at the latest `grace` after it was told to, which happens once
    /// `drained` is done. Does not wait for that.
    pub(in super::super) async fn retire(
        &self,
        name: &str,
        drained: impl Future<Output = ()> + Send + 'static,
        grace: Duration,
    ) {
        self.adopt(name).await;
        let Some(service) = self.find(name) else { return };
        let mut control = service.control.lock().await;
        if control.retiring.is_some_and(|before| before <= grace) {
            return;
        }
        let stop_signal = self.stop_signal(name);
        control.spec = None;
        let Some(running) = control.running.clone() else {
            self.forget(&service);
            return;
        };
        control.retiring = Some(grace);
        Self::show(&service, ServiceState::Retiring(grace));
        drop(control);
        let supervisor = self.clone();
        tokio::spawn(async move {
            let _ = timeout(grace, drained).await;
            supervisor.end(&running, stop_signal, grace).await;
        });
    }

    /// Graceful first, then plain, then by force, the workers included.
    pub(super) async fn end(&self, running: &Running, graceful: i32, patience: Duration) {
        let steps = [
            (signal(graceful), patience),
            (signal(15), Duration::from_secs(2)),
            (signal(9), Duration::from_secs(2)),
        ];
        for (signal, patience) in steps {
            let Some(signal) = signal else { continue };
            running.signal(signal);
            if timeout(patience, running.ended()).await.is_ok() {
                return;
            }
            tracing::warn!(pid = running.pid, ?signal, ?patience, "has not ended");
        }
    }

    /// Ends every service: `first`, then the others together. The configuration stays for the next start.
    pub async fn shut_down(&self, first: Option<&str>) {
        self.inner.stopping.store(true, Ordering::Release);
        let inherited: Vec<String> = lock(&self.inner.inherited).keys().cloned().collect();
        for name in inherited {
            self.adopt(&name).await;
        }
        let services: Vec<Arc<Service>> = lock(&self.inner.services).values().cloned().collect();
        let (first, others): (Vec<_>, Vec<_>) =
            services.into_iter().partition(|service| first == Some(service.name.as_str()));
        for together in [first, others] {
            join_all(together.iter().map(|service| self.shut_down_one(service))).await;
        }
    }

    async fn shut_down_one(&self, service: &Arc<Service>) {
        let mut control = service.control.lock().await;
        if let Some(running) = control.running.take() {
            tracing::info!(service = service.name, pid = running.pid, "stopping");
            self.end(&running, self.stop_signal(&service.name), STOP_TIME).await;
        }
        if let Some(record) = Record::load(&self.record(&service.name)) {
            record.end_leftovers();
        }
        self.forget(service);
    }
}
