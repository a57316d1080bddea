//! From a kind's typed definition to what the rest of the platform calls: one object-safe [`KindDef`] per kind.

use std::cell::LazyCell;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::document::overlay;
use crate::info::owned_by;
use crate::input::parse;
use crate::limits::HeldLimits;
use crate::spec_map::all_missing;
pub(crate) use crate::spec_map::{to_map, written_over};
use crate::upcast::{Upcaster, upcast_with};
use crate::{
    Doc, Document, Entropy, IdPolicy, Index, Kind, KindInfo, OwnerRef, PlainSecrets, Resource, Secret,
    ShapeError, SpecError, Status, Warning, ids, kept, secret, timestamp,
};

/// What a kind's file says. Everything else is generic.
pub(crate) trait Definition: Document + Sized {
    /// Body of POST.
    type Create: DeserializeOwned + JsonSchema;
    /// Body of PUT.
    type Update: DeserializeOwned + JsonSchema;
    /// What the API shows beside the spec.
    type Extra: Serialize + JsonSchema;

    /// The kind's line of the table.
    const INFO: KindInfo;

    /// `UPCASTERS[n]` brings shape n+1 to n+2.
    const UPCASTERS: &'static [Upcaster] = &[];

    /// Relations whose targets it has a place in: it is kept how many each has.
    const COUNTED: &'static [&'static str] = &[];

    /// Status after creation.
    const INITIAL: Status;

    /// Checks, normalises and fills in defaults; pushes the resource and its nested ones.
    fn create(input: Self::Create, parent: Option<&Resource>, build: &mut Build<'_>)
    -> Result<(), SpecError>;

    /// Checks and changes the spec; answers a status that the caller set.
    fn update(spec: &mut Self::Spec, input: Self::Update, of: &Resource)
    -> Result<Option<Status>, SpecError>;

    /// What a person would call it.
    fn label(id: &str, spec: &Self::Spec) -> String;

    /// Names, references and facets.
    fn index(resource: &Resource, spec: &Self::Spec, index: &mut Index);

    /// What the API shows beside the spec.
    fn extra(resource: &Doc<Self>) -> Self::Extra;

    /// Hands on each secret of the spec with the JSON pointer (RFC 6901) of its place. One that is left out cannot be stored.
    fn secrets(_spec: &Self::Spec, _each: &mut dyn FnMut(String, &Secret)) {}

    /// Notes the brand of the resource that owns it.
    fn adopted(_spec: &mut Self::Spec, _brand: &str) {}

    /// Who owns it, when it is not its parent.
    fn owner(_spec: &Self::Spec) -> Option<OwnerRef> {
        None
    }

    /// Whether the API may delete this one.
    fn deletable(_resource: &Doc<Self>) -> Result<(), SpecError> {
        Ok(())
    }

    /// Whether it counts against the limits of those whose it is. What the platform makes by itself does not.
    fn is_charged(_spec: &Self::Spec) -> bool {
        true
    }

    /// Whether resources count against limits of one of these.
    const HAS_LIMITS: bool = false;

    /// Whether what becomes of resources is kept in order for those of the kind.
    const FOLLOWS_EVENTS: bool = false;

    /// A URL that the platform is to call for it.
    fn calls(_spec: &Self::Spec) -> Option<&str> {
        None
    }

    /// The limits that it holds.
    fn limits(_spec: &Self::Spec) -> HeldLimits {
        HeldLimits::default()
    }

    /// What DELETE does, as a verb for the reference.
    const DELETES: &'static str = "Delete";

    /// Whether DELETE made it void: its row stays, and callers find it no more.
    fn is_void(_resource: &Doc<Self>) -> bool {
        false
    }

    /// Whether the platform made it from other resources and keeps it so: no history of it is kept.
    fn is_derived(_resource: &Resource) -> bool {
        false
    }

    /// What holders of it may do with the API: nobody gives more than they have.
    fn grants(_spec: &Self::Spec) -> Option<Grants> {
        None
    }

    /// A body of POST that is accepted, for the reference and the tests.
    fn example() -> Value;
}

