//! Both transports on every address, from binding to the end.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hosting_dns_zone::Zones;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::limit::Limiter;
use crate::metrics::Metrics;
use crate::settings::{Settings, ms};
use crate::{tcp, udp};

/// Tries to find a port that is free for both transports when any will do.
const PORT_TRIES: usize = 16;
const TCP_BACKLOG: i32 = 1024;
/// What packet threads have for their end at least.
const JOIN: Duration = Duration::from_secs(1);

/// Serving cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be had.
    #[error("cannot listen on {address} ({transport}): {source}{}", remedy(source, *address))]
    Bind {
        /// Which.
        address: SocketAddr,
        /// UDP or TCP.
        transport: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread cannot be had.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

fn remedy(source: &io::Error, address: SocketAddr) -> String {
    let kind = source.kind();
    if kind == io::ErrorKind::AddrInUse {
        format!("; another process has it (`ss -lnp 'sport = {}'` names it)", address.port())
    } else if kind == io::ErrorKind::PermissionDenied {
        "; ports below 1024 need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=)".to_owned()
    } else if kind == io::ErrorKind::AddrNotAvailable {
        "; no interface of this machine has it".to_owned()
    } else {
        String::new()
    }
}

/// Says at the start what would go wrong later, when there is a view to serve: that an address is taken or not allowed.
/// Holds nothing.
///
/// # Errors
/// The first address that cannot be had, and what to do about it.
pub fn check_addresses(settings: &Settings) -> Result<(), ServeError> {
    settings.listen.iter().try_for_each(|address| {
        let failed = |source| ServeError::Bind { address: *address, transport: "TCP", source };
        bind_tcp(*address).map(drop).map_err(failed)
    })
}

/// A server that answers. Dropping it without [`Server::drain`] leaves its threads to the end of the process.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    tcp: Arc<tcp::Server>,
    stop: CancellationToken,
}

impl Server {
    /// Binds every address and begins to answer from `zones`. TCP runs on `streams`, which should carry nothing else: a flood
    /// over TCP must not hold up the feed and the admin port, nor they it.
    ///
    /// # Errors
    /// The address that cannot be had, and what to do about it.
    pub fn start(
        settings: &Settings,
        zones: Zones,
        metrics: &Metrics,
        streams: &Handle,
    ) -> Result<Self, ServeError> {
        let mut bound = Vec::new();
        for address in &settings.listen {
            bound.push(bind_both(*address, settings)?);
        }
        let stop = CancellationToken::new();
        let limiter =
            Limiter::new(settings.rate_limit, settings.rate_limit_slip, Instant::now()).map(Arc::new);
        let shared =
            udp::Shared { zones: zones.clone(), limiter, payload: settings.udp_payload, stop: stop.clone() };
        let limits = tcp::Limits {
            connections: settings.tcp_max_connections,
            per_client: settings.tcp_max_per_client,
            idle: ms(settings.tcp_idle_timeout_ms),
        };
        let tcp = tcp::Server::new(zones, limits, metrics.clone(), stop.clone());
        let mut server = Self { addresses: Vec::new(), threads: Vec::new(), tcp, stop };
        for bound in bound {
            server.addresses.push(bound.address);
            for socket in bound.udp {
                let thread = udp::spawn(socket, bound.address, shared.clone(), metrics.counters());
                server.threads.push(thread.map_err(ServeError::Thread)?);
            }
            let entered = streams.enter();
            let failed = |source| ServeError::Bind { address: bound.address, transport: "TCP", source };
            bound.tcp.listen(TCP_BACKLOG).map_err(failed)?;
            let listener = TcpListener::from_std(bound.tcp.into()).map_err(failed)?;
            drop(entered);
            streams.spawn(Arc::clone(&server.tcp).accept(listener));
        }
        Ok(server)
    }

    /// Where it answers, in the order of the settings; ports that were 0 are filled in.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether every packet thread still runs.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Stops taking queries, answers what is under way and ends; takes at most about `deadline`.
    pub async fn drain(self, deadline: Duration) {
        self.stop.cancel();
        self.tcp.drain(deadline).await;
        let joined = tokio::task::spawn_blocking(|| {
            self.threads.into_iter().map(JoinHandle::join).all(|end| end.is_ok())
        });
        // They look at `stop` several times a second.
        if !matches!(tokio::time::timeout(deadline.max(JOIN), joined).await, Ok(Ok(true))) {
            tracing::error!("a packet thread panicked or did not end");
        }
    }
}

struct Bound {
    address: SocketAddr,
    tcp: Socket,
    udp: Vec<Socket>,
}

/// Binds TCP first: it does not share its port, so that a second server on the same address is told so.
fn bind_both(address: SocketAddr, settings: &Settings) -> Result<Bound, ServeError> {
    let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    let mut last = None;
    for _ in 0..tries {
        let failed = |transport| move |source| ServeError::Bind { address, transport, source };
        let tcp = bind_tcp(address).map_err(failed("TCP"))?;
        let address = match tcp.local_addr().map_err(failed("TCP"))?.as_socket() {
            Some(local) => SocketAddr::new(address.ip(), local.port()),
            None => address,
        };
        let udp: io::Result<Vec<Socket>> =
            (0..settings.udp_threads()).map(|_| udp::bind(address, settings.udp_receive_buffer)).collect();
        match udp {
            Ok(udp) => return Ok(Bound { address, tcp, udp }),
            Err(source) => last = Some(ServeError::Bind { address, transport: "UDP", source }),
        }
    }
    Err(last.unwrap_or_else(|| ServeError::Bind {
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        transport: "UDP",
        source: io::ErrorKind::AddrInUse.into(),
    }))
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a process before this one, in TIME_WAIT, are no reason to fail.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
