//! The fleet through the API: who applied what, join tokens, the brake, nodes that will not come back.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use hosting_intent::{Audience, Key, Kind as IntentKind};
use hosting_planner::World;
use hosting_planner::gates::ExceptionKind;
use hosting_resource::{Kind, Resource, timestamp};
use hosting_store::{Origin, ReadTx};
use serde_json::Value;

use hosting_proto::feed::key_report::Phase;

use crate::bodies::{Forgotten, JoinTokenView, NotApplied, Orphan, Released, SubscriberRow, Subscribers};
use crate::service::{Call, Reply, find, to_json};
use crate::{Api, ApiError};

/// Orphans that one answer lists.
const MAX_ORPHANS: u32 = 10_000;
/// Reports that one read takes.
const REPORTS: u32 = 1_000;
/// Mutations that forgetting a node may take; each closes 500 rows.
const ROUNDS: u32 = 10_000;

impl Api {
    pub(crate) async fn subscribers(&self) -> Result<Reply, ApiError> {
        let mut tx = self.store().read().await?;
        let mut orphans: BTreeMap<String, Vec<Orphan>> = BTreeMap::new();
        for report in tx.reports_in(Phase::Orphan, MAX_ORPHANS).await? {
            orphans.entry(report.node).or_default().push(Orphan {
                key: report.key.to_string(),
                message: report.message,
                reported_at: timestamp(report.updated_at),
            });
        }
        let subscribers = self.platform().subscribers();
        let audiences: BTreeSet<&Audience> = subscribers.iter().map(|one| &one.audience).collect();
        let heads = tx.revisions(audiences.into_iter()).await?;
        let mut items = Vec::new();
        for subscriber in subscribers {
            let head = heads.get(&subscriber.audience).copied().unwrap_or_default();
            let of = |wanted: ExceptionKind| -> Vec<NotApplied> {
                subscriber
                    .exceptions
                    .iter()
                    .filter(|exception| exception.kind == wanted)
                    .map(|exception| NotApplied {
                        // A rollout is no item of a kind.
                        key: match wanted {
                            ExceptionKind::Waiting => exception.key.name.clone(),
                            ExceptionKind::Rejected | ExceptionKind::Held | ExceptionKind::Unsupported => {
                                exception.key.to_string()
                            }
                        },
                        revision: exception.revision,
                        reason: exception.reason.clone(),
                    })
                    .collect()
            };
            items.push(SubscriberRow {
                rejected: of(ExceptionKind::Rejected),
                held: of(ExceptionKind::Held),
                unsupported: of(ExceptionKind::Unsupported),
                waiting: of(ExceptionKind::Waiting),
                // Orphans are the node agent's to report: they stand beside its own audience.
                orphans: if subscriber.audience.reports() {
                    orphans.remove(&subscriber.node_id).unwrap_or_default()
                } else {
                    Vec::new()
                },
                head,
                build: subscriber.build,
                epoch: subscriber.epoch,
                applied: subscriber.applied,
                durable: subscriber.durable,
                connected: subscriber.connected,
                in_service: subscriber.in_service,
                silent_for: subscriber.silent_for.as_secs_f64(),
                node_id: subscriber.node_id,
                audience: subscriber.audience.to_string(),
            });
        }
        let body = Subscribers { epoch: tx.epoch().to_owned(), head: tx.head(), items, has_more: false };
        Ok(Reply::json(200, to_json(&body)?))
    }

    pub(crate) async fn join_token(&self, call: &Call) -> Result<Value, ApiError> {
        let node = {
            let mut tx = self.store().read().await?;
            call.current(&mut tx, Kind::Node).await?
        };
        let made = self.platform().join_token(&node.id).await.map_err(|error| ApiError::internal(&error))?;
        to_json(&JoinTokenView { token: made.token, expires_at: timestamp(made.expires_at) })
    }

    pub(crate) async fn release(&self, call: &Call) -> Result<Value, ApiError> {
        let subscribers = self.platform().subscribers();
        let own: Vec<_> = subscribers.iter().filter(|subscriber| subscriber.node_id == call.id).collect();
        if own.is_empty() {
            let mut tx = self.store().read().await?;
            call.subject(&mut tx, Kind::Node).await?;
        }
        let by = format!("api key {}", call.principal.key_id);
        let audiences = own
            .into_iter()
            .filter(|subscriber| self.platform().release(&subscriber.audience, &subscriber.node_id, &by))
            .map(|subscriber| subscriber.audience.to_string())
            .collect();
        to_json(&Released { audiences })
    }

    /// Stops waiting for a node, and forgets what it said. What data stays on its disks is in the answer and the log.
    pub(crate) async fn forget(&self, call: &Call, origin: Origin) -> Result<Value, ApiError> {
        let sessions: Vec<_> =
            self.platform().subscribers().into_iter().filter(|session| session.node_id == call.id).collect();
        if sessions.iter().any(|session| session.in_service) {
            return Err(ApiError::conflict(format!("node {} is in service: stop it first", call.id)));
        }
        let mut left = BTreeSet::new();
        {
            let mut tx = self.store().read().await?;
            let known = known_node(call, &mut tx).await?.is_some() || !sessions.is_empty();
            left.extend(data_of(&mut tx, &call.id).await?);
            if !known && left.is_empty() {
                return Err(ApiError::not_found("node not found"));
            }
        }
        for _ in 0..ROUNDS {
            let node = call.id.clone();
            let round = self
                .store()
                .write(origin.clone(), move |tx| {
                    Box::pin(async move {
                        let round = hosting_planner::forget_node(tx, &node).await?;
                        if !round.more {
                            tx.forget_node(&node).await?;
                        }
                        Ok::<_, ApiError>(round)
                    })
                })
                .await?;
            left.extend(round.value.left);
            if !round.value.more {
                break;
            }
        }
        self.platform().forget(&call.id);
        let data_left: Vec<String> = left.into_iter().collect();
        tracing::warn!(node = %call.id, left = data_left.len(), "a node is forgotten; data may be left on its disks");
        to_json(&Forgotten { node_id: call.id.clone(), data_left })
    }
}

/// Keys that hold data on a node, as it last reported.
async fn data_of(tx: &mut ReadTx, node: &str) -> Result<Vec<String>, ApiError> {
    let mut data = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let page = tx.reports_of(node, after.as_ref(), REPORTS).await?;
        let full = page.len() == REPORTS as usize;
        for report in page {
            let holds = matches!(report.key.known_kind(), Some(IntentKind::Tenant | IntentKind::Webroot));
            if holds && report.phase != Phase::Retired {
                data.push(report.key.to_string());
            }
            after = Some(report.key);
        }
        if !full {
            return Ok(data);
        }
    }
}

/// The node in the path, which may be gone from the registry already.
async fn known_node(call: &Call, world: &mut dyn World) -> Result<Option<Resource>, ApiError> {
    match find(world, Kind::Node, &call.id).await {
        Ok(node) => Ok(Some(node)),
        Err(error) if error.status == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}
