//! A site's environment variables, and the vault of its tenant.

use axum::http::Method;
use hosting_resource::kinds::webroot::Webroot;
use hosting_resource::kinds::webroot::env::{
    set_env, shown, unset_env, vault_place, vault_sealed, vault_token, vault_tokens,
};
use hosting_resource::{Doc, Kind, PlainText, Resource, SecretPlace, Tier, Update};
use hosting_store::{Origin, WriteTx};
use serde_json::Value;

use super::{Act, Ask, Order, PLAIN};
use crate::bodies::{EnvVars, VaultPlain, VaultToken};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

/// Largest text that the vault takes, in bytes.
const MAX_PLAIN: usize = 64 * 1024;

static ENV_VARS: Ask =
    Ask { name: "env vars", tagged: true, answer: |api, call| Box::pin(env_vars(api, call)), ..PLAIN };
static SET_ENV_VARS: Act =
    Act { name: "set env vars", repeats: None, carry_out: |call, tx| Box::pin(set(call, tx)) };
static UNSET_ENV_VAR: Act =
    Act { name: "unset env var", repeats: None, carry_out: |call, tx| Box::pin(unset(call, tx)) };
static ENCRYPT: Order =
    Order { name: "vault encrypt", give: |api, call, origin| Box::pin(encrypt(api, call, origin)) };
static DECRYPT: Order = Order { name: "vault decrypt", give: |api, call, _| Box::pin(decrypt(api, call)) };

pub(super) fn routes() -> Vec<Route> {
    let route =
        |method, path, op| Route::scoped(method, path, "webroots", Tier::Brand, op).of(Some(Kind::Webroot));
    let (all, one) = ("/webroots/{webrootID}/env-vars", "/webroots/{webrootID}/env-vars/{name}");
    vec![
        route(Method::GET, all, Op::Ask(&ENV_VARS))
            .gives(200, Shape::Named("EnvVars"))
            .says("What a site's programs find in their environment; secrets as ***"),
        route(Method::PUT, all, Op::Act(&SET_ENV_VARS))
            .takes(Shape::Named("SetEnvVars"))
            .gives(202, Shape::Named("EnvVars"))
            .says("Set all environment variables of a site; a secret without a value stays"),
        route(Method::DELETE, one, Op::Act(&UNSET_ENV_VAR))
            .gives(202, Shape::Empty)
            .says("Remove an environment variable of a site"),
        route(Method::POST, "/webroots/{webrootID}/vault/encrypt", Op::Order(&ENCRYPT))
            .takes(Shape::Named("VaultPlain"))
            .gives(200, Shape::Named("VaultToken"))
            .says("Seal a text by the tenant's key: the token can stand in the place of the text in its environment variables"),
        route(Method::POST, "/webroots/{webrootID}/vault/decrypt", Op::Order(&DECRYPT))
            .takes(Shape::Named("VaultToken"))
            .gives(200, Shape::Named("VaultPlain"))
            .says("Open a token of the tenant's vault"),
    ]
}

fn read(webroot: &Resource) -> Result<Doc<Webroot>, ApiError> {
    Doc::of(webroot).map_err(|error| ApiError::internal(&error))
}

fn view(webroot: &Resource) -> Result<EnvVars, ApiError> {
    Ok(EnvVars { items: shown(&read(webroot)?) })
}

async fn env_vars(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let mut tx = api.store().read().await?;
    let webroot = call.subject(&mut tx, Kind::Webroot).await?;
    let mut reply = Reply::json(200, to_json(&view(&webroot)?)?);
    reply.generation = Some(webroot.generation);
    Ok(reply)
}

async fn set(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let current = call.current(tx, Kind::Webroot).await?;
    let update = set_env(&current, &call.body)?;
    check_tokens(tx, &current, &update).await?;
    let warnings = update.warnings.clone();
    let updated = hosting_planner::update(tx, current, update).await?;
    let done = Done::json(&updated.id, &view(&updated)?)?;
    Ok(done.waiting_for(vec![updated.id]).warning(&warnings))
}

async fn unset(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let current = call.current(tx, Kind::Webroot).await?;
    let update = unset_env(&current, &call.part)?;
    let update = update.ok_or_else(|| ApiError::not_found("there is no such environment variable"))?;
    let updated = hosting_planner::update(tx, current, update).await?;
    Ok(Done::without_body(&updated))
}

/// A token that opens nothing would keep the site from every later change.
async fn check_tokens(tx: &mut WriteTx, webroot: &Resource, update: &Update) -> Result<(), ApiError> {
    let mut after = webroot.clone();
    after.spec.clone_from(&update.spec);
    let place = vault_of(webroot)?;
    for token in vault_tokens(&read(&after)?.spec.env) {
        let opens = match vault_sealed(token) {
            Some(sealed) => tx.opens(&place, &sealed).await?,
            None => false,
        };
        if !opens {
            return Err(ApiError::invalid("vars", "one of the values is no vault token of this tenant"));
        }
    }
    Ok(())
}

fn vault_of(webroot: &Resource) -> Result<SecretPlace, ApiError> {
    let tenant = webroot.tenant.as_deref().ok_or_else(|| ApiError::internal(&"a site of no tenant"))?;
    Ok(vault_place(tenant))
}

async fn vault(api: &Api, call: &Call) -> Result<SecretPlace, ApiError> {
    let mut tx = api.store().read().await?;
    vault_of(&call.current(&mut tx, Kind::Webroot).await?)
}

fn text(call: &Call, field: &str, most: usize) -> Result<PlainText, ApiError> {
    match call.body.get(field) {
        Some(Value::String(text)) if text.len() <= most => Ok(PlainText::new(text.clone())),
        Some(Value::String(_)) => Err(ApiError::invalid(field, format!("must have at most {most} bytes"))),
        Some(_) => Err(ApiError::invalid(field, "must be a text")),
        None => Err(ApiError::invalid(field, "is required")),
    }
}

async fn encrypt(api: &Api, call: &Call, origin: Origin) -> Result<Value, ApiError> {
    let place = vault(api, call).await?;
    let plain = text(call, "plaintext", MAX_PLAIN)?;
    let sealed = api.store().seal_apart(origin, place, plain).await?;
    to_json(&VaultToken { token: vault_token(&sealed) })
}

async fn decrypt(api: &Api, call: &Call) -> Result<Value, ApiError> {
    let place = vault(api, call).await?;
    let refused = || ApiError::invalid("token", "invalid vault token: decryption failed");
    let token = text(call, "token", 2 * MAX_PLAIN)?;
    let sealed = vault_sealed(token.expose()).ok_or_else(refused)?;
    let opened = api.store().open_secret(&place, &sealed).await?.ok_or_else(refused)?;
    let plaintext = String::from_utf8(opened.expose().to_vec()).map_err(|_| refused())?;
    to_json(&VaultPlain { plaintext })
}
