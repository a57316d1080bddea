//! What becomes of a rollout next: by its document, by what is seen of its subscribers, and by the time. No I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hosting_intent::Audience;
use hosting_store::{ClientHealth, Member, Rollout, RolloutPolicy, RolloutState};

/// Clients' health is waited for so long before the first step begins, in milliseconds: an older build says nothing of it.
const HEALTH_WAIT_MS: i64 = 3_000;
/// Fewer failures than these prove nothing.
const LEAST_FAILED: u64 = 5;
/// Fewer requests than these prove nothing of how long they take.
const LEAST_REQUESTS: u64 = 20;
/// Less time than this is nothing that people notice, in microseconds.
const LEAST_SLOWER_US: u64 = 50_000;

/// What is seen of a subscriber of a rollout's audiences.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) member: Member,
    pub(super) in_service: bool,
    /// Items of the rollout wait there, or it is behind the rollout's own revision.
    pub(super) waits: bool,
    /// An item of the rollout that it refuses, or does not serve as applied for some seconds: what it says.
    pub(super) trouble: Option<String>,
    /// It asks its own listeners, and so says how its clients fare.
    pub(super) checks: bool,
    pub(super) health: Option<ClientHealth>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Nothing now.
    Stay,
    /// It came further: this is to be written.
    Write(Box<Rollout>),
    /// It hurts, for this reason.
    Revert(String),
}

/// Looks at a rollout. `is_planned`: nothing of it is left to plan. `is_free`: no earlier one goes to the same subscribers.
pub(super) fn look(
    rollout: &Rollout,
    policy: &RolloutPolicy,
    seen: &[Seen],
    now: i64,
    (is_planned, is_free): (bool, bool),
) -> Next {
    let further = |rollout: Rollout| Next::Write(Box::new(Rollout { changed_at: now, ..rollout }));
    match rollout.state {
        RolloutState::Waiting if is_free => {
            return further(Rollout { state: RolloutState::Running, step_at: now, ..rollout.clone() });
        }
        RolloutState::Running | RolloutState::Paused => {}
        RolloutState::Waiting
        | RolloutState::Reverting
        | RolloutState::Done
        | RolloutState::Reverted
        | RolloutState::Replaced => return Next::Stay,
    }
    let opened: BTreeSet<&Member> = rollout.opened.iter().collect();
    let (with, without): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|one| opened.contains(&one.member));
    if let Some(reason) = hurts(rollout, policy, &with, &without) {
        return Next::Revert(reason);
    }
    if rollout.state == RolloutState::Paused {
        return Next::Stay;
    }
    let in_service: Vec<&Seen> = seen.iter().filter(|one| one.in_service).collect();
    if in_service.is_empty() {
        // Nobody is registered whom it could reach. Whoever is only away is waited for.
        let is_over = seen.is_empty() && is_planned;
        return if is_over {
            further(Rollout { state: RolloutState::Done, ..rollout.clone() })
        } else {
            Next::Stay
        };
    }
    let waited = now.saturating_sub(rollout.step_at);
    let is_due = if rollout.step == 0 {
        waited >= HEALTH_WAIT_MS || in_service.iter().all(|one| !one.checks || one.health.is_some())
    } else {
        let watch = i64::try_from(policy.watch.as_millis()).unwrap_or(i64::MAX);
        is_planned && waited >= watch && with.iter().all(|one| !one.in_service || !one.waits)
    };
    if !is_due {
        return Next::Stay;
    }
    if rollout.step > 0 && in_service.iter().all(|one| opened.contains(&one.member)) {
        return further(Rollout { state: RolloutState::Done, ..rollout.clone() });
    }
    further(next_step(rollout, policy, seen, &in_service, now))
}

fn next_step(
    rollout: &Rollout,
    policy: &RolloutPolicy,
    seen: &[Seen],
    in_service: &[&Seen],
    now: i64,
) -> Rollout {
    let before = rollout.opened.len();
    let reach = usize::try_from(rollout.step).ok().and_then(|step| policy.steps.get(step));
    let among: BTreeSet<&Member> = in_service.iter().map(|one| &one.member).collect();
    let mut wanted = reach.map_or(among.len(), |reach| reach.of(among.len(), before));
    if rollout.step == 0 {
        wanted = wanted.max(rollout.first.iter().filter(|member| among.contains(member)).count());
    }
    let mut has: BTreeSet<&Member> = rollout.opened.iter().filter(|member| among.contains(member)).collect();
    let mut opened = rollout.opened.clone();
    for member in rollout.first.iter().chain(in_turns(in_service)) {
        if has.len() >= wanted {
            break;
        }
        if among.contains(member) && has.insert(member) {
            opened.push(member.clone());
        }
    }
    Rollout {
        step: rollout.step + 1,
        step_at: now,
        opened,
        before: seen.iter().filter_map(|one| Some((one.member.clone(), one.health?))).collect(),
        ..rollout.clone()
    }
}

