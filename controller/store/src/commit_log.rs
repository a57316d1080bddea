//! What each group of mutations touched, for everybody who follows the store: in memory within a controller, and by rows from one
//! controller to the others.
//!
//! A row is written in the group's own transaction, under the head lock, so rows become visible in the order of their numbers. Each
//! controller's writer reads the others' rows before it tells of a commit of its own: whoever follows hears of revisions in order.
//! PostgreSQL's NOTIFY makes a writer look at once; it looks now and then in any case.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Audience, Key};
use hosting_resource::Kind;
use serde::{Deserialize, Serialize};

use crate::sql::{self, Connection, Row};
use crate::{ResourceEvent, StoreError};

/// The channel of NOTIFY.
pub(crate) const CHANNEL: &str = "hosting_commits";
/// Rows that are kept. A controller that is further behind takes everything for touched.
const KEPT: i64 = 20_000;
/// Rows are dropped after each so many.
const DROP_EVERY: i64 = 1_000;
/// Rows read at once.
const PAGE: i64 = 256;
/// Keys of one node's report that are named; beyond it all of it is.
const MAX_KEYS: usize = 500;

/// Changes of resources that a row names; with more, whoever watches at another controller has to look at everything anew.
const MAX_EVENTS: usize = 500;

/// What one commit brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commit {
    /// The newest revision.
    pub revision: u64,
    /// Audiences whose intents changed, in order.
    pub audiences: Vec<Audience>,
    /// Kinds of the resources that were written or removed.
    pub kinds: BTreeSet<Kind>,
    /// Resources that may have come a step further: what was written and is on its way, and what waited for a row to go.
    pub concerns: BTreeSet<String>,
    /// What became of resources, in the order of revisions.
    pub events: Vec<ResourceEvent>,
    /// More became of resources than is named here.
    pub events_left_out: bool,
    /// Set when a new epoch began: every session has to start over.
    pub new_epoch: bool,
    /// What was missed cannot be told: everything may have changed.
    pub lost: bool,
    /// What another controller wrote of the fleet; empty for the store's own controller, which knows.
    pub fleet: FleetChange,
    /// A rollout began or came further.
    pub rollouts: bool,
}

/// What a controller wrote of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetChange {
    /// Subscribers whose row changed, or went.
    pub subscribers: BTreeSet<(Audience, String)>,
    /// Nodes that reported, and what of it changed.
    pub reports: BTreeMap<String, ReportChange>,
    /// What sessions are told, wherever they stand.
    pub orders: Vec<FleetOrder>,
}

impl FleetChange {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.reports.is_empty() && self.orders.is_empty()
    }

    /// Adds another change.
    pub fn merge(&mut self, other: Self) {
        self.subscribers.extend(other.subscribers);
        for (node, change) in other.reports {
            self.report(node, change);
        }
        self.orders.extend(other.orders);
    }

    pub(crate) fn report(&mut self, node: String, change: ReportChange) {
        if change == ReportChange::default() {
            return;
        }
        let known = self.reports.entry(node).or_default();
        let is_everything = known.everything || change.everything;
        *known = if is_everything {
            ReportChange::everything()
        } else {
            ReportChange::of(std::mem::take(&mut known.keys).into_iter().chain(change.keys))
        };
    }
}

/// What of a node's report changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportChange {
    /// These keys.
    pub keys: BTreeSet<Key>,
    /// All of it may have.
    pub everything: bool,
}

impl ReportChange {
    /// All of it may have.
    #[must_use]
    pub fn everything() -> Self {
        Self { keys: BTreeSet::new(), everything: true }
    }

    /// Some keys. More than are named are everything.
    pub(crate) fn of(keys: impl Iterator<Item = Key>) -> Self {
        let keys: BTreeSet<Key> = keys.collect();
        if keys.len() > MAX_KEYS { Self::everything() } else { Self { keys, everything: false } }
    }
}

/// What sessions are told, wherever they stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FleetOrder {
    /// A node is to apply what its brake holds of an audience.
    Release {
        /// The audience.
        audience: String,
        /// The node.
        node: String,
        /// Who says so.
        by: String,
    },
    /// A node's sessions in a role end; it may come back with a certificate that is good. An empty role is all of them.
    SendAway {
        /// The node.
        node: String,
        /// The role's name.
        role: String,
        /// Why.
        reason: String,
    },
}

