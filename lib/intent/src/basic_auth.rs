//! Names and passwords that requests must show (RFC 7617): the rules that what is written and what is applied are both held to.

use std::collections::HashSet;

use crate::message as m;

/// Users of one policy.
pub const MAX_USERS: usize = 100;
/// Longest name of a user, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest password, in bytes.
pub const MAX_PASSWORD_BYTES: usize = 128;
/// Longest realm, in bytes.
pub const MAX_REALM_BYTES: usize = 128;
/// Prefixes of one list.
pub const MAX_PREFIXES: usize = 50;
/// Longest prefix, in bytes.
pub const MAX_PREFIX_BYTES: usize = 1_024;

/// Memory of Argon2id that is taken, in KiB. Less is no protection, more is a burden for edges.
const ARGON2_MEMORY: std::ops::RangeInclusive<u32> = 7_168..=65_536;
/// Passes over this memory that are taken.
const ARGON2_PASSES: std::ops::RangeInclusive<u32> = 1..=10;
/// Lanes that are taken.
const ARGON2_LANES: std::ops::RangeInclusive<u32> = 1..=4;
/// The most that memory times passes may be, in KiB: what a check costs grows with it.
const ARGON2_WORK: u32 = 3 * 65_536;
/// Costs of bcrypt that are taken: 5 is what `htpasswd -B` makes, and 12 takes a quarter of a second.
const BCRYPT_COST: std::ops::RangeInclusive<u32> = 5..=12;

/// A stored form of a password that edges can check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordHash<'a> {
    /// Argon2id, version 19, in the form of the Password Hashing Competition.
    Argon2id {
        /// KiB of memory.
        memory: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
        /// The salt, base64 without padding.
        salt: &'a str,
        /// The hash, base64 without padding.
        hash: &'a str,
    },
    /// bcrypt, as `htpasswd -B` writes it; the whole text.
    Bcrypt(&'a str),
}

impl<'a> PasswordHash<'a> {
    /// Reads a hash, and looks whether checking a password against it costs neither too little nor too much.
    ///
    /// # Errors
    /// What is wrong with it, without a part of it.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("$argon2id$") {
            return Self::argon2id(rest);
        }
        if ["$2y$", "$2b$", "$2a$"].iter().any(|prefix| text.starts_with(prefix)) {
            return Self::bcrypt(text);
        }
        Err("is neither Argon2id ($argon2id$...) nor bcrypt ($2y$...); `htpasswd -B` makes the latter"
            .to_owned())
    }

    fn argon2id(rest: &'a str) -> Result<Self, String> {
        let malformed = || "is not in the form $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH".to_owned();
        let mut parts = rest.split('$');
        let mut next = || parts.next().ok_or_else(malformed);
        let (version, parameters, salt, hash) = (next()?, next()?, next()?, next()?);
        if version != "v=19" || parts.next().is_some() {
            return Err(malformed());
        }
        let mut parameters = parameters.split(',');
        let mut number = |name: &str| {
            let text = parameters.next().and_then(|part| part.strip_prefix(name)?.strip_prefix('='));
            text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse::<u32>().ok())
                .ok_or_else(malformed)
        };
        let (memory, passes, lanes) = (number("m")?, number("t")?, number("p")?);
        if parameters.next().is_some() {
            return Err(malformed());
        }
        let fits = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
            let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
            lengths.contains(&text.len()) && text.len() % 4 != 1 && text.bytes().all(is_base64)
        };
        if !fits(salt, 11..=64) || !fits(hash, 22..=86) {
            return Err(malformed());
        }
        let is_bearable = ARGON2_MEMORY.contains(&memory)
            && ARGON2_PASSES.contains(&passes)
            && ARGON2_LANES.contains(&lanes)
            && memory.saturating_mul(passes) <= ARGON2_WORK;
        if !is_bearable {
            return Err(format!(
                "costs too little or too much to check: m must be from {} to {}, t from 1 to {}, p from 1 to {}, and m times t \
                 at most {ARGON2_WORK}",
                ARGON2_MEMORY.start(),
                ARGON2_MEMORY.end(),
                ARGON2_PASSES.end(),
                ARGON2_LANES.end(),
            ));
        }
        Ok(Self::Argon2id { memory, passes, lanes, salt, hash })
    }

    fn bcrypt(text: &'a str) -> Result<Self, String> {
        let (cost, rest) = text.get(4..).and_then(|rest| rest.split_once('$')).unwrap_or_default();
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
        let is_cost = cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
        if !is_cost || rest.len() != 53 || !rest.bytes().all(is_base64) {
            return Err("is not in the form $2y$10$ and 53 characters".to_owned());
        }
        if !cost.parse().is_ok_and(|cost| BCRYPT_COST.contains(&cost)) {
            return Err(format!(
                "costs too little or too much to check: the number after $2y$ must be from {:02} to {:02}",
                BCRYPT_COST.start(),
                BCRYPT_COST.end()
            ));
        }
        Ok(Self::Bcrypt(text))
    }
}

