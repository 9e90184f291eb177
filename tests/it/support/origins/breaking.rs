//! Origin whose responses break off, and that confirms them all the same.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Exchange, Origin, Serve, Then};

/// Serves two paths:
/// - `/gone` begins a response with a tag, and breaks it off when the test says so. Later requests
///   with that tag get 304, others the whole response.
/// - `/malformed` is stale on arrival at first; later its body breaks off at once.
#[derive(Default)]
pub(crate) struct BreakingOrigin {
    requests: AtomicU64,
    breaks: Notify,
}

impl BreakingOrigin {
    pub(crate) async fn start() -> Origin<Self> {
        Origin::listen(Self::default()).await
    }

    pub(crate) fn break_off(&self) {
        self.breaks.notify_one();
    }
}

#[async_trait]
impl Serve for BreakingOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        exchange.drain().await?;
        let is_first = self.requests.fetch_add(1, Ordering::SeqCst) == 0;
        if exchange.request.target == "/malformed" {
            let headers = "age: 61\r\ncache-control: max-age=60, stale-if-error=600\r\n";
            if is_first {
                return exchange.reply(200, headers, b"whole").await;
            }
            let broken = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{headers}\r\nno length\r\n"
            );
            exchange.write(broken.as_bytes()).await?;
            return Ok(Then::Close);
        }
        let headers = "cache-control: no-cache\r\netag: \"a\"\r\n";
        if is_first {
            exchange.begin(headers).await?;
            exchange.chunk(b"half").await?;
            self.breaks.notified().await;
            return Ok(Then::Reset);
        }
        if exchange.request.header("if-none-match").is_some() {
            let confirmed = format!("HTTP/1.1 304 Same\r\n{headers}\r\n");
            exchange.write(confirmed.as_bytes()).await?;
            return Ok(Then::Keep);
        }
        exchange.reply(200, headers, b"whole").await
    }
}
