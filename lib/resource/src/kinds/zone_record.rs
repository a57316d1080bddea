//! A record of a zone.

use std::net::{Ipv4Addr, Ipv6Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::definition::{Build, Definition, to_map};
use crate::{
    Codes, Entropy, Facet, IdPolicy, Index, Kind, KindInfo, NewResource, OwnerRef, Parent, Resource,
    SpecError, Status, Tier, check,
};

/// Types that are served.
pub const TYPES: &[&str] = &["A", "AAAA", "CNAME", "MX", "TXT", "NS", "CAA", "SRV"];

/// Types of the vocabulary that are not served yet.
const LATER: &[&str] =
    &["PTR", "ALIAS", "HTTPS", "SVCB", "TLSA", "DNSKEY", "DS", "NAPTR", "LOC", "SSHFP", "DNAME"];

/// TTL of custom records when none is given, in seconds.
pub const DEFAULT_TTL: u32 = 3600;

/// TTL of automatic records, in seconds.
pub const AUTO_TTL: u32 = 300;

/// Who made a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ManagedBy {
    /// A user.
    #[default]
    Custom,
    /// The platform: it cannot be edited, only overridden.
    Auto,
}

/// What is stored of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ZoneRecordSpec {
    /// One of [`TYPES`].
    #[serde(rename = "type")]
    pub record_type: String,
    /// Absolute owner name: lower case, no trailing dot; `*.` in front for wildcards.
    pub name: String,
    /// The name as the user wrote it, which the API shows; empty: as `name`.
    #[serde(default)]
    pub written_name: String,
    /// RDATA as the user wrote it, without the priority; see [`rdata`].
    pub content: String,
    /// Seconds.
    pub ttl: u32,
    /// MX and SRV.
    #[serde(default)]
    pub priority: Option<u16>,
    /// Who made it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// What an automatic record follows from, e.g. `fqdn`; empty for custom ones.
    #[serde(default)]
    pub source_type: String,
    /// The FQDN that an automatic record follows from.
    #[serde(default)]
    pub source_fqdn_id: Option<String>,
}

/// Body of POST /zones/{zoneID}/records.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ZoneRecordCreate {
    /// A, AAAA, CNAME, MX, TXT, NS, CAA or SRV; the other types are answered with 501.
    #[serde(rename = "type")]
    record_type: String,
    /// `@`, a name relative to the zone, or an absolute one inside it; `*` and `*.x` for wildcards.
    name: String,
    /// A, AAAA: an address. CNAME, NS, MX: a host name. TXT: the text. SRV: `weight port target`. CAA: `flag tag value`.
    content: String,
    #[serde(default)]
    #[schemars(range(min = 60, max = 86400))]
    ttl: Option<i64>,
    /// Required for MX and SRV, forbidden otherwise.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    priority: Option<i64>,
}

/// Body of PUT /zone-records/{id}.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ZoneRecordUpdate {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    #[schemars(range(min = 60, max = 86400))]
    ttl: Option<i64>,
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    priority: Option<i64>,
}

/// What is shown in the place of the spec's.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ZoneRecordExtra {
    /// As it was written: clients look for their records by the names that they gave them.
    name: String,
}

/// The absolute owner name that a user's name means in a zone.
///
/// `@` is the apex. A name that ends with a dot, or with the zone's name, is absolute. Any other is relative to the zone.
fn absolute(field: &str, name: &str, zone: &str) -> Result<String, SpecError> {
    if name.is_empty() {
        return Err(SpecError::invalid(field, "is required; @ for the zone itself"));
    }
    if name == "@" {
        return Ok(zone.to_owned());
    }
    let (star, rest) = match name.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None if name == "*" => (true, ""),
        None => (false, name),
    };
    let under = |name: &str| name == zone || name.strip_suffix(zone).is_some_and(|left| left.ends_with('.'));
    let base = if rest.is_empty() {
        zone.to_owned()
    } else {
        let host = check::host(field, rest)?;
        if under(&host) {
            host
        } else if rest.ends_with('.') {
            return Err(SpecError::invalid(field, format!("{name:?} does not lie in the zone {zone}")));
        } else {
            format!("{host}.{zone}")
        }
    };
    let owner = if star { format!("*.{base}") } else { base };
    if owner.len() > 253 {
        return Err(SpecError::invalid(field, "a name has at most 253 bytes, the zone's included"));
    }
    Ok(owner)
}

