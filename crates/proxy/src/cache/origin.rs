//! Requests to the origin whose responses may be stored, and the headers of these responses.

use edgeway_base::http::ABOUT_COPIES;
use edgeway_cache::{budget::RenderPermit, nextjs, store::Entry, unusual_request::unusual_headers};
use http::{Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::context::{self, Context};

/// Prepares a `request` for the origin whose response may be stored: it asks for the whole response,
/// and its conditions are those of the `stale` one. Only a response to GET can be stored.
pub(crate) fn condition(request: &mut RequestHeader, stale: Option<&Entry>) {
    if request.method == Method::HEAD {
        request.set_method(Method::GET);
    }
    for name in &ABOUT_COPIES {
        request.remove_header(name);
    }
    let Some(stale) = stale else {
        return;
    };
    let conditions = [
        (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE),
        (header::ETAG, header::IF_NONE_MATCH),
    ];
    let stored = stale.headers();
    for (validator, condition) in conditions {
        if let Some(value) = stored.get(validator) {
            // A value from headers is valid in headers.
            let _inserted = request.insert_header(condition, value);
        }
    }
}

/// Prepares the request for the origin: other clients may share its response.
pub(crate) fn forward(request: &mut RequestHeader, ctx: &mut Context) {
    let now = ctx.live().world.clock.wall();
    let Some(flow) = &mut ctx.cache else {
        return;
    };
    flow.asked = now;
    let is_everybodys = |shape: &nextjs::RequestShape| !shape.keeps_credentials;
    if flow.shape.as_ref().is_some_and(is_everybodys) {
        for name in &nextjs::CREDENTIALS {
            request.remove_header(name);
        }
    }
}

/// Records the response headers of the origin before they are stored. `is_storing` is false if
/// they will not be.
pub(crate) fn on_origin_response(is_storing: bool, response: &ResponseHeader, ctx: &mut Context) {
    let status = response.status;
    if let Some(facts) = &mut ctx.facts.cache {
        facts.origin_status = status.as_u16();
    }
    if let Some(flow) = &mut ctx.cache
        && status == StatusCode::NOT_MODIFIED
        && is_storing
    {
        flow.confirmed = Some(response.headers.clone());
    }
}

/// Ends the wait of similar requests for a response that is never stored, because a file or a page
/// takes its place.
pub(crate) fn replaced(ctx: &mut Context) {
    // The app renders nothing any more.
    drop(ctx.facts.take::<RenderPermit>());
    let now = ctx.live().world.clock.now();
    let cache = context::cache(&ctx.gateway, ctx.route);
    let (Some(flow), Some(cache)) = (&ctx.cache, cache) else {
        return;
    };
    if !flow.is_for_others() && !flow.is_background {
        return;
    }
    if flow.stored.is_none() {
        flow.pass(cache, now);
    } else if unusual_headers(&flow.headers).next().is_none() {
        // As in `storage`: the stored response is out of date.
        cache.cache.remove(&flow.key);
    }
}
