//! Bodies of certificates of public authorities.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of POST /certificate-authorities/{id}/reissue.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct ReissueBody {
    /// The authority that is asked. Absent: whoever is next, by priority.
    pub(crate) to_authority_id: Option<String>,
    /// So many names at most, from 1 to 100000. Absent: as many as may be.
    #[schemars(range(min = 1, max = 100_000))]
    pub(crate) names: Option<u64>,
}

/// When the last of many names could be ordered for: new ones, or those whose certificates of another authority are replaced. What replaces a
/// certificate of the same authority waits for nobody, and is not counted.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ForecastView {
    pub(crate) names: u64,
    /// The account whose allowance it is.
    pub(crate) account: String,
    /// Where names share orders as far as they may.
    pub(crate) orders_at_least: u64,
    /// Where each name has an order of its own, as names of different sites have.
    pub(crate) orders_at_most: u64,
    /// RFC 3339. When the last of the fewest orders is made.
    pub(crate) done_at_best: String,
    /// RFC 3339. When the last of the most orders is made.
    pub(crate) done_at_worst: String,
}
