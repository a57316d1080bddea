//! `GET /connections` on the admin port.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use ipnet::IpNet;
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Connection, Connections, Protocol};

/// Connections that are told of when nobody says how many, and the most.
const LIMIT: usize = 100;
const MOST: usize = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    limit: Option<usize>,
    /// An address or a network, of what is shown of clients.
    address: Option<String>,
    /// Of the TLS handshake, or of a request under way.
    host: Option<String>,
    protocol: Option<String>,
}

/// What `Asked` comes to.
#[derive(Debug)]
struct Filter {
    limit: usize,
    network: Option<IpNet>,
    host: Option<String>,
    protocol: Option<Protocol>,
}

impl Filter {
    fn of(asked: Asked) -> Result<Self, String> {
        let network = asked.address.map(|address| {
            let one = address.parse::<IpAddr>().map(IpNet::from);
            one.or_else(|_| address.parse::<IpNet>()).map_err(|_| {
                format!(
                    "address: {address:?} is no address and no network; write 192.0.2.1 or 2001:db8::/48\n"
                )
            })
        });
        let protocol = asked.protocol.map(|word| {
            let known = Protocol::ALL.into_iter().find(|known| known.word() == word);
            known.ok_or_else(|| {
                let words = Protocol::ALL.map(Protocol::word).join(", ");
                format!("protocol: there is no {word:?}; these are known: {words}\n")
            })
        });
        Ok(Self {
            limit: asked.limit.unwrap_or(LIMIT).min(MOST),
            network: network.transpose()?,
            host: asked.host.map(|host| host.trim_end_matches('.').to_ascii_lowercase()),
            protocol: protocol.transpose()?,
        })
    }
}

/// What is shown of a client's address.
type Written = Arc<dyn Fn(IpAddr) -> IpAddr + Send + Sync>;

/// Serves the list, with what `written` leaves of clients' addresses.
pub(crate) fn routes(
    connections: Connections,
    written: impl Fn(IpAddr) -> IpAddr + Send + Sync + 'static,
) -> Router {
    let written: Written = Arc::new(written);
    Router::new().route("/connections", get(list)).with_state((connections, written))
}

