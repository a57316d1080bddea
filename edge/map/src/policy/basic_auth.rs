//! Which requests must show a name and a password (RFC 7617), and whose they can be. What a hash costs is not spent here.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hosting_intent::message as m;

/// Clients differ in padding, and in the bits that are left over at the end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// Longest credentials that are looked at, in base64; those that a policy can have are shorter.
const MAX_CREDENTIALS: usize = 1_024;

/// Names and passwords that open a host, or parts of it.
#[derive(Debug)]
pub struct BasicAuth {
    pub(super) enabled: bool,
    realm: Option<Box<str>>,
    /// By name, in order.
    users: Box<[User]>,
    /// Prefixes and whether they are asked for, the longest first.
    prefixes: Box<[(Box<[u8]>, bool)]>,
    passes_on: bool,
}

#[derive(Debug)]
struct User {
    name: Box<[u8]>,
    hash: Box<str>,
}

/// What a client shows.
#[derive(PartialEq, Eq)]
pub struct Credentials {
    bytes: Vec<u8>,
    colon: usize,
}

impl Credentials {
    /// Reads the value of `Authorization`. `None`: it is of another scheme, or malformed.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let (scheme, rest) = value.split_at_checked(5)?;
        if !scheme.eq_ignore_ascii_case(b"basic") || rest.first() != Some(&b' ') {
            return None;
        }
        let token = rest.trim_ascii();
        if token.len() > MAX_CREDENTIALS {
            return None;
        }
        let bytes = BASE64.decode(token).ok()?;
        // Neither part has control characters (RFC 7617 §2).
        let colon = bytes.iter().position(|byte| *byte == b':')?;
        (!bytes.iter().any(u8::is_ascii_control)).then_some(Self { bytes, colon })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.bytes.get(..self.colon).unwrap_or_default()
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> &[u8] {
        self.bytes.get(self.colon + 1..).unwrap_or_default()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

impl BasicAuth {
    /// Reads what passed its checks.
    #[must_use]
    pub fn new(auth: &m::BasicAuth) -> Self {
        let user = |user: &m::BasicAuthUser| User {
            name: user.name.as_bytes().into(),
            hash: user.password_hash.as_str().into(),
        };
        let mut users: Vec<User> = auth.users.iter().map(user).collect();
        users.sort_by(|one, other| one.name.cmp(&other.name));
        let everything = auth.paths.is_empty().then_some("/");
        let asked = auth.paths.iter().map(String::as_str).chain(everything).map(|prefix| (prefix, true));
        let exempt = auth.exempt.iter().map(|prefix| (prefix.as_str(), false));
        let mut prefixes: Vec<(Box<[u8]>, bool)> =
            asked.chain(exempt).map(|(prefix, word)| (prefix.as_bytes().into(), word)).collect();
        // Of two that are alike the one that asks stays in front.
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self {
            enabled: auth.enabled,
            realm: (!auth.realm.is_empty()).then(|| auth.realm.as_str().into()),
            users: users.into(),
            prefixes: prefixes.into(),
            passes_on: auth.pass_authorization,
        }
    }

    pub(super) fn said(&self) -> String {
        match (self.enabled, self.users.len()) {
            (false, _) => "off".to_owned(),
            (true, 1) => "1 user".to_owned(),
            (true, count) => format!("{count} users"),
        }
    }

    /// Whether requests for this target must show credentials. The longest prefix decides that the path lies under; a path that servers and
    /// applications may read in several ways is asked for in any case.
    #[must_use]
    pub fn asks(&self, target: &[u8]) -> bool {
        let Some(path) = plain(target) else { return true };
        let lies_under = |prefix: &[u8]| {
            prefix == b"/"
                || path.strip_prefix(prefix).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        };
        self.prefixes.iter().find(|(prefix, _)| lies_under(prefix)).is_some_and(|(_, word)| *word)
    }

    /// The value of `WWW-Authenticate` for a host.
    #[must_use]
    pub fn challenge(&self, host: &str) -> String {
        format!("Basic realm=\"{}\", charset=\"UTF-8\"", self.realm.as_deref().unwrap_or(host))
    }

    /// The hash of a user's password.
    #[must_use]
    pub fn hash_of(&self, name: &[u8]) -> Option<&str> {
        let at = self.users.binary_search_by(|user| (*user.name).cmp(name)).ok()?;
        self.users.get(at).map(|user| &*user.hash)
    }

    /// A hash to spend time on for a name that nobody has, so that it cannot be told from one that somebody has. `chance`: the same for
    /// the same name, and not to be foreseen.
    #[must_use]
    pub fn decoy(&self, chance: u64) -> Option<&str> {
        let count = u64::try_from(self.users.len()).ok().filter(|count| *count > 0)?;
        self.users.get(usize::try_from(chance % count).ok()?).map(|user| &*user.hash)
    }

    /// Whether the site gets `Authorization` too.
    #[must_use]
    pub fn passes_on(&self) -> bool {
        self.passes_on
    }
}

/// The path of a target with its escapes undone. `None`: readers may differ in what it means.
fn plain(target: &[u8]) -> Option<Cow<'_, [u8]>> {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let path = if path.is_empty() { b"/" } else { path };
    let decoded = if path.contains(&b'%') { Cow::Owned(decoded(path)?) } else { Cow::Borrowed(path) };
    // What is left of escapes was escaped twice; `;` begins parameters of a segment for some.
    if decoded.iter().any(|byte| byte.is_ascii_control() || matches!(byte, b'%' | b';' | b'\\' | b'#')) {
        return None;
    }
    let mut segments = decoded.strip_prefix(b"/")?.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if matches!(segment, b"." | b"..") || (segment.is_empty() && !is_last) {
            return None;
        }
    }
    Some(decoded)
}

