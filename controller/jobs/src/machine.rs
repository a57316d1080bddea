//! What happens to a job: pure, without clock, store or randomness. Every function takes the job as it is stored and changes it as it is
//! to be stored; the caller writes it if nobody else has written it since.
//!
//! A step is begun in one transaction, has its effect, and is recorded in another one. Whoever claims a job draws a new fence, and a
//! record under an older fence is refused ([`Lost`]): a step is recorded by one runner, once. A step that was begun and not recorded may
//! have had its effect, so the next runner asks before it repeats ([`Move::Ask`]).

use hosting_scaffold::text::one_line;
use hosting_store::{Job, JobState, JobStep, StepState};
use serde_json::Value;

/// Longest error or progress that is kept, in bytes.
const MAX_TEXT: usize = 500;

/// What a runner does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Do the step at this place.
    Run(usize),
    /// The step at this place may have been done: find out, and do it if it was not. Failing to find out is [`Again::Unsure`].
    Ask(usize),
    /// Undo the step at this place, which may be undone already.
    Undo(usize),
    /// The job has ended.
    Ended,
    /// The lease is given back; the job is due again at its `next_at`.
    Rest,
}

/// How patient a kind is. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failed attempt; it doubles with each further one.
    pub first: i64,
    /// The longest delay.
    pub most: i64,
}

impl Backoff {
    /// The delay after so many failed attempts: between half of the doubled delay and all of it, by `random` from 0 to 1, so that what
    /// failed together is not tried again together.
    #[must_use]
    pub fn delay(self, attempts: u32, random: f64) -> i64 {
        let doublings = attempts.saturating_sub(1).min(40);
        let whole = self.first.saturating_mul(1_i64 << doublings).clamp(1, self.most.max(1));
        let half = whole / 2;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "a delay has few bits, and jitter needs no precision"
        )]
        let jitter = (random.clamp(0.0, 1.0) * (whole - half) as f64) as i64;
        half + jitter
    }
}

/// What the machine has to know of a kind and of the moment.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'r> {
    /// The names of the kind's steps, in order; at least one.
    pub steps: &'r [&'r str],
    /// Whether what a step did can be undone.
    pub undoes: bool,
    /// How patient the kind is.
    pub backoff: Backoff,
    /// How long a lease lasts, in milliseconds.
    pub lease: i64,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
    /// From 0 to 1, for jitter.
    pub random: f64,
}

/// Whether a failed step is tried again, and what it may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// No: another attempt would fail as well. It had no effect.
    Never,
    /// Yes; this attempt had no effect.
    Later,
    /// Yes, after asking: this attempt may have had its effect.
    Unsure,
}

/// How a step, or its undoing, went.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is done. What it leaves for later steps; `Null` for nothing.
    Done(Value),
    /// A part of it is done, and the next part follows at once. How far it is, in words.
    More(String),
    /// An attempt failed, with the reason for people: it must hold no secret.
    Failed(String, Again),
    /// It cannot be begun now, which is no failed attempt: not before so many milliseconds from now.
    Postponed(i64),
}

/// Another runner has the job, or it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease on the job is over, and another runner has it")]
pub struct Lost;

/// Why a person cannot cancel or retry a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has ended, or its cancellation is under way.
    #[error("job {0} is {1} and cannot be cancelled")]
    NotToCancel(String, &'static str),
    /// It is under way, or has done what it was for.
    #[error(
        "job {0} is {1} and cannot be tried again; that is for jobs that failed, were cancelled, or wait for their next attempt"
    )]
    NotToRetry(String, &'static str),
}

/// What is to be done about a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The job itself is changed: write it.
    Written,
    /// A runner has it: note the wish, which the runner sees when it records.
    Noted,
}

