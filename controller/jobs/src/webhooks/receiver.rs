//! One webhook as it is delivered to: how far it is, what is next, and what follows from how an attempt went. Pure: no I/O, no clock.

use std::collections::VecDeque;
use std::sync::Arc;

use hosting_resource::kinds::webhook::WebhookSpec;
use hosting_resource::{EventView, timestamp};
use hosting_store::{EventPlace, LoggedEvent, WebhookDelivery, WebhookPosition};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::machine::Backoff;

/// How patient deliveries are.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two attempts at an event.
    pub backoff: Backoff,
    /// A receiver that takes nothing for so long, in milliseconds, is given up: its webhook is disabled.
    pub give_up: i64,
    /// Attempts at an event that the receiver refuses for itself; then the event is dropped. A webhook is not disabled after fewer either.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { backoff: Backoff { first: 5_000, most: 3_600_000 }, give_up: 72 * 3_600_000, attempts: 8 }
    }
}

/// An event as it is posted, whoever gets it.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) at: EventPlace,
    pub(super) view: Option<EventView>,
    /// The header `webhook-id`.
    pub(super) id: String,
    pub(super) event_type: &'static str,
    pub(super) body: String,
}

impl Posted {
    /// Ids follow from epoch and place, so that whichever controller posts an event posts it under the same one.
    pub(super) fn of(epoch: &str, logged: &LoggedEvent) -> Self {
        let view = logged.event.view();
        let event_type = match view.change.as_str() {
            "created" => "resource.created",
            "deleted" => "resource.deleted",
            _ => "resource.updated",
        };
        let EventPlace { revision, place } = logged.at;
        let body = json!({"type": event_type, "timestamp": timestamp(logged.time), "data": view}).to_string();
        let id = format!("evt_{}_{revision}_{place}", short(epoch));
        Self { at: logged.at, view: Some(view), id, event_type, body }
    }

    /// What came up to a revision is not kept any more.
    pub(super) fn reset(epoch: &str, from: EventPlace, head: u64, now: i64) -> Self {
        let reason =
            "events before this revision are not kept any more; read what you need anew, and go on from here";
        let data = json!({"revision": head, "reason": reason});
        Self {
            at: EventPlace::end_of(head),
            view: None,
            id: format!("reset_{}_{}_{head}", short(epoch), from.revision),
            event_type: "reset",
            body: json!({"type": "reset", "timestamp": timestamp(now), "data": data}).to_string(),
        }
    }
}

fn short(epoch: &str) -> String {
    hex::encode(Sha256::digest(epoch.as_bytes())).chars().take(12).collect()
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The receiver took it.
    Taken,
    /// It may take it later: it was not reached, was too slow, or said so.
    Later,
    /// It refused this one, or the rules did.
    Refused,
    /// It wants nothing any more (410).
    Gone,
}

/// An attempt that came to its end.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) verdict: Verdict,
    pub(super) began: i64,
    pub(super) duration_ms: u64,
    pub(super) response_status: Option<u16>,
    pub(super) answer: Option<String>,
    pub(super) error: Option<String>,
}

/// What is to be kept of an attempt.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) position: WebhookPosition,
    pub(super) delivery: WebhookDelivery,
    /// Why the webhook is to be disabled.
    pub(super) disable: Option<String>,
}

/// A webhook, and how far it is.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) spec: Arc<WebhookSpec>,
    /// As it is stored, but for events that are not for it.
    pub(super) position: WebhookPosition,
    /// It stands behind what is stored: events that are not for it.
    pub(super) has_moved: bool,
    /// Read of the log, and not looked at yet.
    pub(super) ahead: VecDeque<Arc<Posted>>,
    /// What is posted next, or is being posted.
    pub(super) next: Option<Arc<Posted>>,
    pub(super) is_busy: bool,
    /// Something was posted since its old deliveries were deleted.
    pub(super) has_posted: bool,
}

impl Receiver {
    pub(super) fn new(spec: Arc<WebhookSpec>, position: WebhookPosition) -> Self {
        Self {
            spec,
            position,
            has_moved: false,
            ahead: VecDeque::new(),
            next: None,
            is_busy: false,
            has_posted: false,
        }
    }

    /// Takes a changed webhook over. What was found for it may not be for it any more.
    pub(super) fn becomes(&mut self, spec: Arc<WebhookSpec>) {
        if *self.spec == *spec {
            return;
        }
        let is_another = self.spec.url != spec.url || self.spec.enabled != spec.enabled;
        self.spec = spec;
        if is_another {
            self.position.attempts = 0;
            self.position.next_at = 0;
            self.position.failing_since = None;
            self.position.error = None;
            self.has_moved = true;
        }
        if !self.is_busy {
            self.next = None;
        }
        self.ahead.clear();
    }

