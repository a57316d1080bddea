//! `Idempotency-Key`: whoever did not hear the answer of a change asks again with the same key, and gets that answer in the place of
//! another change. After the IETF's draft-ietf-httpapi-idempotency-key-header, whose key is a string in quotes; one without is taken too.

use axum::http::StatusCode;
use hosting_resource::Resource;
use hosting_store::WriteTx;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::ApiError;
use crate::service::Call;
use crate::write::{Body, Done};

/// What [`Done`] was, in the store.
#[derive(Serialize, Deserialize)]
struct KeptDone {
    /// Of the request, see [`Call::digest`]. It is sealed with the rest: it would let the request's secrets be guessed.
    request: String,
    resource: Option<Resource>,
    /// What was shown once beside the resource.
    more: Map<String, Value>,
    json: Option<Value>,
    wait: Vec<String>,
    subject: Option<String>,
    warnings: Vec<Value>,
    #[serde(default)]
    code: Option<u16>,
}

impl KeptDone {
    fn of(done: &Done, request: String) -> Self {
        let (resource, more, json) = match &done.body {
            Body::None => (None, Map::new(), None),
            Body::View(resource, more) => (Some((**resource).clone()), more.clone(), None),
            Body::Json(json) => (None, Map::new(), Some(json.clone())),
        };
        let (wait, subject, warnings) = (done.wait.clone(), done.subject.clone(), done.warnings.clone());
        Self { request, resource, more, json, wait, subject, warnings, code: done.code }
    }
}

impl From<KeptDone> for Done {
    fn from(kept: KeptDone) -> Self {
        let KeptDone { request: _, resource, more, json, wait, subject, warnings, code } = kept;
        let about = resource.as_ref().map(|resource| (resource.kind, resource.brand.clone()));
        let body = match (resource, json) {
            (Some(resource), _) => Body::View(Box::new(resource), more),
            (None, Some(json)) => Body::Json(json),
            (None, None) => Body::None,
        };
        Self { body, wait, subject, about, warnings, rings: false, code }
    }
}

impl Call {
    /// Tells the request from another one under the same key. How long to wait for the fleet is no part of it.
    fn digest(&self, path: &str) -> String {
        let request = Value::from(vec![
            Value::from(self.route.method.as_str()),
            Value::from(path),
            Value::from(self.callback.clone()),
            Value::Object(self.body.clone()),
        ]);
        hex::encode(Sha256::digest(request.to_string().as_bytes()))
    }

    /// What was done the first time that the key was used, and its revision.
    pub(crate) async fn done_before(
        &self,
        tx: &mut WriteTx,
        path: &str,
    ) -> Result<Option<(Done, u64)>, ApiError> {
        let Some(key) = &self.idempotency_key else { return Ok(None) };
        let Some(kept) = tx.kept_reply(&self.principal.key_id, key).await? else { return Ok(None) };
        let reply = kept.reply.map_err(|_| {
            ApiError::conflict(
                "Idempotency-Key: the change was made, and its answer can no longer be read: the key that sealed it is gone",
            )
        })?;
        let kept_done: KeptDone =
            serde_json::from_slice(reply.expose()).map_err(|error| ApiError::internal(&error))?;
        if kept_done.request != self.digest(path) {
            let message = "Idempotency-Key: was used for another request; take a new key for each change";
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
        if let Some(resource) = &kept_done.resource
            && !self.principal.is_admin()
        {
            self.principal.may_touch(resource)?;
        }
        Ok(Some((kept_done.into(), kept.revision)))
    }

    /// Keeps what was done for whoever asks again.
    pub(crate) async fn keep_done(&self, tx: &mut WriteTx, path: &str, done: &Done) -> Result<(), ApiError> {
        let Some(key) = &self.idempotency_key else { return Ok(()) };
        let kept = KeptDone::of(done, self.digest(path));
        let kept = serde_json::to_vec(&kept).map_err(|error| ApiError::internal(&error))?;
        Ok(tx.keep_reply(&self.principal.key_id, key, &kept).await?)
    }
}
