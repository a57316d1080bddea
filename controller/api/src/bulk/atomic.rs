//! All items in one mutation, or none: as they are wanted, and as they are only planned.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use hosting_store::{Origin, WriteTx};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::each::note;
use super::item::{Ids, read};
use super::{Bulk, Ended, result_of, row_of_call};
use crate::bodies::bulk::{BulkItem, BulkResult};
use crate::prepare::Prepared;
use crate::service::{Call, Failure, Reply};
use crate::write::{Body, Done};
use crate::{Api, ApiError};

/// An item, and what of it was worked out beforehand.
struct Ready {
    item: BulkItem,
    worked_out: Option<(Call, String, Prepared)>,
}

/// What all items did together.
struct AllDone {
    results: Vec<BulkResult>,
    wait: Vec<String>,
    rings: bool,
    /// Whose the resources are; `None` stands for what is platform-wide.
    brands: BTreeSet<Option<String>>,
}

/// What of [`AllDone`] is kept for who asks again.
#[derive(Serialize, Deserialize)]
struct Kept {
    results: Vec<BulkResult>,
    brands: BTreeSet<Option<String>>,
}

/// The refusal of all for the sake of one.
fn because_of(index: usize, name: Option<&String>, mut error: ApiError) -> ApiError {
    error.more.insert("item".to_owned(), index.into());
    if let Some(name) = name {
        error.more.insert("item_name".to_owned(), name.clone().into());
    }
    error
}

impl Bulk {
    /// Where what the items ask for comes from: the same for all, so that one trace names the call.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            traceparent: self.traceparent.clone(),
            actor: Some(self.principal.key_id.clone()),
            admin: self.principal.is_admin(),
            lease: None,
        }
    }
}

impl Api {
    /// What can be told of the items before it is their turn to be written: what is refused for itself ends here.
    async fn worked_out(&self, bulk: &Bulk, items: Vec<Box<RawValue>>) -> Result<Vec<Ready>, ApiError> {
        let ids = Ids::default();
        let mut all = Vec::with_capacity(items.len());
        for (index, raw) in items.into_iter().enumerate() {
            let item = read(&raw, bulk.most).map_err(|error| because_of(index, None, error))?;
            let of = |error| because_of(index, item.name.as_ref(), error);
            if let Some(name) = &item.name {
                ids.claim(index, name).map_err(of)?;
            }
            let worked_out = self.before_its_turn(bulk, index, &item, &ids).await.map_err(of)?;
            all.push(Ready { item, worked_out });
        }
        Ok(all)
    }

    /// Carries out all items in the transaction. `is_kept`: their audit rows are written.
    async fn carry_out_all(
        &self,
        tx: &mut WriteTx,
        bulk: &Bulk,
        items: Vec<Ready>,
        is_kept: bool,
    ) -> Result<AllDone, ApiError> {
        let ids = Ids::default();
        let mut all = AllDone {
            results: Vec::with_capacity(items.len()),
            wait: Vec::new(),
            rings: false,
            brands: BTreeSet::new(),
        };
        for (index, Ready { item, worked_out }) in items.into_iter().enumerate() {
            let of = |error| because_of(index, item.name.as_ref(), error);
            if let Some(name) = &item.name {
                ids.claim(index, name).map_err(of)?;
            }
            let (call, path, prepared) = bulk.in_its_turn(index, &item, &ids, worked_out).map_err(of)?;
            let done = call.carry_out(tx, prepared).await.map_err(of)?;
            if is_kept {
                tx.audit(self.row_of_item(&call, &path, &done));
            }
            note(&item, &done, &ids);
            all.results.push(result_of(index, item.name, call.route.success, &done, None));
            all.rings |= done.rings;
            all.brands.insert(done.about().and_then(|(_, brand)| brand));
            all.wait.extend(done.wait);
        }
        Ok(all)
    }

    pub(super) async fn all_or_none(
        &self,
        call: &Arc<Call>,
        bulk: Arc<Bulk>,
        items: Vec<Box<RawValue>>,
        path: &str,
    ) -> Result<Ended, Failure> {
        let ready = match self.worked_out(&bulk, items).await {
            // What was right the first time may be wrong by now; whether there was one is known in the transaction.
            Err(error) if call.idempotency_key.is_none() => return Err(error.into()),
            ready => ready,
        };
        let (api, inner, given) = (self.clone(), Arc::clone(call), path.to_owned());
        let committed = self
            .store()
            .write(bulk.origin(), move |tx| {
                Box::pin(async move {
                    if let Some((done, revision)) = inner.done_before(tx, &given).await? {
                        return Ok((done, Some(revision)));
                    }
                    let AllDone { results, wait, rings, brands } =
                        api.carry_out_all(tx, &bulk, ready?, true).await?;
                    inner.confirmed(tx, api.confirm_rules()).await?;
                    tx.audit(row_of_call(&inner, &given, results.len(), 0, inner.route.success));
                    let done = Done::json("", &Kept { results, brands })?.waiting_for(wait);
                    let done = Done { subject: None, rings, ..done };
                    inner.keep_done(tx, &given, &done).await?;
                    Ok::<_, ApiError>((done, None))
                })
            })
            .await
            .map_err(ApiError::from)?;
        let (done, before) = committed.value;
        let revision = before.unwrap_or(committed.revision);
        let (wait, rings) = (done.wait, done.rings);
        let kept = match done.body {
            Body::Json(kept) => serde_json::from_value::<Kept>(kept),
            Body::None | Body::View(..) => Ok(Kept { results: Vec::new(), brands: BTreeSet::new() }),
        };
        let kept = kept.map_err(|error| Failure { error: ApiError::internal(&error), audited: true })?;
        // Who may no longer see what was made does not see it by its answer.
        kept.brands.iter().try_for_each(|brand| call.principal.may_use_brand(brand.as_deref()))?;
        let mut results = kept.results;
        for result in &mut results {
            (result.revision, result.replayed) = (Some(revision), before.is_some());
        }
        let audiences = committed.audiences.into_iter().map(|audience| (audience, committed.revision));
        Ok(Ended { results, wait, audiences: audiences.collect(), rings, replayed: before.is_some() })
    }

    /// What all items would do.
    pub(super) async fn plan_bulk(
        &self,
        call: Call,
        bulk: Arc<Bulk>,
        items: Vec<Box<RawValue>>,
    ) -> Result<Reply, ApiError> {
        let ready = self.worked_out(&bulk, items).await?;
        let api = self.clone();
        self.planned(call, move |tx: &mut WriteTx| -> BoxFuture<'_, Result<Done, ApiError>> {
            Box::pin(async move {
                let all = api.carry_out_all(tx, &bulk, ready, false).await?;
                Done::json("", &serde_json::json!({"results": all.results}))
            })
        })
        .await
    }
}
