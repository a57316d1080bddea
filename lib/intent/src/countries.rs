//! Countries: two letters (ISO 3166-1 alpha-2), and a word for an address whose country is not known.

use std::collections::HashSet;

/// The word for an address whose country is not known.
pub const UNKNOWN: &str = "XX";
/// Countries of one list: there are fewer than this.
pub const MAX_COUNTRIES: usize = 300;

/// Checks the form of a country. Which of them exist changes, so each of two upper case letters is taken.
///
/// # Errors
/// What is wrong with it.
pub fn check_country(country: &str) -> Result<(), String> {
    if country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(());
    }
    Err(format!(
        "{country:?} must be two upper case letters (ISO 3166-1), or {UNKNOWN} for what is not known"
    ))
}

/// Checks a list of countries of which none is in `seen`.
pub(crate) fn check<'a>(
    field: &'static str,
    list: &'a [String],
    seen: &mut HashSet<&'a str>,
) -> Result<(), (&'static str, String)> {
    if list.len() > MAX_COUNTRIES {
        return Err((field, format!("{} of them; at most {MAX_COUNTRIES}", list.len())));
    }
    for country in list {
        check_country(country).map_err(|problem| (field, problem))?;
        if !seen.insert(country) {
            return Err((field, format!("{country} stands there twice")));
        }
    }
    Ok(())
}
