//! What is deleted and kept: there for nobody who does not ask for it, and brought back.

use hosting_planner::undelete;
use hosting_resource::{Kind, Resource, Status, timestamp};
use hosting_store::WriteTx;

use crate::ApiError;
use crate::actions::undo;
use crate::paths::item_path;
use crate::query::NOW;
use crate::route::Op;
use crate::service::{Call, not_found};
use crate::write::Done;

impl Call {
    /// Refuses what is deleted and kept as what is not there, for whoever does not ask for it: to clients of the platform 404 says that a
    /// deletion is through.
    pub(crate) fn is_shown(&self, resource: &Resource) -> Result<(), ApiError> {
        let Some(kept) = resource.kept() else { return Ok(()) };
        let asks = match self.route.op {
            Op::Delete(_) | Op::Undelete(_) | Op::History(_) => true,
            Op::List(_)
            | Op::ListBy(..)
            | Op::Get(_)
            | Op::Receipt(_)
            | Op::Create(_)
            | Op::CreateBy(..)
            | Op::Update(_)
            | Op::Retry(_)
            | Op::Ask(_)
            | Op::Act(_)
            | Op::Order(_)
            | Op::Bulk => self.query.text("status") == Some(Status::Deleted.as_str()),
        };
        if asks {
            return Ok(());
        }
        let until = timestamp(kept.until);
        let mut error = not_found(resource.kind);
        error.message = format!(
            "{}: it is deleted, and can be brought back until {until} with POST {}/undelete",
            error.message,
            item_path(resource.kind, hosting_resource::public_id(&resource.id))
        );
        error.more.insert("restorable_until".to_owned(), until.into());
        Err(error)
    }

    /// Whether the deletion is not to be kept.
    pub(crate) fn is_for_good(&self) -> bool {
        self.query.text(NOW) == Some("true")
    }

    pub(crate) async fn undelete(&self, tx: &mut WriteTx, kind: Kind) -> Result<Done, ApiError> {
        let current = self.current(tx, kind).await?;
        let undone = undelete(tx, kind, &current.id).await?;
        let body = undo::view(&undone, None);
        let wait = undone.taken_back.into_iter().map(|one| one.resource.id).collect();
        let mut done = Done::json(&current.id, &body)?.waiting_for(wait);
        done.about = Some((kind, current.brand.clone()));
        Ok(done)
    }
}
