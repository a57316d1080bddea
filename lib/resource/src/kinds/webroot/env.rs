//! Environment variables of a site, of which some are secrets, and vault tokens, which stand for one.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hosting_intent::env::{MAX_TOTAL_BYTES, MAX_VARS, check_name, check_value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Webroot, WebrootSpec};
use crate::definition::{new_secrets, written_over};
use crate::{Doc, PlainText, Resource, SealedText, Secret, SecretPlace, SpecError, Update, Warning, pointer};

/// What is shown in the place of a secret. Sent back it means that the secret stays.
const SHOWN: &str = "***";

/// Where variables stand in the spec (JSON pointer, RFC 6901).
const PATH: &str = "/env";

/// What a variable is set to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnvValue {
    /// A text, or a vault token, in whose place the node's programs get what it stands for.
    Plain(String),
    /// A secret.
    Secret(Secret),
}

/// A variable in a request.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct EnvVarBody {
    /// Letters, digits and `_`, no digit first.
    name: String,
    /// One line, at most 8 KiB. Of a secret that is set already it may be left out: then it stays.
    #[serde(default)]
    value: Option<PlainText>,
    /// Whether it is never shown again.
    #[serde(default)]
    secret: bool,
}

/// Body of PUT /webroots/{webrootID}/env-vars: the whole set.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct EnvVarsBody {
    vars: Vec<EnvVarBody>,
}

/// A variable as it is shown.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EnvVarView {
    /// Its name.
    pub name: String,
    /// Its value; `***` for a secret.
    pub value: String,
    /// Whether it is one.
    pub is_secret: bool,
}

/// The JSON pointer of a variable's secret in the spec.
#[must_use]
pub fn path_of(name: &str) -> String {
    format!("{}/secret", pointer(PATH, name))
}

/// Checks variables, which stand in the field `list`, and takes over from `before` what they leave as it is.
pub(super) fn set(
    list: &str,
    vars: Vec<EnvVarBody>,
    before: &BTreeMap<String, EnvValue>,
) -> Result<BTreeMap<String, EnvValue>, SpecError> {
    if vars.len() > MAX_VARS {
        return Err(SpecError::invalid(list, format!("at most {MAX_VARS} are allowed")));
    }
    let mut total = 0;
    let mut env = BTreeMap::new();
    for (n, EnvVarBody { name, value, secret }) in vars.into_iter().enumerate() {
        let invalid = |field: &str, problem: &str| SpecError::invalid(format!("{list}[{n}].{field}"), problem);
        check_name(&name).map_err(|problem| invalid("name", problem))?;
        let given = value.filter(|value| !(secret && value.expose() == SHOWN));
        if let Some(value) = &given {
            check_value(value.expose()).map_err(|problem| invalid("value", problem))?;
            total += value.expose().len();
        }
        let value = match (given, secret) {
            (Some(text), true) => EnvValue::Secret(Secret::new(text)),
            (Some(text), false) => EnvValue::Plain(text.expose().to_owned()),
            (None, true) => match before.get(&name) {
                Some(kept @ EnvValue::Secret(_)) => kept.clone(),
                Some(EnvValue::Plain(_)) | None => {
                    return Err(invalid("value", "is required: no such secret is set yet"));
                }
            },
            (None, false) => return Err(invalid("value", "is required")),
        };
        if env.insert(name, value).is_some() {
            return Err(invalid("name", "is there twice"));
        }
    }
    if total > MAX_TOTAL_BYTES {
        return Err(SpecError::invalid(list, format!("at most {MAX_TOTAL_BYTES} bytes of values are allowed")));
    }
    Ok(env)
}

/// The secrets among the variables.
pub(super) fn secrets(env: &BTreeMap<String, EnvValue>, each: &mut dyn FnMut(String, &Secret)) {
    for (name, value) in env {
        if let EnvValue::Secret(secret) = value {
            each(path_of(name), secret);
        }
    }
}

