//! What edges passed on for tenants, as they report it (ADR 43).

use std::collections::BTreeSet;

use hosting_intent::Role;
use hosting_intent_sync::identity::unix_now;
use hosting_proto::feed::{TenantTraffic, TrafficAdded, TrafficReport};
use tonic::{Request, Response, Status};

use crate::metrics::Refusal;
use crate::session::Turn;
use crate::shared::{Shared, caller, unavailable};

/// Tenants of one report, the largest of its numbers, and how far an edge's clock may be from ours, in seconds.
const MAX_TRAFFIC: usize = 1_000;
const MAX_NUMBER: u64 = 1 << 42;
const MAX_SKEW: i64 = 86_400 * 31;

pub(crate) async fn add_traffic(
    shared: &Shared,
    request: Request<TrafficReport>,
) -> Result<Response<TrafficAdded>, Status> {
    let certificate = caller(&request, shared, false)?;
    let report = request.into_inner();
    let (audience, record) = shared.admit_to(&certificate, &report.audience).await?;
    if audience.role() != Role::Lb {
        return Err(Status::invalid_argument(format!("{audience} has no edges that could pass on anything")));
    }
    check_traffic(&report, unix_now()).map_err(Status::invalid_argument)?;
    let Some(_turn) = Turn::take(shared, format!("traffic of {}", certificate.name.node_id)) else {
        shared.metrics.refuse(Refusal::Busy);
        return Err(Status::resource_exhausted("another report of this node is being taken in; try again"));
    };
    shared.status.traffic(&record.cluster_id, &report).await.map_err(unavailable)?;
    shared.metrics.reports.inc();
    Ok(Response::new(TrafficAdded {}))
}

/// What is wrong with a report, if anything is. One that is refused comes again: only a node that is at fault sends such.
fn check_traffic(report: &TrafficReport, now: i64) -> Result<(), &'static str> {
    if report.source.len() != 16 || report.number == 0 {
        return Err("source must be 16 bytes, and number from 1");
    }
    if report.hour.rem_euclid(3_600) != 0 || now.saturating_sub(report.hour).saturating_abs() > MAX_SKEW {
        return Err(
            "hour must be the begin of an hour, in seconds, and of no other month; is the clock of the node right?",
        );
    }
    if report.tenants.len() > MAX_TRAFFIC {
        return Err("tenants must be at most 1000");
    }
    let mut ids = BTreeSet::new();
    for one in &report.tenants {
        let TenantTraffic { tenant_id, requests, received, sent, cached, node_us, .. } = one;
        let classes =
            [one.informational, one.successful, one.redirected, one.client_errors, one.server_errors];
        let is_large = [*requests, *received, *sent, *cached, *node_us]
            .iter()
            .chain(&classes)
            .any(|number| *number > MAX_NUMBER);
        if is_large || !ids.insert(tenant_id) {
            return Err("each tenant must be there once, with no number above 2^42");
        }
    }
    Ok(())
}
