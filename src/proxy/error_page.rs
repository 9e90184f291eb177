//! Pages of errors that an upstream has (`error_pages`): fetched whole for a reply, and sent in place
//! of the built-in page. Without one, the client gets the built-in page.
//!
//! A page is asked for once, and never has a page itself. Its upstream gets a `GET` of the gateway
//! with headers of the client, but without its body and what is about that, without conditions and
//! ranges, and without its credentials unless they are wanted. Headers that filters write for the
//! backend of the route may be meant for that backend alone, and clients could pretend to be them:
//! they are left out.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{
    accel,
    context::{self, Context, RefusedBy},
    forwarded, grpc, hop_by_hop,
    relay::{
        Framing, MessageBody, Piece, ValueMemory, is_kept_alive, parse_response, write_section,
    },
    request, streams, trace, upstream,
};
use crate::{
    chain::{Phase, Reply, ReplyBody, RequestChanges, host::public_host},
    filters::error_pages::{PageRequest, PageStatus},
    routes::{Action, normalise},
    upstreams::{BackendConnection, BackendId, LeaseRequest, Outcome, Upstream},
};

/// Reason word for an error whose page could not be fetched.
pub(super) const REASON: &str = "error_page";

/// Time for a page, in which a client waits for nothing but an error.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a page, the same as that of a file.
const MAX_SIZE: usize = 1 << 20;
/// Attempts, each at another backend or on a new connection.
const ATTEMPTS: usize = 2;
/// Room for a read.
const ROOM: usize = 16 * 1024;

/// Headers that the upstream of a page gets where filters may write any: those that say which form
/// of a page the client takes, and those that the gateway writes for every backend.
const HARMLESS: [&str; 12] = [
    "accept",
    "accept-language",
    "forwarded",
    "host",
    "referer",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// Beginnings of the names of headers about the client's body, and of conditions.
const ABOUT_OTHERS: [&str; 2] = ["content-", "if-"];
/// Further headers that say nothing about a page.
const OF_REQUEST: [HeaderName; 4] = [header::EXPECT, header::RANGE, header::TRAILER, header::TE];
const CREDENTIALS: [HeaderName; 2] = [header::AUTHORIZATION, header::COOKIE];

/// Headers about the page as a response to its own address, and about its framing.
const OF_PAGE: [HeaderName; 11] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::PRAGMA,
    header::TRANSFER_ENCODING,
];

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Response with a page.
struct Page {
    head: ResponseHeader,
    body: Bytes,
    backend: Arc<str>,
}

/// Attempt that failed.
struct Failed {
    why: String,
    /// True if another attempt may succeed.
    may_retry: bool,
}

/// Replaces an error response of a backend if some filter has a page of an upstream for it. The
/// error ends the response; the reply takes its place.
pub(super) fn read(
    request: &RequestHeader,
    response: &ResponseHeader,
    ctx: &mut Context,
) -> Result<()> {
    if response.status.as_u16() < 400 || grpc::is_call(&request.headers) {
        return Ok(());
    }
    let (chain, mut ex) = ctx.exchange(request);
    let Some(reply) = chain.intercept(&mut ex, response.status, &response.headers) else {
        return Ok(());
    };
    ctx.reply = Some(reply);
    Err(Error::new_in(ErrorType::Custom(REASON)))
}

/// Puts a page into the `reply` to `request`, as far as there is one.
pub(super) async fn insert(
    request: &RequestHeader,
    ctx: &mut Context,
    page: PageRequest,
    reply: &mut Reply,
) {
    let is_page = matches!(reply.body, ReplyBody::Page { .. });
    if !is_page || ctx.route.is_none() || is_way_around(ctx, &page) {
        // Replies before a route is known are to requests that are none, or to floods.
        return;
    }
    // A backend that failed is done: the page may be one of its own.
    upstream::over(ctx);
    let fetched = match tokio::time::timeout(TIMEOUT, fetch(request, ctx, &page)).await {
        Ok(fetched) => fetched,
        Err(_) => Err("it took more than 5 s".to_owned()),
    };
    match fetched {
        Ok(fetched) => put(request, ctx, fetched, &page, reply),
        Err(why) => {
            degrade(REASON, ctx);
            log::warn!(
                request_id = ctx.facts.request_id.as_str(), upstream = &*page.upstream,
                reason = REASON, error = &*why;
                "no page of an error, the built-in one instead"
            );
        }
    }
}

