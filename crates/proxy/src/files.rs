//! Files as responses: found when the request has passed its filters, and sent in chunks as the
//! client takes them, through the response phase of its route.

use std::{borrow::Cow, io, sync::Arc};

use bytes::Bytes;
use edgeway_base::clock::Clock;
use edgeway_core::chain::{Certificate, Chain, Exchange, Phase, Reply, RequestFacts};
use edgeway_files::{FileBody, FileLookup, FileResponse, Files, Outcome};
use edgeway_gateway::metrics::FilePart;
use edgeway_routes::{Action, Params, ServeFiles, Target};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response};
use pingora::{Error, ErrorType, Result, http::RequestHeader};

use super::{
    context::{self, Context},
    decision::Decision,
    error::{FILE_CHANGED, Failure},
    file_tries, forward,
};
use crate::{connection::file_segment::SegmentSlot, session::Client};

/// Reason word for a path without a file.
const NO_FILE: &str = "no_file";

/// Segments of a file after which other connections of the same thread take their turn.
const MAX_IN_A_ROW: u32 = 8;

/// Attempts to send a file that is written meanwhile.
const ATTEMPTS: usize = 3;

/// Decides a request for a file; `None` if it is for an app.
pub(super) async fn ask(head: &RequestHeader, ctx: &mut Context) -> Option<Decision> {
    let route = context::route(&ctx.gateway, ctx.route)?;
    let serve = match &route.action {
        Action::Files(serve) => serve,
        Action::Forward(forward) => {
            if let Some(files) = &forward.files
                && let Some(decision) = before_upstream(files, head, ctx).await
            {
                return Some(decision);
            }
            if ctx.gateway.app_files.is_empty() {
                return None;
            }
            return of_app(head, ctx).await;
        }
        Action::Redirect(_) | Action::Respond(_) => return None,
    };
    if serve.internal.is_some() && ctx.facts.rerouted.is_none() {
        // As with `internal` of nginx: it is not said that there is anything.
        return Some(not_found());
    }
    if !serve.candidates.is_empty() || serve.otherwise.is_some() {
        // Boxed, because otherwise every request's future would be as large.
        return Box::pin(file_tries::ask(head, ctx)).await;
    }
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    // As nginx does: of a POST it says first that there is no file.
    if !is_read && head.method != Method::POST {
        return Some(not_allowed());
    }
    if !serve.rerouted_index.is_empty()
        && let Some(decision) = Box::pin(file_tries::index(serve, head, ctx)).await
    {
        return Some(decision);
    }
    let decision = if let Some(rewritten) = &ctx.facts.rewritten {
        // The route's own rewrite applies to the path that the client sent.
        let path = Target::new("", rewritten).path;
        find_at(&serve.files, path, head).await
    } else {
        let target = Target::new("", head.raw_path());
        find(serve, &target, &ctx.params, head).await
    };
    if is_read {
        return Some(decision);
    }
    Some(match decision {
        Decision::Reply(reply) if reply.status == StatusCode::NOT_FOUND => Decision::Reply(reply),
        _ => not_allowed(),
    })
}

/// Returns the refusal of a method for a file that is there.
pub(super) fn not_allowed() -> Decision {
    let allow = HeaderValue::from_static("GET, HEAD");
    let reply = Reply::refuse(StatusCode::METHOD_NOT_ALLOWED, Failure::Method.reason())
        .header(header::ALLOW, allow)
        .detail("This address only serves a file.");
    Decision::Reply(Box::new(reply))
}

/// Decides a request for a file that a route serves in place of its upstream. `None` leaves it to
/// the upstream: there is no file at the path.
async fn before_upstream(files: &Files, head: &RequestHeader, ctx: &Context) -> Option<Decision> {
    let sent = ctx.facts.rewritten.as_deref();
    let path = Target::new("", sent.unwrap_or(head.raw_path())).path;
    if ctx.is_websocket || path.first() != Some(&b'/') {
        return None;
    }
    let found = match files.kept(path) {
        Some(file) => FileLookup::File(file),
        // Boxed, because otherwise every request's future would be as large.
        None => Box::pin(files.find(path)).await,
    };
    match found {
        FileLookup::File(_) if head.method == Method::GET || head.method == Method::HEAD => {
            Some(decide(files, path, found, head).await)
        }
        FileLookup::File(_) => Some(not_allowed()),
        FileLookup::NotFoundPage(_)
        | FileLookup::Folder
        | FileLookup::NotFound
        | FileLookup::Forbidden
        | FileLookup::Failed => None,
    }
}

