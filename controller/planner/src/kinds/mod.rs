//! One file per kind: everything that planning needs of it. The engines (diff, walks, creation, deletion, gates) go over this
//! table and know no kind. Adding a kind: its file, and one line in [`of`].

use std::collections::BTreeSet;
use std::marker::PhantomData;

use async_trait::async_trait;
use hosting_intent::{Cause, Kind as IntentKind};
use hosting_resource::{Doc, Document, Id, Kind, NewResource, Resource, ShapeError};

use crate::fields::is_deleting;
use crate::gates::{Gate, Look};
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::unit::{Aspect, By, Pages};
use crate::{DesiredIntent, PlanError, Unit, World, read};

pub(crate) mod api_key;
pub(crate) mod brand;
pub(crate) mod certificate;
pub(crate) mod certificate_authority;
pub(crate) mod cluster;
pub(crate) mod fqdn;
pub(crate) mod lb_address;
pub(crate) mod node;
pub(crate) mod package;
pub(crate) mod region;
pub(crate) mod role;
pub(crate) mod shard;
pub(crate) mod subscription;
pub(crate) mod tenant;
pub(crate) mod webhook;
pub(crate) mod webroot;
pub(crate) mod wide_walks;
pub(crate) mod zone;
pub(crate) mod zone_record;

/// What planning needs of a kind.
pub(crate) fn of(kind: Kind) -> &'static dyn KindPlan {
    match kind {
        Kind::Brand => &Room::<brand::Brand>(PhantomData),
        Kind::Package => &Room::<package::Package>(PhantomData),
        Kind::Region => &Room::<region::Region>(PhantomData),
        Kind::Cluster => &Room::<cluster::Cluster>(PhantomData),
        Kind::LbAddress => &Room::<lb_address::LbAddress>(PhantomData),
        Kind::Shard => &Room::<shard::Shard>(PhantomData),
        Kind::Node => &Room::<node::Node>(PhantomData),
        Kind::Tenant => &Room::<tenant::Tenant>(PhantomData),
        Kind::Subscription => &Room::<subscription::Subscription>(PhantomData),
        Kind::Webroot => &Room::<webroot::Webroot>(PhantomData),
        Kind::Fqdn => &Room::<fqdn::Fqdn>(PhantomData),
        Kind::Certificate => &Room::<certificate::Certificate>(PhantomData),
        Kind::CertificateAuthority => &Room::<certificate_authority::CertificateAuthority>(PhantomData),
        Kind::Zone => &Room::<zone::Zone>(PhantomData),
        Kind::ZoneRecord => &Room::<zone_record::ZoneRecord>(PhantomData),
        Kind::Webhook => &Room::<webhook::Webhook>(PhantomData),
        Kind::Role => &Room::<role::Role>(PhantomData),
        Kind::ApiKey => &Room::<api_key::ApiKey>(PhantomData),
    }
}

/// Whether nodes hold data of a kind's resources, which are destroyed once such a resource is deleted.
#[must_use]
pub fn holds_data(kind: Kind) -> bool {
    of(kind).facts().retires.is_some()
}

/// What is the same for all resources of a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Its status follows from what the fleet reports.
    pub(crate) gated: bool,
    /// What a DELETE does.
    pub(crate) deletion: Deletion,
    /// The kinds that it lies in, and is deleted with.
    pub(crate) goes_with: &'static [GoesWith],
    /// Nodes hold data of it that has to be destroyed.
    pub(crate) retires: Option<Retires>,
    /// Deleted by a person it is kept for as long as its brand's policy says, with everything that went with it.
    pub(crate) keeps: bool,
    /// Rows of its units may be wanted by others too: a deletion does not wait until there are none.
    pub(crate) shares_units: bool,
    /// Its unit wants something while the resource is being deleted.
    pub(crate) wants_to_the_end: bool,
    /// Walks over resources of this kind.
    pub(crate) walks: &'static [Pages],
    /// How much of its changes can be undone.
    pub(crate) undo: Undo,
}

impl Facts {
    /// A kind that is in effect as soon as it is written, and gone as soon as it is deleted.
    pub(crate) const PLAIN: Self = Self {
        gated: false,
        deletion: Deletion::AtOnce,
        goes_with: &[],
        retires: None,
        keeps: false,
        shares_units: false,
        wants_to_the_end: false,
        walks: &[],
        undo: Undo::Whole,
    };
}

/// How much of the changes of a kind can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    /// All of them.
    Whole,
    /// What is deleted stays deleted: it gave access, which is void.
    NotBroughtBack,
    /// None: each gives access, or takes it.
    Never,
}

/// What a DELETE does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// The row goes at once.
    AtOnce,
    /// The row goes when the fleet has let go of it and of what lies in it.
    Gradual,
    /// The row stays, and says that it is void ([`Planned::revoke`]).
    Revoked,
}

