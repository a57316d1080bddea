//! What can be worked out of a change before it is its turn to write: bodies are checked here, so that what is refused for itself
//! never reaches the store's one writer.

use std::collections::BTreeSet;

use axum::http::Method;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_planner::{ApplyError, World};
use hosting_resource::{Creation, Kind, ListBy, OwnerRef, Owns, Resource, Status, Update};
use hosting_store::Store;
use serde_json::{Map, Value};

use crate::merge_patch;
use crate::route::Op;
use crate::service::Call;
use crate::{ApiError, Principal};

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

impl Prepared {
    /// Refuses a URL that the platform is to call and that the operator's rules do not let it call. One that stays as it is is not looked at.
    pub(crate) fn may_call(&self, rules: &CallbackRules) -> Result<(), ApiError> {
        let calls = |kind: Kind, spec: &Map<String, Value>| kind.def().calls(spec);
        let (before, new) = match self {
            Self::Nothing => return Ok(()),
            Self::Creation { creation, .. } => {
                (None, creation.resources.iter().find_map(|new| calls(new.kind, &new.spec)))
            }
            Self::Update { current, update } => {
                (calls(current.kind, &current.spec), calls(current.kind, &update.spec))
            }
        };
        match new.filter(|url| before.as_ref() != Some(url)).map(|url| rules.check(&url)) {
            Some(Err(why)) => Err(ApiError::invalid("url", why)),
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

pub(crate) fn entropy(buffer: &mut [u8]) {
    rand::fill(buffer);
}

impl Call {
    /// Checks the body against what is stored now.
    pub(crate) async fn prepare(&self, store: &Store) -> Result<Prepared, ApiError> {
        match self.route.op {
            Op::Create(kind) | Op::CreateBy(kind, _) => {
                self.hash_passwords(None).await?;
                let parent = self.parent(&mut store.read().await?, kind).await?;
                let creation = self.creation(kind, parent.as_ref())?;
                if let Some(main) = creation.resources.first() {
                    self.may_grant(&mut store.read().await?, kind, &main.spec).await?;
                }
                self.may_create(&mut store.read().await?, &creation, parent.as_ref()).await?;
                if creation.resources.len() > 1 {
                    let own = creation.resources.first().and_then(|main| main.spec.get("brand_id")?.as_str());
                    let brand = parent.as_ref().and_then(|parent| parent.brand.as_deref()).or(own);
                    let brand = brand.unwrap_or_default();
                    let caller = &self.principal;
                    refers_to_what_is_there(&mut store.read().await?, &creation, brand, caller).await?;
                }
                Ok(Prepared::Creation { parent: parent.map(Box::new), creation })
            }
            Op::Update(kind) => {
                let current = self.current(&mut store.read().await?, kind).await?;
                self.hash_passwords(Some(&current)).await?;
                let update = self.checked_update(kind, &current)?;
                self.may_grant(&mut store.read().await?, kind, &update.spec).await?;
                self.may_give_to(&mut store.read().await?, update.owner.as_ref()).await?;
                Ok(Prepared::Update { current: Box::new(current), update: Box::new(update) })
            }
            Op::List(_)
            | Op::ListBy(..)
            | Op::Get(_)
            | Op::Receipt(_)
            | Op::Delete(_)
            | Op::Retry(_)
            | Op::Undelete(_)
            | Op::History(_)
            | Op::Ask(_)
            | Op::Act(_)
            | Op::Bulk
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
        let body = match &referring {
            Some(body) => body,
            None => self.written()?,
        };
        let creation = kind.def().create(parent, body, &mut entropy)?;
        if let Some(main) = creation.resources.first().filter(|_| !self.principal.is_admin()) {
            may_choose(kind, &main.spec)?;
        }
        Ok(creation)
    }

    /// The body, with the reference that the path is.
    fn referring(&self, by: ListBy) -> Result<Map<String, Value>, ApiError> {
        let mut body = self.written()?.clone();
        match body.insert(by.relation.to_owned(), self.id.clone().into()) {
            None | Some(Value::Null) => Ok(body),
            Some(given) if given == "" || given == self.id.as_str() => Ok(body),
            Some(_) => Err(ApiError::invalid(by.relation, "is not the one in the path; leave it out")),
        }
    }

    /// What the body changes.
    pub(crate) fn checked_update(&self, kind: Kind, current: &Resource) -> Result<Update, ApiError> {
        let update = if self.route.method == Method::PATCH {
            merge_patch::update(kind.def(), current, self.written()?)?
        } else {
            kind.def().update(current, self.written()?)?
        };
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

    /// Refuses to make what would belong to somebody else, before anything is told about whom.
    pub(crate) async fn may_create(
        &self,
        world: &mut dyn World,
        creation: &Creation,
        parent: Option<&Resource>,
    ) -> Result<(), ApiError> {
        let Some(main) = creation.resources.first().filter(|_| !self.principal.is_admin()) else {
            return Ok(());
        };
        if main.kind.info().owns == Owns::Brand {
            // A key that is no platform admin's may create a brand only under an id that the key already names.
            return self.principal.may_use_brand(Some(&main.id));
        }
        // That of what lies in something was looked at with the path.
        let is_parent = |owner: &OwnerRef| parent.is_some_and(|parent| parent.id == owner.id);
        self.may_give_to(world, main.owner.as_ref().filter(|owner| !is_parent(owner))).await
    }

    /// Refuses to give something to somebody whom the caller may not touch.
    pub(crate) async fn may_give_to(
        &self,
        world: &mut dyn World,
        owner: Option<&OwnerRef>,
    ) -> Result<(), ApiError> {
        let Some(owner) = owner.filter(|_| !self.principal.is_admin()) else { return Ok(()) };
        if owner.kind.info().owns == Owns::Brand {
            // Whether there is such a brand is nothing to those who may not use it.
            return self.principal.may_use_brand(Some(&owner.id));
        }
        let Some(found) = world.resource(&owner.id).await? else { return Ok(()) };
        // As what is not there is refused: whether it is, is nothing to those who may not touch it.
        let absent = |_| ApiError::invalid(owner.field, format!("there is no {} {:?}", owner.kind, owner.id));
        self.principal.may_touch(&found).map_err(absent)
    }

    /// Refuses what a body refers to and the caller may not touch in the words for what is not there. Not for platform admins, who may touch
    /// everything.
    pub(crate) async fn may_refer(
        &self,
        world: &mut dyn World,
        made: &[Resource],
        before: Option<&Resource>,
    ) -> Result<(), ApiError> {
        let stood: BTreeSet<String> =
            before.into_iter().flat_map(|before| before.index().refs).map(|found| found.to).collect();
        let mut seen: BTreeSet<String> = made.iter().map(|new| new.id.clone()).collect();
        for found in made.iter().flat_map(|new| new.index().refs) {
            let is_known = stood.contains(&found.to) || !seen.insert(found.to.clone());
            // Whose it is to be was looked at before.
            if found.to.is_empty() || is_known || found.kind.info().owns == Owns::Brand {
                continue;
            }
            let Some(resource) = world.resource(&found.to).await? else { continue };
            // What is the platform's is everybody's to live in.
            if resource.brand.is_some() && self.principal.may_touch(&resource).is_err() {
                let problem = format!("there is no {} {:?}", found.kind, found.to);
                return Err(ApiError::invalid(found.relation, problem));
            }
        }
        Ok(())
    }

    /// What is made or changed may open no more than the caller may.
    pub(crate) async fn may_grant(
        &self,
        world: &mut dyn World,
        kind: Kind,
        spec: &Map<String, Value>,
    ) -> Result<(), ApiError> {
        let Some(mut grants) = kind.def().grants(spec) else { return Ok(()) };
        grants.scopes = hosting_planner::with_roles(world, grants.scopes, &grants.roles).await?;
        self.principal.may_grant(&grants)
    }
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
/// `brand`: whose ids are meant, of kinds whose ids are a brand's.
async fn refers_to_what_is_there(
    world: &mut dyn World,
    creation: &Creation,
    brand: &str,
    caller: &Principal,
) -> Result<(), ApiError> {
    let own: BTreeSet<&str> = creation.resources.iter().map(|new| new.id.as_str()).collect();
    let makes_tenant = creation.resources.first().is_some_and(|new| new.kind.info().owns == Owns::Tenant);
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
            let resource = hosting_planner::called(world, found.kind, brand, &found.to).await?;
            // What is another brand's is not there for the caller.
            let resource = resource.filter(|found| found.brand.is_none() || caller.may_touch(found).is_ok());
            match resource {
                None => {
                    let problem = format!("there is no {} {:?}", found.kind, found.to);
                    return Err(ApiError::invalid(found.relation, problem));
                }
                Some(resource) if resource.status == Status::Deleted => return wrong("is deleted"),
                Some(resource) if resource.status == Status::Deleting => return wrong("is being deleted"),
                // What is made now has nothing yet that could be referred to.
                Some(resource) if makes_tenant && resource.tenant.is_some() => {
                    return wrong("belongs to another tenant");
                }
                Some(_) => {}
            }
        }
        for unique in index.uniques {
            // Who may have the name of what is deleted and kept is decided in the transaction.
            let holder = world.holder(new.kind, &unique.scope, &unique.key).await?;
            let taken = !names.insert((new.kind, unique.scope.clone(), unique.key.clone()))
                || holder.is_some_and(|holder| holder.status != Status::Deleted);
            if taken {
                return Err(ApplyError::Taken { kind: new.kind, field: unique.field, key: unique.key }.into());
            }
        }
    }
    Ok(())
}
