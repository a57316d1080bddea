//! Typed documents: what is stored of a kind, as structs. A field that is misspelt does not compile.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{Kept, Kind, Resource, ShapeError};

/// A kind as a type: the structs that its documents are made of.
pub trait Document: Send + Sync + 'static {
    /// Which kind.
    const KIND: Kind;

    /// What users write, defaults filled in.
    type Spec: Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned + JsonSchema + Send + Sync;

    /// What the controller keeps about a resource of this kind, beside [`Progress`]. Fields at their default are not stored.
    type State: Clone + PartialEq + fmt::Debug + Default + Serialize + DeserializeOwned + Send + Sync;
}

/// The state of a kind of which the controller keeps nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NoState {}

/// The id of a resource of the kind `K`; empty stands for none where a spec has no `Option`.
pub struct Id<K> {
    id: String,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.id
    }
}

impl<K, S: Into<String>> From<S> for Id<K> {
    fn from(id: S) -> Self {
        Self { id: id.into(), kind: PhantomData }
    }
}

impl<K> Deref for Id<K> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.id
    }
}

impl<K> AsRef<str> for Id<K> {
    fn as_ref(&self) -> &str {
        &self.id
    }
}

impl<K> Borrow<str> for Id<K> {
    fn borrow(&self) -> &str {
        &self.id
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), kind: PhantomData }
    }
}

impl<K> Default for Id<K> {
    fn default() -> Self {
        Self { id: String::new(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.id, f)
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id, f)
    }
}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialEq<str> for Id<K> {
    fn eq(&self, other: &str) -> bool {
        self.id == other
    }
}

impl<K> PartialEq<&str> for Id<K> {
    fn eq(&self, other: &&str) -> bool {
        self.id == *other
    }
}

impl<K> PartialEq<String> for Id<K> {
    fn eq(&self, other: &String) -> bool {
        self.id == *other
    }
}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.id.serialize(serializer)
    }
}

impl<'de, K> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl<K> JsonSchema for Id<K> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// When a condition took the value that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// `true`, `waiting` or `failed`.
    pub status: String,
    /// Milliseconds since the Unix epoch.
    pub since: i64,
}

/// How far a deletion came in what lies in the resource.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cascade {
    /// The kind that is being gone through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The last id of that kind that is done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub after: String,
    /// The deletion of everything in it has begun.
    #[serde(skip_serializing_if = "is_false")]
    pub begun: bool,
}

/// What planning keeps in the state of resources of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Since when each condition is as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<BTreeMap<String, Standing>>,
    /// The revisions of the withdrawals that a deletion waits for, by audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<BTreeMap<String, u64>>,
    /// The nodes that are told to destroy the data. Absent until the data is to be destroyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retire_on: Option<BTreeSet<String>>,
    /// How far a deletion came in what lies in the resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade: Option<Cascade>,
    /// W3C traceparent of the user's last change, while that waits for anything.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
    /// It was deleted, and could be brought back. Stays until the row goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

impl Resource {
    /// What planning keeps in the state of any resource. An unreadable state counts as none.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress::deserialize(&self.state).unwrap_or_default()
    }

    /// Writes what planning keeps.
    pub fn set_progress(&mut self, progress: &Progress) {
        let before = self.progress();
        overlay(&mut self.state, &before, progress);
    }
}

/// A resource with its spec and state read. It derefs to the [`Resource`] for everything else; the maps of that are the ones it
/// was read from until [`Doc::into_resource`].
pub struct Doc<K: Document> {
    resource: Resource,
    /// What the user wrote.
    pub spec: K::Spec,
    /// What the controller keeps.
    pub state: K::State,
}

