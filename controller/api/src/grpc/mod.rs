//! The intent API over gRPC (`hosting.intent_api.v1`, ADR 25), on the listener of the REST API.
//!
//! A call becomes the REST request that says the same, and goes through the same router in this process: one set of rights, checks, limits,
//! audit rows and metrics. Nothing here knows what a change does.
//!
//! | room | what is in it |
//! |---|---|
//! | `gate` | what is before each call: key, bounds of the message, deadline |
//! | `intents` | the service: messages to requests, answers to messages |
//! | `asked`, `bulk` | the REST request that a message means |
//! | `watch` | the stream of events |
//! | `status` | problems as gRPC statuses with details |
//! | `health` | the standard health service |

mod asked;
mod bulk;
mod gate;
mod health;
mod intents;
mod status;
mod watch;

use axum::Router;
use axum::extract::Request;
use axum::routing::any;
use hosting_proto::intent_api::DESCRIPTORS;
use hosting_proto::intent_api::intents_server::{IntentsServer, SERVICE_NAME};
use tonic_health::pb::health_server::{HealthServer, SERVICE_NAME as HEALTH};
use tonic_reflection::server::Builder;

use self::gate::{Bounds, pass};
use self::health::Standing;
use self::intents::Intents;
use crate::Api;

/// What a message may have beside the bodies in it, in bytes.
const FRAMING: usize = 64 * 1024;
/// Largest message of a service that has small ones, in bytes.
const SMALL: usize = 16 * 1024;

impl Api {
    /// The routes of the gRPC services; `rest` answers what their calls become.
    pub(crate) fn grpc_routes(&self, rest: &Router) -> Router {
        let api = self;
        let single = api.body_limit() + FRAMING;
        let bulk = api.bulk_body_limit() + FRAMING;
        let intents = IntentsServer::new(Intents::new(rest.clone())).max_decoding_message_size(bulk);
        let health = HealthServer::new(Standing::new(api.clone())).max_decoding_message_size(SMALL);
        let mut router = Router::new()
            .route(&paths_of(SERVICE_NAME), {
                let bounds = Bounds { single, bulk };
                let api = api.clone();
                any(move |request: Request| pass(api.clone(), intents.clone(), bounds, request))
            })
            .route(&paths_of(HEALTH), {
                let bounds = Bounds { single: SMALL, bulk: SMALL };
                let api = api.clone();
                any(move |request: Request| pass(api.clone(), health.clone(), bounds, request))
            });
        let builder = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let bounds = Bounds { single: SMALL, bulk: SMALL };
        // The descriptors are made with this build: a test reads them through both.
        if let Ok(v1) = builder().build_v1() {
            let (api, v1) = (api.clone(), v1.max_decoding_message_size(SMALL));
            router = router.route(
                "/grpc.reflection.v1.ServerReflection/{rpc}",
                any(move |request: Request| pass(api.clone(), v1.clone(), bounds, request)),
            );
        }
        if let Ok(v1alpha) = builder().build_v1alpha() {
            let (api, v1alpha) = (api.clone(), v1alpha.max_decoding_message_size(SMALL));
            router = router.route(
                "/grpc.reflection.v1alpha.ServerReflection/{rpc}",
                any(move |request: Request| pass(api.clone(), v1alpha.clone(), bounds, request)),
            );
        }
        router
    }
}

fn paths_of(service: &str) -> String {
    format!("/{service}/{{rpc}}")
}
