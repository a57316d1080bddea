//! A stored response: whom it answers, and when.

use std::sync::Arc;

use bytes::Bytes;

use crate::response::{is_tag_field, tags, varied};
use crate::{Asked, Came, Charge, Fields, Key, Millis, Stamp, Terms, value};

/// What an entry takes beside its bytes.
const OVERHEAD: usize = 512;
/// What a field takes beside its bytes.
const FIELD: usize = 32;

type Pair = (Box<[u8]>, Box<[u8]>);

/// A body, with the bytes that it takes of the cache.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) charge: Charge,
}

/// All of a response but its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) key: Key,
    pub(crate) status: u16,
    reason: Box<[u8]>,
    fields: Box<[Pair]>,
    /// What it varies by, and what that was in its request.
    varied: Box<[Pair]>,
    tags: Box<[Box<[u8]>]>,
    terms: Terms,
    asked_at: Millis,
    at: Millis,
    stamp: Stamp,
}

impl Head {
    pub(crate) fn new(
        key: Key,
        asked: &Asked<'_>,
        came: &Came<'_>,
        terms: Terms,
        stamp: Stamp,
    ) -> Option<Self> {
        let names = varied(came.fields)?;
        let is_kept = |name: &[u8]| !name.eq_ignore_ascii_case(b"age") && !is_tag_field(name);
        let kept = came.fields.iter().filter(|(name, _)| is_kept(name));
        let mut fields: Vec<Pair> = kept.map(|(name, value)| ((*name).into(), (*value).into())).collect();
        if value(came.fields, b"date").is_none() {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(came.at);
            fields.push((b"date"[..].into(), httpdate::fmt_http_date(time).into_bytes().into()));
        }
        Some(Self {
            key,
            status: came.status,
            reason: came.reason.into(),
            fields: fields.into(),
            varied: names
                .into_iter()
                .map(|name| {
                    let value = asked.varied(&name);
                    (name, value)
                })
                .collect(),
            tags: tags(came.fields)?,
            terms,
            asked_at: came.asked_at,
            at: came.at,
            stamp,
        })
    }

    /// The same with the tags of another one, if it has none itself.
    pub(crate) fn or_tags_of(mut self, other: &Self) -> Self {
        if self.tags.is_empty() {
            self.tags = other.tags.clone();
        }
        self
    }

    pub(crate) fn size(&self) -> usize {
        let pairs = self.fields.iter().chain(&self.varied);
        let pairs: usize = pairs.map(|(name, value)| name.len() + value.len() + FIELD).sum();
        let tags: usize = self.tags.iter().map(|tag| tag.len() + FIELD).sum();
        OVERHEAD + self.key.size() + pairs + tags
    }
}

/// A stored response.
#[derive(Debug)]
pub struct Stored {
    head: Head,
    charge: Charge,
    body: Arc<Body>,
}

/// Whether a stored response can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usable {
    /// As it is.
    Fresh,
    /// As it is, while a new one is fetched (RFC 5861 §3).
    WhileRevalidating,
    /// Once the node said that it still holds.
    Checked,
}

