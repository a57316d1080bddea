//! An answer's body on its way to a client and into the cache at once.
//!
//! It is read as fast as the node gives it, whatever the client takes: what the client has not taken yet lies where it is stored.

use std::sync::Arc;

use hosting_edge_cache::{Draft, Landed, Lead, Rest, Stored};

#[derive(Debug)]
enum State {
    /// More is to come.
    Draft(Box<Draft>, Option<Lead>),
    /// All of it is there.
    Whole(Arc<Stored>),
    /// It is not stored; the rest of it goes straight to the client.
    GivenUp(Rest),
    /// Between two of them.
    Nothing,
}

/// A body that is being stored.
#[derive(Debug)]
pub(crate) struct Filling {
    state: State,
    /// Bytes that the client has.
    sent: usize,
}

impl Filling {
    /// `lead`: others wait for it.
    pub(crate) fn new(draft: Draft, lead: Option<Lead>) -> Self {
        Self { state: State::Draft(Box::new(draft), lead), sent: 0 }
    }

    /// Whether it takes more.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Draft(..))
    }

    /// Takes a piece of the body. `false`: it does not fit, and is not taken, nor is anything from here on.
    pub(crate) fn push(&mut self, data: &[u8]) -> bool {
        if let State::Draft(draft, _) = &mut self.state
            && draft.push(data)
        {
            return true;
        }
        if let State::Draft(draft, lead) = std::mem::replace(&mut self.state, State::Nothing) {
            land(lead, Landed::Unshared);
            self.state = State::GivenUp(draft.give_up());
        }
        false
    }

    /// The body is whole.
    pub(crate) fn finish(&mut self) {
        let State::Draft(draft, lead) = std::mem::replace(&mut self.state, State::Nothing) else { return };
        self.state = match draft.finish() {
            Ok((stored, is_stored)) => {
                // What is out of date is this request's alone; another one goes.
                land(lead, if is_stored { Landed::Stored(Arc::clone(&stored)) } else { Landed::Left });
                State::Whole(stored)
            }
            Err(rest) => {
                land(lead, Landed::Unshared);
                State::GivenUp(rest)
            }
        };
    }

    /// What the client has not taken yet.
    pub(crate) fn unsent(&self) -> &[u8] {
        let body = match &self.state {
            State::Draft(draft, _) => draft.body(),
            State::Whole(stored) => stored.body(),
            State::GivenUp(rest) => rest.body(),
            State::Nothing => &[],
        };
        body.get(self.sent..).unwrap_or_default()
    }

    /// The client took so many more.
    pub(crate) fn took(&mut self, count: usize) {
        self.sent += count;
    }
}

fn land(lead: Option<Lead>, landed: Landed) {
    if let Some(lead) = lead {
        lead.land(landed);
    }
}
