//! What a kind of job says of itself: parameters, steps, how they are undone, how patient it is.

use std::time::Duration;

use async_trait::async_trait;
use hosting_store::{Job, JobWait};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::machine::{Again, Backoff, Outcome};
use crate::pace::Rate;

/// What is the same for all jobs of a kind.
#[derive(Debug, Clone, Copy)]
pub struct KindFacts {
    /// Its name, as the API and the store spell it.
    pub name: &'static str,
    /// One sentence for people.
    pub about: &'static str,
    /// The names of its steps, in order; at least one.
    pub steps: &'static [&'static str],
    /// Whether a step's effect can be taken back. Otherwise a job that is cancelled or given up leaves what it did as it is.
    pub undoes: bool,
}

/// How patient a kind is, and how much of it happens at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A job is given up after so many attempts of one step; at least one.
    pub attempts: u32,
    /// How long to wait between two attempts.
    pub backoff: Backoff,
    /// How fast jobs may begin, over all controllers.
    pub rate: Rate,
    /// Jobs of the kind that one controller works on at once; at least one.
    pub at_once: u32,
    /// One attempt of a step may take so long; after that it counts as failed, with its effect unknown.
    pub step_time: Duration,
}

/// The step that is to be done, asked for, or undone.
#[derive(Debug, Clone, Copy)]
pub struct At<'j, P> {
    /// Its place in [`KindFacts::steps`].
    pub place: usize,
    /// The parameters of the job.
    pub params: &'j P,
    /// The job with the steps that it has begun.
    pub job: &'j Job,
    /// How the resources settled that it waited for.
    pub waits: &'j [JobWait],
}

/// How an attempt at a step went well.
#[derive(Debug, Clone, PartialEq)]
pub enum Went {
    /// All of it is done. What it leaves for later steps; `Null` for nothing.
    Done(Value),
    /// A part of it is done, and the next part follows at once. How far it is, in words.
    More(String),
    /// It cannot be begun now, which is no failed attempt: not before so long from now.
    Postponed(Duration),
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people: what is wrong and what to do. It is kept, shown and logged, so it must hold no secret.
    pub why: String,
    /// Whether to try again.
    pub again: Again,
    /// No job of the kind begins for so long: the other side asked for less.
    pub cooldown: Option<Duration>,
}

impl Failure {
    /// Another attempt would fail as well; this one had no effect.
    pub fn finally(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: Again::Never, cooldown: None }
    }

    /// To be tried again; this attempt had no effect.
    pub fn later(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: Again::Later, cooldown: None }
    }

    /// To be tried again after asking; this attempt may have had its effect.
    pub fn unsure(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: Again::Unsure, cooldown: None }
    }

    /// And no job of the kind begins for so long.
    #[must_use]
    pub fn cooling(self, cooldown: Duration) -> Self {
        Self { cooldown: Some(cooldown), ..self }
    }
}

/// What asking for a step's effect found.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// It is there; what the step leaves for later ones.
    Happened(Value),
    /// It is not there, or doing the step once more does no harm.
    NotHappened,
}

/// A kind of job. One file in `kinds/` for each, and one line in the table there.
#[async_trait]
pub trait JobKind: Send + Sync + 'static {
    /// The parameters, kept with the job as JSON.
    type Params: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What is the same for all jobs of the kind.
    const FACTS: KindFacts;

    /// How patient it is.
    fn limits(&self) -> Limits;

    /// When the next job of a recurring kind is due, in milliseconds since the Unix epoch and after `now`, with its parameters. There is
    /// always one such job; the next one is enqueued as one ends, however it ends.
    fn next_run(&self, _now: i64) -> Option<(i64, Self::Params)> {
        None
    }

    /// What the API shows of the parameters: nothing secret.
    fn show(params: &Self::Params) -> Value;

    /// Does a step, or a part of it. It may be dropped at any await: the lease was lost, or the step took too long.
    async fn step(&self, at: At<'_, Self::Params>) -> Result<Went, Failure>;

    /// Whether a step that was begun and not recorded has had its effect. A kind whose steps may be repeated without harm need not ask.
    async fn ask(&self, _at: At<'_, Self::Params>) -> Result<Asked, Failure> {
        Ok(Asked::NotHappened)
    }

    /// Takes a step's effect back, whether it is there, is there in part, or is gone already. Asked of kinds that say so in their
    /// facts.
    async fn undo(&self, _at: At<'_, Self::Params>) -> Result<(), Failure> {
        Ok(())
    }
}

/// A [`JobKind`] whatever its parameters are.
#[async_trait]
pub trait AnyKind: Send + Sync + 'static {
    /// See [`JobKind::FACTS`].
    fn facts(&self) -> KindFacts;

    /// See [`JobKind::limits`].
    fn limits(&self) -> Limits;

    /// See [`JobKind::next_run`].
    fn next_run(&self, now: i64) -> Option<(i64, Value)>;

    /// See [`JobKind::step`].
    async fn step(&self, place: usize, job: &Job, waits: &[JobWait]) -> Result<Went, Failure>;

    /// See [`JobKind::ask`].
    async fn ask(&self, place: usize, job: &Job, waits: &[JobWait]) -> Result<Asked, Failure>;

    /// See [`JobKind::undo`].
    async fn undo(&self, place: usize, job: &Job, waits: &[JobWait]) -> Result<(), Failure>;
}

fn read<P: DeserializeOwned>(job: &Job) -> Result<P, Failure> {
    serde_json::from_value(job.params.clone())
        .map_err(|error| Failure::finally(format!("this build cannot read the job's parameters: {error}")))
}

#[async_trait]
impl<K: JobKind> AnyKind for K {
    fn facts(&self) -> KindFacts {
        K::FACTS
    }

    fn limits(&self) -> Limits {
        JobKind::limits(self)
    }

    fn next_run(&self, now: i64) -> Option<(i64, Value)> {
        let (due_at, params) = JobKind::next_run(self, now)?;
        // Parameters are plain structs; one that JSON cannot hold is read as a failure of its job.
        Some((due_at, serde_json::to_value(params).unwrap_or_default()))
    }

    async fn step(&self, place: usize, job: &Job, waits: &[JobWait]) -> Result<Went, Failure> {
        let params = read::<K::Params>(job)?;
        JobKind::step(self, At { place, params: &params, job, waits }).await
    }

    async fn ask(&self, place: usize, job: &Job, waits: &[JobWait]) -> Result<Asked, Failure> {
        let params = read::<K::Params>(job)?;
        JobKind::ask(self, At { place, params: &params, job, waits }).await
    }

    async fn undo(&self, place: usize, job: &Job, waits: &[JobWait]) -> Result<(), Failure> {
        let params = read::<K::Params>(job)?;
        JobKind::undo(self, At { place, params: &params, job, waits }).await
    }
}

impl From<Went> for Outcome {
    fn from(went: Went) -> Self {
        match went {
            Went::Done(result) => Self::Done(result),
            Went::More(progress) => Self::More(progress),
            Went::Postponed(delay) => Self::Postponed(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}
