//! Sends a stored response: complete, with headers only, or as 304 if the client's copy is current.

use std::sync::Arc;

use bytes::Bytes;
use edgeway_base::http::number;
use edgeway_cache::{
    policy,
    store::{Body, Entry, WholeBody},
};
use edgeway_core::chain::{Chain, Exchange, Phase, RequestFacts};
use edgeway_gateway::RouteCache;
use http::{Method, StatusCode, header, response};
use pingora::{Error, ErrorType, Result, http::RequestHeader};

use super::{body_file, forms};
use crate::{
    context::{self, Context},
    session::Client,
};

/// Stored response in the form that one client gets.
struct StoredResponse<'e> {
    head: response::Parts,
    body: Option<ResponseContent<'e>>,
}

/// Body bytes to send.
enum ResponseContent<'e> {
    Plain(&'e Arc<Body>),
    Encoded(Bytes),
}

/// Sends `entry`, which is complete in the store.
pub(crate) async fn send(client: &mut Client, ctx: &mut Context, entry: &Arc<Entry>) -> Result<()> {
    let gateway = Arc::clone(&ctx.gateway);
    let Some(cache) = context::cache(&gateway, ctx.route) else {
        return Err(Error::new_in(ErrorType::Custom("no cache")));
    };
    let StoredResponse { head, body } = prepare(&client.request, ctx, cache, entry).await?;
    let lines = std::mem::take(&mut ctx.facts.lines);
    let clock = &ctx.live().world.clock;
    client
        .response(head.into(), &lines, body.is_none(), clock)
        .await?;
    match body {
        Some(body) => {
            let chain = context::chain(&gateway, ctx.route);
            let ex = Exchange::new(&client.request, &mut ctx.facts);
            if let ResponseContent::Plain(_) = body
                && chain.ignores_body(&ex)
                && let Some(file) = body_file::find(client, ctx, cache, entry)
            {
                return body_file::send(client, file, &entry.body).await;
            }
            write(client, chain, &mut ctx.facts, body).await
        }
        None => Ok(()),
    }
}

/// Prepares the response to `request` from `entry`, and runs the response phase on it.
async fn prepare<'e>(
    request: &RequestHeader,
    ctx: &mut Context,
    cache: &RouteCache,
    entry: &'e Arc<Entry>,
) -> Result<StoredResponse<'e>> {
    let Some(body) = entry.body.whole() else {
        return Err(Error::new_in(ErrorType::Custom("not whole")));
    };
    let live = Arc::clone(ctx.live());
    let now = live.world.clock.now();
    ctx.facts.first_byte = Some(now - ctx.facts.started);
    let is_head = request.method == Method::HEAD;
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = entry.status;
    head.headers = entry.headers();
    let is_confirmed = policy::not_modified(
        &request.headers,
        &request.method,
        entry.status,
        &head.headers,
    );
    // The age at the time when the stored response was found usable.
    let age = ctx.facts.cache.and_then(|cached| cached.age);
    let age = age.unwrap_or_else(|| entry.lifetime().age(live.world.clock.wall()));
    head.headers.insert(header::AGE, number(age.as_secs()));
    let length = body.len();
    let has_no_body = entry.status == StatusCode::NO_CONTENT;
    if is_confirmed {
        head.status = StatusCode::NOT_MODIFIED;
        policy::to_not_modified(&mut head.headers);
    } else if !has_no_body {
        head.headers.insert(header::CONTENT_LENGTH, number(length));
    }
    ctx.facts.make_page(&mut head);
    let (chain, mut ex) = ctx.exchange(request);
    ex.facts.lines = chain.ready_lines(&ex);
    let form = if is_confirmed {
        None
    } else {
        forms::choose(&live, cache, entry, &mut ex, &mut head)
    };
    chain.on_response(&mut ex, &mut head).await;
    ex.facts.status = head.status.as_u16();
    let is_headless = is_head || is_confirmed || has_no_body;
    // A filter may have a body for an empty response.
    let is_over = is_headless || length == 0 && !chain.has(Phase::ResponseBody);
    Ok(StoredResponse {
        head,
        body: (!is_over).then(|| {
            form.map_or(
                ResponseContent::Plain(&entry.body),
                ResponseContent::Encoded,
            )
        }),
    })
}

async fn write(
    client: &mut Client,
    chain: &Chain,
    facts: &mut RequestFacts,
    body: ResponseContent<'_>,
) -> Result<()> {
    let body = match body {
        ResponseContent::Encoded(form) => return client.write(Some(form), true).await,
        ResponseContent::Plain(body) => body,
    };
    let mut left = body.whole().map_or(0, WholeBody::len);
    if left == 0 {
        let mut piece = None;
        let mut ex = Exchange::new(&client.request, facts);
        chain.on_response_body(&mut ex, &mut piece, true);
        return client.write(piece, true).await;
    }
    let is_sent_as_it_is = chain.ignores_body(&Exchange::new(&client.request, facts));
    let segments = body.whole().into_iter().flat_map(WholeBody::segments);
    for (index, segment) in segments.enumerate() {
        left -= segment.len() as u64;
        if is_sent_as_it_is {
            client.write_stored(body, index, left == 0).await?;
            continue;
        }
        let mut piece = body.segment(index);
        let mut ex = Exchange::new(&client.request, facts);
        chain.on_response_body(&mut ex, &mut piece, left == 0);
        if left > 0 && piece.as_ref().is_none_or(Bytes::is_empty) {
            continue;
        }
        client.write(piece, left == 0).await?;
    }
    Ok(())
}
