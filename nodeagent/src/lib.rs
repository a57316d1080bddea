//! The node agent: drivers and host seams.
