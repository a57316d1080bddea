//! The rules for environment variables of a site, which the API and the nodes' agents hold both: what they are called, and which values
//! php-fpm can hand on.

/// Variables of one site.
pub const MAX_VARS: usize = 200;
/// Bytes of one value.
pub const MAX_VALUE_BYTES: usize = 8 * 1024;
/// Bytes of all values of a site.
pub const MAX_TOTAL_BYTES: usize = 128 * 1024;
const MAX_NAME_BYTES: usize = 128;

/// Checks a name: letters, digits and `_`, no digit first (POSIX.1-2024 §8.1).
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if first && rest && name.len() <= MAX_NAME_BYTES {
        Ok(())
    } else {
        Err("must be 1 to 128 of A-Z a-z 0-9 _, and begin with no digit")
    }
}

/// Checks a value. php-fpm reads its configuration line by line, takes `$NAME` for a variable of its own, and puts its pool's name in
/// the place of `$pool`.
///
/// # Errors
/// What is wrong with it; the value is not repeated.
pub fn check_value(value: &str) -> Result<(), &'static str> {
    if value.len() > MAX_VALUE_BYTES {
        return Err("must have at most 8192 bytes");
    }
    if value.chars().any(|character| character.is_control() && character != '\t') {
        return Err("must be one line without control characters; encode it, e.g. as base64");
    }
    if value.starts_with('$') || value.contains("$pool") {
        return Err(
            "must neither begin with $ nor hold $pool, which php-fpm replaces; encode it, e.g. as base64",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_what_php_fpm_hands_on_as_it_is() {
        for name in ["A", "_", "APP_KEY2", "a1"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "1A", "A-B", "A B", "A]", "Ä", "A\n", &"A".repeat(129)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for value in ["", "a'b\"c\\d", "x${HOME} $x ; # = [x]", "tab\tinside", "äöü€", "\\"] {
            assert_eq!(check_value(value), Ok(()), "{value}");
        }
        for value in ["$HOME", "x$pool", "a\nb", "a\0", "a\r", &"x".repeat(MAX_VALUE_BYTES + 1)] {
            assert!(check_value(value).is_err(), "{value}");
        }
    }
}