    /// Whether an attempt may be made at `now`. A time that was set by a clock ahead of now is over: a clock that is put back stalls nothing.
    pub(super) fn is_due(&self, now: i64, patience: &Patience) -> bool {
        let wait = self.position.next_at.saturating_sub(now);
        self.spec.enabled && !self.is_busy && (wait <= 0 || wait > patience.backoff.most)
    }

    /// Looks at the next events, in order; true when one of them is for it.
    pub(super) fn look_at(&mut self, events: impl IntoIterator<Item = Arc<Posted>>) -> bool {
        for event in events {
            if event.at <= self.position.at {
                continue;
            }
            if event.view.as_ref().is_none_or(|view| self.spec.wants(view)) {
                self.next = Some(event);
                return true;
            }
            self.position.at = event.at;
            self.has_moved = true;
        }
        false
    }

    /// What follows from an attempt at [`Receiver::next`]. Nothing of it counts before it is stored.
    pub(super) fn after(
        &self,
        posted: &Posted,
        attempt: &Attempt,
        now: i64,
        random: f64,
        patience: &Patience,
    ) -> Kept {
        let mut position = self.position.clone();
        let attempts = position.attempts.saturating_add(1);
        let mut disable = None;
        position.error.clone_from(&attempt.error);
        let status = match attempt.verdict {
            Verdict::Taken => {
                position.at = posted.at;
                (position.attempts, position.next_at, position.failing_since) = (0, 0, None);
                position.delivered += 1;
                position.delivered_at = Some(now);
                "delivered"
            }
            Verdict::Gone => {
                disable = Some("the receiver answered 410 Gone".to_owned());
                position.attempts = attempts;
                "failed"
            }
            Verdict::Later | Verdict::Refused => {
                let since = *position.failing_since.get_or_insert(now);
                let has_lost_patience = attempts >= patience.attempts;
                let is_given_up = has_lost_patience && now.saturating_sub(since) >= patience.give_up;
                position.attempts = attempts;
                position.next_at = now.saturating_add(patience.backoff.delay(attempts, random));
                if is_given_up {
                    let why = attempt.error.as_deref().unwrap_or_default();
                    disable = Some(format!("the receiver took nothing since {}: {why}", timestamp(since)));
                    "failed"
                } else if attempt.verdict == Verdict::Refused && has_lost_patience {
                    position.at = posted.at;
                    (position.attempts, position.next_at) = (0, 0);
                    position.dropped += 1;
                    "dropped"
                } else {
                    "retrying"
                }
            }
        };
        let delivery = WebhookDelivery {
            webhook: position.webhook.clone(),
            id: posted.id.clone(),
            event_type: posted.event_type.to_owned(),
            body: posted.body.clone(),
            status,
            attempts,
            created_at: attempt.began,
            attempted_at: Some(attempt.began),
            duration_ms: Some(attempt.duration_ms),
            response_status: attempt.response_status,
            answer: attempt.answer.clone(),
            error: attempt.error.clone(),
        };
        Kept { position, delivery, disable }
    }

    /// What was to be kept is on disk.
    pub(super) fn keep(&mut self, position: WebhookPosition) {
        if position.at > self.position.at {
            self.next = None;
        }
        self.position = position;
        self.has_moved = false;
        self.has_posted = true;
        self.is_busy = false;
    }
}

#[cfg(test)]
mod tests {
    use hosting_resource::Kind;
    use hosting_store::{ResourceChange, ResourceEvent};

    use super::*;

    const PATIENCE: Patience =
        Patience { backoff: Backoff { first: 1_000, most: 60_000 }, give_up: 3_600_000, attempts: 3 };

    fn posted(revision: u64, brand: &str) -> Arc<Posted> {
        let event = ResourceEvent {
            revision,
            kind: Kind::Zone,
            id: format!("z_{revision}"),
            tenant: None,
            brand: Some(brand.into()),
            change: ResourceChange::Created,
            status: hosting_resource::Status::Active,
            generation: 1,
        };
        let logged = LoggedEvent { at: EventPlace { revision, place: 0 }, time: 0, event };
        Arc::new(Posted::of("cell-1", &logged))
    }

