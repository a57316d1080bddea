//! Incidents with their events, and gaps in what programs can do. Records of operators, not resources: no machine hears of them.

use hosting_planner::Draft;
use serde_json::Value;

use crate::error::{from_sql, to_bound, to_sql};
use crate::sql::{QueryBuilder, Row};
use crate::{ReadTx, StoreError, WriteTx, batch, sql};

const INCIDENT: &str = "id, seq, brand, dedupe_key, type, severity, status, title, detail, resource_type, resource_id, source, \
                        assigned_to, resolution, detected_at, resolved_at, escalated_at, created_at, updated_at";
const GAP: &str = "id, brand, tool_name, description, category, occurrences, status, implemented_at, created_at, updated_at";
/// The counter of incidents and of their events.
const SEQ: &str = "incident_seq";
/// Incidents that were resolved lately and are looked at for how long that took.
const RESOLVED: i64 = 10_000;

/// Something that somebody has to look at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// The order in which they came; given when it is written first.
    pub seq: u64,
    /// Who may see it beside platform admins.
    pub brand: Option<String>,
    /// While it is open there is no other one of the brand with this.
    pub dedupe_key: String,
    /// What kind of trouble.
    pub incident_type: String,
    /// `critical`, `warning` or `info`.
    pub severity: String,
    /// `open`, `investigating`, `remediating`, `escalated`, `resolved` or `cancelled`.
    pub status: String,
    /// One line.
    pub title: String,
    /// More.
    pub detail: String,
    /// The kind of resource that it is about.
    pub resource_type: Option<String>,
    /// The resource that it is about.
    pub resource_id: Option<String>,
    /// Who noticed.
    pub source: String,
    /// Who works on it.
    pub assigned_to: Option<String>,
    /// How it was resolved.
    pub resolution: Option<String>,
    /// In milliseconds since the Unix epoch, as all times here.
    pub detected_at: i64,
    /// When it was resolved or cancelled.
    pub resolved_at: Option<i64>,
    /// When it was escalated.
    pub escalated_at: Option<i64>,
    /// When it was written first.
    pub created_at: i64,
    /// When it was written last.
    pub updated_at: i64,
}

impl Incident {
    /// Whether somebody has still to look at it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.status.as_str(), "resolved" | "cancelled")
    }

    fn open_key(&self) -> String {
        open_key(self.brand.as_deref(), &self.dedupe_key)
    }
}

/// Ids of brands hold no slash.
fn open_key(brand: Option<&str>, dedupe_key: &str) -> String {
    format!("{}/{dedupe_key}", brand.unwrap_or_default())
}

/// What happened about an incident.
#[derive(Debug, Clone, PartialEq)]
pub struct IncidentEvent {
    /// Its id.
    pub id: String,
    /// The order in which they came; given when it is written.
    pub seq: u64,
    /// Which incident.
    pub incident: String,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// In words.
    pub detail: String,
    /// An object.
    pub metadata: Value,
    /// In milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// Something that a program needed and could not do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gap {
    /// Its id.
    pub id: String,
    /// Whose programs; `None` for the platform's.
    pub brand: Option<String>,
    /// What is missing. Unique in the brand.
    pub tool_name: String,
    /// In words.
    pub description: String,
    /// `investigation`, `remediation` or `notification`.
    pub category: String,
    /// How often it was missed.
    pub occurrences: u64,
    /// `open`, `implemented` or `wont_fix`.
    pub status: String,
    /// In milliseconds since the Unix epoch, as all times here.
    pub implemented_at: Option<i64>,
    /// When it was missed first.
    pub created_at: i64,
    /// When it was written last.
    pub updated_at: i64,
}

/// What incidents to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IncidentQuery {
    /// Exactly these values: `status`, `severity`, `type`, `resource_type`, `resource_id` or `source`.
    pub equal: Vec<(&'static str, String)>,
    /// What the caller may see: incidents of these brands. `None` sees all, those without a brand too.
    pub brands: Option<Vec<String>>,
    /// Older than the incident with this number.
    pub before: Option<u64>,
    /// At most this many.
    pub limit: u32,
}

/// What gaps to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GapQuery {
    /// Exactly these values: `status` or `category`.
    pub equal: Vec<(&'static str, String)>,
    /// What the caller may see.
    pub brands: Option<Vec<String>>,
    /// Behind the gap with so many occurrences and this id.
    pub after: Option<(u64, String)>,
    /// At most this many.
    pub limit: u32,
}

/// How many incidents there are, for dashboards.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct IncidentCounts {
    /// By severity and status.
    pub by_status: Vec<(String, String, u64)>,
    /// Gaps that are open.
    pub gaps_open: u64,
    /// Mean time from detection to resolution of those resolved since a time, in milliseconds.
    pub mean_resolution: Option<f64>,
}

