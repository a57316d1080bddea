//! Where a mutation comes from.

use crate::lease::Lease;

/// A traceparent (W3C Trace Context) has 55 bytes; later versions may be longer.
const TRACEPARENT_BYTES: usize = 128;

/// Where a mutation comes from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// W3C traceparent of the request; empty when there is none. One that is longer than 128 bytes, or has anything but letters,
    /// digits and dashes, is dropped.
    pub traceparent: String,
    /// Who asked, e.g. the API key's id; `None` for the controller itself.
    pub actor: Option<String>,
    /// Whether that is a platform admin, who may have what others may not.
    pub admin: bool,
    /// What the caller may do this by. Without that the mutation is not begun: [`StoreError::LostLease`].
    pub lease: Option<Lease>,
}

/// It comes from a header and goes into the log, to every subscriber and into resources: nothing that is wrong with one may be
/// more than a lost trace.
pub(crate) fn harmless_traceparent(text: String) -> String {
    let harmless =
        text.len() <= TRACEPARENT_BYTES && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if harmless { text } else { String::new() }
}