/// What a holder of something may do with the API.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// `resource:action`; `*` in either place stands for all.
    pub scopes: Vec<String>,
    /// Roles, whose scopes it has too.
    pub roles: Vec<String>,
    /// Brand ids, or `*`.
    pub brands: Vec<String>,
}

/// No fields beside the spec.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Nothing {}

/// A checked resource that has no revision yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewResource {
    /// What it is.
    pub kind: Kind,
    /// The caller's id or a new one.
    pub id: String,
    /// What it lies in.
    pub parent: Option<String>,
    /// Who decides its tenant and brand; `None`: it belongs to the platform.
    pub owner: Option<OwnerRef>,
    /// What a person would call it.
    pub label: String,
    /// Where it starts.
    pub status: Status,
    /// Complete spec, in the newest shape.
    pub spec: Map<String, Value>,
    /// The texts of its secrets, to be sealed before it is stored.
    pub plain: PlainSecrets,
}

impl NewResource {
    /// The resource as it is stored. `owner` is the resource that [`NewResource::owner`] names; `now` is in milliseconds
    /// since the Unix epoch. `state` starts empty, but for what the planner allocates.
    #[must_use]
    pub fn into_resource(mut self, owner: Option<&Resource>, revision: u64, now: i64) -> Resource {
        let (tenant, brand) = owned_by(self.kind.info(), &self.id, owner);
        if let Some(brand) = &brand {
            self.kind.def().adopt(&mut self.spec, brand);
        }
        Resource {
            id: self.id,
            kind: self.kind,
            parent: self.parent,
            tenant,
            brand,
            label: self.label,
            status: self.status,
            status_message: None,
            shape: self.kind.info().shape,
            generation: 1,
            created_revision: revision,
            created_at: now,
            updated_at: now,
            spec: self.spec,
            state: Map::new(),
        }
    }
}

/// What one POST body means.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Creation {
    /// The resource itself first, then nested ones, owners before what they own.
    pub resources: Vec<NewResource>,
    /// Fields to show in the answer of this one request and never again, e.g. an API key.
    pub secrets: Map<String, Value>,
    /// What was ignored.
    pub warnings: Vec<Warning>,
}

/// What one PUT body means.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The whole new spec; fields of the stored one that this build does not know are kept, and so are secrets that the body left out.
    pub spec: Map<String, Value>,
    /// The texts of secrets that the body set, to be sealed before the spec is stored.
    pub plain: PlainSecrets,
    /// The label that goes with it.
    pub label: String,
    /// A status that the caller set (clusters, shards, nodes, brands).
    pub status: Option<Status>,
    /// Set when the change moves the resource to another tenant or brand: read it for [`Update::apply`].
    pub owner: Option<OwnerRef>,
    /// Whether anything differs from what is stored.
    pub changed: bool,
    /// What was ignored.
    pub warnings: Vec<Warning>,
}

impl Update {
    /// Writes the change into `resource`: spec, label, ownership, status, generation, shape, time. `owner` is the
    /// resource that [`Update::owner`] names. Does nothing when nothing differs.
    pub fn apply(self, resource: &mut Resource, owner: Option<&Resource>, now: i64) {
        if !self.changed {
            return;
        }
        resource.spec = self.spec;
        resource.label = self.label;
        resource.shape = resource.kind.info().shape;
        resource.generation += 1;
        resource.updated_at = now;
        if let Some(status) = self.status {
            resource.status = status;
            resource.status_message = None;
        }
        if self.owner.is_some() {
            let (tenant, brand) = owned_by(resource.kind.info(), &resource.id, owner);
            if let Some(brand) = &brand {
                resource.kind.def().adopt(&mut resource.spec, brand);
            }
            resource.tenant = tenant;
            resource.brand = brand;
        }
    }
}

/// Collects what a body creates.
pub(crate) struct Build<'a> {
    entropy: Entropy<'a>,
    /// The answer so far.
    pub(crate) creation: Creation,
}

impl<'a> Build<'a> {
    /// Nothing yet.
    pub(crate) fn new(entropy: Entropy<'a>) -> Self {
        Self { entropy, creation: Creation::default() }
    }

