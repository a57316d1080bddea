//! Gaps in what programs can do about incidents.

use axum::http::{Method, StatusCode};
use hosting_planner::Draft;
use hosting_resource::{Tier, uuid};
use hosting_store::{Gap, GapQuery, Incident, ReadTx, WriteTx};

use super::checks::{NAME, TEXT, bad_cursor, one_of, some, text};
use crate::actions::{Act, Ask, PLAIN};
use crate::bodies::incidents::{GapPatch, NewGap, gap_page, gap_view, page};
use crate::prepare::entropy;
use crate::query::{self, Param, Takes, param};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

const CATEGORIES: &[&str] = &["investigation", "remediation", "notification"];
const GAP_STATUSES: &[&str] = &["open", "implemented", "wont_fix"];
/// Gaps of an incident and incidents of a gap that are shown.
const LINKED: u32 = 200;

static GAPS_OF: Ask =
    Ask { name: "incident gaps", answer: |api, call| Box::pin(gaps_of(api, call)), ..PLAIN };
static GAPS: Ask =
    Ask { name: "gaps", params: of_gaps, answer: |api, call| Box::pin(gaps(api, call)), ..PLAIN };
static GET_GAP: Ask = Ask { name: "gap", answer: |api, call| Box::pin(get(api, call)), ..PLAIN };
static INCIDENTS_OF: Ask =
    Ask { name: "gap incidents", answer: |api, call| Box::pin(incidents_of(api, call)), ..PLAIN };
static REPORT_GAP: Act =
    Act { name: "gap-create", repeats: None, carry_out: |call, tx| Box::pin(report_gap(call, tx)) };
static PATCH_GAP: Act =
    Act { name: "gap-patch", repeats: None, carry_out: |call, tx| Box::pin(patch_gap(call, tx)) };

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, op| Route::scoped(method, path, "incidents", Tier::Brand, op);
    let gap = "/capability-gaps/{id}";
    vec![
        route(Method::GET, "/incidents/{id}/gaps", Op::Ask(&GAPS_OF))
            .gives(200, Shape::Named("GapPage"))
            .says("What programs could not do about an incident"),
        route(Method::GET, "/capability-gaps", Op::Ask(&GAPS))
            .gives(200, Shape::Named("GapPage"))
            .says("List: what programs could not do, the most frequent first"),
        route(Method::POST, "/capability-gaps", Op::Act(&REPORT_GAP))
            .takes(Shape::Named("NewGap"))
            .gives(201, Shape::Named("Gap"))
            .says("Report what a program could not do; 200 when that is known, which counts it once more"),
        route(Method::GET, gap, Op::Ask(&GET_GAP))
            .gives(200, Shape::Named("Gap"))
            .says("Get: capability gap"),
        route(Method::PATCH, gap, Op::Act(&PATCH_GAP))
            .takes(Shape::Named("GapPatch"))
            .gives(204, Shape::Empty)
            .says("Say what became of a gap"),
        route(Method::GET, "/capability-gaps/{id}/incidents", Op::Ask(&INCIDENTS_OF))
            .gives(200, Shape::Named("IncidentPage"))
            .says("The incidents that showed a gap"),
    ]
}

fn of_gaps() -> Vec<Param> {
    vec![
        query::limit(),
        query::cursor(),
        param("status", Takes::Word(GAP_STATUSES.to_vec()), "Only those in this status."),
        param("category", Takes::Word(CATEGORIES.to_vec()), "Only those of this category."),
    ]
}

impl Call {
    async fn gap(&self, tx: &mut ReadTx) -> Result<Gap, ApiError> {
        let gap = tx.gap(&self.id).await?.ok_or_else(|| ApiError::not_found("capability gap not found"))?;
        self.principal.may_use_brand(gap.brand.as_deref())?;
        Ok(gap)
    }
}