/// Decides a request for a file that the app would serve as it is. `None` leaves it to the app:
/// any other request, and one for a file that is not there.
async fn of_app(head: &RequestHeader, ctx: &Context) -> Option<Decision> {
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    if !is_read || ctx.is_websocket {
        return None;
    }
    let upstream = ctx.upstream.as_ref()?;
    let mut apps = ctx.gateway.app_files.iter();
    let (_, app) = apps.find(|(own, _)| Arc::ptr_eq(own, upstream))?;
    let rewritten = match &ctx.facts.rewritten {
        Some(rewritten) => Some(Cow::Borrowed(&**rewritten)),
        None => forward::rewritten(head, ctx).map(Cow::Owned),
    };
    let sent = rewritten.as_deref().unwrap_or(head.raw_path());
    let release = ctx.facts.release.as_deref();
    let release = release.map(|name| (name, upstream.is_release_up(name)));
    let (files, path) = app.find(Target::new("", sent).path, release)?;
    let found = match files.kept(&path) {
        Some(file) => FileLookup::File(file),
        // Boxed, because otherwise every request's future would be as large.
        None => Box::pin(files.find(&path)).await,
    };
    match found {
        FileLookup::File(_) => Some(decide(files, &path, found, head).await),
        _ => None,
    }
}

/// Decides a request whose response an app has redirected to `target`, a path of internal files.
pub(super) async fn internal(
    serve: &ServeFiles,
    target: &Target<'_>,
    params: &Params,
    head: &RequestHeader,
) -> Decision {
    match find(serve, target, params, head).await {
        // The path of a redirect to the folder is no client's business.
        Decision::Reply(reply) if reply.status.is_redirection() => not_found(),
        decision => decision,
    }
}

async fn find(
    serve: &ServeFiles,
    target: &Target<'_>,
    params: &Params,
    head: &RequestHeader,
) -> Decision {
    let rewritten = match &serve.rewrite {
        Some(rewrite) => match rewrite.apply(target, params) {
            Ok(rewritten) => rewritten,
            Err(_) => return Decision::Reply(Failure::BadPath.into()),
        },
        None => None,
    };
    let path = match &rewritten {
        Some(rewritten) => Target::new("", rewritten).path,
        None => target.path,
    };
    find_at(&serve.files, path, head).await
}

async fn find_at(files: &Files, path: &[u8], head: &RequestHeader) -> Decision {
    match files.kept(path) {
        Some(file) => decide(files, path, FileLookup::File(file), head).await,
        // Boxed, because otherwise every request's future would be as large.
        None => Box::pin(look(files, path, head)).await,
    }
}

async fn look(files: &Files, path: &[u8], head: &RequestHeader) -> Decision {
    let found = files.find(path).await;
    decide(files, path, found, head).await
}

/// Makes the response to a request from what is at its `path`.
pub(super) async fn decide(
    files: &Files,
    path: &[u8],
    found: FileLookup,
    head: &RequestHeader,
) -> Decision {
    match select(found, head) {
        Ok(response) if response.is_ready() => Decision::File(response),
        Ok(response) => Box::pin(begin(files, path, response, head)).await,
        Err(reply) => Decision::Reply(reply),
    }
}

/// Selects what of a file the request gets. The error is the reply if it gets none.
fn select(
    found: FileLookup,
    head: &RequestHeader,
) -> std::result::Result<Box<FileResponse>, Box<Reply>> {
    let outcome = match found {
        FileLookup::File(file) => FileResponse::select(file, &head.method, &head.headers),
        FileLookup::NotFoundPage(file) => {
            let page = FileResponse::not_found(file, &head.method, &head.headers);
            return Ok(Box::new(page));
        }
        FileLookup::Folder => return Err(Box::new(with_slash(head))),
        FileLookup::NotFound => return Err(Box::new(no_file())),
        FileLookup::Forbidden => {
            let reply = Reply::refuse(StatusCode::FORBIDDEN, "file_forbidden")
                .detail("This address is not served.");
            return Err(Box::new(reply));
        }
        FileLookup::Failed => return Err(Failure::Internal.into()),
    };
    match outcome {
        Outcome::File(response) => Ok(response),
        Outcome::PreconditionFailed => {
            let reply = Reply::refuse(StatusCode::PRECONDITION_FAILED, "precondition")
                .detail("The file is another version than the requested one.");
            Err(Box::new(reply))
        }
        Outcome::Unsatisfiable(size) => {
            let mut reply = Reply::refuse(StatusCode::RANGE_NOT_SATISFIABLE, "range")
                .detail("The file does not have the requested range.");
            if let Ok(range) = HeaderValue::try_from(format!("bytes */{size}")) {
                reply = reply.header(header::CONTENT_RANGE, range);
            }
            Err(Box::new(reply))
        }
    }
}