/// Checks the name of a user.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("must have 1 to {MAX_NAME_BYTES} bytes"));
    }
    if name.contains(|c: char| c == ':' || c.is_control()) {
        return Err("must not contain a colon or control characters".to_owned());
    }
    Ok(())
}

/// Checks a realm; empty: the host.
///
/// # Errors
/// What is wrong with it.
pub fn check_realm(realm: &str) -> Result<(), String> {
    let fits = |byte: u8| (b' '..=b'~').contains(&byte) && !matches!(byte, b'"' | b'\\');
    if realm.len() > MAX_REALM_BYTES || !realm.bytes().all(fits) {
        return Err(format!(
            "must have at most {MAX_REALM_BYTES} characters, of printable ASCII without quotes and backslashes"
        ));
    }
    Ok(())
}

/// Checks a prefix of paths: whole segments, written as they are meant and not with `%`.
///
/// # Errors
/// What is wrong with it.
pub fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix == "/" {
        return Ok(());
    }
    if prefix.len() > MAX_PREFIX_BYTES {
        return Err(format!("must have at most {MAX_PREFIX_BYTES} bytes"));
    }
    let Some(segments) = prefix.strip_prefix('/') else {
        return Err(format!("{prefix:?} must be a path that begins with /"));
    };
    if prefix.contains(|c: char| c.is_control() || matches!(c, '%' | ';' | '?' | '#' | '*' | '\\')) {
        return Err(format!(
            "{prefix:?} must be a path without % ; ? # * \\; what lies below it is meant without a * too"
        ));
    }
    if segments.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(format!("{prefix:?} must not have empty segments, \".\" or \"..\""));
    }
    Ok(())
}

