//! What an edge passed on, told to the controller over the connection of its subscription.

use std::time::Duration;

use hosting_proto::feed::TrafficReport;
use hosting_proto::feed::intent_feed_client::IntentFeedClient;
use tokio::sync::watch;
use tonic::Code;

use super::Link;
use crate::dial::chain_text;

const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A way to the controller for reports of traffic.
#[derive(Debug, Clone)]
pub struct TrafficLink {
    link: watch::Receiver<Option<Link>>,
    audience: String,
}

/// Why a report did not arrive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrafficError {
    /// It would be refused again.
    #[error("the controller refuses it: {0}")]
    Refused(String),
    /// It is to be sent again.
    #[error("the controller did not take it: {0}")]
    NotTaken(String),
}

impl TrafficLink {
    pub(super) const fn new(link: watch::Receiver<Option<Link>>, audience: String) -> Self {
        Self { link, audience }
    }

    /// Waits for a connection, and gives the controller a report, whose audience is filled in.
    ///
    /// # Errors
    /// See [`TrafficError`].
    pub async fn send(&mut self, mut report: TrafficReport) -> Result<(), TrafficError> {
        report.audience.clone_from(&self.audience);
        let Ok(link) = self.link.wait_for(Option::is_some).await.map(|link| (*link).clone()) else {
            return Err(TrafficError::NotTaken("the subscription has ended".to_owned()));
        };
        let Some(link) = link else {
            return Err(TrafficError::NotTaken("there is no connection".to_owned()));
        };
        let mut client = IntentFeedClient::new(link.channel);
        let mut request = tonic::Request::new(report);
        request.set_timeout(CALL_TIMEOUT);
        match tokio::time::timeout(CALL_TIMEOUT, client.add_traffic(request)).await {
            Ok(Ok(_)) => Ok(()),
            // A controller of before is replaced by one that takes it.
            Ok(Err(status)) if status.code() == Code::InvalidArgument => {
                Err(TrafficError::Refused(chain_text(&status)))
            }
            Ok(Err(status)) => Err(TrafficError::NotTaken(chain_text(&status))),
            Err(_) => Err(TrafficError::NotTaken("no answer".to_owned())),
        }
    }
}
