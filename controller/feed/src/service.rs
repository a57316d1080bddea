//! The `IntentFeed` service by hand, because generated code would encode every frame anew for every session.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes};
use hosting_proto::feed::{
    ReportRequest, ReportResponse, RequestsDown, RequestsUp, TrafficAdded, TrafficReport, Up,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::requests;
use crate::session;
use crate::shared::Shared;
use crate::traffic;

/// An Ack lists at most about a thousand exceptions.
const MAX_UP_BYTES: usize = 2 << 20;
/// A full report of every key of a node.
const MAX_REPORT_BYTES: usize = 16 << 20;

/// A thousand tenants take about 100 KiB.
const MAX_TRAFFIC_BYTES: usize = 512 << 10;
/// 64 lines of 10 KiB each at most, mostly of half a KiB.
const MAX_REQUESTS_BYTES: usize = 1 << 20;

/// Frames down as bytes that were encoded before, messages up as usual.
#[derive(Debug, Clone, Copy, Default)]
struct FrameCodec;

#[derive(Debug)]
struct FrameEncoder;

impl Codec for FrameCodec {
    type Encode = Bytes;
    type Decode = Up;
    type Encoder = FrameEncoder;
    type Decoder = UpDecoder;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> UpDecoder {
        UpDecoder
    }
}

impl Encoder for FrameEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.len());
        out.put(frame);
        Ok(())
    }
}

#[derive(Debug)]
struct UpDecoder;

impl Decoder for UpDecoder {
    type Item = Up;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Up>, Status> {
        prost::Message::decode(buf)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("not a frame: {error}")))
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

struct Subscribe(Arc<Shared>);

impl StreamingService<Up> for Subscribe {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Answer<Response<Self::ResponseStream>>;

    fn call(&mut self, request: Request<Streaming<Up>>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { session::subscribe(shared, request) })
    }
}

struct Report(Arc<Shared>);

impl UnaryService<ReportRequest> for Report {
    type Response = ReportResponse;
    type Future = Answer<Response<ReportResponse>>;

    fn call(&mut self, request: Request<ReportRequest>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { session::report(&shared, request).await })
    }
}

struct AddTraffic(Arc<Shared>);

impl UnaryService<TrafficReport> for AddTraffic {
    type Response = TrafficAdded;
    type Future = Answer<Response<TrafficAdded>>;

    fn call(&mut self, request: Request<TrafficReport>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { traffic::add_traffic(&shared, request).await })
    }
}

struct TellRequests(Arc<Shared>);

impl StreamingService<RequestsUp> for TellRequests {
    type Response = RequestsDown;
    type ResponseStream = ReceiverStream<Result<RequestsDown, Status>>;
    type Future = Answer<Response<Self::ResponseStream>>;

    fn call(&mut self, request: Request<Streaming<RequestsUp>>) -> Self::Future {
        Box::pin(requests::tell_requests(Arc::clone(&self.0), request))
    }
}

/// Routes the methods.
#[derive(Clone)]
pub(crate) struct IntentFeedService {
    pub(crate) shared: Arc<Shared>,
}

impl NamedService for IntentFeedService {
    const NAME: &'static str = "hosting.feed.v1.IntentFeed";
}

impl tower::Service<http::Request<Body>> for IntentFeedService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/hosting.feed.v1.IntentFeed/Subscribe" => {
                    let mut grpc = Grpc::new(FrameCodec).max_decoding_message_size(MAX_UP_BYTES);
                    grpc.streaming(Subscribe(shared), request).await
                }
                "/hosting.feed.v1.IntentFeed/Report" => {
                    let codec = ProstCodec::<ReportResponse, ReportRequest>::default();
                    let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REPORT_BYTES);
                    grpc.unary(Report(shared), request).await
                }
                "/hosting.feed.v1.IntentFeed/AddTraffic" => {
                    let codec = ProstCodec::<TrafficAdded, TrafficReport>::default();
                    let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_TRAFFIC_BYTES);
                    grpc.unary(AddTraffic(shared), request).await
                }
                "/hosting.feed.v1.IntentFeed/TellRequests" => {
                    let codec = ProstCodec::<RequestsDown, RequestsUp>::default();
                    let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUESTS_BYTES);
                    grpc.streaming(TellRequests(shared), request).await
                }
                path => Status::unimplemented(format!("there is no {path}")).into_http(),
            })
        })
    }
}
