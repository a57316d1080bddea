//! Routing core of the edge: FQDN map, policies, pools, tenant states.
//!
//! Owns the answers to "what is done with a request before a site sees it" and "where does it go". It never opens a socket, reads a clock
//! or draws a random number, and knows nothing of HTTP beyond the syntax of a host, a path and a redirect. One [`Writer`] (the feed's replica) applies batches; any
//! number of request threads call [`Routing::resolve`], which takes no lock.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod brand;
mod cells;
mod host;
mod node;
mod policy;
mod pool;
mod routes;
mod routing;
pub mod seen;

pub use brand::{BrandWord, Template};
pub use cells::{Tenant, TenantUnderWay};
pub use host::{Host, HostError, parse_host};
pub use node::{Balance, Millis, Node, UnderWay};
pub use policy::{
    Agent, Agents, Asked, BasicAuth, Circumstances, Country, Crawler, Credentials, Nanos, PROOF_PATH,
    Policies, Proof, Rates, Ruling, UNKNOWN_COUNTRY, Work,
};
pub use pool::{Candidate, Candidates, MAX_TRIES, Pool, Waiting};
pub use routing::{Found, Http3, Leads, Routing, Sizes, Target, Writer, check};
