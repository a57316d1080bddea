//! A key to the API. It is on no machine, and its row outlives it: audit rows name it.

use std::net::IpAddr;

use async_trait::async_trait;
pub(crate) use hosting_resource::kinds::api_key::ApiKey;
use hosting_resource::kinds::api_key::{self, ApiKeySpec};
use hosting_resource::roles::built_in;
use hosting_resource::{Creation, Document, Entropy, Id};
use subtle::{Choice, ConstantTimeEq};

use super::role::{Role, with_roles};
use super::{Deletion, Doc, Facts, Planned, Undo};
use crate::overlay::Overlay;
use crate::{Draft, PlanError, World, read};

#[async_trait]
impl Planned for ApiKey {
    const FACTS: Facts = Facts { deletion: Deletion::Revoked, undo: Undo::Never, ..Facts::PLAIN };

    async fn check(
        key: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let had = |role: &String| before.is_some_and(|before| before.spec.roles.contains(role));
        for role in key.spec.roles.iter().filter(|role| built_in(role).is_none() && !had(role)) {
            read::live::<Role>(draft, "roles", &Id::from(role.as_str())).await?;
        }
        Ok(())
    }

    fn revoke(key: &mut Doc<Self>, now: i64) -> bool {
        let revokes = key.state.revoked_at.is_none();
        if revokes {
            key.state.revoked_at = Some(now);
        }
        revokes
    }
}

/// Who calls with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHolder {
    /// Id of the key's resource.
    pub key_id: String,
    /// `resource:action`, those of its roles too; `*` in either place stands for all.
    pub scopes: Vec<String>,
    /// Brand ids, or `*`.
    pub brands: Vec<String>,
    /// It opened nothing from then on, in milliseconds since the Unix epoch; `None` while it opens.
    pub ended: Option<i64>,
    /// Whether it opens from where the caller is.
    pub is_place_allowed: bool,
}

/// Who a key stands for; `None`: nobody, or nobody any more. `now` is in milliseconds since the Unix epoch; `from` is where the caller is,
/// if that is known: a key that is kept to networks opens from nowhere else.
///
/// # Errors
/// When the store cannot be read, or the key's document not be understood.
pub async fn key_holder(
    world: &mut dyn World,
    key: &str,
    now: i64,
    from: Option<IpAddr>,
) -> Result<Option<KeyHolder>, PlanError> {
    if !api_key::is_key(key) {
        return Ok(None);
    }
    let hash = api_key::key_hash(key);
    let Some(found) = world.holder(ApiKey::KIND, api_key::KEY_SCOPE, &hash).await? else { return Ok(None) };
    let is_void = ApiKey::KIND.def().is_void(&found);
    let key = Doc::<ApiKey>::read(found)?;
    let before = key.spec.rotated_out.iter().map(|former| &former.key_hash);
    let hashes = std::iter::once(&key.spec.key_hash).chain(before);
    let same = hashes.fold(Choice::from(0), |same, known| same | known.as_bytes().ct_eq(hash.as_bytes()));
    let same: bool = same.into();
    if !same || is_void {
        return Ok(None);
    }
    let ended = key.spec.ends(&hash).filter(|end| *end <= now);
    let is_place_allowed = match from {
        Some(address) => key.spec.opens_from(address),
        None => key.spec.allowed_networks.is_empty(),
    };
    let key_id = key.id.clone();
    let ApiKeySpec { scopes, roles, brands, .. } = key.spec;
    let scopes = with_roles(world, scopes, &roles).await?;
    Ok(Some(KeyHolder { key_id, scopes, brands, ended, is_place_allowed }))
}

/// Makes sure that a key which the operator brings opens everything. One that is there stays as it is, revoked ones too.
///
/// # Errors
/// A text that cannot be a key; see [`crate::create`].
pub async fn admit_key(
    draft: &mut dyn Draft,
    name: &str,
    key: &str,
    entropy: Entropy<'_>,
) -> Result<(), PlanError> {
    if draft.holder(ApiKey::KIND, api_key::KEY_SCOPE, &api_key::key_hash(key)).await?.is_some() {
        return Ok(());
    }
    let new = api_key::from_raw(name, key, vec!["*:*".to_owned()], vec!["*".to_owned()], entropy)?;
    crate::create(draft, Creation { resources: vec![new], ..Creation::default() }).await?;
    Ok(())
}