/// How a resource is deleted along with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoesWith {
    /// The kind of the other one.
    pub(crate) with: Kind,
    /// How it is found.
    pub(crate) by: Tie,
}

/// How a resource hangs on another one that it is deleted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tie {
    /// It lies in it, and is deleted like one that is deleted for itself.
    Child,
    /// It lies in it, and its row goes at once: what it had on machines goes with the other's.
    Part,
    /// It refers to it by a relation, of which there is a facet too; the other one waits until it is gone.
    Referrer(&'static str),
    /// It refers to it by a relation; the other one does not wait for it.
    Follower(&'static str),
}

/// How data on nodes is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retires {
    /// The intent that made the data.
    pub(crate) intent: IntentKind,
    /// Data of what lies in it is inside its own: it waits until those are gone.
    pub(crate) after_children: bool,
}

/// A resource before and after a change; `None` for what is not there.
#[derive(Debug)]
pub(crate) struct Changed<'c, K: Document> {
    pub(crate) before: Option<&'c Doc<K>>,
    pub(crate) after: Option<&'c Doc<K>>,
    pub(crate) cause: Cause,
}

impl<'c, K: Document> Changed<'c, K> {
    /// Both of them, as far as they are there.
    pub(crate) fn both(&self) -> impl Iterator<Item = &'c Doc<K>> {
        self.before.into_iter().chain(self.after)
    }

    /// It is made or removed.
    pub(crate) const fn born_or_gone(&self) -> bool {
        self.before.is_some() != self.after.is_some()
    }

    /// It was there and to stay before or is after, but not both.
    pub(crate) fn lives_or_dies(&self) -> bool {
        let going = |doc: Option<&Doc<K>>| doc.is_none_or(|doc| is_deleting(doc));
        going(self.before) != going(self.after)
    }

    /// Whether something of it differs; it does from what is not there.
    pub(crate) fn differs<T: PartialEq>(&self, part: impl Fn(&Doc<K>) -> T) -> bool {
        match (self.before, self.after) {
            (Some(before), Some(after)) => part(before) != part(after),
            (None, _) | (_, None) => true,
        }
    }
}

/// What a kind's file says.
#[async_trait]
pub(crate) trait Planned: Document + Sized {
    const FACTS: Facts = Facts::PLAIN;

    /// The units whose intents decide where a resource stands; walks are not among them. By default its own, and the one that
    /// destroys its data.
    fn units(doc: &Doc<Self>) -> Vec<Unit> {
        let mut units = vec![Unit::Of(Self::KIND, doc.id.clone())];
        if Self::FACTS.retires.is_some() {
            units.push(Unit::Retire(doc.id.clone()));
        }
        units
    }

