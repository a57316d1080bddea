//! The store on real files.

mod commits;
mod feed;
mod files;
mod harness;
mod intents;
mod paging;
mod resources;
mod status;
mod trust;
