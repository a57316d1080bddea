//! The memory that responses are stored in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ahash::RandomState;
use bytes::Bytes;
use hosting_intent::message::CachePolicy;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use crate::memory::{Account, Budget, Sweep};
use crate::response::check;
use crate::stored::{Body, Head};
use crate::{Asked, Came, Charge, Flights, Key, Millis, Purges, Stamp, Stored, Terms, Verdict};

/// Variants of a page.
const MAX_VARIANTS: usize = 8;
/// Parts that the memory has: a request locks one of them for a moment.
const SHARDS: usize = 4;
/// An entry has at most this part of the memory.
const LARGEST: usize = 64;
/// Of eight parts of the memory one is for what is being stored, and for what went and is still being sent.
const PARTS: usize = 8;
/// How long nobody waits for a page that was for nobody else, in milliseconds.
const UNSHARED: Millis = 10_000;
/// What a page without a variant takes.
const MARK: usize = 256;

/// What there is of a page.
#[derive(Debug)]
struct Slot {
    /// The newest first.
    variants: Box<[Arc<Stored>]>,
    /// Until then nobody waits for another's request.
    unshared_until: Millis,
    /// What was asked for until then is out of date.
    not_before: Millis,
    /// It was used since somebody looked.
    is_used: AtomicBool,
    size: usize,
    /// Of a page without a variant.
    _mark: Option<Charge>,
}

impl Slot {
    fn of(variants: Vec<Arc<Stored>>, key: &Key, not_before: Millis) -> Self {
        let size = variants.iter().map(|stored| stored.size()).sum::<usize>() + key.size();
        Self {
            variants: variants.into(),
            unshared_until: 0,
            not_before,
            is_used: AtomicBool::new(false),
            size,
            _mark: None,
        }
    }
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Arc<[u8]>, Arc<Slot>> for Weigh {
    fn weight(&self, _: &Arc<[u8]>, slot: &Arc<Slot>) -> u64 {
        slot.size as u64
    }
}

#[derive(Debug, Clone, Default)]
struct Evictions(Arc<AtomicU64>);

impl Lifecycle<Arc<[u8]>, Arc<Slot>> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Arc<[u8]>, _: Arc<Slot>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What there is for a request.
#[derive(Debug)]
pub enum Found {
    /// A response.
    Stored(Arc<Stored>),
    /// None, and the last one was for nobody else.
    Unshared,
    /// None.
    Nothing,
}

/// How much there is, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Bytes in use.
    pub bytes: usize,
    /// Pages.
    pub pages: usize,
    /// Pages that made room, since the start.
    pub evictions: u64,
}

/// Of each tenant that has entries, and of some that had, what it has.
#[derive(Debug)]
struct Accounts {
    of: HashMap<Box<str>, Arc<Account>, RandomState>,
    sweep: Sweep,
}

/// Responses, by page.
#[derive(Debug)]
pub struct Store {
    slots: Cache<Arc<[u8]>, Arc<Slot>, Weigh, RandomState, Evictions>,
    evictions: Evictions,
    budget: Arc<Budget>,
    accounts: Mutex<Accounts>,
    /// A page is read, changed and put back under this.
    writing: Mutex<()>,
    flights: Arc<Flights>,
    bytes: usize,
    tenant_bytes: usize,
}

impl Store {
    /// Holds at most so many bytes, and of each tenant at most this part of them, from 1 to 100 in a hundred.
    #[must_use]
    pub fn new(bytes: usize, tenant_percent: usize) -> Arc<Self> {
        let kept = (bytes / PARTS * (PARTS - 1)) as u64;
        let (evictions, items) = (Evictions::default(), (bytes / 16_384).max(64));
        let mut options = OptionsBuilder::new();
        options.shards(SHARDS).estimated_items_capacity(items).weight_capacity(kept);
        let slots = match options.build() {
            Ok(options) => Cache::with_options(options, Weigh, RandomState::new(), evictions.clone()),
            Err(_) => Cache::with(items, kept, Weigh, RandomState::new(), evictions.clone()),
        };
        Arc::new(Self {
            slots,
            evictions,
            budget: Arc::new(Budget::new(bytes)),
            accounts: Mutex::new(Accounts { of: HashMap::default(), sweep: Sweep::from(64) }),
            writing: Mutex::default(),
            flights: Arc::default(),
            bytes,
            tenant_bytes: bytes / 100 * tenant_percent.clamp(1, 100),
        })
    }

    /// Requests under way that others wait for.
    #[must_use]
    pub fn flights(&self) -> &Arc<Flights> {
        &self.flights
    }

