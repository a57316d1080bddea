//! A disk that fails, a role that only remembers, a pipe that can be cut anywhere.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hosting_intent::{Bytes, Intent, Key, Kind, Rejection, message as m};
use hosting_ledger::{Journal, LedgerBatch, LedgerError, Meta, Record};
use hosting_proto::feed as wire;
use prost::Message;

use crate::{Batch, Replica};

/// What becomes of the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fault {
    #[default]
    None,
    /// No space until further notice.
    Full,
    /// The machine stops before the disk has it.
    BeforeSync,
    /// The machine stops after the disk has it, before anybody is told.
    AfterSync,
}

/// What survives a crash.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) stored: Option<(Meta, BTreeMap<Key, Record>)>,
    pub(super) syncs: u64,
    pub(super) fault: Fault,
}

#[derive(Debug, Clone, Default)]
pub(super) struct ModelJournal(Arc<Mutex<Disk>>);

impl ModelJournal {
    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for ModelJournal {
    fn load(&mut self, each: &mut dyn FnMut(&Key, Record)) -> Result<Option<Meta>, LedgerError> {
        let disk = self.disk();
        let Some((meta, view)) = &disk.stored else { return Ok(None) };
        for (key, record) in view {
            each(key, record.clone());
        }
        Ok(Some(meta.clone()))
    }

    fn write(&mut self, batch: LedgerBatch<'_>) -> Result<(), LedgerError> {
        let mut disk = self.disk();
        let failed = || LedgerError::Full { path: "model".into(), problem: "the disk fails".to_owned() };
        if matches!(disk.fault, Fault::Full | Fault::BeforeSync) {
            return Err(failed());
        }
        let mut view = match disk.stored.take() {
            Some((_, view)) if !batch.replace_all => view,
            _ => BTreeMap::new(),
        };
        for (key, record) in batch.records {
            match record {
                Some(record) => view.insert(key, record),
                None => view.remove(&key),
            };
        }
        disk.stored = Some((batch.meta.clone(), view));
        disk.syncs += 1;
        if disk.fault == Fault::AfterSync { Err(failed()) } else { Ok(()) }
    }
}

/// What an item is to a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Good,
    /// Good, and it takes away what was served.
    Stopping,
    /// Rejected.
    Poisoned,
    /// Of a kind that nobody knows.
    Unknown,
}

const REFUSED: &str = "refused";
const UNKNOWN_KIND: u32 = 4711;

pub(super) fn route_key(n: u32) -> Key {
    Key::new(Kind::Route, format!("host-{n}.example"))
}

pub(super) fn state_key(n: u32) -> Key {
    Key::new(Kind::TenantState, format!("t_{n}"))
}

pub(super) fn unknown_key(n: u32) -> Key {
    Key { kind: UNKNOWN_KIND, name: format!("thing-{n}") }
}

/// A value of `class` for `key`; `mark` makes it unlike the others.
pub(super) fn value(key: &Key, class: Class, mark: u64) -> Bytes {
    if key.kind == UNKNOWN_KIND {
        return Bytes::copy_from_slice(&mark.to_le_bytes());
    }
    if key.known_kind() == Some(Kind::TenantState) {
        let state = match class {
            Class::Good => m::State::Active,
            Class::Stopping => m::State::Suspended,
            Class::Poisoned | Class::Unknown => m::State::Unspecified,
        };
        return m::TenantState { state: state as i32, reason: mark.to_string(), ..m::TenantState::default() }
            .encode_to_vec()
            .into();
    }
    let sound = m::Route { tenant_id: format!("t_{mark}"), ..m::Route::default() };
    match class {
        Class::Good | Class::Stopping => sound.encode_to_vec().into(),
        // Refused by the role, refused for a field, and no message at all.
        Class::Poisoned | Class::Unknown => match mark % 3 {
            0 => m::Route {
                tenant_id: REFUSED.to_owned(),
                webroot_id: format!("web_{mark}"),
                shard_id: "s".to_owned(),
                may_upgrade: false,
                http: None,
            }
            .encode_to_vec()
            .into(),
            1 => m::Route { tenant_id: format!("t;{mark}"), ..sound }.encode_to_vec().into(),
            _ => [&[0xff; 9][..], &mark.to_le_bytes()[..]].concat().into(),
        },
    }
}

