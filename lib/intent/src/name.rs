//! DNS names as intents spell them: ASCII, lower case, no trailing dot, at most 253 bytes, labels of 1–63 (RFC 1035 §2.3.4).

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// More than 253 bytes.
    #[error("the name has {0} bytes; at most 253 are allowed")]
    TooLong(usize),
    /// An empty label: two dots in a row, or a dot at an end.
    #[error("the name has an empty label")]
    EmptyLabel,
    /// A label of more than 63 bytes.
    #[error("a label has {0} bytes; at most 63 are allowed")]
    LabelTooLong(usize),
    /// Something else than `a-z 0-9 - _`.
    #[error("the name has the character {0:?}; only a-z, 0-9, '-' and '_' are allowed")]
    Character(char),
    /// A label begins or ends with a hyphen.
    #[error("a label begins or ends with '-'")]
    Hyphen,
}

/// Checks a host name (no wildcard).
///
/// # Errors
/// The first rule that the name breaks.
pub fn check_host(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > 253 {
        return Err(NameError::TooLong(name.len()));
    }
    // Nearly every name is sound, and names are looked at by the million.
    if is_host(name.as_bytes()) { Ok(()) } else { name.split('.').try_for_each(check_label) }
}

/// Whether every label passes [`check_label`].
fn is_host(name: &[u8]) -> bool {
    let (mut length, mut before) = (0, b'.');
    for byte in name.iter().chain(b".") {
        length = match byte {
            b'.' if (1..=63).contains(&length) && before != b'-' => 0,
            b'-' if length > 0 => length + 1,
            b'a'..=b'z' | b'0'..=b'9' | b'_' => length + 1,
            _ => return false,
        };
        before = *byte;
    }
    true
}

/// Checks an owner name in a zone: a host name, or `*.` followed by one (RFC 4592).
///
/// # Errors
/// The first rule that the name breaks.
pub fn check_owner(name: &str) -> Result<(), NameError> {
    if name.len() > 253 {
        return Err(NameError::TooLong(name.len()));
    }
    check_host(without_wildcard(name))
}

/// The name that `*.` stands before, or the name itself where nothing does.
#[must_use]
pub fn without_wildcard(name: &str) -> &str {
    name.strip_prefix("*.").unwrap_or(name)
}

/// Whether `name` is `zone` or lies under it. Both lower case, no trailing dot.
#[must_use]
pub fn is_in_zone(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > 63 {
        return Err(NameError::LabelTooLong(label.len()));
    }
    if let Some(odd) =
        label.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-' || *c == '_'))
    {
        return Err(NameError::Character(odd));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_host_is_labels(name in "([a-c0_-]{0,3}|[A-z/ä]|a{62,65}|\\.){0,8}") {
            prop_assert_eq!(is_host(name.as_bytes()), name.split('.').all(|label| check_label(label).is_ok()));
        }
    }

    #[test]
    fn hosts() {
        assert_eq!(check_host("www.example.com"), Ok(()));
        assert_eq!(check_host("xn--bcher-kva.example"), Ok(()));
        assert_eq!(check_host("_dmarc.example.com"), Ok(()));
        assert_eq!(check_host(""), Err(NameError::Empty));
        assert_eq!(check_host("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(check_host("a.b."), Err(NameError::EmptyLabel));
        assert_eq!(check_host(&"a".repeat(64)), Err(NameError::LabelTooLong(64)));
        assert_eq!(check_host(&["abcdefg"; 40].join(".")), Err(NameError::TooLong(319)));
        assert_eq!(check_host("Www.example.com"), Err(NameError::Character('W')));
        assert_eq!(check_host("a/b.example"), Err(NameError::Character('/')));
        assert_eq!(check_host("-a.example"), Err(NameError::Hyphen));
        assert_eq!(check_host("*.example.com"), Err(NameError::Character('*')));
    }

    #[test]
    fn owners_may_be_wildcards() {
        assert_eq!(check_owner("*.example.com"), Ok(()));
        assert_eq!(check_owner("a.*.example.com"), Err(NameError::Character('*')));
    }

    #[test]
    fn zones_hold_themselves_and_what_is_under_them() {
        assert!(is_in_zone("example.com", "example.com"));
        assert!(is_in_zone("a.b.example.com", "example.com"));
        assert!(!is_in_zone("badexample.com", "example.com"));
        assert!(!is_in_zone("com", "example.com"));
    }
}