/// Keys of a report, as kind and name.
type NamedKeys = Vec<(u32, String)>;
/// Stands for everything. Builds before told ranges of keys: behind the first, up to the second.
type NamedRange = (Option<(u32, String)>, Option<(u32, String)>);

/// A commit as its row holds it.
#[derive(Debug, Serialize, Deserialize)]
struct Touched {
    revision: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    audiences: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    concerns: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    events: Vec<ResourceEvent>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    events_left_out: bool,
    #[serde(default)]
    new_epoch: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subscribers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reports: Vec<(String, NamedKeys, Vec<NamedRange>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    orders: Vec<FleetOrder>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    rollouts: bool,
}

impl From<&Commit> for Touched {
    fn from(commit: &Commit) -> Self {
        let named = |key: &Key| (key.kind, key.name.clone());
        let events_left_out = commit.events_left_out || commit.events.len() > MAX_EVENTS;
        Self {
            events: if events_left_out { Vec::new() } else { commit.events.clone() },
            events_left_out,
            revision: commit.revision,
            audiences: commit.audiences.iter().map(ToString::to_string).collect(),
            kinds: commit.kinds.iter().map(|kind| kind.name().to_owned()).collect(),
            concerns: commit.concerns.clone(),
            new_epoch: commit.new_epoch,
            subscribers: commit
                .fleet
                .subscribers
                .iter()
                .map(|(audience, node)| (audience.to_string(), node.clone()))
                .collect(),
            reports: commit
                .fleet
                .reports
                .iter()
                .map(|(node, change)| {
                    let keys = change.keys.iter().map(named).collect();
                    (node.clone(), keys, change.everything.then_some((None, None)).into_iter().collect())
                })
                .collect(),
            orders: commit.fleet.orders.clone(),
            rollouts: commit.rollouts,
        }
    }
}

impl Touched {
    /// `None`: something in it is of a newer build.
    fn into_commit(self) -> Option<Commit> {
        let audience = |text: &String| text.parse::<Audience>().ok();
        let key = |(kind, name)| Key { kind, name };
        Some(Commit {
            revision: self.revision,
            audiences: self.audiences.iter().map(audience).collect::<Option<_>>()?,
            kinds: self.kinds.iter().map(|name| Kind::from_name(name)).collect::<Option<_>>()?,
            concerns: self.concerns,
            events: self.events,
            events_left_out: self.events_left_out,
            new_epoch: self.new_epoch,
            lost: false,
            rollouts: self.rollouts,
            fleet: FleetChange {
                subscribers: self
                    .subscribers
                    .iter()
                    .map(|(text, node)| Some((audience(text)?, node.clone())))
                    .collect::<Option<_>>()?,
                reports: self
                    .reports
                    .into_iter()
                    .map(|(node, keys, ranges)| {
                        let keys = keys.into_iter().map(key);
                        let is_all = !ranges.is_empty();
                        (node, if is_all { ReportChange::everything() } else { ReportChange::of(keys) })
                    })
                    .collect(),
                orders: self.orders,
            },
        })
    }
}

/// The rows, as one controller's writer reads and writes them.
#[derive(Debug)]
pub(crate) struct CommitLog {
    /// This controller, as rows name it.
    origin: String,
    /// The last row that was read.
    read: i64,
}

impl CommitLog {
    /// Begins behind the newest row: what is read of the store afterwards has what the rows before it speak of.
    pub(crate) async fn begin(connection: &mut Connection, origin: String) -> Result<Self, StoreError> {
        let rows = connection.rows(sql::query("SELECT coalesce(max(seq), 0) FROM commits")).await?;
        let read = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        Ok(Self { origin, read })
    }

    /// What the other controllers committed since the last call, in order.
    pub(crate) async fn read(&mut self, connection: &mut Connection) -> Result<Vec<Commit>, StoreError> {
        let mut commits = Vec::new();
        loop {
            let query = sql::query(
                "SELECT seq, origin, touched, (SELECT min(seq) FROM commits) FROM commits WHERE seq > ? \
                 ORDER BY seq LIMIT ?",
            );
            let rows = connection.rows(query.bind(self.read).bind(PAGE)).await?;
            for row in &rows {
                let (seq, oldest): (i64, i64) = (row.try_get(0)?, row.try_get(3)?);
                // Rows behind the last one may have been dropped before they were read.
                let lost = oldest > self.read.saturating_add(1) && self.read > 0;
                self.read = seq;
                if row.try_get::<&str>(1)? != self.origin || lost {
                    commits.push(Self::commit(row, lost)?);
                }
            }
            if rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
                return Ok(commits);
            }
        }
    }

