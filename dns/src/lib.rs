//! The authoritative DNS server.
