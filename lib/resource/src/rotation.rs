//! What takes the place of a secret, while the one before goes on for a while.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{SpecError, Warning, check};

/// Longest time that what is replaced goes on, in seconds: 30 days.
const MAX_OVERLAP: u32 = 30 * 24 * 3600;
/// The same when nothing is said: a day.
const OVERLAP: u32 = 24 * 3600;

/// Body of a request that puts something new in the place of a key or secret.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Rotate {
    /// How long what is replaced still counts, in seconds: 0 to 2592000 (30 days), default 86400 (a day).
    #[serde(default)]
    #[schemars(range(max = 2_592_000))]
    pub overlap_seconds: Option<u32>,
}

impl Rotate {
    /// Until when what is replaced counts, by the body of a request, and what is ignored of that. `now` and the answer are in
    /// milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// A body that is none, or a time out of its range.
    pub(crate) fn until(body: &Map<String, Value>, now: i64) -> Result<(i64, Vec<Warning>), SpecError> {
        let parsed = crate::input::parse::<Self>(body)?;
        let overlap = parsed.value.overlap_seconds.unwrap_or(OVERLAP);
        check::between("overlap_seconds", overlap, 0, MAX_OVERLAP)?;
        let warnings = parsed.unknown.iter().map(|path| Warning::unknown_field(path)).collect();
        Ok((now.saturating_add(i64::from(overlap) * 1_000), warnings))
    }
}