/// Reads the beginning of a large file before any part of the response is sent. If the file has
/// changed since it was opened, it is opened again.
async fn begin(
    files: &Files,
    path: &[u8],
    mut response: Box<FileResponse>,
    head: &RequestHeader,
) -> Decision {
    for _ in 0..ATTEMPTS {
        let Err(error) = response.begin().await else {
            return Decision::File(response);
        };
        log::debug!(error:%; "file opened again");
        files.forget(path);
        response = match select(files.find(path).await, head) {
            Ok(response) => response,
            Err(reply) => return Decision::Reply(reply),
        };
    }
    let root = files.root().display();
    let path = String::from_utf8_lossy(path);
    log::warn!(root:%, path:?; "file not served, because it is being written");
    Decision::Reply(Failure::FileChanged.into())
}

pub(super) fn not_found() -> Decision {
    Decision::Reply(Box::new(no_file()))
}

fn no_file() -> Reply {
    Reply::refuse(StatusCode::NOT_FOUND, NO_FILE).detail("There is nothing at this address.")
}

/// Redirects to the same path with a slash at its end, below which the links of an index lead.
fn with_slash(head: &RequestHeader) -> Reply {
    let target = Target::new("", head.raw_path());
    if target.path.ends_with(b"/") {
        // A rewrite leads to the folder whether or not the path has the slash.
        return no_file();
    }
    let mut to = Vec::with_capacity(head.raw_path().len() + 1);
    // `//evil.test/` would be the address of another host.
    let slashes = target.path.iter().take_while(|byte| **byte == b'/').count();
    to.push(b'/');
    to.extend_from_slice(&target.path[slashes..]);
    to.push(b'/');
    if let Some(query) = target.query {
        to.push(b'?');
        to.extend_from_slice(query);
    }
    match HeaderValue::from_maybe_shared(Bytes::from(to)) {
        Ok(to) => Reply::empty(StatusCode::MOVED_PERMANENTLY).header(header::LOCATION, to),
        Err(_) => Failure::BadPath.reply(),
    }
}

/// Sends a file. If an app decided that this client gets it, the headers of its response that are
/// kept replace those of the file.
pub(super) async fn send(
    client: &mut Client,
    ctx: &mut Context,
    response: FileResponse,
    kept: Option<HeaderMap>,
) -> Result<()> {
    let (head, body) = prepare(&client.request, ctx, response, kept).await;
    let lines = std::mem::take(&mut ctx.facts.lines);
    let live = Arc::clone(ctx.live());
    let clock = &live.world.clock;
    client.headers(head, &lines, body.is_none(), clock).await?;
    let Some(mut body) = body else {
        return Ok(());
    };
    let Context {
        gateway,
        route,
        facts,
        connection,
        ..
    } = ctx;
    let chain = context::chain(gateway, *route);
    if let Some(connection) = connection
        && connection.tls.is_none()
        && client.takes_segments()
    {
        let ex = Exchange {
            head: &client.request,
            facts,
        };
        if chain.ignores_body(&ex) {
            write_segments(client, &connection.segment, clock, &mut body).await?;
        }
    }
    write(client, chain, facts, body).await
}

