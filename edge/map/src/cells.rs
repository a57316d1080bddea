//! What many routes share: tenants and shards, each in a cell that a change of it reaches all its routes by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use ahash::RandomState;
use arc_swap::ArcSwapOption;
use hashbrown::HashTable;
use hosting_intent::message::CachePurges;

use crate::brand::BrandWord;
use crate::policy::Policy;
use crate::pool::Pool;

/// Active until the controller says otherwise: a state that is late or rejected must not take a tenant's sites down.
const ACTIVE: u8 = 0;
const SUSPENDED: u8 = 1;

/// What the table has of a tenant.
#[derive(Debug)]
pub struct Tenant {
    id: Box<str>,
    state: AtomicU8,
    /// Whether there is a policy, so that nobody asks for one that is not there.
    has_policy: AtomicBool,
    policy: ArcSwapOption<Policy>,
    purges: ArcSwapOption<Purged>,
    brand: ArcSwapOption<Brand>,
    /// Requests under way.
    under_way: AtomicUsize,
}

#[derive(Debug)]
struct Purged {
    /// Grows when generations go back.
    life: u64,
    last: Arc<CachePurges>,
}

/// A tenant's request under way.
#[derive(Debug)]
pub struct TenantUnderWay(Arc<Tenant>);

impl Drop for TenantUnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tenant {
    /// The tenant's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether none of its sites is served.
    pub(crate) fn is_suspended(&self) -> bool {
        self.state.load(Ordering::Relaxed) == SUSPENDED
    }

    /// A place among at most `most` requests under way.
    #[must_use]
    pub fn begin(self: &Arc<Self>, most: usize) -> Option<TenantUnderWay> {
        let place = TenantUnderWay(Arc::clone(self));
        // Given back when it is one too many.
        (self.under_way.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }

    /// What holds for its names.
    pub(crate) fn policy(&self) -> Option<Arc<Policy>> {
        if self.has_policy.load(Ordering::Relaxed) { self.policy.load_full() } else { None }
    }

    pub(crate) fn set_policy(&self, policy: Option<Arc<Policy>>) {
        let has_policy = policy.is_some();
        self.policy.store(policy);
        self.has_policy.store(has_policy, Ordering::Relaxed);
    }

    /// What its brand says; `None`: nothing, or nobody knows yet.
    pub(crate) fn brand_word(&self) -> Option<Arc<BrandWord>> {
        self.brand.load().as_deref().and_then(Brand::word)
    }

    /// Its brand, which is known by its id at least.
    pub(crate) fn brand(&self) -> Option<Arc<Brand>> {
        self.brand.load_full()
    }

    pub(crate) fn set_brand(&self, brand: Option<Arc<Brand>>) {
        self.brand.store(brand);
    }

    /// What it purged, and how often its purges went back.
    #[must_use]
    pub fn purges(&self) -> (u64, Option<Arc<CachePurges>>) {
        self.purges
            .load()
            .as_deref()
            .map_or((0, None), |purged| (purged.life, Some(Arc::clone(&purged.last))))
    }

    /// Purges count from here on. Those that go back void all that was stored by the ones before.
    pub(crate) fn purge(&self, last: Option<&CachePurges>) {
        let before = self.purges.load_full();
        let (life, known) = before.as_deref().map_or((0, 0), |purged| (purged.life, purged.last.generation));
        if before.is_none() && last.is_none() {
            return;
        }
        let last = last.cloned().unwrap_or_default();
        let life = life + u64::from(last.generation < known);
        self.purges.store(Some(Arc::new(Purged { life, last: Arc::new(last) })));
    }

    pub(crate) fn suspend(&self, suspended: bool) {
        self.state.store(if suspended { SUSPENDED } else { ACTIVE }, Ordering::Relaxed);
    }
}

/// What the table has of a brand.
#[derive(Debug)]
pub(crate) struct Brand {
    id: Box<str>,
    /// Whether it says anything, so that nobody asks for what is not there.
    has_word: AtomicBool,
    word: ArcSwapOption<BrandWord>,
}

impl Brand {
    fn word(&self) -> Option<Arc<BrandWord>> {
        if self.has_word.load(Ordering::Relaxed) { self.word.load_full() } else { None }
    }

