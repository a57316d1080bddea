//! Zones, RRsets and answers: pure.
