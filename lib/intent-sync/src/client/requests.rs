//! Requests as they end, told to whoever watches a name at a controller (ADR 47).
//!
//! Someone who watches asks one controller, which has the sessions of some edges only. So an edge keeps a call open to each controller,
//! and nothing about watching is stored or travels between controllers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use hosting_proto::feed::{
    EndedRequests, NotWatched, RequestWatch, RequestsDown, RequestsHello, RequestsUp, requests_down,
    requests_up,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};

use super::{Link, Options};
use crate::dial::{chain_text, full_jitter};
use crate::identity::Identity;

/// Frames on their way to one controller; a watch waits when there are more.
const FRAMES_AHEAD: usize = 16;
/// Between two looks at which controllers there are.
const LOOK: Duration = Duration::from_secs(5);
/// Before a controller is asked again that has a call of this process already, or is too old to know of it.
const NOT_SOON: Duration = Duration::from_secs(60);

/// The role's part: it tells of requests.
pub trait RequestTeller: std::fmt::Debug + Send + Sync + 'static {
    /// Tells of the requests that are watched until the future is dropped. A future that ends has said why, with [`Telling::refuse`].
    fn tell_of(&self, watch: RequestWatch, telling: Telling) -> BoxFuture<'static, ()>;
}

/// To whom one watch is told.
#[derive(Debug, Clone)]
pub struct Telling {
    watch: u64,
    up: mpsc::Sender<RequestsUp>,
}

impl Telling {
    /// Tells of requests that ended; the watch is filled in. False: nobody hears any more.
    pub async fn say(&self, ended: EndedRequests) -> bool {
        let ended = EndedRequests { watch: self.watch, ..ended };
        self.send(requests_up::Frame::Ended(ended)).await
    }

    /// Says that nothing is told, or no more.
    pub async fn refuse(&self, reason: String) {
        self.send(requests_up::Frame::NotWatched(NotWatched { watch: self.watch, reason })).await;
    }

    async fn send(&self, frame: requests_up::Frame) -> bool {
        self.up.send(RequestsUp { frame: Some(frame) }).await.is_ok()
    }
}

/// Keeps the calls to the controllers open.
#[derive(Debug)]
pub struct RequestCalls {
    link: watch::Receiver<Option<Link>>,
    options: Options,
    audience: String,
    source: [u8; 16],
}

impl RequestCalls {
    pub(super) fn new(link: watch::Receiver<Option<Link>>, options: Options, audience: String) -> Self {
        Self { link, options, audience, source: rand::random() }
    }

    /// Keeps a call open to each controller until `stop`. Begins with the first session of the subscription.
    pub async fn run(mut self, teller: Arc<dyn RequestTeller>, stop: CancellationToken) {
        let mut calls: BTreeMap<String, AbortOnDropHandle<()>> = BTreeMap::new();
        let mut identity = None;
        loop {
            if let Some(link) = &*self.link.borrow_and_update() {
                identity = Some(link.identity.clone());
            }
            if let Some(identity) = &identity {
                let controllers = identity.controllers();
                calls.retain(|address, _| controllers.contains(address));
                for address in controllers {
                    calls.entry(address.clone()).or_insert_with(|| {
                        let call = Call {
                            identity: identity.clone(),
                            options: self.options.clone(),
                            address,
                            hello: RequestsHello {
                                audience: self.audience.clone(),
                                source: self.source.to_vec().into(),
                            },
                            teller: Arc::clone(&teller),
                        };
                        AbortOnDropHandle::new(tokio::spawn(call.keep()))
                    });
                }
            }
            tokio::select! {
                // An error: the subscription has ended, and so has the process soon.
                changed = self.link.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// The call to one controller.
struct Call {
    identity: Identity,
    options: Options,
    address: String,
    hello: RequestsHello,
    teller: Arc<dyn RequestTeller>,
}

impl Call {
    /// Makes the call again whenever it ends.
    async fn keep(self) {
        let (base, cap) = self.options.backoff;
        let mut failures = 0;
        loop {
            let ended = self.once(&mut failures).await;
            failures += 1;
            tracing::debug!(address = self.address, reason = %chain_text(&ended), "no call for watched requests");
            let wait = match ended.code() {
                Code::AlreadyExists | Code::Unimplemented | Code::PermissionDenied => NOT_SOON,
                _ => full_jitter(failures, base, cap),
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Why it ended.
    async fn once(&self, failures: &mut u32) -> Status {
        let channel = match self.identity.connect_beside(&self.address, self.options.keepalive).await {
            Ok(channel) => channel,
            Err(error) => return Status::unavailable(chain_text(&error)),
        };
        let (up, says) = mpsc::channel(FRAMES_AHEAD);
        let hello = requests_up::Frame::Hello(self.hello.clone());
        // There is room for the first one.
        let _ = up.try_send(RequestsUp { frame: Some(hello) });
        let mut client = IntentFeedClient::new(channel);
        let calling = client.tell_requests(ReceiverStream::new(says));
        match tokio::time::timeout(self.options.welcome_timeout, calling).await {
            Ok(Ok(answer)) => {
                *failures = 0;
                self.listen(answer.into_inner(), &up).await
            }
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("the controller does not answer"),
        }
    }

    async fn listen(&self, mut frames: Streaming<RequestsDown>, up: &mpsc::Sender<RequestsUp>) -> Status {
        let mut watches = JoinSet::new();
        let mut under_way = BTreeMap::new();
        loop {
            let frame = tokio::select! {
                frame = frames.message() => frame,
                // Its end is said already; this lets go of what it held.
                Some(_) = watches.join_next() => continue,
            };
            match frame {
                Ok(Some(RequestsDown { frame: Some(requests_down::Frame::Begin(watch)) })) => {
                    let (number, up) = (watch.watch, up.clone());
                    let task = watches.spawn(self.teller.tell_of(watch, Telling { watch: number, up }));
                    under_way.insert(number, task);
                }
                Ok(Some(RequestsDown { frame: Some(requests_down::Frame::End(watch)) })) => {
                    if let Some(task) = under_way.remove(&watch) {
                        task.abort();
                    }
                }
                // A frame of a later build.
                Ok(Some(RequestsDown { frame: None })) => {}
                Ok(None) => return Status::unavailable("the controller ended the call"),
                Err(status) => return status,
            }
        }
    }
}
