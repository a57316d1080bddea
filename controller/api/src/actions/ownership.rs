//! A look now whether a host name or a zone is shown to be its tenant's.

use axum::http::Method;
use hosting_jobs::kinds::ownership::look_now;
use hosting_resource::{Kind, Tier};
use hosting_store::WriteTx;

use super::Act;
use crate::ApiError;
use crate::route::{Op, Route, Shape};
use crate::service::Call;
use crate::write::Done;

static VERIFY_FQDN: Act =
    Act { name: "verify FQDN", repeats: None, carry_out: |call, tx| Box::pin(verify(call, tx, Kind::Fqdn)) };
static VERIFY_ZONE: Act =
    Act { name: "verify zone", repeats: None, carry_out: |call, tx| Box::pin(verify(call, tx, Kind::Zone)) };

pub(super) fn routes() -> Vec<Route> {
    let route = |kind: Kind, act| {
        let path = format!("{}/verify", kind.info().item);
        Route::scoped(Method::POST, &path, kind.info().scope, Tier::Brand, Op::Act(act))
            .gives(202, Shape::View(kind))
            .of(Some(kind))
            .says(format!("Look now whether it is shown to be its tenant's: {}", kind.info().title))
    };
    vec![route(Kind::Fqdn, &VERIFY_FQDN), route(Kind::Zone, &VERIFY_ZONE)]
}

/// One look; nothing where nobody asks, or a zone shows the name.
async fn verify(call: &Call, tx: &mut WriteTx, kind: Kind) -> Result<Done, ApiError> {
    let current = call.current(tx, kind).await?;
    let is_looked_for = hosting_planner::claim(tx, &current.id).await?.is_some();
    if is_looked_for {
        look_now(tx, &current).await?;
    }
    let done = Done::of(current);
    Ok(if is_looked_for { done.ringing() } else { done })
}
