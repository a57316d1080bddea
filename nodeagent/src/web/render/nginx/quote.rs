//! Texts as nginx reads them from a configuration file.

use hosting_agent_engine::Place;

use super::super::{BadValue, plain_path};
use crate::web::layout::Layout;

/// One word in double quotes. Inside of them nginx takes a backslash before a quote or a backslash away; a dollar sign
/// begins a variable, which nothing escapes.
pub(super) fn quote(what: &str, value: &str) -> Result<String, BadValue> {
    if let Some(odd) = value.chars().find(|c| c.is_control() || *c == '$') {
        return Err(BadValue::new(what, format!("{value:?} holds {odd:?}, which nginx cannot be given")));
    }
    Ok(format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// A path as one word.
pub(super) fn path(what: &str, layout: &Layout, at: &Place) -> Result<String, BadValue> {
    prefixed("", what, layout, at)
}

/// A word of a prefix and a path: quotes count at the beginning of a word only.
pub(super) fn prefixed(prefix: &str, what: &str, layout: &Layout, at: &Place) -> Result<String, BadValue> {
    let text = layout.roots.text(at);
    quote(what, &format!("{prefix}{}", plain_path(what, &text)?))
}