fn incident(row: &Row) -> Result<Incident, StoreError> {
    Ok(Incident {
        id: row.try_get(0)?,
        seq: from_sql("seq", row.try_get(1)?)?,
        brand: row.try_get(2)?,
        dedupe_key: row.try_get(3)?,
        incident_type: row.try_get(4)?,
        severity: row.try_get(5)?,
        status: row.try_get(6)?,
        title: row.try_get(7)?,
        detail: row.try_get(8)?,
        resource_type: row.try_get(9)?,
        resource_id: row.try_get(10)?,
        source: row.try_get(11)?,
        assigned_to: row.try_get(12)?,
        resolution: row.try_get(13)?,
        detected_at: row.try_get(14)?,
        resolved_at: row.try_get(15)?,
        escalated_at: row.try_get(16)?,
        created_at: row.try_get(17)?,
        updated_at: row.try_get(18)?,
    })
}

fn gap(row: &Row) -> Result<Gap, StoreError> {
    let brand: String = row.try_get(1)?;
    Ok(Gap {
        id: row.try_get(0)?,
        brand: Some(brand).filter(|brand| !brand.is_empty()),
        tool_name: row.try_get(2)?,
        description: row.try_get(3)?,
        category: row.try_get(4)?,
        occurrences: from_sql("occurrences", row.try_get(5)?)?,
        status: row.try_get(6)?,
        implemented_at: row.try_get(7)?,
        created_at: row.try_get(8)?,
        updated_at: row.try_get(9)?,
    })
}

