//! Pure planning: what a request, an opened gate or a changed fleet means for resources and intents.
//!
//! The only crate that knows resources and intents both. No SQL, no sockets, no clock: it reads through [`World`], and
//! time, ids and the revision are arguments. The API and the gatekeeper call it inside the store's write transaction.
//!
//! | room | what is in it |
//! |---|---|
//! | `world`, `unit` | what planning reads and answers: [`World`], [`Draft`], [`Change`], [`Unit`] |
//! | `kinds/` | everything that planning needs of a kind, one file each: units, checks, allocations, conditions, what goes with it |
//! | `derive` | what a unit wants; the units that are no kind's own |
//! | `overlay`, `plan`, `walk` | a mutation in memory, the diff with what is there, walks over many units |
//! | `auto_records`, `names`, `ownership` | what several kinds share: automatic records, who may have a name, whether it is shown to be theirs |
//! | `http_policy` | what edges are told of the requests for a host name |
//! | `issuance` | how names come by certificates of public authorities |
//! | `reissue` | many certificates of an authority that are replaced at once |
//! | `quota` | how many resources of a kind somebody may have |
//! | `placement`, `without` | on which shard a tenant lives; what would fail without some nodes |
//! | `node`, `readers` | a node's roles, and what it subscribes to by them; who opens what is sealed for an audience |
//! | `mutate/` | create, update, delete, suspend, retry; gates opened, nodes in and out, the replan queue |
//! | `gates/` | where a resource stands |
//! | `concerns` | which resources a row or a removal concerns |
//! | `lint/` | what is wrong with a zone as a whole |
//! | `past` | which changes are history; what an undo takes back |
//! | `trace` | the request that a waiting resource is on its way from |
#![warn(clippy::wildcard_enum_match_arm)]

mod auto_records;
mod concerns;
mod derive;
mod desired;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod fields;
pub mod gates;
mod http_policy;
mod issuance;
mod kinds;
mod layer;
pub mod lint;
mod mutate;
mod names;
mod node;
mod overlay;
mod ownership;
mod past;
mod placement;
mod plan;
mod quota;
mod read;
mod readers;
mod reissue;
mod rollout;
#[cfg(test)]
mod tests;
mod trace;
mod undoable;
mod unit;
mod walk;
mod without;
mod world;

pub use concerns::{resources_behind, waited_for};
pub use derive::derive;
pub use desired::DesiredIntent;
pub use error::PlanError;
pub use issuance::{
    Candidate, Claim as OrderClaim, ISSUE_CERTIFICATE, IssuanceChange, attempt_now, authorities, candidate,
    challenge_zone, challenges_answered, change_authority, claim as claim_order, companions,
    delegation_wanted, edge_addresses, exchange_issuances, issued_for_domain,
};
pub use kinds::api_key::{KeyHolder, admit_key, key_holder};
pub use kinds::cluster::{FreshTicketKey, rotate_ticket_keys};
pub use kinds::holds_data;
pub use kinds::role::with_roles;
pub use kinds::subscription::{bill_owner, bill_to_defaults};
pub use kinds::tenant::of_cluster;
pub use layer::{Layer, List};
pub use mutate::{
    Deleted, Drained, Forgotten, How, LeftAlone, TakenBack, Undone, admit_reader, continue_delete,
    converge_shard, create, delete, delete_for_good, drain, drain_node, drain_shard, end_keeping,
    expel_reader, finish_delete, forget_node, has_children, is_restorable, open_gates, purge_cache,
    record_status, replan, retired, retry, retry_failed, revert, set_in_service, suspend, undelete, undo,
    undrain_node, undrain_shard, unsuspend, update, wants_continuing,
};
pub use node::{node_audiences, node_facts, node_service_audience, roles};
pub use ownership::{CHECK_OWNERSHIP, Claim, Look as OwnershipLook, claim, note_look};
pub use past::{Event, Part, PastChange};
pub use quota::{LimitFrom, OverLimit, Usage, usage};
pub use read::called;
pub use reissue::{
    MOST_REISSUED, ReissueOf, Surveyed, Told, asked, begin_reissue, end_reissue, forecast_reissue,
    is_reissuing, note_forecast, note_reissued, survey, tell_reissue,
};
pub use trace::trace_of;
pub use unit::{Aspect, By, Pages, Unit, Walk};
pub use without::{FailingName, Left, Of, Place, Without, failing_names, without};
pub use world::{
    Admitted, ApplyError, BeginRollout, Change, Draft, Errand, IntentChange, IntentRow, KeyShare, SealFor,
    SealedFor, World, WorldError,
};
