//! One wanted intent, before it is compared with what is there.

use std::net::IpAddr;

use hosting_intent::{Audience, Bytes, Key, Kind};
use prost::Message;

/// What a unit wants one audience to have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DesiredIntent {
    /// Who applies it.
    pub audience: Audience,
    /// What it speaks of.
    pub key: Key,
    /// The encoded message. Maps in it are encoded in key order: the same intent is always the same bytes.
    pub value: Bytes,
}

impl DesiredIntent {
    pub(crate) fn new(
        audience: Audience,
        kind: Kind,
        name: impl Into<String>,
        message: &impl Message,
    ) -> Self {
        Self { audience, key: Key::new(kind, name), value: Bytes::from(message.encode_to_vec()) }
    }
}

/// `ip:port`, IPv6 in brackets; `None` when it is no address.
pub(crate) fn socket_address(ip: &str, port: u16) -> Option<String> {
    ip.parse::<IpAddr>().ok().map(|ip| std::net::SocketAddr::new(ip, port).to_string())
}
