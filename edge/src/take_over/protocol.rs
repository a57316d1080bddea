//! The words, one line of JSON each, and the sockets that come with them (`SCM_RIGHTS`).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::listeners::Place;
use crate::quic_socket::Tag;

/// Of the words. It moves when a process with another one could not be taken over from.
pub(super) const VERSION: u32 = 1;
/// Sockets that can go with one word; the kernel's limit.
pub(super) const MOST_SOCKETS: usize = 253;
/// Bytes of a word.
const LONGEST: usize = 256 * 1_024;
const READ: usize = 4 * 1_024;

/// Where the running edge with this data folder can be asked.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("take-over.sock")
}

/// What the two processes say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    Hello { version: u32, build: String },
    Running { version: u32, pid: u32, build: String, places: Vec<Place> },
    Refused { why: String },
    LendFeed,
    FeedLent,
    GiveSockets { places: Vec<Place> },
    Sockets { given: Vec<Given> },
    Serving,
    Yours { connections: usize },
}

/// A socket that comes with the word; with one for HTTP/3, behind it, that to which packets of the giver go.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) place: Place,
    pub(super) tag: Option<Tag>,
}

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    heard: Vec<u8>,
    sockets: VecDeque<OwnedFd>,
}

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, heard: Vec::new(), sockets: VecDeque::new() }
    }

    /// # Errors
    /// The other end is gone, or there are more sockets than can go with a word.
    pub(super) async fn say(&self, word: &Word, mut sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(word)?;
        bytes.push(b'\n');
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_io(Interest::WRITABLE, || self.send(rest, sockets)) {
                Ok(sent) => (rest, sockets) = (rest.get(sent..).unwrap_or_default(), &[]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !with.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::other(format!("more than {MOST_SOCKETS} sockets")));
        }
        Ok(sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut with, SendFlags::NOSIGNAL)?)
    }

    /// The next word within `limit`; `None`: the other end is gone.
    ///
    /// # Errors
    /// It took too long, or what came is no word.
    pub(super) async fn hear(&mut self, limit: Duration) -> io::Result<Option<Word>> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("it said nothing for {limit:?}"));
        tokio::time::timeout(limit, self.hear_word()).await.map_err(|_| late())?
    }

    async fn hear_word(&mut self) -> io::Result<Option<Word>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.heard) {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.heard.len() > LONGEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "what came is too long"));
            }
            self.stream.readable().await?;
            let mut bytes = [0; READ];
            let mut sockets = Vec::new();
            match self.stream.try_io(Interest::READABLE, || receive(&self.stream, &mut bytes, &mut sockets)) {
                Ok(0) => return Ok(None),
                Ok(length) => self.heard.extend_from_slice(bytes.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.sockets.extend(sockets);
        }
    }

    /// The next of the sockets that came with words.
    pub(super) fn socket(&mut self) -> Option<OwnedFd> {
        self.sockets.pop_front()
    }

    /// The user id of the other end.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn user(&self) -> io::Result<u32> {
        Ok(self.stream.peer_cred()?.uid())
    }

    /// The process at the other end.
    pub(super) fn process(&self) -> Option<i32> {
        self.stream.peer_cred().ok()?.pid()
    }
}

fn receive(stream: &UnixStream, bytes: &mut [u8], sockets: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut with, RecvFlags::CMSG_CLOEXEC)?;
    for part in with.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = part {
            sockets.extend(came);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "sockets were lost on the way: no file handles left; raise LimitNOFILE of the service",
        ));
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn pair() -> (Line, Line) {
        let (one, other) = UnixStream::pair().unwrap();
        (Line::new(one), Line::new(other))
    }

    #[tokio::test]
    async fn sockets_come_with_their_word_and_in_order() {
        let (old, mut new) = pair();
        let sockets: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        old.say(&Word::FeedLent, &[]).await.unwrap();
        old.say(&Word::Sockets { given: Vec::new() }, &borrowed).await.unwrap();
        assert!(matches!(new.hear(SOON).await.unwrap(), Some(Word::FeedLent)));
        assert!(matches!(new.hear(SOON).await.unwrap(), Some(Word::Sockets { .. })));
        for socket in &sockets {
            let came = std::net::TcpListener::from(new.socket().unwrap());
            assert_eq!(came.local_addr().unwrap(), socket.local_addr().unwrap());
        }
        assert!(new.socket().is_none());
        drop(old);
        assert!(new.hear(SOON).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn who_says_nothing_or_nonsense_is_not_listened_to() {
        let (old, mut new) = pair();
        assert_eq!(new.hear(Duration::from_millis(20)).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        old.stream.try_write(b"GET / HTTP/1.1\r\n").unwrap();
        assert!(new.hear(SOON).await.is_err());
        let (old, mut new) = pair();
        let flood = tokio::spawn(async move {
            let long = vec![b'x'; LONGEST];
            while old.stream.writable().await.is_ok() {
                if old.stream.try_write(&long).is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
                    return;
                }
            }
        });
        assert_eq!(new.hear(SOON).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(new);
        flood.await.unwrap();
    }
}
