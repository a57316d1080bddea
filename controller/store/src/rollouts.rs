//! Changes that go out in steps: which are under way, and how far each one came (ADR 31).
//!
//! A rollout is begun by the mutation whose change it is, in its transaction. Whoever takes its steps writes the whole document anew each
//! time; sessions read from it whether it has come to their subscriber.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::Audience;
use hosting_planner::{BeginRollout, Draft as _};
use hosting_resource::Resource;
use serde::{Deserialize, Serialize};

use crate::error::{from_sql, to_bound, to_sql};
use crate::{ReadTx, Store, StoreError, WriteTx, sql};

pub use self::policy::{Reach, RolloutPolicy};

mod policy;

/// Changed resources that a rollout names.
const NAMED: usize = 20;
/// Rollouts that are kept after their end.
const KEPT: u64 = 1_000;

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Another one to the same subscribers comes first.
    Waiting,
    /// It takes its steps.
    Running,
    /// A person stopped it where it is: it is watched, and takes no further step.
    Paused,
    /// It is being taken back.
    Reverting,
    /// Every subscriber has it.
    Done,
    /// It was taken back.
    Reverted,
    /// A later change of the same things took its place.
    Replaced,
}

impl RolloutState {
    /// Whether it is under way.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Waiting | Self::Running | Self::Paused | Self::Reverting => true,
            Self::Done | Self::Reverted | Self::Replaced => false,
        }
    }

    /// As documents spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Reverting => "reverting",
            Self::Done => "done",
            Self::Reverted => "reverted",
            Self::Replaced => "replaced",
        }
    }
}

/// A resource whose change began a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledOut {
    /// Its kind.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
}

/// What a subscriber's clients met until some moment, see `hosting.feed.v1.Health`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHealth {
    /// Which start of the process the numbers are of.
    pub start: u64,
    /// Requests or queries.
    pub requests: u64,
    /// Of these, failed on the subscriber's side.
    pub failed: u64,
    /// TLS handshakes.
    pub handshakes: u64,
    /// Of these, failed.
    pub failed_handshakes: u64,
    /// Microseconds from requests to the heads of their responses, together.
    pub busy_us: u64,
}

/// A subscriber: audience and node id.
pub type Member = (Audience, String);

/// How a rollout is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revert {
    /// Changes after this revision are not its own.
    pub upto: u64,
    /// W3C traceparent of what it changes, by which that is known when it goes on.
    pub traceparent: String,
    /// All is taken back, and what follows from that is to be planned.
    pub is_undone: bool,
    /// What was left to be planned then: entries of the replan queue up to this one.
    pub planned_upto: Option<u64>,
}

/// A change that goes out in steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The revision at which it began.
    pub id: u64,
    /// Where it stands.
    pub state: RolloutState,
    /// When it began, milliseconds since the Unix epoch.
    pub began_at: i64,
    /// When its state or step changed last.
    pub changed_at: i64,
    /// The API key that asked for it; `None`: the controller itself.
    pub by: Option<String>,
    /// W3C traceparent of the request behind it; empty when there was none.
    pub traceparent: String,
    /// What was changed, at most 20 of it.
    pub of: Vec<RolledOut>,
    /// Revisions whose changes are taken back when it hurts, the oldest first.
    pub revisions: Vec<u64>,
    /// Earlier rollouts that it took the place of. Their items come with it.
    pub replaces: BTreeSet<u64>,
    /// Whom it reaches.
    pub audiences: BTreeSet<Audience>,
    /// The step that is under way, from 1; 0: none has begun.
    pub step: u32,
    /// When the step began, milliseconds since the Unix epoch.
    pub step_at: i64,
    /// Subscribers that have it, in the order in which it came to them.
    pub opened: Vec<Member>,
    /// Who has what it takes the place of, and so is the first to get it.
    pub first: Vec<Member>,
    /// What clients of each subscriber had met when the step began.
    #[serde(with = "as_list")]
    pub before: BTreeMap<Member, ClientHealth>,
    /// Why it is paused, taken back or stopped; empty as long as all is well.
    pub reason: String,
    /// How it is taken back, once that began.
    pub revert: Option<Revert>,
    /// What could not be taken back, because somebody changed it since.
    pub conflicts: Vec<String>,
}