impl ReadTx {
    /// An incident.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn incident(&mut self, id: &str) -> Result<Option<Incident>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(INCIDENT).push(" FROM incidents WHERE id = ").push_bind(id);
        self.optional(sql.build()).await?.as_ref().map(incident).transpose()
    }

    /// The open incident of a brand with a dedupe key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open_incident(
        &mut self,
        brand: Option<&str>,
        dedupe_key: &str,
    ) -> Result<Option<Incident>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(INCIDENT).push(" FROM incidents WHERE open_key = ").push_bind(open_key(brand, dedupe_key));
        self.optional(sql.build()).await?.as_ref().map(incident).transpose()
    }

    /// One page of incidents, the newest first, and the [`IncidentQuery::before`] of the next one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn incident_page(
        &mut self,
        list: &IncidentQuery,
    ) -> Result<(Vec<Incident>, Option<u64>), StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(INCIDENT).push(" FROM incidents WHERE seq < ");
        sql.push_bind(to_bound(list.before.unwrap_or(u64::MAX)));
        for (column, value) in &list.equal {
            sql.push(" AND ").push(*column).push(" = ").push_bind(value.clone());
        }
        if let Some(brands) = &list.brands {
            sql.push(" AND brand IN ");
            batch::list(&mut sql, brands);
        }
        sql.push(" ORDER BY seq DESC LIMIT ").push_bind(i64::from(list.limit) + 1);
        let rows = self.all(sql.build()).await?;
        let mut found = rows.iter().map(incident).collect::<Result<Vec<_>, _>>()?;
        let more = found.len() > list.limit as usize;
        found.truncate(list.limit as usize);
        let next = found.last().filter(|_| more).map(|last| last.seq);
        Ok((found, next))
    }

    /// One page of an incident's events, the oldest first, after the one with number `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn incident_events(
        &mut self,
        incident: &str,
        after: u64,
        limit: u32,
    ) -> Result<(Vec<IncidentEvent>, Option<u64>), StoreError> {
        let query = sql::query(
            "SELECT id, seq, actor, action, detail, metadata, created_at FROM incident_events \
             WHERE incident = ? AND seq > ? ORDER BY seq LIMIT ?",
        );
        let rows = self.all(query.bind(incident).bind(to_bound(after)).bind(i64::from(limit) + 1)).await?;
        let mut events = Vec::new();
        for row in &rows {
            let metadata: String = row.try_get(5)?;
            events.push(IncidentEvent {
                id: row.try_get(0)?,
                seq: from_sql("seq", row.try_get(1)?)?,
                incident: incident.to_owned(),
                actor: row.try_get(2)?,
                action: row.try_get(3)?,
                detail: row.try_get(4)?,
                metadata: serde_json::from_str(&metadata)
                    .map_err(|error| StoreError::row(format!("metadata of an event: {error}")))?,
                created_at: row.try_get(6)?,
            });
        }
        let more = events.len() > limit as usize;
        events.truncate(limit as usize);
        let next = events.last().filter(|_| more).map(|last| last.seq);
        Ok((events, next))
    }

    /// A gap.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn gap(&mut self, id: &str) -> Result<Option<Gap>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(GAP).push(" FROM capability_gaps WHERE id = ").push_bind(id);
        self.optional(sql.build()).await?.as_ref().map(gap).transpose()
    }

    /// The gap of a brand that is called so.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn gap_called(
        &mut self,
        brand: Option<&str>,
        tool_name: &str,
    ) -> Result<Option<Gap>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(GAP).push(" FROM capability_gaps WHERE brand = ").push_bind(brand.unwrap_or_default());
        sql.push(" AND tool_name = ").push_bind(tool_name);
        self.optional(sql.build()).await?.as_ref().map(gap).transpose()
    }

    /// One page of gaps, those missed most first, and the [`GapQuery::after`] of the next one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn gap_page(
        &mut self,
        list: &GapQuery,
    ) -> Result<(Vec<Gap>, Option<(u64, String)>), StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(GAP).push(" FROM capability_gaps WHERE ");
        match &list.after {
            Some((occurrences, id)) => {
                sql.push("(occurrences, id) < (").push_bind(to_sql("occurrences", *occurrences)?);
                sql.push(", ").push_bind(id.clone()).push(")");
            }
            None => {
                sql.push("occurrences > 0");
            }
        }
        for (column, value) in &list.equal {
            sql.push(" AND ").push(*column).push(" = ").push_bind(value.clone());
        }
        if let Some(brands) = &list.brands {
            sql.push(" AND brand IN ");
            batch::list(&mut sql, brands);
        }
        sql.push(" ORDER BY occurrences DESC, id DESC LIMIT ").push_bind(i64::from(list.limit) + 1);
        let rows = self.all(sql.build()).await?;
        let mut found = rows.iter().map(gap).collect::<Result<Vec<_>, _>>()?;
        let more = found.len() > list.limit as usize;
        found.truncate(list.limit as usize);
        let next = found.last().filter(|_| more).map(|last| (last.occurrences, last.id.clone()));
        Ok((found, next))
    }

    /// The gaps that an incident showed, by id, `limit` at most.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn gaps_of(&mut self, incident: &str, limit: u32) -> Result<Vec<Gap>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(GAP)
            .push(" FROM capability_gaps WHERE id IN (SELECT gap FROM gap_incidents WHERE incident = ");
        sql.push_bind(incident).push(") ORDER BY id LIMIT ").push_bind(i64::from(limit));
        self.all(sql.build()).await?.iter().map(gap).collect()
    }

    /// The incidents that showed a gap, the newest first, `limit` at most.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn incidents_of(&mut self, gap: &str, limit: u32) -> Result<Vec<Incident>, StoreError> {
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(INCIDENT)
            .push(" FROM incidents WHERE id IN (SELECT incident FROM gap_incidents WHERE gap = ");
        sql.push_bind(gap).push(") ORDER BY seq DESC LIMIT ").push_bind(i64::from(limit));
        self.all(sql.build()).await?.iter().map(incident).collect()
    }

    /// How many incidents there are; the mean is over those resolved since `since`, 10 000 at most.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn incident_counts(&mut self, since: i64) -> Result<IncidentCounts, StoreError> {
        let kept = sql::query(
            "SELECT kind, status, count FROM resource_counts WHERE kind IN ('incident:critical', 'incident:info', \
             'incident:warning') AND count > 0 ORDER BY kind, status",
        );
        let mut counts = IncidentCounts::default();
        for row in self.all(kept).await? {
            let severity: String = row.try_get(0)?;
            let severity = severity.trim_start_matches("incident:").to_owned();
            counts.by_status.push((severity, row.try_get(1)?, from_sql("count", row.try_get(2)?)?));
        }
        let open = sql::query(
            "SELECT coalesce(max(count), 0) FROM resource_counts WHERE kind = 'capability_gap' AND status = 'open'",
        );
        counts.gaps_open = self.number(open).await?;
        let mean = sql::query(
            "SELECT count(*), CAST(coalesce(sum(took), 0) AS BIGINT) FROM (SELECT resolved_at - detected_at AS took \
             FROM incidents WHERE resolved_at IS NOT NULL AND resolved_at > ? ORDER BY resolved_at DESC LIMIT ?) AS resolved",
        );
        if let Some(row) = self.optional(mean.bind(since).bind(RESOLVED)).await? {
            let (count, sum): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
            let mean = (count > 0).then(|| sum as f64 / count as f64);
            counts.mean_resolution = mean;
        }
        Ok(counts)
    }
}

