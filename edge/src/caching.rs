//! Requests for names whose policy has a cache: answered from it, or passed on once for all who ask for the same.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hosting_edge_cache::{
    Asked, Found, Joined, Key, Landed, Lead, Purges, Reply, Store, Stored, Usable, page,
};
use hosting_edge_http1::{AnswerHead, FieldKind, Framing, Request, RequestHead, lists_token};
use hosting_edge_map::{Host, Leads, Policies, Routing, Tenant, parse_host};
use hosting_intent::message::CachePolicy;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::course::{Course, Serving};
use crate::exchange::{Client, ClientError, Failure};
use crate::nobody::Nobody;
use crate::pages::Page;
use crate::passing::{Passed, Passing};
use crate::settings::Settings;
use crate::turn::{CACHE_STATUS, Change, Fetch, Received, Turn, now};
use crate::visitor::Visitor;

/// How long a request waits for another one's answer before it goes itself.
const WAIT: Duration = Duration::from_secs(5);
/// How long after its head the end of a request may come that has no body.
const LATE_END: Duration = Duration::from_secs(1);
/// Pages that are fetched anew at once while they are used stale.
const REFRESHES: usize = 256;

/// What a 304 has of a response's fields (RFC 9110 §15.4.5), and what tells its age.
const OF_NOT_MODIFIED: [&[u8]; 7] =
    [b"cache-control", b"content-location", b"date", b"etag", b"expires", b"last-modified", b"vary"];

/// The cache and what it needs.
#[derive(Debug)]
pub(crate) struct Caching {
    store: Arc<Store>,
    routing: Arc<Routing>,
    passing: Arc<Passing>,
    refreshes: Arc<Semaphore>,
}

/// A request that the cache may answer, with what it needs to know.
struct Question<'q> {
    request: &'q Request,
    asked: Asked<'q>,
    key: Key,
    policy: &'q CachePolicy,
    tenant: &'q Arc<Tenant>,
}

impl Caching {
    /// `None`: there is no cache.
    pub(crate) fn new(
        settings: &Settings,
        routing: &Arc<Routing>,
        passing: &Arc<Passing>,
    ) -> Option<Arc<Self>> {
        if settings.cache_bytes == 0 {
            return None;
        }
        let store = Store::new(settings.cache_bytes, settings.cache_tenant_percent);
        let shown = Arc::clone(&store);
        passing.metrics().cache.sizes.show(move || shown.sizes());
        Some(Arc::new(Self {
            store,
            routing: Arc::clone(routing),
            passing: Arc::clone(passing),
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
        }))
    }

