//! Origins that close connections which a gateway still considers usable.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;
use tokio::time::timeout;

use super::{Exchange, Origin, Serve, Then};
use crate::support::wait::pass;

/// Closes a connection that was idle for `idle`, without looking for data in flight: a request that
/// arrives at that moment meets a reset, as with Node's `keepAliveTimeout`.
pub(crate) struct ClosingOrigin {
    idle: Duration,
    /// Set if it sends `Keep-Alive: timeout=…`, as Node does.
    sends_timeout: bool,
    closed: AtomicU64,
}

impl ClosingOrigin {
    pub(crate) async fn start(idle: Duration) -> Origin<Self> {
        Self::listen(idle, true).await
    }

    /// Starts an origin that never tells its clients.
    pub(crate) async fn start_silent(idle: Duration) -> Origin<Self> {
        Self::listen(idle, false).await
    }

    async fn listen(idle: Duration, sends_timeout: bool) -> Origin<Self> {
        let origin = Self {
            idle,
            sends_timeout,
            closed: AtomicU64::new(0),
        };
        Origin::listen(origin).await
    }

    /// Number of connections that it closed because they were idle.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Serve for ClosingOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        let keep_alive = if self.sends_timeout {
            format!("keep-alive: timeout={}\r\n", self.idle.as_secs())
        } else {
            String::new()
        };
        let length = exchange.drain().await?;
        let body = json!({ "length": length }).to_string();
        exchange.reply(200, &keep_alive, body.as_bytes()).await?;
        // Readable means a next request (or the client's end): the caller handles both.
        let waited = timeout(self.idle, exchange.wire.stream.readable()).await;
        if waited.is_err() {
            self.closed.fetch_add(1, Ordering::SeqCst);
            return Ok(Then::Close);
        }
        Ok(Then::Keep)
    }
}

/// Serves the first request of each connection, and drops the connection when a second one arrives:
/// the same as losing the race with [`ClosingOrigin`] every time.
pub(crate) struct OnceOrigin;

impl OnceOrigin {
    pub(crate) async fn start() -> Origin<Self> {
        Origin::listen(Self).await
    }
}

#[async_trait]
impl Serve for OnceOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        if exchange.wire.requests > 1 {
            return Ok(Then::Reset);
        }
        let length = exchange.drain().await?;
        exchange.json(&json!({ "length": length })).await
    }
}

/// Refuses each request once it is stopping, as Fastify does: 503 on connections that are open, and
/// the option `close`.
#[derive(Default)]
pub(crate) struct StoppingOrigin {
    is_stopping: AtomicBool,
    /// Set if it keeps the connections all the same.
    keeps: AtomicBool,
}

impl StoppingOrigin {
    pub(crate) async fn start() -> Origin<Self> {
        Origin::listen(Self::default()).await
    }

    pub(crate) fn set(&self, is_stopping: bool, keeps: bool) {
        self.keeps.store(keeps, Ordering::SeqCst);
        self.is_stopping.store(is_stopping, Ordering::SeqCst);
    }
}

#[async_trait]
impl Serve for StoppingOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        if exchange.request.target == "/slow" {
            pass(Duration::from_millis(100)).await;
        }
        let port = exchange.wire.stream.local_addr()?.port();
        let body = json!({ "port": port }).to_string();
        if !self.is_stopping.load(Ordering::SeqCst) {
            return exchange.reply(200, "", body.as_bytes()).await;
        }
        if self.keeps.load(Ordering::SeqCst) {
            return exchange.reply(503, "", body.as_bytes()).await;
        }
        let close = "connection: close\r\n";
        exchange.reply(503, close, body.as_bytes()).await?;
        Ok(Then::Close)
    }
}
