//! Basic authentication as users write it, and hashes of passwords in specs.
//!
//! A password has no way into a spec: it becomes a placeholder, in whose place the API puts a hash before anything is written. A hash is
//! stored and given to edges, and is never shown.

use std::collections::HashSet;
use std::fmt;

use hosting_intent::basic_auth::{self as rules, PasswordHash as Readable};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::faults::Faults;
use crate::input::FREE_FORM;
use crate::{PlainText, SpecError, check};

/// The one field of a hash's JSON form, by which views know it.
const TAG: &str = "$password";
/// Fewest characters of a new password: whoever reads the edges' state can guess offline.
const LEAST_CHARACTERS: usize = 8;

/// Requests must show a name and a password (RFC 7617). Over plain HTTP both can be read on the way: turn `https_redirect` on, which goes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BasicAuth {
    /// Whether it is on.
    pub enabled: bool,
    /// What browsers show beside the question: at most 128 characters of ASCII. Absent: the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// Who may see the site. At most 100.
    #[serde(default)]
    pub users: Vec<BasicAuthUser>,
    /// What is behind it: paths, with all below them. Empty: everything. A site whose scripts also answer under other paths needs the latter. At most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Paths below those that are open to everybody, with all below them, e.g. `/.well-known`. The longest path that fits decides. At most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<String>,
    /// The site gets the field `Authorization` too. Off: it is the edges' alone.
    #[serde(default)]
    pub pass_authorization: bool,
}

/// Who may see a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BasicAuthUser {
    /// Unique here, at most 128 bytes, without a colon.
    pub name: String,
    /// From 8 characters to 128 bytes. Never shown. Left out, with the hash left out too: a user of this name keeps the one that it has.
    #[serde(default, skip_serializing)]
    pub password: Option<PlainText>,
    /// In its place: its hash, Argon2id (`$argon2id$...`) or bcrypt (`$2y$...`, as `htpasswd -B` writes it). Never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<PasswordHash>,
}

/// The hash of a password in a spec. Debug output shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(
    /// Empty: there is a password, and its hash is not made yet. Nothing like that is stored.
    String,
);

impl PasswordHash {
    /// The hash; empty while it is not made.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(redacted)")
    }
}

impl Serialize for PasswordHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(TAG, &self.0)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for PasswordHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Given(String),
            Stored {
                #[serde(rename = "$password")]
                hash: String,
            },
        }
        let form = Form::deserialize(deserializer);
        // serde's own words for a wrong type may repeat the value.
        let form = form.map_err(|_| serde::de::Error::custom("must be a text"))?;
        Ok(match form {
            Form::Given(hash) | Form::Stored { hash } => Self(hash),
        })
    }
}

impl JsonSchema for PasswordHash {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PasswordHash".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // `x-secret`: audit rows do not keep it.
        json_schema!({"type": "string", "writeOnly": true, "x-secret": true})
    }
}

/// Whether a value of a spec is a hash; if it is, whether it is made.
pub(crate) fn is_hash(value: &Value) -> Option<bool> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    fields.get(TAG).map(|hash| hash.as_str().is_some_and(|hash| !hash.is_empty()))
}