/// `None`: an escape is none, or stands for a slash.
fn decoded(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        rest = after;
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let [high, low] = digits else { return None };
        let byte = digit(*high)? << 4 | digit(*low)?;
        if byte == b'/' {
            return None;
        }
        out.push(byte);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(paths: &[&str], exempt: &[&str]) -> BasicAuth {
        let list = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let user =
            |name: &str, hash: &str| m::BasicAuthUser { name: name.into(), password_hash: hash.into() };
        BasicAuth::new(&m::BasicAuth {
            enabled: true,
            users: vec![user("berta", "hash-b"), user("anna", "hash-a")],
            paths: list(paths),
            exempt: list(exempt),
            ..m::BasicAuth::default()
        })
    }

    #[test]
    fn the_longest_prefix_decides() {
        let all = auth(&[], &["/.well-known", "/grüße"]);
        for asked in ["/", "", "?a", "/a", "/.well-knownx", "/.well", "/a/.well-known/b"] {
            assert!(all.asks(asked.as_bytes()), "{asked}");
        }
        for open in
            ["/.well-known", "/.well-known/a?b", "/.well%2Dknown/a%20b", "/gr%C3%BC%C3%9Fe/", "/grüße/a"]
        {
            assert!(!all.asks(open.as_bytes()), "{open}");
        }
        let some = auth(&["/admin", "/a/b/c"], &["/admin/public", "/a/b"]);
        for (path, asked) in [
            ("/admin", true),
            ("/admin/", true),
            ("/admin/x", true),
            ("/administrator", false),
            ("/Admin", false),
            ("/admin/public", false),
            ("/admin/public/x", false),
            ("/admin/publicity", true),
            ("/a/b/c/d", true),
            ("/a/b/x", false),
            ("/", false),
            ("/index.html?/admin", false),
        ] {
            assert_eq!(some.asks(path.as_bytes()), asked, "{path}");
        }
        assert!(auth(&[], &["/"]).asks(b"/"), "of two that are alike the one that asks decides");
    }

    #[test]
    fn no_spelling_of_a_path_gets_around_it() {
        let some = auth(&["/admin"], &["/admin/public"]);
        for path in [
            "/%61dmin",
            "/adm%69n/x",
            "//admin",
            "/./admin",
            "/x/../admin",
            "/x/..%2Fadmin",
            "/x%2f..%2fadmin",
            "/admin%2Fx",
            "/admin%2Fpublic/x",
            "/%2561dmin",
            "/%2e/admin",
            "/%2E%2E/admin",
            "/x/%2e%2e/admin",
            "/admin/public/../x",
            "/admin/public/..%2fx",
            "/admin/public/..;/x",
            "/admin;a=b/x",
            "/x\\..\\admin",
            "/x%5c..%5cadmin",
            "/admin%00",
            "/admin%0a",
            "/admin%",
            "/admin%2",
            "/admin%zz",
            "/%+1dmin",
            "/admin#x",
            "admin",
            "http:admin",
        ] {
            assert!(some.asks(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn credentials_are_read_as_clients_write_them() {
        let read = |value: &str| {
            Credentials::read(value.as_bytes()).map(|read| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                (text(read.name()), text(read.password()))
            })
        };
        let of = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        // The examples of RFC 7617 §2 and §2.1.
        assert_eq!(read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), of("Aladdin", "open sesame"));
        assert_eq!(read("Basic dGVzdDoxMjPCow=="), of("test", "123£"));
        assert_eq!(read("bASIC   dGVzdDoxMjPCow "), of("test", "123£"));
        assert_eq!(read("Basic YTpiOmM="), of("a", "b:c"), "a password may have colons");
        assert_eq!(read("Basic Og=="), of("", ""));
        for wrong in [
            "",
            "Basic",
            "Basic ",
            "BasicYTpi",
            "Bearer YTpi",
            "Basic YWI=",
            "Basic YTpi\u{7f}",
            "Basic a:b",
            "Basic YTpiAA==",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read(&format!("Basic {}", "YTpi".repeat(300))), None);
        assert_eq!(format!("{:?}", Credentials::read(b"Basic YTpiOmM=").unwrap()), "Credentials(redacted)");
    }

    #[test]
    fn users_are_found_by_name_and_strangers_get_a_decoy() {
        let auth = auth(&[], &[]);
        assert_eq!(
            (auth.hash_of(b"anna"), auth.hash_of(b"berta"), auth.hash_of(b"carl")),
            (Some("hash-a"), Some("hash-b"), None)
        );
        assert_eq!((auth.decoy(7), auth.decoy(u64::MAX - 1)), (Some("hash-b"), Some("hash-a")));
        assert_eq!(BasicAuth::new(&m::BasicAuth::default()).decoy(1), None);
        assert_eq!(auth.challenge("a.example"), "Basic realm=\"a.example\", charset=\"UTF-8\"");
    }
}
