//! Who makes a request.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use hosting_edge_http1::Request;
use hosting_scaffold::client_address::{client_of, is_trusted};
use ipnet::IpNet;

use crate::access_log::Addresses;
use crate::alt_svc::AltSvc;
use crate::live::Watch;

/// Whose connection it is.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    pub(crate) ip: IpAddr,
    /// The address, as nodes are told.
    pub(crate) address: Box<str>,
    /// The address, as the access log has it.
    pub(crate) written: Box<str>,
    /// The connection is one of a proxy whose word on its clients counts.
    forwards: Option<Forwards>,
    /// Whether the connection is TLS.
    pub(crate) tls: bool,
    /// The name that TLS was negotiated for; `None` also when the default certificate was served.
    pub(crate) name: Option<Arc<str>>,
    /// Where the same is to be had over HTTP/3.
    pub(crate) alt_svc: Option<Arc<AltSvc>>,
    /// The connection among those that are open.
    pub(crate) watch: Watch,
}

/// What it takes to read the word of a trusted proxy.
#[derive(Debug, Clone)]
struct Forwards {
    peer: IpAddr,
    trusted: Arc<[IpNet]>,
    written: Addresses,
}

impl Visitor {
    /// `forwarders`: networks of proxies whose word on their clients counts.
    pub(crate) fn new(
        address: IpAddr,
        forwarders: &Arc<[IpNet]>,
        written: Addresses,
        tls: bool,
        name: Option<Arc<str>>,
    ) -> Self {
        let forwards = is_trusted(forwarders, address).then(|| Forwards {
            peer: address,
            trusted: Arc::clone(forwarders),
            written,
        });
        Self { forwards, ..Self::at(address, written, tls, name) }
    }

    /// The same, told where HTTP/3 is to be had; not one whose connection is another's.
    pub(crate) fn with_alt_svc(self, alt_svc: Option<Arc<AltSvc>>) -> Self {
        Self { alt_svc, ..self }
    }

    /// The same, on a connection that is watched.
    pub(crate) fn watched(self, watch: Watch) -> Self {
        Self { watch, ..self }
    }

    pub(crate) fn at(address: IpAddr, written: Addresses, tls: bool, name: Option<Arc<str>>) -> Self {
        let text = |addresses: Addresses| addresses.of(address).to_string().into();
        Self {
            ip: address,
            address: text(Addresses::Full),
            written: text(written),
            forwards: None,
            tls,
            name,
            alt_svc: None,
            watch: Watch::default(),
        }
    }

    /// Who makes this request: the connection's client, or the one that a trusted proxy makes it for.
    pub(crate) fn of<'v>(&'v self, request: &Request) -> Cow<'v, Self> {
        let Some(Forwards { peer, trusted, written }) = &self.forwards else { return Cow::Borrowed(self) };
        let values = |wanted: &'static [u8]| {
            let fields = request.head().fields().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
            fields.map(|(_, value)| std::str::from_utf8(value).unwrap_or_default())
        };
        let client = client_of(values(b"x-forwarded-for"), values(b"forwarded"), *peer, trusted);
        let mut protocols = values(b"x-forwarded-proto");
        let tls = match (protocols.next(), protocols.next()) {
            (Some(protocol), None) if protocol.eq_ignore_ascii_case("https") => true,
            (Some(protocol), None) if protocol.eq_ignore_ascii_case("http") => false,
            _ => self.tls,
        };
        Cow::Owned(Self::at(client, *written, tls, self.name.clone()).watched(self.watch.clone()))
    }
}
