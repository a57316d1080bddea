//! Conformance of a proxy as a table: a section of an RFC, what a client and a node send, what may reach the node, what the client sees.
//!
//! Owns the table (`table/*.toml`), the node that records what reaches it, and the clients that say whatever a row tells them to. The
//! edge's tests hold the edge to every row; `loadtest edge --cells conformance` asks HAProxy and nginx the same. It never judges by
//! anything but bytes on sockets.

mod http1;
mod http2;
mod http3;
mod message;
mod node;
mod outcome;
mod patience;
mod row;
mod run;
mod text;

pub use node::Node;
pub use outcome::Outcome;
pub use row::{End, Protocol, Row, rows};
pub use run::{Target, hold, observe};
