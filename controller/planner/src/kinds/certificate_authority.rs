//! A public certificate authority. It is on no machine; `controller/jobs` asks it.

use async_trait::async_trait;
use hosting_resource::kinds::brand::Brand;
pub(crate) use hosting_resource::kinds::certificate_authority::CertificateAuthority;
use hosting_resource::{Doc, Document, Id};

use super::Planned;
use crate::overlay::Overlay;
use crate::{PlanError, World, read};

/// Authorities of a cell: all of them are read for each order.
const MOST: u32 = 50;

#[async_trait]
impl Planned for CertificateAuthority {
    /// Whoever changes an authority has mended something: it is asked at once.
    async fn settle(
        authority: &mut Doc<Self>,
        before: Option<&Doc<Self>>,
        _: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        if before.is_some() {
            let state = &mut authority.state;
            (state.paused_until, state.failures, state.problem) = (0, 0, None);
        }
        Ok(())
    }

    async fn check(
        authority: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        for brand in &authority.spec.brand_ids {
            read::live::<Brand>(draft, "brand_ids", &Id::from(brand.as_str())).await?;
        }
        if before.is_none() && draft.list(Self::KIND, "", MOST).await?.len() >= MOST as usize {
            return Err(PlanError::Conflict(format!(
                "there are {MOST} certificate authorities, and may be no more"
            )));
        }
        Ok(())
    }
}
