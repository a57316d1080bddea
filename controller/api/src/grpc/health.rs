//! The standard health service (`grpc.health.v1`): what `/readyz` says.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use hosting_proto::intent_api::intents_server::SERVICE_NAME;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::gate::Deadline;
use crate::Api;

/// How often a watcher's state is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// How the controller stands, for `""` and for the intent API.
pub(super) struct Standing {
    api: Api,
}

impl Standing {
    pub(super) const fn new(api: Api) -> Self {
        Self { api }
    }
}

async fn standing(api: &Api, service: &str) -> ServingStatus {
    if !service.is_empty() && service != SERVICE_NAME {
        return ServingStatus::ServiceUnknown;
    }
    if api.stopping().is_cancelled() || api.looked_at().await.is_err() {
        ServingStatus::NotServing
    } else {
        ServingStatus::Serving
    }
}

struct Watched {
    api: Api,
    service: String,
    told: Option<ServingStatus>,
    until: Option<tokio::time::Instant>,
}

impl Watched {
    /// The next change; `None` when the controller has stopped and that was told, or at the deadline.
    async fn next(&mut self) -> Option<ServingStatus> {
        let stop = self.api.stopping();
        loop {
            // Asked before looking: that the controller stops meanwhile is told at the next look.
            let has_stopped = stop.is_cancelled();
            let now = standing(&self.api, &self.service).await;
            if self.told != Some(now) {
                self.told = Some(now);
                return Some(now);
            }
            if has_stopped || self.until.is_some_and(|until| until <= tokio::time::Instant::now()) {
                return None;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }
}

#[tonic::async_trait]
impl Health for Standing {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match standing(&self.api, &request.into_inner().service).await {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no such service here")),
            status @ (ServingStatus::Unknown | ServingStatus::Serving | ServingStatus::NotServing) => {
                Ok(Response::new(HealthCheckResponse { status: status.into() }))
            }
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let until = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
        let watched =
            Watched { api: self.api.clone(), service: request.into_inner().service, told: None, until };
        let stream = futures::stream::unfold(watched, |mut watched| async move {
            let status = watched.next().await?;
            Some((Ok(HealthCheckResponse { status: status.into() }), watched))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
