//! A UDP socket that goes from one process of the edge to the next while both have connections over it.
//!
//! Both send over the socket; one reads it. The connection IDs of a process begin with bytes that are its own, so the reader tells whose
//! a packet is: those of the process before go to it through a unix socket, and what that one has no room for is lost like any
//! packet. Called by quinn through `AsyncUdpSocket`, and by the take-over.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut};
use futures::task::AtomicWaker;
use prometheus_client::metrics::counter::Counter;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, Runtime, TokioRuntime, UdpPoller};
use quinn_proto::{ConnectionIdGenerator, InvalidCid};
use rand::Rng;
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio_util::sync::CancellationToken;

/// Bytes of a connection ID.
const ID: usize = 8;
/// Bytes before a packet on its way to the process before: whose it is, at which address it came, its ECN bits, and the length of
/// each packet behind.
const HEADER: usize = 1 + 16 + 2 + 4 + 1 + 16 + 1 + 2;
/// Packets on their way to the process before take so many bytes of the kernel's memory at most.
const ON_THE_WAY: usize = 4 * 1_024 * 1_024;

/// What the connection IDs of a process begin with, and those of no other one at the same socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Tag([u8; 3]);

impl Tag {
    /// Another one than `before`.
    fn new(before: Option<Self>) -> Self {
        loop {
            let mut bytes = [0; 3];
            rand::rng().fill_bytes(&mut bytes);
            if Some(Self(bytes)) != before {
                return Self(bytes);
            }
        }
    }

    /// Whether a packet is for a connection of the process with this tag. The first packet of a client is for nobody's: it chose the
    /// ID itself, by chance.
    fn is_of(self, packet: &[u8]) -> bool {
        let id = match packet {
            // A long header: form, version, length of the ID (RFC 9000 §17.2).
            [first, _, _, _, _, length, id @ ..] if first & 0x80 != 0 => {
                if usize::from(*length) != ID {
                    return false;
                }
                id
            }
            [_, id @ ..] => id,
            [] => return false,
        };
        id.starts_with(&self.0)
    }
}

/// Makes the connection IDs of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ids(Tag);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID];
        rand::rng().fill_bytes(&mut id);
        for (byte, tag) in id.iter_mut().zip(self.0.0) {
            *byte = tag;
        }
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if id.starts_with(&self.0.0) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        ID
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Whom a socket was taken over from.
#[derive(Debug)]
pub(crate) struct Before {
    tag: Tag,
    link: OwnedFd,
    /// It has ended.
    gone: AtomicBool,
}

impl Before {
    /// `link` is the end of a pair of [`link`].
    pub(crate) fn new(tag: Tag, link: OwnedFd) -> Self {
        Self { tag, link, gone: AtomicBool::new(false) }
    }

    /// Passes on what is not ours; what is left in the buffer is.
    fn sort_out(&self, buffer: &mut [u8], meta: &mut RecvMeta, lost: &Counter) {
        let stride = meta.stride.max(1);
        let Some(all) = buffer.get_mut(..meta.len) else { return };
        let theirs = all.chunks(stride).filter(|packet| self.tag.is_of(packet)).count();
        if theirs == 0 {
            return;
        }
        if theirs == all.len().div_ceil(stride) {
            self.pass_on(all, meta, lost);
            meta.len = 0;
            return;
        }
        let (mut kept, mut at) = (0, 0);
        while at < all.len() {
            let end = (at + stride).min(all.len());
            let packet = all.get(at..end).unwrap_or_default();
            if self.tag.is_of(packet) {
                self.pass_on(packet, meta, lost);
            } else {
                all.copy_within(at..end, kept);
                kept += end - at;
            }
            at = end;
        }
        meta.len = kept;
    }

