//! Intents of a change: current rows, log, and the sums of their audiences.

use std::collections::{BTreeMap, BTreeSet};

use hosting_intent::{Audience, Bytes, Cause, Digest, Key, MAX_VALUE_BYTES};
use hosting_planner::{ApplyError, IntentChange, IntentRow};

use super::{Pending, WriteTx};
use crate::batch;
use crate::error::{from_sql, to_sql};
use crate::origin::harmless_traceparent;
use crate::read_tx::{cause_number, intent_row};
use crate::sql::{self, QueryBuilder};
use crate::{ReadTx, StoreError};

/// Longest owner or intent key in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// A row of the log.
#[derive(Debug, Clone)]
pub(super) struct LogRow {
    /// `None`: withdrawn.
    value: Option<Bytes>,
    /// The last one to set it owns it, even if another one set the same value behind.
    owner: String,
    cause: Cause,
    traceparent: String,
    rollout: u64,
}

/// The rows of the log that a mutation writes: a later change of a key says what is kept.
pub(super) type MutationLog = BTreeMap<(Audience, Key), LogRow>;

/// The heads of audiences while mutations change them.
#[derive(Debug, Clone)]
pub(super) struct AudienceSums {
    floor: u64,
    count: u64,
    digest: Digest,
    /// The mutation changed it.
    pub(super) is_changed: bool,
}

/// The head of an audience that kept mutations changed.
#[derive(Debug, Clone)]
pub(super) struct PendingHead {
    pub(super) sums: AudienceSums,
    /// Its newest revision.
    pub(super) revision: u64,
    /// How many of its revisions are not in the database yet.
    pub(super) logged: u64,
}

impl WriteTx {
    pub(super) async fn take_intents(&mut self, changes: Vec<IntentChange>) -> Result<(), ApplyError> {
        if changes.is_empty() {
            return Ok(());
        }
        for change in &changes {
            check_intent(change)?;
        }
        self.read_rows(&changes).await?;
        self.read_sums(&changes).await?;
        for change in changes {
            self.take_intent(change)?;
        }
        Ok(())
    }

    /// Reads the current rows of the keys that are changed, as far as they are not known.
    async fn read_rows(&mut self, changes: &[IntentChange]) -> Result<(), StoreError> {
        let layer = &mut self.pending.layer;
        let unknown: BTreeSet<(Audience, Key)> = changes
            .iter()
            .filter(|change| layer.known_row(&change.audience, &change.key).is_none())
            .map(|change| (change.audience.clone(), change.key.clone()))
            .collect();
        let unknown: Vec<(Audience, Key)> = unknown.into_iter().collect();
        for some in batch::chunks(&unknown) {
            let mut sql = QueryBuilder::new(
                "SELECT audience, kind, key, revision, owner, value, rollout FROM intent_current",
            );
            batch::any_of(&mut sql, &["audience", "kind", "key"], some, |sql, (audience, key), column| {
                match column {
                    0 => sql.push_bind(audience.to_string()),
                    1 => sql.push_bind(key.kind),
                    _ => sql.push_bind(key.name.clone()),
                };
            });
            for row in self.read.all(sql.build()).await? {
                let row = intent_row(&row)?;
                let (audience, key) = (row.audience.clone(), row.key.clone());
                layer.learn_row(&audience, &key, Some(row));
            }
            for (audience, key) in some {
                layer.learn_row(audience, key, None);
            }
        }
        Ok(())
    }

    /// Reads the sums of audiences that this mutation has not changed yet.
    async fn read_sums(&mut self, changes: &[IntentChange]) -> Result<(), StoreError> {
        let mut unknown: BTreeSet<Audience> = BTreeSet::new();
        for IntentChange { audience, .. } in changes {
            if self.mutation.audiences.contains_key(audience) {
                continue;
            }
            match self.pending.heads.get(audience) {
                Some(head) => {
                    let sums = AudienceSums { is_changed: false, ..head.sums.clone() };
                    self.mutation.audiences.insert(audience.clone(), sums);
                }
                None => {
                    unknown.insert(audience.clone());
                }
            }
        }
        let unknown: Vec<Audience> = unknown.into_iter().collect();
        for audiences in batch::chunks(&unknown) {
            let names: Vec<String> = audiences.iter().map(ToString::to_string).collect();
            let mut sql =
                QueryBuilder::new("SELECT audience, floor, count, digest FROM audiences WHERE audience IN ");
            batch::list(&mut sql, &names);
            for audience in audiences {
                let none = AudienceSums { floor: 0, count: 0, digest: Digest::EMPTY, is_changed: false };
                self.mutation.audiences.insert(audience.clone(), none);
            }
            for row in self.read.all(sql.build()).await? {
                let name: &str = row.try_get(0)?;
                let audience: Audience = name.parse().map_err(|error| StoreError::row(format!("{error}")))?;
                let digest = Digest::from_bytes(row.try_get(3)?)
                    .ok_or_else(|| StoreError::row(format!("digest of audience {audience}")))?;
                let sums = AudienceSums {
                    floor: from_sql("floor", row.try_get(1)?)?,
                    count: from_sql("count", row.try_get(2)?)?,
                    digest,
                    is_changed: false,
                };
                self.mutation.audiences.insert(audience, sums);
            }
        }
        Ok(())
    }

