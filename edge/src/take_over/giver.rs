//! The side of the process that runs: answers who wants to take over, and lets go.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hosting_intent_sync::client::Lending;
use hosting_scaffold::role::AdminPort;
use hosting_scaffold::tasks::Ending;
use hosting_scaffold::{BUILD, notify};
use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::protocol::{Given, Line, VERSION, Word, path};
use crate::listeners::{Handles, Place};
use crate::quic_socket::{QuicSocket, link};
use crate::server::LettingGo;

/// For a word that needs no work.
const ANSWER: Duration = Duration::from_secs(10);
/// Writing the ledger and leaving the controller.
const LEND: Duration = Duration::from_secs(30);
/// Loading a ledger of any size, and asking the controller.
const GET_READY: Duration = Duration::from_secs(600);
/// Beyond the drain, for the end of the process.
const END_MARGIN: Duration = Duration::from_secs(5);

/// What a process gives to the one that takes over.
#[derive(Debug)]
pub(crate) struct Giver {
    pub(crate) lending: Lending,
    pub(crate) handles: Handles,
    pub(crate) admin: Option<(Place, AdminPort)>,
    pub(crate) letting_go: LettingGo,
    pub(crate) ending: Ending,
    /// How long connections may go on afterwards.
    pub(crate) longest_drain: Duration,
    /// The process that this one took over from, and what is cancelled when that one has ended.
    pub(crate) before: Option<(u32, CancellationToken)>,
}

/// Listens where a new process asks. Only this user, and root, can open the socket.
///
/// # Errors
/// What the system says, for example that the path of the data folder is too long for a socket's name.
pub(crate) fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    let (path, draft) = (path(data_dir), data_dir.join(".take-over.sock.new"));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&draft)?;
    fs::set_permissions(&draft, Permissions::from_mode(0o600))?;
    // In place of the socket of the process before, which listens no more.
    fs::rename(&draft, &path)?;
    Ok(listener)
}

/// Whether a user may have the sockets, and with them all that visitors say.
const fn may_take_over(user: u32, own: u32) -> bool {
    user == own || user == 0
}

