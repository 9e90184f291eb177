//! Request for the page of an error, and its response.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{MAX_SIZE, Page, is_as_sent};
use crate::{
    chain::RequestChanges,
    filters::error_pages::{PageRequest, PageStatus},
    proxy::{
        context::{self, Context},
        forwarded,
        relay::{
            Framing, MessageBody, Piece, ValueMemory, is_kept_alive, parse_response, write_section,
        },
        request, streams, trace,
    },
    routes::normalise,
    upstreams::{BackendConnection, BackendId, LeaseRequest, Outcome, Upstream},
};

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
    /// True if it may be sent to another backend after the first one got a part of it.
    may_repeat: bool,
}

/// Attempt that failed.
struct Failed {
    why: String,
    /// True if another attempt may succeed.
    may_retry: bool,
}

/// Fetches the page from its upstream.
pub(super) async fn fetch(
    original: &RequestHeader,
    ctx: &Context,
    page: &PageRequest,
    body: Option<Bytes>,
) -> std::result::Result<Page, String> {
    let upstream = ctx.gateway.upstreams.get(&page.upstream);
    let upstream = upstream.ok_or("there is no such upstream")?;
    let is_clients = is_as_sent(ctx, page);
    if is_clients && page.is_of_client && body.is_none() {
        return Err("the client's body is longer than what can be sent again".to_owned());
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
    let mut tried = Vec::new();
    let mut why = String::new();
    for attempt in 0..ATTEMPTS {
        // What may be sent once goes over no connection that may be closed already.
        let must_be_new = attempt > 0 || !request.may_repeat;
        match ask(&request, ctx, upstream, (must_be_new, &mut tried)).await {
            Ok(part) if page.status != PageStatus::OfPage && is_part(part.head.status) => {
                // An error has the whole page.
                "there is only a part of it, or none".clone_into(&mut why);
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
            RequestChanges::Any => {
                let is_content = is_clients && text.starts_with(ABOUT_BODY);
                !is_content && !HARMLESS.contains(&text)
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
    if let Some(trace) = &ctx.facts.trace {
        trace::pass_on(headers, trace);
    }
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    open.close(&mut request);
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
    request: &Ask,
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
        head: &request.head,
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
    let failed = |error: &Error, may_retry: bool| Failed {
        why: error.to_string(),
        may_retry,
    };
    let time = upstream.timeouts.connect;
    let mut connection = match upstream.connect(&lease, must_be_new, time).await {
        Ok(connection) => connection,
        Err(error) => {
            tried.push(lease.backend().id());
            lease.finish(Outcome::ConnectFailed);
            return Err(failed(&error, true));
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
            Err(failed(&error, request.may_repeat))
        }
    }
}

/// Sends the request and reads the whole response. Returns it, its body, and whether the backend
/// keeps the connection.
async fn exchange(
    request: &Ask,
    connection: &mut BackendConnection,
) -> Result<(ResponseHeader, BytesMut, bool)> {
    let mut section = BytesMut::new();
    write_section(&request.head, &mut section)?;
    for mut output in [section.freeze(), request.body.clone()] {
        while !output.is_empty() {
            let written = poll_fn(|cx| connection.poll_output(cx, &[IoSlice::new(&output)])).await;
            match written.map_err(broken)? {
                0 => return Err(broken(io::ErrorKind::WriteZero.into())),
                count => output.advance(count),
            }
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
    let framing = Framing::of(&request.head, &mut response)?;
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
