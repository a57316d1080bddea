//! Last good state on disk.
