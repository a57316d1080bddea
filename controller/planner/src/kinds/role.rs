//! A named set of scopes. It is on no machine.

pub(crate) use hosting_resource::kinds::role::Role;
use hosting_resource::kinds::role::RoleSpec;
use hosting_resource::roles::built_in;
use hosting_resource::{Document, Resource};

use super::{Facts, Planned, Undo};
use crate::{World, WorldError};

impl Planned for Role {
    const FACTS: Facts = Facts { undo: Undo::Never, ..Facts::PLAIN };
}

/// Adds the scopes of roles to others. A role that there is not gives nothing.
///
/// # Errors
/// When the store cannot be read.
pub async fn with_roles(
    world: &mut dyn World,
    mut scopes: Vec<String>,
    roles: &[String],
) -> Result<Vec<String>, WorldError> {
    let mut made = Vec::new();
    for role in roles {
        match built_in(role) {
            Some(built_in) => scopes.extend(built_in.iter().map(|scope| (*scope).to_owned())),
            None => made.push(role.clone()),
        }
    }
    if !made.is_empty() {
        let found = world.resources(&made).await?;
        let is_role = |one: &&Resource| one.kind == Role::KIND;
        let specs = found.iter().filter(is_role).filter_map(|role| role.typed::<RoleSpec>().ok());
        scopes.extend(specs.flat_map(|spec| spec.scopes));
    }
    Ok(scopes)
}