    fn pass_on(&self, packets: &[u8], meta: &RecvMeta, lost: &Counter) {
        let header = header(meta);
        match rustix::io::writev(&self.link, &[IoSlice::new(&header), IoSlice::new(packets)]) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => drop(lost.inc()),
            // Its connections ended with it.
            Err(_) => self.gone.store(true, Ordering::Relaxed),
        }
    }
}

/// A pair of sockets for packets: the end for who reads the UDP socket, and the one for [`QuicSocket::read_from`]. Whoever writes learns that the
/// other end is gone, and the other way round.
///
/// # Errors
/// What the system says.
pub(crate) fn link() -> io::Result<(OwnedFd, OwnedFd)> {
    let (write, read) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
    for end in [&write, &read] {
        end.set_nonblocking(true)?;
    }
    // The kernel gives what it has.
    write.set_send_buffer_size(ON_THE_WAY)?;
    Ok((write.into(), read.into()))
}

fn header(meta: &RecvMeta) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let mut out = &mut header[..];
    let scope = if let SocketAddr::V6(address) = meta.addr { address.scope_id() } else { 0 };
    put_address(&mut out, Some(meta.addr.ip()));
    out.put_u16(meta.addr.port());
    out.put_u32(scope);
    put_address(&mut out, meta.dst_ip);
    out.put_u8(meta.ecn.map_or(0, |ecn| ecn as u8));
    out.put_u16(u16::try_from(meta.stride).unwrap_or(u16::MAX));
    header
}

fn put_address(out: &mut &mut [u8], address: Option<IpAddr>) {
    let (kind, bytes) = match address {
        None => (0, [0; 16]),
        Some(IpAddr::V4(address)) => (4, address.to_ipv6_mapped().octets()),
        Some(IpAddr::V6(address)) => (6, address.octets()),
    };
    out.put_u8(kind);
    out.put_slice(&bytes);
}

/// The other way round. `len` is that of the packets behind.
fn parse(header: [u8; HEADER], len: usize) -> Option<RecvMeta> {
    let mut rest = &header[..];
    let ip = take_address(&mut rest)?;
    let (port, scope) = (rest.get_u16(), rest.get_u32());
    let addr = match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    };
    let dst_ip = take_address(&mut rest);
    let ecn = EcnCodepoint::from_bits(rest.get_u8());
    Some(RecvMeta { addr, len, stride: rest.get_u16().into(), ecn, dst_ip })
}

fn take_address(rest: &mut &[u8]) -> Option<IpAddr> {
    let kind = rest.get_u8();
    let address = IpAddr::from(rest.get_u128().to_be_bytes());
    match kind {
        4 => Some(address.to_canonical()),
        6 => Some(address),
        _ => None,
    }
}

/// Where packets come from once another process reads the socket.
#[derive(Debug)]
struct After {
    link: UnixDatagram,
}

/// The socket.
pub(crate) struct QuicSocket {
    direct: Arc<dyn AsyncUdpSocket>,
    /// The same socket, for who takes it over.
    handle: OwnedFd,
    tag: Tag,
    before: Option<Before>,
    after: OnceLock<After>,
    /// Who waits for packets.
    reader: AtomicWaker,
    /// Nobody reads the socket any more.
    unread: CancellationToken,
    lost: Counter,
}

impl fmt::Debug for QuicSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicSocket")
            .field("tag", &self.tag)
            .field("before", &self.before)
            .finish_non_exhaustive()
    }
}