/// Takes a job that is due: draws a new fence, and says what to do first. `None` when it is not due.
pub fn claim(job: &mut Job, owner: &str, rules: &Rules<'_>) -> Option<Move> {
    if job.ended_at.is_some() || job.next_at.is_none_or(|at| at > rules.now) {
        return None;
    }
    job.fence += 1;
    job.started_at.get_or_insert(rules.now);
    hold(job, owner, rules);
    if job.state == JobState::Undoing {
        return Some(undo(job, rules));
    }
    if job.cancelled_by.is_some() {
        return Some(give_up(job, None, rules));
    }
    job.state = JobState::Running;
    let at = job.steps.len().saturating_sub(1);
    match job.steps.last_mut() {
        Some(step) if matches!(step.state, StepState::Running | StepState::Failed) => {
            if job.attempts >= job.attempt_limit {
                let why = step.error.clone().unwrap_or_else(|| "its runner was lost each time".to_owned());
                let why =
                    format!("step {} was begun {} times without success: {why}", step.name, job.attempts);
                return Some(give_up(job, Some(&why), rules));
            }
            job.attempts += 1;
            step.attempts += 1;
            let asks = step.state == StepState::Running;
            step.state = StepState::Running;
            Some(if asks { Move::Ask(at) } else { Move::Run(at) })
        }
        Some(_) | None => Some(begin_next(job, rules)),
    }
}

/// Records how a move under `fence` went, and says what to do next.
///
/// # Errors
/// [`Lost`] when another runner has the job, or the move is recorded already; nothing is changed.
pub fn record(
    job: &mut Job,
    fence: u64,
    moved: Move,
    outcome: Outcome,
    rules: &Rules<'_>,
) -> Result<Move, Lost> {
    if !holds(job, fence) || !is_under_way(job, moved) {
        return Err(Lost);
    }
    let owner = job.lease_owner.clone().unwrap_or_default();
    hold(job, &owner, rules);
    if job.state == JobState::Undoing {
        return Ok(record_undone(job, outcome, rules));
    }
    let now = rules.now;
    let Some(step) = job.steps.last_mut() else { return Err(Lost) };
    Ok(match outcome {
        Outcome::Done(result) => {
            step.state = StepState::Done;
            step.ended_at = Some(now);
            step.error = None;
            step.result = result;
            job.error = None;
            if job.cancelled_by.is_some() && job.steps.len() < rules.steps.len() {
                give_up(job, None, rules)
            } else {
                begin_next(job, rules)
            }
        }
        Outcome::More(progress) => {
            job.progress = Some(short(&progress));
            job.error = None;
            // A part that went well is no attempt that failed.
            job.attempts = 1;
            step.error = None;
            if job.cancelled_by.is_some() {
                give_up(job, None, rules)
            } else {
                Move::Run(job.steps.len() - 1)
            }
        }
        Outcome::Postponed(delay) => {
            job.attempts = job.attempts.saturating_sub(1);
            take_back_attempt(job);
            job.state = JobState::Retrying;
            rest(job, delay, rules)
        }
        Outcome::Failed(error, again) => {
            let error = short(&error);
            step.ended_at = Some(now);
            step.error = Some(error.clone());
            if again != Again::Unsure {
                step.state = StepState::Failed;
            }
            if again == Again::Never || job.attempts >= job.attempt_limit || job.cancelled_by.is_some() {
                give_up(job, Some(&error), rules)
            } else {
                job.error = Some(error);
                job.state = JobState::Retrying;
                let delay = rules.backoff.delay(job.attempts, rules.random);
                rest(job, delay, rules)
            }
        }
    })
}

/// Gives a job back between two moves, so that another runner takes it at once: this one is about to end. The move that was to come
/// has not begun.
///
/// # Errors
/// [`Lost`] when another runner has the job; nothing is changed.
pub fn hand_over(job: &mut Job, fence: u64, rules: &Rules<'_>) -> Result<Move, Lost> {
    if !holds(job, fence) {
        return Err(Lost);
    }
    job.attempts = job.attempts.saturating_sub(1);
    if job.state == JobState::Running {
        take_back_attempt(job);
        job.state = JobState::Retrying;
    }
    Ok(rest(job, 0, rules))
}

/// Gives a job back in the middle of a move, which may have its effect yet: whoever takes it asks.
///
/// # Errors
/// [`Lost`] when another runner has the job; nothing is changed.
pub fn abandon(job: &mut Job, fence: u64, rules: &Rules<'_>) -> Result<Move, Lost> {
    if holds(job, fence) { Ok(rest(job, 0, rules)) } else { Err(Lost) }
}

fn holds(job: &Job, fence: u64) -> bool {
    job.fence == fence && job.ended_at.is_none() && job.lease_owner.is_some()
}

