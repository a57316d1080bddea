//! A receiver outside that is told what becomes of resources. It is on no machine; events are delivered by `controller/jobs`.

use async_trait::async_trait;
pub(crate) use hosting_resource::kinds::webhook::Webhook;
use hosting_resource::{Doc, Document};

use super::{Facts, Planned, Undo};
use crate::overlay::Overlay;
use crate::{PlanError, World};

/// Webhooks of one brand: each event is looked at for each of them, and they go with it in one transaction.
const MOST_OF_A_BRAND: u32 = 100;

#[async_trait]
impl Planned for Webhook {
    /// One that is brought back would have missed events without being told.
    const FACTS: Facts = Facts { undo: Undo::NotBroughtBack, ..Facts::PLAIN };

    async fn check(
        webhook: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let (None, Some(brand)) = (before, &webhook.spec.brand_id) else { return Ok(()) };
        let others = draft.with_facet(Self::KIND, "brand_id", brand, "", MOST_OF_A_BRAND).await?;
        if others.len() < MOST_OF_A_BRAND as usize {
            return Ok(());
        }
        Err(PlanError::Conflict(format!(
            "brand {brand:?} has {MOST_OF_A_BRAND} webhooks, and may have no more"
        )))
    }
}
