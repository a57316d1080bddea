//! A client of certificate authorities that speak ACME (RFC 8555), one question at a time: nothing is kept between two but the account, so
//! whoever asks may end at any moment and go on elsewhere.
//!
//! Owns what is said to authorities and what their answers mean. It decides nothing: which names, when, and what comes of it is the
//! caller's (`controller/jobs`). The protocol itself is the library's ([`instant_acme`]).
//!
//! | room | what is in it |
//! |---|---|
//! | `account` | an account, and what is asked with it |
//! | `transport` | HTTP towards one authority |
//! | `error` | what went wrong, and what to do about it |
//! | `caa` | whether CAA records let an authority certify a name (RFC 8659, RFC 8657) |
//! | `renewal` | when the next certificate is to be had |
#![warn(clippy::wildcard_enum_match_arm)]

mod account;
pub mod caa;
mod error;
pub mod renewal;
mod transport;

pub use account::{
    Account, AuthorityAddress, CertificateKey, Credentials, ExternalAccount, Offer, OfferedName, OrderMade,
    OrderProgress,
};
pub use error::{AcmeError, NameProblem};
