//! From stored bytes to a checked message: what the table of kinds names.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use prost::Message;

use crate::{Key, Retired, cache, env, folder, http_policy, kind_name, message as m, name, pages, php};

/// Largest encoded value in bytes; a frame (1 MiB) must hold at least a few.
pub const MAX_VALUE_BYTES: usize = 256 * 1024;

/// Why an item is not applied. The last good one stays in effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A newer controller's kind: kept raw, not applied.
    #[error("this build does not know {0}")]
    UnknownKind(String),
    /// The bytes are no message of the kind.
    #[error("not a valid message: {0}")]
    Malformed(String),
    /// A field breaks a rule.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field, as `proto/intent.proto` names it; `key` for the key.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

fn invalid(field: &'static str, problem: impl ToString) -> Rejection {
    Rejection::Invalid { field, problem: problem.to_string() }
}

pub(crate) fn trust_roots(key: &str, value: &[u8]) -> Result<m::TrustRoots, Rejection> {
    let roots: m::TrustRoots = decode(value)?;
    exact_key(key, "roots")?;
    if roots.ca_der.is_empty() {
        return Err(invalid("ca_der", "there must be at least one authority"));
    }
    Ok(roots)
}

/// The key under which an [`m::AudienceKey`] stands: its version (from 1) and the public sealing key of who can open it (X25519).
#[must_use]
pub fn audience_key_name(version: u32, reader: &[u8; 32]) -> String {
    let mut name = format!("{version}/");
    for byte in reader {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// The inverse of [`audience_key_name`]; `None` for a name that it does not give.
#[must_use]
pub fn audience_key_of(name: &str) -> Option<(u32, [u8; 32])> {
    let (version, hex) = name.split_once('/')?;
    let mut reader = [0; 32];
    for (byte, digits) in reader.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    let version = version.parse().ok().filter(|version| *version > 0)?;
    (audience_key_name(version, &reader) == name).then_some((version, reader))
}

pub(crate) fn audience_key(key: &str, value: &[u8]) -> Result<m::AudienceKey, Rejection> {
    let share: m::AudienceKey = decode(value)?;
    if audience_key_of(key).is_none() {
        return Err(invalid("key", "must be a version from 1, a slash and 64 hexadecimal digits"));
    }
    if share.encapsulated.len() != 32 {
        return Err(invalid("encapsulated", "must have 32 bytes"));
    }
    // 32 bytes of key, 16 of tag.
    if share.sealed.len() != 48 {
        return Err(invalid("sealed", "must have 48 bytes"));
    }
    Ok(share)
}

pub(crate) fn certificate(key: &str, value: &[u8]) -> Result<m::Certificate, Rejection> {
    let certificate: m::Certificate = decode(value)?;
    id_key(key)?;
    check_id("tenant_id", &certificate.tenant_id)?;
    for name in &certificate.names {
        host("names", name.strip_prefix("*.").unwrap_or(name))?;
    }
    if certificate.names.is_empty() || certificate.chain_der.is_empty() {
        return Err(invalid("names, chain_der", "there must be at least one of each"));
    }
    if certificate.key.as_ref().is_none_or(|key| key.version == 0 || key.sealed.is_empty()) {
        return Err(invalid("key", "missing"));
    }
    Ok(certificate)
}

/// Largest token and largest digest of an [`m::AcmeChallenge`], in characters.
const MAX_ACME: usize = 256;

pub(crate) fn acme_challenge(key: &str, value: &[u8]) -> Result<m::AcmeChallenge, Rejection> {
    let challenge: m::AcmeChallenge = decode(value)?;
    host("key", key)?;
    let is_base64url = |text: &str| {
        (1..=MAX_ACME).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if !is_base64url(&challenge.token) {
        return Err(invalid("token", format!("must be 1 to {MAX_ACME} characters of base64url")));
    }
    let digest =
        challenge.key_authorization.strip_prefix(&challenge.token).and_then(|rest| rest.strip_prefix('.'));
    if !digest.is_some_and(is_base64url) {
        return Err(invalid("key_authorization", "must be the token, a dot and a digest in base64url"));
    }
    Ok(challenge)
}

pub(crate) fn tenant_state(key: &str, value: &[u8]) -> Result<m::TenantState, Rejection> {
    let state: m::TenantState = decode(value)?;
    id_key(key)?;
    stated(state.state)?;
    http(state.http.as_deref(), true)?;
    if !state.brand_id.is_empty() {
        check_id("brand_id", &state.brand_id)?;
    }
    if let Some(purges) = &state.purges {
        cache::check_purges(purges).map_err(|(field, problem)| invalid(field, problem))?;
    }
    Ok(state)
}

pub(crate) fn brand(key: &str, value: &[u8]) -> Result<m::Brand, Rejection> {
    let brand: m::Brand = decode(value)?;
    id_key(key)?;
    for page in &brand.pages {
        pages::check_word(&page.word).map_err(|problem| invalid("pages.word", problem))?;
        pages::check_html(&page.html).map_err(|problem| invalid("pages.html", problem))?;
    }
    if !brand.pages.is_sorted_by(|one, next| one.word < next.word) {
        return Err(invalid("pages.word", "must stand in ascending order, none twice"));
    }
    http(brand.http.as_deref(), true)?;
    m::LogAddresses::try_from(brand.log_addresses).map_err(|_| {
        invalid("log_addresses", format!("{} is none that this build knows", brand.log_addresses))
    })?;
    Ok(brand)
}

fn http(policy: Option<&m::HttpPolicy>, of_tenant: bool) -> Result<(), Rejection> {
    policy.map_or(Ok(()), |policy| {
        http_policy::check(policy, of_tenant).map_err(|(field, problem)| invalid(field, problem))
    })
}

pub(crate) fn route(key: &str, value: &[u8]) -> Result<m::Route, Rejection> {
    let route: m::Route = decode(value)?;
    name::check_owner(key).map_err(|e| invalid("key", e))?;
    check_id("tenant_id", &route.tenant_id)?;
    if !route.webroot_id.is_empty() {
        check_id("webroot_id", &route.webroot_id)?;
        check_id("shard_id", &route.shard_id)?;
    }
    http(route.http.as_deref(), false)?;
    Ok(route)
}

pub(crate) fn shard_pool(key: &str, value: &[u8]) -> Result<m::ShardPool, Rejection> {
    let pool: m::ShardPool = decode(value)?;
    id_key(key)?;
    check_id("name", &pool.name)?;
    for node in &pool.nodes {
        check_id("nodes.node_id", &node.node_id)?;
        if node.addresses.is_empty() {
            return Err(invalid("nodes.addresses", format!("node {} has none", node.node_id)));
        }
        for address in &node.addresses {
            address
                .parse::<SocketAddr>()
                .map_err(|e| invalid("nodes.addresses", format!("{address:?}: {e}")))?;
        }
    }
    Ok(pool)
}

pub(crate) fn zone(key: &str, value: &[u8]) -> Result<m::Zone, Rejection> {
    let zone: m::Zone = decode(value)?;
    name::check_host(key).map_err(|e| invalid("key", e))?;
    check_id("zone_id", &zone.zone_id)?;
    host("primary_ns", &zone.primary_ns)?;
    if zone.nameservers.is_empty() {
        return Err(invalid("nameservers", "there must be at least one"));
    }
    zone.nameservers.iter().try_for_each(|ns| host("nameservers", ns))?;
    let (local, domain) =
        zone.hostmaster.split_once('@').ok_or_else(|| invalid("hostmaster", "must be a mail address"))?;
    if local.is_empty() || local.len() > 63 || !local.is_ascii() {
        return Err(invalid("hostmaster", "the local part must have 1 to 63 ASCII characters"));
    }
    host("hostmaster", domain)?;
    Ok(zone)
}

pub(crate) fn rr_set(key: &str, value: &[u8]) -> Result<m::RrSet, Rejection> {
    let set: m::RrSet = decode(value)?;
    let (zone, owner, record_type) = rr_set_key(key)?;
    name::check_host(zone).map_err(|e| invalid("key", e))?;
    name::check_owner(owner).map_err(|e| invalid("key", e))?;
    if !name::is_in_zone(owner, zone) {
        return Err(invalid("key", format!("{owner} does not lie in {zone}")));
    }
    if record_type.is_empty() || !record_type.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
        return Err(invalid("key", format!("{record_type:?} is no record type")));
    }
    if set.ttl > 0x7fff_ffff {
        return Err(invalid("ttl", "must be below 2^31 seconds (RFC 2181 §8)"));
    }
    match &set.data {
        None => return Err(invalid("data", "missing")),
        Some(m::rr_set::Data::Records(records)) if records.rdata.is_empty() => {
            return Err(invalid("records", "there must be at least one"));
        }
        Some(m::rr_set::Data::Records(_)) => {}
        Some(m::rr_set::Data::AddressSet(set)) => {
            check_id("address_set", set)?;
            if record_type != "A" && record_type != "AAAA" {
                return Err(invalid("address_set", format!("cannot give {record_type} data")));
            }
        }
    }
    if set.https && !matches!(set.data, Some(m::rr_set::Data::AddressSet(_))) {
        return Err(invalid("https", "only an address_set gives HTTPS data"));
    }
    Ok(set)
}

pub(crate) fn address_set(key: &str, value: &[u8]) -> Result<m::AddressSet, Rejection> {
    let set: m::AddressSet = decode(value)?;
    id_key(key)?;
    for address in &set.ipv4 {
        address.parse::<Ipv4Addr>().map_err(|e| invalid("ipv4", format!("{address:?}: {e}")))?;
    }
    for address in &set.ipv6 {
        address.parse::<Ipv6Addr>().map_err(|e| invalid("ipv6", format!("{address:?}: {e}")))?;
    }
    Ok(set)
}

pub(crate) fn serial_offset(key: &str, value: &[u8]) -> Result<m::SerialOffset, Rejection> {
    exact_key(key, "serial")?;
    decode(value)
}

pub(crate) fn edge_settings(key: &str, value: &[u8]) -> Result<m::EdgeSettings, Rejection> {
    exact_key(key, "settings")?;
    let settings: m::EdgeSettings = decode(value)?;
    let version = settings.tls_minimum_version;
    // A version from a newer controller must not be taken for an older one.
    m::TlsVersion::try_from(version)
        .map_err(|_| invalid("tls_minimum_version", format!("{version} is none that this build knows")))?;
    let port = settings.http3_port;
    u16::try_from(port).map_err(|_| invalid("http3_port", format!("{port} is no port")))?;
    Ok(settings)
}

pub(crate) fn edge_count(key: &str, value: &[u8]) -> Result<m::EdgeCount, Rejection> {
    exact_key(key, "edges")?;
    decode(value)
}

/// Most keys of [`m::TicketKeys`], and the bytes of a key's name.
const MAX_TICKET_KEYS: usize = 8;
const TICKET_KEY_NAME: usize = 16;

pub(crate) fn ticket_keys(key: &str, value: &[u8]) -> Result<m::TicketKeys, Rejection> {
    exact_key(key, "tickets")?;
    let tickets: m::TicketKeys = decode(value)?;
    if !(1..=MAX_TICKET_KEYS).contains(&tickets.keys.len()) {
        return Err(invalid("keys", format!("must be 1 to {MAX_TICKET_KEYS}")));
    }
    let mut names = BTreeSet::new();
    for one in &tickets.keys {
        if one.name.len() != TICKET_KEY_NAME || !names.insert(&one.name) {
            return Err(invalid("keys.name", format!("must be {TICKET_KEY_NAME} bytes, and no other key's")));
        }
        if one.key.as_ref().is_none_or(|key| key.version == 0 || key.sealed.is_empty()) {
            return Err(invalid("keys.key", "missing"));
        }
    }
    if !tickets.keys.is_sorted_by_key(|one| one.begins) {
        return Err(invalid("keys.begins", "must not be before that of the key before"));
    }
    Ok(tickets)
}

pub(crate) fn tenant(key: &str, value: &[u8]) -> Result<m::Tenant, Rejection> {
    let tenant: m::Tenant = decode(value)?;
    id_key(key)?;
    stated(tenant.state)?;
    incarnation(tenant.incarnation)?;
    Ok(tenant)
}

pub(crate) fn webroot(key: &str, value: &[u8]) -> Result<m::Webroot, Rejection> {
    let webroot: m::Webroot = decode(value)?;
    id_key(key)?;
    check_id("tenant_id", &webroot.tenant_id)?;
    check_id("shard_name", &webroot.shard_name)?;
    incarnation(webroot.incarnation)?;
    folder::check(&webroot.public_folder).map_err(|e| invalid("public_folder", e))?;
    for (name, set) in &webroot.env {
        env::check_name(name).map_err(|e| invalid("env", e))?;
        match &set.value {
            Some(m::env_value::Value::Plain(text)) => {
                env::check_value(text).map_err(|e| invalid("env", e))?
            }
            Some(m::env_value::Value::Sealed(sealed)) if sealed.version > 0 => {}
            Some(m::env_value::Value::Sealed(_)) | None => return Err(invalid("env", "a value is missing")),
        }
    }
    if webroot.runtime == "php" {
        php::check_version(&webroot.runtime_version).map_err(|e| invalid("runtime_version", e))?;
        if let Some(pool) = &webroot.php {
            php::Settings::of(pool).map_err(|e| invalid("php", e))?;
        }
        php::Processes::of(webroot.php.as_ref()).map_err(|e| invalid("php", e))?;
    }
    Ok(webroot)
}

pub(crate) fn retire(key: &str, value: &[u8]) -> Result<m::Retire, Rejection> {
    let retire: m::Retire = decode(value)?;
    let Some(retired) = Retired::of(&retire) else {
        return Err(invalid("kind", format!("{} holds no data", kind_name(retire.kind as u32))));
    };
    check_id("key", &retire.key)?;
    incarnation(retire.incarnation)?;
    if retired == Retired::Webroot {
        check_id("tenant_id", &retire.tenant_id)?;
    }
    exact_key(key, &Key::new(retired.kind(), retire.key.clone()).to_string())?;
    Ok(retire)
}

/// Splits the key of an RRset into zone, owner name and type mnemonic.
///
/// # Errors
/// When there are not three parts.
pub fn rr_set_key(name: &str) -> Result<(&str, &str, &str), Rejection> {
    let mut parts = name.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(zone), Some(owner), Some(record_type), None) => Ok((zone, owner, record_type)),
        _ => Err(invalid("key", "must be zone/owner/type")),
    }
}

