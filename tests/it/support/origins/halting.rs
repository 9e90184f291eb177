//! Origin whose later responses stop in the middle.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;

use super::{Exchange, Origin, Serve, Then};
use crate::support::wait::pass;

/// Sends `first half`, whose freshness is over, in response to the first request. Later responses,
/// which are fresh, halt in the middle of `later half`; those for `/breaks` end there.
pub(crate) struct HaltingOrigin {
    pause: Duration,
    requests: AtomicU64,
}

impl HaltingOrigin {
    pub(crate) async fn start(pause: Duration) -> Origin<Self> {
        let requests = AtomicU64::new(0);
        Origin::listen(Self { pause, requests }).await
    }
}

#[async_trait]
impl Serve for HaltingOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let is_first = self.requests.fetch_add(1, Ordering::SeqCst) == 0;
        let (age, word) = if is_first {
            (61, "first")
        } else {
            (0, "later")
        };
        let windows = "stale-while-revalidate=600, stale-if-error=600";
        let headers = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nage: {age}\r\n\
             cache-control: max-age=60, {windows}\r\n\r\n{word}"
        );
        exchange.write(headers.as_bytes()).await?;
        if !is_first {
            pass(self.pause).await;
            if exchange.request.target == "/breaks" {
                return Ok(Then::Reset);
            }
        }
        exchange.write(b" half").await?;
        Ok(Then::Keep)
    }
}
