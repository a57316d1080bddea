//! A record of a zone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fqdn::Fqdn;
use super::zone::Zone;
use crate::definition::{Build, Definition, to_map};
use crate::record_data::unescaped_name;
use crate::faults::Faults;
use crate::{Codes, Doc, Document, Entropy, Facet, Filter, Id, IdPolicy, Index, Kind, KindInfo, NewResource, OwnerRef, Owns, Parent, RecordData, PlainSecrets, Resource, SpecError, Status, Tier, check};

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
    /// The name relative to the zone, `@` for the zone itself, which the API shows when it was written so; empty: as `name`.
    #[serde(default)]
    pub written_name: String,
    /// RDATA without the priority, in its normal form ([`RecordData::content`]).
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
    pub source_fqdn_id: Option<Id<Fqdn>>,
}

/// Body of POST /zones/{zoneID}/records.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ZoneRecordCreate {
    /// A, AAAA, CNAME, MX, TXT, NS, CAA or SRV; the other types are answered with 501.
    #[serde(rename = "type")]
    record_type: String,
    /// `@`, a name relative to the zone, or an absolute one inside it; `*` and `*.x` for wildcards.
    name: String,
    /// A, AAAA: an address. CNAME, NS, MX: a host name; without a dot it is relative to the zone; MX `.`: no mail is taken.
    /// TXT: the text, or its strings in quotes as in a zone file. SRV: `weight port target`. CAA: `flag tag value`.
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
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    content: Option<String>,
    #[serde(default, deserialize_with = "crate::input::unless_empty")]
    #[schemars(range(min = 60, max = 86400))]
    ttl: Option<i64>,
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    priority: Option<i64>,
}

/// What is shown in the place of the spec's.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ZoneRecordExtra {
    /// In its normal form, relative to the zone if it was written so: clients look for their records by the names that they
    /// gave them.
    name: String,
    /// In its normal form: a host name is absolute and has no trailing dot.
    content: String,
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
    let name = unescaped_name(field, name)?;
    let (star, rest) = match name.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None if name == "*" => (true, ""),
        None => (false, name.as_str()),
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

/// The name as the API shows it: relative to the zone if it was written so, else as it is kept.
fn written(given: &str, name: &str, zone: &str) -> String {
    let is_apex = given == "@";
    match name.strip_suffix(zone).and_then(|rest| rest.strip_suffix('.')) {
        Some(relative)
            if !given.ends_with('.') && relative.split('.').count() == given.split('.').count() =>
        {
            relative.to_owned()
        }
        Some(_) | None if is_apex => given.to_owned(),
        Some(_) | None => String::new(),
    }
}

/// The record's RDATA in presentation form (RFC 1035 §5.1), names absolute: what the RRset of the zone `zone` holds.
///
/// # Errors
/// Content that its type does not allow.
pub fn rdata(spec: &ZoneRecordSpec, zone: &str) -> Result<String, SpecError> {
    data(spec, zone).map(|data| data.presentation(spec.priority))
}

/// The record's parsed data, as it is stored in the zone `zone`.
///
/// # Errors
/// Content that its type does not allow.
pub fn data(spec: &ZoneRecordSpec, zone: &str) -> Result<RecordData, SpecError> {
    RecordData::read(&spec.record_type, &spec.content, zone)
}

/// Checks what a user wrote into a record of the zone `zone`, and brings its content to the form that is kept.
///
/// # Errors
/// Content or priority that the type does not allow, or that cannot work.
pub fn normalise(spec: &mut ZoneRecordSpec, zone: &str) -> Result<(), SpecError> {
    let wants_priority = matches!(spec.record_type.as_str(), "MX" | "SRV");
    match (wants_priority, spec.priority) {
        (true, None) => {
            return Err(SpecError::invalid("priority", format!("is required for {}", spec.record_type)));
        }
        (false, Some(_)) => {
            return Err(SpecError::invalid("priority", format!("is not allowed for {}", spec.record_type)));
        }
        (true, Some(_)) | (false, None) => {}
    }
    let data = RecordData::accept(&spec.record_type, &spec.content, zone)?;
    if is_null_mx(spec, &data) && spec.priority != Some(0) {
        let problem =
            "must be 0 when the content is \".\", which says that the name takes no mail (RFC 7505 §3)";
        return Err(SpecError::invalid("priority", problem));
    }
    spec.content = data.content();
    Ok(())
}

/// Whether a record says that its name takes no mail (RFC 7505).
#[must_use]
pub fn is_null_mx(spec: &ZoneRecordSpec, data: &RecordData) -> bool {
    spec.record_type == "MX" && data.target().is_none()
}

/// The content as it is shown. What an older build kept as it was written shows in its normal form too, as far as that can be
/// told without the zone's name.
fn shown_content(spec: &ZoneRecordSpec) -> String {
    let (stored, record_type) = (spec.content.as_str(), spec.record_type.as_str());
    let host = stored.trim().rsplit([' ', '\t']).next().unwrap_or_default();
    let has_target = matches!(record_type, "CNAME" | "NS" | "MX" | "SRV");
    if spec.managed_by == ManagedBy::Auto || (has_target && !host.contains('.')) {
        return stored.to_owned();
    }
    RecordData::read(record_type, stored, "").map_or_else(|_| stored.to_owned(), |data| data.content())
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

/// The names of a zone are found by zone and absolute name.
fn owner_filter(field: &'static str, given: &str, zone: Option<&Resource>) -> Result<String, SpecError> {
    let (id, name) = zone.map(|zone| (zone.id.as_str(), zone.label.as_str())).unwrap_or_default();
    Ok(format!("{id}/{}", absolute(field, given, name)?))
}

fn type_filter(field: &'static str, given: &str, _: Option<&Resource>) -> Result<String, SpecError> {
    let record_type = given.to_ascii_uppercase();
    check::one_of(field, &record_type, TYPES).map(|()| record_type)
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
        source_fqdn_id: source_fqdn_id.map(Id::from),
    };
    Ok(NewResource {
        kind: Kind::ZoneRecord,
        id: crate::uuid(entropy),
        parent: Some(zone.id.clone()),
        owner: Some(OwnerRef { field: "zone_id", kind: Kind::Zone, id: zone.id.clone() }),
        label: ZoneRecord::label("", &spec),
        status: Status::Active,
        plain: PlainSecrets::default(),
        spec: to_map(&spec)?,
    })
}

