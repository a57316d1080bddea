//! Query parameters: what each route takes, declared once. They are checked like bodies; OpenAPI shows the same declaration.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use hosting_planner::is_restorable;
use hosting_resource::{Column, Kind, Status};
use hosting_store::{JobState, Sort};
use percent_encoding::percent_decode_str;

use crate::route::Op;
use crate::{ApiError, view_fields};

/// `?wait=` until machines serve it.
pub(crate) const SERVED: &str = "served";

/// Longest query in bytes; a cursor is the longest that anybody has to send.
const MAX_QUERY: usize = 16 * 1024;
/// Longest value in bytes, decoded.
const MAX_VALUE: usize = 4 * 1024;
/// Items of a page when nothing is said, and at most.
const PAGE: (u32, u32) = (50, 200);
/// Results of a search per type when nothing is said, and at most.
const FOUND: (u32, u32) = (5, 20);
/// What `search` means in lists.
const SEARCH: &str = "Only those whose name or id contains this, letter case aside; an id that is a UUID is found by how it begins. Each \
     page looks at a bounded number of rows: it may have fewer items than its limit, even none, while has_more is true.";
/// The parameter that asks for a plan in the place of the change.
pub(crate) const DRY_RUN: &str = "dry_run";
/// The parameter that confirms a large change.
pub(crate) const CONFIRM: &str = "confirm";
/// The parameter by which a deletion is not kept, and one that is ends.
pub(crate) const NOW: &str = "now";
/// The parameter that asks for all of a bulk or nothing of it.
pub(crate) const ATOMIC: &str = "atomic";
/// What the audit log can be filtered by: HTTP methods, and the rows that stand for many refusals.
const ACTIONS: &[&str] = &["POST", "PUT", "PATCH", "DELETE", crate::audit::REFUSALS];

/// The parameter that asks for some fields in the place of all.
pub(crate) const FIELDS: &str = "fields";
/// The parameter that says what a watcher has heard of.
pub(crate) const SINCE: &str = "since";
/// The parameter that asks how long a list is.
pub(crate) const COUNT: &str = "count";

/// What a parameter's value may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takes {
    /// A text that is not empty.
    Text,
    /// A text that may be empty.
    AnyText,
    /// Some of these names, with commas between.
    Names(Vec<String>),
    /// One of these words.
    Word(Vec<&'static str>),
    /// As [`Takes::Word`], whatever the letter case.
    Caseless(&'static [&'static str]),
    /// A whole number from 1; a larger one than `most` counts as `most`.
    Count {
        /// When the parameter is absent.
        default: u32,
        /// The largest that has an effect.
        most: u32,
    },
    /// A revision: a whole number.
    Revision,
    /// A whole number.
    Whole,
    /// Seconds from 1, as a whole number; an `s` may follow.
    Seconds,
    /// A time as in RFC 3339, or a date: its first moment, UTC.
    Time,
}

/// A parameter of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// As it stands in the query.
    pub name: &'static str,
    /// What its value may be.
    pub takes: Takes,
    /// One sentence for the reference.
    pub about: String,
}

pub(crate) fn param(name: &'static str, takes: Takes, about: impl Into<String>) -> Param {
    Param { name, takes, about: about.into() }
}

fn order(default: &str) -> Param {
    param("order", Takes::Word(vec!["asc", "desc"]), format!("The direction, {default} when absent."))
}

fn fields(kind: Kind) -> Param {
    param(
        FIELDS,
        Takes::Names(view_fields::names(kind)),
        "Only these fields, with commas between, and the id. What an answer has none of is absent.",
    )
}

pub(crate) fn limit() -> Param {
    param(
        "limit",
        Takes::Count { default: PAGE.0, most: PAGE.1 },
        format!("Items of a page: 1 to {}, default {}.", PAGE.1, PAGE.0),
    )
}

pub(crate) fn cursor() -> Param {
    param("cursor", Takes::Text, "The next_cursor of the page before.")
}

