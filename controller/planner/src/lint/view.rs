//! As much of a zone as its findings need.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::name::is_in_zone;
use hosting_resource::kinds::zone::Zone;
use hosting_resource::kinds::zone_record::ZoneRecord;
use hosting_resource::{Doc, Kind};

use super::Data;
use crate::fields::{SUFFIX_FACET, is_deleting};
use crate::kinds::zone_record::is_auto;
use crate::{PlanError, World, read};

/// Zones below a zone that are looked for; those that hold a name that is looked at are always found.
const MAX_BELOW: u32 = 200;

/// A record at a name.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record_type: String,
    /// Seconds.
    pub(super) ttl: u64,
    pub(super) data: Data,
    /// Whether the platform keeps it.
    pub(super) auto: bool,
}

/// Records of a zone by name, and which names are known to have no others.
#[derive(Debug, Default)]
pub(super) struct ZoneView {
    name: String,
    names: BTreeMap<String, Vec<Entry>>,
    /// All records are here.
    complete: bool,
    /// Names that were looked up one by one.
    known: BTreeSet<String>,
    /// Ids of the records that are here.
    ids: BTreeSet<String>,
    /// Zones of the platform that lie in this one.
    below: BTreeSet<String>,
    /// The zone's own name servers; with the zone of the platform that holds the name, when that is another.
    servers: Vec<(String, Option<ZoneView>)>,
}

impl ZoneView {
    /// The first `most` records of a zone.
    pub(super) async fn whole(
        world: &mut dyn World,
        zone: &Doc<Zone>,
        most: usize,
    ) -> Result<Self, PlanError> {
        let mut view = Self::empty(zone);
        let limit = u32::try_from(most).unwrap_or(u32::MAX).saturating_add(1);
        let records = world.children(Kind::ZoneRecord, &zone.id, "", limit).await?;
        view.complete = records.len() <= most;
        for record in records.into_iter().take(most) {
            view.add(&Doc::read(record)?);
        }
        let below = world.with_facet(Kind::Zone, SUFFIX_FACET, &zone.spec.name, "", MAX_BELOW).await?;
        let below = below.iter().filter(|other| other.id != zone.id && !is_deleting(other));
        view.below = below.map(|other| other.label.clone()).collect();
        view.look_at_servers(world, zone).await?;
        Ok(view)
    }

    /// What lies at some names of a zone, above them, and where their records point.
    pub(super) async fn around(
        world: &mut dyn World,
        zone: &Doc<Zone>,
        names: &[String],
    ) -> Result<Self, PlanError> {
        let mut view = Self::empty(zone);
        for name in names {
            view.look_up(world, zone, name).await?;
        }
        let targets: BTreeSet<String> = names
            .iter()
            .flat_map(|name| view.at(name))
            .filter_map(|entry| entry.data.target().map(str::to_owned))
            .collect();
        for target in targets {
            view.look_up(world, zone, &target).await?;
        }
        view.look_at_servers(world, zone).await?;
        Ok(view)
    }

    fn empty(zone: &Doc<Zone>) -> Self {
        Self { name: zone.spec.name.clone(), ..Self::default() }
    }

    /// Reads a name, the names above it, and the wildcards beside those.
    async fn look_up(
        &mut self,
        world: &mut dyn World,
        zone: &Doc<Zone>,
        name: &str,
    ) -> Result<(), PlanError> {
        if !is_in_zone(name, &self.name) {
            return Ok(());
        }
        if let Some(closest) = read::zone_over(world, name).await?.filter(|closest| closest.id != zone.id) {
            self.below.insert(closest.spec.name.clone());
        }
        let mut rest = name;
        loop {
            for name in [rest.to_owned(), format!("*.{rest}")] {
                if self.known.insert(name.clone()) {
                    for record in read::records_at(world, &zone.id, &name).await? {
                        self.add(&record);
                    }
                }
            }
            match rest.split_once('.') {
                Some((_, above)) if is_in_zone(above, &self.name) => rest = above,
                Some(_) | None => return Ok(()),
            }
        }
    }

    async fn look_at_servers(&mut self, world: &mut dyn World, zone: &Doc<Zone>) -> Result<(), PlanError> {
        let Some(brand) = read::brand_of(world, zone).await? else { return Ok(()) };
        let servers = [brand.spec.primary_ns.clone(), brand.spec.secondary_ns.clone()];
        let servers: BTreeSet<String> = servers.into_iter().filter(|name| !name.is_empty()).collect();
        for server in servers {
            let holder = read::zone_over(world, &server).await?;
            let elsewhere = match holder.filter(|holder| holder.id != zone.id) {
                Some(other) => {
                    let mut view = Self::empty(&other);
                    view.look_up(world, &other, &server).await?;
                    Some(view)
                }
                None => {
                    if !self.complete {
                        self.look_up(world, zone, &server).await?;
                    }
                    None
                }
            };
            self.servers.push((server, elsewhere));
        }
        Ok(())
    }

    fn add(&mut self, record: &Doc<ZoneRecord>) {
        if is_deleting(record) || !self.ids.insert(record.id.clone()) {
            return;
        }
        let auto = is_auto(record);
        let data = if auto { Data::Text(String::new()) } else { read::data_of(record, &self.name) };
        self.names.entry(record.spec.name.clone()).or_default().push(Entry {
            record_type: record.spec.record_type.clone(),
            ttl: record.spec.ttl.into(),
            data,
            auto,
        });
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether everything at `name` is in the view.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.complete || self.known.contains(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (&str, &[Entry])> {
        self.names.iter().map(|(name, entries)| (name.as_str(), entries.as_slice()))
    }

    pub(super) fn name_at(&self, name: &str) -> Option<(&str, &[Entry])> {
        self.names.get_key_value(name).map(|(name, entries)| (name.as_str(), entries.as_slice()))
    }

    pub(super) fn at(&self, name: &str) -> &[Entry] {
        self.names.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The zone of the platform with exactly this name, in this one.
    pub(super) fn zone_below(&self, name: &str) -> Option<&str> {
        self.below.get(name).map(String::as_str)
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = (&str, Option<&ZoneView>)> {
        self.servers.iter().map(|(server, elsewhere)| (server.as_str(), elsewhere.as_ref()))
    }
}