/// JSON has no maps whose keys are pairs.
mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{ClientHealth, Member};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<Member, ClientHealth>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Member, ClientHealth>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

impl Rollout {
    /// It and those whose place it took.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.replaces.iter().copied().chain([self.id])
    }
}

/// The rollouts that are under way, and up to which revision that is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenRollouts {
    /// Of the store that they were read of.
    pub upto: u64,
    /// By id.
    pub rollouts: Vec<Rollout>,
}

impl ReadTx {
    /// The rollouts that are under way. They are few: each is of a person's change of what many share.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open_rollouts(&mut self) -> Result<OpenRollouts, StoreError> {
        let upto = self.head();
        let query = sql::query("SELECT document FROM rollouts WHERE is_open = 1 ORDER BY id");
        let rows = self.all(query).await?;
        let rollouts = rows.iter().map(|row| document(row.try_get(0)?)).collect::<Result<_, _>>()?;
        Ok(OpenRollouts { upto, rollouts })
    }

    /// One of them, or one that ended; `None`: there is none, or it is not kept any more.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn rollout(&mut self, id: u64) -> Result<Option<Rollout>, StoreError> {
        let query = sql::query("SELECT document FROM rollouts WHERE id = ?").bind(to_bound(id));
        self.optional(query).await?.map(|row| document(row.try_get(0)?)).transpose()
    }

    /// Rollouts that began before `before`, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn rollouts(&mut self, before: u64, limit: u32) -> Result<Vec<Rollout>, StoreError> {
        let query = sql::query("SELECT document FROM rollouts WHERE id < ? ORDER BY id DESC LIMIT ?");
        let rows = self.all(query.bind(to_bound(before)).bind(i64::from(limit))).await?;
        rows.iter().map(|row| document(row.try_get(0)?)).collect()
    }

    /// The audiences that have items of a rollout. Each is found by one step in the index, however many items it has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn rollout_audiences(&mut self, id: u64) -> Result<Vec<Audience>, StoreError> {
        let mut audiences: Vec<Audience> = Vec::new();
        let mut last = String::new();
        loop {
            let query = sql::query(
                "SELECT audience FROM intent_log WHERE rollout = ? AND rollout <> 0 AND audience > ? ORDER BY audience LIMIT 1",
            );
            let Some(row) = self.optional(query.bind(to_bound(id)).bind(last.as_str())).await? else {
                return Ok(audiences);
            };
            row.try_get::<&str>(0)?.clone_into(&mut last);
            audiences.push(crate::read_tx::audience(&last)?);
        }
    }

    /// How many items are part of a rollout, as they are now. A row for each is looked at.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn rollout_items(&mut self, id: u64) -> Result<u64, StoreError> {
        let query = sql::query("SELECT count(*) FROM intent_current WHERE rollout = ?");
        self.number(query.bind(to_bound(id))).await
    }

    /// Whether more of a rollout is still to be planned.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn rollout_is_planned(&mut self, id: u64) -> Result<bool, StoreError> {
        let query = sql::query(
            "SELECT count(*) FROM (SELECT 1 AS one FROM replan WHERE (owner >= ?1 AND owner < ?2) OR (owner >= ?3 AND owner < ?4) \
             LIMIT 1) AS found",
        );
        // What waits under a cause is spelt `walk:person@7/…`; '0' follows '/'.
        let query = ["person", "planner"].into_iter().fold(query, |query, cause| {
            query.bind(format!("walk:{cause}@{id}/")).bind(format!("walk:{cause}@{id}0"))
        });
        Ok(self.number(query).await? == 0)
    }

    /// The newest and the oldest place in the replan queue; 0 when nothing is in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn replan_ends(&mut self) -> Result<(u64, u64), StoreError> {
        let query = sql::query("SELECT coalesce(max(seq), 0), coalesce(min(seq), 0) FROM replan");
        let Some(row) = self.optional(query).await? else { return Ok((0, 0)) };
        Ok((from_sql("seq", row.try_get(0)?)?, from_sql("seq", row.try_get(1)?)?))
    }
}