/// What the audit log takes.
pub(crate) fn of_audit_logs() -> Vec<Param> {
    vec![
        limit(),
        cursor(),
        param(
            "search",
            Takes::Text,
            "Only rows whose resource type or method contains this. With several conditions a page looks at a bounded number of rows: it may \
             have fewer items than its limit, even none, while has_more is true.",
        ),
        param("resource_type", Takes::Text, "Only rows of this type, e.g. webroots."),
        param("resource_id", Takes::Text, "Only rows of this resource."),
        param("action", Takes::Caseless(ACTIONS), "Only rows of this HTTP method."),
        param("date_from", Takes::Time, "Only rows from this time on."),
        param("date_to", Takes::Time, "Only rows from before this time."),
        param(
            "sort",
            Takes::Word(vec!["created_at", "method", "resource_type"]),
            "What the list is sorted by.",
        ),
        order("desc"),
    ]
}

/// What the search takes.
pub(crate) fn of_search() -> Vec<Param> {
    vec![
        param(
            "q",
            Takes::AnyText,
            "Part of a name or an id, or the beginning of a UUID; without it nothing is found. A text of few characters that few \
             contain is found where a word begins with it.",
        ),
        param(
            "limit",
            Takes::Count { default: FOUND.0, most: FOUND.1 },
            format!("Results per type: 1 to {}, default {}.", FOUND.1, FOUND.0),
        ),
    ]
}

/// What the list of jobs takes.
pub(crate) fn of_jobs() -> Vec<Param> {
    let kinds = hosting_jobs::kinds::TABLE.iter().map(|kind| kind.facts.name).collect();
    let states = JobState::ALL.iter().map(|state| state.as_str()).collect();
    vec![
        limit(),
        cursor(),
        param("kind", Takes::Word(kinds), "Only jobs of this kind."),
        param("state", Takes::Word(states), "Only jobs in this state."),
        param("subject", Takes::Text, "Only jobs about this, e.g. the id of a resource."),
    ]
}

/// Those of a tenant's traffic.
pub(crate) fn of_traffic() -> Vec<Param> {
    vec![
        param("from", Takes::Time, "From the hour or day of this time on; a day before `until` when absent."),
        param("until", Takes::Time, "What begins before this time; now when absent."),
        param("by", Takes::Word(vec!["hour", "day"]), "hour when absent. Days are those of UTC."),
    ]
}

/// What the list of rollouts takes.
pub(crate) fn of_rollouts() -> Vec<Param> {
    vec![limit(), cursor()]
}

/// What the stream of events takes.
pub(crate) fn of_events() -> Vec<Param> {
    let kinds = Kind::ALL.iter().map(|kind| kind.name().to_owned()).collect();
    vec![
        param(
            SINCE,
            Takes::Revision,
            "Goes on behind this revision, as does the header Last-Event-ID. When that is not possible any more, the first event is a reset.",
        ),
        param("kind", Takes::Names(kinds), "Only these kinds, with commas between."),
        param("tenant_id", Takes::Text, "Only what belongs to this tenant, itself included."),
        param("brand_id", Takes::Text, "Only what belongs to this brand, itself included."),
    ]
}

/// What the way of a name takes.
pub(crate) fn of_explain() -> Vec<Param> {
    let about = "As it was right after this revision, or at this time (RFC 3339, or a date), as far as the history reaches.";
    vec![param("at", Takes::Text, about)]
}

/// What histories take.
pub(crate) fn of_history() -> Vec<Param> {
    vec![limit(), cursor()]
}

/// What waiting for a workflow takes.
pub(crate) fn of_await() -> Vec<Param> {
    vec![param("wait_timeout", Takes::Seconds, "How long to wait: 1 to 300 seconds, default 300.")]
}

