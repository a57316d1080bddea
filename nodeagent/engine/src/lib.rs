//! Reconcile engine, driver trait and its laws.
