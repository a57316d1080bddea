//! Where a publisher reads from: the store's log and current rows.

use async_trait::async_trait;
use hosting_intent::{Audience, Digest, Item, Key, Removal};

/// A read failed; the session ends and the subscriber comes back.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// Where an audience stands, all of it from one consistent read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudienceHead {
    /// The store's epoch; another one means that positions cannot be compared.
    pub epoch: String,
    /// The cell's newest revision.
    pub head: u64,
    /// The audience's newest revision; 0 when it never had any.
    pub revision: u64,
    /// Highest revision whose log is compacted away; cursors below it need a snapshot. 0 when none is.
    pub floor: u64,
    /// Items at `revision`.
    pub count: u64,
    /// Over the items at `revision`.
    pub digest: Digest,
}

/// All of one revision's changes for one audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The audience's revision before this one; 0 for the first.
    pub prev: u64,
    /// This revision.
    pub revision: u64,
    /// Items set.
    pub upserts: Vec<Item>,
    /// Items withdrawn.
    pub removals: Vec<Removal>,
}

/// A stretch of the log with the head that it was read beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The audience at the time of the read.
    pub head: AudienceHead,
    /// Whole revisions, ascending, contiguous by `prev`; empty when nothing is newer.
    pub entries: Vec<LogEntry>,
}

/// Read access for publishers. Any replica of the controller serves any cursor from it.
#[async_trait]
pub trait FeedSource: Send + Sync {
    /// Where `audience` stands.
    async fn audience(&self, audience: &Audience) -> Result<AudienceHead, SourceError>;

    /// The log of `audience` after revision `after`: as many whole revisions as hold about `limit` changes, at least one
    /// if there is any. One consistent read. The caller checks `after` against `head.floor` of the answer.
    async fn window(&self, audience: &Audience, after: u64, limit: usize) -> Result<Window, SourceError>;

    /// Current items in key order (kind, name) after `after`, at most `limit`. Each call is its own read.
    async fn page(
        &self,
        audience: &Audience,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, SourceError>;

    /// Starts a new epoch if it is still `seen`: the store went back behind what it once sent.
    /// Does nothing if the epoch is no longer `seen`.
    async fn begin_epoch(&self, seen: &str) -> Result<(), SourceError>;
}