/// A host name in RDATA: absolute with a trailing dot. A single label is relative to the zone, `@` is the zone.
fn target(field: &str, name: &str, zone: &str) -> Result<String, SpecError> {
    if name == "@" {
        return Ok(format!("{zone}."));
    }
    let host = check::host(field, name)?;
    let host = if host.contains('.') || name.ends_with('.') { host } else { format!("{host}.{zone}") };
    if host.len() > 253 {
        return Err(SpecError::invalid(field, "a name has at most 253 bytes, the zone's included"));
    }
    Ok(format!("{host}."))
}

/// The record's RDATA in presentation form (RFC 1035 §5.1), names absolute: what the RRset of the zone `zone` holds.
///
/// # Errors
/// Content that its type does not allow.
pub fn rdata(spec: &ZoneRecordSpec, zone: &str) -> Result<String, SpecError> {
    let field = "content";
    let content = spec.content.trim();
    if content.is_empty() {
        return Err(SpecError::invalid(field, "is required"));
    }
    let wants_priority = matches!(spec.record_type.as_str(), "MX" | "SRV");
    let priority = match (wants_priority, spec.priority) {
        (true, Some(priority)) => priority,
        (true, None) => {
            return Err(SpecError::invalid("priority", format!("is required for {}", spec.record_type)));
        }
        (false, Some(_)) => {
            return Err(SpecError::invalid("priority", format!("is not allowed for {}", spec.record_type)));
        }
        (false, None) => 0,
    };
    match spec.record_type.as_str() {
        "A" => content
            .parse::<Ipv4Addr>()
            .map(|address| address.to_string())
            .map_err(|_| SpecError::invalid(field, format!("{content:?} is no IPv4 address"))),
        "AAAA" => content
            .parse::<Ipv6Addr>()
            .map(|address| address.to_string())
            .map_err(|_| SpecError::invalid(field, format!("{content:?} is no IPv6 address"))),
        "CNAME" | "NS" => target(field, content, zone),
        "MX" => Ok(format!("{priority} {}", target(field, content, zone)?)),
        "TXT" => txt(field, &spec.content),
        "SRV" => {
            let wrong = || SpecError::invalid(field, "must be: weight port target");
            let mut parts = content.split_ascii_whitespace();
            let mut next = || parts.next().ok_or_else(wrong);
            let weight: u16 = next()?.parse().map_err(|_| wrong())?;
            let port: u16 = next()?.parse().map_err(|_| wrong())?;
            let host = next()?;
            if parts.next().is_some() {
                return Err(wrong());
            }
            let host = if host == "." { ".".to_owned() } else { target(field, host, zone)? };
            Ok(format!("{priority} {weight} {port} {host}"))
        }
        "CAA" => caa(field, content),
        other => Err(SpecError::invalid("type", format!("{other:?} is no record type that is served"))),
    }
}

/// `flag tag value` as `flag tag "value"` (RFC 8659 §4.1).
fn caa(field: &str, content: &str) -> Result<String, SpecError> {
    const TAGS: &[&str] = &["issue", "issuewild", "iodef", "contactemail", "contactphone"];
    let wrong = |problem: &str| SpecError::invalid(field, problem);
    let mut parts = content.splitn(3, |c: char| c.is_ascii_whitespace());
    let (Some(flag), Some(tag), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong("must be: flag tag value"));
    };
    let flag: u8 = flag.parse().map_err(|_| wrong("the flag must be between 0 and 255"))?;
    let tag = tag.to_ascii_lowercase();
    check::one_of(field, &tag, TAGS)?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    if value.contains('"') || value.contains('\\') || !value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Err(wrong("the value must be printable ASCII without quotes and backslashes"));
    }
    if value.len() > 1024 {
        return Err(wrong("the value has at most 1024 characters"));
    }
    Ok(format!("{flag} {tag} \"{value}\""))
}

