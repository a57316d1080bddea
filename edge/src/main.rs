//! The edge proxy.

fn main() {}
