//! Bodies of certificates of public authorities.

use schemars::JsonSchema;
use serde::Serialize;

/// When the last of many new names could be ordered for. What replaces a certificate waits for nobody, and is not counted.
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