    /// An id by the kind's policy.
    pub(crate) fn id(&mut self, policy: IdPolicy, given: Option<&str>) -> Result<String, SpecError> {
        match (policy, given.filter(|id| !id.is_empty())) {
            (IdPolicy::Caller, Some(id)) => {
                crate::check::foreign_id("id", id)?;
                Ok(id.to_owned())
            }
            (IdPolicy::Caller, None) => Err(SpecError::invalid("id", "is required")),
            (IdPolicy::CallerOrUuid, Some(id)) => {
                crate::check::id("id", id)?;
                Ok(id.to_owned())
            }
            (IdPolicy::CallerOrUuid | IdPolicy::Uuid, _) => Ok(ids::uuid(self.entropy)),
            (IdPolicy::Prefixed(prefix), _) => Ok(ids::prefixed(prefix, self.entropy)),
        }
    }

    /// Random bytes.
    pub(crate) fn random(&mut self, bytes: &mut [u8]) {
        (self.entropy)(bytes);
    }

    /// Adds a checked resource.
    pub(crate) fn push<D: Definition>(
        &mut self,
        id: String,
        parent: Option<&str>,
        spec: &D::Spec,
    ) -> Result<(), SpecError> {
        let owner = D::owner(spec).or_else(|| {
            D::INFO.parent.zip(parent).map(|(of, id)| OwnerRef {
                field: of.field,
                kind: of.kind,
                id: id.to_owned(),
            })
        });
        self.creation.resources.push(NewResource {
            kind: D::INFO.kind,
            parent: parent.map(str::to_owned),
            owner,
            label: D::label(&id, spec),
            status: D::INITIAL,
            spec: to_map(spec)?,
            plain: new_secrets::<D>(spec),
            id,
        });
        Ok(())
    }

    /// Says that something was ignored or will not work.
    pub(crate) fn warn(&mut self, warning: Warning) {
        self.creation.warnings.push(warning);
    }
}

/// One kind, as store, planner, API and CLI call it.
pub trait KindDef: Send + Sync {
    /// Routes, codes, lists.
    fn info(&self) -> &'static KindInfo;

    /// Checks a body of POST. `parent` is the resource named in the path.
    ///
    /// # Errors
    /// The first rule that the body breaks.
    fn create(
        &self,
        parent: Option<&Resource>,
        body: &Map<String, Value>,
        entropy: Entropy<'_>,
    ) -> Result<Creation, SpecError>;

    /// Checks a body of PUT against what is stored.
    ///
    /// # Errors
    /// The first rule that the body breaks; an unreadable stored spec is [`SpecError::Malformed`].
    fn update(&self, current: &Resource, body: &Map<String, Value>) -> Result<Update, SpecError>;

    /// A change to a whole spec that it had before, or one with fields of several times.
    ///
    /// # Errors
    /// [`SpecError::Malformed`] when that is no spec of the kind.
    fn rewritten(&self, current: &Resource, spec: Map<String, Value>) -> Result<Update, SpecError>;

    /// Whether the API may delete this one.
    ///
    /// # Errors
    /// [`SpecError::Forbidden`] with the reason.
    fn deletable(&self, resource: &Resource) -> Result<(), SpecError>;

    /// What DELETE does, as a verb for the reference: `Delete`, `Revoke`.
    fn deletes(&self) -> &'static str;

    /// Whether DELETE made it void: its row stays, and callers find it no more. What cannot be read is not void.
    fn is_void(&self, resource: &Resource) -> bool;

    /// Whether the platform made it from other resources and keeps it so: no history of it is kept.
    fn is_derived(&self, resource: &Resource) -> bool;

    /// Whether it counts against the limits of those whose it is. What cannot be read does.
    fn is_charged(&self, resource: &Resource) -> bool;

    /// Whether resources count against limits of one of these.
    fn has_limits(&self) -> bool;

    /// Whether what becomes of resources is kept in order for those of the kind: while there is one.
    fn follows_events(&self) -> bool;

    /// A URL that the platform is to call for one with this spec; what cannot be read has none.
    fn calls(&self, spec: &Map<String, Value>) -> Option<String>;

