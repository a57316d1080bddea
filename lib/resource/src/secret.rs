//! Secrets of specs, as types: [`PlainText`] in the body of a request, [`Secret`] in a spec.
//!
//! Plain text has no way into JSON: a secret that is new shows there as a placeholder, and its text travels beside the spec
//! ([`PlainSecrets`]) until planning has it sealed by the store. What is stored is shown as the time at which it was set.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::basic_auth::is_hash;
use crate::{Resource, timestamp};

/// The one field of a secret's JSON form, by which views know secrets even in a document that is unreadable.
const TAG: &str = "$secret";

/// The text of a secret in a request. Debug output shows none of it, it has no serialised form, and an error about it does not
/// repeat it. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PlainText(Zeroizing<String>);

impl PlainText {
    /// Takes a text into care.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text. Whoever asks for it answers for where it goes.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PlainText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainText(redacted)")
    }
}

impl<'de> Deserialize<'de> for PlainText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = PlainText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<PlainText, E> {
                Ok(PlainText::new(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<PlainText, E> {
                Ok(PlainText::new(text))
            }

            // serde's own words for a wrong type repeat the value, which may be the secret without its quotes.

            fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<PlainText, E> {
                Err(E::custom("must be a text"))
            }

            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<PlainText, E> {
                Err(E::custom("must be a text"))
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<PlainText, E> {
                Err(E::custom("must be a text"))
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<PlainText, E> {
                Err(E::custom("must be a text"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for PlainText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PlainText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // `x-secret`: audit rows do not keep it.
        json_schema!({"type": "string", "writeOnly": true, "x-secret": true})
    }
}

/// What the store made of a secret: bytes that only it opens, in the place that they were sealed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedText {
    /// The version of the tenant's data key, from 1.
    pub key: u32,
    /// Nonce, ciphertext and tag, base64.
    pub sealed: String,
    /// When it was set, in milliseconds since the Unix epoch.
    pub set_at: i64,
}

/// A secret of a spec.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(State);

#[derive(Clone, PartialEq, Eq)]
enum State {
    /// As the request has it.
    New(PlainText),
    /// New, and its text is elsewhere ([`PlainSecrets`]): not yet sealed. Nothing like that is stored.
    Pending,
    /// As it is stored.
    Sealed(SealedText),
}

impl Secret {
    /// A secret that a request sets.
    #[must_use]
    pub const fn new(text: PlainText) -> Self {
        Self(State::New(text))
    }

    /// What the store made of it; `None` before that.
    #[must_use]
    pub const fn sealed(&self) -> Option<&SealedText> {
        match &self.0 {
            State::Sealed(sealed) => Some(sealed),
            State::New(_) | State::Pending => None,
        }
    }

    /// When it was set, in milliseconds since the Unix epoch; `None` before it is stored.
    #[must_use]
    pub fn set_at(&self) -> Option<i64> {
        self.sealed().map(|sealed| sealed.set_at)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::New(_) | State::Pending => "Secret(new, redacted)",
            State::Sealed(_) => "Secret(sealed)",
        })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match &self.0 {
            State::Sealed(sealed) => map.serialize_entry(TAG, sealed)?,
            State::New(_) | State::Pending => map.serialize_entry(TAG, &Map::new())?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Stored {
            #[serde(rename = "$secret")]
            secret: Value,
        }
        let Stored { secret } = Stored::deserialize(deserializer)?;
        if secret.as_object().is_some_and(Map::is_empty) {
            return Ok(Self(State::Pending));
        }
        let sealed = SealedText::deserialize(secret).map_err(|_| D::Error::custom("not a stored secret"))?;
        Ok(Self(State::Sealed(sealed)))
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "readOnly": true,
            "description": "A secret that is set: all that is shown of it is when.",
            "properties": {"set_at": {"type": "string", "format": "date-time"}},
        })
    }
}

/// The texts of a spec's new secrets, by the JSON pointers (RFC 6901) of their places in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlainSecrets(Vec<(String, PlainText)>);

impl PlainSecrets {
    pub(crate) fn collect(&mut self, path: String, secret: &Secret) {
        if let State::New(text) = &secret.0 {
            self.0.push((path, text.clone()));
        }
    }

    /// Each place and its text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &PlainText)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The JSON pointer of `name` within `path`, e.g. `pointer("/env", "A/B")` is `/env/A~1B`.
#[must_use]
pub fn pointer(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Where a secret stands. What is sealed for one place opens in no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPlace {
    /// Whose data key seals it; `None`: the platform's own.
    pub tenant: Option<String>,
    /// The resource's id.
    pub resource: String,
    /// JSON pointer (RFC 6901) in its spec.
    pub path: String,
}

impl SecretPlace {
    /// A place in the spec of a resource.
    #[must_use]
    pub fn of(resource: &Resource, path: &str) -> Self {
        Self { tenant: resource.tenant.clone(), resource: resource.id.clone(), path: path.to_owned() }
    }

    /// The place as bytes, for a cipher to bind: two places differ in them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [self.tenant.as_deref().unwrap_or_default(), &self.resource, &self.path] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

impl Resource {
    /// Puts what the store made of a new secret into its place. False when there is no secret at `path`.
    #[must_use]
    pub fn put_sealed(&mut self, path: &str, sealed: &SealedText) -> bool {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
        let Some(outer) = parts.next().and_then(|part| self.spec.get_mut(&unescape(part))) else {
            return false;
        };
        let place = match parts.next() {
            Some(rest) => outer.pointer_mut(&format!("/{rest}")),
            None => Some(outer),
        };
        match place.filter(|place| is_secret(place)) {
            Some(place) => {
                *place = json!({TAG: sealed});
                true
            }
            None => false,
        }
    }

    /// Whether a secret of the spec is new and not sealed, or a password not made into a hash. Nothing like that may be stored.
    #[must_use]
    pub fn has_unsealed_secret(&self) -> bool {
        self.spec.values().any(is_pending)
    }

    /// Whether the spec holds a secret.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        self.spec.values().any(holds_secret)
    }
}

fn tagged(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object().filter(|fields| fields.len() == 1)?.get(TAG)?.as_object()
}

fn is_secret(value: &Value) -> bool {
    tagged(value).is_some()
}

fn any_inside(value: &Value, fits: fn(&Value) -> bool) -> bool {
    match value {
        Value::Array(items) => items.iter().any(fits),
        Value::Object(fields) => fields.values().any(fits),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn is_pending(value: &Value) -> bool {
    match (tagged(value), is_hash(value)) {
        (Some(secret), _) => secret.is_empty(),
        (None, Some(is_made)) => !is_made,
        (None, None) => any_inside(value, is_pending),
    }
}

fn holds_secret(value: &Value) -> bool {
    is_secret(value) || any_inside(value, holds_secret)
}

/// A field of a stored spec as anybody may see it: of secrets, when they were set; without hashes of passwords.
pub(crate) fn shown(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(shown).collect()),
        Value::Object(fields) => match fields.get(TAG) {
            Some(secret) => {
                let set_at = secret.get("set_at").and_then(Value::as_i64);
                set_at.map_or_else(|| json!({}), |set_at| json!({"set_at": timestamp(set_at)}))
            }
            None => {
                let seen = fields.into_iter().filter(|(_, value)| is_hash(value).is_none());
                Value::Object(seen.map(|(name, value)| (name, shown(value))).collect())
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::kinds::tests::stored;

    fn sealed() -> SealedText {
        SealedText { key: 1, sealed: "c2VhbGVk".into(), set_at: 1_700_000_000_000 }
    }

    #[test]
    fn plain_text_gets_neither_into_json_nor_into_debug_output_nor_into_errors() {
        let secret = Secret::new(PlainText::new("hunter2".into()));
        assert_eq!(serde_json::to_value(&secret).unwrap(), json!({"$secret": {}}));
        let mut plain = PlainSecrets::default();
        plain.collect("/key".into(), &secret);
        assert!(!format!("{secret:?} {plain:?}").contains("hunter2"));
        assert_eq!(
            plain.iter().map(|(path, text)| (path, text.expose())).collect::<Vec<_>>(),
            [("/key", "hunter2")]
        );
        for wrong in [
            json!(12345),
            json!(-12345),
            json!(1234.5),
            json!([12345]),
            json!({"a": 12345}),
            json!(null),
            json!(true),
        ] {
            let error = serde_json::from_value::<PlainText>(wrong).unwrap_err().to_string();
            assert!(!error.contains("1234") && !error.contains("true"), "{error}");
        }
        assert_eq!(serde_json::from_value::<PlainText>(json!("x")).unwrap().expose(), "x");
    }

    #[test]
    fn a_stored_secret_comes_back_and_shows_when_it_was_set() {
        let form = json!({"$secret": sealed()});
        let secret: Secret = serde_json::from_value(form.clone()).unwrap();
        assert_eq!(secret.sealed(), Some(&sealed()));
        assert_eq!(serde_json::to_value(&secret).unwrap(), form);
        assert_eq!(shown(json!([{"key": form}])), json!([{"key": {"set_at": "2023-11-14T22:13:20Z"}}]));
        // A form that no build wrote shows nothing either.
        assert_eq!(shown(json!({"$secret": {"sealed": "x"}, "more": 1})), json!({}));
        assert!(serde_json::from_value::<Secret>(json!({"$secret": {"sealed": "x"}})).is_err());
    }

    #[test]
    fn sealing_fills_the_place_that_waits_and_no_other() {
        let waiting = json!({"$secret": {}});
        let mut resource =
            stored(Kind::Region, json!({"env": {"A/B~": waiting, "C": "clear"}, "key": waiting}));
        assert!(resource.has_unsealed_secret());
        for wrong in ["", "/", "/env", "/env/C", "/env/A", "/nothing/A"] {
            assert!(!resource.put_sealed(wrong, &sealed()), "{wrong}");
        }
        assert!(resource.put_sealed(&pointer("/env", "A/B~"), &sealed()));
        assert!(resource.has_unsealed_secret());
        assert!(resource.put_sealed("/key", &sealed()));
        assert!(resource.has_secret() && !resource.has_unsealed_secret());
        assert_eq!(resource.spec["env"]["A/B~"], json!({"$secret": sealed()}));
        assert!(!stored(Kind::Region, json!({"env": {"C": "clear"}})).has_secret());
    }

    #[test]
    fn places_differ_in_every_part() {
        let place = |tenant: Option<&str>, resource: &str, path: &str| {
            SecretPlace { tenant: tenant.map(str::to_owned), resource: resource.into(), path: path.into() }
                .to_bytes()
        };
        let all = [
            place(Some("t"), "r", "/p"),
            place(None, "r", "/p"),
            place(None, "tr", "/p"),
            place(Some("t"), "r/", "p"),
            place(Some("tr"), "", "/p"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one));
        }
    }
}
