//! The data plane against real sockets: a server in this process, tiny nodes behind it, real clients before it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper of a test may fail like the test")]

mod access_log;
mod balancing;
mod brand;
mod browser_check;
mod cache;
mod cache_purge;
mod cache_site;
mod challenges;
mod client_address;
mod compression;
mod conformance;
mod crawlers;
mod feed;
mod harness;
mod http2;
mod http3;
mod http3_client;
mod http3_limits;
mod load;
mod pages;
mod policies;
mod processes;
mod proxying;
mod resilience;
mod rules;
mod self_check;
mod soak;
mod take_over;
mod tenant_certificates;
mod tickets;
mod tls;
mod traffic;
mod why;
