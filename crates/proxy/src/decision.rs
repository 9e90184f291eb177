//! Carries out the decision about a request.

use pingora::{Error, ErrorType, Result};

use super::{
    cache,
    context::{Context, Decision},
    error, exchange, files, reply, request,
};
use crate::session::Client;

/// Processes a request as far as possible without a backend. Returns `true` if a response was sent.
pub(super) async fn run(client: &mut Client, ctx: &mut Context) -> Result<bool> {
    let decision = request::decide(client, ctx).await;
    if let Decision::GoesOn(flow) = decision {
        ctx.flow = flow;
        return Ok(false);
    }
    if ctx.is_draining() {
        client.close();
    }
    // Boxed, because otherwise every request's future would be as large.
    let sent = match decision {
        Decision::Reply(reply) => Box::pin(reply::send(client, ctx, *reply)).await,
        Decision::Stored(entry, refresh) => {
            if let Some(flow) = refresh {
                exchange::revalidate(&client.request, ctx, *flow);
            }
            client.settle_body();
            cache::send(client, ctx, &entry).await
        }
        Decision::File(response) => {
            client.settle_body();
            Box::pin(files::send(client, ctx, *response, None)).await
        }
        Decision::GoesOn(_)
        | Decision::NeedsBody(..)
        | Decision::NeedsBeginning
        | Decision::Reroute(_) => Err(Error::new_in(ErrorType::Custom("unread body"))),
    };
    sent.map_err(error::of_client)?;
    client.has_response = true;
    Ok(true)
}
