//! The router with a real store and planner, and a fleet that does what each test says.

mod authorization;
mod changes;
mod crud;
mod harness;
mod operators;
mod protocol;