impl WriteTx {
    /// Writes an incident; `before` as it was. Gives a new one its number.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_incident(
        &mut self,
        mut new: Incident,
        before: Option<&Incident>,
    ) -> Result<Incident, StoreError> {
        if before.is_none() {
            new.seq = self.next_number(SEQ).await?;
        }
        new.updated_at = Draft::now(self);
        let open_key = new.is_open().then(|| new.open_key());
        let query = sql::query(
            "INSERT INTO incidents (id, seq, brand, open_key, dedupe_key, type, severity, status, title, detail, resource_type, \
             resource_id, source, assigned_to, resolution, detected_at, resolved_at, escalated_at, created_at, updated_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET \
             open_key = excluded.open_key, severity = excluded.severity, status = excluded.status, \
             assigned_to = excluded.assigned_to, resolution = excluded.resolution, resolved_at = excluded.resolved_at, \
             escalated_at = excluded.escalated_at, updated_at = excluded.updated_at",
        )
        .bind(&new.id)
        .bind(to_sql("seq", new.seq)?)
        .bind(&new.brand)
        .bind(&open_key)
        .bind(&new.dedupe_key)
        .bind(&new.incident_type)
        .bind(&new.severity)
        .bind(&new.status)
        .bind(&new.title)
        .bind(&new.detail)
        .bind(&new.resource_type)
        .bind(&new.resource_id)
        .bind(&new.source)
        .bind(&new.assigned_to)
        .bind(&new.resolution)
        .bind(new.detected_at)
        .bind(new.resolved_at)
        .bind(new.escalated_at)
        .bind(new.created_at)
        .bind(new.updated_at);
        self.execute(query).await?;
        let place =
            |incident: &Incident| (format!("incident:{}", incident.severity), incident.status.clone());
        self.recount(before.map(place), place(&new)).await?;
        Ok(new)
    }

    /// Writes an event of an incident, and gives it its number.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn add_incident_event(
        &mut self,
        mut event: IncidentEvent,
    ) -> Result<IncidentEvent, StoreError> {
        event.seq = self.next_number(SEQ).await?;
        let query = sql::query(
            "INSERT INTO incident_events (incident, seq, id, actor, action, detail, metadata, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&event.incident)
        .bind(to_sql("seq", event.seq)?)
        .bind(&event.id)
        .bind(&event.actor)
        .bind(&event.action)
        .bind(&event.detail)
        .bind(event.metadata.to_string())
        .bind(event.created_at);
        self.execute(query).await?;
        Ok(event)
    }

    /// Writes a gap; `before` as it was.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_gap(&mut self, mut new: Gap, before: Option<&Gap>) -> Result<Gap, StoreError> {
        new.updated_at = Draft::now(self);
        let query = sql::query(
            "INSERT INTO capability_gaps (id, brand, tool_name, description, category, occurrences, status, implemented_at, \
             created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET \
             occurrences = excluded.occurrences, status = excluded.status, implemented_at = excluded.implemented_at, \
             updated_at = excluded.updated_at",
        )
        .bind(&new.id)
        .bind(new.brand.clone().unwrap_or_default())
        .bind(&new.tool_name)
        .bind(&new.description)
        .bind(&new.category)
        .bind(to_sql("occurrences", new.occurrences)?)
        .bind(&new.status)
        .bind(new.implemented_at)
        .bind(new.created_at)
        .bind(new.updated_at);
        self.execute(query).await?;
        let place = |gap: &Gap| ("capability_gap".to_owned(), gap.status.clone());
        self.recount(before.map(place), place(&new)).await?;
        Ok(new)
    }

    /// Notes that an incident showed a gap. Nothing when that is known.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn link_gap(&mut self, gap: &str, incident: &str) -> Result<(), StoreError> {
        let query = sql::query(
            "INSERT INTO gap_incidents (gap, incident) VALUES (?, ?) ON CONFLICT (gap, incident) DO NOTHING",
        );
        self.execute(query.bind(gap).bind(incident)).await?;
        Ok(())
    }

    /// Counts for dashboards stand beside those of resources, under kinds and statuses that no resource has.
    async fn recount(
        &mut self,
        before: Option<(String, String)>,
        after: (String, String),
    ) -> Result<(), StoreError> {
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        let moved = before.map(|before| (before, -1_i64)).into_iter().chain([(after, 1)]);
        for ((kind, status), by) in moved {
            let query = sql::query(
                "INSERT INTO resource_counts (kind, brand, status, count) VALUES (?, '', ?, ?) \
                 ON CONFLICT (kind, brand, status) DO UPDATE SET count = resource_counts.count + excluded.count",
            );
            self.execute(query.bind(kind).bind(status).bind(by)).await?;
        }
        Ok(())
    }
}