impl Giver {
    /// Answers until another process has taken over and the last connection here has ended, or until `stop`.
    pub(crate) async fn run(mut self, listener: UnixListener, stop: CancellationToken) {
        let admin = self.admin.take();
        let place = admin.as_ref().map(|(place, _)| *place);
        let socket = admin.as_ref().and_then(|(_, port)| port.socket.as_fd().try_clone_to_owned().ok());
        if let (Some(place), Some(socket)) = (place, socket) {
            self.handles.tcp.push((place, socket));
        }
        let (letting_go, ending) = (self.letting_go.clone(), self.ending.clone());
        let longest = self.longest_drain.saturating_add(END_MARGIN);
        let giver = Arc::new(self);
        // One at a time.
        let turn = Arc::new(Mutex::new(()));
        let mut conversations = JoinSet::new();
        let line = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok((stream, _)) = listener.accept() => {
                    conversations.spawn(Arc::clone(&giver).converse(stream, Arc::clone(&turn)));
                }
                Some(ended) = conversations.join_next() => match ended {
                    Ok(Ok(Some(line))) => break line,
                    Ok(Ok(None)) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "a take-over came to nothing; serving as before"),
                    Err(error) => tracing::error!(%error, "a take-over came to nothing; serving as before"),
                },
            }
        };
        drop((conversations, giver, listener));
        if let Some((_, port)) = admin {
            port.let_go();
        }
        ending.begin(longest);
        letting_go.drained().await;
        // Closed, it tells the new process that this one has ended.
        drop(line);
    }

    /// Talks to a process. With its line when that one has everything.
    async fn converse(self: Arc<Self>, stream: UnixStream, turn: Arc<Mutex<()>>) -> io::Result<Option<Line>> {
        let mut line = Line::new(stream);
        let user = line.user()?;
        if !may_take_over(user, geteuid().as_raw()) {
            return Err(io::Error::other(format!("user {user} may not take over")));
        }
        match line.hear(ANSWER).await? {
            Some(Word::Hello { version: VERSION, .. }) => {}
            Some(Word::Hello { version, build }) => {
                let why = format!(
                    "the edge that runs (build {BUILD}) hands over by version {VERSION}, this one (build {build}) takes over by {version}; stop that one and start this one instead"
                );
                line.say(&Word::Refused { why }, &[]).await?;
                return Ok(None);
            }
            _ => return Ok(None),
        }
        let (places, build) = (self.handles.places(), BUILD.to_owned());
        line.say(&Word::Running { version: VERSION, pid: std::process::id(), build, places }, &[]).await?;
        // Who only wanted to know says nothing more.
        let Some(Word::LendFeed) = line.hear(ANSWER).await? else { return Ok(None) };
        if let Some(why) = self.refusal() {
            line.say(&Word::Refused { why }, &[]).await?;
            return Ok(None);
        }
        let Ok(_turn) = turn.try_lock() else {
            let why = "another process is taking over just now; see its log".to_owned();
            line.say(&Word::Refused { why }, &[]).await?;
            return Ok(None);
        };
        let lent = tokio::time::timeout(LEND, self.lending.lend()).await;
        let lent = lent.unwrap_or_else(|_| Err(format!("it did not let go of the feed within {LEND:?}")));
        if let Err(why) = lent {
            self.lending.take_back();
            line.say(&Word::Refused { why }, &[]).await?;
            return Ok(None);
        }
        let given = self.give(&mut line).await;
        if given.is_err() {
            self.lending.take_back();
        }
        given.map(|()| Some(line))
    }

    fn refusal(&self) -> Option<String> {
        let (before, ended) = self.before.as_ref()?;
        (!ended.is_cancelled()).then(|| {
            format!(
                "process {before}, from which the edge that runs took over, still has connections; wait for its end, or cut them with `kill {before}`"
            )
        })
    }

    /// From the feed, which is lent, to the sockets. After an error nothing has changed here.
    async fn give(&self, line: &mut Line) -> io::Result<()> {
        let gone = || io::Error::other("the new process ended before it served");
        line.say(&Word::FeedLent, &[]).await?;
        let wanted = match line.hear(GET_READY).await? {
            Some(Word::GiveSockets { places }) => places,
            Some(_) => return Err(io::Error::other("the new process says what it should not say now")),
            None => return Err(gone()),
        };
        let mut links: Vec<(&Arc<QuicSocket>, OwnedFd, OwnedFd)> = Vec::new();
        for (_, socket) in self.handles.udp.iter().filter(|(place, _)| wanted.contains(place)) {
            let (write, read) = link()?;
            links.push((socket, write, read));
        }
        let mut given = Vec::new();
        let mut sockets: Vec<BorrowedFd<'_>> = Vec::new();
        for (place, socket) in self.handles.tcp.iter().filter(|(place, _)| wanted.contains(place)) {
            given.push(Given { place: *place, tag: None });
            sockets.push(socket.as_fd());
        }
        let udp = self.handles.udp.iter().filter(|(place, _)| wanted.contains(place));
        for ((place, socket), (_, write, _)) in udp.zip(&links) {
            given.push(Given { place: *place, tag: Some(socket.tag()) });
            sockets.extend([socket.handle(), write.as_fd()]);
        }
        line.say(&Word::Sockets { given }, &sockets).await?;
        match line.hear(ANSWER).await? {
            Some(Word::Serving) => {}
            Some(_) => return Err(io::Error::other("the new process says what it should not say now")),
            None => return Err(gone()),
        }
        // From here on it is the other one's.
        for (socket, _, read) in links {
            if let Err(error) = socket.read_from(read) {
                tracing::error!(%error, "HTTP/3 connections of this process are lost");
            }
        }
        self.letting_go.begin().await;
        let process = line.process();
        tracing::info!(?process, longest = ?self.longest_drain, "another process has taken over; draining");
        if let Some(process) = process {
            notify::tell(&format!("MAINPID={process}"));
        }
        let connections = self.letting_go.connections();
        if let Err(error) = line.say(&Word::Yours { connections }, &[]).await {
            tracing::error!(%error, "the process that took over is gone; start the edge anew");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_may_take_over() {
        assert!(may_take_over(33, 33) && may_take_over(0, 33));
        assert!(!may_take_over(34, 33) && !may_take_over(34, 0));
    }

    #[tokio::test]
    async fn the_socket_is_private_and_takes_the_place_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let first = listen(dir.path()).unwrap();
        let second = listen(dir.path()).unwrap();
        let mode = fs::metadata(path(dir.path())).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode, fs::read_dir(dir.path()).unwrap().count()), (0o600, 1));
        let _client = UnixStream::connect(path(dir.path())).await.unwrap();
        tokio::select! {
            biased;
            accepted = second.accept() => drop(accepted.unwrap()),
            _ = first.accept() => panic!("the one before listens no more"),
        }
    }
}
