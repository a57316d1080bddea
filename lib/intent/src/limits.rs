//! Limits that every machine on a request's way keeps to, so that none refuses what the one before it let through.

/// Header fields of a request with its first line, and of an answer, in bytes.
pub const HEADER_BYTES: usize = 64 * 1024;

/// A request's body, in bytes.
pub const BODY_BYTES: u64 = 512 * 1024 * 1024;
