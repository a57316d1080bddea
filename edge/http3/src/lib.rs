//! HTTP/3 as bytes: a request's stream as an HTTP/1.1 head and a body, an answer's fields, and what a client says on the streams
//! that carry no request.
//!
//! Owns the frames of RFC 9114 and QPACK (RFC 9204) without a dynamic table, which is never announced. It never opens a socket,
//! waits or reads a clock. Fields are held to the rules that HTTP/2's are held to, by the same code ([`hosting_edge_http2::Fields`]).
//! Nothing is kept but one list of fields of the largest size: a frame that is not needed is read over.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod answer;
mod code;
mod control;
mod integer;
mod qpack;
mod request;

pub use answer::{push_answer, push_data};
pub use code::{Code, Failure};
pub use control::{Kind, SingleStream, goaway, settings};
pub use request::{Next, RequestReader};
