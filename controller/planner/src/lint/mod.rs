//! What is wrong with a zone as a whole: records that are never answered, targets that lead nowhere, sets of several TTLs.
//!
//! Each record was checked alone when it was written. What is found here may be on its way to be right, so it is told, never
//! refused. [`ZoneView::findings`] is pure; how much of a zone a view holds is bounded: a whole zone up to [`MAX_RECORDS`]
//! records, and of a larger one what lies around the names that a change speaks of.

mod view;

use std::collections::BTreeSet;

use hosting_intent::name::is_in_zone;
use hosting_resource::kinds::zone::Zone;
use hosting_resource::kinds::zone_record::ZoneRecord;
use hosting_resource::{Doc, Id, Kind, Resource, Warning};

use crate::read::Data;
use crate::{PlanError, World, read};
use view::{Entry, ZoneView};

/// Most records of a zone that are looked at for one answer.
pub const MAX_RECORDS: usize = 500;
/// Most records of a zone that are looked at for a change of one of them; of a larger zone, those around its names are.
const MAX_AROUND: usize = 100;
/// Aliases that are followed, as name servers do.
const MAX_ALIASES: usize = 16;
/// Most warnings of one answer.
const MAX_WARNINGS: usize = 50;

/// Code of what is wrong with a zone's own name servers.
const SERVERS: &str = "name_server_without_address";

/// Something wrong, and the names that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    warning: Warning,
    about: BTreeSet<String>,
}

fn finding(
    code: &'static str,
    (owner, record_type): (&str, &str),
    message: String,
    remedy: &str,
    others: &[&str],
) -> Finding {
    let record = format!("{owner} {record_type}");
    Finding {
        warning: Warning { code, field: String::new(), record, message, remedy: remedy.to_owned() },
        about: others.iter().copied().chain([owner]).map(str::to_owned).collect(),
    }
}

/// What is wrong with a zone, as far as its first [`MAX_RECORDS`] records show.
///
/// # Errors
/// When a read fails.
pub async fn of_zone(world: &mut dyn World, zone: &Resource) -> Result<Vec<Warning>, PlanError> {
    let view = ZoneView::whole(world, &Doc::of(zone)?, MAX_RECORDS).await?;
    let mut warnings = bounded(view.findings());
    if !view.is_complete() {
        warnings.push(Warning {
            code: "zone_partly_checked",
            field: String::new(),
            record: String::new(),
            message: format!("the zone has more than {MAX_RECORDS} records; only so many were looked at"),
            remedy: "the answer to each change of a record says what is wrong with that one".to_owned(),
        });
    }
    Ok(warnings)
}

/// What is wrong with a zone that concerns one host name: the zone's own name servers, and the records of the name.
///
/// # Errors
/// When a read fails.
pub async fn of_name(world: &mut dyn World, zone: &Resource, name: &str) -> Result<Vec<Warning>, PlanError> {
    let zone = &Doc::of(zone)?;
    let view = ZoneView::around(world, zone, &[name.to_owned()]).await?;
    let concerns = |finding: &Finding| finding.warning.code == SERVERS || finding.about.contains(name);
    Ok(bounded(view.findings().into_iter().filter(concerns)))
}

/// What is wrong with a resource that is read: with a zone as a whole. Nothing of other kinds.
///
/// # Errors
/// When a read fails.
pub async fn of_read(world: &mut dyn World, resource: &Resource) -> Result<Vec<Warning>, PlanError> {
    if resource.kind == Kind::Zone { of_zone(world, resource).await } else { Ok(Vec::new()) }
}

/// What a change of `resource` has to do with: a record in its zone; a new zone, and the records that it hides in the zone
/// above. Nothing for other kinds.
///
/// # Errors
/// When a read fails.
pub async fn of_change(world: &mut dyn World, resource: &Resource) -> Result<Vec<Warning>, PlanError> {
    if resource.kind == Kind::Zone {
        let mut warnings = of_zone(world, resource).await?;
        let name = resource.label.as_str();
        if let Some((_, parent)) = name.split_once('.')
            && let Some(above) = read::zone_over(world, parent).await?
        {
            let view = ZoneView::whole(world, &above, MAX_RECORDS).await?;
            let hidden = view.findings().into_iter().filter(|finding| finding.about.contains(name));
            warnings.extend(bounded(hidden));
        }
        return Ok(warnings);
    }
    if resource.kind != Kind::ZoneRecord {
        return Ok(Vec::new());
    }
    let record = Doc::<ZoneRecord>::of(resource)?;
    let zone = read::get(world, &Id::<Zone>::from(resource.parent.as_deref().unwrap_or_default())).await?;
    let Some(zone) = zone else { return Ok(Vec::new()) };
    let name = record.spec.name.as_str();
    let mut view = ZoneView::whole(world, &zone, MAX_AROUND).await?;
    if !view.is_complete() {
        view = ZoneView::around(world, &zone, &[name.to_owned()]).await?;
    }
    // That the zone's servers have no address is no matter of the other records beside them.
    let concerns = |finding: &Finding| {
        finding.about.contains(name) && (finding.warning.code != SERVERS || name != view.name())
    };
    Ok(bounded(view.findings().into_iter().filter(concerns)))
}

