//! The node agent: drivers and host seams.

fn main() {}
