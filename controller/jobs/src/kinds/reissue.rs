//! Many certificates of an authority are replaced at once: its names are told, a transaction at a time, and then it is waited until each has
//! another one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hosting_planner::ReissueOf;
use hosting_resource::kinds::certificate_authority::CertificateAuthority;
use hosting_resource::{Id, timestamp};
use hosting_store::{NewJob, Origin, Store, StoreError, WriteTx};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::JobDeps;
use crate::kind::{AnyKind, At, Failure, JobKind, KindFacts, Limits, Went};
use crate::machine::Backoff;
use crate::pace::Rate;

/// The kind.
#[derive(Debug)]
pub struct ReissueCertificates {
    store: Store,
}

/// What is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReissueParams {
    /// The id of the authority whose certificates.
    pub from: String,
    /// The id of the authority that is asked; `None`: whoever is next.
    #[serde(default)]
    pub to: Option<String>,
    /// So many names at most.
    pub names: u64,
}

impl ReissueParams {
    fn of(&self) -> ReissueOf {
        ReissueOf {
            from: Id::from(self.from.as_str()),
            to: self.to.as_deref().map(Id::from),
            names: self.names,
        }
    }
}

const NAME: &str = "reissue";
const FORECAST: usize = 0;
const TELL: usize = 1;
/// It is looked this often whether all have another one.
const LOOK_EACH: Duration = Duration::from_secs(1);

const LIMITS: Limits = Limits {
    attempts: 1_000,
    backoff: Backoff { first: 1_000, most: 60_000 },
    rate: Rate { each: Duration::from_millis(50), burst: 10 },
    at_once: 2,
    step_time: Duration::from_secs(120),
};

pub(super) fn make(deps: &JobDeps) -> Arc<dyn AnyKind> {
    Arc::new(ReissueCertificates { store: deps.store.clone() })
}

/// Begins a replacement in the transaction of whoever asks for it; `None` while another one of the same authority is under way.
///
/// # Errors
/// When the store fails.
pub async fn enqueue(tx: &mut WriteTx, params: ReissueParams) -> Result<Option<String>, StoreError> {
    let lane = format!("{NAME}/{}", params.from);
    if tx.beside().job_in_lane(&lane).await?.is_some() {
        return Ok(None);
    }
    let subject = params.from.clone();
    let params = serde_json::to_value(params)
        .map_err(|error| StoreError::Io(format!("parameters of a replacement: {error}").into()))?;
    let job = NewJob {
        kind: NAME.to_owned(),
        subject,
        lane,
        brand: None,
        params,
        due_at: 0,
        attempt_limit: LIMITS.attempts,
        waits: Vec::new(),
    };
    tx.enqueue_job(job).await.map(Some)
}

/// How far the telling is: as it stands in the job's progress.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Place {
    told: u64,
    /// The certificate that was looked at last.
    after: String,
}

impl Place {
    fn read(progress: Option<&str>) -> Self {
        let parsed = progress.and_then(|text| {
            let (told, after) = text.split_once(" names told, up to certificate ")?;
            Some(Self { told: told.parse().ok()?, after: after.to_owned() })
        });
        parsed.unwrap_or_default()
    }

    fn text(&self) -> String {
        format!("{} names told, up to certificate {}", self.told, self.after)
    }
}

fn later(error: impl std::fmt::Display) -> Failure {
    Failure::later(error.to_string())
}

impl ReissueCertificates {
    async fn forecast(&self, of: ReissueOf) -> Result<Went, Failure> {
        let mut tx = self.store.read().await.map_err(later)?;
        let now = self.store.now();
        let forecast = hosting_planner::forecast_reissue(&mut tx, &of, now).await.map_err(later)?;
        drop(tx);
        let Some(forecast) = forecast else {
            return Err(Failure::later("no certificate authority may be asked"));
        };
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::note_forecast(tx, &of, forecast).await })
        });
        written.await.map_err(later)?;
        Ok(Went::Done(json!({"done_at": timestamp(forecast)})))
    }

    async fn tell(&self, params: &ReissueParams, place: Place) -> Result<Went, Failure> {
        let (of, after) = (params.of(), place.after.clone());
        let most = params.names.saturating_sub(place.told);
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::tell_reissue(tx, &of, &after, most).await })
        });
        let told = written.await.map_err(later)?.value;
        let so_far = place.told + told.names;
        match told.after.filter(|_| so_far < params.names) {
            Some(after) => Ok(Went::More(Place { told: so_far, after }.text())),
            None => Ok(Went::Done(json!({"names": so_far}))),
        }
    }

    async fn wait(&self, from: Id<CertificateAuthority>) -> Result<Went, Failure> {
        let mut tx = self.store.read().await.map_err(later)?;
        let waits = hosting_planner::is_reissuing(&mut tx, &from).await.map_err(later)?;
        drop(tx);
        if waits {
            return Ok(Went::Postponed(LOOK_EACH));
        }
        let written = self.store.write(Origin::default(), move |tx| {
            Box::pin(async move { hosting_planner::end_reissue(tx, &from).await })
        });
        written.await.map_err(later)?;
        Ok(Went::Done(Value::Null))
    }
}

#[async_trait]
impl JobKind for ReissueCertificates {
    type Params = ReissueParams;

    const FACTS: KindFacts = KindFacts {
        name: NAME,
        about: "Replaces many certificates of an authority at once.",
        steps: &["forecast", "tell", "wait"],
        undoes: false,
    };

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn show(params: &ReissueParams) -> Value {
        json!({"from_authority_id": params.from, "to_authority_id": params.to, "names": params.names})
    }

    async fn step(&self, at: At<'_, ReissueParams>) -> Result<Went, Failure> {
        if at.place == FORECAST {
            return self.forecast(at.params.of()).await;
        }
        if at.place == TELL {
            return self.tell(at.params, Place::read(at.job.progress.as_deref())).await;
        }
        self.wait(Id::from(at.params.from.as_str())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = Place { told: 1_200, after: "0197-a".into() };
        assert_eq!(Place::read(Some(&place.text())), place);
        for none in [None, Some(""), Some("x names told, up to certificate a")] {
            assert_eq!(Place::read(none), Place::default());
        }
    }
}
