//! The sockets that clients come to: bound at start, or taken over from the process before; opened when there is a view to serve.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use crate::quic_socket::{Before, QuicSocket};
use crate::settings::Settings;

/// Bytes of packets that wait until the edge reads them.
const UDP_BUFFER: usize = 4 * 1_024 * 1_024;

/// An address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {address}: {source}{}", hint(source))]
pub struct BindError {
    flag: &'static str,
    address: SocketAddr,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has it (`ss -ltnp` says which, of UDP `ss -lunp`): stop that, or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one, or grant it"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        // Only to help: every other kind speaks for itself.
        _ => "",
    }
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    Http,
    Https,
    Http3,
    Admin,
}

impl Purpose {
    const fn flag(self) -> &'static str {
        match self {
            Self::Http => "--http-listen",
            Self::Https => "--https-listen",
            Self::Http3 => "--http3-listen (UDP)",
            Self::Admin => "--admin-listen",
        }
    }
}

/// A socket, as one process names it to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) purpose: Purpose,
    pub(crate) address: SocketAddr,
}

/// All that the settings ask for, the admin port left out.
pub(crate) fn places(settings: &Settings) -> Vec<Place> {
    let of = |purpose, addresses: &[SocketAddr]| {
        addresses.iter().map(|address| Place { purpose, address: *address }).collect::<Vec<_>>()
    };
    [
        of(Purpose::Http, &settings.http_listen),
        of(Purpose::Https, &settings.https_listen),
        of(Purpose::Http3, settings.http3_addresses()),
    ]
    .concat()
}

/// Sockets that have their address but take no connections yet: a port that is taken is found out at start, and a client is
/// refused until there is a view to serve.
#[derive(Debug)]
pub struct Bound {
    http: Vec<Socket>,
    https: Vec<Socket>,
    http3: Vec<(Socket, Option<Before>)>,
    http3_port: u16,
    backlog: i32,
}

impl Bound {
    /// # Errors
    /// The first address that cannot be had.
    pub fn bind(settings: &Settings) -> Result<Self, BindError> {
        Self::bind_beside(settings, &[])
    }

    /// Binds what the process before does not have; its own come by [`Bound::take`].
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub(crate) fn bind_beside(settings: &Settings, taken: &[Place]) -> Result<Self, BindError> {
        let first = settings.http3_addresses().first().map_or(0, SocketAddr::port);
        let mut bound = Self {
            http: Vec::new(),
            https: Vec::new(),
            http3: Vec::new(),
            http3_port: if settings.http3_port == 0 { first } else { settings.http3_port },
            backlog: settings.backlog.max(1),
        };
        for place in places(settings).into_iter().filter(|place| !taken.contains(place)) {
            let kind = if place.purpose == Purpose::Http3 { Type::DGRAM } else { Type::STREAM };
            let socket = bind(place.address, kind).map_err(|source| BindError {
                flag: place.purpose.flag(),
                address: place.address,
                source,
            })?;
            bound.add(place.purpose, socket, None);
        }
        Ok(bound)
    }

    /// A socket of the process before. The admin port is none of these.
    pub(crate) fn take(&mut self, purpose: Purpose, socket: OwnedFd, before: Option<Before>) {
        self.add(purpose, socket.into(), before);
    }

    fn add(&mut self, purpose: Purpose, socket: Socket, before: Option<Before>) {
        match purpose {
            Purpose::Http => self.http.push(socket),
            Purpose::Https => self.https.push(socket),
            Purpose::Http3 => self.http3.push((socket, before)),
            Purpose::Admin => {}
        }
    }

    /// The addresses for HTTP, with the ports that the kernel chose for 0.
    #[must_use]
    pub fn http(&self) -> Vec<SocketAddr> {
        addresses(&self.http)
    }

    /// The addresses for HTTPS.
    #[must_use]
    pub fn https(&self) -> Vec<SocketAddr> {
        addresses(&self.https)
    }

    /// The UDP addresses for HTTP/3. What comes before they are opened waits, or is lost, and clients take HTTPS.
    #[must_use]
    pub fn http3(&self) -> Vec<SocketAddr> {
        addresses(self.http3.iter().map(|(socket, _)| socket))
    }