    /// The units to plan after a change. Walks among them stand for more units than can be told without reading.
    fn touched(_change: &Changed<'_, Self>, _units: &mut BTreeSet<Unit>) {}

    /// What its own unit wants. Not asked for what is being deleted, unless [`Facts::wants_to_the_end`].
    async fn derive(_doc: &Doc<Self>, _world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        Ok(Vec::new())
    }

    /// Walks to begin when the subscribers of its intents became others.
    fn follows(_id: &str, _cause: Cause) -> Vec<Unit> {
        Vec::new()
    }

    /// Gives a new resource the id that the store keeps it under.
    async fn rename(
        _new: &mut NewResource,
        _owner: Option<&Resource>,
        _draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        Ok(())
    }

    /// Brings what the user wrote to its normal form, where that takes other resources. `before` is what is stored.
    async fn settle(
        _doc: &mut Doc<Self>,
        _before: Option<&Doc<Self>>,
        _draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        Ok(())
    }

    /// Checks what must hold between it and other resources. What a document alone can show was checked before.
    async fn check(
        _doc: &Doc<Self>,
        _before: Option<&Doc<Self>>,
        _draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        Ok(())
    }

    /// Gives it what the platform allocates.
    async fn allocate(
        _doc: &mut Doc<Self>,
        _before: Option<&Doc<Self>>,
        _plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        Ok(())
    }

    /// Keeps resources that the platform makes for it up to date. True when `doc` changed; it is put then.
    async fn sync(_doc: &mut Doc<Self>, _plan: &mut Plan<'_>) -> Result<bool, PlanError> {
        Ok(false)
    }

    /// What its end leaves behind: called before it is removed, or before a deletion begins that cannot be taken back.
    async fn leave(_doc: &Doc<Self>, _plan: &mut Plan<'_>) -> Result<(), PlanError> {
        Ok(())
    }

    /// Makes it void. False when it was already.
    fn revoke(_doc: &mut Doc<Self>, _now: i64) -> bool {
        false
    }

    /// What of its state outlives a deletion that is undone: what users gave it, and what its data on nodes is bound to.
    fn kept_state(_state: &Self::State) -> Self::State {
        Self::State::default()
    }

    /// What of its state goes with the status that people give it.
    fn switch(_state: &mut Self::State, _like: &Self::State) {}

    /// Nodes that may hold its data, beside those that its unit tells of it.
    async fn data_nodes(_doc: &Doc<Self>, _world: &mut dyn World) -> Result<BTreeSet<String>, PlanError> {
        Ok(BTreeSet::new())
    }

    /// Plans what a walk comes by for: `of` is what the walk started from.
    async fn revisit(
        doc: Doc<Self>,
        _aspect: Aspect,
        _of: &str,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        plan.replan([Unit::Of(Self::KIND, doc.id.clone())]).await
    }

    /// The conditions under which it is in effect. None: it is as soon as it is written.
    fn conditions(_doc: &Doc<Self>, _look: &mut Look<'_>) {}

    /// Opens a gate.
    fn open(_doc: &mut Doc<Self>, _gate: Gate) {}

    /// Tells others that gates were opened, as far as they are not planned for themselves.
    async fn opened(_doc: &Doc<Self>, _plan: &mut Plan<'_>) -> Result<(), PlanError> {
        Ok(())
    }

    /// Whether the routes that its automatic records hang on are there.
    fn is_routed(_doc: &Doc<Self>) -> bool {
        false
    }
}

/// [`Planned`] for any kind: documents are read on the way in and written on the way out.
#[async_trait]
pub(crate) trait KindPlan: Sync {
    fn facts(&self) -> &'static Facts;
    fn units(&self, resource: &Resource) -> Result<Vec<Unit>, ShapeError>;
    fn touched(
        &self,
        before: Option<&Resource>,
        after: Option<&Resource>,
        cause: Cause,
    ) -> Result<BTreeSet<Unit>, ShapeError>;
    async fn derive(&self, id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError>;
    fn follows(&self, id: &str, cause: Cause) -> Vec<Unit>;
    async fn rename(
        &self,
        new: &mut NewResource,
        owner: Option<&Resource>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError>;
    async fn settle(
        &self,
        resource: &mut Resource,
        before: Option<&Resource>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError>;
    async fn check(
        &self,
        resource: &Resource,
        before: Option<&Resource>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError>;
    async fn allocate(
        &self,
        resource: &mut Resource,
        before: Option<&Resource>,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError>;
    async fn sync(&self, resource: &mut Resource, plan: &mut Plan<'_>) -> Result<bool, PlanError>;
    async fn leave(&self, resource: &Resource, plan: &mut Plan<'_>) -> Result<(), PlanError>;
    fn revoke(&self, resource: &mut Resource, now: i64) -> Result<bool, ShapeError>;
    fn keep_state(&self, resource: &mut Resource) -> Result<(), ShapeError>;
    fn switch(&self, resource: &mut Resource, like: &Resource) -> Result<(), ShapeError>;
    async fn data_nodes(
        &self,
        resource: &Resource,
        world: &mut dyn World,
    ) -> Result<BTreeSet<String>, PlanError>;
    async fn revisit(
        &self,
        resource: Resource,
        aspect: Aspect,
        of: &str,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError>;
    fn conditions(&self, look: &mut Look<'_>) -> Result<(), ShapeError>;
    fn open(&self, resource: &mut Resource, gates: &[Gate]) -> Result<(), ShapeError>;
    async fn opened(&self, resource: &Resource, plan: &mut Plan<'_>) -> Result<(), PlanError>;
    fn is_routed(&self, resource: &Resource) -> Result<bool, ShapeError>;
}

struct Room<K>(PhantomData<fn() -> K>);

fn doc<K: Document>(resource: Option<&Resource>) -> Result<Option<Doc<K>>, ShapeError> {
    resource.map(Doc::of).transpose()
}

#[async_trait]
impl<K: Planned> KindPlan for Room<K> {
    fn facts(&self) -> &'static Facts {
        const { &K::FACTS }
    }

    fn units(&self, resource: &Resource) -> Result<Vec<Unit>, ShapeError> {
        Ok(K::units(&Doc::of(resource)?))
    }

    fn touched(
        &self,
        before: Option<&Resource>,
        after: Option<&Resource>,
        cause: Cause,
    ) -> Result<BTreeSet<Unit>, ShapeError> {
        let (before, after) = (doc(before)?, doc(after)?);
        let mut units = BTreeSet::new();
        K::touched(&Changed { before: before.as_ref(), after: after.as_ref(), cause }, &mut units);
        Ok(units)
    }

    async fn derive(&self, id: &str, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        match read::get(world, &Id::<K>::from(id)).await? {
            Some(doc) if K::FACTS.wants_to_the_end || !is_deleting(&doc) => K::derive(&doc, world).await,
            Some(_) | None => Ok(Vec::new()),
        }
    }

    fn follows(&self, id: &str, cause: Cause) -> Vec<Unit> {
        K::follows(id, cause)
    }

    async fn rename(
        &self,
        new: &mut NewResource,
        owner: Option<&Resource>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        K::rename(new, owner, draft).await
    }

    async fn settle(
        &self,
        resource: &mut Resource,
        before: Option<&Resource>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let mut settled = Doc::of(resource)?;
        K::settle(&mut settled, doc(before)?.as_ref(), draft).await?;
        *resource = settled.into_resource();
        Ok(())
    }

    async fn check(
        &self,
        resource: &Resource,
        before: Option<&Resource>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        K::check(&Doc::of(resource)?, doc(before)?.as_ref(), draft).await
    }

    async fn allocate(
        &self,
        resource: &mut Resource,
        before: Option<&Resource>,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        let mut allocated = Doc::of(resource)?;
        K::allocate(&mut allocated, doc(before)?.as_ref(), plan).await?;
        *resource = allocated.into_resource();
        Ok(())
    }

    async fn sync(&self, resource: &mut Resource, plan: &mut Plan<'_>) -> Result<bool, PlanError> {
        let mut synced = Doc::of(resource)?;
        let changed = K::sync(&mut synced, plan).await?;
        *resource = synced.into_resource();
        Ok(changed)
    }

    async fn leave(&self, resource: &Resource, plan: &mut Plan<'_>) -> Result<(), PlanError> {
        K::leave(&Doc::of(resource)?, plan).await
    }

    fn revoke(&self, resource: &mut Resource, now: i64) -> Result<bool, ShapeError> {
        let mut doc = Doc::<K>::of(resource)?;
        let revoked = K::revoke(&mut doc, now);
        *resource = doc.into_resource();
        Ok(revoked)
    }

    fn keep_state(&self, resource: &mut Resource) -> Result<(), ShapeError> {
        let kept = K::kept_state(&Doc::<K>::of(resource)?.state);
        resource.state.clear();
        let mut doc = Doc::<K>::of(resource)?;
        doc.state = kept;
        *resource = doc.into_resource();
        Ok(())
    }

    fn switch(&self, resource: &mut Resource, like: &Resource) -> Result<(), ShapeError> {
        let mut doc = Doc::<K>::of(resource)?;
        K::switch(&mut doc.state, &Doc::<K>::of(like)?.state);
        *resource = doc.into_resource();
        Ok(())
    }

    async fn data_nodes(
        &self,
        resource: &Resource,
        world: &mut dyn World,
    ) -> Result<BTreeSet<String>, PlanError> {
        K::data_nodes(&Doc::of(resource)?, world).await
    }

    async fn revisit(
        &self,
        resource: Resource,
        aspect: Aspect,
        of: &str,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        K::revisit(Doc::read(resource)?, aspect, of, plan).await
    }

    fn conditions(&self, look: &mut Look<'_>) -> Result<(), ShapeError> {
        K::conditions(&Doc::of(look.resource())?, look);
        Ok(())
    }

    fn open(&self, resource: &mut Resource, gates: &[Gate]) -> Result<(), ShapeError> {
        let mut doc = Doc::<K>::of(resource)?;
        for gate in gates {
            K::open(&mut doc, *gate);
        }
        *resource = doc.into_resource();
        Ok(())
    }

    async fn opened(&self, resource: &Resource, plan: &mut Plan<'_>) -> Result<(), PlanError> {
        K::opened(&Doc::of(resource)?, plan).await
    }

    fn is_routed(&self, resource: &Resource) -> Result<bool, ShapeError> {
        Ok(K::is_routed(&Doc::of(resource)?))
    }
}

/// The walks of all kinds.
pub(crate) fn walks() -> impl Iterator<Item = Pages> {
    Kind::ALL.iter().flat_map(|kind| of(*kind).facts().walks.iter().copied())
}

/// The walks over what lies in a tenant, for some aspects.
pub(crate) fn walks_in_tenant(aspects: &'static [Aspect]) -> impl Iterator<Item = Pages> {
    walks().filter(move |pages| {
        let lies_in_tenant = pages.over.info().parent.is_some_and(|parent| parent.kind == Kind::Tenant);
        lies_in_tenant && pages.by == By::Parent && aspects.contains(&pages.aspect)
    })
}

/// The kinds that are deleted along with resources of a kind, children before what they may refer to.
pub(crate) fn goes_with(kind: Kind) -> impl Iterator<Item = (Kind, Tie)> {
    Kind::ALL.iter().rev().flat_map(move |other| {
        let ties = of(*other).facts().goes_with.iter();
        ties.filter(move |goes| goes.with == kind).map(|goes| (*other, goes.by))
    })
}
