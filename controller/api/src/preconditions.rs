//! Entity tags and what is asked of them (RFC 9110 §8.8.3, §13.1).

use std::fmt;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use serde_json::Value;

use crate::ApiError;

/// The entity tag of a resource: its generation, and a digest of what was shown. `If-Match` looks at the generation alone,
/// so that a change of status in between does not refuse a change; `If-None-Match` at all of it.
pub(crate) fn entity_tag(generation: u64, body: &Value) -> String {
    use sha2::{Digest, Sha256};
    let mut shown = body.clone();
    if let Value::Object(fields) = &mut shown {
        for field in ["revision", "warnings"] {
            fields.remove(field);
        }
    }
    let digest = hex::encode(Sha256::digest(shown.to_string().as_bytes()));
    format!("\"{generation}-{}\"", digest.get(..8).unwrap_or_default())
}

/// One entity tag of a list (RFC 9110 §8.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    weak: bool,
    text: String,
}

impl Tag {
    /// The generation that it names: `3` or `3-0a1b2c3d`.
    fn generation(&self) -> Option<u64> {
        self.text.split('-').next().and_then(|number| number.parse().ok())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    Any,
    Listed(Vec<Tag>),
}

/// `If-Match` and `If-None-Match` (RFC 9110 §13.1.1, §13.1.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Preconditions {
    matches: Option<Tags>,
    matches_none: Option<Tags>,
}

impl Preconditions {
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        Ok(Self {
            matches: tags(headers, &header::IF_MATCH)?,
            matches_none: tags(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// Whether a change is meant for the resource as it stands. `what`: its kind and id, for the message.
    pub(crate) fn check(&self, what: &dyn fmt::Display, generation: u64) -> Result<(), ApiError> {
        let of_it = |tag: &Tag| tag.generation() == Some(generation);
        let spared = match &self.matches_none {
            None => true,
            Some(Tags::Any) => false,
            Some(Tags::Listed(tags)) => !tags.iter().any(of_it),
        };
        if spared { self.check_read(what, generation) } else { Err(not_meant(what, generation)) }
    }

    /// Whether a read is meant for the resource as it stands: `If-Match` alone.
    pub(crate) fn check_read(&self, what: &dyn fmt::Display, generation: u64) -> Result<(), ApiError> {
        let meant = match &self.matches {
            None | Some(Tags::Any) => true,
            // A weak tag does not match: it says that two representations are as good as each other, not the same.
            Some(Tags::Listed(tags)) => {
                tags.iter().any(|tag| !tag.weak && tag.generation() == Some(generation))
            }
        };
        if meant { Ok(()) } else { Err(not_meant(what, generation)) }
    }

    /// Whether the caller has what it would be shown.
    pub(crate) fn is_known(&self, tag: &str) -> bool {
        match &self.matches_none {
            None => false,
            Some(Tags::Any) => true,
            Some(Tags::Listed(tags)) => tags.iter().any(|known| known.text == tag.trim_matches('"')),
        }
    }
}

fn not_meant(what: &dyn fmt::Display, generation: u64) -> ApiError {
    ApiError::new(
        StatusCode::PRECONDITION_FAILED,
        format!(
            "{what} has generation {generation}, which is not what the request was meant for: read it again"
        ),
    )
}

/// The tags of a header; a plain number stands for the generation.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, ApiError> {
    let wrong = || {
        ApiError::invalid(name.as_str(), "must be * or a list of entity tags, e.g. \"3\", or a generation")
    };
    let mut all = Vec::new();
    for value in headers.get_all(name) {
        all.push(value.to_str().map_err(|_| wrong())?);
    }
    if all.is_empty() {
        return Ok(None);
    }
    let all = all.join(",");
    if all.trim() == "*" {
        return Ok(Some(Tags::Any));
    }
    let mut rest = all.as_str();
    let mut listed = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let (weak, from) = match rest.strip_prefix("W/") {
            Some(from) => (true, from),
            None => (false, rest),
        };
        let (text, after) = match from.strip_prefix('"') {
            Some(opened) => opened.split_once('"').ok_or_else(wrong)?,
            None => from.split_at(from.find([',', ' ', '\t']).unwrap_or(from.len())),
        };
        let quoted = from.starts_with('"');
        if !quoted && (weak || text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit())) {
            return Err(wrong());
        }
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with(',') {
            return Err(wrong());
        }
        listed.push(Tag { weak, text: text.to_owned() });
        rest = after;
    }
    if listed.is_empty() { Err(wrong()) } else { Ok(Some(Tags::Listed(listed))) }
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    pub(crate) fn with(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    /// The table of RFC 9110 §13.1.1: lists, `*`, weak tags never match.
    #[test]
    fn if_match() {
        let holds = |values: &[&str], generation: u64| {
            let read = Preconditions::read(&with(header::IF_MATCH, values))?;
            read.check(&"zone z", generation)
        };
        for (values, generation) in [
            (vec!["\"3\""], 3),
            (vec!["3"], 3),
            (vec!["*"], 3),
            (vec!["\"3-0a1b2c3d\""], 3),
            (vec!["\"999\", \"3\""], 3),
            (vec!["\"999\",,\"3-x\" , \"4\""], 3),
            (vec!["\"999\"", "\"3\""], 3),
            (vec!["\"a,b\", \"3\""], 3),
            (vec![], 3),
        ] {
            assert_eq!(holds(&values, generation), Ok(()), "{values:?}");
        }
        for values in [vec!["\"2\""], vec!["W/\"3\""], vec!["\"x\""], vec!["\"2\", \"4\""], vec!["\"\""]] {
            assert_eq!(holds(&values, 3).unwrap_err().status, 412, "{values:?}");
        }
        for values in
            [vec!["three"], vec![""], vec![","], vec!["\"3"], vec!["*, \"3\""], vec!["\"3\"x"], vec!["W/3"]]
        {
            assert_eq!(holds(&values, 3).unwrap_err().status, 400, "{values:?}");
        }
    }

    #[test]
    fn if_none_match() {
        let read = |value: &str| Preconditions::read(&with(header::IF_NONE_MATCH, &[value])).unwrap();
        let tag = entity_tag(3, &json!({"id": "z", "revision": 9}));
        assert_eq!(tag, entity_tag(3, &json!({"id": "z"})));
        assert_ne!(tag, entity_tag(3, &json!({"id": "z", "status": "active"})));
        assert!(read(&tag).is_known(&tag) && read(&format!("\"x\", W/{tag}")).is_known(&tag));
        assert!(read("*").is_known(&tag) && !read("\"3\"").is_known(&tag));
        assert_eq!(read("*").check(&"zone z", 3).unwrap_err().status, 412);
        assert_eq!(read(&tag).check(&"zone z", 3).unwrap_err().status, 412);
        assert!(read(&tag).check(&"zone z", 4).is_ok());
    }
}
