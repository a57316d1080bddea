//! Whose intents they are. Owns the one spelling of an audience, which wire, database and operators share.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Progress, Role};

/// Longest id in an audience, in bytes.
const MAX_ID_BYTES: usize = 128;

/// What is no audience.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    /// The part before the slash is none of the words that this build knows, or there is no slash.
    #[error(
        "{0:?} is no audience: it must be dns/<group>, edge/<cluster id>, gateway/<node id> or node/<node id>"
    )]
    Word(String),
    /// The part after the slash cannot be an id.
    #[error("{0:?} cannot stand in an audience: it must be 1 to 128 of A-Z a-z 0-9 . _ - and not dots alone")]
    Id(String),
}

/// The id in an audience: 1 to 128 of `A-Z a-z 0-9 . _ -`, not dots alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AudienceId(Arc<str>);

impl AudienceId {
    fn new(id: &str) -> Result<Self, AudienceError> {
        let fits = (1..=MAX_ID_BYTES).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && id.bytes().any(|b| b != b'.');
        if fits { Ok(Self(id.into())) } else { Err(AudienceError::Id(id.to_owned())) }
    }

    /// The id as the registry spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who applies an intent: everybody that subscribes to the same list. Variants stand in the order of their words, so that
/// audiences sort as their spellings do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Audience {
    /// `dns/<group>`: the name servers of a group.
    Dns(AudienceId),
    /// `edge/<cluster id>`: the edges of a cluster.
    Edge(AudienceId),
    /// `gateway/<node id>`: one gateway.
    Gateway(AudienceId),
    /// `node/<node id>`: the agent of one node that serves sites.
    Node(AudienceId),
}

impl Audience {
    /// The name servers of `group`.
    ///
    /// # Errors
    /// [`AudienceError::Id`].
    pub fn dns(group: &str) -> Result<Self, AudienceError> {
        AudienceId::new(group).map(Self::Dns)
    }

    /// The edges of `cluster`.
    ///
    /// # Errors
    /// [`AudienceError::Id`].
    pub fn edge(cluster: &str) -> Result<Self, AudienceError> {
        AudienceId::new(cluster).map(Self::Edge)
    }

    /// The gateway `node`.
    ///
    /// # Errors
    /// [`AudienceError::Id`].
    pub fn gateway(node: &str) -> Result<Self, AudienceError> {
        AudienceId::new(node).map(Self::Gateway)
    }

    /// The agent of `node`.
    ///
    /// # Errors
    /// [`AudienceError::Id`].
    pub fn node(node: &str) -> Result<Self, AudienceError> {
        AudienceId::new(node).map(Self::Node)
    }

    /// The role whose nodes subscribe to it: the inverse of [`Role::audience`].
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Dns(_) => Role::Dns,
            Self::Edge(_) => Role::Lb,
            Self::Gateway(_) => Role::Gateway,
            Self::Node(_) => Role::Web,
        }
    }

    /// Whether its subscribers report what becomes of each key; else what they acknowledge is in effect.
    #[must_use]
    pub fn reports(&self) -> bool {
        self.role().rules().is_some_and(|rules| rules.progress == Progress::Reports)
    }

    /// The id after the slash.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Dns(id) | Self::Edge(id) | Self::Gateway(id) | Self::Node(id) => id.as_str(),
        }
    }

    /// The word before the slash.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Edge(_) => "edge",
            Self::Gateway(_) => "gateway",
            Self::Node(_) => "node",
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.word(), self.id())
    }
}

/// The spelling in quotes, as a string is shown.
impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl FromStr for Audience {
    type Err = AudienceError;

    fn from_str(text: &str) -> Result<Self, AudienceError> {
        match text.split_once('/') {
            Some(("dns", group)) => Self::dns(group),
            Some(("edge", cluster)) => Self::edge(cluster),
            Some(("gateway", node)) => Self::gateway(node),
            Some(("node", node)) => Self::node(node),
            Some(_) | None => Err(AudienceError::Word(text.to_owned())),
        }
    }
}

impl From<Audience> for String {
    fn from(audience: Audience) -> Self {
        audience.to_string()
    }
}

impl TryFrom<String> for Audience {
    type Error = AudienceError;

    fn try_from(text: String) -> Result<Self, AudienceError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_there_and_back() {
        for text in ["dns/default", "edge/c-1", "gateway/gw.1", "node/A_b"] {
            let audience: Audience = text.parse().unwrap();
            assert_eq!(audience.to_string(), text);
            assert_eq!(format!("{audience:?}"), format!("{text:?}"));
            assert_eq!((audience.word(), audience.id()), text.split_once('/').unwrap());
            assert_eq!(Audience::try_from(String::from(audience.clone())), Ok(audience));
        }
    }

    #[test]
    fn what_is_no_audience_is_refused() {
        for text in ["", "edge", "Edge/c1", "edges/c1", " edge/c1", "mail/c1", "/c1"] {
            assert_eq!(text.parse::<Audience>(), Err(AudienceError::Word(text.to_owned())));
        }
        for id in ["", ".", "..", "c1 ", "a/b", "a%2f", "ü", &"a".repeat(129)] {
            assert_eq!(format!("edge/{id}").parse::<Audience>(), Err(AudienceError::Id(id.to_owned())));
            assert_eq!(Audience::node(id), Err(AudienceError::Id(id.to_owned())));
        }
    }

    #[test]
    fn audiences_sort_as_they_are_spelt() {
        let mut texts: Vec<String> = ["node", "edge", "gateway", "dns"]
            .into_iter()
            .flat_map(|word| ["b", "a", "a-b", "a.b", "B", "a_b", "ab"].map(|id| format!("{word}/{id}")))
            .collect();
        let mut audiences: Vec<Audience> = texts.iter().map(|text| text.parse().unwrap()).collect();
        texts.sort();
        audiences.sort();
        assert_eq!(audiences.iter().map(ToString::to_string).collect::<Vec<_>>(), texts);
    }
}
