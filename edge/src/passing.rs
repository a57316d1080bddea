//! Requests passed on to nodes, and what comes back.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hosting_edge_http1::{AnswerHead, Request, ResponseHead, push_upstream_head};
use hosting_edge_map::{Candidate, MAX_TRIES};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::answering::Answering;
use crate::compress::{Coding, Encoder, Plan};
use crate::course::{
    ALT_SVC, Course, EDGE_MAP, ORIGINAL_HOST, REQUEST, SHARD, STRICT_TRANSPORT_SECURITY, Serving,
};
use crate::exchange::{Client, ClientError, Exchange, Failure, Times, finish, send_all};
use crate::metrics::{Counted, Metrics};
use crate::node_keys::{EDGE_KEY, NodeKeys};
use crate::nodes::Nodes;
use crate::pages::Page;
use crate::settings::{Settings, ms};
use crate::trace::Asking;
use crate::turn::{CACHE_STATUS, Received, Turn};
use crate::upstream::{Mark, Marks, Serves};
use crate::visitor::Visitor;

/// Idle connections to one node that a request may find closed, or with an answer that is not its own, before it makes one.
const MAX_STALE: u8 = 3;
/// Nodes that a request may be sent to when the first one closed without an answer.
const MAX_SENT: usize = 2;
/// Bytes of an answer that are compressed, or sent, at once.
const PIECE: usize = 32 * 1_024;

/// What passing requests on needs.
#[derive(Debug)]
pub(crate) struct Passing {
    metrics: Metrics,
    times: Times,
    upgrade_idle: Duration,
    nodes: Nodes,
    marks: Marks,
    keys: Arc<NodeKeys>,
    /// Answers that may be compressed at once.
    compressions: Arc<Semaphore>,
}

/// How a request that was passed on ended.
#[derive(Debug)]
pub(crate) enum Passed {
    /// The client has the node's answer, which had this code.
    Answered(u16),
    /// The client has nothing yet: the cache decides what it gets.
    Decided(Received),
}

/// By whom a request was answered, and what the client is told besides.
struct Served<'a> {
    candidate: Candidate,
    /// The value of `Strict-Transport-Security`.
    hsts: Option<&'a [u8]>,
    /// Where the request went.
    map: Option<&'a str>,
    /// The answer may be compressed.
    compresses: bool,
    /// The answer showed the request's mark.
    is_marked: bool,
}

impl Passing {
    pub(crate) fn new(keys: Arc<NodeKeys>, metrics: Metrics, settings: &Settings) -> Self {
        Self {
            times: Times {
                body: ms(settings.body_timeout_ms),
                node: ms(settings.upstream_timeout_ms),
                client: ms(settings.write_timeout_ms),
            },
            upgrade_idle: ms(settings.upgrade_idle_timeout_ms),
            nodes: Nodes::new(settings, metrics.clone()),
            marks: Marks::default(),
            keys,
            compressions: Arc::new(Semaphore::new(settings.max_compressions.min(Semaphore::MAX_PERMITS))),
            metrics,
        }
    }