/// Whether a move is the one that the job is at. A commit that seemed to fail may have been kept, and is recorded a second time.
fn is_under_way(job: &Job, moved: Move) -> bool {
    let at = job.steps.iter().rposition(|step| has_effect(step.state));
    match moved {
        Move::Run(place) | Move::Ask(place) => {
            let running = job.steps.get(place).is_some_and(|step| step.state == StepState::Running);
            job.state == JobState::Running && running && at == Some(place)
        }
        Move::Undo(place) => job.state == JobState::Undoing && at == Some(place),
        Move::Ended | Move::Rest => false,
    }
}

/// The attempt at the last step has not begun after all.
fn take_back_attempt(job: &mut Job) {
    let Some(step) = job.steps.last_mut().filter(|step| step.state == StepState::Running) else { return };
    step.attempts = step.attempts.saturating_sub(1);
    step.state = StepState::Failed;
    if step.attempts == 0 {
        job.steps.pop();
    }
}

/// Cancels a job that has not ended: what is done is undone, if its kind `undoes`.
///
/// # Errors
/// [`Refused`] when there is nothing left to cancel.
pub fn cancel(job: &mut Job, by: &str, undoes: bool, now: i64) -> Result<Cancelled, Refused> {
    match job.state {
        JobState::Running => return Ok(Cancelled::Noted),
        JobState::Waiting | JobState::Retrying => {}
        state @ (JobState::Undoing
        | JobState::Done
        | JobState::Failed
        | JobState::Cancelled
        | JobState::Undone) => {
            return Err(Refused::NotToCancel(job.id.clone(), state.as_str()));
        }
    }
    job.cancelled_by.get_or_insert_with(|| by.to_owned());
    if undoes && job.steps.iter().any(|step| has_effect(step.state)) {
        job.state = JobState::Undoing;
        job.attempts = 0;
        // A job behind another one of its lane has no step that was begun, so this one is at the head.
        job.next_at = Some(now);
        job.set_at = now;
    } else {
        end(job, JobState::Cancelled, now);
    }
    Ok(Cancelled::Written)
}

/// What a person's wish to try a job again means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// It waits for its next attempt, which comes now: write it.
    Sooner,
    /// It had ended: write it, and put it at the end of its lane.
    Anew,
}

/// What an outcome comes to where the job was woken while a runner worked on it: it neither rests nor ends before it has looked again.
#[must_use]
pub fn again(job: &Job, outcome: Outcome, rules: &Rules<'_>) -> Outcome {
    match outcome {
        Outcome::Postponed(_) => Outcome::Postponed(0),
        Outcome::Done(_) if job.state == JobState::Running && job.steps.len() == rules.steps.len() => {
            Outcome::Postponed(0)
        }
        other @ (Outcome::Done(_) | Outcome::More(_) | Outcome::Failed(..)) => other,
    }
}

/// Tries a job again: at once, what waits for its next attempt; from the first step that is not done, what has ended without success.
///
/// # Errors
/// [`Refused`] when it is under way or has succeeded.
pub fn retry(job: &mut Job, now: i64) -> Result<Retried, Refused> {
    match job.state {
        JobState::Retrying => {
            job.next_at = Some(now);
            job.set_at = now;
            return Ok(Retried::Sooner);
        }
        JobState::Failed | JobState::Cancelled | JobState::Undone => {}
        state @ (JobState::Waiting | JobState::Running | JobState::Undoing | JobState::Done) => {
            return Err(Refused::NotToRetry(job.id.clone(), state.as_str()));
        }
    }
    // Undoing goes backwards, so what is still done are the first steps.
    let done = job.steps.iter().take_while(|step| step.state == StepState::Done).count();
    job.steps.truncate(done);
    job.state = JobState::Waiting;
    job.attempts = 0;
    job.error = None;
    job.progress = None;
    job.cancelled_by = None;
    job.lease_owner = None;
    job.ended_at = None;
    job.due_at = now;
    job.set_at = now;
    Ok(Retried::Anew)
}

/// Whether a step in this state may have left something to undo.
const fn has_effect(state: StepState) -> bool {
    match state {
        StepState::Running | StepState::Done | StepState::Undoing => true,
        StepState::Failed | StepState::Undone => false,
    }
}

fn hold(job: &mut Job, owner: &str, rules: &Rules<'_>) {
    job.lease_owner = Some(owner.to_owned());
    job.next_at = Some(rules.now.saturating_add(rules.lease));
    job.set_at = rules.now;
}

