//! The trace of the user's last change, kept with what still waits for a gate, so that whatever comes of the change later is in
//! the trace of the request that asked for it.
//!
//! It stands in the state from the change until the resource settles: neither a change of nothing nor one that waits for
//! nothing writes it, and nothing that happens later on its own is taken for a part of an old request.

use hosting_resource::{Resource, Status};

use crate::overlay::Overlay;

/// The traceparent (W3C Trace Context) of the user's change that the resource is still on its way to; empty when there is none.
#[must_use]
pub fn trace_of(resource: &Resource) -> String {
    resource.progress().traceparent
}

/// Notes the trace of the draft, which is a user's change, in what has to wait; takes it out of what has not.
pub(crate) fn note(draft: &Overlay<'_>, resource: &mut Resource) {
    set(resource, if waits(resource.status) { draft.traceparent() } else { "" });
}

/// Takes the trace out of what has settled.
pub(crate) fn end(resource: &mut Resource) {
    if !waits(resource.status) {
        set(resource, "");
    }
}

fn set(resource: &mut Resource, traceparent: &str) {
    let mut progress = resource.progress();
    if progress.traceparent != traceparent {
        traceparent.clone_into(&mut progress.traceparent);
        resource.set_progress(&progress);
    }
}

/// What failed is looked at again now and then.
pub(crate) const fn waits(status: Status) -> bool {
    status.is_open() || matches!(status, Status::Failed)
}
