//! The side of the new process: finds the one that runs, and takes its feed and its sockets.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hosting_scaffold::BUILD;
use tokio::net::UnixStream;

use super::protocol::{Given, Line, VERSION, Word, path};
use crate::listeners::Place;
use crate::quic_socket::Before;

/// For a word that needs no work of the process that runs, and for one that does: it writes its ledger, and ends what it is at.
const ANSWER: Duration = Duration::from_secs(10);
const WORK: Duration = Duration::from_secs(60);

/// Nothing was taken over; the process that runs goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeOverError {
    #[error("{}: {source}; the edge that runs goes on", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the edge that runs (process {pid}) goes on: {why}")]
    Refused { pid: u32, why: String },
}

/// The conversation with the process that runs.
#[derive(Debug)]
pub(crate) struct Taker {
    line: Line,
    path: PathBuf,
    /// The other process.
    pub(crate) pid: u32,
    pub(crate) build: String,
    /// Its sockets.
    pub(crate) places: Vec<Place>,
}

/// A socket that was the other process's.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) place: Place,
    pub(crate) socket: OwnedFd,
    pub(crate) before: Option<Before>,
}

impl Taker {
    /// The edge that runs with this data folder; `None`: there is none that serves.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(crate) async fn find(data_dir: &Path) -> Result<Option<Self>, TakeOverError> {
        let path = path(data_dir);
        let failed = |source| TakeOverError::Io { path: path.clone(), source };
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            // The one that served here last is gone.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let mut line = Line::new(stream);
        let hello = Word::Hello { version: VERSION, build: BUILD.to_owned() };
        line.say(&hello, &[]).await.map_err(failed)?;
        match line.hear(ANSWER).await.map_err(failed)? {
            Some(Word::Running { pid, build, places, .. }) => {
                Ok(Some(Self { line, path, pid, build, places }))
            }
            Some(Word::Refused { why }) => {
                let pid = line.process().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
                Err(TakeOverError::Refused { pid, why })
            }
            Some(_) => Err(failed(io::Error::other("it answers what was not asked"))),
            // It ended, or let go of its sockets, in this moment.
            None => Ok(None),
        }
    }

    /// Has the process that runs let go of identity and ledger.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) async fn take_feed(&mut self) -> Result<(), TakeOverError> {
        match self.ask(&Word::LendFeed).await? {
            Word::FeedLent => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// The sockets at these of its places. It still accepts at them.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn take_sockets(&mut self, places: Vec<Place>) -> Result<Vec<Taken>, TakeOverError> {
        let wanted = places.len();
        let Word::Sockets { given } = self.ask(&Word::GiveSockets { places }).await? else {
            return Err(self.unexpected());
        };
        if given.len() != wanted {
            return Err(self.unexpected());
        }
        given.into_iter().map(|given| self.take(given)).collect()
    }

    fn take(&mut self, Given { place, tag }: Given) -> Result<Taken, TakeOverError> {
        let socket = self.line.socket().ok_or_else(|| self.unexpected())?;
        let before = match tag {
            Some(tag) => Some(Before::new(tag, self.line.socket().ok_or_else(|| self.unexpected())?)),
            None => None,
        };
        Ok(Taken { place, socket, before })
    }

    /// Says that everything is in place, after which the other process accepts no more: this one must. How many connections the
    /// other one still has.
    ///
    /// # Errors
    /// The other one is gone, or does not let go.
    pub(crate) async fn serve(&mut self) -> Result<usize, TakeOverError> {
        match self.ask(&Word::Serving).await? {
            Word::Yours { connections } => Ok(connections),
            _ => Err(self.unexpected()),
        }
    }

    /// Ends when the other process has ended, or has no connections any more.
    pub(crate) async fn ended(mut self) {
        while !matches!(self.line.hear(Duration::MAX).await, Ok(None) | Err(_)) {}
    }

    async fn ask(&mut self, word: &Word) -> Result<Word, TakeOverError> {
        self.line.say(word, &[]).await.map_err(|source| self.failed(source))?;
        match self.line.hear(WORK).await.map_err(|source| self.failed(source))? {
            Some(Word::Refused { why }) => Err(TakeOverError::Refused { pid: self.pid, why }),
            Some(word) => Ok(word),
            None => Err(self.failed(io::Error::other("the edge that ran ended in this moment; start again"))),
        }
    }

    fn unexpected(&self) -> TakeOverError {
        self.failed(io::Error::other("it answers what was not asked"))
    }

    fn failed(&self, source: io::Error) -> TakeOverError {
        TakeOverError::Io { path: self.path.clone(), source }
    }
}
