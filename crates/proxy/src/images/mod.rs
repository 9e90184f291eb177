//! Images of apps that are made here, in place of a request to the app: after the cache was asked,
//! and stored like the response of the app.

mod remote;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_cache::{nextjs::max_age_of, store::LogMark};
use edgeway_core::chain::{Phase, Reply};
use edgeway_core::open_headers::OpenResponseHeaders;
use edgeway_gateway::{
    AppImages, FetchPlace, FetchedSource, ImageFailure, ImageSource, MadeImage, Refusal,
    SourceFailure, WantedImage,
};
use edgeway_routes::Target;
use edgeway_upstreams::Upstream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};

use super::{
    cache,
    context::{self, Context, Decision, Flow},
    fetch::{self, OwnRequest},
    forward,
};

/// Time for a source from the app, after which the client waits for the app itself.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a source from another server, with its redirects and its time in the queue.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(12);

const HOST: HeaderValue = HeaderValue::from_static("localhost");

/// Reason word for an image whose source is none.
const NO_SOURCE: &str = "image_source";

const INVALID: &str = "\"url\" parameter is valid but internal response is invalid";

/// Decides a request that would go to the app. It still does, unless it is for an image that is made
/// here.
pub(super) async fn ask(head: &RequestHeader, ctx: &mut Context, decision: Decision) -> Decision {
    let Decision::GoesOn(Some(flow)) = decision else {
        return decision;
    };
    if !flow.is_image() || has_body(&head.headers) {
        return Decision::GoesOn(Some(flow));
    }
    let gateway = Arc::clone(&ctx.gateway);
    let cache = context::cache(&gateway, ctx.route);
    if cache.is_some_and(|cache| flow.has_usable(cache)) {
        return Decision::GoesOn(Some(flow));
    }
    let app_images = ctx.upstream.as_ref().and_then(|upstream| {
        let mut apps = gateway.app_images.iter();
        apps.find(|(own, _)| Arc::ptr_eq(own, upstream))
    });
    match app_images {
        // Boxed, because otherwise every request's future would be as large.
        Some((upstream, images)) => Box::pin(make(head, ctx, flow, (upstream, images))).await,
        None => Decision::GoesOn(Some(flow)),
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

async fn make(
    head: &RequestHeader,
    ctx: &mut Context,
    mut flow: Box<Flow>,
    (upstream, images): (&Arc<Upstream>, &AppImages),
) -> Decision {
    let target = forward::target(head, ctx);
    let target = Target::new("", &target);
    let release = ctx.facts.release.as_deref();
    let wanted = images.wanted(target.path, target.query, &head.headers, release);
    let Some(wanted) = wanted else {
        return Decision::GoesOn(Some(flow));
    };
    let release = release.map(|name| (name, upstream.is_release_up(name)));
    let clock = ctx.live().world.clock.clone();
    flow.ask_now(clock.wall());
    let mark = flow.mark;
    let image = match source(ctx, (upstream, images), (&wanted, mark), release).await {
        Ok(source) => images.make(&wanted, (source, mark), clock.now()).await,
        Err(SourceFailure::Left(failure)) => Err(failure),
        // The stored image may still be used, if the route allows it, or the route has another
        // response in place of the app's.
        Err(SourceFailure::Refused(_)) if flow.has_stored() || has_own_errors(ctx) => {
            Err(ImageFailure::Source)
        }
        Err(SourceFailure::Refused(refusal)) => {
            images.count_refused();
            return Decision::Reply(Box::new(refuse(refusal)));
        }
    };
    let image = match image {
        Ok(image) => image,
        Err(failure) => {
            images.count(Err(failure));
            return Decision::GoesOn(Some(flow));
        }
    };
    let Some(image) = image.image() else {
        return Decision::GoesOn(Some(flow));
    };
    let Some(headers) = wanted.headers(image) else {
        return Decision::GoesOn(Some(flow));
    };
    images.count(Ok(image));
    if let Some(entry) = image.stored.get()
        && flow.key == *entry.key()
    {
        return Decision::Stored(Arc::clone(entry), None);
    }
    respond(head, ctx, flow, (image, headers)).await
}

/// Returns true if the route changes error responses of the app.
fn has_own_errors(ctx: &Context) -> bool {
    let pages = context::error_pages(&ctx.gateway, ctx.route);
    pages.is_some_and(|pages| pages.intercepts)
        || context::chain(&ctx.gateway, ctx.route).has(Phase::UpstreamResponse)
}

/// Refuses an image with the status and the text of the app.
fn refuse(refusal: Refusal) -> Reply {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut reply = Reply::bytes(refusal.status, text, refusal.text);
    reply.reason = Some(NO_SOURCE);
    reply
}

/// Returns the source of an image: a file of the app, or what the app or another server sends.
async fn source(
    ctx: &Context,
    (upstream, images): (&Arc<Upstream>, &AppImages),
    (wanted, mark): (&WantedImage, LogMark),
    release: Option<(&str, bool)>,
) -> Result<ImageSource, SourceFailure> {
    if let Some(remote) = images.remote(wanted) {
        let fetched = images.fetched(wanted, mark, |place| remote::fetch(wanted, remote, place));
        let fetched = tokio::time::timeout(REMOTE_TIMEOUT, fetched).await;
        return fetched.unwrap_or(Err(ImageFailure::Time.into()));
    }
    if let Some(file) = images.file(wanted, release).await? {
        return Ok(file);
    }
    let fetched = images.fetched(wanted, mark, |place| {
        fetch(ctx, upstream, wanted, (release, place))
    });
    let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetched).await;
    fetched.unwrap_or(Err(ImageFailure::Time.into()))
}

/// Asks the app for the source of an image.
async fn fetch(
    ctx: &Context,
    upstream: &Upstream,
    wanted: &WantedImage,
    (release, place): (Option<(&str, bool)>, FetchPlace),
) -> Result<FetchedSource, SourceFailure> {
    let head = request_for(wanted).ok_or(ImageFailure::Source)?;
    let request = OwnRequest {
        head: &head,
        body: Bytes::new(),
        may_repeat: true,
        client: ctx.facts.client.ip,
        release: release.map(|(name, _)| name),
        longest: wanted.longest().0,
    };
    let fetched = fetch::fetch(&request, upstream, &ctx.live().world.clock).await;
    let fetched = fetched.map_err(|_| ImageFailure::Source)?;
    let (head, body) = (fetched.head, fetched.body);
    // Another release responds if no backend of the wanted one is in rotation any more.
    let is_of_release = release.is_none_or(|(name, _)| fetched.release.as_deref() == Some(name));
    if !fetched.is_complete || !is_of_release {
        return Err(ImageFailure::Source.into());
    }
    // The optimizer would get the same. A failing backend gives the app another chance.
    if head.status.is_client_error() {
        return Err(SourceFailure::Refused(Refusal {
            status: head.status,
            text: INVALID,
        }));
    }
    if !head.status.is_success() || body.is_empty() {
        return Err(ImageFailure::Source.into());
    }
    let control = joined(&head.headers, &header::CACHE_CONTROL)?;
    let etag = joined(&head.headers, &header::ETAG)?;
    let age = max_age_of(control.as_deref().unwrap_or_default()).ok_or(ImageFailure::Source)?;
    Ok(FetchedSource::new(body, etag, age, place))
}

/// Builds the request for the source of an image as the optimizer of Next.js does it: without any
/// header of the client. HTTP/1.1 needs a `Host`; this one is what Next.js calls itself.
fn request_for(wanted: &WantedImage) -> Option<RequestHeader> {
    let mut head = RequestHeader::build(Method::GET, wanted.source().as_bytes(), Some(1)).ok()?;
    head.insert_header(header::HOST, HOST).ok()?;
    Some(head)
}

/// Returns all values of a header of a source as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, ImageFailure> {
    let values = headers.get_all(name).iter().map(HeaderValue::to_str);
    let values: Result<Vec<&str>, _> = values.collect();
    let values = values.map_err(|_| ImageFailure::Source)?;
    Ok((!values.is_empty()).then(|| values.join(", ")))
}

