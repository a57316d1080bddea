//! What clients of HTTPS are told of HTTP/3 (RFC 7838). Owns the text, which follows what the cluster says; [`crate::server`] makes it where there are
//! listeners for HTTP/3, and each answer of a site asks for it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hosting_edge_map::{Http3, Routing};

/// How long clients keep in mind that there is HTTP/3.
const SECONDS: u32 = 86_400;

/// The value of `Alt-Svc` at an edge that listens for HTTP/3.
#[derive(Debug)]
pub(crate) struct AltSvc {
    routing: Arc<Routing>,
    own: Arc<str>,
    /// The port that the cluster said last, with its text: written down once, and not for each answer.
    of_cluster: ArcSwap<(u16, Arc<str>)>,
}

impl AltSvc {
    /// `own`: the port that visitors reach by the edge's own settings.
    pub(crate) fn new(own: u16, routing: Arc<Routing>) -> Self {
        let own_text = text(own);
        let of_cluster = ArcSwap::from_pointee((own, Arc::clone(&own_text)));
        Self { routing, own: own_text, of_cluster }
    }

    /// What is to be said now; `None` where the cluster is not reached over HTTP/3.
    pub(crate) fn value(&self) -> Option<Arc<str>> {
        match self.routing.http3() {
            Http3::Off => None,
            Http3::Own => Some(Arc::clone(&self.own)),
            Http3::Port(port) => {
                let known = self.of_cluster.load();
                if known.0 == port {
                    return Some(Arc::clone(&known.1));
                }
                let text = text(port);
                self.of_cluster.store(Arc::new((port, Arc::clone(&text))));
                Some(text)
            }
        }
    }
}

fn text(port: u16) -> Arc<str> {
    format!("h3=\":{port}\"; ma={SECONDS}").into()
}
