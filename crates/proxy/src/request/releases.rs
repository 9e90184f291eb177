//! Release of the app that a request goes to, while several of them run.

use std::sync::Arc;

use edgeway_base::{query, reserved_headers::WARM_UP};
use edgeway_cache::nextjs::{Destination, ReleaseRequest};
use edgeway_core::chain::{Body, Reply};
use edgeway_routes::Target;
use edgeway_upstreams::Upstream;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora::http::RequestHeader;

use crate::{
    context::{Context, Decision},
    forward,
};

/// Header by which the app sends the browser to another page after a server action.
const REDIRECT: HeaderName = HeaderName::from_static("x-action-redirect");
const REFRESH: HeaderName = HeaderName::from_static("refresh");

/// Reason word for a server action of a release that does not run any more.
const GONE: &str = "release_gone";

/// Notes the release that a request of a warm-up is for. Called before headers that no client may
/// send are removed, this one among them: nothing else sees it.
pub(crate) fn note_warm_up(head: &RequestHeader, ctx: &mut Context) {
    let upstreams = || {
        ctx.gateway
            .app_releases
            .iter()
            .map(|(upstream, _)| upstream)
    };
    if !upstreams().any(|upstream| upstream.is_warming_up()) {
        return;
    }
    let Some(secret) = head.headers.get(WARM_UP) else {
        return;
    };
    let release_of = |upstream: &Arc<Upstream>| {
        let release = upstream.warm_up_release(secret.as_bytes())?;
        Some(Box::new((Arc::clone(upstream), release)))
    };
    ctx.warm_up = upstreams().find_map(release_of);
}

/// Decides which release a request goes to. Returns a decision if it goes to none.
pub(crate) fn choose(head: &RequestHeader, ctx: &mut Context) -> Option<Decision> {
    let upstream = ctx.upstream.as_ref()?;
    if let Some(warm_up) = &ctx.warm_up
        && Arc::ptr_eq(&warm_up.0, upstream)
    {
        ctx.facts.release = Some(Arc::clone(&warm_up.1));
        return None;
    }
    let target = forward::target(head, ctx);
    let target = Target::new("", &target);
    let beginning = match &ctx.facts.body {
        Body::Whole(body) => Some(body),
        _ => ctx.early.beginning.as_ref(),
    };
    let asked = ReleaseRequest {
        method: &head.method,
        path: target.path,
        query: target.query,
        headers: &head.headers,
        beginning: beginning.map(|bytes| &**bytes),
    };
    let client = ctx.facts.client.ip;
    let choice = ctx.gateway.release_of(upstream, &asked, client)?;
    ctx.trial = choice.trial;
    match choice.destination {
        Destination::Current => ctx.facts.release = choice.own,
        Destination::Release(release) => ctx.facts.release = Some(release),
        Destination::NeedsBeginning => return Some(Decision::NeedsBeginning),
        Destination::ActionGone => return Some(Decision::Reply(Box::new(action_gone(head)))),
        Destination::FormGone => return Some(Decision::Reply(Box::new(form_gone(head)))),
    }
    None
}

/// Makes the browser load the page again, which is then that of the current release. The script of
/// the page follows this redirect by itself, and shows no error.
fn action_gone(head: &RequestHeader) -> Reply {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut reply = Reply::bytes(StatusCode::OK, text, "")
        .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.reason = Some(GONE);
    match HeaderValue::from_bytes(&[own_page(head), b";replace".to_vec()].concat()) {
        Ok(page) => reply.header(REDIRECT, page),
        Err(_) => reply,
    }
}

/// Explains to a person without JavaScript that the form was not sent, and leads back to its page.
fn form_gone(head: &RequestHeader) -> Reply {
    let reply = Reply::refuse(StatusCode::CONFLICT, GONE)
        .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .detail(
            "This form is from an earlier version of the site, so nothing was sent. Its page loads \
             again in a few seconds.",
        );
    match HeaderValue::from_bytes(&[b"8; url=".to_vec(), own_page(head)].concat()) {
        Ok(page) => reply.header(REFRESH, page),
        Err(_) => reply,
    }
}

/// Returns the path and query of the page that an action was sent from: actions are sent to it.
fn own_page(head: &RequestHeader) -> Vec<u8> {
    debug_assert_eq!(head.method, Method::POST, "only a POST sends an action");
    let target = head.raw_path();
    let names = ["_rsc"];
    let page = query::without(target, &names).unwrap_or_else(|| target.to_vec());
    // `//host` would be another site.
    let slashes = page.iter().take_while(|byte| **byte == b'/').count();
    page[slashes.saturating_sub(1)..].to_vec()
}
