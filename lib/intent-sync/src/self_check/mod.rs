//! Whether what a subscriber applied is what its own listeners answer: what is to be asked for, in which order, and what came out.
//!
//! An acknowledgement says that a batch went into the role's tables. That a visitor gets it is another thing: the tables may not be those
//! that the listeners read, and the listeners may be dead. So a role asks itself, as a client would ([`SelfCheck`]), and says what it
//! found in [`wire::Served`]. `checks` is pure; `run` is its shell, [`Checked`] the replica that feeds it. No acknowledgement waits
//! for a check. The newest item is asked for first, so that a long queue does not delay whoever waits for a change of now; what does not
//! fit the queue is given up, and said to be sampled.

mod checks;
mod ranges;
mod run;
#[cfg(test)]
mod tests;

pub use hosting_proto::feed::Health;

pub use self::run::{CheckMetrics, Checked, HealthSource, SelfCheck, SelfChecks, ServedWatch};
