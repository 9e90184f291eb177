//! Replies of the gateway in place of a response that no backend delivered, or that is not wanted, and
//! what is left of their requests.

use bytes::Bytes;
use edgeway_core::chain::{Reply, RouteRequest, RouteTarget};
use edgeway_filters::error_pages::PageRequest;
use futures_util::FutureExt as _;
use http::{HeaderMap, header};
use pingora::{Error, Result, http::RequestHeader};

use super::{Relayed, Upload, takes};
use crate::{
    body::AGAIN_TIMEOUT,
    cache,
    context::Context,
    decision::Decision,
    direct::DirectClient,
    error::Failure,
    error_page, files, reply, request,
    request_end::{self, FailedExchange},
    reroute,
};

/// Reads the body of a request of which nobody has read anything, for the page of its error.
pub(crate) async fn whole_body(client: &mut DirectClient<'_>, ctx: &mut Context) -> Option<Bytes> {
    let mut upload = Upload::new(&client.request.headers, true);
    whole(&mut upload, client, ctx).await
}

/// Removes the headers about a body that is not sent.
pub(super) fn remove_body(request: &mut RequestHeader) {
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::EXPECT,
        header::TRANSFER_ENCODING,
    ] {
        request.remove_header(&name);
    }
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
    /// On HTTP/2 the stream is reset, and some clients forget a complete response then.
    pub(super) async fn is_read_to_the_end(&mut self) -> bool {
        if self.upload.is_read() {
            return true;
        }
        let rest = self.upload.discard(self.client);
        matches!(
            tokio::time::timeout(reply::LINGER_TIMEOUT, rest).await,
            Ok(Ok(()))
        )
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

    /// Sends the reply that was planned in place of a response, if there is none yet.
    async fn send_planned(&mut self, ctx: &mut Context) -> Result<()> {
        match ctx.reply.take() {
            Some(reply) if self.client.status.is_none() => self.replace(ctx, *reply).await,
            _ => Ok(()),
        }
    }

    /// Leads the request to another route, for the page of an error, and sends the response of that
    /// one. If nothing can be sent, the reply is planned.
    pub(super) async fn follow(&mut self, ctx: &mut Context, to: RouteRequest) -> Result<()> {
        let fallback = ctx.reply.take();
        let keeps_path = matches!(to.to, RouteTarget::Named(_));
        let mut head = self.client.request.clone();
        let has_body = self.upload.has_body();
        if has_body && !self.upload.is_replayable() {
            if keeps_path {
                error_page::degrade(error_page::REASON, ctx);
                ctx.reply = fallback;
                return Ok(());
            }
            self.drop_body().await;
        }
        let decision = reroute::settle(&mut head, ctx, Decision::Reroute(Box::new(to))).await;
        self.client.reroute(head);
        self.cached = None;
        match decision {
            Decision::Reply(reply) => ctx.reply = Some(reply),
            Decision::File(file) => {
                let sent = files::send_direct(self.client, ctx, *file, None).await;
                return sent.map_err(request_end::of_client);
            }
            Decision::Stored(entry, _) => {
                let sent = cache::send_direct(self.client, ctx, &entry).await;
                return sent.map_err(request_end::of_client);
            }
            Decision::GoesOn(flow) if takes(self.client.request, flow.is_some(), ctx) => {
                return Box::pin(self.serve(flow, ctx)).await;
            }
            Decision::GoesOn(_)
            | Decision::NeedsBody(_)
            | Decision::NeedsBeginning
            | Decision::Reroute(_) => {
                error_page::degrade(error_page::REASON, ctx);
                ctx.reply = fallback.or_else(|| Some(Failure::Internal.into()));
            }
        }
        Ok(())
    }

    /// Leaves out the client's body, which is read first: a connection that is closed with unread
    /// bytes is reset.
    pub(super) async fn drop_body(&mut self) {
        // A stream is read after its response.
        if !self.client.is_http2()
            && (self.waits_for_continue() || !self.is_read_to_the_end().await)
        {
            self.client.close();
        }
        self.upload = Upload::new(&HeaderMap::new(), false);
        self.drops_body = true;
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
        let to = reroute::page_of(self.client.request, ctx, &mut failed.reply).await;
        if let Some(to) = to {
            let led = Box::pin(self.follow(ctx, *to)).await;
            return match led {
                Ok(()) => self.send_planned(ctx).await.is_ok(),
                Err(error) => Box::pin(self.failed(ctx, &error)).await,
            };
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