    fn receiver() -> Receiver {
        let secret = json!({"$secret": {"key": 1, "sealed": "AAAA", "set_at": 5}});
        let spec = json!({
            "name": "x", "brand_id": "acme", "url": "https://a.example", "enabled": true, "secret_a": secret,
        });
        let position = WebhookPosition::new("h_1", "cell-1", EventPlace::end_of(3));
        Receiver::new(Arc::new(serde_json::from_value(spec).unwrap()), position)
    }

    fn attempt(verdict: Verdict) -> Attempt {
        let error = (verdict != Verdict::Taken).then(|| "why".to_owned());
        Attempt { verdict, began: 1, duration_ms: 1, response_status: None, answer: None, error }
    }

    #[test]
    fn events_of_others_are_passed_over_and_the_next_one_stays_until_it_is_taken() {
        let mut receiver = receiver();
        let all = [posted(3, "acme"), posted(4, "other"), posted(5, "acme"), posted(6, "acme")];
        assert!(receiver.look_at(all.clone()));
        assert_eq!((receiver.next.as_ref().unwrap().at.revision, receiver.position.at.revision), (5, 4));
        let next = receiver.next.clone().unwrap();
        let failed = receiver.after(&next, &attempt(Verdict::Later), 10, 1.0, &PATIENCE);
        assert_eq!((failed.delivery.status, failed.position.at.revision), ("retrying", 4));
        receiver.keep(failed.position);
        assert!(
            receiver.next.is_some() && !receiver.is_due(500, &PATIENCE) && receiver.is_due(1_010, &PATIENCE)
        );
        assert!(receiver.is_due(-1_000_000, &PATIENCE), "the clock was put back");
        let taken = receiver.after(&next, &attempt(Verdict::Taken), 20, 1.0, &PATIENCE);
        assert_eq!((taken.delivery.status, taken.delivery.attempts), ("delivered", 2));
        receiver.keep(taken.position);
        assert!(receiver.next.is_none() && receiver.position.failing_since.is_none());
        assert_eq!((receiver.position.delivered, receiver.position.at.revision), (1, 5));
    }

    #[test]
    fn what_is_refused_is_dropped_and_counted_and_the_next_one_has_its_turn() {
        let mut receiver = receiver();
        for (number, status) in ["retrying", "retrying", "dropped"].into_iter().enumerate() {
            receiver.look_at([posted(5, "acme")]);
            let next = receiver.next.clone().unwrap();
            let kept = receiver.after(&next, &attempt(Verdict::Refused), 10, 1.0, &PATIENCE);
            assert_eq!((kept.delivery.status, kept.disable.is_none()), (status, true), "{number}");
            receiver.keep(kept.position);
        }
        assert_eq!(
            (receiver.position.dropped, receiver.position.at.revision, receiver.position.attempts),
            (1, 5, 0)
        );
        assert_eq!(receiver.position.failing_since, Some(10), "it took nothing yet");
    }

    #[test]
    fn a_receiver_that_takes_nothing_for_long_or_is_gone_is_given_up() {
        let mut receiver = receiver();
        receiver.look_at([posted(5, "acme")]);
        let next = receiver.next.clone().unwrap();
        let fail =
            |receiver: &Receiver, now| receiver.after(&next, &attempt(Verdict::Later), now, 1.0, &PATIENCE);
        let first = fail(&receiver, 0).position;
        receiver.keep(first);
        // One that was tried twice is not given up, whatever the clock says.
        let second = fail(&receiver, 100 * 3_600_000);
        assert!(second.disable.is_none());
        receiver.keep(second.position);
        let third = fail(&receiver, 100 * 3_600_000);
        assert_eq!(third.delivery.status, "failed");
        assert!(third.disable.unwrap().contains("why"));
        let gone = receiver.after(&next, &attempt(Verdict::Gone), 5, 1.0, &PATIENCE);
        assert!(gone.disable.unwrap().contains("410"));
        assert_eq!(gone.position.at.revision, 3, "what it did not take waits");
    }

    #[test]
    fn ids_are_the_same_wherever_an_event_is_posted_from() {
        let [one, again, other] = [posted(5, "acme"), posted(5, "acme"), posted(6, "acme")];
        assert_eq!(one.id, again.id);
        assert_ne!(one.id, other.id);
        assert_ne!(
            one.id,
            Posted::of(
                "cell-2",
                &LoggedEvent {
                    at: one.at,
                    time: 0,
                    event: ResourceEvent {
                        revision: 5,
                        kind: Kind::Zone,
                        id: "z".into(),
                        tenant: None,
                        brand: None,
                        change: ResourceChange::Created,
                        status: hosting_resource::Status::Active,
                        generation: 1,
                    },
                }
            )
            .id,
            "a store that was put back counts anew"
        );
    }
}
