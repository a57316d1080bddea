//! HTTP/2 requests as bytes: finds the blocks of fields in what a client sends, and puts HTTP/1.1 heads in their place.
//!
//! Owns HPACK's decoding side, what RFC 9113 says of the frames that carry fields and of the fields themselves. It never opens a
//! socket, waits or reads a clock. The library that keeps the connection sees, for each request, a small one that it accepts,
//! with the head in a field of it ([`HEAD`]); so a request's bytes reach the HTTP/1.1 parser whatever they are, and what one
//! stream says wrong ends no other. The rules for fields ([`Fields`]) and the Huffman code are HTTP/3's too, whose crate calls them.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod front;
mod hpack;
mod huffman;
mod request;

pub use front::{Failure, Front};
pub use huffman::{NotHuffman, decode as decode_huffman};
pub use request::{Fault, Fields, HEAD, REFUSED, head, push_integer};
