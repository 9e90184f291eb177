//! Request for the page of an error, and its response.

use bytes::Bytes;
use edgeway_core::chain::RequestChanges;
use edgeway_core_filters::error_pages::{PageRequest, PageStatus};
use edgeway_routes::normalise;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::http::RequestHeader;

use super::{MAX_SIZE, is_as_sent};
use crate::{
    context::{self, Context},
    fetch::{ATTEMPTS, FetchedResponse, OwnRequest, ask},
    forward::{forwarding, strip_headers, strip_target},
    forwarded, trace,
};

/// Headers that the upstream of a page gets where filters may write any: those that say which form
/// of a page the client takes, and those that the gateway writes for every backend.
const HARMLESS: &str = "accept accept-language forwarded host referer user-agent x-forwarded-for \
    x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip x-request-id";

/// Beginnings of the names of headers about the client's body, and of conditions.
const ABOUT_BODY: &str = "content-";
const CONDITION: &str = "if-";
/// Headers of the connection to the client.
const OF_CONNECTION: [HeaderName; 3] = [header::EXPECT, header::TRAILER, header::TE];
const CREDENTIALS: [HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];
/// Framing of the client's body, which the upstream of a page gets with its length.
const FRAMING: [HeaderName; 2] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

/// Request for a page.
struct Ask {
    head: RequestHeader,
    body: Bytes,
    may_repeat: bool,
}

/// Fetches the page from its upstream.
pub(crate) async fn fetch(
    original: &RequestHeader,
    ctx: &Context,
    page: &PageRequest,
    body: Option<Bytes>,
) -> Result<FetchedResponse, String> {
    let upstream = ctx.gateway.upstreams.get(&page.upstream);
    let upstream = upstream.ok_or("there is no such upstream")?;
    let is_clients = is_as_sent(ctx, page);
    if is_clients && page.is_of_client && body.is_none() {
        return Err("the client's body is too long to be sent again".to_owned());
    }
    let head = request_for(original, ctx, page);
    let head = head.ok_or("its path has no normal form, or dot segments")?;
    let mut request = Ask {
        may_repeat: head.method.is_idempotent(),
        body: body.filter(|_| is_clients).unwrap_or_default(),
        head,
    };
    if is_clients {
        request.state_length(original);
    }
    let clock = &ctx.live().world.clock;
    let own = ctx.upstream.as_ref();
    let is_own = own.is_some_and(|own| own.name == upstream.name);
    let mut tried = Vec::new();
    let mut why = String::new();
    for attempt in 0..ATTEMPTS {
        let asked = OwnRequest {
            head: &request.head,
            body: request.body.clone(),
            may_repeat: request.may_repeat,
            client: ctx.facts.client.ip,
            release: ctx.facts.release.as_deref().filter(|_| is_own),
            longest: MAX_SIZE,
        };
        match ask(&asked, upstream, clock, (attempt > 0, &mut tried)).await {
            Ok(part) if page.status != PageStatus::OfPage && is_part(part.head.status) => {
                // An error has the whole page.
                "only a part of it arrived, or nothing".clone_into(&mut why);
                if !request.may_repeat {
                    break;
                }
                request.drop_conditions();
            }
            Ok(page) => return Ok(page),
            Err(failed) => {
                why = failed.why;
                if !failed.may_retry {
                    break;
                }
            }
        }
    }
    Err(why)
}

/// Builds the request for the page.
fn request_for(
    original: &RequestHeader,
    ctx: &Context,
    page: &PageRequest,
) -> Option<RequestHeader> {
    if has_dot_segments(&page.target) {
        // Values of the client that are a part of the path lead nowhere else.
        return None;
    }
    let normal = normalise(&page.target, ctx.gateway.slashes).ok()?;
    if normal.authority.is_some() || !normal.path.starts_with(b"/") {
        return None;
    }
    let rewritten = normal.rewritten();
    let target = rewritten.as_deref().unwrap_or(&page.target);
    let mut request = original.clone();
    let is_clients = is_as_sent(ctx, page);
    let is_head = page.is_as_sent && original.method == Method::HEAD;
    // A page at a path of its own is read, whatever the client wanted of another path.
    if !(is_head || is_clients && page.is_of_client) {
        request.set_method(Method::GET);
    }
    request.set_version(Version::HTTP_11);
    request.set_raw_path(target).ok()?;
    let connection = ctx.connection.as_ref()?;
    let forwarding = forwarding(ctx, connection);
    let mut open = forwarded::open_upstream(&mut request, &forwarding);
    let headers = open.headers();
    let chain = context::chain(&ctx.gateway, ctx.route);
    let of_filters = &chain.changes_beside_credentials;
    let overrides = context::route(&ctx.gateway, ctx.route).map(|route| &route.pass_headers);
    let is_passed = |name: &&HeaderName| {
        let text = name.as_str();
        let is_of_backend = match of_filters {
            RequestChanges::Any => {
                let is_content = is_clients && text.starts_with(ABOUT_BODY);
                !is_content && !HARMLESS.split(' ').any(|one| one == text)
            }
            RequestChanges::Only { names, prefixes } => {
                names.contains(name) || prefixes.iter().any(|prefix| text.starts_with(&**prefix))
            }
        };
        !is_of_backend
            && (page.sends_credentials || !CREDENTIALS.contains(name))
            && !OF_CONNECTION.contains(name)
            && !FRAMING.contains(name)
            && (is_clients || !text.starts_with(ABOUT_BODY) && !is_condition(name))
            && !overrides.is_some_and(|overrides| overrides.contains(name))
    };
    let names = headers.keys();
    let doomed: Vec<HeaderName> = names.filter(|name| !is_passed(name)).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
    for place in chain.stripped(None) {
        place.strip(headers);
    }
    strip_headers(headers, ctx);
    if let Some(trace) = &ctx.facts.trace {
        trace::pass_on(headers, trace);
    }
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    open.close(&mut request);
    strip_target(&mut request, ctx).ok()?;
    Some(request)
}

impl Ask {
    /// Names the length of the body, if the client's request has one.
    fn state_length(&mut self, original: &RequestHeader) {
        if FRAMING
            .iter()
            .any(|name| original.headers.contains_key(name))
            || !self.body.is_empty()
        {
            let length = HeaderValue::from(self.body.len());
            // A number is valid in headers.
            let _inserted = self.head.insert_header(header::CONTENT_LENGTH, length);
        }
    }

    /// Removes conditions and the range.
    fn drop_conditions(&mut self) {
        let names = self.head.headers.keys();
        let doomed: Vec<HeaderName> = names.filter(|name| is_condition(name)).cloned().collect();
        for name in doomed {
            self.head.remove_header(&name);
        }
    }
}

fn is_condition(name: &HeaderName) -> bool {
    name.as_str().starts_with(CONDITION) || name == header::RANGE
}

/// Returns true for the status of a response that has not all of its content because of what the
/// request says about parts and copies.
fn is_part(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_MODIFIED
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::RANGE_NOT_SATISFIABLE
    )
}

/// Returns true if the path of `target` has dot segments. Encoded ones have no normal form.
pub(crate) fn has_dot_segments(target: &[u8]) -> bool {
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    path.split(|byte| *byte == b'/')
        .any(|segment| matches!(segment, b"." | b".."))
}
