//! Asks the nodes whether they are there, so that one that hangs, or swallows packets, gets no visitor's request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use hosting_edge_map::{Millis, Node, Pool, Routing};
use hosting_intent::ALIVE_PATH;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::metrics::Metrics;
use crate::settings::{Settings, ms};

/// Questions in a row without an answer after which a node gets no requests.
const FALL: u8 = 3;
/// Answers in a row after which it gets some again.
const RISE: u8 = 2;
/// Questions at once.
const AT_ONCE: usize = 256;

/// Whether and how nodes are asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeChecks {
    interval: Duration,
    limit: Duration,
}

/// What a node said of late: so many answers, or so many times nothing, in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Streak {
    answered: bool,
    length: u8,
}

/// A pool's name and a node's id.
type Place = (Box<str>, Arc<str>);

impl NodeChecks {
    /// `None`: nobody is asked.
    pub(crate) fn of(settings: &Settings) -> Option<Self> {
        (settings.node_check_interval_ms > 0).then(|| Self {
            interval: ms(settings.node_check_interval_ms),
            limit: ms(settings.node_check_timeout_ms),
        })
    }

    /// Asks until it is dropped. `now` reads the clock that nodes' times are on.
    pub(crate) async fn run(self, routing: Arc<Routing>, metrics: Metrics, now: impl Fn() -> Millis + Sync) {
        let mut streaks: HashMap<Place, Streak> = HashMap::new();
        loop {
            tokio::time::sleep(self.interval).await;
            streaks = self.round(routing.pools(), streaks, &metrics, &now).await;
        }
    }

    async fn round(
        self,
        pools: Vec<Arc<Pool>>,
        before: HashMap<Place, Streak>,
        metrics: &Metrics,
        now: &(impl Fn() -> Millis + Sync),
    ) -> HashMap<Place, Streak> {
        let mut questions = Vec::new();
        for pool in &pools {
            for (index, _) in pool.nodes().iter().enumerate().filter(|(_, node)| node.in_service) {
                questions.push(self.question(Arc::clone(pool), index));
            }
        }
        let answers: Vec<_> = stream::iter(questions).buffer_unordered(AT_ONCE).collect().await;
        let mut down = 0;
        let mut streaks = HashMap::with_capacity(answers.len());
        for (pool, index, answered) in answers {
            let Some(node) = pool.nodes().get(index) else { continue };
            let place = (pool.name().into(), Arc::clone(&node.id));
            let mut streak = before.get(&place).copied().unwrap_or_default();
            if streak.answered != answered {
                streak = Streak { answered, length: 0 };
            }
            streak.length = streak.length.saturating_add(1);
            if streak.length >= if answered { RISE } else { FALL } && node.checked(!answered, now()) {
                if answered {
                    tracing::info!(node = %node.id, shard = pool.name(), "node answers again");
                } else {
                    metrics.ejections.inc();
                    tracing::warn!(node = %node.id, shard = pool.name(), addresses = ?node.addresses, "node does not answer; out of rotation until it does");
                }
            }
            down += i64::from(node.is_down());
            streaks.insert(place, streak);
        }
        metrics.nodes_down.set(down);
        streaks
    }

    async fn question(self, pool: Arc<Pool>, index: usize) -> (Arc<Pool>, usize, bool) {
        let is_alive = match pool.nodes().get(index) {
            Some(node) => self.is_alive(node).await,
            None => false,
        };
        (pool, index, is_alive)
    }

    /// Whether the node answers with HTTP at one of its addresses, whatever it says.
    async fn is_alive(self, node: &Node) -> bool {
        for address in &node.addresses {
            if matches!(tokio::time::timeout(self.limit, ask(*address)).await, Ok(Ok(true))) {
                return true;
            }
        }
        false
    }
}

async fn ask(address: SocketAddr) -> std::io::Result<bool> {
    let mut tcp = TcpStream::connect(address).await?;
    let request = format!("GET {ALIVE_PATH} HTTP/1.1\r\nHost: node.invalid\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let mut begin = [0; 7];
    tcp.read_exact(&mut begin).await?;
    Ok(begin == *b"HTTP/1.")
}
