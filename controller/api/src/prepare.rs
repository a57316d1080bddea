//! What can be worked out of a change before it is its turn to write: bodies are checked here, so that what is refused for itself
//! never reaches the store's one writer.

use std::collections::{BTreeMap, BTreeSet};

use hosting_planner::{ApplyError, World};
use hosting_resource::kinds::subscription::DEFAULT_NAME;
use hosting_resource::{Creation, Kind, ListBy, NewResource, Resource, Status, Update};
use hosting_store::{Store, WriteTx};
use serde_json::{Map, Value, json};

use crate::ApiError;
use crate::route::Op;
use crate::service::Call;

/// What was worked out, and from what: the transaction uses it when that has not changed since.
pub(crate) enum Prepared {
    /// Everything is for the transaction.
    Nothing,
    /// Of a POST.
    Creation {
        /// What it lies in.
        parent: Option<Box<Resource>>,
        creation: Creation,
    },
    /// Of a PUT.
    Update { current: Box<Resource>, update: Box<Update> },
}

fn entropy(buffer: &mut [u8]) {
    rand::fill(buffer);
}

impl Call {
    /// Checks the body against what is stored now.
    pub(crate) async fn prepare(&self, store: &Store) -> Result<Prepared, ApiError> {
        match self.route.op {
            Op::Create(kind) | Op::CreateBy(kind, _) => {
                let parent = {
                    let mut tx = store.read().await?;
                    let parent = self.parent(&mut tx, kind).await?;
                    self.may_create(&mut tx, kind).await?;
                    parent
                };
                let creation = self.creation(kind, parent.as_ref())?;
                if creation.resources.len() > 1 {
                    let own = creation.resources.first().and_then(|main| main.spec.get("brand_id")?.as_str());
                    let brand = parent.as_ref().and_then(|parent| parent.brand.as_deref()).or(own);
                    let brand = brand.unwrap_or_default();
                    refers_to_what_is_there(&mut store.read().await?, &creation, brand).await?;
                }
                Ok(Prepared::Creation { parent: parent.map(Box::new), creation })
            }
            Op::Update(kind) => {
                let current = {
                    let mut tx = store.read().await?;
                    let current = self.current(&mut tx, kind).await?;
                    self.may_use_tenant(&mut tx, kind).await?;
                    current
                };
                let update = self.checked_update(kind, &current)?;
                Ok(Prepared::Update { current: Box::new(current), update: Box::new(update) })
            }
            Op::List(_)
            | Op::ListBy(..)
            | Op::Get(_)
            | Op::Delete(_)
            | Op::Retry(_)
            | Op::Ask(_)
            | Op::Act(_)
            | Op::Order(_) => Ok(Prepared::Nothing),
        }
    }

    /// What a new resource lies in: named in the path, or what the resource named there lies in.
    pub(crate) async fn parent(
        &self,
        world: &mut dyn World,
        kind: Kind,
    ) -> Result<Option<Resource>, ApiError> {
        let Some(parent) = kind.info().parent else { return Ok(None) };
        let Op::CreateBy(_, by) = self.route.op else {
            return self.subject(world, parent.kind).await.map(Some);
        };
        let beside = self.subject(world, by.kind).await?;
        crate::service::find(world, parent.kind, beside.parent.as_deref().unwrap_or_default()).await.map(Some)
    }

    /// What the body creates.
    pub(crate) fn creation(&self, kind: Kind, parent: Option<&Resource>) -> Result<Creation, ApiError> {
        let referring =
            if let Op::CreateBy(_, by) = self.route.op { Some(self.referring(by)?) } else { None };
        let body = referring.as_ref().unwrap_or(&self.body);
        let creation = kind.def().create(parent, body, &mut entropy)?;
        if let Some(main) = creation.resources.first() {
            if kind == Kind::ApiKey {
                self.may_grant(&main.spec)?;
            }
            if !self.principal.is_admin() {
                may_choose(kind, &main.spec)?;
            }
        }
        Ok(creation)
    }

    /// The body, with the reference that the path is.
    fn referring(&self, by: ListBy) -> Result<Map<String, Value>, ApiError> {
        let mut body = self.body.clone();
        match body.insert(by.relation.to_owned(), self.id.clone().into()) {
            None | Some(Value::Null) => Ok(body),
            Some(given) if given == "" || given == self.id.as_str() => Ok(body),
            Some(_) => Err(ApiError::invalid(by.relation, "is not the one in the path; leave it out")),
        }
    }