impl Stored {
    pub(crate) fn new(head: Head, charge: Charge, body: Arc<Body>) -> Self {
        Self { head, charge, body }
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    pub(crate) fn shared_body(&self) -> &Arc<Body> {
        &self.body
    }

    /// Bytes that it takes.
    pub(crate) fn size(&self) -> usize {
        self.charge.bytes() + self.body.charge.bytes()
    }

    pub(crate) fn asked_at(&self) -> Millis {
        self.head.asked_at
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.head.stamp
    }

    pub(crate) fn key(&self) -> &Key {
        &self.head.key
    }

    pub(crate) fn tags(&self) -> &[Box<[u8]>] {
        &self.head.tags
    }

    /// Whether it answers a request: what it varies by is the same (RFC 9111 §4.1), and the request shows nobody whom it is not for.
    #[must_use]
    pub fn is_for(&self, asked: &Asked<'_>) -> bool {
        let terms = &self.head.terms;
        (terms.is_for_authorized || !asked.is_authorized())
            && (terms.is_explicit || !asked.has_cookies())
            && self.head.varied.iter().all(|(name, value)| asked.varied(name) == *value)
    }

    /// Whether a response to the same request takes its place.
    pub(crate) fn is_replaced_by(&self, other: &Self) -> bool {
        self.head.varied == other.head.varied
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The reason phrase.
    #[must_use]
    pub fn reason(&self) -> &[u8] {
        &self.head.reason
    }

    /// Names and values of its fields, without `Age` and `Content-Length`.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.head.fields.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of the first field of a name.
    #[must_use]
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The whole body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body.bytes
    }

    /// Its age in seconds (RFC 9111 §4.2.3).
    #[must_use]
    pub fn age(&self, now: Millis) -> u64 {
        self.head.terms.age + now.saturating_sub(self.head.at) / 1_000
    }

    /// Seconds that it stays fresh.
    #[must_use]
    pub fn rest(&self, now: Millis) -> u64 {
        self.head.terms.lifetime.saturating_sub(self.age(now))
    }

    /// Whether it can answer a request now.
    #[must_use]
    pub fn usable(&self, asked: &Asked<'_>, now: Millis) -> Usable {
        let (terms, control, age) = (&self.head.terms, &asked.control, self.age(now));
        let is_refused = control.no_cache
            || control.max_age.is_some_and(|most| age > most)
            || control.min_fresh.is_some_and(|least| terms.lifetime < age.saturating_add(least));
        if terms.is_checked || is_refused {
            return Usable::Checked;
        }
        if age < terms.lifetime {
            return Usable::Fresh;
        }
        let stale = age - terms.lifetime;
        if !terms.is_strict && control.max_stale.is_some_and(|most| stale <= most) {
            return Usable::Fresh;
        }
        // With no time for it at all nothing is used at the very moment of its end.
        if stale < terms.while_revalidating { Usable::WhileRevalidating } else { Usable::Checked }
    }

    /// Whether it is never used before the node said that it holds for that very request.
    #[must_use]
    pub fn is_always_checked(&self) -> bool {
        let terms = &self.head.terms;
        terms.is_checked || (terms.lifetime == 0 && terms.while_revalidating == 0)
    }

    /// Whether it can answer while the site fails (RFC 5861 §4).
    #[must_use]
    pub fn usable_in_need(&self, now: Millis) -> bool {
        let age = self.age(now);
        !self.head.terms.is_checked && age < self.head.terms.lifetime.saturating_add(self.head.terms.if_error)
    }

    /// What a node is asked by whether it still holds (RFC 9111 §4.3.1).
    pub fn validators(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let of = |ask: &'static [u8], own: &[u8]| self.field(own).map(|value| (ask, value));
        [of(b"if-none-match", b"etag"), of(b"if-modified-since", b"last-modified")].into_iter().flatten()
    }

    /// Whether a 304 is about this (RFC 9111 §4.3.4).
    pub(crate) fn is_confirmed_by(&self, fields: &Fields<'_>) -> bool {
        let weak = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
        match (value(fields, b"etag"), self.field(b"etag")) {
            (Some(told), Some(own)) => weak(told) == weak(own),
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// Its fields with those of a 304 in their places (RFC 9111 §3.2). Those that say what the body is stay.
    pub(crate) fn merged<'a>(&'a self, fields: &Fields<'a>) -> Vec<(&'a [u8], &'a [u8])> {
        let is_of_the_body = |name: &[u8]| {
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            is(b"content-encoding") || is(b"content-type") || is(b"content-range") || is(b"content-length")
        };
        let updates = |name: &[u8]| !is_of_the_body(name) && value(fields, name).is_some();
        let kept = self.fields().filter(|(name, _)| !updates(name));
        kept.chain(fields.iter().filter(|(name, _)| !is_of_the_body(name)).copied()).collect()
    }
}
