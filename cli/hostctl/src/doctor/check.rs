//! What a check is, what it may read, and what it can find.
//!
//! Owns the bounds: a check reads through a [`View`] alone, which counts what was read and reads nothing twice.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use hosting_resource::{Kind, KindInfo};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};

use super::probe::Probe;
use crate::{
    api::{Api, ApiError},
    kinds::collection,
};

/// Items of a page, as many as the API gives at once.
const PAGE: usize = 200;
/// Requests under way at a time.
const AT_ONCE: usize = 6;
/// Regions, and clusters of all of them, whose shards and nodes are read.
const MOST_PLACES: usize = 20;
/// The newest tenants that are looked into: what lies in tenants has no list of the whole platform.
const NEWEST_TENANTS: usize = 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Warn,
    Fail,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub severity: Severity,
    /// One sentence.
    pub what: String,
    /// The command to go on with.
    pub next: String,
    /// The page below `docs/runbooks` to go on with; empty: none.
    pub runbook: &'static str,
}

impl Finding {
    pub(super) fn warn(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { severity: Severity::Warn, what: what.into(), next: next.into(), runbook: "" }
    }

    pub(super) fn fail(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { severity: Severity::Fail, ..Self::warn(what, next) }
    }

    pub(super) fn with(self, runbook: &'static str) -> Self {
        Self { runbook, ..self }
    }
}

/// What a check saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// What is well, in a few words, for when nothing was found.
    pub good: String,
    pub findings: Vec<Finding>,
}

impl Seen {
    pub(super) fn new(good: impl Into<String>, findings: Vec<Finding>) -> Self {
        Self { good: good.into(), findings }
    }
}

/// Why a check could not look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The key opens nothing.
    NoKey(String),
    /// The key may not see it.
    NotAllowed(String),
    /// This API does not have it.
    NotServed(String),
    /// It was asked for and did not come.
    Failed(String),
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        let words = error.to_string();
        match error {
            ApiError::Answer { status: 401, .. } => Self::NoKey(words),
            ApiError::Answer { status: 403, .. } => Self::NotAllowed(words),
            ApiError::Answer { status: 404 | 501, .. } => Self::NotServed(words),
            ApiError::Answer { .. }
            | ApiError::NoSuch(_)
            | ApiError::Unreachable { .. }
            | ApiError::Stranger { .. } => Self::Failed(words),
        }
    }
}

pub(super) type Look<'v> = Pin<Box<dyn Future<Output = Result<Seen, Trouble>> + Send + 'v>>;

/// One thing that is looked at. A new check is a struct in the file of its group, and its name in that file's list.
pub(super) trait Check: Sync {
    fn name(&self) -> &'static str;

    /// Looks at it. What cannot be looked at is an error, never a good report.
    fn look<'v>(&'v self, view: &'v View) -> Look<'v>;
}

/// Answers that are there already, by path.
type Known = Mutex<BTreeMap<String, Arc<OnceCell<Result<Value, Trouble>>>>>;

/// What all checks share.
pub(super) struct Shared {
    pub api: Api,
    pub probe: Probe,
    known: Known,
    seats: Semaphore,
}

impl Shared {
    pub(super) fn new(api: Api, probe: Probe) -> Self {
        Self { api, probe, known: Mutex::default(), seats: Semaphore::new(AT_ONCE) }
    }
}

/// What one check reads.
pub(super) struct View {
    pub shared: Arc<Shared>,
    pub now: Timestamp,
    /// How many requests each list took, and whether it has more than was read.
    read: Mutex<BTreeMap<&'static str, (usize, bool)>>,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub items: Vec<Value>,
    /// How many the whole list has, where that was asked for.
    pub total: Option<u64>,
    pub has_more: bool,
}

impl Page {
    /// How many there are, as words: `3`, or `200+` where the list goes on.
    pub(super) fn count(&self) -> String {
        match self.total {
            Some(total) => total.to_string(),
            None => format!("{}{}", self.items.len(), if self.has_more { "+" } else { "" }),
        }
    }
}

/// Clusters, and what lies in them.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    pub clusters: Vec<Value>,
    pub shards: Vec<Value>,
    pub nodes: Vec<Value>,
}