impl BasicAuth {
    /// Checks it, brings it into its one form, and takes over from `before` the hashes of users that bring none.
    pub(crate) fn settle(&mut self, before: Option<&Self>) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        let at = |field: &str| format!("http.basic_auth.{field}");
        self.realm = self.realm.take().filter(|realm| !realm.is_empty());
        if let Some(realm) = &self.realm {
            faults
                .note(rules::check_realm(realm).map_err(|problem| SpecError::invalid(at("realm"), problem)));
        }
        if self.users.len() > rules::MAX_USERS {
            let problem = format!("at most {} can be given", rules::MAX_USERS);
            return Err(SpecError::invalid(at("users"), problem));
        }
        if self.enabled && self.users.is_empty() {
            let problem =
                "is required: without users nobody could see the site; deny all networks if that is meant";
            faults.fault(SpecError::invalid(at("users"), problem));
        }
        let mut names = HashSet::new();
        for (n, user) in self.users.iter_mut().enumerate() {
            let kept = before.and_then(|before| before.users.iter().find(|old| old.name == user.name));
            faults.note(user.settle(&at(&format!("users[{n}]")), kept));
            if !names.insert(user.name.as_str()) {
                let problem = format!("{:?} stands there twice", user.name);
                faults.fault(SpecError::invalid(at(&format!("users[{n}].name")), problem));
            }
        }
        for (field, list) in [("paths", &mut self.paths), ("exempt", &mut self.exempt)] {
            if list.len() > rules::MAX_PREFIXES {
                let problem = format!("at most {} can be given", rules::MAX_PREFIXES);
                return Err(SpecError::invalid(at(field), problem));
            }
            for (n, prefix) in list.iter_mut().enumerate() {
                if let Some(shorter) = prefix.strip_suffix('/').filter(|shorter| !shorter.is_empty()) {
                    *prefix = shorter.to_owned();
                }
                let checked = rules::check_prefix(prefix);
                faults.note(
                    checked.map_err(|problem| SpecError::invalid(at(&format!("{field}[{n}]")), problem)),
                );
            }
            check::distinct(list);
        }
        if let Some(both) = self.exempt.iter().find(|prefix| self.paths.contains(prefix)) {
            let problem = format!("{both} is among http.basic_auth.paths too; it can be in one of them");
            faults.fault(SpecError::invalid(at("exempt"), problem));
        }
        faults.end()
    }

    /// What it asks for, in words; `None`: nothing.
    pub(crate) fn summary(&self) -> Option<String> {
        let whose = match self.users.len() {
            1 => "of one user".to_owned(),
            count => format!("of {count} users"),
        };
        let place = match (self.paths.len(), self.exempt.len()) {
            (0, 0) => String::new(),
            (0, _) => ", but on exempt paths".to_owned(),
            (count, _) => format!(", on {count} paths and below"),
        };
        self.enabled.then(|| format!("requests must show the name and password {whose}{place}"))
    }
}

impl BasicAuthUser {
    fn settle(&mut self, at: &str, before: Option<&Self>) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        let invalid = |field: &str, problem: String| SpecError::invalid(format!("{at}.{field}"), problem);
        faults.note(rules::check_name(&self.name).map_err(|problem| invalid("name", problem)));
        match (self.password.take(), &self.password_hash) {
            (Some(_), Some(_)) => {
                faults.fault(invalid("password", "stands beside password_hash; give one of them".to_owned()));
            }
            (Some(password), None) => {
                faults
                    .note(check_password(password.expose()).map_err(|problem| invalid("password", problem)));
                self.password_hash = Some(PasswordHash(String::new()));
            }
            (None, Some(hash)) => {
                let read = Readable::parse(hash.expose()).map(|_| ());
                faults.note(read.map_err(|problem| invalid("password_hash", problem)));
            }
            (None, None) => match before.and_then(|before| before.password_hash.clone()) {
                Some(kept) => self.password_hash = Some(kept),
                None => {
                    let problem =
                        "is required, or password_hash in its place: there is no user of this name yet";
                    faults.fault(invalid("password", problem.to_owned()));
                }
            },
        }
        faults.end()
    }
}

/// Checks a new password.
///
/// # Errors
/// What is wrong with it, without a part of it.
pub fn check_password(password: &str) -> Result<(), String> {
    if password.chars().count() < LEAST_CHARACTERS || password.len() > rules::MAX_PASSWORD_BYTES {
        let most = rules::MAX_PASSWORD_BYTES;
        return Err(format!("must have from {LEAST_CHARACTERS} characters to {most} bytes"));
    }
    if password.contains(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    Ok(())
}

/// The hash that a user of a stored policy has.
#[must_use]
pub fn hash_of_user<'s>(spec: &'s Map<String, Value>, name: &str) -> Option<&'s str> {
    let users = spec.get("http")?.get("basic_auth")?.get("users")?.as_array()?;
    let user = users.iter().find(|user| user.get("name").and_then(Value::as_str) == Some(name))?;
    user.get("password_hash")?.get(TAG)?.as_str()
}