/// The reference's own verdict, made without the subscriber's code.
pub(super) fn class(key: &Key, value: &[u8]) -> Class {
    if key.kind == UNKNOWN_KIND {
        return Class::Unknown;
    }
    if key.known_kind() == Some(Kind::TenantState) {
        return match m::TenantState::decode(value).map(|state| state.state()) {
            Ok(m::State::Active) => Class::Good,
            Ok(m::State::Suspended) => Class::Stopping,
            Ok(m::State::Unspecified) | Err(_) => Class::Poisoned,
        };
    }
    match m::Route::decode(value) {
        Ok(route) if route.tenant_id != REFUSED && !route.tenant_id.contains(';') => Class::Good,
        Ok(_) | Err(_) => Class::Poisoned,
    }
}

/// What is in effect, and what was done wrong on the way.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) view: BTreeMap<Key, (u64, Bytes)>,
    /// Keys removed since the driver last looked, with the position of their batch.
    pub(super) removed: Vec<(String, u64, Key)>,
    pub(super) published: u64,
    /// Pieces of a view that is not whole yet.
    staged: Vec<(Key, (u64, Bytes))>,
    pub(super) wrong: Vec<String>,
    /// Which rollouts are open, as the subscriber was told last in this session.
    pub(super) told: Option<wire::Rollouts>,
}

impl Live {
    /// A change of what is in effect came before its rollout.
    fn is_early(&self, key: &Key, value: Option<&Bytes>, rollout: u64) -> bool {
        let told = self.told.as_ref();
        let open = told.is_some_and(|told| rollout <= told.upto && !told.held.contains(&rollout));
        rollout != 0 && !open && self.view.get(key).is_some_and(|(_, before)| Some(before) != value)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct ModelReplica(Arc<Mutex<Live>>);

impl ModelReplica {
    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replica for ModelReplica {
    type Intent = Intent;
    const PIECES: Option<usize> = Some(2);

    fn check(&self, _: &Key, intent: &Intent) -> Result<(), Rejection> {
        match intent {
            Intent::Route(route) if route.tenant_id == REFUSED => {
                Err(Rejection::Invalid { field: "tenant_id", problem: REFUSED.to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn publish(&mut self, batch: Batch<Intent>) {
        let mut live = self.live();
        for (item, intent) in batch.upserts {
            if Intent::parse(&item.key, &item.value) != Ok(intent) || self.refuses(&item.key, &item.value) {
                live.wrong.push(format!("{} is in effect and not sound", item.key));
            }
            if live.is_early(&item.key, Some(&item.value), item.rollout) {
                live.wrong.push(format!("{} came before its rollout {}", item.key, item.rollout));
            }
            let new = (item.revision, item.value);
            if live.view.get(&item.key) == Some(&new) {
                live.wrong.push(format!("{} was published and is no change", item.key));
            }
            live.staged.push((item.key, new));
        }
        if batch.more {
            if live.published > 0 {
                live.wrong.push("a piece of a view came after a whole one".to_owned());
            }
            return;
        }
        live.published += 1;
        let staged = std::mem::take(&mut live.staged);
        live.view.extend(staged);
        for removal in batch.removals {
            if live.is_early(&removal.key, None, removal.rollout) {
                live.wrong.push(format!("{} went before its rollout {}", removal.key, removal.rollout));
            }
            if live.view.remove(&removal.key).is_none() {
                live.wrong.push(format!("{} was removed and was not there", removal.key));
            }
            live.removed.push((batch.epoch.clone(), batch.revision, removal.key));
        }
    }
}

impl ModelReplica {
    fn refuses(&self, key: &Key, value: &[u8]) -> bool {
        matches!(class(key, value), Class::Poisoned | Class::Unknown)
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Sent, on its way.
    under_way: VecDeque<u8>,
    /// Arrived, no whole frame yet.
    arrived: VecDeque<u8>,
}

impl Pipe {
    pub(super) fn send(&mut self, frame: &impl Message) {
        let bytes = frame.encode_to_vec();
        self.under_way.extend((bytes.len() as u32).to_le_bytes());
        self.under_way.extend(bytes);
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Lets `count` bytes arrive; gives the frames that are whole now.
    pub(super) fn arrive<M: Message + Default>(
        &mut self,
        count: usize,
    ) -> Result<Vec<M>, prost::DecodeError> {
        let count = count.min(self.under_way.len());
        self.arrived.extend(self.under_way.drain(..count));
        let mut frames = Vec::new();
        loop {
            let mut header = self.arrived.iter().copied();
            let (Some(a), Some(b), Some(c), Some(d)) =
                (header.next(), header.next(), header.next(), header.next())
            else {
                return Ok(frames);
            };
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            if self.arrived.len() < 4 + length {
                return Ok(frames);
            }
            self.arrived.drain(..4);
            let frame: Vec<u8> = self.arrived.drain(..length).collect();
            frames.push(M::decode(frame.as_slice())?);
        }
    }
}