impl View {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, now: Timestamp::now(), read: Mutex::default() }
    }

    /// What was read, for people: `/jobs (1), /zones (1+)`.
    pub(super) fn looked_at(&self) -> String {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let words = read.iter().map(|(list, (count, more))| match more {
            true => format!("{list} ({count}+)"),
            false => format!("{list} ({count})"),
        });
        words.collect::<Vec<_>>().join(", ")
    }

    pub(super) fn note(&self, list: &'static str, has_more: bool) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = read.entry(list).or_default();
        *entry = (entry.0 + 1, entry.1 || has_more);
    }

    /// One answer of the API; `list` is what it is called in the report. What another check read already is not asked for again.
    pub(super) async fn get(&self, list: &'static str, path: &str) -> Result<Value, Trouble> {
        let cell = {
            let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(path.to_owned()).or_default())
        };
        let answer = cell.get_or_init(|| self.ask(path)).await.clone()?;
        self.note(list, answer["has_more"] == true);
        Ok(answer)
    }

    /// As [`View::get`], asked for anew.
    pub(super) async fn again(&self, list: &'static str, path: &str) -> Result<Value, Trouble> {
        let answer = self.ask(path).await?;
        self.note(list, answer["has_more"] == true);
        Ok(answer)
    }

    async fn ask(&self, path: &str) -> Result<Value, Trouble> {
        let _seat = self.shared.seats.acquire().await;
        Ok(self.shared.api.get(path).await?)
    }

    /// The first page of a list.
    pub(super) async fn page(&self, list: &'static str, query: &str) -> Result<Page, Trouble> {
        self.page_of(list, list, query).await
    }

    async fn page_of(&self, list: &'static str, path: &str, query: &str) -> Result<Page, Trouble> {
        let join = if query.contains("limit=") { String::new() } else { format!("&limit={PAGE}") };
        let query = format!("{query}{join}");
        let answer = self.get(list, &format!("{path}?{}", query.trim_start_matches('&'))).await?;
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        Ok(Page { items, total: answer["total"].as_u64(), has_more: answer["has_more"] == true })
    }

    /// All subscribers: the API has them in memory and gives them at once.
    pub(super) async fn subscribers(&self) -> Result<Vec<Value>, Trouble> {
        let answer = self.get("/subscribers", "/subscribers").await?;
        Ok(answer["items"].as_array().cloned().unwrap_or_default())
    }

    /// The first clusters of the first regions, with a page of shards and of nodes each.
    pub(super) async fn places(&self) -> Result<Places, Trouble> {
        let mut places = Places::default();
        let regions = self.page("/regions", &format!("limit={MOST_PLACES}")).await?;
        for region in ids(&regions.items) {
            let left = MOST_PLACES.saturating_sub(places.clusters.len());
            if left == 0 {
                break;
            }
            let path = below(Kind::Cluster.info(), region);
            let page = self.page_of("/regions/*/clusters", &path, &format!("limit={left}")).await?;
            places.clusters.extend(page.items);
        }
        for cluster in ids(&places.clusters) {
            let shards = self.page_of("/clusters/*/shards", &below(Kind::Shard.info(), cluster), "").await?;
            let nodes = self.page_of("/clusters/*/nodes", &below(Kind::Node.info(), cluster), "").await?;
            places.shards.extend(shards.items);
            places.nodes.extend(nodes.items);
        }
        Ok(places)
    }

    /// The newest tenants, each with how many resources of each kind it has in each status.
    pub(super) async fn newest_tenants(&self) -> Result<Vec<(Value, Value)>, Trouble> {
        let page = self.page("/tenants", &format!("limit={NEWEST_TENANTS}")).await?;
        let mut found = Vec::new();
        for tenant in page.items {
            let id = text(&tenant, "id");
            let path = format!("/tenants/{}/resource-summary", crate::api::encode(id));
            match self.get("/tenants/*/resource-summary", &path).await {
                Ok(summary) => found.push((tenant, summary)),
                // It was deleted since the list was read.
                Err(Trouble::NotServed(_)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(found)
    }

    /// A time of an answer, as how long ago it was in seconds; negative for what is to come.
    pub(super) fn seconds_since(&self, time: &Value) -> Option<i64> {
        let then = time.as_str()?.parse::<Timestamp>().ok()?;
        Some(self.now.duration_since(then).as_secs())
    }
}

fn below(info: &KindInfo, parent: &str) -> String {
    // With a parent there always is one.
    collection(info, Some(parent)).unwrap_or_default()
}

pub(super) fn ids(items: &[Value]) -> impl Iterator<Item = &str> {
    items.iter().filter_map(|one| one["id"].as_str())
}

/// A field as text; empty where it has none.
pub(super) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// What is in a list of an answer.
pub(super) fn items<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// What a person would call a resource.
pub(super) fn called(one: &Value) -> &str {
    crate::kinds::label_of(one).unwrap_or_else(|| text(one, "id"))
}
