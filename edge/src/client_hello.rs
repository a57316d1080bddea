//! What the first message of a handshake says.

use hosting_edge_map::{Host, parse_host};
use rustls::server::ClientHello;

/// The name that the client asks for, as routes spell it.
pub(crate) fn with_name<R>(hello: &ClientHello<'_>, look: impl FnOnce(&str) -> R) -> Option<R> {
    match parse_host(hello.server_name()?.as_bytes()) {
        Ok(Host::Name(name)) => Some(look(&name)),
        Ok(Host::Address(_)) | Err(_) => None,
    }
}
