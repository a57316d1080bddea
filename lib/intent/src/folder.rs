//! Folders and files below a site's own: how they are written everywhere.

/// Longest path, in bytes.
const MOST: usize = 255;

/// Checks a path below a webroot: names of `A-Z a-z 0-9 . _ -` with one `/` between them, none of dots only. The empty path
/// is the webroot itself.
///
/// # Errors
/// What is wrong with it.
pub fn check(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    if path.starts_with('/') {
        return Err(format!("{path:?} must be relative to the webroot; leave the first / out"));
    }
    if path.len() > MOST {
        return Err(format!("must have at most {MOST} characters"));
    }
    for part in path.split('/') {
        if part.is_empty() {
            return Err(format!("{path:?} must have names between its slashes, and none at the end"));
        }
        if part.bytes().all(|b| b == b'.') {
            return Err(format!("{path:?} must not have a part of dots only"));
        }
        if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(format!("{path:?} must be made of A-Z a-z 0-9 . _ - and /"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_and_have_one_spelling() {
        for good in ["", "public", "current/public", ".hidden", "..a", "a..b", "-", &"a".repeat(255)] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        let bad = [
            "/",
            "/public",
            "//",
            "a/",
            "a//b",
            ".",
            "..",
            "...",
            "a/../b",
            "./a",
            "a/...",
            "a b",
            "a;b",
            "a\"b",
            "a$b",
            "ä",
            "a\0b",
            "a\nb",
            "2;/x",
            &"a".repeat(256),
        ];
        for path in bad {
            assert!(check(path).is_err(), "{path:?}");
        }
    }
}
