//! The controller process: joins store, planner, feed and API.
//!
//! Owns what none of them may know of the others: which commit wakes which session, what the registry says to the feed,
//! how the first key comes into a new store. `run` is the one wiring file.

mod authorities;
mod bootstrap;
mod fleet;
mod gatekeeper;
mod housekeeping;
mod kek_file;
mod members;
mod metrics;
mod node_record;
mod registry;
mod rollouts;
mod run;
mod settings;
mod store;

pub use run::run;
pub use settings::{Args, Command, Flags, Settings, SettingsError, StoreCommand};
pub use store::store;