/// A text as quoted character-strings of at most 255 bytes (RFC 1035 §3.3.14). Content that is already a sequence of quoted
/// strings keeps its strings.
fn txt(field: &str, content: &str) -> Result<String, SpecError> {
    if !(1..=4096).contains(&content.len()) {
        return Err(SpecError::invalid(field, "must have 1 to 4096 bytes"));
    }
    let strings = quoted(content).unwrap_or_else(|| vec![content.as_bytes().to_vec()]);
    let chunks: Vec<_> = strings
        .iter()
        .flat_map(|bytes| {
            if bytes.is_empty() { vec![String::new()] } else { bytes.chunks(255).map(escaped).collect() }
        })
        .map(|text| format!("\"{text}\""))
        .collect();
    Ok(chunks.join(" "))
}

/// The strings of `"a" "b"`, escapes resolved; `None` when the content is anything else.
fn quoted(content: &str) -> Option<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    let mut bytes = content.trim().bytes().peekable();
    while let Some(open) = bytes.next() {
        if open != b'"' {
            return None;
        }
        let mut text = Vec::new();
        loop {
            match bytes.next()? {
                b'"' => break,
                b'\\' => match bytes.next()? {
                    hundreds @ b'0'..=b'9' => {
                        let mut value = u32::from(hundreds - b'0');
                        for _ in 0..2 {
                            let digit = bytes.next().filter(u8::is_ascii_digit)?;
                            value = value * 10 + u32::from(digit - b'0');
                        }
                        text.push(u8::try_from(value).ok()?);
                    }
                    other => text.push(other),
                },
                other => text.push(other),
            }
        }
        strings.push(text);
        while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
    }
    (!strings.is_empty()).then_some(strings)
}

fn escaped(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len() + 8);
    for byte in bytes {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            0x20..=0x7e => out.push(char::from(*byte)),
            // Writing to a String does not fail.
            other => drop(write!(out, "\\{other:03}")),
        }
    }
    out
}

fn ttl(given: i64) -> Result<u32, SpecError> {
    check::between("ttl", given, 60, 86400)?;
    u32::try_from(given).map_err(|_| SpecError::invalid("ttl", "must be between 60 and 86400"))
}

fn priority(given: i64) -> Result<u16, SpecError> {
    check::between("priority", given, 0, 65535)?;
    u16::try_from(given).map_err(|_| SpecError::invalid("priority", "must be between 0 and 65535"))
}

fn check_type(record_type: &str) -> Result<(), SpecError> {
    if TYPES.contains(&record_type) {
        Ok(())
    } else if LATER.contains(&record_type) {
        Err(SpecError::NotServed {
            field: "type".to_owned(),
            detail: format!("records of type {record_type} are not served by this platform yet"),
        })
    } else {
        Err(SpecError::invalid("type", format!("{record_type:?} must be one of {}", TYPES.join(", "))))
    }
}

/// An automatic record of `zone`. `name` is absolute; the content is for people, the platform answers with what it follows from.
///
/// # Errors
/// A type that is not served.
pub fn automatic(
    zone: &Resource,
    record_type: &str,
    name: &str,
    content: &str,
    source_type: &str,
    source_fqdn_id: Option<&str>,
    entropy: Entropy<'_>,
) -> Result<NewResource, SpecError> {
    check_type(record_type)?;
    let spec = ZoneRecordSpec {
        record_type: record_type.to_owned(),
        name: name.to_owned(),
        written_name: String::new(),
        content: content.to_owned(),
        ttl: AUTO_TTL,
        priority: None,
        managed_by: ManagedBy::Auto,
        source_type: source_type.to_owned(),
        source_fqdn_id: source_fqdn_id.map(str::to_owned),
    };
    Ok(NewResource {
        kind: Kind::ZoneRecord,
        id: crate::uuid(entropy),
        parent: Some(zone.id.clone()),
        owner: Some(OwnerRef { field: "zone_id", kind: Kind::Zone, id: zone.id.clone() }),
        label: ZoneRecord::label("", &spec),
        status: Status::Active,
        spec: to_map(&spec)?,
    })
}

pub(crate) struct ZoneRecord;

impl Definition for ZoneRecord {
    type Spec = ZoneRecordSpec;
    type Create = ZoneRecordCreate;
    type Update = ZoneRecordUpdate;
    type Extra = ZoneRecordExtra;

