//! How the API behaves: bounds, waiting, callbacks.

use std::time::Duration;

use hosting_jobs::Bell;
use hosting_jobs::kinds::callback::CallbackRules;
use tokio_util::sync::CancellationToken;

use crate::browsers::Origin;
use crate::confirm::ConfirmRules;
use crate::rate_limit::RateLimits;

/// How the API behaves.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Largest request body in bytes.
    pub body_limit: usize,
    /// Largest body of a bulk in bytes.
    pub bulk_body_limit: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// `?wait=ready` without `wait_timeout`.
    pub default_wait: Duration,
    /// The longest `wait_timeout`.
    pub max_wait: Duration,
    /// Requests that may wait at a time, an eighth of them with one key; more are told to come back.
    pub max_waiting: usize,
    /// Streams of events at a time, an eighth of them with one key; more are told to come back.
    pub max_watching: usize,
    /// How often a stream of events shows that it stands, and looks whether its key still opens.
    pub heartbeat: Duration,
    /// How often it is written when keys were used last.
    pub key_uses_every: Duration,
    /// Refused requests of a key that get audit rows of their own within `refusal_window`; more are counted in one row.
    pub refusal_rows: u32,
    /// See `refusal_rows`.
    pub refusal_window: Duration,
    /// How often may be asked.
    pub rate_limits: RateLimits,
    /// Web pages of these origins may use the API from browsers.
    pub origins: Vec<Origin>,
    /// What counts as a large change, and what is asked of it.
    pub confirm: ConfirmRules,
    /// Where callbacks may go.
    pub callbacks: CallbackRules,
    /// Rung when a job is written.
    pub bell: Bell,
    /// Cancelled when the process drains: waiting requests are answered with what is known then.
    pub stop: CancellationToken,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            body_limit: 1024 * 1024,
            bulk_body_limit: 8 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            default_wait: Duration::from_secs(30),
            max_wait: Duration::from_secs(300),
            max_waiting: 1024,
            max_watching: 16_384,
            heartbeat: Duration::from_secs(15),
            key_uses_every: Duration::from_secs(60),
            refusal_rows: 100,
            refusal_window: Duration::from_secs(600),
            rate_limits: RateLimits::default(),
            origins: Vec::new(),
            confirm: ConfirmRules::default(),
            callbacks: CallbackRules::default(),
            bell: Bell::default(),
            stop: CancellationToken::new(),
        }
    }
}
