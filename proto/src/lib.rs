//! Wire messages, generated from `proto/*.proto`. Nothing here is written by hand but these module names.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::large_enum_variant,
    clippy::doc_lazy_continuation
)]

/// `hosting.intent.v1`: what machines apply.
pub mod intent {
    tonic::include_proto!("hosting.intent.v1");
}

/// `hosting.feed.v1`: how it reaches them.
pub mod feed {
    tonic::include_proto!("hosting.feed.v1");
}

/// `hosting.intent_api.v1`: the published API for programs.
pub mod intent_api {
    tonic::include_proto!("hosting.intent_api.v1");

    /// The encoded descriptors of the package, with its comments.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/intent_api.binpb"));
}