fn document(text: &str) -> Result<Rollout, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::row(format!("rollout: {error}")))
}

impl WriteTx {
    /// Begins a rollout with the mutation.
    pub(crate) async fn begin_rollout(
        &mut self,
        begin: BeginRollout,
        changed: &[Resource],
    ) -> Result<(), StoreError> {
        let (id, now) = (self.revision(), self.now());
        let mut rollout = Rollout {
            id,
            state: RolloutState::Waiting,
            began_at: now,
            changed_at: now,
            by: self.origin().actor.clone(),
            traceparent: self.origin().traceparent.clone(),
            of: changed
                .iter()
                .take(NAMED)
                .map(|resource| RolledOut {
                    kind: resource.kind.name().to_owned(),
                    id: resource.id.clone(),
                    name: resource.label.clone(),
                })
                .collect(),
            revisions: Vec::new(),
            replaces: BTreeSet::new(),
            audiences: BTreeSet::new(),
            step: 0,
            step_at: 0,
            opened: Vec::new(),
            first: Vec::new(),
            before: BTreeMap::new(),
            reason: String::new(),
            revert: None,
            conflicts: Vec::new(),
        };
        for earlier in self.beside().open_rollouts().await?.rollouts {
            // Whoever has it is the first to get what takes its place.
            if earlier.ids().any(|id| begin.replaces.contains(&id))
                && earlier.state != RolloutState::Reverting
            {
                rollout.revisions.extend(&earlier.revisions);
                rollout.replaces.extend(earlier.ids());
                rollout.audiences.extend(earlier.audiences.iter().cloned());
                let reason = format!("rollout {id} took its place");
                let state = RolloutState::Replaced;
                let ended = Rollout { state, reason, changed_at: now, ..earlier };
                rollout.first.extend(ended.first.iter().chain(&ended.opened).cloned());
                self.put_rollout(&ended).await?;
            }
        }
        rollout.revisions.push(id);
        let text = to_text(&rollout)?;
        let query = sql::query("INSERT INTO rollouts (id, is_open, document) VALUES (?, 1, ?)");
        self.execute(query.bind(to_sql("rollout", id)?).bind(text)).await?;
        let old = sql::query(
            "DELETE FROM rollouts WHERE is_open = 0 AND id <= (SELECT id FROM rollouts ORDER BY id DESC LIMIT 1 OFFSET ?)",
        );
        self.execute(old.bind(to_bound(KEPT))).await?;
        self.rollouts_changed();
        Ok(())
    }

    /// Writes how far a rollout came.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_rollout(&mut self, rollout: &Rollout) -> Result<(), StoreError> {
        let query = sql::query("UPDATE rollouts SET is_open = ?, document = ? WHERE id = ?")
            .bind(i64::from(rollout.state.is_open()))
            .bind(to_text(rollout)?)
            .bind(to_bound(rollout.id));
        self.execute(query).await?;
        self.rollouts_changed();
        Ok(())
    }
}

impl Store {
    /// Says whether what touches much goes out in steps from now on. Nothing does before this is said: somebody has to take the steps.
    pub fn set_rolls_out(&self, rolls_out: bool) {
        self.0.rolls_out.store(rolls_out, std::sync::atomic::Ordering::Relaxed);
    }
}

fn to_text(rollout: &Rollout) -> Result<String, StoreError> {
    serde_json::to_string(rollout).map_err(|error| StoreError::value("rollout", error.to_string()))
}
