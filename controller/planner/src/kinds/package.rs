//! A named set of limits. It is on no machine.

pub(crate) use hosting_resource::kinds::package::Package;

use super::Planned;

impl Planned for Package {}
