//! HTTP/1.1 as bytes: reads heads, decides framing, decodes and encodes bodies, says which fields pass a proxy.
//!
//! Owns the rules of RFC 9112 and the parts of RFC 9110 and 9113 that a translator between HTTP versions must keep. It never
//! opens a socket, waits or reads a clock. The edge's two sides (towards clients and towards nodes) are its callers. What it
//! cannot read with one meaning it refuses.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod body;
mod field;
mod head;
mod request;
mod response;

pub use body::{BodyError, Decoded, Decoder, Framing, LAST_CHUNK, push_chunk};
pub use field::{FieldKind, is_spoofable, lists_token};
pub use head::{Field, HeadEnd, HeadError, MAX_FIELDS, head_end};
pub use request::{Request, RequestError, RequestHead, TRACEPARENT, TRACESTATE, Version, push_upstream_head};
pub use response::{AnswerHead, Answered, ResponseError, ResponseHead};
