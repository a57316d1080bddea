//! Text of the configuration of nginx and PHP-FPM.

pub mod nginx;
pub mod php;

pub use crate::text::BadValue;
pub(crate) use crate::text::{fingerprint, keyed, plain_id, plain_path, word};
