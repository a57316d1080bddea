//! What is planned on its own, and walks over many of them.

use hosting_intent::{Audience, Cause};
use hosting_resource::Kind;

use crate::kinds;

/// What is planned on its own: its desired intents are compared with the rows it owns, whatever else changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Trust roots and the like, for one audience.
    Audience(Audience),
    /// What one resource wants; which intents that are is said in the kind's file.
    Of(Kind, String),
    /// The records of one name and type.
    RrSet {
        /// Zone id (not name: a new zone of the same name is another owner).
        zone: String,
        /// Absolute owner name, lower case, no trailing dot.
        name: String,
        /// Type mnemonic.
        record_type: String,
    },
    /// Data to destroy: rows of a node that outlive their resource.
    Retire(String),
    /// No unit of its own: a place in a walk over many, for the replan queue only. Each step plans a bounded number of
    /// units and queues the place where the next step goes on, so that a walk over a million outlives any crash.
    Walk {
        /// What is walked over.
        over: Walk,
        /// Where it starts: an id, or a zone name.
        of: String,
        /// The last id that is done; empty at the start.
        after: String,
        /// Why; handed on to the intents that the walk changes.
        cause: Cause,
        /// The rollout that these are part of; 0: none.
        rollout: u64,
    },
}

/// The walks that one changed resource can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Walk {
    /// Resources of one kind.
    Resources(Pages),
    /// Whatever owns a row of a node. The place is the row's key.
    NodeRows,
    /// Whatever owns a row of an audience that may hold secrets: they are sealed anew. The audience is spelt by [`Walk::spell`], the
    /// place is the row's key.
    Sealed,
    /// What lies in a resource that is deleted and kept: it is deleted along. The place is the revision of the step before.
    Keeping,
    /// What one deletion took along: it is brought back. It starts from the cause with the revision of the step before, the place is kind
    /// and id.
    Restoring,
    /// No walk: one unit that waits with its cause. The place is its owner ([`Unit::owner`]).
    Unit,
}

/// Resources of one kind that a walk visits, as the kind's file declares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pages {
    /// Its name in the replan queue.
    pub name: &'static str,
    /// The kind of what is visited.
    pub over: Kind,
    /// How it is found.
    pub by: By,
    /// What of it is planned anew.
    pub aspect: Aspect,
    /// Whether it visits what is of several tenants: what a person changes that way goes out in steps.
    pub is_wide: bool,
}

/// How the resources of a walk are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// They lie in it.
    Parent,
    /// They have it as the value of a facet. Not by references: what is being deleted refers to nothing any more, and is planned
    /// all the same.
    Facet(&'static str),
    /// All of the kind.
    All,
}

/// What of a visited resource is to be planned anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// What machines get of it.
    Machines,
    /// Its host names: automatic records and routes.
    Names,
    /// Its service host names.
    ServiceNames,
}

const CAUSES: [(Cause, &str); 3] =
    [(Cause::Planner, "planner"), (Cause::Person, "person"), (Cause::Restore, "restore")];

impl Walk {
    fn name(self) -> &'static str {
        match self {
            Self::Resources(pages) => pages.name,
            Self::NodeRows => "node_rows",
            Self::Sealed => "sealed",
            Self::Keeping => "keeping",
            Self::Restoring => "restoring",
            Self::Unit => "unit",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::NodeRows, Self::Sealed, Self::Keeping, Self::Restoring, Self::Unit]
            .into_iter()
            .chain(kinds::walks().map(Self::Resources))
            .find(|walk| walk.name() == name)
    }
}

impl Walk {
    /// An audience as the place where a walk starts, which holds no slash: `edge:c1`.
    pub(crate) fn spell(audience: &Audience) -> String {
        audience.to_string().replacen('/', ":", 1)
    }

    /// The inverse of [`Walk::spell`].
    pub(crate) fn audience(of: &str) -> Option<Audience> {
        of.replacen(':', "/", 1).parse().ok()
    }
}