    fn take_intent(&mut self, change: IntentChange) -> Result<(), ApplyError> {
        let IntentChange { audience, key, owner, value, cause, traceparent, rollout } = change;
        let now = self.pending.layer.known_row(&audience, &key).flatten();
        match (now, &value) {
            (None, None) => return Ok(()),
            // Somebody else wants it now.
            (Some(now), None) if now.owner != owner => return Ok(()),
            (Some(now), Some(value)) if now.value == *value => {
                if now.owner != owner {
                    // Subscribers have this very item: only who wants it changes, so its revision stays.
                    let row = IntentRow { owner: owner.clone(), ..now.clone() };
                    self.rows(1)?;
                    if let Some(logged) = self.mutation.log.get_mut(&(audience.clone(), key.clone())) {
                        logged.owner = owner;
                    }
                    self.pending.layer.set_row(audience, key, Some(row));
                }
                return Ok(());
            }
            (None | Some(_), Some(_)) | (Some(_), None) => {}
        }
        if let Some(sums) = self.mutation.audiences.get_mut(&audience) {
            sums.is_changed = true;
            if let Some(now) = now {
                sums.digest.remove(&key, &now.value);
                sums.count = sums.count.checked_sub(1).ok_or_else(|| {
                    StoreError::row(format!("audience {audience} counts fewer items than it has"))
                })?;
            }
            if let Some(new) = &value {
                sums.digest.add(&key, new);
                sums.count += 1;
            }
        }
        self.rows(1)?;
        let traceparent =
            traceparent.map_or_else(|| self.mutation.origin.traceparent.clone(), harmless_traceparent);
        let row = value.as_ref().map(|value| IntentRow {
            audience: audience.clone(),
            key: key.clone(),
            revision: self.read.head() + 1,
            owner: owner.clone(),
            value: value.clone(),
            rollout,
        });
        let logged = LogRow { value, owner, cause, traceparent, rollout };
        self.mutation.log.insert((audience.clone(), key.clone()), logged);
        self.pending.layer.set_row(audience, key, row);
        Ok(())
    }
}

impl Pending {
    /// Takes what a mutation that is kept wrote at `revision`, and answers the audiences that it changed.
    pub(super) fn keep_intents(
        &mut self,
        revision: u64,
        log: MutationLog,
        audiences: BTreeMap<Audience, AudienceSums>,
    ) -> Vec<Audience> {
        for (at, row) in log {
            self.log.insert((at.0.clone(), revision, at.1.clone()), row.clone());
            self.logged.insert(at, row);
        }
        let mut changed = Vec::new();
        for (audience, sums) in audiences.into_iter().filter(|(_, sums)| sums.is_changed) {
            let logged = self.heads.get(&audience).map_or(0, |head| head.logged) + 1;
            self.heads.insert(audience.clone(), PendingHead { sums, revision, logged });
            changed.push(audience);
        }
        changed
    }

    pub(super) async fn write_intents(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let mut set = Vec::new();
        let mut withdrawn = Vec::new();
        for (audience, key, row) in self.layer.changed_rows() {
            match (self.logged.get(&(audience.clone(), key.clone())), row) {
                (Some(logged), Some(row)) => set.push((
                    row,
                    to_sql("revision", row.revision)?,
                    logged,
                    to_sql("rollout", row.rollout)?,
                )),
                (Some(_), None) => withdrawn.push((audience, key)),
                (None, Some(row)) => own(tx, row).await?,
                (None, None) => {}
            }
        }
        write_current(tx, &set).await?;
        forget_current(tx, &withdrawn).await?;
        self.write_log(tx).await?;
        self.write_heads(tx).await
    }