    /// What the body changes.
    pub(crate) fn checked_update(&self, kind: Kind, current: &Resource) -> Result<Update, ApiError> {
        let update = kind.def().update(current, &self.body)?;
        if kind == Kind::ApiKey {
            self.may_grant(&update.spec)?;
        }
        self.may_set(current, &update.spec)?;
        Ok(update)
    }

    /// Refuses a change of what only platform admins set.
    pub(crate) fn may_set(&self, current: &Resource, spec: &Map<String, Value>) -> Result<(), ApiError> {
        if self.principal.is_admin() {
            return Ok(());
        }
        let fields = current.kind.info().platform_only;
        match fields.iter().find(|field| spec.get(**field) != current.spec.get(**field)) {
            None => Ok(()),
            Some(field) => Err(ApiError::forbidden(format!("{field}: only a platform admin may change it"))),
        }
    }

    /// Refuses to delete what a platform admin has set limits for: made anew, it would be without them.
    pub(crate) fn may_delete(&self, current: &Resource) -> Result<(), ApiError> {
        if self.principal.is_admin() || may_choose(current.kind, &current.spec).is_ok() {
            return Ok(());
        }
        Err(ApiError::forbidden(format!(
            "a platform admin has set limits for this {}; only a platform admin may delete it",
            current.kind
        )))
    }

    /// Refuses a body that speaks of another's brand before anything is told about it.
    pub(crate) async fn may_create(&self, world: &mut dyn World, kind: Kind) -> Result<(), ApiError> {
        if self.principal.is_admin() {
            return Ok(());
        }
        let text = |field: &str| self.body.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        if kind == Kind::Brand {
            // A key that is no platform admin's may create a brand only under an id that the key already names.
            return self.principal.may_use_brand(text("id"));
        }
        if let Some(brand) = text("brand_id") {
            self.principal.may_use_brand(Some(brand))?;
        }
        self.may_use_tenant(world, kind).await
    }

    /// A zone's `tenant_id`.
    pub(crate) async fn may_use_tenant(&self, world: &mut dyn World, kind: Kind) -> Result<(), ApiError> {
        if self.principal.is_admin() || kind != Kind::Zone {
            return Ok(());
        }
        if let Some(id) = self.body.get("tenant_id").and_then(Value::as_str)
            && let Some(tenant) = world.resource(id).await?
        {
            self.principal.may_touch(&tenant)?;
        }
        Ok(())
    }

    /// A key may grant no more than the caller has.
    fn may_grant(&self, spec: &Map<String, Value>) -> Result<(), ApiError> {
        let list = |field: &str| -> Vec<String> {
            spec.get(field).and_then(|list| serde_json::from_value(list.clone()).ok()).unwrap_or_default()
        };
        self.principal.may_grant(&list("scopes"))?;
        list("brands").iter().try_for_each(|brand| self.principal.may_use_brand(Some(brand)))
    }

    /// Gives what is billed and names no subscription the one of its tenant that is called `default`, and makes that when it is
    /// first needed.
    pub(crate) async fn name_subscriptions(
        &self,
        tx: &mut WriteTx,
        resources: &mut Vec<NewResource>,
    ) -> Result<(), ApiError> {
        let mut made = Vec::new();
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        for new in resources.iter().filter(|new| new.kind == Kind::Subscription) {
            let name = new.spec.get("name").and_then(Value::as_str);
            if let (Some(tenant), Some(DEFAULT_NAME)) = (&new.parent, name) {
                known.insert(tenant.clone(), new.id.clone());
            }
        }
        for place in 0..resources.len() {
            let Some(new) = resources.get_mut(place) else { break };
            let Some(tenant) = bills_nobody(new) else { continue };
            let id = match known.get(&tenant) {
                Some(id) => id.clone(),
                None => {
                    let held = tx.holder(Kind::Subscription, &tenant, DEFAULT_NAME).await?;
                    let id = match held {
                        Some(held) => held.id,
                        None => {
                            let subscription = default_of(&tenant)?;
                            let id = subscription.id.clone();
                            made.push((place, subscription));
                            id
                        }
                    };
                    known.insert(tenant, id.clone());
                    id
                }
            };
            new.spec.insert("subscription_id".to_owned(), id.into());
        }
        // Each before the first that needs it.
        for (place, subscription) in made.into_iter().rev() {
            resources.insert(place, subscription);
        }
        Ok(())
    }

