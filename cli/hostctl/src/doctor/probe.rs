//! The first request: whether the API answers at all, over which certificate, and what its clock says.

use std::time::{Duration, Instant};

use jiff::{Timestamp, fmt::rfc2822};

use crate::api::{Api, ApiError, Glimpse};

/// What the first answer said beside its body.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub took: Duration,
    /// Its header Date minus this machine's clock in the middle of the exchange, in seconds.
    pub clock_ahead: Option<i64>,
    /// The certificate's end, where the connection has one.
    pub certificate_ends: Option<Timestamp>,
}

impl Probe {
    pub(super) async fn take(api: &Api, limit: Duration) -> Result<Self, ApiError> {
        let (begun, at) = (Instant::now(), Timestamp::now());
        let glimpse: Glimpse = api.glimpse("/healthz", limit).await?;
        let took = begun.elapsed();
        let date = glimpse.date.as_deref().and_then(|text| rfc2822::parse(text).ok());
        // Half of the way was there when it looked at its clock; the header has whole seconds, cut off.
        let middle = at.as_millisecond() + i64::try_from(took.as_millis() / 2).unwrap_or_default();
        let clock_ahead = date.map(|date| (date.timestamp().as_millisecond() + 500 - middle) / 1000);
        let certificate_ends = glimpse.certificate.as_deref().and_then(ends_at);
        Ok(Self { took, clock_ahead, certificate_ends })
    }
}

/// The end of a certificate in DER (RFC 5280 §4.1.2.5).
fn ends_at(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}
