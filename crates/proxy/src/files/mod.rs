//! Files as responses: found when the request has passed its filters, and sent by [`send`].

mod send;
mod tries;

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use edgeway_core::chain::Reply;
use edgeway_files::{FileLookup, FileResponse, Files, Outcome};
use edgeway_routes::{Action, Params, ServeFiles, Target};
use http::{HeaderValue, Method, StatusCode, header};
use pingora::http::RequestHeader;

pub(super) use self::send::send;
use super::{
    context::{self, Context, Decision},
    error::Failure,
    forward,
};

/// Reason word for a path without a file.
const NO_FILE: &str = "no_file";

/// Statuses of paths without a file: those of a folder are redirects, or 403.
const OF_NO_FILE: [StatusCode; 3] = [
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
];

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
        return Box::pin(tries::ask(head, ctx)).await;
    }
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    // As nginx does: a POST gets 405 only where there is a file.
    if !is_read && head.method != Method::POST {
        return Some(not_allowed());
    }
    if !serve.rerouted_index.is_empty()
        && let Some(decision) = Box::pin(tries::index(serve, head, ctx)).await
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
        Decision::Reply(reply) if OF_NO_FILE.contains(&reply.status) => Decision::Reply(reply),
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
    let lookup = match files.kept(path) {
        Some(file) => FileLookup::File(file),
        // Boxed, because otherwise every request's future would be as large.
        None => Box::pin(files.find(path)).await,
    };
    match lookup {
        FileLookup::File(_) if head.method == Method::GET || head.method == Method::HEAD => {
            Some(decide(files, path, lookup, head).await)
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
    let lookup = match files.kept(&path) {
        Some(file) => FileLookup::File(file),
        // Boxed, because otherwise every request's future would be as large.
        None => Box::pin(files.find(&path)).await,
    };
    match lookup {
        FileLookup::File(_) => Some(decide(files, &path, lookup, head).await),
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
    let lookup = files.find(path).await;
    decide(files, path, lookup, head).await
}

/// Makes the response to a request from what is at its `path`.
pub(super) async fn decide(
    files: &Files,
    path: &[u8],
    lookup: FileLookup,
    head: &RequestHeader,
) -> Decision {
    match select(lookup, head) {
        Ok(response) if response.is_ready() => Decision::File(response),
        Ok(response) => Box::pin(begin(files, path, response, head)).await,
        Err(reply) => Decision::Reply(reply),
    }
}

/// Selects what of a file the request gets. The error is the reply if it gets none.
fn select(
    lookup: FileLookup,
    head: &RequestHeader,
) -> std::result::Result<Box<FileResponse>, Box<Reply>> {
    let outcome = match lookup {
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
    if let Some(query) = target.query.filter(|query| !query.is_empty()) {
        to.push(b'?');
        to.extend_from_slice(query);
    }
    match HeaderValue::from_maybe_shared(Bytes::from(to)) {
        Ok(to) => Reply::empty(StatusCode::MOVED_PERMANENTLY).header(header::LOCATION, to),
        Err(_) => Failure::BadPath.reply(),
    }
}