/// PUT /webroots/{webrootID}/env-vars.
///
/// # Errors
/// A malformed body; a name or a value that breaks a rule.
pub fn set_env(webroot: &Resource, body: &Map<String, Value>) -> Result<Update, SpecError> {
    let parsed = crate::input::parse::<EnvVarsBody>(body)?;
    let warnings = parsed.unknown.iter().map(|path| Warning::unknown_field(path)).collect();
    change(webroot, warnings, |env| {
        *env = set("vars", parsed.value.vars, env)?;
        Ok(())
    })
}

/// DELETE /webroots/{webrootID}/env-vars/{name}; `None`: there is no such variable.
///
/// # Errors
/// An unreadable stored spec.
pub fn unset_env(webroot: &Resource, name: &str) -> Result<Option<Update>, SpecError> {
    let mut was_there = false;
    let update = change(webroot, Vec::new(), |env| {
        was_there = env.remove(name).is_some();
        Ok(())
    })?;
    Ok(was_there.then_some(update))
}

fn change(
    webroot: &Resource,
    warnings: Vec<Warning>,
    change: impl FnOnce(&mut BTreeMap<String, EnvValue>) -> Result<(), SpecError>,
) -> Result<Update, SpecError> {
    let mut spec: WebrootSpec =
        webroot.typed().map_err(|error| SpecError::Malformed { problem: error.to_string() })?;
    let before = spec.env.clone();
    change(&mut spec.env)?;
    let whole = written_over(webroot, &spec)?;
    Ok(Update {
        changed: spec.env != before,
        plain: new_secrets::<Webroot>(&spec),
        spec: whole,
        label: webroot.label.clone(),
        status: None,
        owner: None,
        warnings,
    })
}

/// What is shown of a site's variables.
#[must_use]
pub fn shown(webroot: &Doc<Webroot>) -> Vec<EnvVarView> {
    let view = |(name, value): (&String, &EnvValue)| {
        let (value, is_secret) = match value {
            EnvValue::Plain(text) => (text.clone(), false),
            EnvValue::Secret(_) => (SHOWN.to_owned(), true),
        };
        EnvVarView { name: name.clone(), value, is_secret }
    };
    webroot.spec.env.iter().map(view).collect()
}

const TOKEN: &str = "vault:v1:";

/// What a tenant's vault seals: bytes that stand outside of every spec, in a token that its customers keep.
#[must_use]
pub fn vault_place(tenant: &str) -> SecretPlace {
    SecretPlace { tenant: Some(tenant.to_owned()), resource: "vault".to_owned(), path: String::new() }
}

/// The token of what was sealed: `vault:v1:` and base64url.
#[must_use]
pub fn vault_token(sealed: &SealedText) -> String {
    format!("{TOKEN}{}", URL_SAFE_NO_PAD.encode(format!("{}.{}", sealed.key, sealed.sealed)))
}

/// The inverse of [`vault_token`]; `None` for a text that is no token.
#[must_use]
pub fn vault_sealed(token: &str) -> Option<SealedText> {
    let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(TOKEN)?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (key, sealed) = text.split_once('.')?;
    Some(SealedText { key: key.parse().ok()?, sealed: sealed.to_owned(), set_at: 0 })
}