/// What a route takes.
pub(crate) fn declared(method: &Method, op: Op) -> Vec<Param> {
    let mut known = match op {
        Op::List(kind) | Op::ListBy(kind, _) => {
            let info = kind.info();
            let keys = sort_keys(kind).iter().map(|(key, _)| *key).collect();
            let mut known = vec![
                limit(),
                cursor(),
                param("search", Takes::Text, SEARCH),
                param("sort", Takes::Word(keys), "What the list is sorted by."),
                order(if info.sort.is_empty() { "asc" } else { "desc" }),
                fields(kind),
                param(
                    COUNT,
                    Takes::Word(vec!["true", "false"]),
                    "With true: the answer has the total of the whole list. Of conditions that no index has together at most 10000 rows are \
                     looked at; total_is_lower_bound says when there may be more.",
                ),
            ];
            if info.status {
                let words = Status::ALL.iter().map(|status| status.as_str()).collect();
                known.push(param(
                    "status",
                    Takes::Word(words),
                    "Only those in this status. What is deleted and can be brought back is listed with deleted alone.",
                ));
            }
            known.extend(info.filters.iter().map(|filter| {
                param(filter.name, Takes::Text, format!("Only those whose {} is this.", filter.name))
            }));
            known
        }
        Op::Ask(ask) => (ask.params)(),
        Op::History(_) => of_history(),
        Op::Get(kind) => {
            let mut known = vec![fields(kind)];
            if is_restorable(kind) {
                let about =
                    "With deleted: also what is deleted and can be brought back, which is 404 otherwise.";
                known.push(param("status", Takes::Word(vec![Status::Deleted.as_str()]), about));
            }
            known
        }
        Op::Delete(kind) if is_restorable(kind) => vec![param(
            NOW,
            Takes::Word(vec!["true", "false"]),
            "With true: it is not kept, whatever the brand's policy (undelete_days); what is kept already goes, with its data.",
        )],
        Op::Receipt(_)
        | Op::Create(_)
        | Op::CreateBy(..)
        | Op::Update(_)
        | Op::Delete(_)
        | Op::Retry(_)
        | Op::Undelete(_)
        | Op::Act(_)
        | Op::Order(_) => Vec::new(),
        Op::Bulk => vec![param(
            ATOMIC,
            Takes::Word(vec!["true", "false"]),
            "With true: all items are carried out in one transaction, or none is. Otherwise each that can be.",
        )],
    };
    if *method != Method::GET && !matches!(op, Op::Order(_)) {
        known.push(param(
            DRY_RUN,
            Takes::Word(vec!["true", "false"]),
            "With true: nothing is changed, and the answer is the plan of what would be.",
        ));
        known.push(param(
            CONFIRM,
            Takes::Whole,
            "The number that the plan of a large change tells. The change is made only while it still fits.",
        ));
    }
    if *method != Method::GET {
        known.push(param(
            "wait",
            Takes::Word(vec!["ready", SERVED]),
            "Answer only when the whole fleet in service has it (ready), and each machine's own listeners answer with it (served): 200, 202 at the time limit, 409 rejected.",
        ));
        known.push(param(
            "wait_timeout",
            Takes::Seconds,
            "With wait: how long at most, 1 to 300 seconds, default 30.",
        ));
    }
    known
}

/// What a kind's lists can be sorted by.
pub(crate) fn sort_keys(kind: Kind) -> &'static [(&'static str, Column)] {
    match kind.info().sort {
        [] => &[("created_at", Column::Created)],
        keys => keys,
    }
}

/// The store's word for a column.
pub(crate) const fn sort_of(column: Column) -> Sort {
    match column {
        Column::Created => Sort::Created,
        Column::Label => Sort::Label,
        Column::Status => Sort::Status,
        Column::Id => Sort::Id,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
    Time(i64),
}

/// The parameters of one request, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    given: BTreeMap<&'static str, Value>,
    /// What counts when [`Query::limit`] is not given.
    limit: u32,
}

