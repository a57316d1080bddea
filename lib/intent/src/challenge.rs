//! Whom edges ask to show that they are browsers: the rules that what is written and what is applied are both held to.

use crate::message as m;

/// Paths of one list.
pub const MAX_PATHS: usize = 50;
/// Longest path, in bytes.
pub const MAX_PATH_BYTES: usize = 256;
/// Zero bits of a proof of work: least, most.
pub const DIFFICULTY: (u32, u32) = (8, 22);
/// How long a pass holds, in seconds: least, most. Keys of passes are known to edges for as long as the most after they sign the last time.
pub const PASS_SECONDS: (u32, u32) = (60, 43_200);

/// Checks the beginning of paths.
///
/// # Errors
/// What is wrong with it.
pub fn check_path(path: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'*' | b'\\' | b'"');
    if !path.starts_with('/') || path.len() > MAX_PATH_BYTES || !path.bytes().all(fits) {
        return Err(format!(
            "{path:?} must be a path that begins with /, without a query and *, of at most {MAX_PATH_BYTES} characters"
        ));
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(format!("{path:?} must not have . or .. between slashes: no path that is looked at has"));
    }
    Ok(())
}

/// Checks a policy as it is applied, but for its networks.
///
/// # Errors
/// The field and what is wrong with it.
pub(crate) fn check_policy(policy: &m::ChallengePolicy) -> Result<(), (&'static str, String)> {
    m::ChallengeMode::try_from(policy.mode)
        .map_err(|_| ("http.challenge.mode", format!("{} is none that this build knows", policy.mode)))?;
    if policy.exempt_paths.len() > MAX_PATHS {
        return Err((
            "http.challenge.exempt_paths",
            format!("{} of them; at most {MAX_PATHS}", policy.exempt_paths.len()),
        ));
    }
    for path in &policy.exempt_paths {
        check_path(path).map_err(|problem| ("http.challenge.exempt_paths", problem))?;
    }
    for (field, value, (least, most)) in [
        ("http.challenge.difficulty", policy.difficulty, DIFFICULTY),
        ("http.challenge.pass_seconds", policy.pass_seconds, PASS_SECONDS),
    ] {
        if !(least..=most).contains(&value) {
            return Err((field, format!("{value} must be from {least} to {most}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_checked_whole() {
        let whole = m::ChallengePolicy {
            mode: m::ChallengeMode::All as i32,
            exempt_paths: vec!["/".into(), "/api/".into(), "/.well-known/x".into()],
            exempt_networks: Vec::new(),
            difficulty: 22,
            pass_seconds: 43_200,
        };
        assert_eq!(check_policy(&whole), Ok(()));
        let changes: [fn(&mut m::ChallengePolicy); 9] = [
            |policy| policy.mode = 9,
            |policy| policy.exempt_paths.push("api".into()),
            |policy| policy.exempt_paths.push("/a?b".into()),
            |policy| policy.exempt_paths.push("/a/../b".into()),
            |policy| policy.exempt_paths.push("/a/*".into()),
            |policy| policy.exempt_paths = vec!["/".into(); MAX_PATHS + 1],
            |policy| policy.difficulty = 23,
            |policy| policy.difficulty = 7,
            |policy| policy.pass_seconds = 43_201,
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut policy = whole.clone();
            change(&mut policy);
            assert!(check_policy(&policy).is_err(), "change {n}");
        }
    }
}
