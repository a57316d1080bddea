//! Jobs that wait for resources learn here how these have settled.

use std::collections::BTreeSet;

use hosting_store::StoreError;
use tokio::time::Instant;

use super::{Gatekeeper, PAGE};

impl Gatekeeper {
    /// Says to jobs how the resources of this round have settled that they wait for, `all` of them if need be. A page of the others is
    /// looked at now and then, in case a way to learn of a step is missing. Costs one statement while no job waits.
    pub(super) async fn settle(&mut self, ids: &BTreeSet<String>, all: bool) -> Result<(), StoreError> {
        if self.store.read().await?.awaited_resources("", 1).await?.is_empty() {
            return Ok(());
        }
        let mut due = 0;
        if all {
            let mut after = String::new();
            loop {
                let page = self.store.read().await?.awaited_resources(&after, PAGE).await?;
                let Some(last) = page.last() else { break };
                after.clone_from(last);
                due += hosting_jobs::settle(&self.store, self.fleet.as_ref(), &page).await?;
            }
        } else {
            let ids: Vec<String> = ids.iter().cloned().collect();
            for ids in ids.chunks(PAGE as usize) {
                due += hosting_jobs::settle(&self.store, self.fleet.as_ref(), ids).await?;
            }
            if Instant::now() >= self.next_slow_wait {
                self.next_slow_wait = Instant::now() + self.paces.slow;
                let page = self.store.read().await?.awaited_resources(&self.slow_wait, PAGE).await?;
                self.slow_wait = page.last().cloned().unwrap_or_default();
                due += hosting_jobs::settle(&self.store, self.fleet.as_ref(), &page).await?;
            }
        }
        if due > 0 {
            self.bell.ring();
        }
        Ok(())
    }
}
