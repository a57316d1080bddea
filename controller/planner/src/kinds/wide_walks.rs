//! Walks over all of a kind that several kinds ask for, so that these kinds name no circle.

use hosting_resource::Kind;

use crate::unit::{Aspect, By, Pages};

/// All clusters' address sets.
pub(crate) const CLUSTERS: Pages =
    Pages { name: "clusters", over: Kind::Cluster, by: By::All, aspect: Aspect::Machines, is_wide: true };

/// All brands: what machines get of each, and of the name servers that it names.
pub(crate) const DNS_GROUPS: Pages =
    Pages { name: "dns_groups", over: Kind::Brand, by: By::All, aspect: Aspect::Machines, is_wide: true };
