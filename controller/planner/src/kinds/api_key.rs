//! A key to the API. It is on no machine, and its row outlives it: audit rows name it.

use hosting_resource::kinds::api_key;
pub(crate) use hosting_resource::kinds::api_key::ApiKey;
use hosting_resource::{Creation, Document, Entropy};
use subtle::ConstantTimeEq;

use super::{Deletion, Doc, Facts, Planned};
use crate::{Draft, PlanError, World};

impl Planned for ApiKey {
    const FACTS: Facts = Facts { deletion: Deletion::Revoked, ..Facts::PLAIN };

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
    /// `resource:action`; `*` in either place stands for all.
    pub scopes: Vec<String>,
    /// Brand ids, or `*`.
    pub brands: Vec<String>,
}

/// Who a key stands for; `None`: nobody, or nobody any more.
///
/// # Errors
/// When the store cannot be read, or the key's document not be understood.
pub async fn key_holder(world: &mut dyn World, key: &str) -> Result<Option<KeyHolder>, PlanError> {
    if !api_key::is_key(key) {
        return Ok(None);
    }
    let hash = api_key::key_hash(key);
    let Some(found) = world.holder(ApiKey::KIND, api_key::KEY_SCOPE, &hash).await? else { return Ok(None) };
    let is_void = ApiKey::KIND.def().is_void(&found);
    let key = Doc::<ApiKey>::read(found)?;
    let same: bool = key.spec.key_hash.as_bytes().ct_eq(hash.as_bytes()).into();
    let opens = same && !is_void;
    Ok(opens.then(|| KeyHolder { key_id: key.id.clone(), scopes: key.spec.scopes, brands: key.spec.brands }))
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
