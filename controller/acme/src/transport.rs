//! HTTP towards one authority: over TLS alone, no redirects, bounded in time and size.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::{Certificate, redirect};

/// One exchange.
const EXCHANGE: Duration = Duration::from_secs(30);
/// Connecting, the handshake included.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest answer: a chain of some certificates, or the problems of many names.
const MAX_ANSWER: usize = 1 << 20;
/// How we call ourselves (RFC 8555 §6.1 asks for it).
const AGENT: &str = concat!("hosting-platform/", env!("CARGO_PKG_VERSION"));

#[derive(Debug)]
pub(crate) struct Transport {
    client: reqwest::Client,
    /// What the last answer that was no success said in `Retry-After`.
    retry_after: Mutex<Option<Duration>>,
}

impl Transport {
    /// `root_pem`: who signs the authority's own certificate; empty: those that the system trusts.
    pub(crate) fn new(root_pem: &str) -> Result<Arc<Self>, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .https_only(true)
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(EXCHANGE);
        if !root_pem.trim().is_empty() {
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(root_pem.as_bytes())?);
        }
        Ok(Arc::new(Self { client: builder.build()?, retry_after: Mutex::default() }))
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A document that everybody may read.
    pub(crate) async fn get(&self, url: &str) -> Result<Bytes, Box<dyn StdError + Send + Sync>> {
        let request = Request::get(url).body(Bytes::new())?;
        Ok(self.exchange(request).await?.into_body())
    }

    async fn exchange(
        &self,
        mut request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Box<dyn StdError + Send + Sync>> {
        request.headers_mut().insert(http::header::USER_AGENT, http::HeaderValue::from_static(AGENT));
        let mut answer = self.client.execute(request.try_into()?).await?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(format!("its answer has more than {MAX_ANSWER} bytes").into());
            }
            body.extend_from_slice(&chunk);
        }
        *response.body_mut() = body.freeze();
        let seconds = response.headers().get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = seconds.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        if !response.status().is_success() {
            *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = wait;
        }
        Ok(response)
    }
}

/// The library's view of it.
pub(crate) struct Shared(pub(crate) Arc<Transport>);

impl HttpClient for Shared {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let transport = Arc::clone(&self.0);
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                // A body in memory does not fail.
                Err(never) => match never {},
            };
            let response =
                transport.exchange(Request::from_parts(parts, body)).await.map_err(Error::Other)?;
            let (parts, body) = response.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}