/// Writes all but the end of the body without reading it, as far as that is possible.
async fn write_segments(
    client: &mut Client,
    slot: &SegmentSlot,
    clock: &Clock,
    body: &mut FileBody,
) -> Result<()> {
    let mut in_a_row = 0;
    while let Some(segment) = body.segment(clock.now()).await.map_err(broken)? {
        let sent = client.write_segment(slot, segment).await?;
        body.sent(sent).map_err(broken)?;
        in_a_row += 1;
        if in_a_row == MAX_IN_A_ROW {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Makes the headers of the response and runs the response phase on them.
async fn prepare(
    request: &RequestHeader,
    ctx: &mut Context,
    response: FileResponse,
    kept: Option<HeaderMap>,
) -> (response::Parts, Option<FileBody>) {
    let now = ctx.live().world.clock.now();
    ctx.facts.first_byte = Some(now - ctx.facts.started);
    // The client has the encoding that it prefers among those on disk.
    ctx.facts.is_coding_settled = response.is_encoded();
    let part = match response.status() {
        StatusCode::PARTIAL_CONTENT => FilePart::Range,
        StatusCode::NOT_MODIFIED => FilePart::NotModified,
        StatusCode::NOT_FOUND => FilePart::NotFound,
        _ if response.is_encoded() => FilePart::Compressed,
        _ => FilePart::Plain,
    };
    context::metrics(&ctx.gateway, ctx.route).count_file(part);
    let (mut head, ()) = http::Response::new(()).into_parts();
    let body = response.write(&mut head);
    let is_personal = kept.is_some() || is_personal(request, &ctx.facts);
    let policy = is_personal.then(|| unshare(&mut head.headers)).flatten();
    if let Some(kept) = kept {
        replace(&mut head, kept);
    }
    let Context {
        gateway,
        route,
        facts,
        ..
    } = ctx;
    if head.status == StatusCode::NOT_FOUND {
        facts.reason = Some(NO_FILE);
    }
    facts.make_page(&mut head);
    if facts
        .page_status()
        .is_some_and(|status| status != StatusCode::OK)
    {
        // As with nginx: an error has no parts.
        head.headers.remove(header::ACCEPT_RANGES);
    }
    let chain = context::chain(gateway, *route);
    let mut ex = Exchange {
        head: request,
        facts,
    };
    ex.facts.lines = chain.ready_lines(&ex);
    chain.on_response(&mut ex, &mut head).await;
    if head.status == StatusCode::NOT_MODIFIED {
        // RFC 9110, 15.4.5: the client has them already.
        head.headers.remove(header::CONTENT_TYPE);
        head.headers.remove(header::CONTENT_LENGTH);
    }
    if let Some(policy) = policy
        && head.headers.get(header::CACHE_CONTROL) == Some(&policy)
    {
        let private = [b"private, ", policy.as_bytes()].concat();
        if let Ok(private) = HeaderValue::from_maybe_shared(Bytes::from(private)) {
            head.headers.insert(header::CACHE_CONTROL, private);
        }
    }
    facts.status = head.status.as_u16();
    (head, body)
}

/// Returns true if another client may not get this response: shared caches store what is `public`
/// even if it needed credentials (RFC 9111, 3.5).
fn is_personal(request: &RequestHeader, facts: &RequestFacts) -> bool {
    facts.identity.is_some()
        || matches!(facts.client.certificate, Certificate::Verified(_))
        || request.headers.contains_key(header::AUTHORIZATION)
}

/// Removes `public` from the `Cache-Control` of a file, so that filters see a response that may be
/// personal. Returns the rest of it.
fn unshare(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let policy = headers.get_mut(header::CACHE_CONTROL)?;
    let rest = policy.as_bytes().strip_prefix(b"public, ")?;
    *policy = HeaderValue::from_bytes(rest).ok()?;
    Some(policy.clone())
}

/// Puts the headers in `kept` in place of those of the same name.
fn replace(head: &mut response::Parts, mut kept: HeaderMap) {
    match head.status {
        StatusCode::NOT_MODIFIED => {
            // RFC 9110, 15.4.5.
            kept.remove(header::CONTENT_TYPE);
        }
        // The others describe the file that is missing.
        StatusCode::NOT_FOUND => kept = only_cookies(&kept),
        _ => {}
    }
    let mut last: Option<HeaderName> = None;
    for (name, value) in kept {
        // A further value of the same name comes without it.
        if let Some(name) = name {
            head.headers.remove(&name);
            last = Some(name);
        }
        if let Some(name) = &last {
            head.headers.append(name.clone(), value);
        }
    }
}

fn only_cookies(kept: &HeaderMap) -> HeaderMap {
    let mut cookies = HeaderMap::new();
    for cookie in kept.get_all(header::SET_COOKIE) {
        cookies.append(header::SET_COOKIE, cookie.clone());
    }
    cookies
}

async fn write(
    client: &mut Client,
    chain: &Chain,
    facts: &mut RequestFacts,
    mut body: FileBody,
) -> Result<()> {
    loop {
        let chunk = body.next().await.map_err(broken)?;
        let is_last = body.left() == 0;
        let mut piece = Some(chunk);
        if chain.has(Phase::ResponseBody) {
            let mut ex = Exchange {
                head: &client.request,
                facts,
            };
            chain.on_response_body(&mut ex, &mut piece, is_last);
        }
        let is_held = piece.as_ref().is_none_or(Bytes::is_empty);
        if is_last || !is_held {
            client.write(piece, is_last).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Returns the error for a file that has changed, or cannot be read, while it is sent.
fn broken(error: io::Error) -> Box<Error> {
    let mut broken = Error::because(ErrorType::Custom(FILE_CHANGED), "reading a file", error);
    broken.as_in();
    broken
}