fn bounded(findings: impl IntoIterator<Item = Finding>) -> Vec<Warning> {
    findings.into_iter().map(|finding| finding.warning).take(MAX_WARNINGS).collect()
}

/// Who answers for a name of the zone instead of it.
enum Cover<'a> {
    /// A more specific zone of this platform.
    Zone(&'a str),
    /// The name servers of a delegation.
    Cut(&'a str),
}

/// What lies at a name that a record points at.
enum Found {
    Address,
    Alias,
    /// Records, but no address.
    Other,
    Nothing,
    /// It is not this zone's to know, or not in the view.
    Unknown,
}

impl ZoneView {
    /// Everything that is wrong, by name and type.
    fn findings(&self) -> Vec<Finding> {
        let mut findings = self.server_findings();
        for (owner, entries) in self.names() {
            match self.cover(owner) {
                Some(cover) => {
                    findings.extend(entries.iter().filter_map(|entry| self.hidden(owner, entry, &cover)));
                }
                None => findings.extend(ttl_findings(owner, entries)),
            }
            let shown = |entry: &&Entry| entry.record_type == "NS" || self.cover(owner).is_none();
            findings
                .extend(entries.iter().filter(shown).filter_map(|entry| self.target_finding(owner, entry)));
        }
        findings
    }

    /// The zone's own name servers, which the platform writes into every zone of the brand.
    fn server_findings(&self) -> Vec<Finding> {
        let apex = self.name();
        self.servers()
            .filter_map(|(server, elsewhere)| {
                let found = match elsewhere {
                    Some(zone) => zone.found(server),
                    None if is_in_zone(server, apex) => self.found(server),
                    None => Found::Unknown,
                };
                let problem = match found {
                    Found::Other | Found::Nothing => "has no address",
                    Found::Alias => "is an alias (RFC 2181 §10.3)",
                    Found::Address | Found::Unknown => return None,
                };
                Some(finding(
                    SERVERS,
                    (apex, "NS"),
                    format!("the zone's name server {server} {problem}, so that resolvers may not find the zone"),
                    "make A and AAAA records of the name server in the zone that holds its name, or give the brand others",
                    &[server],
                ))
            })
            .collect()
    }

    fn hidden(&self, owner: &str, entry: &Entry, cover: &Cover<'_>) -> Option<Finding> {
        let record_type = entry.record_type.as_str();
        let at = (owner, record_type);
        match cover {
            // The delegation to a zone of one's own; automatic records are made in that zone.
            Cover::Zone(zone) if entry.auto || (*zone == owner && record_type == "NS") => None,
            Cover::Zone(zone) => Some(finding(
                "hidden_by_zone",
                at,
                format!("{owner} {record_type} is never answered: the zone {zone} answers for the name"),
                "make the record in that zone, and delete it here",
                &[zone],
            )),
            Cover::Cut(cut) if *cut == owner && record_type == "NS" => None,
            Cover::Cut(cut) => {
                let servers = self.at(cut).iter().filter_map(|entry| entry.data.target());
                let is_glue =
                    matches!(record_type, "A" | "AAAA") && servers.into_iter().any(|server| server == owner);
                (!is_glue).then(|| {
                    finding(
                        "hidden_by_delegation",
                        at,
                        format!(
                            "{owner} {record_type} is never answered: the NS records of {cut} say that others answer for it"
                        ),
                        "make the record at those name servers, or delete the NS records",
                        &[cut],
                    )
                })
            }
        }
    }

    fn target_finding(&self, owner: &str, entry: &Entry) -> Option<Finding> {
        let record_type = entry.record_type.as_str();
        let target = entry.data.target().filter(|target| !entry.auto && !target.is_empty())?;
        let at = (owner, record_type);
        if target.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
            let message =
                format!("{owner} {record_type} points at {target}, which is an address and no host name");
            let remedy = "make an A or AAAA record of the address, and point at its name";
            return Some(finding("target_is_address", at, message, remedy, &[target]));
        }
        if !is_in_zone(target, self.name()) {
            return None;
        }
        // A name server below its own delegation is found by the addresses that stand here.
        let needs_glue = record_type == "NS" && is_in_zone(target, owner);
        let found = match self.cover(target) {
            Some(Cover::Cut(cut)) if needs_glue && cut == owner => self.stored(target),
            Some(_) => Found::Unknown,
            None => self.found(target),
        };
        let remedy = "make an A or AAAA record of the target, or point at another name";
        match found {
            Found::Alias if record_type != "CNAME" => Some(finding(
                "target_is_alias",
                at,
                format!("{owner} {record_type} points at {target}, which is a CNAME (RFC 2181 §10.3)"),
                "point at the name that the CNAME names",
                &[target],
            )),
            Found::Alias if self.leads_back(owner, target) => Some(finding(
                "alias_loop",
                at,
                format!("{owner} CNAME leads back to itself by {target}"),
                "point at a name that has addresses",
                &[target],
            )),
            Found::Nothing => Some(finding(
                "target_missing",
                at,
                format!("{owner} {record_type} points at {target}, which does not exist in the zone"),
                remedy,
                &[target],
            )),
            Found::Other if record_type != "CNAME" => Some(finding(
                "target_without_address",
                at,
                format!("{owner} {record_type} points at {target}, which has no address"),
                remedy,
                &[target],
            )),
            Found::Address | Found::Alias | Found::Other | Found::Unknown => None,
        }
    }

    /// Whether the aliases from `target` on come back to `owner`.
    fn leads_back(&self, owner: &str, target: &str) -> bool {
        let mut name = target;
        for _ in 0..MAX_ALIASES {
            if name == owner {
                return true;
            }
            let alias = self.at(name).iter().find(|entry| entry.record_type == "CNAME");
            match alias.and_then(|entry| entry.data.target()) {
                Some(next) => name = next,
                None => return false,
            }
        }
        false
    }

    /// Who answers for `name`, when it is not the zone itself: the one closest to the apex.
    fn cover(&self, name: &str) -> Option<Cover<'_>> {
        let above = name.strip_suffix(self.name())?;
        let mut starts: Vec<usize> = above.match_indices('.').map(|(at, _)| at + 1).collect();
        starts.pop();
        starts.insert(0, 0);
        if above.is_empty() {
            return None;
        }
        starts.iter().rev().filter_map(|start| name.get(*start..)).find_map(|ancestor| {
            if let Some(zone) = self.zone_below(ancestor) {
                return Some(Cover::Zone(zone));
            }
            let (owner, entries) = self.name_at(ancestor)?;
            let is_cut = !owner.starts_with("*.") && entries.iter().any(|entry| entry.record_type == "NS");
            is_cut.then_some(Cover::Cut(owner))
        })
    }

    /// What a query for an address of `name` finds, by a wildcard too.
    fn found(&self, name: &str) -> Found {
        if self.cover(name).is_some() {
            return Found::Unknown;
        }
        match self.stored(name) {
            Found::Nothing => {}
            found @ (Found::Address | Found::Alias | Found::Other | Found::Unknown) => return found,
        }
        let mut rest = name;
        while let Some((_, above)) = rest.split_once('.')
            && is_in_zone(above, self.name())
        {
            match self.stored(&format!("*.{above}")) {
                Found::Nothing => rest = above,
                found @ (Found::Address | Found::Alias | Found::Other | Found::Unknown) => return found,
            }
        }
        Found::Nothing
    }

    /// What is stored at exactly `name`.
    fn stored(&self, name: &str) -> Found {
        let entries = self.at(name);
        let has = |types: &[&str]| entries.iter().any(|entry| types.contains(&entry.record_type.as_str()));
        if has(&["CNAME"]) {
            Found::Alias
        } else if has(&["A", "AAAA"]) {
            Found::Address
        } else if !entries.is_empty() {
            Found::Other
        } else if self.knows(name) {
            Found::Nothing
        } else {
            Found::Unknown
        }
    }
}

fn ttl_findings(owner: &str, entries: &[Entry]) -> Vec<Finding> {
    let types: BTreeSet<&str> =
        entries.iter().filter(|entry| !entry.auto).map(|entry| entry.record_type.as_str()).collect();
    let of = |record_type: &str| {
        let set = entries.iter().filter(|entry| !entry.auto && entry.record_type == record_type);
        let ttls: BTreeSet<u64> = set.map(|entry| entry.ttl).collect();
        let shortest = ttls.first().filter(|_| ttls.len() > 1)?;
        let all: Vec<String> = ttls.iter().map(ToString::to_string).collect();
        Some(finding(
            "ttls_differ",
            (owner, record_type),
            format!(
                "the {record_type} records of {owner} have the TTLs {}; all are served with {shortest} (RFC 2181 §5.2)",
                all.join(", ")
            ),
            "give the records of one name and type one TTL",
            &[],
        ))
    };
    types.into_iter().filter_map(of).collect()
}
