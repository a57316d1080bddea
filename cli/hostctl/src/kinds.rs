//! The kinds of resources as people write and read them: names, paths, labels.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use hosting_resource::{Kind, KindInfo};
use serde_json::Value;

pub(crate) use crate::format::name;
use crate::{address::encode, output::usage};

/// Fields that a person would call a resource by, where its kind has them.
pub(crate) const LABELS: [&str; 5] = ["name", "hostname", "fqdn", "address", "customer_id"];

/// By name as people write it: `zone-records`, `zone_record`, `zonerecord`.
pub(crate) fn kind(name: &str) -> Result<&'static KindInfo, String> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let wanted = plain(name);
    Kind::ALL
        .iter()
        .map(|kind| kind.info())
        .find(|info| plain(info.plural()) == wanted || plain(&info.dashed()) == wanted)
        .ok_or_else(|| format!("there is no kind {name:?}; there are {}", plurals(|_| true)))
}

/// The two parts of a name as [`name`] writes it.
pub(crate) fn split_name(text: &str) -> Option<(&'static KindInfo, &str)> {
    let (noun, id) = text.split_once('/')?;
    kind(noun).ok().filter(|_| !id.is_empty()).map(|info| (info, id))
}

/// The id in `NOUN/ID`, for a command that takes things of one noun; any other text is an id already.
pub(crate) fn id_in<'t>(noun: &str, text: &'t str) -> &'t str {
    match text.split_once('/') {
        Some((before, id)) if before == noun && !id.is_empty() => id,
        Some(_) | None => text,
    }
}

/// The kinds for which it is so, as a list for a message.
pub(crate) fn plurals(is_so: impl Fn(&KindInfo) -> bool) -> String {
    let all: Vec<&str> = Kind::ALL
        .iter()
        .map(|kind| kind.info())
        .filter(|info| is_so(info))
        .map(|info| info.plural())
        .collect();
    all.join(", ")
}

/// A kind on the command line. Completion and help list the kinds.
#[derive(Clone)]
pub(crate) struct KindParser;

impl TypedValueParser for KindParser {
    type Value = &'static KindInfo;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        kind(&value.to_string_lossy()).map_err(|problem| {
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{problem}\n")).with_cmd(command)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Kind::ALL.iter().map(|kind| PossibleValue::new(kind.info().plural()))))
    }
}

/// A kind on the command line, perhaps with the id of one resource behind a slash.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub info: &'static KindInfo,
    pub id: Option<String>,
}

/// Reads a kind or a name. Completion and help list the kinds.
#[derive(Clone)]
pub(crate) struct NamedParser;

impl TypedValueParser for NamedParser {
    type Value = Named;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        if let Some((info, id)) = value.to_str().and_then(split_name) {
            return Ok(Named { info, id: Some(id.to_owned()) });
        }
        KindParser.parse_ref(command, arg, value).map(|info| Named { info, id: None })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        KindParser.possible_values()
    }
}

/// The kind that `info`'s resources lie in, when their list is below one of it.
pub(crate) fn parent_of(info: &KindInfo) -> Option<&'static KindInfo> {
    info.parent.filter(|owner| info.collection.contains(owner.param)).map(|owner| owner.kind.info())
}

/// The collection's path, with the parent's id in it.
pub(crate) fn collection(info: &KindInfo, parent: Option<&str>) -> anyhow::Result<String> {
    let Some(owner) = info.parent.filter(|owner| info.collection.contains(owner.param)) else {
        return Ok(info.collection.to_owned());
    };
    let id = parent.ok_or_else(|| {
        let (plural, owner) = (info.plural(), owner.kind.info());
        usage(format!(
            "{plural} lie in a {}: name it with --in (`hostctl get {}` lists them)",
            owner.dashed(),
            owner.plural()
        ))
    })?;
    Ok(info.collection.replace(&format!("{{{}}}", owner.param), &encode(id)))
}

pub(crate) fn item(info: &KindInfo, id: &str) -> String {
    info.item.replace("{id}", &encode(id))
}

/// What a person would call it.
pub(crate) fn label_of(item: &Value) -> Option<&str> {
    LABELS.iter().find_map(|field| item[*field].as_str())
}

/// The query parameters that lists of the kind can be filtered by, beside status and search.
pub(crate) fn filters(info: &KindInfo) -> Vec<&'static str> {
    info.filters.iter().map(|filter| filter.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_every_spelling() {
        for name in ["zone-records", "zone_record", "zonerecord", "Zone-Record"] {
            assert_eq!(kind(name).unwrap().kind, Kind::ZoneRecord);
        }
        assert!(kind("zonk").unwrap_err().contains("fqdns"));
    }

    #[test]
    fn names_are_taken_apart_as_they_are_made() {
        let text = name("zone-record", "4ac6/x");
        let (info, id) = split_name(&text).unwrap();
        assert_eq!((info.kind, id), (Kind::ZoneRecord, "4ac6/x"));
        assert!(split_name("bakery.test").is_none() && split_name("zonk/a").is_none());
        assert_eq!(
            (id_in("job", "job/job_1"), id_in("job", "job_1"), id_in("job", "zone/1")),
            ("job_1", "job_1", "zone/1")
        );
    }

    #[test]
    fn a_nested_collection_needs_its_parent() {
        let info = kind("fqdn").unwrap();
        assert_eq!(collection(info, Some("t_a/b")).unwrap(), "/tenants/t_a%2Fb/fqdns");
        assert!(collection(info, None).unwrap_err().to_string().contains("--in"));
        assert_eq!(collection(kind("brands").unwrap(), None).unwrap(), "/brands");
        assert_eq!(item(info, "x"), "/fqdns/x");
    }
}
