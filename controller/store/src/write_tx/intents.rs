//! Intents of a change: current rows, log, and the sums of their audiences.

use std::collections::BTreeMap;

use hosting_intent::{Audience, Bytes, Cause, Digest, Key, MAX_VALUE_BYTES};
use hosting_planner::{ApplyError, IntentChange};

use super::{AudienceSums, WriteTx};
use crate::batch::{self, CHUNK};
use crate::error::{from_sql, to_sql};
use crate::read_tx::{cause_number, intent_row};
use crate::sql::{self, QueryBuilder};
use crate::writer::harmless_traceparent;
use crate::{ReadTx, StoreError};

/// Longest owner or intent key in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// What stands under a key, and what became of it in this change.
struct Slot {
    /// Owner and value as they are now.
    now: Option<(String, Bytes)>,
    change: Option<Effect>,
}

/// What is to be written for a key. The last change of a key says what the log keeps.
enum Effect {
    /// Subscribers have this very item: only who wants it changes, so its revision stays.
    Owner,
    /// Set, or withdrawn when the slot holds nothing.
    Logged { owner: String, cause: Cause, traceparent: String },
}

/// A row of the log, and of the current rows if it has a value.
struct Logged<'s> {
    audience: String,
    key: &'s Key,
    value: Option<&'s Bytes>,
    owner: &'s str,
    cause: Cause,
    traceparent: &'s str,
}

impl WriteTx {
    pub(super) async fn write_intents(&mut self, changes: Vec<IntentChange>) -> Result<(), ApplyError> {
        if changes.is_empty() {
            return Ok(());
        }
        for change in &changes {
            check_intent(change)?;
        }
        let mut slots = self.slots(&changes).await?;
        self.read_sums(&changes).await?;
        for change in changes {
            self.change(change, &mut slots)?;
        }
        self.write_slots(&slots).await
    }

    /// The current rows of the keys that are changed.
    async fn slots(
        &mut self,
        changes: &[IntentChange],
    ) -> Result<BTreeMap<(Audience, Key), Slot>, StoreError> {
        let mut slots: BTreeMap<(Audience, Key), Slot> = changes
            .iter()
            .map(|change| ((change.audience.clone(), change.key.clone()), Slot { now: None, change: None }))
            .collect();
        let keys: Vec<(String, Key)> =
            slots.keys().map(|(audience, key)| (audience.to_string(), key.clone())).collect();
        for keys in keys.chunks(CHUNK) {
            let mut sql =
                QueryBuilder::new("SELECT audience, kind, key, revision, owner, value FROM intent_current");
            batch::any_of(&mut sql, &["audience", "kind", "key"], keys, |sql, (audience, key), column| {
                match column {
                    0 => sql.push_bind(audience.clone()),
                    1 => sql.push_bind(key.kind),
                    _ => sql.push_bind(key.name.clone()),
                };
            });
            for row in self.read.all(sql.build()).await? {
                let row = intent_row(&row)?;
                if let Some(slot) = slots.get_mut(&(row.audience, row.key)) {
                    slot.now = Some((row.owner, row.value));
                }
            }
        }
        Ok(slots)
    }

