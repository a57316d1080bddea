//! What is read of the platform: each list and name once.
//!
//! At most the resources of one kind in one place are read at a time, page by page; those of all places that files name are kept
//! until the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use hosting_resource::{Kind, KindInfo, Resource};
use serde_json::Value;

use super::normal::resource_of;
use crate::{
    api::{Api, ApiError, encode},
    kinds::{LABELS, collection, filters, item, parent_of},
    resources::names,
};

/// Items of one kind in one place that are looked up one by one; for more the whole list is read.
const ONE_BY_ONE: usize = 8;

/// What was read.
pub(super) struct World<'a> {
    pub(super) api: &'a Api,
    lists: BTreeMap<String, Rc<Vec<Value>>>,
    ones: BTreeMap<(Kind, String), Option<Rc<Value>>>,
    names: BTreeMap<(Kind, String, Option<String>), String>,
}

impl<'a> World<'a> {
    pub(super) fn new(api: &'a Api) -> Self {
        Self { api, lists: BTreeMap::new(), ones: BTreeMap::new(), names: BTreeMap::new() }
    }

    pub(super) async fn list(&mut self, path: &str) -> Result<Rc<Vec<Value>>, ApiError> {
        if let Some(known) = self.lists.get(path) {
            return Ok(Rc::clone(known));
        }
        let list = Rc::new(self.api.list(path).await?);
        self.lists.insert(path.to_owned(), Rc::clone(&list));
        Ok(list)
    }

    /// One resource; `None` when it is not there.
    pub(super) async fn one(&mut self, info: &KindInfo, id: &str) -> Result<Option<Rc<Value>>, ApiError> {
        let key = (info.kind, id.to_owned());
        if let Some(known) = self.ones.get(&key) {
            return Ok(known.clone());
        }
        let found = match self.api.get(&item(info, id)).await {
            Ok(view) => Some(Rc::new(view)),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        self.ones.insert(key, found.clone());
        Ok(found)
    }

    /// One resource as its kind's rules see it.
    pub(super) async fn resource(&mut self, info: &KindInfo, id: &str) -> Result<Option<Resource>, ApiError> {
        let view = self.one(info, id).await?;
        Ok(view.and_then(|view| view.as_object().map(|view| resource_of(info, view))))
    }

    /// The id of what a name means.
    pub(super) async fn id_of(
        &mut self,
        info: &'static KindInfo,
        given: &str,
        within: Option<&str>,
    ) -> anyhow::Result<String> {
        let key = (info.kind, given.to_owned(), within.map(str::to_owned));
        if let Some(known) = self.names.get(&key) {
            return Ok(known.clone());
        }
        let id = names::id_of(self.api, info, given, within).await?;
        self.names.insert(key, id.clone());
        Ok(id)
    }

    /// The resources of a kind in one place that may be meant by names: those names alone where they are few, else all.
    ///
    /// `place` is the id of the parent, or a field with the id of the owner where the kind lies in nothing. `texts` are the names as they
    /// are written; `None` asks for all.
    pub(super) async fn candidates(
        &mut self,
        info: &KindInfo,
        place: Option<(&str, &str)>,
        texts: Option<&[String]>,
    ) -> anyhow::Result<Vec<Value>> {
        let below = parent_of(info).is_some();
        let path = collection(info, place.filter(|_| below).map(|(_, id)| id))?;
        let asked_by = filters(info);
        let owner = place.filter(|(field, _)| !below && asked_by.contains(field));
        let owner = owner.map(|(field, id)| format!("{field}={}", encode(id)));
        let label = LABELS.iter().find(|label| asked_by.contains(label));
        let few = texts.filter(|texts| texts.len() <= ONE_BY_ONE || !below).zip(label);
        let Some((texts, label)) = few else {
            let query = owner.map(|owner| format!("?{owner}")).unwrap_or_default();
            return Ok(self.list(&format!("{path}{query}")).await?.to_vec());
        };
        let (mut found, mut known): (Vec<Value>, BTreeSet<String>) = (Vec::new(), BTreeSet::new());
        for text in texts {
            let query: Vec<String> =
                owner.iter().cloned().chain([format!("{label}={}", encode(text))]).collect();
            let list = self.list(&format!("{path}?{}", query.join("&"))).await?;
            let is_new = |one: &&Value| known.insert(one["id"].as_str().unwrap_or_default().to_owned());
            found.extend(list.iter().filter(is_new).cloned());
        }
        Ok(found)
    }
}
