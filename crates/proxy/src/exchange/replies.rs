//! Replies of the gateway in place of a response that is not wanted, and the pages of errors that
//! other routes have.

use bytes::Bytes;
use edgeway_core::chain::{Body, Reply, RouteRequest, RouteTarget};
use http::header;
use pingora::{Result, http::RequestHeader};
use pingora_proxy::ProxyHttp;

use super::Exchange;
use crate::{
    cache,
    context::{Context, Decision},
    error::{Failure, of_client},
    files,
    reply::{self, error_page},
    request::reroute,
};

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

impl<H> Exchange<'_, H>
where
    H: ProxyHttp<CTX = Box<Context>> + Sync,
{
    /// Sends a reply in place of the response that a backend delivered.
    pub(super) async fn replace(&mut self, ctx: &mut Box<Context>, reply: Reply) -> Result<()> {
        let client = self.client();
        if client.waits_for_continue() || ctx.is_draining() {
            client.close();
        }
        reply::send(client, ctx, reply).await.map_err(of_client)
    }

    /// Leads the request to another route, for the page of an error, and sends the response of that
    /// one. If nothing can be sent, the reply is planned.
    pub(super) async fn follow(&mut self, ctx: &mut Box<Context>, to: RouteRequest) -> Result<()> {
        let fallback = ctx.reply.take();
        let keeps_path = matches!(to.to, RouteTarget::Named(_));
        let body = &self.client().body;
        let is_lost = body.is_there() && !body.is_replayable();
        // The text in place of the client's body was for the backend of its own route.
        if is_lost || body.is_replaced {
            if keeps_path && (is_lost || body.received > 0) {
                error_page::degrade(error_page::REASON, ctx);
                ctx.reply = fallback;
                return Ok(());
            }
            self.drop_body().await;
        }
        let client = self.client();
        if !client.body.is_there() {
            ctx.facts.body = Body::Whole(Bytes::new());
        }
        client.body.rewind();
        let decision = Decision::Reroute(Box::new(to));
        let decision = reroute::settle_with_body(client, ctx, decision).await;
        self.cached = None;
        let client = self.client();
        match decision {
            Decision::Reply(reply) => ctx.reply = Some(reply),
            Decision::File(file) => {
                let sent = files::send(client, ctx, *file, None).await;
                return sent.map_err(of_client);
            }
            Decision::Stored(entry, _) => {
                let sent = cache::send(client, ctx, &entry).await;
                return sent.map_err(of_client);
            }
            Decision::GoesOn(flow) => return Box::pin(self.serve(flow, ctx)).await,
            Decision::NeedsBody(..) | Decision::NeedsBeginning | Decision::Reroute(_) => {
                error_page::degrade(error_page::REASON, ctx);
                ctx.reply = fallback.or_else(|| Some(Failure::Internal.into()));
            }
        }
        Ok(())
    }

    /// Leaves out the client's body, which is read first: a connection that is closed with unread
    /// bytes is reset.
    pub(super) async fn drop_body(&mut self) {
        let client = self.client();
        // A stream is read after its response.
        if !client.is_http2() && (client.waits_for_continue() || !client.linger().await) {
            client.close();
        }
        client.body.remove();
        self.drops_body = true;
    }
}
