//! Whole-platform tests and the architecture check.
