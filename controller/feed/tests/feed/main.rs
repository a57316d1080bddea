//! The feed end to end: real TLS, real HTTP/2, real ledgers, on loopback.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

mod edge_keys;
mod enrolment;
mod hostile;
mod lending;
mod lifecycle;
mod raw;
mod scale;
mod sessions;
mod support;
mod traffic;
