//! The edge's cache: what may be stored and used (RFC 9111), and the memory that it is stored in.
//!
//! It never opens a socket or reads a clock: whoever calls it says what time it is. Heads are lists of names and values; what a list
//! means on a connection is HTTP's matter and decided before.
#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod conditions;
mod control;
mod flights;
mod key;
mod memory;
mod purge;
mod request;
mod response;
mod store;
mod stored;

pub use conditions::{Part, Reply};
pub use flights::{Flights, Follow, Joined, Landed, Lead};
pub use key::{Key, page};
pub use memory::Charge;
pub use purge::{Purges, Stamp};
pub use request::Asked;
pub use response::{Came, Terms, Verdict, check, is_tag_field};
pub use store::{Draft, Found, Rest, Sizes, Store};
pub use stored::{Stored, Usable};

/// Time in milliseconds since the beginning of 1970, by the clock of the machine.
pub type Millis = u64;

/// Names and values of a head's fields, in their order.
pub type Fields<'a> = [(&'a [u8], &'a [u8])];

/// The values of all fields of a name.
fn values<'f, 'a>(fields: &'f Fields<'a>, name: &'f [u8]) -> impl Iterator<Item = &'a [u8]> + 'f {
    fields.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

/// The value of the first field of a name.
fn value<'a>(fields: &Fields<'a>, name: &[u8]) -> Option<&'a [u8]> {
    values(fields, name).next()
}

/// A date (RFC 9110 §5.6.7).
fn date(value: &[u8]) -> Option<Millis> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    u64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// Digits only, and what is too large is very large (RFC 9111 §1.2.2).
fn seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let most = 1 << 31;
    Some(std::str::from_utf8(value).ok()?.parse().unwrap_or(most).min(most))
}

#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod test_help;