/// One of each audience after the other, so that an early step does not take a whole audience.
fn in_turns<'s>(seen: &[&'s Seen]) -> Vec<&'s Member> {
    let mut by_audience: BTreeMap<&Audience, VecDeque<&Member>> = BTreeMap::new();
    for one in seen {
        by_audience.entry(&one.member.0).or_default().push_back(&one.member);
    }
    let mut order = Vec::new();
    while !by_audience.is_empty() {
        by_audience.retain(|_, members| {
            order.extend(members.pop_front());
            !members.is_empty()
        });
    }
    order
}

/// Why it hurts those who have it.
fn hurts(rollout: &Rollout, policy: &RolloutPolicy, with: &[&Seen], without: &[&Seen]) -> Option<String> {
    for one in with {
        let (audience, node) = &one.member;
        if let Some(trouble) = &one.trouble {
            return Some(format!("{node} ({audience}): {trouble}"));
        }
        if !one.in_service {
            return Some(format!("{node} ({audience}) left service after it had come there"));
        }
    }
    let roles: BTreeSet<_> = with.iter().map(|one| one.member.0.role()).collect();
    roles.into_iter().find_map(|role| {
        let of = |seen: &[&Seen]| {
            let mut sum = Sum::default();
            for one in seen.iter().filter(|one| one.member.0.role() == role) {
                sum.add(rollout.before.get(&one.member), one.health.as_ref());
            }
            sum
        };
        compare(policy, &of(with), &of(without))
    })
}

/// What clients met since the step began, and before it.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    since: ClientHealth,
    before: ClientHealth,
}

impl Sum {
    fn add(&mut self, before: Option<&ClientHealth>, now: Option<&ClientHealth>) {
        let (Some(before), Some(now)) = (before, now) else { return };
        // Numbers of another start of the process are not comparable.
        if before.start != now.start {
            return;
        }
        let more = |of: fn(&ClientHealth) -> u64| of(now).saturating_sub(of(before));
        let since = &mut self.since;
        since.requests += more(|health| health.requests);
        since.failed += more(|health| health.failed);
        since.handshakes += more(|health| health.handshakes);
        since.failed_handshakes += more(|health| health.failed_handshakes);
        since.busy_us += more(|health| health.busy_us);
        let sum = &mut self.before;
        sum.requests += before.requests;
        sum.failed += before.failed;
        sum.handshakes += before.handshakes;
        sum.failed_handshakes += before.failed_handshakes;
        sum.busy_us += before.busy_us;
    }
}

/// Whether clients of those who have it fare worse than those of the others now, or, without others, than they did.
fn compare(policy: &RolloutPolicy, with: &Sum, without: &Sum) -> Option<String> {
    let against = |of: fn(&ClientHealth) -> u64| {
        if of(&without.since) >= LEAST_REQUESTS {
            (without.since, "elsewhere")
        } else {
            (with.before, "before")
        }
    };
    let failed = |what: &str, all: fn(&ClientHealth) -> u64, failed: fn(&ClientHealth) -> u64| {
        let (other, where_other) = against(all);
        // Per ten thousand.
        let share = |of: &ClientHealth| failed(of) * 10_000 / all(of).max(1);
        let (here, there) = (share(&with.since), share(&other));
        (failed(&with.since) >= LEAST_FAILED && here > there + policy.max_failed_percent * 100).then(|| {
            format!(
                "{} of {} {what} failed where it had come, {}.{:02} %; {where_other} {}.{:02} %",
                failed(&with.since),
                all(&with.since),
                here / 100,
                here % 100,
                there / 100,
                there % 100
            )
        })
    };
    let requests = || failed("requests", |health| health.requests, |health| health.failed);
    let handshakes =
        || failed("TLS handshakes", |health| health.handshakes, |health| health.failed_handshakes);
    let slower = || {
        let (other, where_other) = against(|health| health.requests);
        let mean = |of: &ClientHealth| of.busy_us / of.requests.max(1);
        let (here, there) = (mean(&with.since), mean(&other));
        let enough = with.since.requests >= LEAST_REQUESTS && other.requests >= LEAST_REQUESTS;
        let most =
            there.saturating_add(there * policy.max_slower_percent / 100).saturating_add(LEAST_SLOWER_US);
        (enough && here > most).then(|| {
            format!(
                "a request took {} ms on average where it had come, {where_other} {} ms",
                here / 1_000,
                there / 1_000
            )
        })
    };
    requests().or_else(handshakes).or_else(slower)
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
