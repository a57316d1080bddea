//! The calls by which edges tell of requests that are watched here (ADR 47).

use std::sync::Arc;
use std::time::Duration;

use hosting_intent::{Audience, Role};
use hosting_intent_sync::tls::NodeCertificate;
use hosting_proto::feed::{RequestsDown, RequestsHello, RequestsUp, requests_up};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::metrics::Refusal;
use crate::shared::{Shared, caller};
use crate::watches::Joined;
use crate::words;

/// How often it is looked whether an edge may still call.
const REVIEW: Duration = Duration::from_secs(60);

/// Takes an edge's call in; what it tells is read in a task of its own.
pub(crate) async fn tell_requests(
    shared: Arc<Shared>,
    request: Request<Streaming<RequestsUp>>,
) -> Result<Response<ReceiverStream<Result<RequestsDown, Status>>>, Status> {
    let certificate = caller(&request, &shared, false)?;
    let mut ups = request.into_inner();
    let first = tokio::time::timeout(shared.hello_timeout, ups.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
    let Some(RequestsUp { frame: Some(requests_up::Frame::Hello(hello)) }) = first else {
        shared.metrics.refuse(Refusal::Protocol);
        return Err(Status::invalid_argument("the first frame must be Hello"));
    };
    let audience = admit(&shared, &certificate, &hello).await?;
    let node_id = certificate.name.node_id.as_str();
    let joined = shared.watches.join(audience, node_id, &hello.source);
    let mut joined =
        joined.ok_or_else(|| Status::already_exists("this process has a call open to this controller"))?;
    let orders = joined.orders.take().ok_or_else(|| Status::internal("the call has no orders"))?;
    let tracker = shared.sessions.clone();
    tracker.spawn(async move {
        let ended = listen(&shared, &certificate, &hello, &mut ups, &joined).await;
        tracing::debug!(node = certificate.name.node_id, reason = %ended, "call for watched requests ended");
    });
    Ok(Response::new(ReceiverStream::new(orders)))
}

async fn admit(
    shared: &Shared,
    certificate: &NodeCertificate,
    hello: &RequestsHello,
) -> Result<Audience, Status> {
    let (audience, _) = shared.admit_to(certificate, &hello.audience).await?;
    if audience.role() != Role::Lb {
        return Err(Status::invalid_argument(format!("{audience} has no edges that could tell of requests")));
    }
    if hello.source.len() != 16 {
        return Err(Status::invalid_argument("source must be 16 bytes"));
    }
    Ok(audience)
}

/// Reads what an edge tells until its call ends; why it did.
async fn listen(
    shared: &Shared,
    certificate: &NodeCertificate,
    hello: &RequestsHello,
    ups: &mut Streaming<RequestsUp>,
    joined: &Joined,
) -> String {
    let mut review = tokio::time::interval_at(Instant::now() + REVIEW, REVIEW);
    review.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            frame = ups.message() => frame,
            _ = review.tick() => match admit(shared, certificate, hello).await {
                Ok(_) => continue,
                Err(status) => return status.message().to_owned(),
            },
        };
        match frame {
            Ok(Some(RequestsUp { frame: Some(requests_up::Frame::Ended(ended)) })) => {
                shared.watches.told(joined.call, ended);
            }
            Ok(Some(RequestsUp { frame: Some(requests_up::Frame::NotWatched(said)) })) => {
                let node = certificate.name.node_id.as_str();
                tracing::info!(node, reason = words::text(said.reason), "an edge does not tell of requests");
                shared.watches.refused(joined.call, said.watch);
            }
            Ok(Some(RequestsUp { frame: Some(requests_up::Frame::Hello(_)) })) => {
                shared.metrics.refuse(Refusal::Protocol);
                return "it said Hello twice".to_owned();
            }
            // A frame of a later build.
            Ok(Some(RequestsUp { frame: None })) => {}
            Ok(None) => return "the edge ended it".to_owned(),
            Err(status) => return status.message().to_owned(),
        }
    }
}
