//! Files that are looked up one after the other, and what comes after them (`try` and `otherwise` of
//! `files`), as `try_files` of nginx.

use std::sync::Arc;

use edgeway_core::chain::{Exchange, Reply, RouteRequest, RouteTarget};
use edgeway_files::FileLookup;
use edgeway_routes::{
    Action, Otherwise, ServeFiles, Target, normalise,
    values::{decoded, encoded_path},
};
use http::{HeaderValue, Method, StatusCode, header};
use pingora::http::RequestHeader;

use super::{decide, not_allowed, not_found};
use crate::{
    context::{self, Context, Decision},
    error::Failure,
};

/// Reason word for a path without a file.
const NO_FILE: &str = "no_file";

/// Result of looking for a file or folder.
enum Lookup {
    /// The file, or the folder's index, at this path.
    File(Vec<u8>, FileLookup),
    /// Folder that must not be listed.
    Forbidden,
    /// The index of a folder, whose path chooses the route again.
    Index(Vec<u8>),
    /// Folder at this path, to which a slash is added.
    Folder(Vec<u8>),
    Nothing,
}

/// Decides a request by the first file that there is.
pub(crate) async fn ask(head: &RequestHeader, ctx: &mut Context) -> Option<Decision> {
    let gateway = Arc::clone(&ctx.gateway);
    let Action::Files(serve) = &context::route(&gateway, ctx.route)?.action else {
        return None;
    };
    Some(first(serve, head, ctx).await)
}

async fn first(serve: &ServeFiles, head: &RequestHeader, ctx: &mut Context) -> Decision {
    let mut paths = Vec::with_capacity(serve.candidates.len());
    {
        let ex = Exchange::new(head, &mut ctx.facts);
        for candidate in &serve.candidates {
            let mut path = String::new();
            // Without a decision, the file is that of the table's default.
            let _undecided = candidate.path.write(&ex, &mut path);
            if candidate.is_folder && path.len() > 1 {
                // What is left ends in a slash only if the request's own path does.
                path.pop();
            }
            paths.push((path, candidate.is_folder));
        }
    }
    if paths.is_empty() {
        let path = Target::new("", head.raw_path()).path;
        let path = decoded(path);
        let is_folder = path.ends_with('/');
        paths.push((path, is_folder));
    }
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    // As nginx does: a POST is led to an index or a folder, too, and no other method.
    let is_led = [Method::GET, Method::HEAD, Method::POST].contains(&head.method);
    for (path, is_folder) in &paths {
        match look(serve, path, *is_folder, ctx).await {
            Lookup::Nothing => {}
            Lookup::Index(_) | Lookup::Folder(_) if !is_led => return not_allowed(),
            Lookup::Index(path) => {
                return reroute(RouteTarget::Path(with_query(path, head).into()));
            }
            Lookup::Folder(path) => return with_slash(path, head),
            Lookup::Forbidden => {
                let reply = Reply::refuse(StatusCode::FORBIDDEN, "file_forbidden")
                    .detail("This address is not served.");
                return Decision::Reply(Box::new(reply));
            }
            Lookup::File(path, lookup) => {
                return if is_read {
                    decide(&serve.files, &path, lookup, head).await
                } else {
                    not_allowed()
                };
            }
        }
    }
    match &serve.otherwise {
        None if is_read => {
            let path = Target::new("", head.raw_path()).path;
            let path = below_root(serve, path, ctx).unwrap_or_default();
            let page = serve.files.or_page(&path, FileLookup::NotFound).await;
            decide(&serve.files, &path, page, head).await
        }
        None => not_found(),
        Some(Otherwise::Status(status)) => {
            let reply = Reply::refuse(*status, NO_FILE).detail("There is nothing at this address.");
            Decision::Reply(Box::new(reply))
        }
        Some(Otherwise::Named(name, _)) => reroute(RouteTarget::Named(name.clone())),
        Some(Otherwise::Path(template)) => {
            let mut target = String::new();
            let ex = Exchange::new(head, &mut ctx.facts);
            let _undecided = template.write(&ex, &mut target);
            reroute(RouteTarget::Path(encoded_target(&target).into()))
        }
    }
}