    fn commit(row: &Row, lost: bool) -> Result<Commit, StoreError> {
        let touched: Touched = serde_json::from_str(row.try_get(2)?)
            .map_err(|error| StoreError::row(format!("commits.touched: {error}")))?;
        let revision = touched.revision;
        let commit = touched.into_commit();
        let lost = lost || commit.is_none();
        Ok(Commit { lost, revision, ..commit.unwrap_or_default() })
    }

    /// Writes what a group touched, in its transaction. Whoever listens is told when that is committed.
    pub(crate) async fn write(&self, connection: &mut Connection, commit: &Commit) -> Result<(), StoreError> {
        let touched = serde_json::to_string(&Touched::from(commit))
            .map_err(|error| StoreError::value("touched", error.to_string()))?;
        let query = sql::query(
            "WITH logged AS (INSERT INTO commits (origin, touched) VALUES (?, ?) RETURNING seq) \
             SELECT seq, CAST(pg_notify(?, '') AS TEXT) FROM logged",
        );
        let rows = connection.rows(query.bind(&self.origin).bind(touched).bind(CHANNEL)).await?;
        let seq: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        if seq % DROP_EVERY == 0 {
            let old = sql::query("DELETE FROM commits WHERE seq <= ?").bind(seq.saturating_sub(KEPT));
            connection.execute(old).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hosting_resource::Status;

    use super::*;
    use crate::ResourceChange;

    #[test]
    fn a_commit_survives_its_row() {
        let mut fleet = FleetChange::default();
        fleet.subscribers.insert(("edge/c1".parse().unwrap(), "lb-1".into()));
        let key = |name: &str| Key { kind: 21, name: name.into() };
        for name in ["a", "b"] {
            fleet.report("web-1".into(), ReportChange::of([key(name)].into_iter()));
        }
        fleet.report("web-3".into(), ReportChange::default());
        fleet.report("web-2".into(), ReportChange::everything());
        fleet.report("web-2".into(), ReportChange::default());
        fleet.orders.push(FleetOrder::SendAway {
            node: "web-1".into(),
            role: "web".into(),
            reason: "x".into(),
        });
        let event = ResourceEvent {
            revision: 7,
            kind: Kind::Tenant,
            id: "t_1".into(),
            tenant: Some("t_1".into()),
            brand: Some("acme".into()),
            change: ResourceChange::Created,
            status: Status::Pending,
            generation: 1,
        };
        let commit = Commit {
            revision: 7,
            audiences: vec!["dns/default".parse().unwrap()],
            kinds: [Kind::Node].into(),
            concerns: ["t_1".to_owned()].into(),
            events: vec![event.clone()],
            events_left_out: false,
            new_epoch: true,
            lost: false,
            rollouts: true,
            fleet,
        };
        let text = serde_json::to_string(&Touched::from(&commit)).unwrap();
        assert_eq!(serde_json::from_str::<Touched>(&text).unwrap().into_commit(), Some(commit.clone()));
        assert_eq!(commit.fleet.reports["web-1"].keys, [key("a"), key("b")].into());
        assert_eq!(commit.fleet.reports.len(), 2, "a report that changes nothing is none");
        assert_eq!(commit.fleet.reports["web-2"], ReportChange::everything());
        let many = Commit { events: vec![event; MAX_EVENTS + 1], ..commit.clone() };
        let many = Touched::from(&many).into_commit().unwrap();
        assert!(many.events.is_empty() && many.events_left_out);
        let newer = text.replace("dns/default", "moon/base");
        assert_eq!(serde_json::from_str::<Touched>(&newer).unwrap().into_commit(), None);
    }

    #[test]
    fn more_keys_than_are_named_are_everything() {
        let mut fleet = FleetChange::default();
        for n in 0..=MAX_KEYS {
            let key = Key { kind: 21, name: n.to_string() };
            fleet.report("web-1".into(), ReportChange::of([key].into_iter()));
        }
        assert_eq!(fleet.reports["web-1"], ReportChange::everything());
    }
}