/// Returns true if the page may be what a filter refused to show: one that another route guards, or
/// the client's own path at the upstream of the route.
fn is_way_around(ctx: &Context, page: &PageRequest) -> bool {
    match ctx.refused_by {
        None => false,
        Some(RefusedBy::Other) => true,
        Some(RefusedBy::Own) => {
            let action = context::route(&ctx.gateway, ctx.route).map(|route| &route.action);
            let is_own = match action {
                Some(Action::Forward(forward)) => forward.upstream == page.upstream,
                _ => false,
            };
            // A filter that chooses the upstream may choose this one.
            let chain = context::chain(&ctx.gateway, ctx.route);
            page.is_of_client && (is_own || chain.has(Phase::Route))
        }
    }
}

/// Records that a client got less than was configured.
fn degrade(reason: &'static str, ctx: &mut Context) {
    ctx.facts.degraded = ctx.facts.degraded.or(Some(reason));
}

/// Makes the page the content of the reply.
fn put(
    request: &RequestHeader,
    ctx: &Context,
    fetched: Page,
    page: &PageRequest,
    reply: &mut Reply,
) {
    let Page {
        mut head,
        body,
        backend,
    } = fetched;
    hop_by_hop::strip_response(&mut head);
    forwarded::strip_internal_response(&mut head);
    for name in OF_PAGE.iter().chain([&accel::X_ACCEL_REDIRECT]) {
        head.remove_header(name);
    }
    if !page.sends_credentials {
        head.remove_header(&header::SET_COOKIE);
    }
    reply.status = match page.status {
        PageStatus::OfError => reply.status,
        PageStatus::OfPage => head.status,
        PageStatus::Given(status) => status,
    };
    let content_type = head.remove_header(&header::CONTENT_TYPE).unwrap_or(TEXT);
    if let Some(to) = head.headers.get(header::LOCATION) {
        let client = &ctx.facts.client;
        let host = public_host(request, client);
        let public = forwarded::rewrite_location(to, &[&backend], client.scheme, host);
        if let Some(public) = public {
            // A value from headers is valid in headers.
            let _inserted = head.insert_header(header::LOCATION, public);
        }
    }
    // What the error itself says counts.
    let own: Vec<HeaderName> = reply.headers.iter().map(|(name, _)| name.clone()).collect();
    for (name, value) in &head.headers {
        if name == header::SET_COOKIE || !own.contains(name) {
            reply.headers.push((name.clone(), value.clone()));
        }
    }
    reply.headers.push((header::CACHE_CONTROL, NO_STORE));
    reply.body = ReplyBody::Bytes { content_type, body };
}

