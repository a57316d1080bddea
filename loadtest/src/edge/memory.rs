//! How soon a server serves a million names, and what its memory goes to.

use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpStream;

use super::Row;
use super::client::{self, Tls};
use super::server::{Entry, Server, Workshop, fqdn};

/// Starts every server some times.
pub(super) async fn start(workshop: &Workshop, entries: &[Entry], rounds: usize) -> anyhow::Result<Vec<Row>> {
    let row =
        |cell: &str, unit| Row { cell: cell.to_owned(), unit, figures: vec![Vec::new(); entries.len()] };
    let mut rows = [row("start", "s"), row("start-peak", "MiB"), row("start-settled", "MiB")];
    for _ in 0..rounds.max(1) {
        for (index, entry) in entries.iter().enumerate() {
            let server = workshop.start(entry)?;
            server.settle().await?;
            // What the start freed goes back to the system some seconds later.
            tokio::time::sleep(Duration::from_secs(4)).await;
            let memory = server.memory()?;
            let figures = [server.ready.as_secs_f64(), mib(memory.peak), mib(memory.now)];
            for (row, figure) in rows.iter_mut().zip(figures) {
                row.figures[index].push(figure);
            }
        }
    }
    Ok(rows.into())
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1_024.0
}

/// Resident memory between half of the connections and all of them, each of which has asked once: what a server sets up once, and the
/// memory that its start left free, is used up by the first half.
pub(super) async fn idle(workshop: &Workshop, entries: &[Entry], count: usize) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let http1 = Tls::default();
    let kinds = [
        ("idle-http1", None),
        ("idle-https1", Some(http1)),
        ("idle-http2", Some(Tls { http2: true, ..http1 })),
    ];
    for (cell, tls) in kinds {
        let mut figures = vec![Vec::new(); entries.len()];
        for (index, entry) in entries.iter().enumerate() {
            let server = workshop.start(entry)?;
            server.settle().await?;
            let figure =
                idle_of(&server, tls, count).await.with_context(|| format!("{}, {cell}", entry.name))?;
            figures[index].push(figure);
        }
        rows.push(Row { cell: cell.to_owned(), unit: "KiB", figures });
    }
    Ok(rows)
}

/// A connection on which nothing happens any more.
enum Idle {
    Tcp { _stream: TcpStream },
    Tls { _stream: Box<tokio_rustls::client::TlsStream<TcpStream>> },
    Http2 { _client: h2::client::SendRequest<bytes::Bytes>, connection: tokio::task::JoinHandle<()> },
}

impl Drop for Idle {
    fn drop(&mut self) {
        if let Self::Http2 { connection, .. } = self {
            connection.abort();
        }
    }
}

async fn idle_of(server: &Server, tls: Option<Tls>, count: usize) -> anyhow::Result<f64> {
    let mut connections = Vec::new();
    let (mut before, first) = (0, count / 2);
    for index in 0..count {
        if index == first {
            server.settle().await?;
            before = server.memory()?.now;
        }
        connections.push(open(server, tls, index).await?);
    }
    server.settle().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = server.memory()?.now;
    Ok(after.saturating_sub(before) as f64 / count.saturating_sub(first).max(1) as f64)
}

async fn open(server: &Server, tls: Option<Tls>, index: usize) -> anyhow::Result<Idle> {
    let host = fqdn(index % 100);
    let request = client::http1_request(&host, 1_024);
    let mut buffer = Vec::new();
    let Some(tls) = tls else {
        let mut stream = client::connect(server.entry.http()).await?;
        client::http1_ask(&mut stream, &request, &mut buffer).await?;
        return Ok(Idle::Tcp { _stream: stream });
    };
    let name = rustls::pki_types::ServerName::try_from(host.clone())?;
    let mut stream = tls.connector()?.connect(name, client::connect(server.entry.https()).await?).await?;
    if !tls.http2 {
        client::http1_ask(&mut stream, &request, &mut buffer).await?;
        return Ok(Idle::Tls { _stream: Box::new(stream) });
    }
    let (sender, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(async move {
        // It ends with the process that is measured.
        let _ = connection.await;
    });
    client::http2_once(sender.clone(), &host, 1_024).await?;
    Ok(Idle::Http2 { _client: sender, connection })
}