impl QuicSocket {
    /// Reads packets from here on, on the current runtime. `lost` counts packets that the process before had no room for.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(socket: UdpSocket, before: Option<Before>, lost: Counter) -> io::Result<Self> {
        Ok(Self {
            handle: socket.as_fd().try_clone_to_owned()?,
            direct: TokioRuntime.wrap_udp_socket(socket)?,
            tag: Tag::new(before.as_ref().map(|before| before.tag)),
            before,
            after: OnceLock::new(),
            reader: AtomicWaker::new(),
            unread: CancellationToken::new(),
            lost,
        })
    }

    pub(crate) const fn tag(&self) -> Tag {
        self.tag
    }

    pub(crate) const fn ids(&self) -> Ids {
        Ids(self.tag)
    }

    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Reads the socket no more: another process does, and passes on what is for connections of this one. Once.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn read_from(&self, link: OwnedFd) -> io::Result<()> {
        // For the runtime it is a socket of messages as a datagram socket is.
        let link = UnixDatagram::from_std(StdDatagram::from(link))?;
        if self.after.set(After { link }).is_err() {
            return Err(io::Error::other("the UDP socket was handed over before"));
        }
        self.reader.wake();
        Ok(())
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.after.get().is_some()
    }

    /// Ends when the process that reads the socket is gone: nothing comes for the connections here any more.
    pub(crate) async fn unread(&self) {
        self.unread.cancelled().await;
    }
}