impl Query {
    /// Reads a query; what the route does not know, what is given twice and what is none of its values is refused by name.
    pub(crate) fn read(raw: &str, known: &[Param]) -> Result<Self, ApiError> {
        if raw.len() > MAX_QUERY {
            return Err(ApiError::new(
                StatusCode::URI_TOO_LONG,
                format!("the query has {} bytes, at most {MAX_QUERY} are read", raw.len()),
            ));
        }
        let mut query = Self::default();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let shown: String = name.chars().take(64).collect();
            let name = decode(name).ok_or_else(|| ApiError::invalid(&shown, "is malformed"))?;
            let Some(param) = known.iter().find(|param| param.name == name) else {
                return Err(unknown(&shown, known));
            };
            let value = decode(value).ok_or_else(|| {
                ApiError::invalid(param.name, "must be UTF-8 in percent-encoding (RFC 3986 §2.1)")
            })?;
            if query.given.insert(param.name, param.checked(&value)?).is_some() {
                return Err(ApiError::invalid(param.name, "is given twice; give it once"));
            }
        }
        query.limit = known
            .iter()
            .find_map(
                |param| if let Takes::Count { default, .. } = param.takes { Some(default) } else { None },
            )
            .unwrap_or_default();
        if query.text(DRY_RUN) == Some("true") && query.text("wait").is_some() {
            return Err(ApiError::invalid("wait", "has no effect with dry_run=true: nothing is changed"));
        }
        if query.seconds("wait_timeout").is_some()
            && query.text("wait").is_none()
            && known.iter().any(|param| param.name == "wait")
        {
            return Err(ApiError::invalid("wait_timeout", "has no effect without wait"));
        }
        Ok(query)
    }

    /// A text or word.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.given.get(name) {
            Some(Value::Text(text)) => Some(text),
            Some(Value::Number(_) | Value::Time(_)) | None => None,
        }
    }

    /// The fields that are asked for; `None`: all.
    pub(crate) fn fields(&self) -> Option<Vec<&str>> {
        self.names(FIELDS)
    }

    /// Some names.
    pub(crate) fn names(&self, name: &str) -> Option<Vec<&str>> {
        Some(self.text(name)?.split(',').map(str::trim).collect())
    }

    /// Takes the revision of `Last-Event-ID`, which a browser sends beside the address that it began with.
    pub(crate) fn go_on_from(&mut self, last_event_id: &str) -> Result<(), ApiError> {
        let number = whole(last_event_id.trim())
            .ok_or_else(|| ApiError::invalid("Last-Event-ID", "must be a revision, a whole number"))?;
        self.given.insert(SINCE, Value::Number(number));
        Ok(())
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.seconds(name)
    }

    /// A number of seconds, or a revision.
    pub(crate) fn seconds(&self, name: &str) -> Option<u64> {
        match self.given.get(name) {
            Some(Value::Number(number)) => Some(*number),
            Some(Value::Text(_) | Value::Time(_)) | None => None,
        }
    }

    /// A time in milliseconds since the Unix epoch.
    pub(crate) fn time(&self, name: &str) -> Option<i64> {
        match self.given.get(name) {
            Some(Value::Time(at)) => Some(*at),
            Some(Value::Text(_) | Value::Number(_)) | None => None,
        }
    }

    /// How many items the answer may have.
    pub(crate) fn limit(&self) -> u32 {
        self.seconds("limit").and_then(|given| u32::try_from(given).ok()).unwrap_or(self.limit)
    }
}

impl Param {
    fn checked(&self, value: &str) -> Result<Value, ApiError> {
        let wrong = |problem: String| Err(ApiError::invalid(self.name, problem));
        if value.is_empty() && self.takes != Takes::AnyText {
            return wrong("is empty; leave it out or give it a value".to_owned());
        }
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            return wrong(format!("must have at most {MAX_VALUE} bytes and no control characters"));
        }
        match &self.takes {
            Takes::Text | Takes::AnyText => Ok(Value::Text(value.to_owned())),
            Takes::Names(names) => {
                let given = value.split(',').map(str::trim);
                match given.into_iter().find(|name| names.iter().all(|known| known != name)) {
                    Some(name) => {
                        wrong(format!("{name:?} is none of its fields; it has {}", names.join(", ")))
                    }
                    None => Ok(Value::Text(value.to_owned())),
                }
            }
            Takes::Word(words) if words.contains(&value) => Ok(Value::Text(value.to_owned())),
            Takes::Word(words) => wrong(format!("{value:?} must be one of {}", words.join(", "))),
            Takes::Caseless(words) => match words.iter().find(|word| word.eq_ignore_ascii_case(value)) {
                Some(word) => Ok(Value::Text((*word).to_owned())),
                None => wrong(format!("{value:?} must be one of {}", words.join(", "))),
            },
            Takes::Count { most, .. } => match whole(value) {
                Some(count) if count > 0 => Ok(Value::Number(count.min(u64::from(*most)))),
                _ => wrong(format!("{value:?} must be a whole number from 1; at most {most} are answered")),
            },
            Takes::Revision => match whole(value) {
                Some(revision) => Ok(Value::Number(revision)),
                None => wrong(format!("{value:?} must be a revision, a whole number")),
            },
            Takes::Whole => match whole(value) {
                Some(number) => Ok(Value::Number(number)),
                None => wrong(format!("{value:?} must be a whole number")),
            },
            Takes::Seconds => match whole(value.strip_suffix('s').unwrap_or(value)) {
                Some(seconds) if seconds > 0 => Ok(Value::Number(seconds)),
                _ => wrong(format!("{value:?} must be a whole number of seconds from 1")),
            },
            Takes::Time => match instant(value) {
                Some(at) => Ok(Value::Time(at)),
                None => wrong(format!("{value:?} must be a date or a time as in RFC 3339")),
            },
        }
    }
}

