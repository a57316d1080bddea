//! The UDP path: sockets that share a port, one thread each, packets in batches.
//!
//! A thread owns its socket and its buffers. For a query it takes no lock and allocates nothing; it waits for nobody
//! but the kernel. It knows nothing of the feed, and goes on when everything else stands still.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hosting_dns_zone::{Transport, Zones};
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrIn6,
    SockaddrLike, recvmmsg, sendmmsg, setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::limit::{Limiter, Verdict};
use crate::metrics::{Counters, Via};
use crate::settings::MAX_UDP_PAYLOAD;

/// Packets of one call to the kernel.
const BATCH: usize = 64;
/// Largest query that is looked at; what is longer is no query.
const QUERY: usize = 2048;
const ANSWER: usize = MAX_UDP_PAYLOAD as usize;
/// How long a thread without packets does not notice that it should stop.
const STOP_NOTICED: Duration = Duration::from_millis(200);
/// After an error that is none of a packet's, so that it does not become a busy loop.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// What all packet threads share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What is served.
    pub zones: Zones,
    /// The rate limit, if there is one.
    pub limiter: Option<Arc<Limiter>>,
    /// Most bytes of an answer.
    pub payload: u16,
    /// Ends the threads.
    pub stop: CancellationToken,
}

/// Makes one of several sockets on `address`, ready to receive.
///
/// # Errors
/// What the kernel says; most often that another process has the address, or that a port below 1024 needs a capability.
pub fn bind(address: SocketAddr, receive_buffer: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    // As much as the kernel grants: a short buffer loses packets of a burst, nothing else.
    let _ = socket.set_recv_buffer_size(receive_buffer);
    socket.set_read_timeout(Some(STOP_NOTICED))?;
    // On an address of every interface the answer must say which one was asked.
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
        }
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Starts a thread that answers on `socket`, which is bound to `address`, until it should stop.
///
/// # Errors
/// The thread could not be made.
pub fn spawn(
    socket: Socket,
    address: SocketAddr,
    shared: Shared,
    counters: Arc<Counters>,
) -> io::Result<JoinHandle<()>> {
    let every = address.ip().is_unspecified();
    std::thread::Builder::new().name(format!("dns-udp-{}", address.port())).spawn(move || {
        let socket = OwnedFd::from(socket);
        match address {
            SocketAddr::V4(_) => Worker::<V4>::new(socket, every, shared, counters).run(),
            SocketAddr::V6(_) => Worker::<V6>::new(socket, every, shared, counters).run(),
        }
    })
}

/// What differs between the two address families.
trait Family {
    type Address: SockaddrLike + Copy + fmt::Debug;
    /// Which of our addresses a packet was sent to.
    type Local: Copy;
    fn ip(address: &Self::Address) -> IpAddr;
    fn port(address: &Self::Address) -> u16;
    fn local(message: ControlMessageOwned) -> Option<Self::Local>;
    fn source(local: &Self::Local) -> ControlMessage<'_>;
    fn same(a: &Self::Local, b: &Self::Local) -> bool;
    fn space() -> Vec<u8>;
}

struct V4;

impl Family for V4 {
    type Address = SockaddrIn;
    type Local = in_pktinfo;

    fn ip(address: &SockaddrIn) -> IpAddr {
        address.ip().into()
    }

    fn port(address: &SockaddrIn) -> u16 {
        SocketAddrV4::from(*address).port()
    }

    fn local(message: ControlMessageOwned) -> Option<in_pktinfo> {
        let ControlMessageOwned::Ipv4PacketInfo(info) = message else { return None };
        // No interface: the routing table knows the way back.
        Some(in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_spec_dst, ipi_addr: in_addr { s_addr: 0 } })
    }

    fn source(local: &in_pktinfo) -> ControlMessage<'_> {
        ControlMessage::Ipv4PacketInfo(local)
    }

    fn same(a: &in_pktinfo, b: &in_pktinfo) -> bool {
        a.ipi_spec_dst.s_addr == b.ipi_spec_dst.s_addr
    }

    fn space() -> Vec<u8> {
        nix::cmsg_space!(in_pktinfo)
    }
}

struct V6;

impl Family for V6 {
    type Address = SockaddrIn6;
    type Local = in6_pktinfo;

    fn ip(address: &SockaddrIn6) -> IpAddr {
        address.ip().into()
    }

    fn port(address: &SockaddrIn6) -> u16 {
        SocketAddrV6::from(*address).port()
    }

    fn local(message: ControlMessageOwned) -> Option<in6_pktinfo> {
        let ControlMessageOwned::Ipv6PacketInfo(mut info) = message else { return None };
        // Only a link-local address says nothing without its interface.
        if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() {
            info.ipi6_ifindex = 0;
        }
        Some(info)
    }

    fn source(local: &in6_pktinfo) -> ControlMessage<'_> {
        ControlMessage::Ipv6PacketInfo(local)
    }

    fn same(a: &in6_pktinfo, b: &in6_pktinfo) -> bool {
        a.ipi6_addr.s6_addr == b.ipi6_addr.s6_addr && a.ipi6_ifindex == b.ipi6_ifindex
    }

    fn space() -> Vec<u8> {
        nix::cmsg_space!(in6_pktinfo)
    }
}