impl After {
    /// Packets, or how many bytes that is: 0 when the other end is gone.
    fn read(&self, buffer: &mut [u8]) -> io::Result<(usize, [u8; HEADER])> {
        let mut header = [0; HEADER];
        let read = self.link.try_io(Interest::READABLE, || {
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
            Ok(rustix::io::readv(&self.link, &mut parts)?)
        })?;
        Ok((read, header))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        unread: &CancellationToken,
    ) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            loop {
                match self.read(buffer) {
                    Ok((0, _)) => {
                        unread.cancel();
                        return if filled == 0 { Poll::Pending } else { Poll::Ready(Ok(filled)) };
                    }
                    Ok((read, header)) => {
                        let Some(parsed) = parse(header, read.saturating_sub(HEADER)) else { continue };
                        *meta = parsed;
                        filled += 1;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if filled > 0 {
                            return Poll::Ready(Ok(filled));
                        }
                        ready!(self.link.poll_recv_ready(cx))?;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        Poll::Ready(Ok(filled))
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.direct).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.direct.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.reader.register(cx.waker());
        if let Some(after) = self.after.get() {
            return after.poll_recv(cx, buffers, meta, &self.unread);
        }
        let came = ready!(self.direct.poll_recv(cx, buffers, meta))?;
        if let Some(before) = self.before.as_ref().filter(|before| !before.gone.load(Ordering::Relaxed)) {
            for (buffer, meta) in buffers.iter_mut().zip(meta).take(came) {
                before.sort_out(buffer, meta, &self.lost);
            }
        }
        Poll::Ready(Ok(came))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.direct.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.direct.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.direct.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.direct.max_receive_segments()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(len: usize, stride: usize) -> RecvMeta {
        RecvMeta {
            addr: "[fe80::1%3]:4433".parse().unwrap(),
            len,
            stride,
            ecn: Some(EcnCodepoint::Ce),
            dst_ip: Some("192.0.2.7".parse().unwrap()),
        }
    }

    fn packet(tag: Tag, length: usize) -> Vec<u8> {
        let mut packet = vec![0x40];
        packet.extend_from_slice(&Ids(tag).generate_cid());
        packet.resize(length, 7);
        packet
    }

    #[test]
    fn a_packet_is_told_by_its_connection_id_whatever_its_header() {
        let (mine, other) = (Tag([1, 2, 3]), Tag([1, 2, 4]));
        assert!(mine.is_of(&packet(mine, 30)) && !other.is_of(&packet(mine, 30)));
        let mut long = vec![0xc0, 0, 0, 0, 1, 8];
        long.extend_from_slice(&[1, 2, 3, 9, 9, 9, 9, 9, 0]);
        assert!(mine.is_of(&long) && !other.is_of(&long));
        // No ID of ours has that length, so a client chose it.
        long[5] = 20;
        assert!(!mine.is_of(&long));
        assert!(!mine.is_of(&[]) && !mine.is_of(&[0x40, 1]));
        let mut ids = Ids(mine);
        assert!(ids.validate(&ids.clone().generate_cid()).is_ok());
        assert!(Ids(other).validate(&ids.generate_cid()).is_err());
        assert_ne!(ids.generate_cid(), ids.generate_cid());
    }

    #[test]
    fn what_is_known_of_a_packet_goes_with_it() {
        for meta in [
            meta(1_200, 1_200),
            RecvMeta { addr: "192.0.2.1:1".parse().unwrap(), dst_ip: None, ecn: None, ..meta(3, 2) },
            RecvMeta { dst_ip: Some("::1".parse().unwrap()), ..meta(9, 9) },
        ] {
            let read = parse(header(&meta), meta.len).unwrap();
            assert_eq!(format!("{read:?}"), format!("{meta:?}"));
        }
        assert!(parse([0; HEADER], 1).is_none());
    }

    #[tokio::test]
    async fn of_packets_that_came_at_once_each_goes_to_its_process() {
        let (mine, theirs) = (Tag([1, 1, 1]), Tag([2, 2, 2]));
        let (write, read) = link().unwrap();
        let after = After { link: UnixDatagram::from_std(StdDatagram::from(read)).unwrap() };
        let before = Before::new(theirs, write);
        let lost = Counter::default();
        let mut came = [packet(mine, 20), packet(theirs, 20), packet(mine, 20), packet(theirs, 11)].concat();
        let mut seen = meta(came.len(), 20);
        before.sort_out(&mut came, &mut seen, &lost);
        assert_eq!(seen.len, 40);
        assert!(came[..40].chunks(20).all(|packet| mine.is_of(packet)));
        let mut whole = [packet(theirs, 20), packet(theirs, 15)].concat();
        let mut seen = meta(whole.len(), 20);
        before.sort_out(&mut whole, &mut seen, &lost);
        assert_eq!((seen.len, lost.get()), (0, 0));

        let mut space = [[0; 100]; 5];
        let mut buffers = space.each_mut().map(|part| IoSliceMut::new(part));
        let mut metas = [RecvMeta::default(); 5];
        let unread = CancellationToken::new();
        let read = std::future::poll_fn(|cx| after.poll_recv(cx, &mut buffers, &mut metas, &unread)).await;
        assert_eq!(read.unwrap(), 3);
        let lengths: Vec<_> = metas.iter().take(3).map(|meta| (meta.len, meta.stride)).collect();
        assert_eq!(lengths, [(20, 20), (11, 20), (35, 20)]);
        assert!(theirs.is_of(&buffers[2][..35]) && metas[2].addr == seen.addr);

        // What there is no room for is lost and counted; nobody waits.
        let large = vec![0; 60_000];
        for _ in 0..1_000 {
            before.pass_on(&large, &seen, &lost);
        }
        assert!(lost.get() > 0 && !before.gone.load(Ordering::Relaxed));
        drop(after);
        before.pass_on(&large, &seen, &lost);
        assert!(before.gone.load(Ordering::Relaxed), "who has ended is passed nothing");
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn who_reads_from_another_process_learns_that_it_is_gone() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let quic = QuicSocket::new(socket, None, Counter::default()).unwrap();
        let (write, read) = link().unwrap();
        let mut space = [0; 100];
        let mut buffers = [IoSliceMut::new(&mut space)];
        let mut metas = [RecvMeta::default()];
        let mut poll = |cx: &mut Context<'_>| quic.poll_recv(cx, &mut buffers, &mut metas);
        let woken = Arc::new(Woken::default());
        assert!(poll(&mut Context::from_waker(&Arc::clone(&woken).into())).is_pending());
        quic.read_from(read).unwrap();
        assert!(quic.is_handed_over() && woken.0.load(Ordering::SeqCst), "who waits looks at the other one");
        assert!(std::future::poll_fn(|cx| Poll::Ready(poll(cx).is_pending())).await);
        drop(write);
        tokio::select! {
            _ = std::future::poll_fn(&mut poll) => panic!("there is nothing to read"),
            () = quic.unread() => {}
        }
    }
}
