//! The client of a request that nobody waits for.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use hosting_edge_http1::AnswerHead;
use tokio::net::TcpStream;

use crate::exchange::{Client, ClientError, Timer};

/// Asks for nothing and takes everything.
pub(crate) struct Nobody(Timer);

impl Nobody {
    pub(crate) fn new() -> Self {
        Self(Timer::new())
    }
}

impl Client for Nobody {
    fn poll_body(
        &mut self,
        _: &mut Context<'_>,
        _: &mut BytesMut,
        _: bool,
    ) -> Poll<Result<Option<usize>, ClientError>> {
        Poll::Ready(Ok(None))
    }

    fn start(&mut self, _: &AnswerHead<'_>) -> Result<(), ClientError> {
        Ok(())
    }

    fn poll_send(&mut self, _: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, ClientError>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, _: bool) -> Result<(), ClientError> {
        Ok(())
    }

    fn poll_cancelled(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.0
    }

    fn can_upgrade(&self) -> bool {
        false
    }

    async fn tunnel(&mut self, _: TcpStream, _: BytesMut, _: Duration) {}
}
