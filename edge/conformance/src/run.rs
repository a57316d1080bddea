//! Holds a server to rows.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConfig;

use crate::node::Node;
use crate::outcome::Outcome;
use crate::patience::{CURIOUS, Patience, SURE};
use crate::row::{Protocol, Row};
use crate::{http1, http2, http3};

/// A proxy with two sites, `a.example` and `b.example`, both at the node.
#[derive(Debug)]
pub struct Target {
    /// Where it speaks HTTP/1.
    pub http: SocketAddr,
    /// Where it speaks HTTP/2 over TLS.
    pub https: SocketAddr,
    /// Where it speaks HTTP/3.
    pub http3: Option<SocketAddr>,
    /// What it is trusted by.
    pub tls: ClientConfig,
    /// Whether it is an edge, which says certain things of a request to its node.
    pub is_edge: bool,
}

/// Runs a row with a server that is expected to do as it says.
///
/// # Errors
/// The row says nothing that can be run, or the server is not there.
pub async fn hold(target: &Target, node: &Node, row: &Row) -> anyhow::Result<Outcome> {
    run(target, node, row, SURE).await
}

/// Runs a row without knowing what to expect.
///
/// # Errors
/// As [`hold`].
pub async fn observe(target: &Target, node: &Node, row: &Row) -> anyhow::Result<Outcome> {
    run(target, node, row, CURIOUS).await
}

async fn run(target: &Target, node: &Node, row: &Row, patience: Patience) -> anyhow::Result<Outcome> {
    let scheme = if row.protocol == Protocol::Http1 { "http" } else { "https" };
    node.play(row, scheme, target.is_edge)?;
    let (answers, end) = match row.protocol {
        Protocol::Http1 => http1::talk(target.http, row, patience).await?,
        Protocol::Http2 => http2::talk(target.https, target.tls.clone(), row, patience).await?,
        Protocol::Http3 => {
            let address = target.http3.ok_or_else(|| anyhow::anyhow!("HTTP/3 is off"))?;
            http3::talk(address, target.tls.clone(), row, patience).await?
        }
    };
    // Whatever happened, other clients get answers of their own, over whatever connections the row left.
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let mut leaked = Vec::new();
    for host in ["b.example", "a.example"] {
        let got = http1::visit(target.http, host, TURN.fetch_add(1, Ordering::Relaxed)).await?;
        leaked.extend(got.into_iter().filter(|(wanted, got)| wanted != got).map(|(_, got)| got));
    }
    Ok(Outcome { node: node.seen(), answers, end, leaked })
}