    /// The limits that it holds.
    ///
    /// # Errors
    /// [`ShapeError::Unreadable`].
    fn limits(&self, resource: &Resource) -> Result<HeldLimits, ShapeError>;

    /// What holders of it may do with the API: nobody gives more than they have. `None`: it opens nothing.
    fn grants(&self, spec: &Map<String, Value>) -> Option<Grants>;

    /// Notes in a spec the brand of the resource that owns it.
    fn adopt(&self, spec: &mut Map<String, Value>, brand: &str);

    /// The rows that the store keeps beside the document.
    fn index(&self, resource: &Resource) -> Index;

    /// Relations of which the store keeps how many refer to each target.
    fn counted(&self) -> &'static [&'static str];

    /// The resource as the API shows it.
    fn view(&self, resource: &Resource) -> Map<String, Value>;

    /// Schema of the body of POST.
    fn create_schema(&self, generator: &mut SchemaGenerator) -> Schema;

    /// Schema of the body of PUT.
    fn update_schema(&self, generator: &mut SchemaGenerator) -> Schema;

    /// Schema of what [`KindDef::view`] gives.
    fn view_schema(&self, generator: &mut SchemaGenerator) -> Schema;

    /// Schema of the stored spec.
    fn spec_schema(&self, generator: &mut SchemaGenerator) -> Schema;

    /// A body of POST that is accepted.
    fn example(&self) -> Value;

    /// Brings a stored document to the newest shape.
    ///
    /// # Errors
    /// [`ShapeError::Newer`] when a newer controller wrote it: show it, but never write it back.
    fn upcast(&self, resource: &mut Resource) -> Result<(), ShapeError>;
}

/// The bridge from a typed definition.
pub(crate) struct Erased<D>(pub(crate) PhantomData<fn() -> D>);