/// Stores the image as if the app had sent it. If it may not be stored, only this client gets it.
async fn respond(
    head: &RequestHeader,
    ctx: &mut Context,
    flow: Box<Flow>,
    (made, headers): (&MadeImage, HeaderMap),
) -> Decision {
    let Ok(mut response) = ResponseHeader::build_no_case(StatusCode::OK, Some(headers.len()))
    else {
        return Decision::GoesOn(Some(flow));
    };
    {
        let mut open = OpenResponseHeaders::take(&mut response, headers.len());
        open.parts.headers = headers;
        let (chain, mut ex) = ctx.exchange(head);
        if chain.has(Phase::UpstreamResponse) {
            chain.on_upstream_response(&mut ex, &mut open.parts).await;
        }
        open.close(&mut response);
    }
    if let Some(entry) = cache::store_made(head, &response, made.bytes.clone(), ctx, flow).await {
        let _is_first = made.stored.set(Arc::clone(&entry));
        return Decision::Stored(entry, None);
    }
    if cache::not_modified(head, &response) {
        let mut reply = Reply::empty(StatusCode::NOT_MODIFIED);
        for name in [header::VARY, header::CACHE_CONTROL, header::ETAG] {
            if let Some(value) = response.headers.get(&name) {
                reply = reply.header(name, value.clone());
            }
        }
        return Decision::Reply(Box::new(reply));
    }
    let Some(content_type) = response.remove_header(&header::CONTENT_TYPE) else {
        return Decision::Reply(Box::new(Reply::empty(response.status)));
    };
    let mut reply = Reply::bytes(response.status, content_type, made.bytes.clone());
    for (name, value) in &response.headers {
        if *name != header::CONTENT_LENGTH {
            reply = reply.header(name.clone(), value.clone());
        }
    }
    Decision::Reply(Box::new(reply))
}
