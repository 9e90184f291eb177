//! `X-Accel-Redirect`: an app lets the gateway send a file in place of its response, as with nginx.
//!
//! Only a route with `files: { internal: [...] }` that names the app's upstream has such files, so
//! one redirect leads to a file or to nothing, and never to another app or redirect.

use std::sync::Arc;

use edgeway_core::chain::{Reply, host::requested_host};
use edgeway_files::FileResponse;
use edgeway_gateway::Gateway;
use edgeway_routes::{self as routes, Action, Params, Target, normalise};
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use percent_encoding::percent_encode_byte;
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};

use super::{
    context::{AccelRedirect, Context, Decision, X_ACCEL_REDIRECT},
    files, reply, upstream,
};
use crate::session::Client;

/// Reason word for a redirect that leads to no file that the app may send.
const REASON: &str = "accel_redirect";

/// Headers of the app's response that the file's response has as well, as with nginx.
const KEPT: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_DISPOSITION,
    header::SET_COOKIE,
    header::CACHE_CONTROL,
    header::EXPIRES,
];

/// Reads the order out of a response, if there is one and the app may give it. The error ends the
/// app's response; [`send`] takes its place.
pub(super) fn read(response: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
    let senders = &ctx.gateway.accel_upstreams;
    if senders.is_empty() {
        return Ok(());
    }
    let Some(to) = response.remove_header(&X_ACCEL_REDIRECT) else {
        return Ok(());
    };
    let upstream = ctx.facts.upstream.name.as_ref();
    if !upstream.is_some_and(|upstream| senders.contains(upstream)) {
        return Ok(());
    }
    let mut kept = HeaderMap::new();
    for name in KEPT {
        for value in response.headers.get_all(&name) {
            kept.append(name.clone(), value.clone());
        }
    }
    ctx.accel = Some(Box::new(AccelRedirect { to, kept }));
    Err(Error::new_in(upstream::REPLACED))
}

/// Removes the order from a response that cannot give one.
pub(super) fn strip(interim: &mut ResponseHeader, ctx: &Context) {
    if !ctx.gateway.accel_upstreams.is_empty() {
        interim.remove_header(&X_ACCEL_REDIRECT);
    }
}

/// Sends the file that the app has named.
pub(super) async fn send(
    client: &mut Client,
    ctx: &mut Context,
    accel: AccelRedirect,
) -> Result<()> {
    let followed = follow(&client.request, ctx, accel).await?;
    if ctx.is_draining() {
        client.close();
    }
    match followed {
        Followed::File(response, kept) => files::send(client, ctx, *response, Some(kept)).await,
        Followed::Reply(reply) => reply::send(client, ctx, *reply).await,
    }
}

/// Result of following an order.
enum Followed {
    /// A file, and the headers of the app that replace its own.
    File(Box<FileResponse>, HeaderMap),
    Reply(Box<Reply>),
}

/// Follows the order that an app gave in response to `request`.
async fn follow(
    request: &RequestHeader,
    ctx: &mut Context,
    accel: AccelRedirect,
) -> Result<Followed> {
    let mut asked = request.clone();
    if asked.method != Method::HEAD {
        asked.set_method(Method::GET);
    }
    let decision = decide(&asked, ctx, &accel).await;
    ctx.reply = None;
    let mut kept = accel.kept;
    if let Some(cookie) = upstream::cookie(ctx) {
        kept.append(header::SET_COOKIE, cookie);
    }
    // A slow download occupies no place on the backend, whose part is over.
    upstream::over(ctx);
    match decision {
        Decision::File(response) => Ok(Followed::File(response, kept)),
        Decision::Reply(mut reply) => {
            // The app may have renewed a session: the client needs its cookies in any case.
            for cookie in kept.get_all(header::SET_COOKIE) {
                reply.headers.push((header::SET_COOKIE, cookie.clone()));
            }
            Ok(Followed::Reply(reply))
        }
        Decision::Stored(..)
        | Decision::GoesOn(_)
        | Decision::Reroute(_)
        | Decision::NeedsBody(..)
        | Decision::NeedsBeginning => Err(Error::new_in(ErrorType::Custom("no file"))),
    }
}

async fn decide(asked: &RequestHeader, ctx: &Context, accel: &AccelRedirect) -> Decision {
    let gateway = Arc::clone(&ctx.gateway);
    let encoded = encoded(accel.to.as_bytes());
    let refuse = || {
        let upstream = ctx.facts.upstream.name.as_deref().unwrap_or_default();
        log::warn!(
            request_id = ctx.facts.request_id.as_str(), upstream;
            "X-Accel-Redirect leads to no internal files of this upstream"
        );
        let reply = Reply::refuse(StatusCode::NOT_FOUND, REASON)
            .detail("There is nothing at this address.");
        Decision::Reply(Box::new(reply))
    };
    let is_path = encoded.starts_with(b"/");
    let Some(normal) = is_path
        .then(|| normalise(&encoded, gateway.slashes).ok())
        .flatten()
    else {
        return refuse();
    };
    let Ok(host) = routes::host_of(requested_host(asked)) else {
        return refuse();
    };
    let target = Target {
        listener: &ctx.facts.client.listener,
        path: &normal.path,
        query: normal.query,
        host: &host,
    };
    let mut params = Params::default();
    let Some(action) = action(&gateway, &target, asked, &mut params) else {
        return refuse();
    };
    let Action::Files(serve) = action else {
        return refuse();
    };
    let upstream = ctx.facts.upstream.name.as_ref();
    let is_named = serve
        .internal
        .as_ref()
        .zip(upstream)
        .is_some_and(|(names, upstream)| names.contains(upstream));
    if !is_named {
        return refuse();
    }
    files::internal(serve, &target, &params, asked).await
}

fn action<'g>(
    gateway: &'g Gateway,
    target: &Target<'_>,
    asked: &RequestHeader,
    params: &mut Params,
) -> Option<&'g Action> {
    let matched = gateway.table.find(target, asked, params)?;
    Some(&gateway.route(matched.route)?.action)
}

/// Percent-encodes bytes that a target must not have: apps write file names as they are.
fn encoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for (index, byte) in path.iter().enumerate() {
        let is_escape = *byte == b'%'
            && path
                .get(index + 1..index + 3)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if is_escape || (byte.is_ascii_graphic() && !matches!(byte, b'%' | b'#')) {
            out.push(*byte);
        } else {
            out.extend_from_slice(percent_encode_byte(*byte).as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_encoded_once() {
        for (path, target) in [
            ("/a b/100%.pdf", "/a%20b/100%25.pdf"),
            ("/a%20b", "/a%20b"),
            ("/\u{e4}#1", "/%C3%A4%231"),
            ("/a?x=1", "/a?x=1"),
            ("/50%2", "/50%252"),
        ] {
            assert_eq!(String::from_utf8(encoded(path.as_bytes())).unwrap(), target);
        }
    }
}
