//! Replies of the gateway in place of a response that no backend delivered, or that is not wanted, and
//! what is left of their requests.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use pingora::{Error, Result};

use super::{Relayed, Upload};
use crate::{
    chain::Reply,
    filters::error_pages::PageRequest,
    proxy::{
        body::AGAIN_TIMEOUT,
        context::Context,
        direct::DirectClient,
        error_page, reply, request,
        request_end::{self, FailedExchange},
    },
};

/// Time that a client may go on sending a body that nobody reads.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the body of a request of which nobody has read anything, for the page of its error.
pub(in crate::proxy) async fn whole_body(
    client: &mut DirectClient<'_>,
    ctx: &mut Context,
) -> Option<Bytes> {
    let mut upload = Upload::new(&client.request.headers, true);
    whole(&mut upload, client, ctx).await
}

/// Reads the rest of a body, and returns all of it if it can be had, for the page of an error.
async fn whole(
    upload: &mut Upload,
    client: &mut DirectClient<'_>,
    ctx: &mut Context,
) -> Option<Bytes> {
    let whole = upload.whole(error_page::MAX_SIZE, client, ctx);
    let whole = tokio::time::timeout(AGAIN_TIMEOUT, whole).await;
    whole.unwrap_or_default()
}

impl Relayed<'_, '_> {
    /// Reads what is left of the request, which would be in the way of the next one. Closing a
    /// connection with unread bytes resets it, and the response is lost (nginx: `lingering_close`).
    /// On HTTP/2 the stream is reset, and a complete response before that is not lost (RFC 9113,
    /// 8.1).
    pub(super) async fn is_read_to_the_end(&mut self) -> bool {
        if self.upload.is_read() || self.client.is_http2() {
            return true;
        }
        let rest = self.upload.discard(self.client);
        matches!(tokio::time::timeout(LINGER_TIMEOUT, rest).await, Ok(Ok(())))
    }

    /// Sends a reply in place of the response that a backend delivered.
    pub(super) async fn replace(&mut self, ctx: &mut Context, mut reply: Reply) -> Result<()> {
        self.plan(ctx, &mut reply).await;
        if self.waits_for_continue() || request::is_draining(ctx) {
            self.client.close();
        }
        let sent = self.client.planned_reply(ctx, reply).await;
        sent.map_err(request_end::of_client)
    }

    /// Runs the error phase on a reply, which may give it the page of an upstream.
    async fn plan(&mut self, ctx: &mut Context, reply: &mut Reply) {
        if reply.is_silent() {
            return;
        }
        if let Some(page) = reply::plan(self.client.request, ctx, reply).await {
            // Boxed, because otherwise every request's future would be as large.
            Box::pin(self.insert_page(ctx, page, reply)).await;
        }
    }

    /// Puts a page into a reply, asked for with the client's body if its upstream gets that.
    async fn insert_page(&mut self, ctx: &mut Context, page: PageRequest, reply: &mut Reply) {
        let mut body = None;
        if error_page::wants_body(ctx, &page)
            && (!self.waits_for_continue() || self.release_body(ctx).await.is_ok())
        {
            body = whole(&mut self.upload, self.client, ctx).await;
        }
        error_page::insert(self.client.request, ctx, page, body, reply).await;
    }

    /// Sends a reply in place of the response that no backend delivered. Returns true if the client
    /// got it.
    pub(super) async fn failed(&mut self, ctx: &mut Context, error: &Error) -> bool {
        let mut failed = FailedExchange::of(error, ctx);
        if self.client.status.is_some() || failed.is_clients() {
            ctx.facts.status = request_end::status(self.client.status, failed.failure);
            request_end::break_off(ctx);
            return false;
        }
        self.plan(ctx, &mut failed.reply).await;
        let client = &mut *self.client;
        if !self.upload.is_read() && !client.is_http2() {
            // A body that is there already is not in the way of the next request.
            drop(self.upload.discard(client).now_or_never());
        }
        let is_read = self.upload.is_read() || reply::is_soon_read(client.request);
        if !is_read || request::is_draining(ctx) {
            client.close();
        }
        client.planned_reply(ctx, *failed.reply).await.is_ok()
    }
}
