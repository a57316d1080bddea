//! Plans: a change is carried out in the write transaction like any other, looked at, and taken back.
//!
//! So a plan is what the change would do to what stands at that moment, by the same rules, refusals included. It writes nothing: no
//! audit row, no callback.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use hosting_intent::{Audience, Intent};
use hosting_planner::gates::{Fleet, Truth, evaluate, gather};
use hosting_resource::difference::differences;
use hosting_resource::{Kind, Resource, public_id};
use hosting_store::{Effects, IntentEffect, ResourceEffect, WriteError, WriteTx};

use crate::bodies::{Plan, PlannedAudience, PlannedGate, PlannedLoss, PlannedResource};
use crate::confirm::{Reach, newly_lost};
use crate::route::Op;
use crate::service::{Call, Reply, to_json};
use crate::write::{Body, Done};
use crate::{Api, ApiError, Principal};

/// Resources, names and tenants that a plan lists.
const LISTED: usize = 200;
/// Keys of an audience that it lists.
const KEYS: usize = 20;
/// Resources whose gates are looked at: everybody who writes waits meanwhile.
const GATED: usize = 100;

/// Why a mutation is taken back.
enum TakenBack {
    Planned(Box<Plan>),
    Refused(ApiError),
}

impl From<ApiError> for TakenBack {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl Api {
    /// What a change would do.
    pub(crate) async fn plan(&self, call: Call) -> Result<Reply, ApiError> {
        let prepared = call.prepare(self.store()).await?;
        let call = Arc::new(call);
        let inner = Arc::clone(&call);
        self.planned(call, move |tx| Box::pin(async move { inner.carry_out(tx, prepared).await })).await
    }

    /// What `carry_out` would do for a call.
    pub(crate) async fn planned<F>(&self, call: impl Into<Arc<Call>>, carry_out: F) -> Result<Reply, ApiError>
    where
        F: for<'t> FnOnce(&'t mut WriteTx) -> BoxFuture<'t, Result<Done, ApiError>> + Send + 'static,
    {
        let call: Arc<Call> = call.into();
        if call.callback.is_some() {
            return Err(ApiError::invalid(
                "X-Callback-URL",
                "has no effect with dry_run=true: nothing is changed",
            ));
        }
        if call.idempotency_key.is_some() {
            return Err(ApiError::invalid(
                "Idempotency-Key",
                "has no effect with dry_run=true: nothing is changed",
            ));
        }
        let (origin, fleet, now) = (call.origin(), self.platform().fleet(), self.store().now());
        let rules = self.confirm_rules();
        let inner = Arc::clone(&call);
        let written = self
            .store()
            .write(origin, move |tx| {
                Box::pin(async move {
                    let done = carry_out(tx).await?;
                    let effects = tx.effects();
                    let gates = closed_gates(tx, fleet.as_ref(), &effects, now).await?;
                    let reach = Reach::of(tx, &effects).await?;
                    let confirm = reach.confirmed_with(rules);
                    let mut plan = plan_of(effects, reach, gates, &inner.principal);
                    plan.confirm = confirm;
                    if let Op::Act(act) = inner.route.op {
                        plan.is_first_round = act.repeats.is_some_and(|most| done.count() >= u64::from(most));
                    }
                    plan.warnings = done.warnings;
                    if let Body::Json(answer) = done.body {
                        plan.answer = Some(answer);
                    }
                    Err::<(), TakenBack>(TakenBack::Planned(Box::new(plan)))
                })
            })
            .await;
        call.end_turn();
        let error = match written {
            Err(WriteError::Refused(TakenBack::Planned(plan))) => {
                return Ok(Reply::json(200, to_json(&plan)?));
            }
            Err(WriteError::Refused(TakenBack::Refused(error))) => error,
            Err(WriteError::Store(error)) => error.into(),
            Err(WriteError::TooSlow(limit)) => WriteError::<ApiError>::TooSlow(limit).into(),
            Err(WriteError::WentOn) => WriteError::<ApiError>::WentOn.into(),
            Err(WriteError::Panicked(message)) => WriteError::<ApiError>::Panicked(message).into(),
            Ok(_) => ApiError::internal(&"a plan was not taken back"),
        };
        Err(error)
    }
}

/// By resource, the gates that would be closed.
type Gates = BTreeMap<String, Vec<PlannedGate>>;