/// An automatic record, as what it is for remembers it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AutoRecord {
    /// The zone that it stands in.
    pub zone: Id<Zone>,
    /// Its absolute name.
    pub name: String,
    /// `A` or `AAAA`.
    #[serde(rename = "type")]
    pub record_type: String,
    /// The record.
    pub id: Id<ZoneRecord>,
}

/// What the controller keeps about a record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ZoneRecordState {
    /// The FQDN or webroot that an automatic record is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// The kind.
#[derive(Debug, Clone, Copy)]
pub struct ZoneRecord;

impl Document for ZoneRecord {
    const KIND: Kind = Kind::ZoneRecord;
    type Spec = ZoneRecordSpec;
    type State = ZoneRecordState;
}

impl Definition for ZoneRecord {
    type Create = ZoneRecordCreate;
    type Update = ZoneRecordUpdate;
    type Extra = ZoneRecordExtra;

    const INFO: KindInfo = KindInfo {
        kind: Self::KIND,
        title: "Zone record",
        about: "A record of a zone.",
        collection: "/zones/{zoneID}/records",
        item: "/zone-records/{id}",
        parent: Some(Parent { kind: Kind::Zone, param: "zoneID", field: "zone_id" }),
        lists: &[],
        scope: "zone_records",
        tier: Tier::Brand,
        owns: Owns::Nothing,
        host_labels: true,
        suspends_with_tenant: false,
        codes: Codes { create: 202, update: Some(202), delete: 202 },
        retry: true,
        id: IdPolicy::Uuid,
        shape: 1,
        status: true,
        sort: &[],
        filters: &[
            Filter::facet("name", owner_filter).in_facet("owner"),
            Filter::facet("type", type_filter),
            Filter::facet("managed_by", |field, given, _| {
                check::one_of(field, given, &["custom", "auto"]).map(|()| given.to_owned())
            }),
        ],
        platform_only: &[],
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
        let mut faults = Faults::default();
        faults.note(check_type(&record_type));
        let name = faults.note(absolute("name", &input.name, zone)).unwrap_or_default();
        let ttl = faults.note(input.ttl.map_or(Ok(DEFAULT_TTL), ttl)).unwrap_or_default();
        let priority = faults.note(input.priority.map(priority).transpose()).unwrap_or_default();
        faults.end()?;
        if name == zone && record_type == "CNAME" {
            return Err(SpecError::invalid(
                "type",
                "a CNAME cannot stand at the zone's own name (RFC 1034 §3.6.2)",
            ));
        }
        if name == zone && record_type == "NS" {
            return Err(SpecError::invalid("type", "the zone's own name servers are those of its brand"));
        }
        if name.starts_with("*.") && record_type == "NS" {
            return Err(SpecError::invalid(
                "name",
                "a wildcard delegates nothing (RFC 4592 §4.2): make NS records at each name that others serve",
            ));
        }
        let mut spec = ZoneRecordSpec {
            record_type,
            written_name: written(&input.name, &name, zone),
            name,
            content: input.content,
            ttl,
            priority,
            managed_by: ManagedBy::Custom,
            source_type: String::new(),
            source_fqdn_id: None,
        };
        normalise(&mut spec, zone)?;
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
        if let Some(given) = input.ttl {
            spec.ttl = ttl(given)?;
        }
        if input.content.is_none() && input.priority.is_none() {
            return Ok(None);
        }
        if let Some(content) = input.content {
            spec.content = content;
        }
        if let Some(given) = input.priority {
            spec.priority = Some(priority(given)?);
        }
        // Only the planner knows the zone, and brings the content to its normal form ([`normalise`]). Here the zone's name
        // matters only for the length of relative targets, and the record's own name is at least as long.
        normalise(&mut spec.clone(), &spec.name)?;
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
            facet("source_fqdn_id", fqdn.to_string());
        }
    }

    fn extra(record: &Doc<Self>) -> ZoneRecordExtra {
        let spec = &record.spec;
        let name = if spec.written_name.is_empty() { &spec.name } else { &spec.written_name };
        ZoneRecordExtra {
            name: name.trim_end_matches('.').to_ascii_lowercase(),
            content: shown_content(spec),
        }
    }

    /// The text is looked at: this is asked of each record that is written.
    fn is_derived(record: &Resource) -> bool {
        record.text("managed_by") == "auto"
    }

    fn deletable(record: &Doc<Self>) -> Result<(), SpecError> {
        match record.spec.managed_by {
            ManagedBy::Custom => Ok(()),
            ManagedBy::Auto => Err(SpecError::Forbidden(
                "auto-managed records cannot be deleted; create a custom record to override",
            )),
        }
    }

    fn is_charged(spec: &ZoneRecordSpec) -> bool {
        spec.managed_by == ManagedBy::Custom
    }

    fn example() -> Value {
        json!({"type": "MX", "name": "@", "content": "mail.customer-1.example", "ttl": 3600, "priority": 10})
    }
}