async fn list(
    State((connections, written)): State<(Connections, Written)>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, (StatusCode, String)> {
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let Query(asked) = asked.map_err(|rejection| bad(format!("{rejection}\n")))?;
    let filter = Filter::of(asked).map_err(bad)?;
    Ok(Json(connections.list(&filter, &*written)))
}

impl Connections {
    /// The oldest that `filter` lets through, and how many there are.
    fn list(&self, filter: &Filter, written: &dyn Fn(IpAddr) -> IpAddr) -> Value {
        let now = self.0.now();
        let (mut all, mut found, mut shown) = (0_usize, 0_usize, Vec::new());
        self.0.visit(|one| {
            all += 1;
            if let Some(value) = show(one, now, filter, written) {
                found += 1;
                shown.push((one.id, value));
                // The oldest of all parts of the list; what is thrown away here is at most as much again.
                if shown.len() > 2 * filter.limit {
                    shown.sort_unstable_by_key(|(id, _)| *id);
                    shown.truncate(filter.limit);
                }
            }
            true
        });
        shown.sort_unstable_by_key(|(id, _)| *id);
        shown.truncate(filter.limit);
        let shown: Vec<Value> = shown.into_iter().map(|(_, value)| value).collect();
        json!({"open": all, "found": found, "connections": shown})
    }
}

fn show(
    one: &Arc<Connection>,
    now: u64,
    filter: &Filter,
    written: &dyn Fn(IpAddr) -> IpAddr,
) -> Option<Value> {
    let (client, protocol) = (written(one.client), one.protocol());
    if filter.network.is_some_and(|network| !network.contains(&client))
        || filter.protocol.is_some_and(|wanted| wanted != protocol)
    {
        return None;
    }
    let requests = one.slots.read(now);
    let name = one.name.get();
    if let Some(host) = &filter.host {
        let is_for = |authority: &str| {
            let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
            name.trim_end_matches('.').eq_ignore_ascii_case(host)
        };
        let is_found =
            name.is_some_and(|name| **name == **host) || requests.iter().any(|one| is_for(&one.host));
        if !is_found {
            return None;
        }
    }
    let seconds = |micros: u64| (micros / 1_000) as f64 / 1e3;
    let since = SignedDuration::from_micros(i64::try_from(one.since).unwrap_or(i64::MAX));
    let since = one.list.begun_at.checked_add(since).unwrap_or(one.list.begun_at);
    let tls = match one.tls.load(Ordering::Relaxed) {
        0 => Value::Null,
        minor => format!("1.{minor}").into(),
    };
    let under_way = one.under_way.load(Ordering::Relaxed);
    let idle = now.saturating_sub(one.idle_since.load(Ordering::Relaxed));
    let now: Vec<Value> = requests
        .into_iter()
        .map(|request| {
            json!({
                "host": request.host,
                "seconds": seconds(request.micros),
                "received": request.received,
                "sent": request.sent,
                "upgraded": request.is_upgraded,
            })
        })
        .collect();
    Some(json!({
        "id": one.id,
        "since": format!("{since:.3}"),
        "client": client,
        "protocol": protocol.word(),
        "tls": tls,
        "name": name,
        "requests": one.requests.load(Ordering::Relaxed),
        "under_way": under_way,
        "idle_seconds": (under_way == 0).then(|| seconds(idle)),
        "held_bytes": one.held.load(Ordering::Relaxed),
        "now": now,
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::live::LiveMetrics;
    use crate::memory::{Account, MemoryMetrics};

    fn connections() -> Connections {
        let metrics = LiveMetrics::register(&mut prometheus_client::registry::Registry::default());
        Connections::new(Account::new(1 << 30, MemoryMetrics::default()), metrics)
    }

    fn filter(asked: Asked) -> Filter {
        Filter::of(asked).unwrap()
    }

    #[test]
    fn the_oldest_come_first_and_no_more_than_asked_for() {
        let connections = connections();
        let all: Vec<_> = (0..1_000)
            .map(|n| connections.enter(format!("192.0.2.{}", n % 250).parse().unwrap(), 1).unwrap())
            .collect();
        let listed = |asked| connections.list(&filter(asked), &|client| client);
        let ids = |listed: &Value| -> Vec<u64> {
            listed["connections"].as_array().unwrap().iter().map(|one| one["id"].as_u64().unwrap()).collect()
        };
        let first = listed(Asked { limit: Some(30), ..Asked::default() });
        assert_eq!((ids(&first), &first["open"]), ((0..30).collect(), &1_000.into()));
        let of_one = listed(Asked { address: Some("192.0.2.7".into()), ..Asked::default() });
        assert_eq!((ids(&of_one), &of_one["found"]), (vec![7, 257, 507, 757], &4.into()));
        let of_some = listed(Asked { address: Some("192.0.2.0/31".into()), ..Asked::default() });
        assert_eq!(of_some["found"], 8);
        let network = connections
            .list(&filter(Asked { limit: Some(1), ..Asked::default() }), &|_| [192, 0, 2, 0].into());
        assert_eq!(network["connections"][0]["client"], "192.0.2.0");
        drop(all);
        assert_eq!(listed(Asked::default())["open"], 0);
    }

    #[test]
    fn a_filter_says_what_is_wrong_with_it() {
        let wrong = |asked| Filter::of(asked).unwrap_err();
        assert!(wrong(Asked { address: Some("x".into()), ..Asked::default() }).contains("192.0.2.1"));
        assert!(wrong(Asked { protocol: Some("x".into()), ..Asked::default() }).contains("http2"));
    }

    #[test]
    fn who_was_idle_longest_leaves_first_and_who_holds_most_is_cut() {
        use futures::FutureExt as _;
        let metrics = LiveMetrics::register(&mut prometheus_client::registry::Registry::default());
        let connections = Connections::new(Account::new(1_000, MemoryMetrics::default()), metrics);
        let enter = || {
            let mut opened = connections.enter([192, 0, 2, 1].into(), 100).unwrap();
            opened.speaks(Protocol::Http1, 0, None, 100);
            std::thread::sleep(std::time::Duration::from_millis(2));
            opened
        };
        let opened: Vec<_> = (0..8).map(|_| enter()).collect();
        let watches: Vec<_> = opened.iter().map(super::super::Opened::watch).collect();
        // The first one has a request, and had one after the others began.
        let request = watches[0].begin(b"a.example", Instant::now());
        drop(watches[1].begin(b"a.example", Instant::now()));
        assert!(connections.enter([192, 0, 2, 1].into(), 100).is_none(), "an eighth is for requests");
        connections.relieve();
        let leaves = |index: usize| watches[index].leaves().now_or_never().is_some();
        assert!(leaves(2) && (3..8).all(|index| !leaves(index)) && !leaves(0) && !leaves(1));
        // A request that finds no memory has those cut that hold most, when all that are idle are asked to leave.
        let mut held: Vec<_> = watches.iter().map(Watch::nothing).collect();
        assert!(held[0].set(200) && !held[3].set(1));
        connections.relieve();
        let cut: Vec<bool> = opened.iter().map(|one| one.connection.cut.is_aborted()).collect();
        assert_eq!(cut, [false, false, true, false, false, false, false, false]);
        drop(request);
    }

    #[test]
    fn of_those_with_requests_who_holds_most_is_cut_and_only_for_a_request_that_found_no_memory() {
        use futures::FutureExt as _;
        let metrics = LiveMetrics::register(&mut prometheus_client::registry::Registry::default());
        let connections = Connections::new(Account::new(1_000, MemoryMetrics::default()), metrics);
        let mut opened: Vec<_> =
            (0..4).map(|_| connections.enter([192, 0, 2, 1].into(), 10).unwrap()).collect();
        // The last one is still in its handshake.
        opened.iter_mut().take(3).for_each(|one| one.speaks(Protocol::Http1, 0, None, 10));
        let watches: Vec<_> = opened.iter().map(super::super::Opened::watch).collect();
        let mut requests: Vec<_> =
            watches.iter().take(3).map(|watch| watch.begin(b"a.example", Instant::now())).collect();
        let mut held: Vec<_> =
            [300, 350, 250].iter().zip(&watches).map(|(bytes, watch)| watch.hold(*bytes).unwrap()).collect();
        let cut = || -> Vec<bool> { opened.iter().map(|one| one.connection.cut.is_aborted()).collect() };
        let leaves =
            || -> Vec<bool> { watches.iter().map(|one| one.leaves().now_or_never().is_some()).collect() };
        connections.relieve();
        assert_eq!((cut(), leaves()), (vec![false; 4], vec![false; 4]), "there is none yet");
        assert!(watches[0].hold(100).is_none());
        connections.relieve();
        assert_eq!((cut(), leaves()), (vec![false, true, false, false], vec![false; 4]));
        // What has no request any more is idle.
        requests.remove(0);
        connections.relieve();
        let (one_is_cut, leaving) = (vec![false, true, false, false], vec![true, false, false, false]);
        assert_eq!((cut(), leaves()), (one_is_cut.clone(), leaving));
        // Who does not leave when he was told is cut once a request finds nothing again.
        connections.relieve();
        assert_eq!(cut(), one_is_cut, "he has some time for it");
        assert!(watches[0].hold(100).is_none());
        connections.relieve();
        assert_eq!(cut(), vec![true, true, false, false]);
        held.remove(1);
        assert_eq!(connections.0.account.excess(), 0, "what is given back is free");
        assert!(watches[0].hold(100).is_some());
    }

    use crate::live::Watch;
}
