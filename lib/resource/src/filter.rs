//! Filters of a kind's lists: query parameters whose values obey the rules of the field that they filter by.

use crate::{Resource, SpecError, check};

/// The normal form of a filter's value: the field to name in errors, what was asked for, the resource that the list lies in.
type Normal = fn(&'static str, &str, Option<&Resource>) -> Result<String, SpecError>;

/// What the store compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterBy {
    /// The facet of this name.
    Facet(&'static str),
    /// The facet of this name, which has the id that the store keeps a subscription under: callers know it by another one.
    Subscription(&'static str),
    /// The label.
    Label,
}

/// A query parameter of a kind's lists: only the resources whose field has the value.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    /// The parameter, spelt as the field.
    pub name: &'static str,
    /// What the store compares.
    pub by: FilterBy,
    normal: Normal,
}

impl Filter {
    /// By a facet.
    pub(crate) const fn facet(name: &'static str, normal: Normal) -> Self {
        Self { name, by: FilterBy::Facet(name), normal }
    }

    /// By the label.
    pub(crate) const fn label(name: &'static str, normal: Normal) -> Self {
        Self { name, by: FilterBy::Label, normal }
    }

    /// By a facet that holds the id of another resource.
    pub(crate) const fn id(name: &'static str) -> Self {
        Self::facet(name, |field, id, _| check::reference(field, id).map(|()| id.to_owned()))
    }

    /// By a facet that holds the id of a subscription.
    pub(crate) const fn subscription(name: &'static str) -> Self {
        let normal: Normal =
            |field, id, _| check::reference(field, crate::public_id(id)).map(|()| id.to_owned());
        Self { name, by: FilterBy::Subscription(name), normal }
    }

    /// The same parameter, compared with another facet.
    pub(crate) const fn in_facet(self, facet: &'static str) -> Self {
        Self { by: FilterBy::Facet(facet), ..self }
    }

    /// The value as the store has it. `parent` is the resource that the list lies in.
    ///
    /// # Errors
    /// A value that the field could never have.
    pub fn value(&self, given: &str, parent: Option<&Resource>) -> Result<String, SpecError> {
        (self.normal)(self.name, given, parent)
    }
}

/// A text as it is.
pub(crate) fn text(field: &'static str, given: &str, _: Option<&Resource>) -> Result<String, SpecError> {
    check::text(field, given, 255).map(|()| given.to_owned())
}

/// A slug.
pub(crate) fn slug(field: &'static str, given: &str, _: Option<&Resource>) -> Result<String, SpecError> {
    check::slug(field, given).map(|()| given.to_owned())
}

/// A fully qualified host name.
pub(crate) fn fqdn(field: &'static str, given: &str, _: Option<&Resource>) -> Result<String, SpecError> {
    check::fqdn(field, given)
}

/// A fully qualified host name, or a wildcard.
pub(crate) fn fqdn_or_wildcard(
    field: &'static str,
    given: &str,
    _: Option<&Resource>,
) -> Result<String, SpecError> {
    check::fqdn_or_wildcard(field, given)
}

/// A host name.
pub(crate) fn host(field: &'static str, given: &str, _: Option<&Resource>) -> Result<String, SpecError> {
    check::host(field, given)
}
