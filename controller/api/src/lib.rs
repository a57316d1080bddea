//! REST: one route table for router, OpenAPI and the authorization matrix.
//!
//! Authenticates, authorizes by the resource's chain (tenant → brand), hands bodies to the kinds (`hosting-resource`) and
//! changes to the planner inside the store's write transaction, keeps the audit log, and waits for the fleet. It never
//! decides what a change means for machines, and never writes a row that the planner or the store did not make. Called by
//! the controller's wiring, which serves [`Api::router`].
//!
//! | room | what is in it |
//! |---|---|
//! | `route`, `query`, `unserved` | the table; the parameters of each route; the routes that are not built yet |
//! | `service`, `request`, `subject` | from HTTP to a checked call and back: ids, traces, keys, preconditions, bodies, metrics |
//! | `answer`, `reply`, `preconditions`, `problem` | what surrounds every answer; successes; entity tags; what failures are called |
//! | `browsers`, `compression` | web pages of other origins; answers that are sent compressed |
//! | `fallback` | readiness, wrong methods, routes that are not built yet |
//! | `trace` | ids of requests, W3C Trace Context |
//! | `audit`, `turns`, `rate_limit`, `key_uses` | rows of requests, refused ones counted; a key's large requests one after another; its rate; when it was used last |
//! | `read`, `prepare`, `write` | what reads do; what of a change is worked out beforehand; what it does |
//! | `bulk/` | many changes in one call |
//! | `actions/` | routes beyond creating, reading, changing and deleting; jobs among them |
//! | `wait`, `receipt` | where resources stand; `?wait=ready`, workflows; whether machines serve what they applied |
//! | `grpc/`, `paths` | the same API over gRPC; how kinds and ids are spelt as paths |
//! | `events`, `watcher` | what becomes of resources, kept once for all who watch |
//! | `explain`, `fleet` | the way of a name; subscribers, join tokens, dead nodes |
//! | `openapi`, `bodies`, `view_fields`, `redact` | the reference; bodies without a kind; what is shown of a kind; secrets out of audit rows |
//! | `history`, `explain_past` | what resources and names were |
//! | `platform` | what it needs of the running controller |
#![warn(clippy::wildcard_enum_match_arm)]

mod actions;
mod answer;
mod audit;
mod auth;
mod bodies;
mod browsers;
mod bulk;
mod compression;
mod config;
mod confirm;
mod error;
mod events;
mod explain;
mod explain_past;
mod fallback;
mod fleet;
mod grpc;
mod history;
mod idempotency;
mod key_uses;
mod merge_patch;
mod metrics;
mod openapi;
mod passwords;
mod paths;
mod plan;
mod platform;
mod preconditions;
mod prepare;
mod problem;
mod query;
mod rate_limit;
mod read;
mod receipt;
mod redact;
mod reply;
mod request;
mod route;
mod service;
mod subject;
mod trace;
mod turns;
mod undelete;
mod unserved;
mod view_fields;
mod wait;
mod watcher;
mod write;

pub use auth::Principal;
pub use browsers::{Origin, OriginError};
pub use config::ApiConfig;
pub use confirm::ConfirmRules;
pub use error::ApiError;
pub use platform::{
    AuthoritiesView, AuthorityChange, AuthorityError, AuthorityView, ExceptionView, JoinTokenError,
    KekChange, KekChangeError, NewJoinToken, NotServed, Platform, RequestNews, ServedView, SubscriberView,
};
pub use problem::Problem;
pub use query::{Param, Takes};
pub use rate_limit::{Rate, RateLimits};
pub use route::{Action, BASE, Op, Route, Scope, Shape, table};
pub use service::Api;
pub use unserved::unserved;