    /// How much there is.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            bytes: self.budget.used(),
            pages: self.slots.len(),
            evictions: self.evictions.0.load(Ordering::Relaxed),
        }
    }

    /// What there is for a request.
    #[must_use]
    pub fn find(&self, key: &Key, asked: &Asked<'_>, purges: &Purges, now: Millis) -> Found {
        let Some(slot) = self.slots.get(&**key.bytes()) else { return Found::Nothing };
        let is_dead = |stored: &Stored| purges.kill(stored.stamp(), stored.key(), stored.tags());
        let mut living = slot.variants.iter().filter(|stored| !is_dead(stored)).peekable();
        if living.peek().is_none() && !slot.variants.is_empty() {
            self.slots.remove_if(&**key.bytes(), |there| Arc::ptr_eq(there, &slot));
            return Found::Nothing;
        }
        if let Some(stored) = living.find(|stored| stored.is_for(asked)) {
            slot.is_used.store(true, Ordering::Relaxed);
            return Found::Stored(Arc::clone(stored));
        }
        if slot.unshared_until > now { Found::Unshared } else { Found::Nothing }
    }

    /// Whether a response is not dead.
    #[must_use]
    pub fn is_alive(stored: &Stored, purges: &Purges) -> bool {
        !purges.kill(stored.stamp(), stored.key(), stored.tags())
    }

    fn account(&self, tenant: &str) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.of.get(tenant) {
            return Arc::clone(account);
        }
        if accounts.sweep.is_due(accounts.of.len()) {
            // A tenant without an entry is nobody.
            accounts.of.retain(|_, account| Arc::strong_count(account) > 1);
            let left = accounts.of.len();
            accounts.sweep.done(left);
        }
        let account = Arc::new(Account::new(self.tenant_bytes, self.bytes / PARTS / 2));
        accounts.of.insert(tenant.into(), Arc::clone(&account));
        account
    }

    /// Makes a charge one of so many bytes; the tenant's own entries make room.
    fn grow(&self, charge: &mut Charge, bytes: usize) -> bool {
        let more = bytes.saturating_sub(charge.bytes());
        let account = Arc::clone(charge.account());
        if !account.could_have(more) {
            return false;
        }
        let mut tries = 2 * account.order().keys.len();
        while !account.has_room(more) && tries > 0 {
            tries -= 1;
            let Some(oldest) = account.order().keys.pop_front() else { break };
            let Some(slot) = self.slots.peek(&*oldest) else { continue };
            if slot.is_used.swap(false, Ordering::Relaxed) {
                account.order().keys.push_back(oldest);
            } else if self.slots.remove_if(&*oldest, |there| Arc::ptr_eq(there, &slot)).is_some() {
                self.evictions.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        charge.grow(bytes)
    }

    /// Begins to store a response, whose body is to follow. `None`: there is no room for it.
    #[allow(clippy::too_many_arguments, reason = "all that is known of one response")]
    pub fn draft(
        self: &Arc<Self>,
        tenant: &str,
        key: Key,
        asked: &Asked<'_>,
        came: &Came<'_>,
        terms: Terms,
        stamp: Stamp,
        policy: &CachePolicy,
    ) -> Option<Draft> {
        let most = usize::try_from(policy.max_object_bytes).unwrap_or(usize::MAX).min(self.bytes / LARGEST);
        let length = came.length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let head = Head::new(key, asked, came, terms, stamp)?;
        if head.size() > most || length.is_some_and(|length| length > most) {
            return None;
        }
        let account = self.account(tenant);
        let (mut charge, mut of_body) = (self.charge(&account), self.charge(&account));
        if !self.grow(&mut charge, head.size()) || !self.grow(&mut of_body, length.unwrap_or_default()) {
            return None;
        }
        let body = Vec::with_capacity(length.unwrap_or_default());
        Some(Draft { store: Arc::clone(self), head, charge, of_body, body, most, length })
    }

    fn charge(&self, account: &Arc<Account>) -> Charge {
        Charge::new(Arc::clone(&self.budget), Arc::clone(account))
    }

    /// Puts a response in its place. `false`: it is out of date.
    fn put(&self, stored: &Arc<Stored>) -> bool {
        let key = stored.key();
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.slots.peek(&**key.bytes());
        let not_before = before.as_ref().map_or(0, |slot| slot.not_before);
        if stored.asked_at() <= not_before {
            return false;
        }
        let others = before.iter().flat_map(|slot| &slot.variants);
        let others = others.filter(|other| !other.is_replaced_by(stored)).cloned();
        let variants = std::iter::once(Arc::clone(stored)).chain(others).take(MAX_VARIANTS).collect();
        self.slots.insert(Arc::clone(key.bytes()), Arc::new(Slot::of(variants, key, not_before)));
        if before.is_none() {
            self.note(stored.shared_body().charge.account(), key);
        }
        true
    }

    /// Notes that a tenant has a page more.
    fn note(&self, account: &Account, key: &Key) {
        account.order().push(Arc::clone(key.bytes()), |key| self.slots.contains_key(key));
    }

    /// Remembers that a page was for nobody else, so that nobody waits for it, unless there is a variant of it.
    pub fn note_unshared(&self, tenant: &str, key: &Key, now: Millis) {
        self.mark(tenant, key, false, |not_before| (now + UNSHARED, not_before));
    }

    /// A page has changed: what there is of it goes, and so does what is under way (RFC 9111 §4.4).
    pub fn invalidate(&self, tenant: &str, key: &Key, now: Millis) {
        let is_under_way = self.flights.is_under_way(key);
        if self.slots.remove(&**key.bytes()).is_some() || is_under_way {
            self.mark(tenant, key, true, |_| (0, now));
        }
    }

    /// Gives up a response.
    pub fn remove(&self, stored: &Arc<Stored>) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let key = stored.key();
        let Some(slot) = self.slots.peek(&**key.bytes()) else { return };
        let rest: Vec<_> =
            slot.variants.iter().filter(|other| !Arc::ptr_eq(other, stored)).cloned().collect();
        if rest.is_empty() {
            self.slots.remove(&**key.bytes());
        } else if rest.len() < slot.variants.len() {
            self.slots.insert(Arc::clone(key.bytes()), Arc::new(Slot::of(rest, key, slot.not_before)));
        }
    }

    /// Puts a page without a variant: until when it is unshared, and since when it is new. `replaces`: whatever there is.
    fn mark(&self, tenant: &str, key: &Key, replaces: bool, times: impl Fn(Millis) -> (Millis, Millis)) {
        let account = self.account(tenant);
        let mut charge = self.charge(&account);
        let size = MARK + key.size();
        if !self.grow(&mut charge, size) {
            return;
        }
        charge.settle(size);
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.slots.peek(&**key.bytes());
        if !replaces && before.as_ref().is_some_and(|slot| !slot.variants.is_empty()) {
            return;
        }
        let (unshared_until, not_before) = times(before.as_ref().map_or(0, |slot| slot.not_before));
        let slot =
            Slot { unshared_until, size, _mark: Some(charge), ..Slot::of(Vec::new(), key, not_before) };
        self.slots.insert(Arc::clone(key.bytes()), Arc::new(slot));
        if before.is_none() {
            self.note(&account, key);
        }
    }

    /// What a 304 makes of a stored response (RFC 9111 §4.3.4). `None`: it is about another one. The response holds for the request that was
    /// asked for it in any case, and for others if it is stored.
    pub fn confirm(
        self: &Arc<Self>,
        stored: &Arc<Stored>,
        asked: &Asked<'_>,
        came: &Came<'_>,
        stamp: Stamp,
        policy: &CachePolicy,
    ) -> Option<(Arc<Stored>, bool)> {
        if !stored.is_confirmed_by(came.fields) {
            return None;
        }
        let fields = stored.merged(came.fields);
        let merged = Came { status: stored.status(), reason: stored.reason(), fields: &fields, ..*came };
        let renewed = match check(asked, &merged, policy) {
            Verdict::Store(terms) => {
                // Tags that are said anew count; those of before stay where none are.
                Head::new(stored.key().clone(), asked, &merged, terms, stamp)
                    .map(|head| head.or_tags_of(stored.head()))
            }
            Verdict::Pass => None,
        };
        let Some(head) = renewed else {
            self.remove(stored);
            return Some((Arc::clone(stored), false));
        };
        let account = Arc::clone(stored.shared_body().charge.account());
        let mut charge = self.charge(&account);
        let size = head.size();
        if !self.grow(&mut charge, size) {
            self.remove(stored);
            return Some((Arc::clone(stored), false));
        }
        charge.settle(size);
        let renewed = Arc::new(Stored::new(head, charge, Arc::clone(stored.shared_body())));
        let is_stored = self.put(&renewed);
        Some((renewed, is_stored))
    }
}