    const INFO: KindInfo = KindInfo {
        kind: Kind::ZoneRecord,
        title: "Zone record",
        about: "A record of a zone.",
        collection: "/zones/{zoneID}/records",
        item: "/zone-records/{id}",
        parent: Some(Parent { kind: Kind::Zone, param: "zoneID", field: "zone_id" }),
        lists: &[],
        scope: "zone_records",
        tier: Tier::Brand,
        codes: Codes { create: 202, update: Some(202), delete: 202 },
        retry: true,
        id: IdPolicy::Uuid,
        shape: 1,
        status: true,
        sort: &[],
        search: None,
        filters: &["type", "managed_by"],
        global_search: false,
        hidden: &["written_name"],
        nullable: &[],
        joins: &[],
    };
    const INITIAL: Status = Status::Pending;

    fn create(
        input: ZoneRecordCreate,
        parent: Option<&Resource>,
        build: &mut Build<'_>,
    ) -> Result<(), SpecError> {
        let zone = parent.map(|zone| zone.label.as_str()).unwrap_or_default();
        let record_type = input.record_type.to_ascii_uppercase();
        check_type(&record_type)?;
        let name = absolute("name", &input.name, zone)?;
        if name == zone && record_type == "CNAME" {
            return Err(SpecError::invalid(
                "type",
                "a CNAME cannot stand at the zone's own name (RFC 1034 §3.6.2)",
            ));
        }
        if name == zone && record_type == "NS" {
            return Err(SpecError::invalid("type", "the zone's own name servers are those of its brand"));
        }
        let spec = ZoneRecordSpec {
            record_type,
            written_name: if input.name == name { String::new() } else { input.name },
            name,
            content: input.content,
            ttl: input.ttl.map_or(Ok(DEFAULT_TTL), ttl)?,
            priority: input.priority.map(priority).transpose()?,
            managed_by: ManagedBy::Custom,
            source_type: String::new(),
            source_fqdn_id: None,
        };
        rdata(&spec, zone)?;
        let id = build.id(Self::INFO.id, None)?;
        build.push::<Self>(id, parent.map(|parent| parent.id.as_str()), &spec)
    }

    fn update(
        spec: &mut ZoneRecordSpec,
        input: ZoneRecordUpdate,
        _: &Resource,
    ) -> Result<Option<Status>, SpecError> {
        if spec.managed_by == ManagedBy::Auto {
            return Err(SpecError::Forbidden(
                "auto-managed records cannot be edited; create a custom record to override",
            ));
        }
        if let Some(content) = input.content {
            spec.content = content;
        }
        if let Some(given) = input.ttl {
            spec.ttl = ttl(given)?;
        }
        if let Some(given) = input.priority {
            spec.priority = Some(priority(given)?);
        }
        // The zone's name matters only for the length of relative targets; the record's own name is at least as long.
        rdata(spec, &spec.name)?;
        Ok(None)
    }

    fn label(_: &str, spec: &ZoneRecordSpec) -> String {
        format!("{} {}", spec.name, spec.record_type)
    }

    fn index(resource: &Resource, spec: &ZoneRecordSpec, index: &mut Index) {
        let zone = resource.parent.as_deref().unwrap_or_default();
        let mut facet = |field, value: String| index.facets.push(Facet { field, value });
        facet("owner", format!("{zone}/{}", spec.name));
        facet("rr_set", format!("{zone}/{}/{}", spec.name, spec.record_type));
        facet("type", spec.record_type.clone());
        facet(
            "managed_by",
            match spec.managed_by {
                ManagedBy::Custom => "custom",
                ManagedBy::Auto => "auto",
            }
            .to_owned(),
        );
        if let Some(fqdn) = &spec.source_fqdn_id {
            facet("source_fqdn_id", fqdn.clone());
        }
    }

    fn extra(resource: &Resource) -> ZoneRecordExtra {
        let name = Some(resource.text("written_name")).filter(|name| !name.is_empty());
        ZoneRecordExtra { name: name.unwrap_or_else(|| resource.text("name")).to_owned() }
    }

    fn deletable(resource: &Resource) -> Result<(), SpecError> {
        match resource.typed::<ZoneRecordSpec>() {
            Ok(spec) if spec.managed_by == ManagedBy::Auto => Err(SpecError::Forbidden(
                "auto-managed records cannot be deleted; create a custom record to override",
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn example() -> Value {
        json!({"type": "MX", "name": "@", "content": "mail.customer-1.example", "ttl": 3600, "priority": 10})
    }
}