    /// Takes connections from here on. Call it on the runtime that serves them, when there is a view to serve.
    ///
    /// # Errors
    /// What the system says; another process may have been quicker with the same port.
    pub fn open(self) -> io::Result<Listeners> {
        self.open_counting(Counter::default())
    }

    /// The same. `lost` counts packets that the process before had no room for.
    pub(crate) fn open_counting(self, lost: Counter) -> io::Result<Listeners> {
        let backlog = self.backlog;
        let port = self
            .http3()
            .first()
            .map(|first| if self.http3_port == 0 { first.port() } else { self.http3_port });
        let open = |sockets: Vec<Socket>| {
            sockets
                .into_iter()
                .map(|socket| {
                    socket.listen(backlog)?;
                    TcpListener::from_std(socket.into())
                })
                .collect::<io::Result<Vec<_>>>()
        };
        let quic = |(socket, before): (Socket, _)| {
            QuicSocket::new(UdpSocket::from(socket), before, lost.clone()).map(Arc::new)
        };
        Ok(Listeners {
            http: open(self.http)?,
            https: open(self.https)?,
            http3: self.http3.into_iter().map(quic).collect::<io::Result<_>>()?,
            http3_port: port,
        })
    }
}

/// Sockets that take connections.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) http: Vec<TcpListener>,
    pub(crate) https: Vec<TcpListener>,
    pub(crate) http3: Vec<Arc<QuicSocket>>,
    /// The UDP port at which visitors reach HTTP/3 by the settings.
    pub(crate) http3_port: Option<u16>,
}

/// The sockets once more, for the process that takes them over.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    pub(crate) tcp: Vec<(Place, OwnedFd)>,
    pub(crate) udp: Vec<(Place, Arc<QuicSocket>)>,
}

impl Handles {
    pub(crate) fn places(&self) -> Vec<Place> {
        let tcp = self.tcp.iter().map(|(place, _)| *place);
        tcp.chain(self.udp.iter().map(|(place, _)| *place)).collect()
    }
}

impl Listeners {
    /// # Errors
    /// No file handles to be had.
    pub(crate) fn handles(&self) -> io::Result<Handles> {
        let mut handles = Handles::default();
        for (purpose, listeners) in [(Purpose::Http, &self.http), (Purpose::Https, &self.https)] {
            for listener in listeners {
                let place = Place { purpose, address: listener.local_addr()? };
                handles.tcp.push((place, listener.as_fd().try_clone_to_owned()?));
            }
        }
        for socket in &self.http3 {
            let address = quinn::AsyncUdpSocket::local_addr(&**socket)?;
            handles.udp.push((Place { purpose: Purpose::Http3, address }, Arc::clone(socket)));
        }
        Ok(handles)
    }
}

fn addresses<'s>(sockets: impl IntoIterator<Item = &'s Socket>) -> Vec<SocketAddr> {
    sockets.into_iter().filter_map(|socket| socket.local_addr().ok()?.as_socket()).collect()
}

fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // So that [::] and 0.0.0.0 can stand side by side whatever the system's default.
        socket.set_only_v6(true)?;
    }
    if kind == Type::DGRAM {
        // One socket takes the packets of all clients. The kernel gives what it has.
        socket.set_recv_buffer_size(UDP_BUFFER)?;
    } else {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn a_port_that_is_taken_says_so() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = Settings {
            http_listen: vec![taken.local_addr().unwrap()],
            https_listen: Vec::new(),
            ..Settings::default()
        };
        let text = Bound::bind(&settings).unwrap_err().to_string();
        assert!(text.contains("--http-listen") && text.contains("another process"), "{text}");
    }

    #[tokio::test]
    async fn a_bound_address_refuses_until_it_is_opened() {
        let settings = Settings {
            http_listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
            https_listen: Vec::new(),
            ..Settings::default()
        };
        let bound = Bound::bind(&settings).unwrap();
        let addresses = bound.http();
        for address in &addresses {
            assert!(TcpStream::connect(address).await.is_err());
        }
        let _open = bound.open().unwrap();
        for address in &addresses {
            TcpStream::connect(address).await.unwrap();
        }
    }
}