/// Hands on the users of a body that bring a password, wherever a policy stands in it: a hash is to be made of it before the body is read.
pub fn each_with_password(body: &mut Map<String, Value>, each: &mut dyn FnMut(&mut Map<String, Value>)) {
    for (field, value) in body.iter_mut().filter(|(field, _)| !FREE_FORM.contains(&field.as_str())) {
        let users = value.get_mut("users").filter(|_| field == "basic_auth").and_then(Value::as_array_mut);
        for user in users.into_iter().flatten().filter_map(Value::as_object_mut) {
            if user.contains_key("password") {
                each(user);
            }
        }
        inside(value, each);
    }
}

/// A field of a body as a view would have it: without passwords and their hashes. `None`: there are none.
#[must_use]
pub fn without_passwords(field: &Value) -> Option<Value> {
    let mut field = field.clone();
    let mut had_one = false;
    let users = field.pointer_mut("/basic_auth/users").and_then(Value::as_array_mut);
    for user in users.into_iter().flatten().filter_map(Value::as_object_mut) {
        for secret in ["password", "password_hash"] {
            had_one |= user.remove(secret).is_some();
        }
    }
    had_one.then_some(field)
}

fn inside(value: &mut Value, each: &mut dyn FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(fields) => each_with_password(fields, each),
        Value::Array(items) => items.iter_mut().for_each(|item| inside(item, each)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::tests::stored;
    use crate::{Kind, Resource};

    const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

    fn create(http: Value) -> Result<crate::Creation, SpecError> {
        let body = json!({"fqdn": "a.example", "http": http});
        let parent = stored(Kind::Tenant, json!({}));
        Kind::Fqdn
            .def()
            .create(Some(&parent), body.as_object().unwrap(), &mut |bytes: &mut [u8]| bytes.fill(7))
    }

    fn auth(value: Value) -> BasicAuth {
        serde_json::from_value(value).unwrap()
    }

    fn settled(value: Value) -> Result<BasicAuth, String> {
        let mut auth = auth(value);
        auth.settle(None).map(|()| auth).map_err(|error| error.to_string())
    }

    #[test]
    fn it_has_one_form() {
        let all = settled(
            json!({"enabled": true, "realm": "", "paths": ["/a/", "/a", "/"], "exempt": ["/.well-known/"],
            "users": [{"name": "anna", "password_hash": HASH}]}),
        )
        .unwrap();
        assert_eq!(
            (&all.realm, all.paths.len(), &all.exempt[..]),
            (&None, 2, &["/.well-known".to_owned()][..])
        );
        assert_eq!(all.users[0].password_hash.as_ref().unwrap().expose(), HASH);
        assert_eq!(
            all.summary().unwrap(),
            "requests must show the name and password of one user, on 2 paths and below"
        );
        assert_eq!(auth(json!({"enabled": false})).summary(), None);
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_repeated() {
        let user = |user: Value| json!({"enabled": true, "users": [user]});
        for (wrong, told) in [
            (json!({"enabled": true}), "http.basic_auth.users: is required"),
            (user(json!({"name": "a:b", "password_hash": HASH})), "users[0].name: must not contain a colon"),
            (user(json!({"name": "a"})), "users[0].password: is required"),
            (user(json!({"name": "a", "password": "hunter2"})), "users[0].password: must have from 8"),
            (
                user(json!({"name": "a", "password": "hunter2\nhunter2"})),
                "users[0].password: must not contain",
            ),
            (
                user(json!({"name": "a", "password": "hunter2hunter2", "password_hash": HASH})),
                "give one of them",
            ),
            (user(json!({"name": "a", "password_hash": "hunter2"})), "users[0].password_hash: is neither"),
            (json!({"enabled": false, "realm": "a\"b"}), "realm: must have"),
            (json!({"enabled": false, "paths": ["a"]}), "paths[0]: \"a\" must be a path"),
            (json!({"enabled": false, "paths": ["/a"], "exempt": ["/a/"]}), "exempt: /a is among"),
            (
                json!({"enabled": true, "users": [{"name": "a", "password_hash": HASH}, {"name": "a", "password_hash": HASH}]}),
                "users[1].name: \"a\" stands there twice",
            ),
        ] {
            let problem = settled(wrong).unwrap_err();
            assert!(problem.contains(told) && !problem.contains("hunter2"), "{problem}");
        }
        let wrong = json!({"basic_auth": {"enabled": true, "users": [{"name": "a", "password_hash": 1234}]}});
        let refused = create(wrong).unwrap_err().to_string();
        assert!(refused.contains("must be a text") && !refused.contains("1234"), "{refused}");
    }

    fn fqdn(users: Value) -> Resource {
        let http = json!({"basic_auth": {"enabled": true, "users": users, "pass_authorization": false}});
        let spec = json!({"fqdn": "a.example", "webroot_id": null, "ssl_enabled": false, "http": http});
        stored(Kind::Fqdn, spec)
    }

    #[test]
    fn a_hash_is_kept_and_not_shown() {
        let resource = fqdn(json!([{"name": "anna", "password_hash": {"$password": HASH}}]));
        let def = Kind::Fqdn.def();
        let view = def.view(&resource);
        assert_eq!(view["http"]["basic_auth"]["users"], json!([{"name": "anna"}]));
        assert!(
            !format!("{:?}", auth(json!({"enabled": true, "users": [{"name": "a", "password_hash": HASH}]})))
                .contains("$2y")
        );
        // What was read can be sent back, and so can the hash.
        assert!(!def.update(&resource, &view).unwrap().changed);
        let with = |users: Value| json!({"http": {"basic_auth": {"enabled": true, "users": users}}});
        let update = |users: Value| def.update(&resource, with(users).as_object().unwrap());
        assert!(!update(json!([{"name": "anna", "password_hash": HASH}])).unwrap().changed);
        // Another user has none to keep.
        assert!(update(json!([{"name": "anna"}, {"name": "berta"}])).is_err());
        let other = update(json!([{"name": "anna"}, {"name": "berta", "password_hash": HASH}])).unwrap();
        assert_eq!(other.spec["http"]["basic_auth"]["users"][0]["password_hash"], json!({"$password": HASH}));
    }

    #[test]
    fn a_password_is_a_placeholder_that_cannot_be_stored() {
        let with = json!([{"name": "anna", "password": "hunter2hunter2"}]);
        let made = create(json!({"basic_auth": {"enabled": true, "users": with}})).unwrap();
        let made = made.resources[0].clone().into_resource(None, 1, 0);
        assert!(!serde_json::to_string(&made.spec).unwrap().contains("hunter2"));
        assert!(made.has_unsealed_secret());
        assert!(!fqdn(json!([{"name": "anna", "password_hash": {"$password": HASH}}])).has_unsealed_secret());
    }

    #[test]
    fn passwords_are_found_wherever_a_policy_stands() {
        let mut body = json!({
            "http": {"basic_auth": {"users": [{"name": "a", "password": "1"}, {"name": "b"}, 7]}},
            "webroots": [{"fqdns": [{"http": {"basic_auth": {"users": [{"name": "c", "password": "2"}]}}}]}],
            "databases": [{"users": [{"username": "d", "password": "3"}]}],
        });
        let mut found = Vec::new();
        each_with_password(body.as_object_mut().unwrap(), &mut |user| {
            found.extend(user.remove("password"));
        });
        assert_eq!(found, [json!("1"), json!("2")]);
        assert_eq!(body["databases"][0]["users"][0]["password"], "3");
        let shown = without_passwords(
            &json!({"basic_auth": {"users": [{"name": "a", "password": "1"}, {"name": "b", "password_hash": "2"}]}}),
        );
        assert_eq!(shown, Some(json!({"basic_auth": {"users": [{"name": "a"}, {"name": "b"}]}})));
        assert_eq!(without_passwords(&shown.unwrap()), None);
    }
}
