//! Each role's own intents, so that a kind of one role is no matter of the others.

use std::fmt;

use crate::kinds::TakesAway;
use crate::{Intent, Key, Kind, Rejection, kind_name, message as m};

/// The intents that a role applies.
pub trait RoleIntent: fmt::Debug + Clone + PartialEq + Send + Sync + Sized + 'static {
    /// Their kinds, in ascending order of number.
    const KINDS: &'static [Kind];

    /// The intent as the role sees it; `None` for a kind that the role does not apply.
    fn of(intent: Intent) -> Option<Self>;

    /// See [`Intent::takes_away`].
    fn takes_away(&self) -> bool;

    /// The authorities to trust, if it is those.
    fn trust_roots(&self) -> Option<&m::TrustRoots>;

    /// A version of the audience's key, if it is one.
    fn audience_key(&self) -> Option<&m::AudienceKey>;

    /// Decodes and checks one item.
    ///
    /// # Errors
    /// As [`Intent::parse`]; [`Rejection::UnknownKind`] as well for a kind that the role does not apply.
    fn parse(key: &Key, value: &[u8]) -> Result<Self, Rejection> {
        Self::of(Intent::parse(key, value)?).ok_or_else(|| Rejection::UnknownKind(kind_name(key.kind)))
    }
}

/// All of them, for whoever plays every role: tests and tools.
impl RoleIntent for Intent {
    const KINDS: &'static [Kind] = crate::KNOWN_KINDS;

    fn of(intent: Intent) -> Option<Self> {
        Some(intent)
    }

    fn takes_away(&self) -> bool {
        Self::takes_away(self)
    }

    fn trust_roots(&self) -> Option<&m::TrustRoots> {
        if let Self::TrustRoots(roots) = self { Some(roots) } else { None }
    }

    fn audience_key(&self) -> Option<&m::AudienceKey> {
        if let Self::AudienceKey(key) = self { Some(key) } else { None }
    }
}

macro_rules! role_intents {
    ($(#[$doc:meta])* $intent:ident, $(#[$kind_doc:meta])* $kinds:ident: $($kind:ident),*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $intent {
            $(#[doc = concat!("See [`Intent::", stringify!($kind), "`].")] $kind(m::$kind),)*
        }

        $(#[$kind_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kinds {
            $(#[doc = concat!("See [`Intent::", stringify!($kind), "`].")] $kind,)*
        }

        impl $kinds {
            /// The kind of a key; `None` for one that the role does not apply.
            #[must_use]
            pub fn of(key: &Key) -> Option<Self> {
                let kind = key.known_kind()?;
                [$((Kind::$kind, Self::$kind)),*].into_iter().find(|(known, _)| *known == kind).map(|(_, own)| own)
            }
        }

        impl RoleIntent for $intent {
            const KINDS: &'static [Kind] = &[$(Kind::$kind),*];

            fn of(intent: Intent) -> Option<Self> {
                Self::try_from(intent).ok()
            }

            fn takes_away(&self) -> bool {
                match self { $(Self::$kind(message) => message.takes_away(),)* }
            }

            fn trust_roots(&self) -> Option<&m::TrustRoots> {
                if let Self::TrustRoots(roots) = self { Some(roots) } else { None }
            }

            fn audience_key(&self) -> Option<&m::AudienceKey> {
                if let Self::AudienceKey(key) = self { Some(key) } else { None }
            }
        }

        /// Gives the intent back when the role does not apply its kind.
        impl TryFrom<Intent> for $intent {
            type Error = Intent;

            fn try_from(intent: Intent) -> Result<Self, Intent> {
                match intent {
                    $(Intent::$kind(message) => Ok(Self::$kind(message)),)*
                    others => Err(others),
                }
            }
        }
    };
}

role_intents! {
    /// What an edge applies ([`crate::Role::Lb`]).
    EdgeIntent,
    /// The kinds of [`EdgeIntent`].
    EdgeKind: TrustRoots, TenantState, Route, ShardPool, AudienceKey, Certificate, EdgeSettings, AcmeChallenge, TicketKeys, Brand, EdgeCount
}

role_intents! {
    /// What a name server applies ([`crate::Role::Dns`]).
    DnsIntent,
    /// The kinds of [`DnsIntent`].
    DnsKind: TrustRoots, AudienceKey, Zone, RrSet, AddressSet, SerialOffset
}

role_intents! {
    /// What a node's agent applies ([`crate::Role::Web`]).
    NodeIntent,
    /// The kinds of [`NodeIntent`].
    NodeKind: TrustRoots, TenantState, AudienceKey, Tenant, Webroot, Retire
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{KNOWN_KINDS, Role, SEALED_KINDS, roles_of};

    fn taken_by(role: Role) -> Vec<Kind> {
        KNOWN_KINDS.iter().copied().filter(|kind| roles_of(*kind).contains(&role)).collect()
    }

    #[test]
    fn each_role_has_the_kinds_that_the_table_gives_it() {
        assert_eq!(EdgeIntent::KINDS, taken_by(Role::Lb));
        assert_eq!(DnsIntent::KINDS, taken_by(Role::Dns));
        assert_eq!(NodeIntent::KINDS, taken_by(Role::Web));
        assert!(KNOWN_KINDS.is_sorted_by_key(|kind| *kind as i32));
        for role in Role::ALL {
            // Whoever subscribes is told whom to trust.
            assert_eq!(taken_by(*role).contains(&Kind::TrustRoots), role.rules().is_some(), "{role}");
        }
        assert!(KNOWN_KINDS.iter().all(|kind| !roles_of(*kind).is_empty()));
    }

    #[test]
    fn a_key_is_for_every_subscriber_and_comes_before_what_it_opens() {
        assert_eq!(roles_of(Kind::AudienceKey), roles_of(Kind::TrustRoots));
        assert!(SEALED_KINDS.iter().all(|kind| *kind as i32 > Kind::AudienceKey as i32));
    }

    #[test]
    fn a_role_does_not_know_the_kinds_of_others() {
        let key = Key::new(Kind::TenantState, "t_a");
        let state = m::TenantState { state: m::State::Suspended as i32, ..m::TenantState::default() };
        let value = state.encode_to_vec();
        assert_eq!(EdgeIntent::parse(&key, &value), Ok(EdgeIntent::TenantState(state.clone())));
        assert!(EdgeIntent::TenantState(state.clone()).takes_away());
        assert_eq!(DnsIntent::parse(&key, &value), Err(Rejection::UnknownKind("tenant_state".into())));
        let intent = Intent::TenantState(state);
        assert_eq!(DnsIntent::try_from(intent.clone()), Err(intent));
        assert_eq!((EdgeKind::of(&key), DnsKind::of(&key)), (Some(EdgeKind::TenantState), None));
        assert_eq!(NodeKind::of(&Key { kind: 4711, name: "x".into() }), None);
        assert!(matches!(EdgeIntent::parse(&key, &[0xff]), Err(Rejection::Malformed(_))));
    }
}
