//! What a caller means by an id: the resource, if it is there and the caller's.

use hosting_planner::World;
use hosting_resource::{IdPolicy, Kind, Resource, Tier, in_brand};

use crate::ApiError;
use crate::service::{Call, find, not_found};

impl Call {
    /// A resource named in the path that the caller may touch. That one is there which belongs to others is told of paths alone, whose clients
    /// rely on it: what an item of a bulk names is not found then.
    pub(crate) async fn subject(&self, world: &mut dyn World, kind: Kind) -> Result<Resource, ApiError> {
        let resource = self.named(world, kind, &self.id).await?;
        if kind.info().tier == Tier::Brand {
            let touched = self.principal.may_touch(&resource);
            touched.map_err(|refused| if self.is_item { not_found(kind) } else { refused })?;
        }
        self.is_shown(&resource)?;
        Ok(resource)
    }

    /// What the caller means by an id.
    pub(crate) async fn named(
        &self,
        world: &mut dyn World,
        kind: Kind,
        id: &str,
    ) -> Result<Resource, ApiError> {
        if kind.info().id == IdPolicy::Caller {
            self.called(world, kind, id).await
        } else {
            find(world, kind, id).await
        }
    }

    /// What the caller's brand calls `id`, of a kind whose ids are a brand's; a caller of several brands may write `brand~id`.
    async fn called(&self, world: &mut dyn World, kind: Kind, id: &str) -> Result<Resource, ApiError> {
        let mut found = Vec::new();
        for brand in &self.principal.brands {
            found.extend(world.resource(&in_brand(brand, id)).await?);
        }
        if found.is_empty() {
            found = world.with_facet(kind, "id", id, "", 2).await?;
        }
        // Written with its brand, though an older build kept it under its id alone.
        if let Some((brand, own)) = id.split_once('~')
            && let Some(plain) = world.resource(own).await?
            && plain.brand.as_deref() == Some(brand)
        {
            found.push(plain);
        }
        // Written with its brand, or kept by an older build under this id alone.
        if let Some(whole) = world.resource(id).await?
            && found.iter().all(|other| other.id != whole.id && other.brand != whole.brand)
        {
            found.push(whole);
        }
        found.retain(|found| found.kind == kind);
        if found.len() > 1 {
            match found.iter().any(|one| self.principal.may_touch(one).is_ok()) {
                true => found.retain(|one| self.principal.may_touch(one).is_ok()),
                // How many of others there are, and whose, is nothing to the caller.
                false => found.truncate(1),
            }
        }
        if let [one, _, ..] = &found[..] {
            return Err(ApiError::conflict(format!(
                "several brands have a {kind} {id:?}: write the brand in front, e.g. {}",
                in_brand(one.brand.as_deref().unwrap_or_default(), id)
            )));
        }
        found.pop().ok_or_else(|| not_found(kind))
    }
}