/// Fetches the page from its upstream.
async fn fetch(
    request: &RequestHeader,
    ctx: &Context,
    page: &PageRequest,
) -> std::result::Result<Page, String> {
    let upstream = ctx.gateway.upstreams.get(&page.upstream);
    let upstream = upstream.ok_or("there is no such upstream")?;
    let request =
        request_for(request, ctx, page).ok_or("its path has no normal form, or dot segments")?;
    let mut tried = Vec::new();
    let mut why = String::new();
    for attempt in 0..ATTEMPTS {
        match ask(&request, ctx, upstream, (attempt > 0, &mut tried)).await {
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
    request.set_method(Method::GET);
    request.set_version(Version::HTTP_11);
    request.set_raw_path(target).ok()?;
    let connection = ctx.connection.as_ref()?;
    let forwarding = forwarded::Forwarding {
        is_written: ctx.gateway.reserved.is_read(),
        ..request::forwarding(ctx, connection)
    };
    let mut open = forwarded::open_upstream(&mut request, &forwarding);
    let headers = open.headers();
    let chain = context::chain(&ctx.gateway, ctx.route);
    let of_filters = chain.request_changes();
    let overrides = context::route(&ctx.gateway, ctx.route).map(|route| &route.pass_headers);
    let is_passed = |name: &&HeaderName| {
        let text = name.as_str();
        let is_of_backend = match &of_filters {
            RequestChanges::Any => !HARMLESS.contains(&text),
            RequestChanges::Only { names, prefixes } => {
                names.contains(name) || prefixes.iter().any(|prefix| text.starts_with(&**prefix))
            }
        };
        !is_of_backend
            && (page.sends_credentials || !CREDENTIALS.contains(name))
            && !OF_REQUEST.contains(name)
            && !ABOUT_OTHERS.iter().any(|about| text.starts_with(about))
            && !overrides.is_some_and(|overrides| overrides.contains(name))
    };
    let names = headers.keys();
    let doomed: Vec<HeaderName> = names.filter(|name| !is_passed(name)).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
    if let Some(trace) = &ctx.facts.trace {
        trace::pass_on(headers, trace);
    }
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    open.close(&mut request);
    Some(request)
}

/// Returns true if the path of `target` has dot segments. Encoded ones have no normal form.
fn has_dot_segments(target: &[u8]) -> bool {
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    path.split(|byte| *byte == b'/')
        .any(|segment| matches!(segment, b"." | b".."))
}

/// Asks a backend for the page.
async fn ask(
    request: &RequestHeader,
    ctx: &Context,
    upstream: &Upstream,
    (must_be_new, tried): (bool, &mut Vec<BackendId>),
) -> std::result::Result<Page, Failed> {
    let clock = &ctx.live().world.clock;
    let is_own = ctx
        .upstream
        .as_ref()
        .is_some_and(|own| own.name == upstream.name);
    let lease = LeaseRequest {
        head: request,
        client: ctx.facts.client.ip,
        at: clock.now(),
        tried,
        is_upgrade: false,
        release: ctx.facts.release.as_deref().filter(|_| is_own),
    };
    let lease = upstream.acquire(&lease).await.map_err(|_| Failed {
        why: "no backend takes it".to_owned(),
        may_retry: false,
    })?;
    let failed = |error: &Error| Failed {
        why: error.to_string(),
        may_retry: true,
    };
    let time = upstream.timeouts.connect;
    let mut connection = match upstream.connect(&lease, must_be_new, time).await {
        Ok(connection) => connection,
        Err(error) => {
            tried.push(lease.backend().id());
            lease.finish(Outcome::ConnectFailed);
            return Err(failed(&error));
        }
    };
    let backend = Arc::clone(lease.backend().address());
    let is_reused = connection.is_reused();
    match exchange(request, &mut connection).await {
        Ok((head, body, is_kept)) => {
            let now = clock.now();
            if is_kept && connection.input.is_empty() {
                upstream.put_back(&lease, connection, now);
            }
            let first_byte = now - lease.since();
            lease.finish(match head.status.as_u16() {
                status @ 502..=504 => Outcome::Status(status),
                _ => Outcome::Ok { first_byte },
            });
            let body = body.freeze();
            Ok(Page {
                head,
                body,
                backend,
            })
        }
        Err(error) => {
            // An app closes idle connections when it likes.
            if !is_reused {
                tried.push(lease.backend().id());
                lease.finish(Outcome::Reset);
            }
            Err(failed(&error))
        }
    }
}

/// Sends the request and reads the whole response. Returns it, its body, and whether the backend
/// keeps the connection.
async fn exchange(
    request: &RequestHeader,
    connection: &mut BackendConnection,
) -> Result<(ResponseHeader, BytesMut, bool)> {
    let mut output = BytesMut::new();
    write_section(request, &mut output)?;
    while !output.is_empty() {
        let written = poll_fn(|cx| connection.poll_output(cx, &[IoSlice::new(&output)])).await;
        match written.map_err(broken)? {
            0 => return Err(broken(io::ErrorKind::WriteZero.into())),
            count => output.advance(count),
        }
    }
    poll_fn(|cx| connection.poll_flush(cx))
        .await
        .map_err(broken)?;
    let mut response = loop {
        match parse_response(&mut connection.input, ValueMemory::Own)? {
            Some(response) if streams::is_interim(&response) => {}
            Some(response) => break response,
            None if fill(connection).await? == 0 => {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            None => {}
        }
    };
    if response.status.is_informational() {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "an unwanted protocol");
    }
    let is_kept = is_kept_alive(&response);
    let framing = Framing::of(request, &mut response)?;
    let mut body = MessageBody::new(framing);
    let mut content = BytesMut::new();
    loop {
        let piece = match body.take(&mut connection.input)? {
            Some(piece) => piece,
            None if fill(connection).await? > 0 => continue,
            None => body.close()?,
        };
        let Piece { bytes, is_last } = piece;
        content.extend_from_slice(&bytes.unwrap_or_default());
        if content.len() > MAX_SIZE {
            let why = "the page has more than 1 MiB";
            return Error::e_explain(ErrorType::InvalidHTTPHeader, why);
        }
        if is_last {
            return Ok((response, content, is_kept && framing != Framing::UntilClose));
        }
    }
}

/// Reads what the backend sends next; returns the number of bytes, 0 at the end.
async fn fill(connection: &mut BackendConnection) -> Result<usize> {
    connection.input.reserve(ROOM);
    poll_fn(|cx| connection.poll_input(cx))
        .await
        .map_err(broken)
}

#[expect(
    clippy::unnecessary_box_returns,
    reason = "Pingora's errors come and go in boxes"
)]
fn broken(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::ConnectionClosed, "asking for a page", error)
}