async fn closed_gates(
    tx: &mut WriteTx,
    fleet: &dyn Fleet,
    effects: &Effects,
    now: i64,
) -> Result<Gates, ApiError> {
    let after = effects.resources.iter().filter_map(|effect| effect.after.as_ref());
    let open: Vec<Resource> = after.filter(|after| after.status.is_open()).take(GATED).cloned().collect();
    let inputs = gather(tx, fleet, &open).await?;
    let mut gates = Gates::new();
    for (resource, inputs) in open.iter().zip(&inputs) {
        let verdict = evaluate(resource, inputs, fleet, now);
        let closed = verdict.conditions.into_iter().filter(|condition| condition.status != Truth::True);
        let closed = closed
            .map(|condition| PlannedGate { name: condition.name.to_string(), message: condition.message });
        gates.insert(resource.id.clone(), closed.collect());
    }
    Ok(gates)
}

fn plan_of(effects: Effects, reach: Reach, mut gates: Gates, principal: &Principal) -> Plan {
    let Effects { mut resources, intents, queued } = effects;
    resources.sort_by(|one, other| place(one).cmp(&place(other)));
    let mut plan = Plan {
        dry_run: true,
        resources: Vec::new(),
        resources_total: resources.len() as u64,
        audiences: audiences(&intents),
        names: Vec::new(),
        names_total: 0,
        tenants: Vec::new(),
        tenants_total: 0,
        tenants_behind: reach.tenants_behind,
        confirm: None,
        destroyed: Vec::new(),
        later_steps: queued.iter().collect::<BTreeSet<_>>().len() as u64,
        is_first_round: false,
        warnings: Vec::new(),
        answer: None,
    };
    let names = reach.names;
    (plan.names_total, plan.names) = (names.len() as u64, names.into_iter().take(LISTED).collect());
    let mut tenants: BTreeSet<String> = BTreeSet::new();
    for ResourceEffect { before, after } in resources {
        let Some(shown) = after.as_ref().or(before.as_ref()) else { continue };
        tenants.extend(shown.tenant.clone());
        if principal.may_touch(shown).is_err() {
            continue;
        }
        let change = change_of(before.as_ref(), after.as_ref());
        if newly_lost(before.as_ref(), after.as_ref()).is_some() {
            let (kind, id, label) = (shown.kind.name(), public_id(&shown.id).to_owned(), shown.label.clone());
            plan.destroyed.push(PlannedLoss { kind, id, label });
        }
        if plan.resources.len() < LISTED {
            let fields = match (&before, &after) {
                (Some(before), Some(after)) => differences(&before.spec, &after.spec),
                (None, _) | (_, None) => Vec::new(),
            };
            plan.resources.push(PlannedResource {
                kind: shown.kind.name(),
                id: public_id(&shown.id).to_owned(),
                label: shown.label.clone(),
                tenant_id: shown.tenant.clone(),
                change,
                status: after.as_ref().map(|after| after.status.as_str()),
                fields,
                waits_for: gates.remove(&shown.id).unwrap_or_default(),
                placement: after
                    .as_ref()
                    .filter(|_| before.is_none())
                    .and_then(|new| new.view().remove("placement")),
            });
        }
    }
    (plan.tenants_total, plan.tenants) = (tenants.len() as u64, tenants.into_iter().take(LISTED).collect());
    plan
}

/// In a plan, what others lie in comes first.
fn place(effect: &ResourceEffect) -> Option<(Kind, &str, &str)> {
    let shown = effect.after.as_ref().or(effect.before.as_ref())?;
    Some((shown.kind, &shown.label, &shown.id))
}

fn change_of(before: Option<&Resource>, after: Option<&Resource>) -> &'static str {
    match (before, after) {
        (_, None) => "deleted",
        (None, Some(_)) => "created",
        (Some(_), Some(after)) if after.status.is_gone() => "deleting",
        (Some(_), Some(_)) => "changed",
    }
}

fn audiences(intents: &[IntentEffect]) -> Vec<PlannedAudience> {
    let mut by_audience: BTreeMap<&Audience, PlannedAudience> = BTreeMap::new();
    for IntentEffect { audience, key, before, after } in intents {
        let planned = by_audience.entry(audience).or_insert_with(|| PlannedAudience {
            audience: audience.to_string(),
            added: 0,
            changed: 0,
            withdrawn: 0,
            takes_away: 0,
            keys: Vec::new(),
        });
        let takes_away = match (before, after) {
            (_, None) => {
                planned.withdrawn += 1;
                true
            }
            (before, Some(after)) => {
                *(if before.is_some() { &mut planned.changed } else { &mut planned.added }) += 1;
                Intent::parse(key, &after.value).is_ok_and(|intent| intent.takes_away())
            }
        };
        planned.takes_away += u64::from(takes_away);
        if planned.keys.len() < KEYS {
            planned.keys.push(key.to_string());
        }
    }
    by_audience.into_values().collect()
}
