//! Reloads: what was put on disk takes effect, and nobody's request under way is cut for it.
//!
//! A service that reloads gracefully keeps its old workers until their last request is done. So that they do not become ever
//! more, reloads are delayed the longer the more of them there are, and refused at a bound: whoever asked comes back.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use hosting_agent_engine::{HostError, ServiceSpec};
use tokio::time::{Instant, sleep};

use super::{
    super::process::{Running, children, handles, is_alive, signal, title},
    Control, Supervisor, lock,
};

/// How long workers may take to stop accepting after a reload.
const RELOAD_TIME: Duration = Duration::from_secs(6);
/// Least pause between two reloads: changes that come close together share one.
const RELOAD_PAUSE: Duration = Duration::from_millis(200);
/// Doublings of the pause until the bound of old workers is reached: 200 ms become 51 s.
const DOUBLINGS: u32 = 8;
/// How long a reload waits for an old worker to end when there may be no more of them.
const BOUND_WAIT: Duration = Duration::from_secs(2);
/// SIGUSR1, by which php-fpm opens its logs anew.
const REOPEN: i32 = 10;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// The pause between two reloads with so many workers left of earlier ones.
fn pause(old: usize, most: usize) -> Duration {
    let steps = u32::try_from(old).unwrap_or(u32::MAX).saturating_mul(DOUBLINGS);
    let steps = steps.checked_div(u32::try_from(most).unwrap_or(u32::MAX)).unwrap_or(DOUBLINGS);
    RELOAD_PAUSE.saturating_mul(1 << steps.min(DOUBLINGS))
}

impl Supervisor {
    /// Sets how many workers of earlier configurations a service may have beside its own.
    pub fn bound_old_workers(&self, most: usize) {
        self.inner.old_workers.store(most.max(1), Ordering::Relaxed);
    }

    /// Waits until the service may be reloaded, or says why it may not.
    pub(super) async fn pace(&self, control: &Control, name: &str) -> Result<(), HostError> {
        let (Some(spec), Some(running)) = (&control.spec, &control.running) else { return Ok(()) };
        let most = self.inner.old_workers.load(Ordering::Relaxed);
        let began = Instant::now();
        loop {
            let old = old_workers(spec, running.pid);
            let rest = control
                .reload_ended
                .map_or(Duration::ZERO, |ended| pause(old, most).saturating_sub(ended.elapsed()));
            let gone = self.inner.stopping.load(Ordering::Acquire) || !is_alive(running.pid);
            if gone || rest.is_zero() && old < most {
                return Ok(());
            }
            if old >= most && began.elapsed() >= BOUND_WAIT {
                return Err(HostError::service(
                    name,
                    format!(
                        "{old} workers of earlier configurations still have requests under way, as many as old_workers allows; \
                         changes wait until one of them ends"
                    ),
                ));
            }
            sleep(if rest.is_zero() { LOOK } else { rest.min(LOOK) }).await;
        }
    }

    /// Tells every service but those, as far as it listens, to open its logs anew.
    pub(in crate::host) async fn reopen_logs(&self, but: &[&str]) {
        let services: Vec<_> = lock(&self.inner.services).values().cloned().collect();
        for service in services.iter().filter(|service| !but.contains(&service.name.as_str())) {
            let control = service.control.lock().await;
            if let Some(running) = control.running.as_ref().filter(|running| handles(running.pid, REOPEN)) {
                signal(REOPEN).into_iter().for_each(|usr1| running.signal(usr1));
            }
        }
    }

    /// Makes a running service take in what is on disk. Calls that come while one is under way share the next one.
    pub(in crate::host) async fn reload(&self, name: &str) -> Result<(), HostError> {
        let service = self.find(name).ok_or_else(|| HostError::service(name, "is not running"))?;
        let ticket = service.reloads_asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut control = service.control.lock().await;
        if control.reloads_done >= ticket {
            return control.reload_result.clone().map_or(Ok(()), Err);
        }
        let may = self.pace(&control, name).await;
        // Everybody who asked up to here has its files in place.
        let upto = service.reloads_asked.load(Ordering::Acquire);
        let result = match may {
            Ok(()) => {
                let result = self.reload_now(&control, name).await;
                control.reload_ended = Some(Instant::now());
                result
            }
            Err(error) => Err(error),
        };
        control.reloads_done = upto;
        control.reload_result = result.as_ref().err().cloned();
        result
    }

    async fn reload_now(&self, control: &Control, name: &str) -> Result<(), HostError> {
        let (Some(spec), Some(running)) = (&control.spec, &control.running) else {
            return Err(HostError::service(name, "is not running"));
        };
        let Some(signal) = spec.reload_signal else { return Ok(()) };
        self.check_or_heal(spec).await?;
        self.signal_reload(spec, signal, running).await;
        Ok(())
    }

    pub(super) async fn signal_reload(&self, spec: &ServiceSpec, number: i32, running: &Running) {
        let Some(signal) = signal(number) else { return };
        let began = Instant::now();
        while !handles(running.pid, number) {
            if began.elapsed() > RELOAD_TIME || !is_alive(running.pid) {
                tracing::warn!(service = spec.name, "is not ready to be reloaded");
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        let mut old: BTreeSet<i32> = children(running.pid).into_iter().collect();
        running.signal(signal);
        // Until the last worker of the old configuration takes no more requests.
        while began.elapsed() < RELOAD_TIME && is_alive(running.pid) {
            old.retain(|worker| {
                is_alive(*worker)
                    && spec
                        .retiring_title
                        .as_ref()
                        .is_none_or(|retiring| !title(*worker).contains(retiring.as_str()))
            });
            if old.is_empty() {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        tracing::debug!(service = spec.name, took = ?began.elapsed(), "reloaded");
    }
}

/// Workers that take no more requests and have some under way.
fn old_workers(spec: &ServiceSpec, pid: i32) -> usize {
    spec.retiring_title.as_ref().map_or(0, |retiring| {
        children(pid).iter().filter(|worker| title(**worker).contains(retiring.as_str())).count()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_old_workers_the_longer_the_pause() {
        assert_eq!(pause(0, 64), RELOAD_PAUSE);
        assert_eq!(pause(7, 64), RELOAD_PAUSE);
        assert_eq!(pause(8, 64), RELOAD_PAUSE * 2);
        assert_eq!(pause(63, 64), RELOAD_PAUSE * 128);
        assert_eq!(pause(1000, 1), RELOAD_PAUSE * 256);
        assert_eq!(pause(usize::MAX, 0), RELOAD_PAUSE * 256);
    }
}