    pub(crate) fn say(&self, word: Option<Arc<BrandWord>>) {
        let has_word = word.is_some();
        self.word.store(word);
        self.has_word.store(has_word, Ordering::Relaxed);
    }
}

/// What the table has of a shard.
#[derive(Debug)]
pub(crate) struct Shard {
    id: Box<str>,
    /// `None`: not known, or gone.
    pub(crate) pool: ArcSwapOption<Pool>,
}

/// Something with an id that routes, or tenants, refer to.
pub(crate) trait Cell {
    fn new(id: &str) -> Self;
    fn id(&self) -> &str;
}

impl Cell for Tenant {
    fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            state: AtomicU8::new(ACTIVE),
            has_policy: AtomicBool::new(false),
            policy: ArcSwapOption::empty(),
            purges: ArcSwapOption::empty(),
            brand: ArcSwapOption::empty(),
            under_way: AtomicUsize::new(0),
        }
    }

    fn id(&self) -> &str {
        &self.id
    }
}

impl Cell for Brand {
    fn new(id: &str) -> Self {
        Self { id: id.into(), has_word: AtomicBool::new(false), word: ArcSwapOption::empty() }
    }

    fn id(&self) -> &str {
        &self.id
    }
}

impl Cell for Shard {
    fn new(id: &str) -> Self {
        Self { id: id.into(), pool: ArcSwapOption::empty() }
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// The writer's directory of cells.
#[derive(Debug)]
pub(crate) struct Cells<T> {
    table: HashTable<Referred<T>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Referred<T> {
    cell: Arc<T>,
    /// There is an intent of it; otherwise it lives as long as routes name it.
    wanted: bool,
    /// The bucket of the last route that came to name it, which may be gone by now.
    bucket: Option<u32>,
}

impl<T> Default for Cells<T> {
    fn default() -> Self {
        Self { table: HashTable::new(), hasher: RandomState::new() }
    }
}

impl<T: Cell> Cells<T> {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// The cells that intents are about.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &Arc<T>> {
        self.table.iter().filter(|referred| referred.wanted).map(|referred| &referred.cell)
    }

    fn referred(&mut self, id: &str) -> &mut Referred<T> {
        let hasher = &self.hasher;
        let entry = self.table.entry(
            hasher.hash_one(id),
            |known| known.cell.id() == id,
            |known| hasher.hash_one(known.cell.id()),
        );
        entry
            .or_insert_with(|| Referred { cell: Arc::new(T::new(id)), wanted: false, bucket: None })
            .into_mut()
    }

    /// The cell that an intent is about.
    pub(crate) fn want(&mut self, id: &str) -> &T {
        let referred = self.referred(id);
        referred.wanted = true;
        &referred.cell
    }

    /// The intent is withdrawn; the cell stays as it is for as long as routes name it.
    pub(crate) fn unwant(&mut self, id: &str) -> Option<&T> {
        let referred = self.table.find_mut(self.hasher.hash_one(id), |known| known.cell.id() == id)?;
        referred.wanted = false;
        Some(&referred.cell)
    }

    /// The cell that a route names, which lies in `bucket`.
    pub(crate) fn name(&mut self, id: &str, bucket: u32) -> Arc<T> {
        let referred = self.referred(id);
        referred.bucket = Some(bucket);
        Arc::clone(&referred.cell)
    }

    /// The cell that something other than a route names.
    pub(crate) fn refer(&mut self, id: &str) -> Arc<T> {
        Arc::clone(&self.referred(id).cell)
    }

    /// The cell, and the bucket of the last route that came to name it.
    pub(crate) fn named(&self, id: &str) -> Option<(&Arc<T>, u32)> {
        let referred = self.table.find(self.hasher.hash_one(id), |known| known.cell.id() == id)?;
        Some((&referred.cell, referred.bucket?))
    }

    /// Forgets what nothing refers to any more.
    pub(crate) fn sweep(&mut self) {
        self.table.retain(|referred| referred.wanted || Arc::strong_count(&referred.cell) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purges_that_go_back_begin_another_life() {
        let tenant = <Tenant as Cell>::new("t");
        let seen = || {
            let (life, last) = tenant.purges();
            (life, last.map(|last| last.generation))
        };
        tenant.purge(None);
        assert_eq!(seen(), (0, None));
        for (generation, wanted) in
            [(Some(3), (0, Some(3))), (Some(5), (0, Some(5))), (Some(4), (1, Some(4))), (None, (2, Some(0)))]
        {
            let purges = generation.map(|generation| CachePurges { generation, ..CachePurges::default() });
            tenant.purge(purges.as_ref());
            assert_eq!(seen(), wanted);
        }
    }
}
