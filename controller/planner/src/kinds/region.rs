//! A place with clusters in it. It is on no machine.

pub(crate) use hosting_resource::kinds::region::Region;

use super::Planned;

impl Planned for Region {}