fn decode<M: Message + Default>(value: &[u8]) -> Result<M, Rejection> {
    M::decode(value).map_err(|error| Rejection::Malformed(error.to_string()))
}

fn exact_key(name: &str, wanted: &str) -> Result<(), Rejection> {
    if name == wanted { Ok(()) } else { Err(invalid("key", format!("must be {wanted:?}"))) }
}

fn id_key(name: &str) -> Result<(), Rejection> {
    check_id("key", name)
}

/// Ids stand in paths, unit names and configuration files: letters, digits, `_` and `-` only, 1–64 of them.
fn check_id(field: &'static str, id: &str) -> Result<(), Rejection> {
    let fits = (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits { Ok(()) } else { Err(invalid(field, "must be 1 to 64 of A-Z a-z 0-9 _ -")) }
}

fn host(field: &'static str, value: &str) -> Result<(), Rejection> {
    name::check_host(value).map_err(|error| invalid(field, error))
}

fn stated(state: i32) -> Result<(), Rejection> {
    match m::State::try_from(state) {
        Ok(m::State::Active | m::State::Suspended) => Ok(()),
        Ok(m::State::Unspecified) | Err(_) => Err(invalid("state", "must be active or suspended")),
    }
}

fn incarnation(value: u64) -> Result<(), Rejection> {
    if value == 0 { Err(invalid("incarnation", "must not be 0")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Intent, Kind};

    fn problem(key: &Key, message: &impl Message) -> String {
        Intent::parse(key, &message.encode_to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn ticket_keys_are_told_apart_by_name_and_stand_by_time() {
        let key = Key::new(Kind::TicketKeys, "tickets");
        let one = |name: u8, begins: i64| m::TicketKey {
            name: vec![name; 16].into(),
            begins,
            key: Some(m::Sealed { version: 1, sealed: vec![1].into() }),
        };
        let of = |keys: Vec<m::TicketKey>| m::TicketKeys { keys };
        assert!(Intent::parse(&key, &of(vec![one(1, 5), one(2, 5), one(3, 6)]).encode_to_vec()).is_ok());
        assert!(problem(&Key::new(Kind::TicketKeys, "others"), &of(vec![one(1, 5)])).starts_with("key: "));
        assert!(problem(&key, &of(Vec::new())).starts_with("keys: "));
        assert!(problem(&key, &of((0..9).map(|n| one(n, 0)).collect())).starts_with("keys: "));
        assert!(problem(&key, &of(vec![one(1, 5), one(1, 6)])).starts_with("keys.name: "));
        assert!(
            problem(&key, &of(vec![m::TicketKey { name: vec![1; 15].into(), ..one(1, 5) }]))
                .starts_with("keys.name: ")
        );
        assert!(problem(&key, &of(vec![m::TicketKey { key: None, ..one(1, 5) }])).starts_with("keys.key: "));
        assert!(problem(&key, &of(vec![one(1, 6), one(2, 5)])).starts_with("keys.begins: "));
    }

    #[test]
    fn a_challenge_is_a_token_and_what_proves_it() {
        let key = Key::new(Kind::AcmeChallenge, "www.a.example");
        let good = m::AcmeChallenge { token: "Zm9v_-".into(), key_authorization: "Zm9v_-.ZGln".into() };
        assert!(Intent::parse(&key, &good.encode_to_vec()).is_ok());
        assert!(problem(&Key::new(Kind::AcmeChallenge, "WWW.a.example"), &good).starts_with("key: "));
        let token = |token: &str| m::AcmeChallenge {
            token: token.into(),
            key_authorization: format!("{token}.ZGln"),
        };
        for wrong in ["", "a/b", "a b", "..", &"a".repeat(257)] {
            assert!(problem(&key, &token(wrong)).starts_with("token: "), "{wrong}");
        }
        for wrong in ["", "Zm9v_-", "Zm9v_-.", "other.ZGln", "Zm9v_-.a.b", "Zm9v_-.a\r\n"] {
            let challenge = m::AcmeChallenge { key_authorization: wrong.into(), ..good.clone() };
            assert!(problem(&key, &challenge).starts_with("key_authorization: "), "{wrong}");
        }
    }

    #[test]
    fn a_route_needs_a_sound_name_and_ids() {
        let route = m::Route {
            tenant_id: "t_a".into(),
            webroot_id: "web_a".into(),
            shard_id: "s".into(),
            ..m::Route::default()
        };
        let value = route.encode_to_vec();
        assert_eq!(
            Intent::parse(&Key::new(Kind::Route, "www.example.com"), &value),
            Ok(Intent::Route(route.clone()))
        );
        assert_eq!(
            Intent::parse(&Key::new(Kind::Route, "*.example.com"), &value),
            Ok(Intent::Route(route.clone()))
        );
        for name in ["a".repeat(300), "*".into(), "*.*.example".into(), "a.*.example".into()] {
            assert!(problem(&Key::new(Kind::Route, name.as_str()), &route).starts_with("key: "), "{name}");
        }
        assert!(problem(&Key::new(Kind::Route, "../etc"), &route).starts_with("key: "));
        let bad = m::Route { webroot_id: "web;rm".into(), ..route };
        assert!(problem(&Key::new(Kind::Route, "www.example.com"), &bad).starts_with("webroot_id: "));
    }

    #[test]
    fn an_audience_key_names_its_version_and_its_reader() {
        let name = audience_key_name(7, &[0xab; 32]);
        assert_eq!(name, format!("7/{}", "ab".repeat(32)));
        assert_eq!(audience_key_of(&name), Some((7, [0xab; 32])));
        let digits = "ab".repeat(32);
        for wrong in [
            format!("0/{digits}"),
            format!("07/{digits}"),
            format!("7/{}", &digits[1..]),
            format!("7/{digits}0"),
        ] {
            assert_eq!(audience_key_of(&wrong), None, "{wrong}");
        }
        for wrong in [
            format!("7/{}", "AB".repeat(32)),
            format!("7/+a{}", &digits[2..]),
            digits,
            "7/".into(),
            String::new(),
        ] {
            assert_eq!(audience_key_of(&wrong), None, "{wrong}");
        }
        let share = m::AudienceKey { encapsulated: vec![1; 32].into(), sealed: vec![2; 48].into() };
        let key = Key::new(Kind::AudienceKey, name);
        assert!(Intent::parse(&key, &share.encode_to_vec()).is_ok());
        let bad = m::AudienceKey { sealed: vec![2; 47].into(), ..share };
        assert!(problem(&key, &bad).starts_with("sealed: "));
    }

    #[test]
    fn a_certificate_has_names_a_chain_and_a_key() {
        let good = m::Certificate {
            tenant_id: "t_a".into(),
            names: vec!["a.example".into(), "*.a.example".into()],
            chain_der: vec![vec![1].into()],
            key: Some(m::Sealed { version: 1, sealed: vec![1].into() }),
            not_after: 1,
        };
        let key = Key::new(Kind::Certificate, "c-1");
        assert!(Intent::parse(&key, &good.encode_to_vec()).is_ok());
        let names = |name: &str| m::Certificate { names: vec![name.into()], ..good.clone() };
        for wrong in ["*", "a.*.example", "../a", ""] {
            assert!(problem(&key, &names(wrong)).starts_with("names: "), "{wrong}");
        }
        assert!(problem(&key, &m::Certificate { chain_der: vec![], ..good.clone() }).contains("chain_der"));
        assert!(problem(&key, &m::Certificate { key: None, ..good.clone() }).starts_with("key: "));
        let unsealed = m::Certificate { key: Some(m::Sealed::default()), ..good };
        assert!(problem(&key, &unsealed).starts_with("key: "));
    }

    #[test]
    fn a_brand_has_pages_in_order() {
        let key = Key::new(Kind::Brand, "acme");
        let page = |word: &str, html: &str| m::BrandPage { word: word.into(), html: html.into() };
        let of = |pages: Vec<m::BrandPage>| m::Brand { pages, ..m::Brand::default() };
        let good = of(vec![page("default", "<p>{{message}}</p>"), page("of_a_newer_build", "b")]);
        assert!(Intent::parse(&key, &good.encode_to_vec()).is_ok());
        assert!(problem(&key, &of(vec![page("b", "x"), page("a", "x")])).starts_with("pages.word: "));
        assert!(problem(&key, &of(vec![page("a", "x"), page("a", "y")])).starts_with("pages.word: "));
        assert!(problem(&key, &of(vec![page("A", "x")])).starts_with("pages.word: "));
        assert!(problem(&key, &of(vec![page("a", "{{x}}")])).starts_with("pages.html: "));
        let leads = m::HttpPolicy { canonical_host: "a.example".into(), ..m::HttpPolicy::default() };
        assert!(
            problem(&key, &m::Brand { http: Some(Box::new(leads)), ..m::Brand::default() })
                .starts_with("http")
        );
        let log = m::Brand { log_addresses: 9, ..m::Brand::default() };
        assert!(problem(&key, &log).starts_with("log_addresses: "));
        let tenant = m::TenantState { state: 1, brand_id: "../x".into(), ..m::TenantState::default() };
        assert!(problem(&Key::new(Kind::TenantState, "t"), &tenant).starts_with("brand_id: "));
    }

    #[test]
    fn unknown_kinds_are_told_apart_from_bad_bytes() {
        let unknown = Key { kind: 4711, name: "x".into() };
        assert_eq!(Intent::parse(&unknown, b"").unwrap_err(), Rejection::UnknownKind("kind 4711".into()));
        let garbage = Intent::parse(&Key::new(Kind::Route, "a.example"), &[0xff; 7]).unwrap_err();
        assert!(matches!(garbage, Rejection::Malformed(_)));
    }

    #[test]
    fn an_rr_set_must_lie_in_its_zone() {
        let set = m::RrSet {
            ttl: 300,
            data: Some(m::rr_set::Data::Records(m::Records { rdata: vec!["192.0.2.1".into()] })),
            https: false,
        };
        let key = |name: &str| Key::new(Kind::RrSet, name);
        assert!(Intent::parse(&key("example.com/*.example.com/A"), &set.encode_to_vec()).is_ok());
        assert!(problem(&key("example.com/www.example.org/A"), &set).contains("does not lie in"));
        assert!(problem(&key("example.com/A"), &set).contains("zone/owner/type"));
        let https = m::RrSet { https: true, ..set.clone() };
        assert!(problem(&key("example.com/example.com/A"), &https).starts_with("https: "));
        let auto = m::RrSet { data: Some(m::rr_set::Data::AddressSet("c1".into())), ..https };
        assert!(Intent::parse(&key("example.com/example.com/A"), &auto.encode_to_vec()).is_ok());
        assert!(problem(&key("example.com/example.com/MX"), &auto).contains("cannot give MX"));
    }

    #[test]
    fn edges_are_told_of_ports_alone() {
        let key = Key::new(Kind::EdgeSettings, "settings");
        let settings = |http3_port| m::EdgeSettings { http3_port, ..m::EdgeSettings::default() };
        assert!(Intent::parse(&key, &settings(65_535).encode_to_vec()).is_ok());
        assert!(problem(&key, &settings(65_536)).starts_with("http3_port: "));
    }

    #[test]
    fn what_stops_serving_takes_away() {
        let state = |state: m::State| {
            Intent::TenantState(m::TenantState { state: state as i32, ..m::TenantState::default() })
        };
        assert!(state(m::State::Suspended).takes_away());
        assert!(!state(m::State::Active).takes_away());
        let node = |in_service| m::PoolNode {
            node_id: "n".into(),
            addresses: vec!["127.0.0.1:80".into()],
            in_service,
        };
        let pool = |nodes| Intent::ShardPool(m::ShardPool { name: "s".into(), nodes });
        assert!(pool(vec![]).takes_away());
        assert!(pool(vec![node(false)]).takes_away());
        assert!(!pool(vec![node(false), node(true)]).takes_away());
        let set = |ipv4: &[&str]| {
            Intent::AddressSet(m::AddressSet {
                ipv4: ipv4.iter().map(ToString::to_string).collect(),
                ..m::AddressSet::default()
            })
        };
        assert!(set(&[]).takes_away());
        assert!(!set(&["192.0.2.1"]).takes_away());
    }

    #[test]
    fn a_retire_names_what_it_destroys() {
        let retire = m::Retire {
            kind: Kind::Webroot as i32,
            key: "web_a".into(),
            incarnation: 7,
            tenant_id: "t_a".into(),
        };
        assert!(Intent::parse(&Key::new(Kind::Retire, "webroot/web_a"), &retire.encode_to_vec()).is_ok());
        assert!(problem(&Key::new(Kind::Retire, "webroot/web_b"), &retire).starts_with("key: "));
        let all = m::Retire { key: "..".into(), ..retire.clone() };
        assert!(problem(&Key::new(Kind::Retire, "webroot/.."), &all).starts_with("key: "));
        let ever = m::Retire { incarnation: 0, ..retire };
        assert!(problem(&Key::new(Kind::Retire, "webroot/web_a"), &ever).starts_with("incarnation: "));
    }

    #[test]
    fn a_webroot_has_a_sound_folder_and_sound_php_settings() {
        let key = Key::new(Kind::Webroot, "web_a");
        let good = m::Webroot {
            tenant_id: "t_a".into(),
            runtime: "php".into(),
            runtime_version: "8.2".into(),
            public_folder: "current/public".into(),
            shard_name: "s".into(),
            php: Some(m::PhpPool::default()),
            incarnation: 1,
            ..m::Webroot::default()
        };
        assert!(Intent::parse(&key, &good.encode_to_vec()).is_ok());
        let bad = m::Webroot { public_folder: "...".into(), ..good.clone() };
        assert!(problem(&key, &bad).starts_with("public_folder: "));
        let bad = m::Webroot { runtime_version: "../8".into(), ..good.clone() };
        assert!(problem(&key, &bad).starts_with("runtime_version: "));
        let bad = m::Webroot {
            php: Some(m::PhpPool { max_children: 201, ..m::PhpPool::default() }),
            ..good.clone()
        };
        assert!(problem(&key, &bad).starts_with("php: pm.max_children: "));
        let env = |name: &str, value: Option<m::env_value::Value>| m::Webroot {
            env: [(name.to_owned(), m::EnvValue { value })].into(),
            ..good.clone()
        };
        let plain = |text: &str| Some(m::env_value::Value::Plain(text.to_owned()));
        assert!(Intent::parse(&key, &env("A", plain("b")).encode_to_vec()).is_ok());
        for bad in [env("A]", plain("b")), env("A", plain("b\nuser = root")), env("A", None)] {
            assert!(problem(&key, &bad).starts_with("env: "));
        }
        assert!(
            problem(&key, &env("A", Some(m::env_value::Value::Sealed(m::Sealed::default()))))
                .starts_with("env: ")
        );
        let values = [("session.save_path".to_owned(), "tcp://x;/storage/t_b/tmp".to_owned())].into();
        let bad = m::Webroot { php: Some(m::PhpPool { values, ..m::PhpPool::default() }), ..good };
        assert!(problem(&key, &bad).starts_with("php: php_values.session.save_path: "));
    }
}