    /// The nodes, as requests see them.
    pub(crate) const fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Answers of the edge's own.
    pub(crate) const fn answering(&self) -> Answering<'_> {
        Answering { limit: self.times.client, marks: &self.marks }
    }

    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Passes a request on, whatever becomes of it, and returns the answer's code.
    pub(crate) async fn pass_on<C: Client>(
        &self,
        client: &mut C,
        request: &Request,
        visitor: &Visitor,
        serving: &mut Serving,
        course: &mut Course,
        turn: Option<&mut Turn<'_>>,
    ) -> u16 {
        let mut begun = None;
        match self.exchange(client, request, visitor, serving, course, &mut begun, turn).await {
            Ok(Passed::Answered(code)) => code,
            Ok(Passed::Decided(_)) => self.fail(client, Failure::Closed, begun, request, course).await,
            Err(failure) => self.fail(client, failure, begun, request, course).await,
        }
    }

    /// Tells the client of a failure, unless it has seen the beginning of an answer.
    pub(crate) async fn fail<C: Client>(
        &self,
        client: &mut C,
        failure: Failure,
        begun: Option<u16>,
        request: &Request,
        course: &mut Course,
    ) -> u16 {
        tracing::debug!(%failure, "request failed");
        if let Some(code) = begun {
            return code;
        }
        let page = match failure {
            Failure::Client(ClientError::Gone) => return 0,
            Failure::Client(ClientError::Slow) => Page::RequestTimeout,
            Failure::Client(ClientError::Malformed) => Page::BadRequest,
            Failure::Client(ClientError::TooLarge) => Page::BodyTooLarge,
            Failure::Timeout => Page::GatewayTimeout,
            Failure::Busy => {
                self.metrics.busy.inc();
                Page::Busy
            }
            Failure::Closed | Failure::Answer(_) | Failure::Truncated => Page::BadGateway,
        };
        self.answering().page(client, page, Some(request), course).await
    }

    /// Passes the request to a node. `begun` is the code of an answer that the client has seen the beginning of.
    #[allow(clippy::too_many_arguments, reason = "the state of one request")]
    pub(crate) async fn exchange<C: Client>(
        &self,
        client: &mut C,
        request: &Request,
        visitor: &Visitor,
        serving: &mut Serving,
        course: &mut Course,
        begun: &mut Option<u16>,
        turn: Option<&mut Turn<'_>>,
    ) -> Result<Passed, Failure> {
        let upgrade = request.upgrade().filter(|protocol| {
            serving.may_upgrade && client.can_upgrade() && protocol.eq_ignore_ascii_case(b"websocket")
        });
        // Only what can be repeated without harm takes a connection that the node may be closing just now, and goes out again.
        let repeatable = request.is_idempotent() && request.is_bodyless() && upgrade.is_none();
        // What is asked a second time goes to the same node.
        let (mut stale, mut sent, mut again) = (0, 0, course.candidate.take());
        let tenant = course.tenant.as_ref();
        let _of_tenant = match tenant {
            Some(tenant) => Some(tenant.begin(serving.tenant_requests).ok_or(Failure::Busy)?),
            None => None,
        };
        serving.candidates.pool().earn();
        // What the client is told when there is no node left to ask.
        let mut unconnected = Failure::Closed;
        loop {
            let Some(candidate) = again.take().or_else(|| serving.candidates.next(self.nodes.now())) else {
                return Err(unconnected);
            };
            let _at_node = self.nodes.place(&serving.candidates, candidate).await?;
            let asked = Instant::now();
            let idle = if repeatable && stale < MAX_STALE {
                self.nodes.idle().take(&serving.webroot, candidate.address, asked)
            } else {
                None
            };
            let reused = idle.is_some();
            let (tcp, must_show) = match idle {
                Some(idle) => idle,
                None => match self.nodes.connect(&serving.candidates, candidate).await {
                    Ok(tcp) => (tcp, false),
                    Err(error) => {
                        let is_timeout = error.kind() == io::ErrorKind::TimedOut;
                        unconnected = if is_timeout { Failure::Timeout } else { Failure::Closed };
                        if serving.candidates.tries() >= MAX_TRIES || !serving.candidates.pool().may_retry() {
                            return Err(unconnected);
                        }
                        self.metrics.retries.inc();
                        continue;
                    }
                },
            };
            sent += usize::from(!reused);
            let mark = self.marks.next();
            course.mark = Some(mark);
            let mut asking = course.trace.as_mut().map(|trace| trace.ask(request, candidate.address));
            let head = self.upstream_head(
                request,
                visitor,
                serving,
                candidate,
                upgrade.is_some(),
                mark,
                asking.as_ref(),
            );
            course.candidate = Some(candidate);
            let map = course.map(Some(serving));
            let most = course.policies.max_body();
            let passed = &mut course.passed;
            let mut exchange = Exchange::new(client, request, passed, tcp, head, self.times, most);
            let mut answer = exchange.ask().await.map(|response| (shows(&response, mark), response));
            if must_show && matches!(answer, Ok((false, _))) {
                self.metrics.foreign_answers.inc();
                tracing::warn!(address = %candidate.address, "a node's answer is not that of the request; its connection is closed");
                answer = Err(Failure::Closed);
            }
            if let Some(asking) = &mut asking {
                match &answer {
                    Ok((_, response)) => asking.answered(response.status()),
                    Err(failure) => asking.failed(failure),
                }
            }
            let (is_marked, response) = match answer {
                Ok(answer) => answer,
                // The node had closed an idle connection, or somebody spoiled it: it is well, take another one to it.
                Err(Failure::Closed) if reused => {
                    stale += 1;
                    again = Some(candidate);
                    self.metrics.retries.inc();
                    continue;
                }
                Err(failure @ (Failure::Closed | Failure::Timeout)) => {
                    self.nodes.left_unanswered(&serving.candidates, candidate, tenant);
                    let is_closed = matches!(failure, Failure::Closed);
                    let may_go_on = repeatable && sent < MAX_SENT && serving.candidates.tries() < MAX_TRIES;
                    if is_closed && may_go_on && serving.candidates.pool().may_retry() {
                        self.metrics.retries.inc();
                        continue;
                    }
                    return Err(failure);
                }
                Err(failure) => return Err(failure),
            };
            let took = asked.elapsed();
            self.nodes.answered(&serving.candidates, candidate, asked + took);
            course.upstream = Some(took);
            self.metrics.upstream.observe(took);
            let hsts = course.policies.hsts().filter(|_| visitor.tls).map(str::as_bytes);
            let served = Served {
                candidate,
                is_marked,
                hsts,
                map: map.as_deref(),
                compresses: course.policies.compresses(),
            };
            let answered =
                self.answer(exchange, request, &response, upgrade, serving, served, begun, turn).await;
            if let (Some(asking), Err(failure)) = (&mut asking, &answered) {
                asking.failed(failure);
            }
            return answered;
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what a node is told")]
    fn upstream_head(
        &self,
        request: &Request,
        visitor: &Visitor,
        serving: &Serving,
        candidate: Candidate,
        upgrade: bool,
        mark: Mark,
        asking: Option<&Asking>,
    ) -> BytesMut {
        let key = serving.candidates.node(candidate).and_then(|node| self.keys.value(&node.id));
        let forwarded = &serving.forwarded;
        let ours: [(&[u8], &[u8]); 8] = [
            (EDGE_KEY.as_bytes(), key.as_deref().unwrap_or_default().as_bytes()),
            (REQUEST.as_bytes(), mark.as_bytes()),
            (ORIGINAL_HOST.as_bytes(), forwarded.host()),
            (b"x-forwarded-host", forwarded.host()),
            (b"x-forwarded-proto", if visitor.tls { b"https" } else { b"http" }),
            (b"x-forwarded-for", visitor.address.as_bytes()),
            (b"x-real-ip", visitor.address.as_bytes()),
            (b"forwarded", &forwarded.value),
        ];
        let known = if key.is_some() { &ours[..] } else { ours.get(1..).unwrap_or_default() };
        let mut traced = Vec::new();
        let known = match asking {
            None => known,
            Some(asking) => {
                traced.extend(asking.fields().chain(known.iter().copied()));
                &traced
            }
        };
        let mut head = BytesMut::with_capacity(2 * 1_024);
        push_upstream_head(&mut head, request, serving.webroot.as_bytes(), known, upgrade);
        head
    }

    /// What compresses an answer as planned, and the plan, which is another one when there is no room.
    fn planned(&self, mut plan: Option<Plan>) -> (Option<Plan>, Option<Encoder>) {
        let mut encoder = None;
        if let Some(plan) = &mut plan {
            encoder = plan.coding.and_then(|coding| self.encoder(coding));
            plan.coding = plan.coding.filter(|_| encoder.is_some());
        }
        (plan, encoder)
    }

    /// What compresses an answer, if there is room for one more.
    fn encoder(&self, coding: Coding) -> Option<Encoder> {
        let place = Arc::clone(&self.compressions).try_acquire_owned().ok();
        let encoder = place.and_then(|place| Encoder::new(coding, place));
        let counter = if encoder.is_some() { &self.metrics.compressed } else { &self.metrics.not_compressed };
        counter.inc();
        encoder
    }

    #[allow(clippy::too_many_arguments, reason = "the state of one request, used once")]
    async fn answer<C: Client>(
        &self,
        mut exchange: Exchange<'_, C>,
        request: &Request,
        response: &ResponseHead,
        upgrade: Option<&[u8]>,
        serving: &Serving,
        served: Served<'_>,
        begun: &mut Option<u16>,
        mut turn: Option<&mut Turn<'_>>,
    ) -> Result<Passed, Failure> {
        let mut answered = response
            .answer(request.is_head(), upgrade)
            .map_err(|error| Failure::Answer(error.to_string()))?;
        let shard = serving.candidates.pool().name().as_bytes();
        // Where else the host is to be had is not the site's to say: it would send visitors past the edge.
        let ours = [SHARD, REQUEST, ALT_SVC, EDGE_MAP].map(str::as_bytes);
        answered.head.fields.retain(|(name, _)| !ours.iter().any(|ours| name.eq_ignore_ascii_case(ours)));
        let mut asked_by = request;
        if let Some(turn) = turn.as_deref_mut() {
            match turn.received(&mut answered.head, answered.body) {
                Received::Passed => {}
                Received::Kept(filling) => exchange.keep(filling),
                decided => {
                    let clean = exchange.clean(answered.body, answered.keeps_connection);
                    self.put_back(clean, serving, &served);
                    return Ok(Passed::Decided(decided));
                }
            }
            asked_by = turn.client();
        }
        add_ours(&mut answered.head, shard, served.hsts, serving.alt_svc.as_deref());
        let status = turn.map(|turn| turn.status());
        answered.head.fields.extend(status.map(|status| (CACHE_STATUS, status.as_bytes())));
        let may_compress = served.compresses && !answered.upgraded;
        let plan = if may_compress { Plan::of(&answered.head, asked_by) } else { None };
        let (plan, encoder) = self.planned(plan);
        encoder.into_iter().for_each(|encoder| exchange.compress(encoder));
        if let Some(plan) = &plan {
            plan.apply(&mut answered.head);
        }
        answered.head.fields.extend(served.map.map(|map| (EDGE_MAP.as_bytes(), map.as_bytes())));
        let code = answered.head.status;
        exchange.client().start(&answered.head)?;
        *begun = Some(code);
        if answered.upgraded {
            let _counted = Counted::new(&self.metrics.upgraded);
            exchange.tunnel(self.upgrade_idle).await?;
        } else {
            let clean = exchange.answer(answered.body, answered.keeps_connection).await?;
            self.put_back(clean, serving, &served);
        }
        Ok(Passed::Answered(code))
    }

    /// Keeps a clean connection for the next request.
    fn put_back(&self, clean: Option<TcpStream>, serving: &Serving, served: &Served<'_>) {
        let Some(clean) = clean else { return };
        let serves =
            if served.is_marked { Serves::All } else { Serves::Webroot(Arc::clone(&serving.webroot)) };
        self.nodes.idle().put(serves, served.candidate.address, clean);
    }

    /// Sends an answer that is in memory whole, and returns its code. `head` is without what the edge says itself.
    pub(crate) async fn send<C: Client>(
        &self,
        client: &mut C,
        request: &Request,
        serving: &Serving,
        course: &mut Course,
        mut head: AnswerHead<'_>,
        body: &[u8],
    ) -> u16 {
        let shard = serving.candidates.pool().name().as_bytes().to_vec();
        let hsts = course.hsts().map(<[u8]>::to_vec);
        let map = course.map(Some(serving));
        add_ours(&mut head, &shard, hsts.as_deref(), serving.alt_svc.as_deref());
        let plan = if course.policies.compresses() { Plan::of(&head, request) } else { None };
        let (plan, mut encoder) = self.planned(plan);
        if let Some(plan) = &plan {
            plan.apply(&mut head);
        }
        head.fields.extend(map.as_deref().map(|map| (EDGE_MAP.as_bytes(), map.as_bytes())));
        let code = head.status;
        let body = if head.has_body { body } else { &[] };
        let sent = async {
            client.start(&head)?;
            for piece in body.chunks(PIECE) {
                match &mut encoder {
                    None => {
                        send_all(client, piece, self.times.client).await?;
                        course.passed.sends(piece.len());
                    }
                    Some(encoder) => {
                        encoder.write(piece);
                        let sent = self.send_ready(client, encoder).await?;
                        course.passed.sends(sent);
                    }
                }
            }
            let mut is_whole = true;
            if let Some(encoder) = &mut encoder {
                is_whole = encoder.finish();
                let sent = self.send_ready(client, encoder).await?;
                course.passed.sends(sent);
            }
            client.end(is_whole)?;
            Ok::<_, ClientError>(())
        };
        match sent.await {
            Ok(()) => finish(client, self.times.client).await,
            // What the client has is not the whole; it may be gone, and then nobody is told.
            Err(_) => drop(client.end(false)),
        }
        code
    }

    async fn send_ready<C: Client>(
        &self,
        client: &mut C,
        encoder: &mut Encoder,
    ) -> Result<usize, ClientError> {
        let ready = encoder.ready().len();
        send_all(client, encoder.ready(), self.times.client).await?;
        encoder.took(ready);
        Ok(ready)
    }
}

/// Adds what the edge says with every answer of a site.
fn add_ours<'a>(
    head: &mut AnswerHead<'a>,
    shard: &'a [u8],
    hsts: Option<&'a [u8]>,
    alt_svc: Option<&'a str>,
) {
    head.fields.push((SHARD.as_bytes(), shard));
    if let Some(hsts) = hsts {
        // Of two, browsers would go by the first (RFC 6797 §8.1).
        head.fields.retain(|(name, _)| !name.eq_ignore_ascii_case(STRICT_TRANSPORT_SECURITY));
        head.fields.push((STRICT_TRANSPORT_SECURITY, hsts));
    }
    head.fields.extend(alt_svc.map(|alt_svc| (ALT_SVC.as_bytes(), alt_svc.as_bytes())));
}

/// Whether a response is proven to be that of the request with this mark.
fn shows(response: &ResponseHead, mark: Mark) -> bool {
    response.field(REQUEST.as_bytes()).is_some_and(|shown| shown == mark.as_bytes())
}
