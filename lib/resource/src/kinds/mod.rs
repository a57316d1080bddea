//! One file per kind. Adding a kind: its file, one line in [`TABLE`], its variant in [`Kind`].

pub mod api_key;
pub mod brand;
pub mod cluster;
pub mod fqdn;
pub mod lb_address;
pub mod node;
pub mod region;
pub mod shard;
pub mod subscription;
pub mod tenant;
pub mod webroot;
pub mod zone;
pub mod zone_record;

use std::marker::PhantomData;

use crate::definition::Erased;
use crate::{Kind, KindDef};

/// In the order of [`Kind::ALL`].
const TABLE: [&dyn KindDef; 13] = [
    &Erased::<brand::Brand>(PhantomData),
    &Erased::<region::Region>(PhantomData),
    &Erased::<cluster::Cluster>(PhantomData),
    &Erased::<lb_address::LbAddress>(PhantomData),
    &Erased::<shard::Shard>(PhantomData),
    &Erased::<node::Node>(PhantomData),
    &Erased::<tenant::Tenant>(PhantomData),
    &Erased::<subscription::Subscription>(PhantomData),
    &Erased::<webroot::Webroot>(PhantomData),
    &Erased::<fqdn::Fqdn>(PhantomData),
    &Erased::<zone::Zone>(PhantomData),
    &Erased::<zone_record::ZoneRecord>(PhantomData),
    &Erased::<api_key::ApiKey>(PhantomData),
];

/// The roles of nodes and shards.
pub const ROLES: &[&str] = hosting_intent::Role::NAMES;

fn role_filter(
    field: &'static str,
    given: &str,
    _: Option<&crate::Resource>,
) -> Result<String, crate::SpecError> {
    crate::check::one_of(field, given, ROLES).map(|()| given.to_owned())
}

/// The definition of a kind.
pub(crate) fn def(kind: Kind) -> &'static dyn KindDef {
    TABLE[kind as usize]
}

fn default_group() -> String {
    hosting_intent::DEFAULT_DNS_GROUP.to_owned()
}

#[cfg(test)]
pub(crate) mod tests;