/// The variables that are set to a vault token, or to what looks like one.
#[must_use]
pub fn vault_tokens(env: &BTreeMap<String, EnvValue>) -> BTreeSet<&str> {
    let plain = env.values().filter_map(|value| match value {
        EnvValue::Plain(text) if text.starts_with(TOKEN) => Some(text.as_str()),
        EnvValue::Plain(_) | EnvValue::Secret(_) => None,
    });
    plain.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Kind;
    use crate::kinds::tests::stored;

    fn site(env: Value) -> Resource {
        stored(Kind::Webroot, json!({"subscription_id": "s", "runtime": "php", "runtime_version": "8.2", "env": env}))
    }

    fn put(webroot: &Resource, vars: Value) -> Result<Update, SpecError> {
        set_env(webroot, json!({"vars": vars}).as_object().unwrap())
    }

    fn sealed(text: &str) -> Value {
        json!({"secret": {"$secret": {"key": 1, "sealed": text, "set_at": 0}}})
    }

    #[test]
    fn a_secret_that_is_left_out_stays_and_everything_else_is_replaced() {
        let webroot = site(json!({"A": {"plain": "1"}, "B": sealed("b"), "C": sealed("c")}));
        let update = put(
            &webroot,
            json!([{"name": "B", "secret": true}, {"name": "C", "value": "***", "secret": true},
                   {"name": "D", "value": "hunter2", "secret": true}, {"name": "E", "value": "***"}]),
        )
        .unwrap();
        let env = &update.spec["env"];
        assert_eq!((&env["B"], &env["C"]), (&sealed("b"), &sealed("c")));
        assert_eq!((&env["D"], &env["E"]), (&json!({"secret": {"$secret": {}}}), &json!({"plain": "***"})));
        assert!(env.get("A").is_none() && update.changed);
        let plain: Vec<_> = update.plain.iter().map(|(path, text)| (path, text.expose())).collect();
        assert_eq!(plain, [("/env/D/secret", "hunter2")]);
        assert!(!format!("{update:?}").contains("hunter2"));
        // What was read and is sent back is no change.
        let again = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "***", "secret": true}, {"name": "C", "secret": true}]);
        assert!(!put(&webroot, again).unwrap().changed);
        let all = put(&webroot, json!([])).unwrap();
        assert!(all.changed && all.spec.get("env").is_none());
        assert!(unset_env(&webroot, "X").unwrap().is_none());
        let one = unset_env(&webroot, "B").unwrap().unwrap();
        assert_eq!(one.spec["env"], json!({"A": {"plain": "1"}, "C": sealed("c")}));
    }

    #[test]
    fn views_show_no_secret_and_no_view_of_the_site_shows_a_variable() {
        let webroot = site(json!({"A": {"plain": "1"}, "B": sealed("b")}));
        let shown = serde_json::to_value(shown(&Doc::of(&webroot).unwrap())).unwrap();
        let wanted = json!([{"name": "A", "value": "1", "is_secret": false}, {"name": "B", "value": "***", "is_secret": true}]);
        assert_eq!(shown, wanted);
        assert!(webroot.view().get("env").is_none());
    }

    #[test]
    fn broken_sets_are_refused_without_a_word_of_their_values() {
        let webroot = site(json!({"A": {"plain": "1"}}));
        let var = |name: &str, value: &str| json!([{"name": name, "value": value, "secret": true}]);
        for (vars, field) in [
            (var("1A", "hunter2"), "vars[0].name"),
            (var("A", "hunter2\nx"), "vars[0].value"),
            (var("A", "$hunter2"), "vars[0].value"),
            (json!([{"name": "A", "secret": true}]), "vars[0].value"),
            (json!([{"name": "A"}]), "vars[0].value"),
            (json!([{"name": "B", "value": "hunter2"}, {"name": "B", "value": "hunter2"}]), "vars[1].name"),
            (json!([{"name": "B", "value": {"hunter2": "hunter2"}}]), "vars[0].value"),
            (Value::Array((0..201).map(|n| json!({"name": format!("V{n}"), "value": "hunter2"})).collect()), "vars"),
            (Value::Array((0..17).map(|n| json!({"name": format!("V{n}"), "value": "h".repeat(8192)})).collect()), "vars"),
        ] {
            let error = put(&webroot, vars).unwrap_err().to_string();
            assert!(error.contains(field) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn vault_tokens_come_back() {
        let sealed = SealedText { key: 3, sealed: "c2VhbGVk+/".into(), set_at: 0 };
        let token = vault_token(&sealed);
        assert!(token.starts_with("vault:v1:") && check_value(&token).is_ok());
        assert_eq!(vault_sealed(&token), Some(sealed));
        for wrong in ["", "vault:v1:", "vault:v1:%%", "vault:v2:YQ", "vault:v1:YQ"] {
            assert_eq!(vault_sealed(wrong), None, "{wrong}");
        }
    }
}