impl Pages {
    /// The walk from its beginning.
    #[must_use]
    pub fn of(self, of: impl Into<String>, cause: Cause) -> Unit {
        Unit::Walk { over: Walk::Resources(self), of: of.into(), after: String::new(), cause, rollout: 0 }
    }
}

impl Unit {
    /// The owner column of the unit's intent rows.
    #[must_use]
    pub fn owner(&self) -> String {
        match self {
            Self::Audience(id) => format!("audience:{id}"),
            Self::Of(kind, id) => format!("{kind}:{id}"),
            Self::RrSet { zone, name, record_type } => format!("rr_set:{zone}/{name}/{record_type}"),
            Self::Retire(id) => format!("retire:{id}"),
            Self::Walk { over, of, after, cause, rollout } => {
                let cause =
                    CAUSES.iter().find(|(known, _)| known == cause).map_or("planner", |(_, name)| name);
                let rollout = if *rollout == 0 { String::new() } else { format!("@{rollout}") };
                format!("walk:{cause}{rollout}/{}/{of}/{after}", over.name())
            }
        }
    }

    /// The inverse of [`Unit::owner`], for units that wait in the replan queue.
    #[must_use]
    pub fn from_owner(owner: &str) -> Option<Self> {
        let (family, id) = owner.split_once(':')?;
        Some(match family {
            "audience" => Self::Audience(id.parse().ok()?),
            "retire" => Self::Retire(id.to_owned()),
            "rr_set" => {
                let mut parts = id.splitn(3, '/').map(str::to_owned);
                Self::RrSet { zone: parts.next()?, name: parts.next()?, record_type: parts.next()? }
            }
            "walk" => {
                let mut parts = id.splitn(4, '/');
                let cause = parts.next()?;
                let (cause, rollout) = match cause.split_once('@') {
                    Some((cause, rollout)) => (cause, rollout.parse().ok()?),
                    None => (cause, 0),
                };
                let over = parts.next()?;
                Self::Walk {
                    cause: CAUSES.iter().find(|(_, name)| *name == cause)?.0,
                    over: Walk::from_name(over)?,
                    of: parts.next()?.to_owned(),
                    after: parts.next()?.to_owned(),
                    rollout,
                }
            }
            kind => Self::Of(Kind::from_name(kind)?, id.to_owned()),
        })
    }

    /// Whether it stands for more units than can be told without reading.
    #[must_use]
    pub const fn is_walk(&self) -> bool {
        matches!(self, Self::Walk { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_known_by_their_owners() {
        let mut names = std::collections::BTreeSet::new();
        for pages in kinds::walks() {
            assert!(names.insert(pages.name), "two walks are called {}", pages.name);
            let unit = pages.of("a/b", Cause::Restore);
            let Unit::Walk { over, cause, .. } = unit else { panic!() };
            for rollout in [0, 77] {
                let unit = Unit::Walk { over, of: "a".into(), after: "b/c".into(), cause, rollout };
                assert_eq!(Unit::from_owner(&unit.owner()), Some(unit));
            }
        }
        let edge: Audience = "edge/c_1-a".parse().unwrap();
        assert_eq!(Walk::audience(&Walk::spell(&edge)), Some(edge.clone()));
        let of = Walk::spell(&edge);
        let unit =
            Unit::Walk { over: Walk::Sealed, of, after: "6/a/b".into(), cause: Cause::Planner, rollout: 0 };
        assert_eq!(Unit::from_owner(&unit.owner()), Some(unit));
        let rr_set = Unit::RrSet { zone: "z".into(), name: "a.example".into(), record_type: "A".into() };
        let of_all = Kind::ALL.iter().map(|kind| Unit::Of(*kind, "x".into()));
        let others = [Unit::Audience("edge/c".parse().unwrap()), Unit::Retire("x".into()), rr_set];
        for unit in of_all.chain(others) {
            assert_eq!(Unit::from_owner(&unit.owner()), Some(unit));
        }
        assert_eq!(Unit::from_owner("walk:person/nowhere/a/"), None);
        assert_eq!(Unit::from_owner("something:a"), None);
    }
}