    /// Answers a request of a name with this policy, whatever becomes of it, and returns the answer's code.
    pub(crate) async fn serve<C: Client>(
        self: &Arc<Self>,
        client: &mut C,
        request: &Request,
        visitor: &Visitor,
        serving: &mut Serving,
        course: &mut Course,
    ) -> u16 {
        let (policies, tenant) = (course.policies.clone(), course.tenant.clone());
        let Some((policy, tenant)) = policies.cache().zip(tenant.as_ref()) else {
            return self.passing.pass_on(client, request, visitor, serving, course, None).await;
        };
        let is_bodyless = request.is_bodyless() || is_bodyless(client, request).await;
        let question = question(request, visitor, serving, &policies, policy, tenant);
        let code = match question.filter(|_| is_bodyless) {
            Some(question) => self.answer(client, &question, visitor, serving, course).await,
            None => {
                course.cache = "bypass";
                let mut turn = if matches!(request.head().method(), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE")
                {
                    Turn::bypass(request, "edge; fwd=bypass")
                } else {
                    let path = page(request.path(), policy);
                    let key = key(tenant, serving, visitor, &path);
                    Turn::change(request, Change { store: &self.store, tenant: tenant.id(), key })
                };
                self.passing.pass_on(client, request, visitor, serving, course, Some(&mut turn)).await
            }
        };
        self.passing.metrics().cache.count(course.cache);
        code
    }

    async fn answer<C: Client>(
        self: &Arc<Self>,
        client: &mut C,
        question: &Question<'_>,
        visitor: &Visitor,
        serving: &mut Serving,
        course: &mut Course,
    ) -> u16 {
        let Question { request, asked, key, .. } = question;
        let deadline = Instant::now() + WAIT;
        let mut may_wait = true;
        loop {
            let mut stale = None;
            match self.find(question) {
                Found::Stored(stored) => match stored.usable(asked, now()) {
                    Usable::Fresh => {
                        return self.hit(client, question, serving, course, &stored, "hit").await;
                    }
                    Usable::WhileRevalidating => {
                        self.refresh(question, visitor, &stored);
                        return self.hit(client, question, serving, course, &stored, "stale").await;
                    }
                    Usable::Checked => {
                        // Nobody gets what another one was told, so nobody waits for it.
                        may_wait &= !stored.is_always_checked();
                        stale = Some(stored);
                    }
                },
                Found::Unshared => return self.pass(client, request, visitor, serving, course).await,
                Found::Nothing => {}
            }
            if asked.only_if_stored() {
                course.cache = "miss";
                return self.passing.answering().page(client, Page::NotStored, Some(request), course).await;
            }
            if asked.is_head() || asked.is_for_a_part() {
                return self.pass(client, request, visitor, serving, course).await;
            }
            let mut lead = None;
            if may_wait {
                match self.store.flights().join(key) {
                    Joined::Lead(first) => {
                        // The one before may have landed since.
                        if let Some(stored) = self.fresh(question) {
                            return self.hit(client, question, serving, course, &stored, "hit").await;
                        }
                        lead = Some(first);
                    }
                    Joined::Follow(follow) => match timeout_at(deadline, follow.landed()).await {
                        Ok(Landed::Stored(stored))
                            if is_for(&stored, question)
                                && stored.usable(asked, now()) != Usable::Checked =>
                        {
                            return self.hit(client, question, serving, course, &stored, "hit").await;
                        }
                        Ok(Landed::InNeed(stored)) if is_for(&stored, question) => {
                            return self.hit(client, question, serving, course, &stored, "stale").await;
                        }
                        Ok(Landed::Left) => continue,
                        Ok(Landed::Stored(_) | Landed::InNeed(_) | Landed::Unshared) | Err(_) => {
                            may_wait = false;
                            continue;
                        }
                    },
                }
            }
            return self.fetch(client, question, visitor, serving, course, stale, lead).await;
        }
    }

    fn find(&self, question: &Question<'_>) -> Found {
        self.store.find(&question.key, &question.asked, &purges(question.tenant), now())
    }

    /// What can be used as it is.
    fn fresh(&self, question: &Question<'_>) -> Option<Arc<Stored>> {
        match self.find(question) {
            Found::Stored(stored) => {
                Some(stored).filter(|stored| stored.usable(&question.asked, now()) == Usable::Fresh)
            }
            Found::Unshared | Found::Nothing => None,
        }
    }

    /// Passes a request on as it is.
    async fn pass<C: Client>(
        &self,
        client: &mut C,
        request: &Request,
        visitor: &Visitor,
        serving: &mut Serving,
        course: &mut Course,
    ) -> u16 {
        course.cache = "miss";
        let mut turn = Turn::bypass(request, "edge; fwd=miss");
        self.passing.pass_on(client, request, visitor, serving, course, Some(&mut turn)).await
    }

    /// Asks a node for what may be stored. `stale`: whether it still holds; `lead`: others wait.
    #[allow(clippy::too_many_arguments, reason = "the state of one request")]
    async fn fetch<C: Client>(
        &self,
        client: &mut C,
        question: &Question<'_>,
        visitor: &Visitor,
        serving: &mut Serving,
        course: &mut Course,
        mut stale: Option<Arc<Stored>>,
        mut lead: Option<Lead>,
    ) -> u16 {
        let Question { request, asked, key, policy, tenant } = question;
        loop {
            let Some(upstream) = upstream(request, asked, stale.as_deref()) else {
                return self.pass(client, request, visitor, serving, course).await;
            };
            course.cache = "miss";
            let fetch = Fetch {
                store: &self.store,
                tenant: tenant.id(),
                key,
                asked,
                policy,
                stale: stale.clone(),
                lead: lead.take(),
                stamp: purges(tenant).stamp(),
                at: now(),
            };
            let mut turn = Turn::fetch(request, fetch);
            let mut begun = None;
            let exchange = self.passing.exchange(
                client,
                &upstream,
                visitor,
                serving,
                course,
                &mut begun,
                Some(&mut turn),
            );
            let failure = match exchange.await {
                Ok(Passed::Answered(code)) => return code,
                Ok(Passed::Decided(Received::Confirmed(stored))) => {
                    return self.hit(client, question, serving, course, &stored, "revalidated").await;
                }
                Ok(Passed::Decided(Received::InNeed(stored))) => {
                    return self.hit(client, question, serving, course, &stored, "stale").await;
                }
                Ok(Passed::Decided(Received::Again)) if stale.is_some() => {
                    stale = None;
                    lead = turn.take_lead();
                    continue;
                }
                Ok(Passed::Decided(Received::Again | Received::Passed | Received::Kept(_))) => {
                    Failure::Closed
                }
                Err(failure) => failure,
            };
            let is_gone = matches!(failure, Failure::Client(ClientError::Gone));
            let in_need = stale.filter(|stale| begun.is_none() && !is_gone && stale.usable_in_need(now()));
            if let Some(lead) = turn.take_lead().filter(|_| !is_gone) {
                lead.land(in_need.clone().map_or(Landed::Unshared, Landed::InNeed));
            }
            return match in_need {
                Some(stored) => self.hit(client, question, serving, course, &stored, "stale").await,
                None => self.passing.fail(client, failure, begun, request, course).await,
            };
        }
    }

    /// Answers with what is stored. `how`: for the log.
    async fn hit<C: Client>(
        &self,
        client: &mut C,
        question: &Question<'_>,
        serving: &Serving,
        course: &mut Course,
        stored: &Arc<Stored>,
        how: &'static str,
    ) -> u16 {
        course.cache = how;
        let at = now();
        let (age, whole) = (stored.age(at).to_string(), stored.body().len());
        let status = match how {
            "hit" => format!("edge; hit; ttl={}", stored.rest(at)),
            "revalidated" => "edge; fwd=stale; fwd-status=304".to_owned(),
            _ => "edge; hit; ttl=-1".to_owned(),
        };
        let mut head = AnswerHead {
            status: stored.status(),
            reason: stored.reason(),
            fields: stored.fields().collect(),
            length: Some(whole as u64).filter(|_| stored.status() != 204),
            has_body: !question.asked.is_head() && whole > 0,
        };
        let (mut body, range) = (&stored.body()[..], Self::content_range(&question.asked, stored));
        match stored.reply(&question.asked) {
            Reply::Whole => {}
            Reply::NotModified => {
                (head.status, head.reason, head.length, head.has_body) = (304, b"Not Modified", None, false);
                let is_told =
                    |name: &[u8]| OF_NOT_MODIFIED.iter().any(|told| name.eq_ignore_ascii_case(told));
                head.fields.retain(|(name, _)| is_told(name));
            }
            Reply::Part(part) => {
                (head.status, head.reason, head.length) = (206, b"Partial Content", Some(part.len() as u64));
                body = body.get(part).unwrap_or_default();
            }
            Reply::NoPart => {
                (head.status, head.reason, head.length) = (416, b"Range Not Satisfiable", Some(0));
                (head.has_body, body) = (false, &[]);
            }
        }
        head.fields.extend(range.as_deref().map(|range| (&b"content-range"[..], range.as_bytes())));
        head.fields.extend([(&b"age"[..], age.as_bytes()), (CACHE_STATUS, status.as_bytes())]);
        self.passing.send(client, question.request, serving, course, head, body).await
    }

    /// The value of `Content-Range`, if there is one.
    fn content_range(asked: &Asked<'_>, stored: &Stored) -> Option<String> {
        let whole = stored.body().len();
        match stored.reply(asked) {
            Reply::Part(part) => Some(format!("bytes {}-{}/{whole}", part.start, part.end.saturating_sub(1))),
            Reply::NoPart => Some(format!("bytes */{whole}")),
            Reply::Whole | Reply::NotModified => None,
        }
    }

    /// Fetches a page anew that is used stale meanwhile, unless somebody does already.
    fn refresh(self: &Arc<Self>, question: &Question<'_>, visitor: &Visitor, stale: &Arc<Stored>) {
        let Ok(place) = Arc::clone(&self.refreshes).try_acquire_owned() else { return };
        let Joined::Lead(lead) = self.store.flights().join(&question.key) else { return };
        let (caching, request) = (Arc::clone(self), question.request.clone());
        let (visitor, stale) = (visitor.clone(), Arc::clone(stale));
        tokio::spawn(async move {
            let _place = place;
            caching.refetch(&request, &visitor, stale, lead).await;
        });
    }

    async fn refetch(&self, request: &Request, visitor: &Visitor, stale: Arc<Stored>, lead: Lead) {
        let Ok(Host::Name(name)) = parse_host(request.authority()) else { return };
        // What held when the client was answered may hold no more.
        let Some(found) = self.routing.resolve(&name) else { return };
        let Leads::Site(target) = found.leads else { return };
        let mut serving = Serving::new(target, visitor, &name, request.authority());
        let (policies, tenant) = (found.policies, found.tenant);
        let Some(policy) = policies.cache() else { return };
        let Some(question) = question(request, visitor, &serving, &policies, policy, &tenant) else { return };
        // Who asked before may have had it fetched since it was found stale.
        if let Some(fresh) = self.fresh(&question) {
            return lead.land(Landed::Stored(fresh));
        }
        let mut course = Course {
            tenant: Some(Arc::clone(&tenant)),
            policies: policies.clone(),
            tls: visitor.tls,
            ..Course::default()
        };
        let mut nobody = Nobody::new();
        let fetch =
            self.fetch(&mut nobody, &question, visitor, &mut serving, &mut course, Some(stale), Some(lead));
        Box::pin(fetch).await;
    }
}

fn purges(tenant: &Tenant) -> Purges {
    let (life, last) = tenant.purges();
    Purges::new(life, last)
}

/// Whether what another request was answered with is for this one too.
fn is_for(stored: &Stored, question: &Question<'_>) -> bool {
    stored.is_for(&question.asked) && Store::is_alive(stored, &purges(question.tenant))
}

fn key(tenant: &Tenant, serving: &Serving, visitor: &Visitor, path: &[u8]) -> Key {
    Key::new(tenant.id(), &serving.webroot, visitor.tls, serving.forwarded.host(), path)
}

/// Whether a request has no body that did not say so with its head.
async fn is_bodyless<C: Client>(client: &mut C, request: &Request) -> bool {
    if !matches!(request.head().method(), b"GET" | b"HEAD") || request.body() != Framing::Chunked {
        return false;
    }
    let deadline = Instant::now() + LATE_END;
    poll_fn(|cx| match client.poll_bodyless(cx) {
        Poll::Ready(is_bodyless) => Poll::Ready(is_bodyless),
        Poll::Pending => client.timer().poll_until(cx, deadline).map(|()| false),
    })
    .await
}

/// `None`: the request is none of the cache's business.
fn question<'q>(
    request: &'q Request,
    visitor: &Visitor,
    serving: &Serving,
    policies: &Policies,
    policy: &'q CachePolicy,
    tenant: &'q Arc<Tenant>,
) -> Option<Question<'q>> {
    if request.upgrade().is_some() {
        return None;
    }
    let head = request.head();
    let nominated: Vec<&[u8]> = head
        .fields()
        .filter(|(name, _)| FieldKind::of(name) == FieldKind::Connection)
        .map(|(_, value)| value)
        .collect();
    // What belongs to the connection does not reach the node, so nothing can depend on it.
    let fields = head.fields().filter(|(name, _)| {
        matches!(FieldKind::of(name), FieldKind::Other | FieldKind::Cookie)
            && !nominated.iter().any(|list| lists_token(list, name))
    });
    let asked = Asked::new(head.method(), request.path(), fields, policy, policies.compresses())?;
    let key = key(tenant, serving, visitor, asked.path());
    Some(Question { request, asked, key, policy, tenant })
}

/// The request that a node gets: that of the key, whatever else the client said. `None`: it cannot be written, which none that was read can.
fn upstream(request: &Request, asked: &Asked<'_>, stale: Option<&Stored>) -> Option<Request> {
    let mut head = bytes::BytesMut::with_capacity(request.head().size() + 128);
    for part in [b"GET ", asked.path(), b" HTTP/1.1\r\nhost: ", request.authority(), b"\r\n"] {
        head.extend_from_slice(part);
    }
    for (name, value) in asked.forwarded().chain(stale.into_iter().flat_map(Stored::validators)) {
        for part in [name, b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    Request::new(RequestHead::parse(head.freeze()).ok()?).ok()
}