    /// Reads the sums of audiences that this mutation has not changed yet.
    async fn read_sums(&mut self, changes: &[IntentChange]) -> Result<(), StoreError> {
        let mut unknown: Vec<Audience> = changes
            .iter()
            .map(|change| change.audience.clone())
            .filter(|audience| !self.mutation.audiences.contains_key(audience))
            .collect();
        unknown.sort();
        unknown.dedup();
        for audiences in unknown.chunks(CHUNK) {
            let names: Vec<String> = audiences.iter().map(ToString::to_string).collect();
            let mut sql =
                QueryBuilder::new("SELECT audience, floor, count, digest FROM audiences WHERE audience IN ");
            batch::list(&mut sql, &names);
            for audience in audiences {
                let none = AudienceSums { floor: 0, count: 0, digest: Digest::EMPTY, changed: false };
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
                    changed: false,
                };
                self.mutation.audiences.insert(audience, sums);
            }
        }
        Ok(())
    }

    fn change(
        &mut self,
        change: IntentChange,
        slots: &mut BTreeMap<(Audience, Key), Slot>,
    ) -> Result<(), ApplyError> {
        let IntentChange { audience, key, owner, value, cause, traceparent } = change;
        let at = (audience, key);
        let Some(slot) = slots.get_mut(&at) else { return Ok(()) };
        match (&slot.now, &value) {
            (None, None) => return Ok(()),
            // Somebody else wants it now.
            (Some((other, _)), None) if *other != owner => return Ok(()),
            (Some((other, now)), Some(value)) if now == value => {
                if *other != owner {
                    self.rows(1)?;
                    slot.now = Some((owner, value.clone()));
                    slot.change.get_or_insert(Effect::Owner);
                }
                return Ok(());
            }
            (None | Some(_), Some(_)) | (Some(_), None) => {}
        }
        self.rows(1)?;
        let (audience, key) = &at;
        if let Some(sums) = self.mutation.audiences.get_mut(audience) {
            sums.changed = true;
            if let Some((_, old)) = &slot.now {
                sums.digest.remove(key, old);
                sums.count = sums.count.checked_sub(1).ok_or_else(|| {
                    StoreError::row(format!("audience {audience} counts fewer items than it has"))
                })?;
            }
            if let Some(new) = &value {
                sums.digest.add(key, new);
                sums.count += 1;
            }
        }
        let traceparent =
            traceparent.map_or_else(|| self.mutation.origin.traceparent.clone(), harmless_traceparent);
        slot.now = value.map(|value| (owner.clone(), value));
        slot.change = Some(Effect::Logged { owner, cause, traceparent });
        Ok(())
    }

    async fn write_slots(&mut self, slots: &BTreeMap<(Audience, Key), Slot>) -> Result<(), ApplyError> {
        let revision = to_sql("revision", self.read.head() + 1)?;
        let mut log = Vec::new();
        for ((audience, key), slot) in slots {
            match (&slot.change, &slot.now) {
                (Some(Effect::Owner), Some((owner, _))) => {
                    let query = sql::query(
                        "UPDATE intent_current SET owner = ? WHERE audience = ? AND kind = ? AND key = ?",
                    );
                    let query = query.bind(owner).bind(audience.to_string()).bind(key.kind).bind(&key.name);
                    self.read.execute(query).await?;
                }
                (Some(Effect::Logged { owner, cause, traceparent }), now) => log.push(Logged {
                    audience: audience.to_string(),
                    key,
                    value: now.as_ref().map(|(_, value)| value),
                    // The last one to set it owns it, even if another one set the same value behind.
                    owner: now.as_ref().map_or(owner, |(owner, _)| owner),
                    cause: *cause,
                    traceparent,
                }),
                (Some(Effect::Owner) | None, _) => {}
            }
        }
        let (set, withdrawn): (Vec<&Logged<'_>>, Vec<&Logged<'_>>) =
            log.iter().partition(|row| row.value.is_some());
        write_current(&mut self.read, &set, revision).await?;
        forget_current(&mut self.read, &withdrawn).await?;
        write_log(&mut self.read, &log, revision).await?;
        Ok(())
    }

    /// Writes the heads of the audiences that the mutation changed, and answers which those are.
    pub(super) async fn write_audiences(&mut self) -> Result<Vec<Audience>, StoreError> {
        let revision = to_sql("revision", self.read.head() + 1)?;
        let mut rows = Vec::new();
        for (audience, sums) in std::mem::take(&mut self.mutation.audiences) {
            if sums.changed {
                let (floor, count) = (to_sql("floor", sums.floor)?, to_sql("count", sums.count)?);
                rows.push((audience, floor, count, sums.digest.to_bytes().to_vec()));
            }
        }
        batch::insert(
            &mut self.read,
            "INSERT INTO audiences (audience, revision, floor, count, digest)",
            "ON CONFLICT (audience) DO UPDATE SET revision = excluded.revision, count = excluded.count, \
             digest = excluded.digest",
            &rows,
            |row, (audience, floor, count, digest)| {
                row.push_bind(audience.to_string()).push_bind(revision);
                row.push_bind(*floor).push_bind(*count).push_bind(digest.clone());
            },
        )
        .await?;
        Ok(rows.into_iter().map(|(audience, ..)| audience).collect())
    }
}

async fn write_current(tx: &mut ReadTx, rows: &[&Logged<'_>], revision: i64) -> Result<(), StoreError> {
    batch::insert(
        tx,
        "INSERT INTO intent_current (audience, kind, key, revision, owner, value, cause, traceparent)",
        "ON CONFLICT (audience, kind, key) DO UPDATE SET revision = excluded.revision, owner = excluded.owner, \
         value = excluded.value, cause = excluded.cause, traceparent = excluded.traceparent",
        rows,
        |values, row| {
            values.push_bind(row.audience.clone()).push_bind(row.key.kind).push_bind(row.key.name.clone());
            values.push_bind(revision).push_bind(row.owner.to_owned());
            values.push_bind(row.value.map(|value| value.to_vec()));
            values.push_bind(cause_number(row.cause)).push_bind(row.traceparent.to_owned());
        },
    )
    .await?;
    Ok(())
}

async fn forget_current(tx: &mut ReadTx, rows: &[&Logged<'_>]) -> Result<(), StoreError> {
    for rows in rows.chunks(CHUNK) {
        let mut sql = QueryBuilder::new("DELETE FROM intent_current");
        batch::any_of(&mut sql, &["audience", "kind", "key"], rows, |sql, row, column| {
            match column {
                0 => sql.push_bind(row.audience.clone()),
                1 => sql.push_bind(row.key.kind),
                _ => sql.push_bind(row.key.name.clone()),
            };
        });
        tx.execute(sql.build()).await?;
    }
    Ok(())
}

async fn write_log(tx: &mut ReadTx, rows: &[Logged<'_>], revision: i64) -> Result<(), StoreError> {
    batch::insert(
        tx,
        "INSERT INTO intent_log (audience, revision, kind, key, op, value, cause, owner, traceparent)",
        "ON CONFLICT (audience, revision, kind, key) DO UPDATE SET op = excluded.op, value = excluded.value, \
         cause = excluded.cause, owner = excluded.owner, traceparent = excluded.traceparent",
        rows,
        |values, row| {
            values.push_bind(row.audience.clone()).push_bind(revision);
            values.push_bind(row.key.kind).push_bind(row.key.name.clone());
            values.push_bind(if row.value.is_some() { "set" } else { "withdraw" });
            values.push_bind(row.value.map(|value| value.to_vec())).push_bind(cause_number(row.cause));
            values.push_bind(row.owner.to_owned()).push_bind(row.traceparent.to_owned());
        },
    )
    .await?;
    Ok(())
}

fn check_intent(change: &IntentChange) -> Result<(), StoreError> {
    for (field, text) in [("key", &change.key.name), ("owner", &change.owner)] {
        if text.len() > MAX_NAME_BYTES {
            let problem = format!("{} bytes; at most {MAX_NAME_BYTES}", text.len());
            return Err(StoreError::value(field, problem));
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