    /// Makes the subscription `default` of a tenant that has none.
    pub(crate) async fn bill_somewhere(&self, tx: &mut WriteTx, tenant: &str) -> Result<(), ApiError> {
        let some = tx.children(Kind::Subscription, tenant, "", 1).await?;
        if some.is_empty() && tx.resource(tenant).await?.is_some_and(|found| found.kind == Kind::Tenant) {
            let creation = Creation { resources: vec![default_of(tenant)?], ..Creation::default() };
            hosting_planner::create(tx, creation).await?;
        }
        Ok(())
    }
}

/// The tenant that is to be billed with a resource which does not say how.
fn bills_nobody(new: &NewResource) -> Option<String> {
    let is_open = new.spec.get("subscription_id").is_some_and(|id| id == "");
    let of_tenant = new.owner.as_ref().filter(|owner| owner.kind == Kind::Tenant);
    of_tenant.filter(|_| is_open && new.kind != Kind::Subscription).map(|owner| owner.id.clone())
}

fn default_of(tenant: &str) -> Result<NewResource, ApiError> {
    let body = json!({"id": hosting_resource::uuid(&mut entropy), "name": DEFAULT_NAME});
    let fields = body.as_object().cloned().unwrap_or_default();
    let mut creation = Kind::Subscription.def().create(None, &fields, &mut entropy)?;
    let mut new = creation.resources.pop().ok_or_else(|| ApiError::internal(&"no subscription"))?;
    new.parent = Some(tenant.to_owned());
    new.owner =
        Some(hosting_resource::OwnerRef { field: "tenant_id", kind: Kind::Tenant, id: tenant.to_owned() });
    Ok(new)
}

/// Refuses values of what only platform admins set, but for those that everybody gets.
fn may_choose(kind: Kind, spec: &Map<String, Value>) -> Result<(), ApiError> {
    let fields = kind.info().platform_only;
    if fields.is_empty() {
        return Ok(());
    }
    let example = kind.def().example().as_object().cloned().unwrap_or_default();
    let usual = kind.def().create(None, &example, &mut entropy)?.resources.pop().map(|new| new.spec);
    match fields.iter().find(|field| usual.as_ref().and_then(|usual| usual.get(**field)) != spec.get(**field))
    {
        None => Ok(()),
        Some(field) => Err(ApiError::forbidden(format!("{field}: only a platform admin may choose it"))),
    }
}

/// A body that describes much and has one fault is refused before the writer has made the rest: what it refers to exists, what it
/// names is free. The transaction looks again, and at everything else.
///
/// `brand`: whose subscriptions are meant.
async fn refers_to_what_is_there(
    world: &mut dyn World,
    creation: &Creation,
    brand: &str,
) -> Result<(), ApiError> {
    let own: BTreeSet<&str> = creation.resources.iter().map(|new| new.id.as_str()).collect();
    let makes_tenant = creation.resources.first().is_some_and(|new| new.kind == Kind::Tenant);
    let mut seen = BTreeSet::new();
    let mut names = BTreeSet::new();
    for new in &creation.resources {
        let index = new.clone().into_resource(None, 0, 0).index();
        for found in index.refs {
            if found.to.is_empty()
                || own.contains(found.to.as_str())
                || !seen.insert((found.kind, found.to.clone()))
            {
                continue;
            }
            let wrong = |problem: &str| {
                Err(ApiError::invalid(found.relation, format!("{} {:?} {problem}", found.kind, found.to)))
            };
            let there = if found.kind == Kind::Subscription {
                hosting_planner::subscription(world, brand, &found.to).await?
            } else {
                world.resource(&found.to).await?.filter(|resource| resource.kind == found.kind)
            };
            match there {
                None => {
                    let problem = format!("there is no {} {:?}", found.kind, found.to);
                    return Err(ApiError::invalid(found.relation, problem));
                }
                Some(resource) if resource.status == Status::Deleting => return wrong("is being deleted"),
                // What is made now has nothing yet that could be referred to.
                Some(resource) if makes_tenant && resource.tenant.is_some() => {
                    return wrong("belongs to another tenant");
                }
                Some(_) => {}
            }
        }
        for unique in index.uniques {
            let taken = !names.insert((new.kind, unique.scope.clone(), unique.key.clone()))
                || world.holder(new.kind, &unique.scope, &unique.key).await?.is_some();
            if taken {
                return Err(ApplyError::Taken { kind: new.kind, field: unique.field, key: unique.key }.into());
            }
        }
    }
    Ok(())
}
