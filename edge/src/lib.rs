//! The edge proxy: takes requests for every site and passes them to the nodes that serve it.
//!
//! Owns the sockets towards clients and nodes, TLS, the pages for what cannot be served, and the feed's replica. Where a
//! request goes is decided in `hosting-edge-map`, what HTTP/1.1 means in `hosting-edge-http1`, what HTTP/2's fields do in
//! `hosting-edge-http2`; HTTP/2 connections are Pingora's. It never asks the controller anything on a request's way, and what
//! comes from there cannot stop it.
#![warn(clippy::indexing_slicing)]

mod access_log;
mod alt_svc;
mod answering;
mod basic_auth;
mod browser_check;
mod budget;
mod caching;
mod certs;
mod challenges;
mod check;
mod client_hello;
mod compress;
mod conn;
mod countries;
mod course;
mod crawlers;
mod exchange;
mod filling;
#[cfg(test)]
mod fuzz;
mod h1;
mod h2;
mod h3;
mod h3_stream;
mod host_look;
mod interned;
mod launch;
mod listeners;
mod live;
mod memory;
mod metrics;
mod nobody;
mod node_check;
mod node_keys;
mod nodes;
mod pages;
mod pair;
mod passing;
mod phase;
mod policy;
mod proxy;
mod proxy_header;
mod quic;
mod quic_socket;
mod ready;
mod replaced_file;
mod replica;
mod run;
mod self_check;
mod server;
mod settings;
mod take_over;
mod tenant_certs;
mod tickets;
mod tls;
mod trace;
mod traffic;
mod turn;
mod upstream;
mod visitor;
mod watching;
mod windows;

pub use access_log::{AccessLog, Addresses, LogSettings, LogWriter};
pub use certs::{CaError, CertStore, DevCa};
pub use check::check;
pub use course::{ORIGINAL_HOST, SHARD};
pub use launch::launch;
pub use listeners::{BindError, Bound, Listeners};
pub use metrics::{Latency, Metrics};
pub use node_keys::{EDGE_KEY, NodeKeys};
pub use replica::EdgeReplica;
pub use run::run;
pub use self_check::EdgeSelfCheck;
pub use server::Server;
pub use settings::{Args, Flags, RoleFlags, RoleSettings, Settings, SettingsError, StartArgs};
pub use traffic::TrafficBook;
