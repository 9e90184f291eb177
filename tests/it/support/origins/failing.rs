//! Origins that fail: always, or while a test says so.

use std::{future::pending, io, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;

use super::{Exchange, Origin, Serve, Then};
use crate::support::wait::pass;

/// Kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A reset after the request was read, before any byte of a response.
    ResetBeforeResponse,
    /// A reset in the middle of a response of known length.
    ResetInBody,
    /// An end in the middle of a chunked response, without its last chunk.
    EndInChunks,
    /// An error page.
    Status(u16),
    /// No response at all.
    Hang,
    /// A proper response after this time.
    Late(Duration),
}

impl Failure {
    async fn happen(self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        match self {
            Self::ResetBeforeResponse => Ok(Then::Reset),
            Self::ResetInBody => {
                exchange
                    .write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly the beginning")
                    .await?;
                Ok(Then::Reset)
            }
            Self::EndInChunks => {
                exchange.begin("").await?;
                exchange.chunk(b"only the beginning").await?;
                Ok(Then::Close)
            }
            Self::Status(status) => exchange.reply(status, "", b"no").await,
            Self::Hang => pending().await,
            Self::Late(time) => {
                pass(time).await;
                exchange.json(&json!({ "status": "late" })).await
            }
        }
    }
}

/// Fails each request in the same way, except `/health`.
pub(crate) struct ResettingOrigin(Failure);

impl ResettingOrigin {
    pub(crate) async fn start(failure: Failure) -> Origin<Self> {
        Origin::listen(Self(failure)).await
    }
}

#[async_trait]
impl Serve for ResettingOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        if exchange.request.target == "/health" {
            return exchange.json(&json!({ "status": "ok" })).await;
        }
        self.0.happen(exchange).await
    }
}

/// Healthy or failing as the test says, health check included.
pub(crate) struct FlappingOrigin(Mutex<Option<Failure>>);

impl FlappingOrigin {
    pub(crate) async fn start() -> Origin<Self> {
        Origin::listen(Self(Mutex::new(None))).await
    }

    pub(crate) fn fail(&self, how: Failure) {
        *self.0.lock() = Some(how);
    }

    pub(crate) fn recover(&self) {
        *self.0.lock() = None;
    }
}

#[async_trait]
impl Serve for FlappingOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        let failure = *self.0.lock();
        if let Some(failure) = failure {
            return failure.happen(exchange).await;
        }
        let port = exchange.wire.stream.local_addr()?.port();
        exchange
            .json(&json!({ "status": "ok", "port": port }))
            .await
    }
}
