//! The whole platform, with its production binaries and real daemons, through `hostctl up`.

mod changes;
mod failures;
mod first_light;
mod harness;
mod hostile;