/// Checks what is applied.
///
/// # Errors
/// The field and what is wrong with it.
pub(crate) fn check(auth: &m::BasicAuth) -> Result<(), (&'static str, String)> {
    check_realm(&auth.realm).map_err(|problem| ("http.basic_auth.realm", problem))?;
    if auth.users.len() > MAX_USERS || (auth.enabled && auth.users.is_empty()) {
        let problem = format!("{} of them; from 1 to {MAX_USERS}", auth.users.len());
        return Err(("http.basic_auth.users", problem));
    }
    let mut names = HashSet::new();
    for user in &auth.users {
        check_name(&user.name).map_err(|problem| ("http.basic_auth.users.name", problem))?;
        PasswordHash::parse(&user.password_hash)
            .map_err(|problem| ("http.basic_auth.users.password_hash", problem))?;
        if !names.insert(user.name.as_str()) {
            return Err(("http.basic_auth.users.name", format!("{:?} stands there twice", user.name)));
        }
    }
    let mut seen = HashSet::new();
    for (field, list) in [("http.basic_auth.paths", &auth.paths), ("http.basic_auth.exempt", &auth.exempt)] {
        if list.len() > MAX_PREFIXES {
            return Err((field, format!("{} of them; at most {MAX_PREFIXES}", list.len())));
        }
        for prefix in list {
            check_prefix(prefix).map_err(|problem| (field, problem))?;
            if !seen.insert(prefix.as_str()) {
                return Err((field, format!("{prefix:?} stands there twice")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGON2: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const BCRYPT: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

    #[test]
    fn hashes_that_edges_can_check() {
        let read = PasswordHash::parse(ARGON2);
        assert!(
            matches!(read, Ok(PasswordHash::Argon2id { memory: 19_456, passes: 2, lanes: 1, .. })),
            "{read:?}"
        );
        assert_eq!(PasswordHash::parse(BCRYPT), Ok(PasswordHash::Bcrypt(BCRYPT)));
        for (from, to) in [("$2y$", "$2b$"), ("$2y$", "$2a$"), ("$05$", "$12$")] {
            assert!(PasswordHash::parse(&BCRYPT.replace(from, to)).is_ok(), "{to}");
        }
        for (whole, from, to) in [
            (ARGON2, "argon2id", "argon2i"),
            (ARGON2, "v=19", "v=16"),
            (ARGON2, "v=19$", ""),
            (ARGON2, "m=19456", "m=65537"),
            (ARGON2, "m=19456", "m=1024"),
            (ARGON2, "m=19456", "m=+19456"),
            (ARGON2, "t=2", "t=0"),
            (ARGON2, "t=2", "t=11"),
            (ARGON2, "m=19456,t=2", "m=65536,t=4"),
            (ARGON2, "p=1", "p=5"),
            (ARGON2, "p=1", "p=1,x=1"),
            (ARGON2, "c2FsdH", "c2Fs H"),
            (ARGON2, "$AAAA", "$AAAA$AAAA"),
            (BCRYPT, "$05$", "$04$"),
            (BCRYPT, "$05$", "$13$"),
            (BCRYPT, "$05$", "$5$"),
            (BCRYPT, "RqC", "Rq"),
            (BCRYPT, "RqC", "Rq="),
            (BCRYPT, "$2y$", "$2x$"),
            (BCRYPT, BCRYPT, "$apr1$Zw9kZ1a2$PEfWrN8yLN8jcYHU0Q0Ci1"),
            (BCRYPT, BCRYPT, "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="),
            (BCRYPT, BCRYPT, "secret"),
            (BCRYPT, BCRYPT, "$2y$ä5$"),
        ] {
            assert!(PasswordHash::parse(&whole.replace(from, to)).is_err(), "{whole} with {to}");
        }
    }

    #[test]
    fn an_error_repeats_nothing_of_a_hash() {
        for wrong in
            ["hunter2", "$argon2id$hunter2", "$2y$hunter2", "$argon2id$v=19$m=19456,t=2,p=1$hunter2$hunter2"]
        {
            let problem = PasswordHash::parse(wrong).unwrap_err();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn prefixes_have_one_spelling() {
        for good in ["/", "/a", "/.well-known", "/a/b.c", "/grüße", "/..a"] {
            assert_eq!(check_prefix(good), Ok(()), "{good:?}");
        }
        let long = format!("/{}", "a".repeat(MAX_PREFIX_BYTES));
        for bad in [
            "", "a", "/a/", "//", "//a", "/a//b", "/.", "/a/../b", "/a/*", "/a%20b", "/a;b", "/a?b", "/a\\b",
            "/a\nb", &long,
        ] {
            assert!(check_prefix(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_policy_is_checked_whole() {
        let user = |name: &str| m::BasicAuthUser { name: name.into(), password_hash: BCRYPT.into() };
        let whole = m::BasicAuth {
            enabled: true,
            realm: "Staging (internal)".into(),
            users: vec![user("anna"), user("jürgen")],
            paths: vec!["/admin".into()],
            exempt: vec!["/admin/public".into()],
            pass_authorization: true,
        };
        assert_eq!(check(&whole), Ok(()));
        assert_eq!(check(&m::BasicAuth::default()), Ok(()), "off");
        let changes: [fn(&mut m::BasicAuth); 12] = [
            |auth| auth.realm = "a\"b".into(),
            |auth| auth.realm = "ä".into(),
            |auth| auth.realm = "a".repeat(MAX_REALM_BYTES + 1),
            |auth| auth.users.clear(),
            |auth| auth.users = vec![auth.users[0].clone(); 2],
            |auth| auth.users[0].name = "a:b".into(),
            |auth| auth.users[0].name.clear(),
            |auth| auth.users[0].password_hash = "secret".into(),
            |auth| auth.users[0].password_hash.clear(),
            |auth| auth.paths.push("/admin/".into()),
            |auth| auth.exempt.push("/admin".into()),
            |auth| auth.paths = (0..=MAX_PREFIXES).map(|n| format!("/{n}")).collect(),
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut auth = whole.clone();
            change(&mut auth);
            assert!(check(&auth).is_err(), "change {n}");
        }
    }
}
