//! Between items and their wire form.

use hosting_intent::{Bytes, Cause, Item, Key, Removal};
use hosting_proto::feed as wire;
use wire::down::Frame;

/// An item as a frame carries it.
#[must_use]
pub fn item_to_wire(item: &Item) -> wire::Item {
    wire::Item {
        kind: item.key.kind,
        key: item.key.name.clone(),
        revision: item.revision,
        value: item.value.clone(),
        cause: wire::Cause::from(item.cause) as i32,
        traceparent: item.traceparent.clone(),
        rollout: item.rollout,
    }
}

/// The inverse of [`item_to_wire`].
#[must_use]
pub fn item_from_wire(item: wire::Item) -> Item {
    Item {
        cause: cause(item.cause()),
        key: Key { kind: item.kind, name: item.key },
        revision: item.revision,
        // A copy: the decoder's is a slice that would keep the whole frame in memory.
        value: Bytes::copy_from_slice(&item.value),
        traceparent: item.traceparent,
        rollout: item.rollout,
    }
}

/// A removal as a frame carries it.
#[must_use]
pub fn removal_to_wire(removal: &Removal) -> wire::Removal {
    wire::Removal {
        kind: removal.key.kind,
        key: removal.key.name.clone(),
        cause: wire::Cause::from(removal.cause) as i32,
        traceparent: removal.traceparent.clone(),
        rollout: removal.rollout,
    }
}

/// The inverse of [`removal_to_wire`].
#[must_use]
pub fn removal_from_wire(removal: wire::Removal) -> Removal {
    Removal {
        cause: cause(removal.cause()),
        key: Key { kind: removal.kind, name: removal.key },
        traceparent: removal.traceparent,
        rollout: removal.rollout,
    }
}

/// A cause from a newer controller decodes as the planner's: nobody's word.
fn cause(cause: wire::Cause) -> Cause {
    cause.into()
}

/// The session ends. `retry_after_ms` 0: the receiver may come back at once, after jitter.
#[must_use]
pub fn go_away(reason: impl Into<String>, retry_after_ms: u32) -> wire::Down {
    down(Frame::GoAway(wire::GoAway { reason: reason.into(), retry_after_ms }))
}

/// An operator's word: apply what the brake holds. `by` names the operator.
#[must_use]
pub fn release(by: impl Into<String>) -> wire::Down {
    down(Frame::Release(wire::Release { by: by.into() }))
}

/// Which rollouts have come to a subscriber.
#[must_use]
pub fn rollouts(frame: wire::Rollouts) -> wire::Down {
    down(Frame::Rollouts(frame))
}

pub(crate) fn down(frame: Frame) -> wire::Down {
    wire::Down { frame: Some(frame) }
}

pub(crate) fn up(frame: wire::up::Frame) -> wire::Up {
    wire::Up { frame: Some(frame) }
}