fn unknown(name: &str, known: &[Param]) -> ApiError {
    let names: Vec<&str> = known.iter().map(|param| param.name).collect();
    let rest = match names.as_slice() {
        [] => "it takes none".to_owned(),
        names => format!("it takes {}", names.join(", ")),
    };
    ApiError::invalid(name, format!("is no parameter of this path; {rest}"))
}

/// ASCII digits alone: no sign, no blank.
fn whole(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More than fits is more than any limit.
    Some(text.parse().unwrap_or(u64::MAX))
}

/// A time or a date (its first moment, UTC), in milliseconds since the Unix epoch.
pub(crate) fn instant(text: &str) -> Option<i64> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_millisecond());
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    let time = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(time.timestamp().as_millisecond())
}

/// `application/x-www-form-urlencoded`; `None` when a `%` begins no byte, or the bytes are no UTF-8.
fn decode(text: &str) -> Option<String> {
    let sound = text
        .split('%')
        .skip(1)
        .all(|rest| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
    if !sound {
        return None;
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &str) -> Result<Query, String> {
        Query::read(raw, &declared(&Method::GET, Op::List(Kind::Tenant))).map_err(|error| error.message)
    }

    #[test]
    fn what_is_sound_is_read() {
        let query = read("search=a%20b+c&limit=5&status=active&order=asc&").unwrap();
        assert_eq!((query.text("search"), query.limit()), (Some("a b c"), 5));
        assert_eq!((query.text("status"), query.text("order")), (Some("active"), Some("asc")));
        assert_eq!((read("").unwrap().limit(), read("limit=9999").unwrap().limit()), (50, 200));
        assert_eq!(read("limit=99999999999999999999999").unwrap().limit(), 200);
        let audit = of_audit_logs();
        let query =
            Query::read("date_from=1970-01-02&date_to=1970-01-01T00:00:01Z&action=put", &audit).unwrap();
        assert_eq!((query.time("date_from"), query.time("date_to")), (Some(86_400_000), Some(1000)));
        assert_eq!(query.text("action"), Some("PUT"));
    }

    #[test]
    fn what_is_not_is_named() {
        for (raw, start) in [
            ("limit=0", "validation error: limit: "),
            ("limit=-5", "validation error: limit: "),
            ("limit=+5", "validation error: limit: "),
            ("limit=x", "validation error: limit: "),
            ("limit=1.5", "validation error: limit: "),
            ("limit", "validation error: limit: is empty"),
            ("limit=5&limit=5", "validation error: limit: is given twice"),
            ("search=", "validation error: search: is empty"),
            ("search=%00", "validation error: search: "),
            ("search=%ff", "validation error: search: must be UTF-8"),
            ("search=%4", "validation error: search: must be UTF-8"),
            ("status=Active", "validation error: status: \"Active\" must be one of pending, "),
            ("order=up", "validation error: order: \"up\" must be one of asc, desc"),
            (
                "page=2",
                "validation error: page: is no parameter of this path; it takes limit, cursor, search, sort",
            ),
            ("tenant=x", "validation error: tenant: is no parameter of this path"),
            ("LIMIT=5", "validation error: LIMIT: is no parameter"),
            ("=5", "validation error: : is no parameter"),
        ] {
            let error = read(raw).unwrap_err();
            assert!(error.starts_with(start), "{raw}: {error}");
        }
        let none = Query::read("a=b", &Vec::new()).unwrap_err();
        assert!(none.message.ends_with("it takes none"), "{}", none.message);
        let put = declared(&Method::PUT, Op::Update(Kind::Zone));
        assert!(Query::read("wait=ready&wait_timeout=5s", &put).is_ok());
        for raw in ["wait_timeout=5", "wait=yes", "wait=ready&wait_timeout=5ss", "wait=ready&wait_timeout=0"]
        {
            assert!(Query::read(raw, &put).is_err(), "{raw}");
        }
        let long = format!("search={}", "a".repeat(20_000));
        assert_eq!(
            Query::read(&long, &declared(&Method::GET, Op::List(Kind::Zone))).unwrap_err().status,
            StatusCode::URI_TOO_LONG
        );
    }
}
