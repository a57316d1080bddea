//! The controller's store on SQLite.
