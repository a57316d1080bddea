//! Settings of the platform, and clients of its OpenID provider.

use axum::http::Method;
use hosting_resource::Tier;
use hosting_store::{MAX_SETTINGS, OidcClient, RolloutPolicy, WriteTx};
use url::Url;

use super::{Act, Ask, PLAIN};
use crate::bodies::records::{NewOidcClient, NewSettings, NewValue, OidcClientId, Setting, Settings};
use crate::route::{Op, Route, Shape};
use crate::service::{Call, Reply, to_json};
use crate::write::Done;
use crate::{Api, ApiError};

/// Longest name of a setting, and longest id and name of a client, in bytes.
const MAX_NAME: usize = 128;
/// Longest value of a setting, in bytes.
const MAX_VALUE: usize = 16 * 1024;
/// Most places that users of one client may be sent back to.
const MAX_URIS: usize = 32;
/// Longest secret, and longest URI, in bytes.
const MAX_TEXT: usize = 2_048;

static GET: Ask = Ask { name: "platform config", answer: |api, _| Box::pin(get(api)), ..PLAIN };
static PUT: Act =
    Act { name: "set platform config", repeats: None, carry_out: |call, tx| Box::pin(put(call, tx)) };
static CLIENT: Act =
    Act { name: "put OIDC client", repeats: None, carry_out: |call, tx| Box::pin(client(call, tx)) };

pub(super) fn routes() -> Vec<Route> {
    // Settings hold tokens: a key of a platform admin that has other scopes alone does not open them.
    let route = |method, path, op| Route::scoped(method, path, "platform", Tier::Admin, op);
    vec![
        route(Method::GET, "/platform/config", Op::Ask(&GET))
            .gives(200, Shape::Named("Settings"))
            .says("The platform's settings"),
        route(Method::PUT, "/platform/config", Op::Act(&PUT))
            .takes(Shape::Named("NewSettings"))
            .gives(200, Shape::Named("Settings"))
            .says("Set some of the platform's settings; null takes one away"),
        route(Method::POST, "/oidc/clients", Op::Act(&CLIENT))
            .takes(Shape::Named("NewOidcClient"))
            .gives(201, Shape::Named("OidcClientId"))
            .says("Make a client of the OpenID provider, or put it in the place of the one with its id"),
    ]
}

fn shown(settings: Vec<(String, String)>) -> Settings {
    Settings(settings.into_iter().map(|(key, value)| Setting { key, value }).collect())
}

async fn get(api: &Api) -> Result<Reply, ApiError> {
    let settings = api.store().read().await?.platform_config().await?;
    Ok(Reply::json(200, to_json(&shown(settings))?))
}

async fn put(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let mut changes = Vec::new();
    if let Some((name, _)) = call.body.iter().find(|(_, value)| !value.is_string() && !value.is_null()) {
        return Err(ApiError::invalid(name, "must be a text, or null to take it away"));
    }
    for (name, NewValue(value)) in call.typed::<NewSettings>()?.0 {
        let fits = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !fits {
            let problem = format!("a setting's name has 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -");
            return Err(ApiError::invalid(&name.chars().take(MAX_NAME).collect::<String>(), problem));
        }
        if let Some(value) = &value {
            known_value(&name, value)?;
        }
        changes.push((name, value));
    }
    if !tx.set_platform_config(&changes).await? {
        return Err(ApiError::conflict(format!(
            "there would be more than {MAX_SETTINGS} settings; take some away"
        )));
    }
    let settings = tx.beside().platform_config().await?;
    Done::json("", &shown(settings))
}

/// What settings that the platform knows may be.
fn known_value(name: &str, value: &str) -> Result<(), ApiError> {
    if value.len() > MAX_VALUE || value.contains('\0') {
        return Err(ApiError::invalid(
            name,
            format!("must have at most {MAX_VALUE} bytes, none of them NUL"),
        ));
    }
    RolloutPolicy::default().set(name, value).map_err(|problem| ApiError::invalid(name, problem))?;
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["webhook", "critical" | "escalated", "url"] if !value.is_empty() => {
            let url =
                Url::parse(value).map_err(|error| ApiError::invalid(name, format!("is no URL: {error}")))?;
            if url.scheme() != "https" || url.host().is_none() {
                return Err(ApiError::invalid(name, "must begin with https:// and name a host"));
            }
            Ok(())
        }
        ["webhook", "critical" | "escalated", "template"] if !["generic", "slack"].contains(&value) => {
            Err(ApiError::invalid(name, format!("{value:?} must be one of generic, slack")))
        }
        ["agent", "concurrency", _] if value.parse::<u8>().is_err() => {
            Err(ApiError::invalid(name, "must be a number from 0 to 255"))
        }
        _ => Ok(()),
    }
}

async fn client(call: &Call, tx: &mut WriteTx) -> Result<Done, ApiError> {
    let NewOidcClient { id, secret, name, redirect_uris } = call.typed()?;
    let sound = |text: &str| (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control);
    if !sound(&id) || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b)) {
        return Err(ApiError::invalid("id", format!("must be 1 to {MAX_NAME} of A-Z a-z 0-9 . _ ~ -")));
    }
    if !sound(&name) {
        return Err(ApiError::invalid(
            "name",
            format!("must have 1 to {MAX_NAME} bytes, no control characters"),
        ));
    }
    if !(16..=MAX_TEXT).contains(&secret.len()) {
        return Err(ApiError::invalid("secret", format!("must have 16 to {MAX_TEXT} bytes")));
    }
    if redirect_uris.is_empty() || redirect_uris.len() > MAX_URIS {
        return Err(ApiError::invalid("redirect_uris", format!("must be 1 to {MAX_URIS}")));
    }
    for (n, uri) in redirect_uris.iter().enumerate() {
        redirect_uri(uri).map_err(|problem| ApiError::invalid(&format!("redirect_uris[{n}]"), problem))?;
    }
    let client = OidcClient { id, name, redirect_uris };
    tx.put_oidc_client(&client, &secret).await?;
    Done::json(&client.id, &OidcClientId { id: client.id.clone() })
}

/// Codes go where this says, so it has to be one place: no fragment, no user, nothing that reads otherwise elsewhere.
fn redirect_uri(text: &str) -> Result<(), String> {
    if text.len() > MAX_TEXT {
        return Err(format!("must have at most {MAX_TEXT} bytes"));
    }
    let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() != "https" && !(url.scheme() == "http" && here) {
        return Err("must begin with https://".to_owned());
    }
    if url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("must have no fragment and no user name".to_owned());
    }
    if text.contains('*') || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("must be one address, written out".to_owned());
    }
    Ok(())
}