impl<D: Definition> KindDef for Erased<D> {
    fn info(&self) -> &'static KindInfo {
        &D::INFO
    }

    fn create(
        &self,
        parent: Option<&Resource>,
        body: &Map<String, Value>,
        entropy: Entropy<'_>,
    ) -> Result<Creation, SpecError> {
        let given = crate::input::without_nulls(body);
        let parsed = parse::<D::Create>(&given).map_err(|error| all_missing::<D::Create>(error, &given))?;
        let mut build = Build::new(entropy);
        let is_read_only = LazyCell::new(read_only::<D>);
        for path in &parsed.unknown {
            if !is_read_only(path) {
                build.warn(Warning::unknown_field(path));
            }
        }
        D::create(parsed.value, parent, &mut build)?;
        Ok(build.creation)
    }

    fn update(&self, current: &Resource, body: &Map<String, Value>) -> Result<Update, SpecError> {
        let mut spec: D::Spec =
            current.typed().map_err(|error| SpecError::Malformed { problem: error.to_string() })?;
        let parsed = parse::<D::Update>(body)?;
        let view = self.view(current);
        let mut warnings = Vec::new();
        let is_read_only = LazyCell::new(read_only::<D>);
        for path in parsed.unknown {
            match (body.get(&path), view.get(&path)) {
                // What a client read and sends back: fine as long as it does not ask for something else.
                (Some(given), Some(shown)) if given == shown || is_read_only(&path) => {}
                // Clients that send whole objects leave empty what they do not set.
                (Some(given), Some(_)) if given == "" || given.as_u64() == Some(0) => {}
                (Some(_), Some(_)) => return Err(SpecError::invalid(path, "cannot be changed")),
                _ if is_read_only(&path) => {}
                _ => warnings.push(Warning::unknown_field(&path)),
            }
        }
        let owner_before = D::owner(&spec);
        let status = D::update(&mut spec, parsed.value, current)?.filter(|status| *status != current.status);
        let owner = D::owner(&spec).filter(|owner| Some(owner) != owner_before.as_ref());
        let whole = written_over(current, &spec)?;
        Ok(Update {
            changed: whole != current.spec || status.is_some(),
            label: D::label(&current.id, &spec),
            plain: new_secrets::<D>(&spec),
            spec: whole,
            status,
            owner,
            warnings,
        })
    }

    fn rewritten(&self, current: &Resource, spec: Map<String, Value>) -> Result<Update, SpecError> {
        let read = |spec: &Map<String, Value>| {
            D::Spec::deserialize(spec).map_err(|error| SpecError::Malformed { problem: error.to_string() })
        };
        let typed = read(&spec)?;
        let owner_before = D::owner(&read(&current.spec)?);
        Ok(Update {
            changed: spec != current.spec,
            label: D::label(&current.id, &typed),
            plain: PlainSecrets::default(),
            status: None,
            owner: D::owner(&typed).filter(|owner| Some(owner) != owner_before.as_ref()),
            warnings: Vec::new(),
            spec,
        })
    }

    fn deletable(&self, resource: &Resource) -> Result<(), SpecError> {
        // What cannot be read may at least go.
        Doc::<D>::of(resource).map_or(Ok(()), |doc| D::deletable(&doc))
    }

    fn deletes(&self) -> &'static str {
        D::DELETES
    }

    fn has_limits(&self) -> bool {
        D::HAS_LIMITS
    }

    fn follows_events(&self) -> bool {
        D::FOLLOWS_EVENTS
    }

    fn calls(&self, spec: &Map<String, Value>) -> Option<String> {
        D::Spec::deserialize(spec).ok().and_then(|spec| D::calls(&spec).map(str::to_owned))
    }

    fn limits(&self, resource: &Resource) -> Result<HeldLimits, ShapeError> {
        Ok(D::limits(&resource.typed::<D::Spec>()?))
    }

    fn is_charged(&self, resource: &Resource) -> bool {
        resource.typed::<D::Spec>().map_or(true, |spec| D::is_charged(&spec))
    }

    fn is_void(&self, resource: &Resource) -> bool {
        Doc::<D>::of(resource).is_ok_and(|doc| D::is_void(&doc))
    }

    fn is_derived(&self, resource: &Resource) -> bool {
        D::is_derived(resource)
    }

    fn grants(&self, spec: &Map<String, Value>) -> Option<Grants> {
        D::Spec::deserialize(spec).ok().and_then(|spec| D::grants(&spec))
    }

    fn adopt(&self, spec: &mut Map<String, Value>, brand: &str) {
        if let Ok(before) = D::Spec::deserialize(&*spec) {
            let mut after = before.clone();
            D::adopted(&mut after, brand);
            overlay(spec, &before, &after);
        }
    }

    fn counted(&self) -> &'static [&'static str] {
        D::COUNTED
    }

    fn index(&self, resource: &Resource) -> Index {
        let mut index = Index::default();
        if let Ok(spec) = resource.typed::<D::Spec>() {
            D::index(resource, &spec, &mut index);
        }
        index.facets.extend(crate::search::facets(&D::INFO, &resource.id, &resource.label));
        if resource.status == Status::Deleting {
            index.uniques.clear();
            index.refs.clear();
        }
        if let Some(kept) = resource.kept() {
            kept.index(&mut index);
        }
        index
    }

    fn view(&self, resource: &Resource) -> Map<String, Value> {
        let info = &D::INFO;
        let mut view = Map::new();
        view.insert("id".to_owned(), ids::public_id(&resource.id).into());
        if let (Some(parent), Some(id)) = (info.parent, &resource.parent) {
            view.insert(parent.field.to_owned(), id.clone().into());
        }
        // An unreadable spec is shown as it is: an operator has to see it to mend it.
        let doc = Doc::<D>::of(resource).ok();
        let spec = doc.as_ref().and_then(|doc| to_map(&doc.spec).ok()).unwrap_or(resource.spec.clone());
        let spec = spec.into_iter().filter(|(field, _)| !info.hidden.contains(&field.as_str()));
        view.extend(spec.map(|(field, value)| (field, secret::shown(value))));
        view.extend(doc.and_then(|doc| to_map(&D::extra(&doc)).ok()).unwrap_or_default());
        if let Some(Value::String(id)) = view.get_mut("subscription_id") {
            *id = ids::public_id(id).to_owned();
        }
        if info.status {
            view.insert("status".to_owned(), resource.status.as_str().into());
            if let Some(message) = &resource.status_message {
                view.insert("status_message".to_owned(), message.clone().into());
            }
        }
        view.insert("created_at".to_owned(), timestamp(resource.created_at).into());
        view.insert("updated_at".to_owned(), timestamp(resource.updated_at).into());
        view.insert("generation".to_owned(), resource.generation.into());
        if let Some(kept) = resource.kept() {
            kept.show(&mut view);
        }
        view.retain(|field, value| !value.is_null() || info.nullable.contains(&field.as_str()));
        view
    }

    fn create_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        D::Create::json_schema(generator)
    }

    fn update_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        D::Update::json_schema(generator)
    }

    fn view_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        let info = &D::INFO;
        let mut schema = generator_schema::<D::Spec>(generator);
        let extra = generator_schema::<D::Extra>(generator);
        let text = serde_json::json!({"type": "string"});
        let time = serde_json::json!({"type": "string", "format": "date-time"});
        let object = schema.ensure_object();
        let mut properties = Map::new();
        properties.insert("id".to_owned(), text.clone());
        if let Some(parent) = info.parent {
            properties.insert(parent.field.to_owned(), text.clone());
        }
        for part in [object.get("properties"), extra.get("properties")].into_iter().flatten() {
            if let Value::Object(fields) = part {
                properties.extend(fields.clone());
            }
        }
        properties.retain(|field, _| !info.hidden.contains(&field.as_str()));
        for (field, _) in info.joins {
            properties.insert((*field).to_owned(), text.clone());
        }
        if info.status {
            let words: Vec<_> = Status::ALL.iter().map(|status| status.as_str()).collect();
            properties.insert("status".to_owned(), serde_json::json!({"type": "string", "enum": words}));
            properties.insert("status_message".to_owned(), text);
            kept::describe(&time, &mut properties);
        }
        properties.insert("created_at".to_owned(), time.clone());
        properties.insert("updated_at".to_owned(), time);
        properties.insert(
            "generation".to_owned(),
            serde_json::json!({"type": "integer", "minimum": 1, "description": "Counts the changes of the spec."}),
        );
        let warning = generator_schema::<Warning>(generator);
        properties.insert(
            "warnings".to_owned(),
            serde_json::json!({
                "type": "array",
                "items": warning,
                "readOnly": true,
                "description": "What was accepted and will not work as it is; absent when there is nothing.",
            }),
        );
        let mut required = vec!["id".to_owned(), "created_at".to_owned(), "updated_at".to_owned()];
        if info.status {
            required.push("status".to_owned());
        }
        object.insert("title".to_owned(), info.title.into());
        object.insert("description".to_owned(), info.about.into());
        object.insert("properties".to_owned(), Value::Object(properties));
        object.insert("required".to_owned(), required.into());
        schema
    }

    fn spec_schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator_schema::<D::Spec>(generator)
    }

    fn example(&self) -> Value {
        D::example()
    }

    fn upcast(&self, resource: &mut Resource) -> Result<(), ShapeError> {
        upcast_with(resource, D::INFO.shape, D::UPCASTERS)
    }
}

/// The texts of the secrets that are new.
pub(crate) fn new_secrets<D: Definition>(spec: &D::Spec) -> PlainSecrets {
    let mut plain = PlainSecrets::default();
    D::secrets(spec, &mut |path, secret| plain.collect(path, secret));
    plain
}

/// Fields that the API shows and nobody writes: they come back in a read-modify-write and mean nothing there.
fn read_only<D: Definition>() -> impl Fn(&str) -> bool {
    const META: &[&str] = &[
        "status",
        "status_message",
        "created_at",
        "updated_at",
        "generation",
        "revision",
        "conditions",
        "lagging",
        "warnings",
        "deleted_at",
        "restorable_until",
    ];
    let (extra, spec) = (fields_of::<D::Extra>(), fields_of::<D::Spec>());
    move |path| {
        META.contains(&path)
            || D::INFO.joins.iter().any(|(field, _)| *field == path)
            || (extra.contains_key(path) && !spec.contains_key(path))
    }
}

fn fields_of<T: JsonSchema>() -> Map<String, Value> {
    let schema = generator_schema::<T>(&mut SchemaGenerator::default());
    schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
}

fn generator_schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}
