//! Origins with slow responses.

use std::{io, time::Duration};

use async_trait::async_trait;

use super::{Exchange, Origin, Serve, Then};
use crate::support::wait::pass;

/// Endless events, one each `every` (`?events=` limits their number). It notices and counts a
/// client that disconnects at once.
pub(crate) struct SseOrigin {
    every: Duration,
}

impl SseOrigin {
    pub(crate) async fn start(every: Duration) -> Origin<Self> {
        Origin::listen(Self { every }).await
    }
}

#[async_trait]
impl Serve for SseOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        let events = exchange.request.number("events").unwrap_or(u64::MAX);
        exchange
            .begin("content-type: text/event-stream\r\ncache-control: no-cache\r\n")
            .await?;
        for event in 0..events {
            let text = format!("id: {event}\ndata: event-{event}\n\n");
            let sent = exchange.chunk(text.as_bytes()).await;
            let gone = tokio::select! {
                () = pass(self.every) => false,
                () = exchange.client_left() => true,
            };
            if gone || sent.is_err() {
                exchange.counts.saw_cancelled();
                return Ok(Then::Close);
            }
        }
        exchange.end().await
    }
}

/// Page that arrives in pieces, `?pieces=` of them (three if absent), one each `every`. Each piece
/// is `piece-N` and filler, as HTML that a gateway would like to compress.
pub(crate) struct DripOrigin {
    every: Duration,
}

impl DripOrigin {
    pub(crate) async fn start(every: Duration) -> Origin<Self> {
        Origin::listen(Self { every }).await
    }
}

#[async_trait]
impl Serve for DripOrigin {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then> {
        let pieces = exchange.request.number("pieces").unwrap_or(3);
        exchange
            .begin("content-type: text/html; charset=utf-8\r\n")
            .await?;
        for piece in 0..pieces {
            if piece > 0 {
                pass(self.every).await;
            }
            let text = format!("<p>piece-{piece} {}</p>\n", "filler ".repeat(40));
            if exchange.chunk(text.as_bytes()).await.is_err() {
                exchange.counts.saw_cancelled();
                return Ok(Then::Close);
            }
        }
        exchange.end().await
    }
}