fn rest(job: &mut Job, delay: i64, rules: &Rules<'_>) -> Move {
    job.lease_owner = None;
    job.next_at = Some(rules.now.saturating_add(delay.max(0)));
    job.set_at = rules.now;
    Move::Rest
}

fn end(job: &mut Job, state: JobState, now: i64) -> Move {
    job.state = state;
    job.lease_owner = None;
    job.next_at = None;
    job.set_at = now;
    job.ended_at = Some(now);
    Move::Ended
}

fn begin_next(job: &mut Job, rules: &Rules<'_>) -> Move {
    let place = job.steps.len();
    let Some(name) = rules.steps.get(place) else { return end(job, JobState::Done, rules.now) };
    job.steps.push(JobStep {
        name: (*name).to_owned(),
        state: StepState::Running,
        attempts: 1,
        started_at: rules.now,
        ended_at: None,
        error: None,
        result: Value::Null,
    });
    job.attempts = 1;
    Move::Run(place)
}

/// Begins to undo, or ends when there is nothing to undo. `why` is `None` for a cancellation.
fn give_up(job: &mut Job, why: Option<&str>, rules: &Rules<'_>) -> Move {
    match (why, &job.cancelled_by) {
        (Some(why), _) => job.error = Some(short(why)),
        (None, Some(by)) => job.error = Some(short(&format!("cancelled by {by}"))),
        (None, None) => {}
    }
    job.attempts = 0;
    if rules.undoes && job.steps.iter().any(|step| has_effect(step.state)) {
        job.state = JobState::Undoing;
        return undo(job, rules);
    }
    let state = if why.is_none() { JobState::Cancelled } else { JobState::Failed };
    end(job, state, rules.now)
}

/// The last step that may have an effect is to be undone.
fn undo(job: &mut Job, rules: &Rules<'_>) -> Move {
    let Some(place) = job.steps.iter().rposition(|step| has_effect(step.state)) else {
        return end(job, JobState::Undone, rules.now);
    };
    if job.attempts >= job.attempt_limit {
        let name = job.steps.get(place).map(|step| step.name.clone()).unwrap_or_default();
        return leave_undone(
            job,
            &format!("the undoing of step {name} was begun {} times", job.attempts),
            rules,
        );
    }
    job.attempts += 1;
    if let Some(step) = job.steps.get_mut(place) {
        step.state = StepState::Undoing;
    }
    Move::Undo(place)
}

/// Ends a job whose undoing does not succeed. What is left is in the error and in the steps.
fn leave_undone(job: &mut Job, why: &str, rules: &Rules<'_>) -> Move {
    let before = job.error.take().map(|error| format!("{error}; ")).unwrap_or_default();
    job.error = Some(short(&format!("{before}not all of it could be undone: {why}")));
    end(job, JobState::Failed, rules.now)
}

fn record_undone(job: &mut Job, outcome: Outcome, rules: &Rules<'_>) -> Move {
    let Some(place) = job.steps.iter().rposition(|step| has_effect(step.state)) else {
        return end(job, JobState::Undone, rules.now);
    };
    let Some(step) = job.steps.get_mut(place) else { return end(job, JobState::Undone, rules.now) };
    match outcome {
        Outcome::Done(_) => {
            step.state = StepState::Undone;
            step.ended_at = Some(rules.now);
            job.attempts = 0;
            undo(job, rules)
        }
        Outcome::More(progress) => {
            job.progress = Some(short(&progress));
            job.attempts = 1;
            Move::Undo(place)
        }
        Outcome::Postponed(delay) => {
            job.attempts = job.attempts.saturating_sub(1);
            rest(job, delay, rules)
        }
        Outcome::Failed(error, again) => {
            let error = short(&error);
            step.ended_at = Some(rules.now);
            step.error = Some(error.clone());
            let name = step.name.clone();
            if again == Again::Never || job.attempts >= job.attempt_limit {
                return leave_undone(job, &format!("step {name}: {error}"), rules);
            }
            let delay = rules.backoff.delay(job.attempts, rules.random);
            rest(job, delay, rules)
        }
    }
}

/// Without control characters, and not too long.
fn short(text: &str) -> String {
    one_line(text, MAX_TEXT)
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