    async fn write_log(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for ((audience, revision, key), row) in &self.log {
            let rollout = to_sql("rollout", row.rollout)?;
            rows.push((audience, to_sql("revision", *revision)?, key, row, rollout));
        }
        batch::insert(
            tx,
            "INSERT INTO intent_log (audience, revision, kind, key, op, value, cause, owner, traceparent, rollout)",
            "",
            &rows,
            |values, (audience, revision, key, row, rollout)| {
                values.push_bind(audience.to_string()).push_bind(*revision);
                values.push_bind(key.kind).push_bind(key.name.clone());
                values.push_bind(if row.value.is_some() { "set" } else { "withdraw" });
                values.push_bind(row.value.as_ref().map(|value| value.to_vec()));
                values.push_bind(cause_number(row.cause));
                values.push_bind(row.owner.clone()).push_bind(row.traceparent.clone()).push_bind(*rollout);
            },
        )
        .await?;
        Ok(())
    }

    async fn write_heads(&self, tx: &mut ReadTx) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for (audience, PendingHead { sums, revision, logged }) in &self.heads {
            let numbers = [
                to_sql("revision", *revision)?,
                to_sql("floor", sums.floor)?,
                to_sql("count", sums.count)?,
                to_sql("logged", *logged)?,
            ];
            rows.push((audience, numbers, sums.digest.to_bytes().to_vec()));
        }
        batch::insert(
            tx,
            "INSERT INTO audiences (audience, revision, floor, count, digest, logged)",
            "ON CONFLICT (audience) DO UPDATE SET revision = excluded.revision, count = excluded.count, \
             digest = excluded.digest, logged = audiences.logged + excluded.logged",
            &rows,
            |row, (audience, [revision, floor, count, logged], digest)| {
                row.push_bind(audience.to_string()).push_bind(*revision);
                row.push_bind(*floor).push_bind(*count).push_bind(digest.clone()).push_bind(*logged);
            },
        )
        .await?;
        Ok(())
    }
}

/// Writes who wants a row that is otherwise as it was.
async fn own(tx: &mut ReadTx, row: &IntentRow) -> Result<(), StoreError> {
    let query = sql::query("UPDATE intent_current SET owner = ? WHERE audience = ? AND kind = ? AND key = ?")
        .bind(&row.owner)
        .bind(row.audience.to_string())
        .bind(row.key.kind)
        .bind(&row.key.name);
    tx.execute(query).await?;
    Ok(())
}

async fn write_current(tx: &mut ReadTx, rows: &[(&IntentRow, i64, &LogRow, i64)]) -> Result<(), StoreError> {
    batch::insert(
        tx,
        "INSERT INTO intent_current (audience, kind, key, revision, owner, value, cause, traceparent, rollout)",
        "ON CONFLICT (audience, kind, key) DO UPDATE SET revision = excluded.revision, owner = excluded.owner, \
         value = excluded.value, cause = excluded.cause, traceparent = excluded.traceparent, rollout = excluded.rollout",
        rows,
        |values, (row, revision, logged, rollout)| {
            values.push_bind(row.audience.to_string()).push_bind(row.key.kind).push_bind(row.key.name.clone());
            values.push_bind(*revision).push_bind(row.owner.clone()).push_bind(row.value.to_vec());
            values.push_bind(cause_number(logged.cause)).push_bind(logged.traceparent.clone()).push_bind(*rollout);
        },
    )
    .await?;
    Ok(())
}

async fn forget_current(tx: &mut ReadTx, rows: &[(&Audience, &Key)]) -> Result<(), StoreError> {
    for rows in batch::chunks(rows) {
        let mut sql = QueryBuilder::new("DELETE FROM intent_current");
        batch::any_of(&mut sql, &["audience", "kind", "key"], rows, |sql, (audience, key), column| {
            match column {
                0 => sql.push_bind(audience.to_string()),
                1 => sql.push_bind(key.kind),
                _ => sql.push_bind(key.name.clone()),
            };
        });
        tx.execute(sql.build()).await?;
    }
    Ok(())
}

fn check_intent(change: &IntentChange) -> Result<(), StoreError> {
    for (field, text) in [("key", &change.key.name), ("owner", &change.owner)] {
        if text.len() > MAX_NAME_BYTES {
            let problem = format!("{} bytes; at most {MAX_NAME_BYTES}", text.len());
            return Err(StoreError::value(field, problem));
        }
        if text.contains('\0') {
            return Err(StoreError::value(field, "has a NUL character"));
        }
    }
    // A frame of the feed must hold it, whatever it says.
    let bytes = change.value.as_ref().map_or(0, Bytes::len);
    if bytes > MAX_VALUE_BYTES {
        let problem = format!("{} has {bytes} bytes; at most {MAX_VALUE_BYTES}", change.key);
        return Err(StoreError::value("value", problem));
    }
    Ok(())
}
