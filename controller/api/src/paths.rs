//! Paths of resources: how what is named by kind and id is spelt as a request.

use hosting_resource::Kind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::ApiError;

/// Where all routes lie.
pub const BASE: &str = "/api/v1";

/// An id as it stands in paths.
fn percent_encoded(id: &str) -> String {
    const PLAIN: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    utf8_percent_encode(id, PLAIN).to_string()
}

/// The path of a resource.
pub(crate) fn item_path(kind: Kind, id: &str) -> String {
    format!("{BASE}{}", kind.info().item.replace("{id}", &percent_encoded(id)))
}

/// The kind of a name.
pub(crate) fn kind_of(name: &str) -> Result<Kind, ApiError> {
    Kind::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        ApiError::invalid("kind", format!("must be one of {}", names.join(", ")))
    })
}

/// The path of a kind's collection in what it lies in. `field`: where the caller says that.
pub(crate) fn collection_path(kind: Kind, parent: Option<&str>, field: &str) -> Result<String, ApiError> {
    let collection = kind.info().collection;
    match (kind.info().parent, parent) {
        (Some(of), Some(parent)) => {
            let path = collection.replace(&format!("{{{}}}", of.param), &percent_encoded(parent));
            Ok(format!("{BASE}{path}"))
        }
        (Some(of), None) => {
            Err(ApiError::invalid(field, format!("is required: the id of the {} that it lies in", of.kind)))
        }
        (None, Some(_)) => {
            Err(ApiError::invalid(field, "has no meaning here: it lies in nothing; leave it out"))
        }
        (None, None) => Ok(format!("{BASE}{collection}")),
    }
}

/// The path of a list: of what lies in `parent`, or of what refers to it when `parent_kind` is another one.
pub(crate) fn list_path(kind: Kind, parent_kind: &str, parent: Option<&str>) -> Result<String, ApiError> {
    let own = kind.info().parent.map(|parent| parent.kind.name());
    if parent_kind.is_empty() || own == Some(parent_kind) {
        return collection_path(kind, parent, "parent_id");
    }
    let list = kind.info().lists.iter().find(|list| list.kind.name() == parent_kind);
    let list = list.ok_or_else(|| {
        let others = kind.info().lists.iter().map(|list| list.kind.name());
        let known: Vec<&str> = own.into_iter().chain(others).collect();
        let known = if known.is_empty() { "empty".to_owned() } else { known.join(" or ") };
        ApiError::invalid("parent_kind", format!("must be {known}"))
    })?;
    let parent = parent.ok_or_else(|| ApiError::invalid("parent_id", "is required with parent_kind"))?;
    Ok(format!("{BASE}{}", list.path.replace(&format!("{{{}}}", list.param), &percent_encoded(parent))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_paths_and_ids_cannot_leave_them() {
        for kind in Kind::ALL.iter().copied() {
            let parent = kind.info().parent.map(|_| "p/../x?y#z");
            let path = collection_path(kind, parent, "parent").unwrap();
            assert!(!path.contains(['{', '?', '#']) && !path.contains("/../"), "{path}");
            assert_eq!(list_path(kind, "", parent).unwrap(), path);
            assert!(item_path(kind, "a/b").ends_with("/a%2Fb"));
            let wrong = collection_path(kind, if parent.is_some() { None } else { Some("p") }, "parent");
            assert_eq!(wrong.unwrap_err().more["field"], "parent");
            for list in kind.info().lists {
                assert!(list_path(kind, list.kind.name(), Some("a b")).unwrap().contains("/a%20b/"));
                assert!(list_path(kind, list.kind.name(), None).is_err());
            }
            assert!(list_path(kind, "frob", Some("p")).is_err());
            assert_eq!(kind_of(kind.name()).unwrap(), kind);
        }
        assert_eq!(kind_of("frob").unwrap_err().more["field"], "kind");
    }
}