impl<K: Document> Doc<K> {
    /// Reads a resource.
    ///
    /// # Errors
    /// [`ShapeError::Unreadable`] when it is of another kind, or its documents are none of this kind.
    pub fn read(resource: Resource) -> Result<Self, ShapeError> {
        let unreadable = |problem: String| ShapeError::Unreadable { id: resource.id.clone(), problem };
        if resource.kind != K::KIND {
            return Err(unreadable(format!("it is a {}, not a {}", resource.kind, K::KIND)));
        }
        let spec = K::Spec::deserialize(&resource.spec).map_err(|error| unreadable(error.to_string()))?;
        let state = K::State::deserialize(&resource.state).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { resource, spec, state })
    }

    /// [`Doc::read`] of a copy.
    ///
    /// # Errors
    /// As [`Doc::read`].
    pub fn of(resource: &Resource) -> Result<Self, ShapeError> {
        Self::read(resource.clone())
    }

    /// The resource with spec and state written back. Fields that this build does not know stay, and a document that did not
    /// change stays as it was stored.
    #[must_use]
    pub fn into_resource(mut self) -> Resource {
        if let Ok(before) = K::Spec::deserialize(&self.resource.spec) {
            overlay(&mut self.resource.spec, &before, &self.spec);
        }
        if let Ok(before) = K::State::deserialize(&self.resource.state) {
            overlay(&mut self.resource.state, &before, &self.state);
        }
        self.resource
    }

    /// [`Doc::into_resource`] of a copy.
    #[must_use]
    pub fn to_resource(&self) -> Resource {
        self.clone().into_resource()
    }

    /// Its id, as one of its kind.
    #[must_use]
    pub fn typed_id(&self) -> Id<K> {
        Id::from(self.resource.id.as_str())
    }
}

impl<K: Document> Clone for Doc<K> {
    fn clone(&self) -> Self {
        Self { resource: self.resource.clone(), spec: self.spec.clone(), state: self.state.clone() }
    }
}

impl<K: Document> fmt::Debug for Doc<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doc")
            .field("resource", &self.resource)
            .field("spec", &self.spec)
            .field("state", &self.state)
            .finish()
    }
}

impl<K: Document> PartialEq for Doc<K> {
    fn eq(&self, other: &Self) -> bool {
        self.resource == other.resource && self.spec == other.spec && self.state == other.state
    }
}

impl<K: Document> Deref for Doc<K> {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        &self.resource
    }
}

impl<K: Document> DerefMut for Doc<K> {
    fn deref_mut(&mut self) -> &mut Resource {
        &mut self.resource
    }
}

/// Replaces the fields of `before` in `stored` by those of `after`, if they differ.
pub(crate) fn overlay<T: Serialize + PartialEq>(stored: &mut Map<String, Value>, before: &T, after: &T) {
    if before == after {
        return;
    }
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        // Documents are structs with text keys, so that they are objects; see the test over all kinds.
        Ok(_) | Err(_) => Map::new(),
    };
    let new = fields(after);
    for field in fields(before).keys().filter(|field| !new.contains_key(*field)) {
        stored.remove(field);
    }
    stored.extend(new);
}

/// For `skip_serializing_if`.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
pub(crate) const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// For `skip_serializing_if`.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
pub(crate) const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::fqdn::Fqdn;
    use crate::kinds::tests::stored;

    #[test]
    fn what_is_not_known_or_not_changed_stays_as_it_is() {
        let mut resource = stored(Kind::Fqdn, json!({"fqdn": "a.example", "later": [1]}));
        resource.state =
            json!({"routed": true, "conditions": {"route": {"status": "true", "since": 5}}, "later": 1})
                .as_object()
                .cloned()
                .unwrap();
        let doc = Doc::<Fqdn>::of(&resource).unwrap();
        assert!(doc.state.routed);
        assert_eq!(doc.to_resource(), resource, "defaults are not filled in where nothing changes");

        let mut changed = doc;
        changed.spec.ssl_enabled = true;
        changed.state.routed = false;
        let changed = changed.into_resource();
        assert_eq!(changed.spec["later"], json!([1]));
        assert_eq!(changed.spec["ssl_enabled"], json!(true));
        assert!(!changed.state.contains_key("routed"));
        assert_eq!(changed.progress().conditions.unwrap()["route"].since, 5);

        let mut resource = changed;
        let mut progress = resource.progress();
        progress.conditions = None;
        progress.traceparent = "00-a".to_owned();
        resource.set_progress(&progress);
        assert_eq!(Value::Object(resource.state), json!({"later": 1, "traceparent": "00-a"}));
    }

    #[test]
    fn another_kind_is_not_read() {
        let region = stored(Kind::Region, json!({"name": "eu"}));
        let error = Doc::<Fqdn>::of(&region).unwrap_err().to_string();
        assert!(error.contains("it is a region, not a fqdn"), "{error}");
    }
}
