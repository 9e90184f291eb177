//! Guard in front of every route: bans, flood limits, and challenges for suspicious clients. After
//! every request it decides if the refusals of a client lead to a ban.

use std::{net::IpAddr, time::Duration};

use edgeway_base::{http::list_of, query::cookies};
use edgeway_core::chain::{Client, Protocol, Reply, RequestFacts, host::public_host};
use edgeway_gateway::{Challenge, FloodGuard, Gateway};
use edgeway_routes::Target;
use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use pingora::http::RequestHeader;

use super::context::{Context, GuardedRequest};
use crate::{
    connection::{CloseReason, Connection},
    live::Live,
};

/// Reason of a refusal of a banned client.
pub(super) const BANNED: &str = "banned";
const FLOOD: &str = "flood";
const IN_FLIGHT: &str = "flood_in_flight";
const CHALLENGE: &str = "challenge";

/// Refusals that count towards a ban, in addition to those of identity filters, which mark
/// themselves. A client that only got a challenge may be a person, and so may one that waits for
/// many responses of a slow app.
const STRIKE_REASONS: [&str; 3] = [FLOOD, "rate_limit", "api_key_rate"];

/// Length limit of a target that a challenge may redirect back to.
const MAX_RETURN_LEN: usize = 2000;

/// Characters that stay unencoded in the value of a query (RFC 3986, 2.3).
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Counts a request before anything else is done for it.
pub(super) fn enter(gateway: &Gateway, client: &Client) -> Result<GuardedRequest, Box<Reply>> {
    // An address may be banned before it is configured as that of a trusted proxy.
    if let Some(left) = gateway.bans.left(client.ip)
        && !gateway.trusted.trusts(client.ip)
    {
        let mut reply = Reply::refuse(StatusCode::FORBIDDEN, BANNED)
            .retry_after(left)
            .detail("Too many requests came from your address. Please try again later.");
        // The connection of a proxy carries requests of other clients too.
        reply.close = !client.is_trusted;
        return Err(reply.into());
    }
    let client = client.ip;
    let Some(guard) = watching(gateway, client) else {
        return Ok(GuardedRequest::default());
    };
    let count = guard.windows.count(client);
    if count > guard.requests {
        return Err(Reply::refuse(StatusCode::TOO_MANY_REQUESTS, FLOOD)
            .retry_after(guard.windows.left())
            .detail("Too many requests come from your address. Please wait a moment.")
            .into());
    }
    let (under, open) = guard.in_flight_counts.enter(client);
    if open > guard.in_flight {
        let reply =
            Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, IN_FLIGHT).retry_after(Duration::ZERO);
        return Err(reply
            .detail("Too many requests from your address are in progress. Please wait a moment.")
            .into());
    }
    let is_above = |challenge: &Challenge| {
        count > challenge.above || guard.windows.before(client) > challenge.above
    };
    Ok(GuardedRequest {
        in_flight: Some(under),
        is_suspicious: guard.challenge.as_ref().is_some_and(is_above),
    })
}

/// Returns the challenge for a request of a suspicious client, unless the client has passed it or
/// is about to.
pub(super) fn challenge(
    ctx: &Context,
    request: &RequestHeader,
    target: &Target<'_>,
) -> Option<Box<Reply>> {
    let challenge = ctx.gateway.flood_guard.as_ref()?.challenge.as_ref()?;
    if challenge.is_at(target.host, target.path) {
        return None;
    }
    let client = &ctx.facts.client;
    let now = ctx.live().world.clock.wall();
    let has_passed = cookies(&request.headers, challenge.cookie.as_bytes()).any(|cookie| {
        let cookie = std::str::from_utf8(cookie).unwrap_or_default();
        challenge.clearance.clears(cookie, client.ip, now)
    });
    if has_passed {
        return None;
    }
    if !is_navigation(request) {
        // This window makes the next one suspicious, no matter how many requests come in it.
        let windows = &ctx.gateway.flood_guard.as_ref()?.windows;
        let left = windows.left() + windows.length;
        return Some(
            Reply::refuse(StatusCode::TOO_MANY_REQUESTS, CHALLENGE)
                .retry_after(left)
                .detail("Please open the site in a browser first.")
                .into(),
        );
    }
    let path = request.raw_path();
    let path = if path.len() > MAX_RETURN_LEN {
        b"/"
    } else {
        path
    };
    let host = public_host(request, client);
    let mut original = format!("{}://{host}", client.scheme.as_str()).into_bytes();
    original.extend_from_slice(path);
    let location = format!("{}{}", challenge.location, percent_encode(&original, VALUE));
    let mut reply = Reply::empty(StatusCode::FOUND)
        .header(
            header::LOCATION,
            HeaderValue::try_from(location).expect("visible ASCII"),
        )
        .header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.reason = Some(CHALLENGE);
    Some(reply.into())
}

/// Applies the reason of a finished request to its client, which may lead to a ban.
pub(super) fn over(
    live: &Live,
    gateway: &Gateway,
    facts: &RequestFacts,
    connection: Option<&Connection>,
) {
    let Some(reason) = facts.reason else { return };
    let client = facts.client.ip;
    if reason == BANNED {
        // On HTTP/1 the response has already closed the connection.
        if facts.client.protocol == Protocol::Http2
            && !facts.client.is_trusted
            && let Some(connection) = connection
            && connection.streams.ends_with_ban()
        {
            connection.close(CloseReason::Banned);
            // The request was already counted and logged.
            let _first = connection.report_close();
        }
        return;
    }
    let rule = watching(gateway, client).and_then(|guard| guard.ban.as_ref());
    if let Some(rule) = rule
        && (STRIKE_REASONS.contains(&reason) || facts.noted.as_ref().is_some_and(|n| n.is_strike))
        && let Some(ban) = gateway.bans.strike(client, reason, rule)
    {
        live.banned(&ban, facts);
    }
}

/// Returns the flood guard if it applies to this client. A trusted proxy is exempt: if such a proxy
/// does not report the addresses of its clients, all of them would count as one.
fn watching(gateway: &Gateway, client: IpAddr) -> Option<&FloodGuard> {
    let guard = gateway.flood_guard.as_ref()?;
    (!guard.spares(client) && !gateway.trusted.trusts(client)).then_some(guard)
}

/// Returns true if a browser navigates to a page. Only then can it show a challenge.
fn is_navigation(request: &RequestHeader) -> bool {
    let is_look = request.method == Method::GET || request.method == Method::HEAD;
    let takes_html = |member: &[u8]| {
        let essence = member.split(|byte| *byte == b';').next();
        essence.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/html"))
    };
    is_look && list_of(&request.headers, &header::ACCEPT).any(takes_html)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, accept: &[&str], is_page: bool) {
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        for line in accept {
            request.append_header("accept", *line).unwrap();
        }
        assert_eq!(is_navigation(&request), is_page, "{method} {accept:?}");
    }

    #[test]
    fn only_a_browser_on_its_way_to_a_page_can_show_one() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        check("GET", &[browser], true);
        check("HEAD", &["application/json", "TEXT/HTML;q=0.5"], true);
        check("POST", &[browser], false);
        check("GET", &["*/*"], false);
        check("GET", &["text/x-component"], false);
        check("GET", &["text/html-like"], false);
        check("GET", &[], false);
    }
}
