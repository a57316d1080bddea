//! A key to the API. It is on no machine, and its row outlives it: audit rows name it.

pub(crate) use hosting_resource::kinds::api_key::ApiKey;

use super::{Deletion, Doc, Facts, Planned};

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
