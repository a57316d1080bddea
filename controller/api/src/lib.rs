//! REST: one route table for router, OpenAPI and the authorization matrix.
