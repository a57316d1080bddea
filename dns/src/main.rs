//! The authoritative DNS server.

fn main() {}