/// Decides a request for a folder by the index that it has; `None` if it has none.
pub(crate) async fn index(
    serve: &ServeFiles,
    head: &RequestHeader,
    ctx: &Context,
) -> Option<Decision> {
    let target = Target::new("", head.raw_path());
    if !target.path.ends_with(b"/") {
        return None;
    }
    let path = decoded(target.path);
    match look(serve, &path, true, ctx).await {
        Lookup::Index(path) => Some(reroute(RouteTarget::Path(with_query(path, head).into()))),
        _ => None,
    }
}

fn reroute(to: RouteTarget) -> Decision {
    Decision::Reroute(Box::new(RouteRequest {
        to,
        page: None,
        kept: Vec::new(),
    }))
}

/// Returns a target whose path was written without percent-encoding.
fn encoded_target(target: &str) -> Vec<u8> {
    match target.split_once('?') {
        Some((path, query)) => format!("{}?{query}", encoded_path(path)).into_bytes(),
        None => encoded_path(target).into_bytes(),
    }
}

/// Appends the request's query to a path, unless it is empty.
fn with_query(mut path: Vec<u8>, head: &RequestHeader) -> Vec<u8> {
    let query = Target::new("", head.raw_path()).query;
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        path.push(b'?');
        path.extend_from_slice(query);
    }
    path
}

/// Redirects to the path of a folder with a slash at its end, and with the request's query.
fn with_slash(mut path: Vec<u8>, head: &RequestHeader) -> Decision {
    path.push(b'/');
    Decision::Reply(match HeaderValue::try_from(with_query(path, head)) {
        Ok(to) => {
            let reply = Reply::empty(StatusCode::MOVED_PERMANENTLY);
            Box::new(reply.header(header::LOCATION, to))
        }
        Err(_) => Failure::BadPath.into(),
    })
}

/// Looks for a file, or for a folder.
async fn look(serve: &ServeFiles, path: &str, is_folder: bool, ctx: &Context) -> Lookup {
    let path = encoded_path(path);
    let Ok(normal) = normalise(path.as_bytes(), ctx.gateway.slashes) else {
        return Lookup::Nothing;
    };
    let has_slash = normal.path.ends_with(b"/");
    if !is_folder {
        return match find(serve, &normal.path, ctx).await {
            lookup @ FileLookup::File(_) if !has_slash => {
                Lookup::File(normal.path.into_owned(), lookup)
            }
            _ => Lookup::Nothing,
        };
    }
    if !has_slash {
        return match find(serve, &normal.path, ctx).await {
            // Several slashes at the beginning would be the address of a host.
            FileLookup::Folder if !normal.path.starts_with(b"//") => {
                Lookup::Folder(normal.path.into_owned())
            }
            _ => Lookup::Nothing,
        };
    }
    for name in &serve.rerouted_index {
        let path = [&*normal.path, name.as_bytes()].concat();
        if let FileLookup::File(_) = find(serve, &path, ctx).await {
            return Lookup::Index(path);
        }
    }
    match find(serve, &normal.path, ctx).await {
        lookup @ FileLookup::File(_) => Lookup::File(normal.path.into_owned(), lookup),
        FileLookup::Forbidden => Lookup::Forbidden,
        FileLookup::Folder
        | FileLookup::NotFound
        | FileLookup::NotFoundPage(_)
        | FileLookup::Failed => Lookup::Nothing,
    }
}

/// Finds what is at a path in normal form.
async fn find(serve: &ServeFiles, path: &[u8], ctx: &Context) -> FileLookup {
    let Some(path) = below_root(serve, path, ctx) else {
        return FileLookup::NotFound;
    };
    match serve.files.kept(&path) {
        Some(file) => FileLookup::File(file),
        // A page in place of the first path would hide the files of the others.
        None => serve.files.look(&path).await,
    }
}

/// Returns the path below the root; `None` if the rewrite of the route gives none.
fn below_root(serve: &ServeFiles, path: &[u8], ctx: &Context) -> Option<Vec<u8>> {
    let rewrite = serve.rewrite.as_ref();
    let rewritten = rewrite.map(|rewrite| rewrite.apply(&Target::new("", path), &ctx.params));
    let rewritten = rewritten.transpose().ok()?.flatten();
    let path = rewritten
        .as_deref()
        .map_or(path, |it| Target::new("", it).path);
    Some(path.to_vec())
}