/// An answer that is ready to go.
#[derive(Clone, Copy)]
struct Ready<L> {
    len: usize,
    local: Option<L>,
}

struct Worker<F: Family> {
    socket: OwnedFd,
    /// Bound to the address of every interface.
    every: bool,
    shared: Shared,
    counters: Arc<Counters>,
    answers: Vec<[u8; ANSWER]>,
    ready: Vec<Ready<F::Local>>,
    clients: Vec<Option<F::Address>>,
    outgoing: MultiHeaders<F::Address>,
    slipped: u32,
}

impl<F: Family> Worker<F> {
    fn new(socket: OwnedFd, every: bool, shared: Shared, counters: Arc<Counters>) -> Self {
        Self {
            socket,
            every,
            shared,
            counters,
            answers: vec![[0; ANSWER]; BATCH],
            ready: Vec::with_capacity(BATCH),
            clients: Vec::with_capacity(BATCH),
            outgoing: MultiHeaders::preallocate(BATCH, every.then(F::space)),
            slipped: 0,
        }
    }

    fn run(mut self) {
        let mut queries: Box<[[u8; QUERY]; BATCH]> = Box::new([[0; QUERY]; BATCH]);
        let mut incoming = MultiHeaders::preallocate(BATCH, self.every.then(F::space));
        while !self.shared.stop.is_cancelled() {
            let mut slices = queries.each_mut().map(|query| [IoSliceMut::new(query)]);
            let socket = self.socket.as_raw_fd();
            match recvmmsg(socket, &mut incoming, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
                Ok(messages) => {
                    let now = Instant::now();
                    for message in messages {
                        self.answer(&message, now);
                    }
                    self.send();
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // Of an earlier packet: an ICMP error, no memory for a moment.
                Err(error) => {
                    tracing::warn!(%error, "cannot receive over UDP");
                    std::thread::sleep(ERROR_PAUSE);
                }
            }
        }
    }

    /// Answers one packet into the next free buffer.
    fn answer(&mut self, message: &RecvMsg<'_, '_, F::Address>, now: Instant) {
        let (Some(client), Some(packet)) = (message.address, message.iovs().next()) else { return };
        // Port 0 cannot be answered, and a packet cut off by the kernel was no query.
        if F::port(&client) == 0 || message.flags.contains(MsgFlags::MSG_TRUNC) {
            return;
        }
        let local = if self.every {
            match message.cmsgs().ok().and_then(|mut messages| messages.find_map(F::local)) {
                Some(local) => Some(local),
                None => return,
            }
        } else {
            None
        };
        let Some(buffer) = self.answers.get_mut(self.ready.len()) else { return };
        let transport = Transport::Udp { max: self.shared.payload };
        let answered = self.shared.zones.answer(packet, transport, buffer);
        self.counters.answered(Via::Udp, &answered);
        if answered.len == 0 {
            return;
        }
        let mut len = answered.len;
        if let Some(limiter) = &self.shared.limiter {
            match limiter.judge(F::ip(&client), &answered, now, &mut self.slipped) {
                Verdict::Send => {}
                Verdict::Slip => {
                    self.counters.slipped();
                    len = hosting_dns_zone::truncated(packet, buffer);
                    if len == 0 {
                        return;
                    }
                }
                Verdict::Drop => {
                    self.counters.limited();
                    return;
                }
            }
        }
        self.ready.push(Ready { len, local });
        self.clients.push(Some(client));
    }

    /// Sends what is ready. The kernel takes one source address for a call, so each run of answers from one address goes by
    /// itself; a server bound to a single address has one run.
    fn send(&mut self) {
        let empty: &[u8] = &[];
        let mut slices: [[IoSlice<'_>; 1]; BATCH] = [[IoSlice::new(empty)]; BATCH];
        for ((slice, answer), ready) in slices.iter_mut().zip(&self.answers).zip(&self.ready) {
            *slice = [IoSlice::new(answer.get(..ready.len).unwrap_or_default())];
        }
        let mut at = 0;
        while let Some(first) = self.ready.get(at) {
            let same = |ready: &&Ready<F::Local>| match (&first.local, &ready.local) {
                (Some(a), Some(b)) => F::same(a, b),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            let run = self.ready.get(at..).unwrap_or_default().iter().take_while(same).count();
            let (Some(slices), Some(clients)) = (slices.get(at..at + run), self.clients.get(at..at + run))
            else {
                break;
            };
            let source = first.local.as_ref().map(F::source);
            let sent = sendmmsg(
                self.socket.as_raw_fd(),
                &mut self.outgoing,
                slices,
                clients,
                source.as_slice(),
                MsgFlags::empty(),
            )
            .map(Iterator::count);
            match sent {
                // The first of them cannot be sent: no route, a firewall, a full queue. The others may.
                Ok(0) | Err(_) => {
                    if sent != Err(Errno::EINTR) {
                        self.counters.send_error();
                        at += 1;
                    }
                }
                Ok(sent) => at += sent,
            }
        }
        self.ready.clear();
        self.clients.clear();
    }
}