async fn report_gap(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let new = call.typed::<NewGap>()?;
    let incident = match some(new.incident_id) {
        Some(id) => Some(call.incident(tx.beside(), &id).await.map_err(|error| {
            // One of another brand is not there for the caller.
            if matches!(error.status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN) {
                ApiError::invalid("incident_id", format!("there is no incident {id:?}"))
            } else {
                error
            }
        })?),
        None => None,
    };
    // Without an incident it is the key's own: a brand's, where it is a key of one, or the platform's.
    let brand = match &incident {
        Some(incident) => incident.brand.clone(),
        None => match call.principal.visible() {
            None => None,
            Some(brands) => match &brands[..] {
                [one] => Some(one.clone()),
                _ => return Err(ApiError::invalid("incident_id", "is required of a key of several brands")),
            },
        },
    };
    let tool_name = text("tool_name", new.tool_name, 1, NAME)?;
    let description = text("description", new.description, 1, TEXT)?;
    let category = one_of("category", new.category, CATEGORIES)?;
    let known = tx.beside().gap_called(brand.as_deref(), &tool_name).await?;
    let is_known = known.is_some();
    let now = Draft::now(tx);
    let gap = match &known {
        Some(known) => Gap { occurrences: known.occurrences + 1, ..known.clone() },
        None => Gap {
            id: uuid(&mut entropy),
            brand,
            tool_name,
            description,
            category,
            occurrences: 1,
            status: "open".to_owned(),
            created_at: now,
            ..Gap::default()
        },
    };
    let gap = tx.put_gap(gap, known.as_ref()).await?;
    if let Some(incident) = incident {
        tx.link_gap(&gap.id, &incident.id).await?;
        tx.add_incident_event(call.event(&incident.id, "capability_gap", gap.tool_name.clone(), now)).await?;
    }
    let done = Done::json(&gap.id, &gap_view(&gap))?;
    Ok(if is_known { done.answering(StatusCode::OK) } else { done })
}

async fn patch_gap(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let before = call.gap(tx.beside()).await?;
    let status = some(call.typed::<GapPatch>()?.status).unwrap_or_else(|| before.status.clone());
    let status = one_of("status", status, GAP_STATUSES)?;
    let mut after = before.clone();
    after.implemented_at = match (status.as_str(), before.implemented_at) {
        ("implemented", None) => Some(Draft::now(tx)),
        ("implemented", at) => at,
        _ => None,
    };
    after.status = status;
    if after != before {
        tx.put_gap(after, Some(&before)).await?;
    }
    Ok(Done::json(&before.id, &())?.silent())
}

async fn gaps_of(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let incident = call.incident(&mut tx, &call.id).await?;
    let found = tx.gaps_of(&incident.id, LINKED).await?;
    Ok(Reply::json(200, to_json(&gap_page(&found, None))?))
}

async fn gaps(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let columns = ["status", "category"];
    let equal = columns.into_iter().filter_map(|name| Some((name, call.query.text(name)?.to_owned())));
    let after = match call.query.text("cursor") {
        None => None,
        Some(cursor) => {
            let (occurrences, id) = cursor.split_once('.').ok_or_else(bad_cursor)?;
            Some((occurrences.parse().map_err(|_| bad_cursor())?, id.to_owned()))
        }
    };
    let list = GapQuery {
        equal: equal.collect(),
        brands: call.principal.visible(),
        after,
        limit: call.query.limit(),
    };
    let (found, next) = api.store().read().await?.gap_page(&list).await?;
    Ok(Reply::json(200, to_json(&gap_page(&found, next.map(|(count, id)| format!("{count}.{id}"))))?))
}

async fn incidents_of(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let gap = call.gap(&mut tx).await?;
    let found = tx.incidents_of(&gap.id, LINKED).await?;
    let visible: Vec<Incident> = found
        .into_iter()
        .filter(|incident| call.principal.may_use_brand(incident.brand.as_deref()).is_ok())
        .collect();
    Ok(Reply::json(200, to_json(&page(&visible, None))?))
}

async fn get(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let gap = call.gap(&mut tx).await?;
    Ok(Reply::json(200, to_json(&gap_view(&gap))?))
}
