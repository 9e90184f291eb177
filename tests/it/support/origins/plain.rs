//! Origins that respond properly: at once, after a while, or with a lot of data.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Exchange, Origin, Serve, Then};
use crate::support::wait::pass;

/// Sends a JSON description of each request: method, target, headers in order, length.
pub(crate) struct EchoOrigin;

/// Returns the first value of a header as an [`EchoOrigin`] received it.
pub(crate) fn echoed<'s>(seen: &'s Value, name: &str) -> Option<&'s str> {
    let pairs = seen["headers"].as_array()?;
    let is_it = |pair: &&Value| {
        let given = pair[0].as_str();
        given.is_some_and(|given| given.eq_ignore_ascii_case(name))
    };
    pairs.iter().find(is_it)?[1].as_str()
}

impl EchoOrigin {
    pub(crate) async fn start() -> Origin<Self> {
        Origin::listen(Self).await
    }
}

#[async_trait]
impl Serve for EchoOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        let length = exchange.drain().await?;
        let port = exchange.wire.stream.local_addr()?.port();
        let request = &exchange.request;
        let echo = json!({
            "port": port,
            "connection": exchange.wire.id,
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "length": length,
        });
        exchange.json(&echo).await
    }
}

/// Responds after a delay that a test may change; `/health` at once.
pub(crate) struct SlowOrigin {
    delay_ms: AtomicU64,
}

impl SlowOrigin {
    pub(crate) async fn start(delay: Duration) -> Origin<Self> {
        let origin = Self {
            delay_ms: AtomicU64::new(0),
        };
        origin.set_delay(delay);
        Origin::listen(origin).await
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.delay_ms.store(ms, Ordering::SeqCst);
    }
}

#[async_trait]
impl Serve for SlowOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        if exchange.request.target != "/health" {
            pass(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst))).await;
        }
        let port = exchange.wire.stream.local_addr()?.port();
        exchange.json(&json!({ "port": port })).await
    }
}

/// Sends `?bytes=` bytes, in chunks with `&chunked=1`, and counts the bytes that it receives.
pub(crate) struct BigOrigin;

impl BigOrigin {
    pub(crate) async fn start() -> Origin<Self> {
        Origin::listen(Self).await
    }
}

#[async_trait]
impl Serve for BigOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        let came = exchange.drain().await?;
        let Some(mut left) = exchange.request.number("bytes") else {
            return exchange.json(&json!({ "bytes": came })).await;
        };
        let chunked = exchange.request.query("chunked").is_some();
        if chunked {
            exchange.begin("").await?;
        } else {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {left}\r\n\r\n");
            exchange.write(head.as_bytes()).await?;
        }
        let piece = vec![b'b'; 64 * 1024];
        while left > 0 {
            let part = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
            left -= part.len() as u64;
            if chunked {
                exchange.chunk(part).await?;
            } else {
                exchange.write(part).await?;
            }
        }
        if chunked {
            return exchange.end().await;
        }
        Ok(Then::Keep)
    }
}
