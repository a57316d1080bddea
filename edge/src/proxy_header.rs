//! The PROXY protocol of balancers in front (versions 1 and 2): whose connection it is.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Largest header: that of version 2 with its addresses and some kilobytes of extensions, which are not looked at.
const MAX: usize = 4_096;

/// How version 1 begins, and its largest header with the line end.
const VERSION_1: &[u8] = b"PROXY ";
const MAX_1: usize = 107;

/// What a process of this machine sends when it speaks for itself: version 2, `LOCAL`, nothing else.
pub(crate) const LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Reads the header, and nothing behind it. The address is the peer's where the header names none: health checks of a balancer, and
/// protocols that it does not know.
pub(crate) async fn read(tcp: &mut TcpStream, peer: SocketAddr) -> io::Result<IpAddr> {
    let mut header = Vec::new();
    loop {
        // Bytes are taken out of the socket only when they are known to be the header's.
        let mut ahead = [0; 512];
        let count = tcp.peek(&mut ahead).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = header.len();
        header.extend_from_slice(ahead.get(..count).unwrap_or_default());
        let found = look(&header, peer)?;
        let length = found.map_or(header.len(), |(length, _)| length);
        header.truncate(length);
        if length > MAX {
            return Err(bad("the header is too large".to_owned()));
        }
        tcp.read_exact(header.get_mut(taken..).unwrap_or_default()).await?;
        if let Some((_, client)) = found {
            return Ok(client);
        }
    }
}

/// How many bytes the header at the beginning has, and whose connection it is; `None`: its end is not there.
pub(crate) fn look(bytes: &[u8], peer: SocketAddr) -> io::Result<Option<(usize, IpAddr)>> {
    let begin = bytes.get(..VERSION_1.len()).unwrap_or(bytes);
    if VERSION_1.starts_with(begin) && bytes.len() < MAX_1 && !bytes.windows(2).any(|two| two == b"\r\n") {
        // A part of a line may look like a line that is none.
        return Ok(None);
    }
    let parsed = HeaderResult::parse(bytes);
    if parsed.is_incomplete() {
        return if begin == VERSION_1 {
            Err(bad("the header breaks off in its line".to_owned()))
        } else {
            Ok(None)
        };
    }
    let (length, client) = match parsed {
        HeaderResult::V1(Ok(found)) => (found.header.len(), version1(&found.addresses, peer)),
        HeaderResult::V2(Ok(found)) => (found.len(), version2(&found, peer)),
        HeaderResult::V1(Err(error)) => return Err(bad(error.to_string())),
        HeaderResult::V2(Err(error)) => return Err(bad(error.to_string())),
    };
    Ok(Some((length, client.to_canonical())))
}

fn bad(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

fn version1(addresses: &v1::Addresses, peer: SocketAddr) -> IpAddr {
    match addresses {
        v1::Addresses::Tcp4(pair) => pair.source_address.into(),
        v1::Addresses::Tcp6(pair) => pair.source_address.into(),
        v1::Addresses::Unknown => peer.ip(),
    }
}

fn version2(header: &v2::Header<'_>, peer: SocketAddr) -> IpAddr {
    match (&header.command, &header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(pair)) => pair.source_address.into(),
        (v2::Command::Proxy, v2::Addresses::IPv6(pair)) => pair.source_address.into(),
        (v2::Command::Local, _) | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => peer.ip(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// Whose a connection is that begins with these pieces, and what is behind the header.
    async fn whose(pieces: &[&[u8]]) -> io::Result<(String, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut client = TcpStream::connect(listener.local_addr()?).await?;
        client.set_nodelay(true)?;
        let (mut server, peer) = listener.accept().await?;
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let sending = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            client.shutdown().await
        });
        let address = read(&mut server, peer).await?;
        sending.await??;
        let mut rest = String::new();
        server.read_to_string(&mut rest).await?;
        Ok((address.to_string(), rest))
    }

    fn v2_of(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = LOCAL[..12].to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    #[test]
    fn a_header_that_is_not_all_there_is_waited_for() {
        let peer = "127.0.0.1:1".parse().unwrap();
        for header in [
            &b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n"[..],
            b"PROXY TCP6 2001:db8::5 ::1 4711 80\r\n",
            &LOCAL,
        ] {
            for end in 0..header.len() {
                assert!(matches!(look(&header[..end], peer), Ok(None)), "{}", header[..end].escape_ascii());
            }
            assert!(matches!(look(header, peer), Ok(Some((length, _))) if length == header.len()));
        }
        // What cannot become one is not waited for.
        for none in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY\r\n",
            b"PROXY TCP4 x\r\n",
            &[&b"PROXY "[..], &[b'x'; 101]].concat(),
        ] {
            assert!(look(none, peer).is_err(), "{}", none.escape_ascii());
        }
    }

    #[tokio::test]
    async fn the_header_says_whose_connection_it_is_and_what_is_behind_it_stays() {
        let v4 = v2_of(1, 0x11, &[192, 0, 2, 7, 127, 0, 0, 1, 0, 80, 1, 187]);
        let mut addresses = [0; 36];
        addresses[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        addresses[15] = 5;
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 9]);
        let large = v2_of(
            1,
            0x11,
            &[&[192, 0, 2, 7, 127, 0, 0, 1, 0, 80, 1, 187][..], &[4, 3, 232], &[0; 1_000]].concat(),
        );
        for (header, address) in [
            (b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n".to_vec(), "192.0.2.7"),
            (b"PROXY TCP6 2001:db8::5 ::1 4711 80\r\n".to_vec(), "2001:db8::5"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
            (v4, "192.0.2.7"),
            (v2_of(1, 0x21, &addresses), "2001:db8::5"),
            (v2_of(1, 0x21, &mapped), "192.0.2.9"),
            (v2_of(0, 0x11, &[192, 0, 2, 7, 127, 0, 0, 1, 0, 80, 1, 187]), "127.0.0.1"),
            (LOCAL.to_vec(), "127.0.0.1"),
            (large, "192.0.2.7"),
        ] {
            let expected = (address.to_owned(), "GET / HTTP/1.1".to_owned());
            let whole = [&header[..], b"GET / HTTP/1.1"].concat();
            assert_eq!(whose(&[&whole]).await.unwrap(), expected);
            for at in [1, 6, 12, header.len() - 1] {
                let pieces = [&header[..at], &header[at..], b"GET / HTTP/1.1"];
                assert_eq!(whose(&pieces).await.unwrap(), expected, "cut at {at}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 5_000]].concat();
        let huge = v2_of(1, 0x11, &[0; 60_000]);
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80",
            b"\r\n\r\n\0\r\nQUIT\n\x30\0\0\0",
            b"",
            &endless,
            &huge,
        ] {
            assert!(
                whose(&[bytes]).await.is_err(),
                "{:?}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
            );
        }
    }
}
