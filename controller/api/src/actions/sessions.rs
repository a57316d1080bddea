//! Login sessions: a tenant is let into a program of the platform once, within half a minute.

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hosting_planner::{Draft, World};
use hosting_resource::{Kind, Status, Tier, timestamp};
use hosting_store::WriteTx;
use sha2::{Digest, Sha256};

use super::Act;
use crate::ApiError;
use crate::bodies::records::{LoginOf, LoginSession};
use crate::prepare::entropy;
use crate::query::{Takes, param};
use crate::route::{Op, Route, Shape};
use crate::service::Call;
use crate::write::Done;

/// A session opens for so long, in milliseconds.
const LIFE: i64 = 30_000;

static OPEN: Act =
    Act { name: "open login session", repeats: None, carry_out: |call, tx| Box::pin(open(call, tx)) };
static VALIDATE: Act =
    Act { name: "validate login session", repeats: None, carry_out: |call, tx| Box::pin(validate(call, tx)) };

pub(super) fn routes() -> Vec<Route> {
    let mut validate = Route::scoped(
        Method::POST,
        "/internal/v1/login-sessions/validate",
        "nodes",
        Tier::Admin,
        Op::Act(&VALIDATE),
    )
    .gives(200, Shape::Named("LoginOf"))
    .says("Use a login session up: whose it was");
    validate.params.push(param("session_id", Takes::Text, "The session, as it was shown."));
    vec![
        Route::scoped(Method::POST, "/tenants/{id}/login-sessions", "tenants", Tier::Brand, Op::Act(&OPEN))
            .gives(201, Shape::Named("LoginSession"))
            .of(Some(Kind::Tenant))
            .says("Open a login session of a tenant, for one use within 30 seconds"),
        validate,
    ]
}

fn digest(session: &str) -> String {
    hex::encode(Sha256::digest(session.as_bytes()))
}

async fn open(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let tenant = call.current(tx, Kind::Tenant).await?;
    if tenant.status == Status::Suspended || tenant.status.is_gone() {
        return Err(ApiError::conflict(format!("tenant {} is {}", tenant.id, tenant.status.as_str())));
    }
    let mut random = [0; 32];
    entropy(&mut random);
    let session_id = URL_SAFE_NO_PAD.encode(random);
    let expires_at = Draft::now(tx).saturating_add(LIFE);
    tx.add_login_session(&digest(&session_id), &tenant.id, expires_at).await?;
    Done::json(&tenant.id, &LoginSession { session_id, expires_at: timestamp(expires_at) })
}

async fn validate(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let session =
        call.query.text("session_id").ok_or_else(|| ApiError::invalid("session_id", "is required"))?;
    let tenant = tx.use_login_session(&digest(session)).await?;
    let tenant = match tenant {
        Some(id) => tx.resource(&id).await?,
        None => None,
    };
    // Used, over, made up, or of a tenant that may not come in any more: it is all the same to whoever asks.
    let serves = |status: Status| status != Status::Suspended && !status.is_gone();
    match tenant.filter(|tenant| serves(tenant.status)) {
        Some(tenant) => Done::json(&tenant.id, &LoginOf { tenant_id: tenant.id.clone() }),
        None => Err(ApiError::forbidden("invalid login session")),
    }
}