/// A response that is being stored.
#[derive(Debug)]
pub struct Draft {
    store: Arc<Store>,
    head: Head,
    charge: Charge,
    of_body: Charge,
    body: Vec<u8>,
    most: usize,
    length: Option<usize>,
}

impl Draft {
    /// What came so far.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Takes a piece of the body. `false`: there is no room for it, and nothing was taken.
    pub fn push(&mut self, data: &[u8]) -> bool {
        let wanted = self.body.len() + data.len();
        if wanted > self.most {
            return false;
        }
        if wanted > self.body.capacity() {
            let capacity = wanted.max(2 * self.body.capacity()).min(self.most);
            if !self.store.grow(&mut self.of_body, capacity) {
                return false;
            }
            self.body.reserve_exact(capacity - self.body.len());
        }
        self.body.extend_from_slice(data);
        true
    }

    /// The body is whole. The response, and whether it is stored: it may be out of date.
    ///
    /// # Errors
    /// It is not as long as was said.
    pub fn finish(mut self) -> Result<(Arc<Stored>, bool), Rest> {
        if self.length.is_some_and(|length| length != self.body.len()) {
            return Err(self.give_up());
        }
        self.body.shrink_to_fit();
        self.of_body.settle(self.body.len());
        self.charge.settle(self.head.size());
        let body = Arc::new(Body { bytes: Bytes::from(self.body), charge: self.of_body });
        let stored = Arc::new(Stored::new(self.head, self.charge, body));
        let is_stored = self.store.put(&stored);
        Ok((stored, is_stored))
    }

    /// Gives it up; what came so far is still to be sent.
    #[must_use]
    pub fn give_up(self) -> Rest {
        Rest { body: self.body, _charge: self.of_body }
    }
}

/// What came of a body that is not stored.
#[derive(Debug)]
pub struct Rest {
    body: Vec<u8>,
    _charge: Charge,
}

impl Rest {
    /// All of it.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}
