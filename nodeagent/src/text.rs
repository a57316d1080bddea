//! Text of configuration files. Everything that goes into one passes through a quoting function here: what cannot be
//! quoted is refused with a reason, never escaped by hope.

use hosting_agent_engine::Secret;

/// A value that must not stand in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct BadValue {
    /// Which value.
    pub what: String,
    /// What is wrong with it.
    pub problem: String,
}

impl BadValue {
    pub(crate) fn new(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { what: what.into(), problem: problem.into() }
    }
}

/// Names of things: 1 to `most` of `A-Z a-z 0-9 _ - .`, not beginning with a dot.
pub(crate) fn word<'a>(what: &str, value: &'a str, most: usize) -> Result<&'a str, BadValue> {
    let fits = (1..=most).contains(&value.len())
        && !value.starts_with('.')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if fits {
        Ok(value)
    } else {
        Err(BadValue::new(what, format!("{value:?} must be 1 to {most} of A-Z a-z 0-9 _ - .")))
    }
}

/// Ids: as [`word`], without dots, which have a meaning in server names.
pub(crate) fn plain_id<'a>(what: &str, value: &'a str) -> Result<&'a str, BadValue> {
    let value = word(what, value, 64)?;
    if value.contains('.') {
        return Err(BadValue::new(what, format!("{value:?} must not hold a dot")));
    }
    Ok(value)
}

/// An absolute path that every configuration language used here has a spelling for.
///
/// # Errors
/// The first character that none has: a control character, or a dollar sign, which begins a variable and cannot be escaped.
pub fn plain_path<'a>(what: &str, path: &'a str) -> Result<&'a str, BadValue> {
    if !path.starts_with('/') {
        return Err(BadValue::new(what, format!("{path:?} must be an absolute path")));
    }
    match path.chars().find(|c| c.is_control() || *c == '$') {
        Some(odd) => Err(BadValue::new(
            what,
            format!(
                "{path:?} holds {odd:?}, which cannot be written in configuration files; choose another folder"
            ),
        )),
        None => Ok(path),
    }
}

/// A short mark of a text that may hold secrets: who does not have the key can try none of them out by it.
pub(crate) fn keyed(key: &Secret, text: &str) -> String {
    let key = blake3::derive_key("hosting node mark 1", key.0.as_bytes());
    blake3::keyed_hash(&key, text.as_bytes()).to_hex().chars().take(32).collect()
}

/// A short proof that a text is in force: it stands in the text itself, where the fingerprint of the rest goes.
pub(crate) fn fingerprint(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().chars().take(32).collect()
}
