//! Sources of images on other servers, fetched as the optimizer of Next.js does it, with the same
//! refusals.
//!
//! Visitors choose the URL, so a connection is opened only to a host that the app's configuration
//! allows, after a redirect too; only to the address that was checked, of one lookup; and never to
//! this machine or a private network, unless the app's configuration allows those. Anything else is
//! left to the app, which decides by its own rules.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_base::reach::Reach;
use edgeway_cache::nextjs::{RemoteSource, max_age_of};
use edgeway_gateway::{
    FetchPlace, FetchedSource, ImageFailure, Refusal, RemoteAccess, SourceFailure, WantedImage,
};
use edgeway_net::fetch::{self, FetchError};
use http::{HeaderValue, Request, Response, StatusCode, header};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Host;

use super::joined;

/// Time for the response of one server; that of the optimizer of Next.js.
const MAX_RESPONSE_TIME: Duration = Duration::from_secs(7);

/// Time to look a server up and to connect to it, after which the app may try.
const MAX_CONNECTING_TIME: Duration = Duration::from_secs(4);

/// Time to connect to one of its addresses.
const MAX_ADDRESS_TIME: Duration = Duration::from_secs(2);

const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");
const ANY_LANGUAGE: HeaderValue = HeaderValue::from_static("*");
const NOT_ENCODED: HeaderValue = HeaderValue::from_static("identity");
const USER_AGENT: HeaderValue = HeaderValue::from_static("node");

const INVALID: &str = "\"url\" parameter is valid but upstream response is invalid";
const LATE: &str = "\"url\" parameter is valid but upstream response timed out";

/// Source that cannot be fetched here.
const LEFT: SourceFailure = SourceFailure::Left(ImageFailure::Source);

/// Fetches the source of an image, and follows redirects.
pub(super) async fn fetch(
    wanted: &WantedImage,
    (source, access): (&RemoteSource, &RemoteAccess),
    place: FetchPlace,
) -> Result<FetchedSource, SourceFailure> {
    let rules = wanted.remote_rules();
    let mut redirects = rules.max_redirects;
    let mut source = source.clone();
    loop {
        let connecting = connect(&source, access, rules.allow_local);
        let connected = timeout(MAX_CONNECTING_TIME, connecting).await;
        let stream = connected.map_err(|_| LEFT)??;
        let asked = ask(&source, access, stream, wanted.longest());
        let asked = timeout(MAX_RESPONSE_TIME, asked).await;
        let response = asked.map_err(|_| refused(StatusCode::GATEWAY_TIMEOUT, LATE))??;
        let Some(location) = location(&response)? else {
            return read(response, place);
        };
        let next = source.redirected(location);
        let next = next.filter(|next| rules.allow(next)).ok_or(LEFT)?;
        if redirects == 0 {
            return Err(refused(StatusCode::LOOP_DETECTED, INVALID));
        }
        redirects -= 1;
        source = next;
    }
}

fn refused(status: StatusCode, text: &'static str) -> SourceFailure {
    SourceFailure::Refused(Refusal { status, text })
}

/// Connects to the first of the server's addresses that accepts it.
async fn connect(
    source: &RemoteSource,
    access: &RemoteAccess,
    allow_local: bool,
) -> Result<TcpStream, SourceFailure> {
    for address in addresses(source, access, allow_local).await? {
        let connected = timeout(MAX_ADDRESS_TIME, TcpStream::connect(address)).await;
        if let Ok(Ok(stream)) = connected {
            return Ok(stream);
        }
    }
    Err(LEFT)
}

/// Returns the addresses of the server, all of which may be connected to.
async fn addresses(
    source: &RemoteSource,
    access: &RemoteAccess,
    allow_local: bool,
) -> Result<Vec<SocketAddr>, SourceFailure> {
    let addresses = match source.address().ok_or(LEFT)? {
        Host::Ipv4(address) => vec![address.into()],
        Host::Ipv6(address) => vec![address.into()],
        Host::Domain(name) => {
            let resolved = access.resolver.resolve(name).await;
            resolved.map_err(|_| LEFT)?.addresses
        }
    };
    let may_connect = |reach| match reach {
        Reach::Public => true,
        Reach::Local => allow_local,
        Reach::Special => false,
    };
    let mut reaches = addresses.iter().map(|address| Reach::classify(*address));
    if !reaches.all(may_connect) {
        return Err(LEFT);
    }
    let port = source.port();
    let addresses = addresses.into_iter();
    Ok(addresses
        .map(|address| SocketAddr::new(address, port))
        .collect())
}

/// Sends the request for a source. The body of a response is there if that succeeded.
async fn ask(
    source: &RemoteSource,
    access: &RemoteAccess,
    stream: TcpStream,
    longest: (usize, bool),
) -> Result<Response<Option<Bytes>>, SourceFailure> {
    if !source.is_https() {
        return exchange(source, stream, longest).await;
    }
    let name = server_name(source).ok_or(LEFT)?;
    let connector = TlsConnector::from(Arc::clone(&access.tls));
    let stream = connector.connect(name, stream).await.map_err(|_| LEFT)?;
    exchange(source, stream, longest).await
}

async fn exchange(
    source: &RemoteSource,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (longest, is_limit): (usize, bool),
) -> Result<Response<Option<Bytes>>, SourceFailure> {
    let request = request_for(source).ok_or(LEFT)?;
    let exchanged = fetch::exchange_for_success(stream, request, longest).await;
    exchanged.map_err(|error| match error {
        FetchError::TooLong(_) if is_limit => refused(StatusCode::PAYLOAD_TOO_LARGE, INVALID),
        _ => LEFT,
    })
}

fn server_name(source: &RemoteSource) -> Option<ServerName<'static>> {
    match source.address()? {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).ok(),
        Host::Ipv4(address) => Some(ServerName::IpAddress(address.into())),
        Host::Ipv6(address) => Some(ServerName::IpAddress(address.into())),
    }
}

/// Builds the request for a source, with the headers that Next.js sends and none of the visitor. An
/// encoded image would have to be decoded first.
fn request_for(source: &RemoteSource) -> Option<Request<Bytes>> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = source.target().parse().ok()?;
    let host = HeaderValue::try_from(source.host_header()).ok()?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    headers.insert(header::ACCEPT, ANYTHING);
    headers.insert(header::ACCEPT_LANGUAGE, ANY_LANGUAGE);
    headers.insert(header::ACCEPT_ENCODING, NOT_ENCODED);
    headers.insert("sec-fetch-mode", HeaderValue::from_static("cors"));
    headers.insert(header::USER_AGENT, USER_AGENT);
    Some(request)
}

/// Returns the target of a redirect; `None` for a response that is none.
fn location(response: &Response<Option<Bytes>>) -> Result<Option<&str>, SourceFailure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let mut locations = response.headers().get_all(header::LOCATION).iter();
    match (locations.next(), locations.next()) {
        (None, _) => Ok(None),
        (Some(location), None) if !location.is_empty() => {
            location.to_str().map(Some).map_err(|_| LEFT)
        }
        // An empty one is no redirect to Next.js, and of several it takes the first.
        _ => Err(LEFT),
    }
}

/// Returns the source in a response that is no redirect.
fn read(
    response: Response<Option<Bytes>>,
    place: FetchPlace,
) -> Result<FetchedSource, SourceFailure> {
    let (head, body) = response.into_parts();
    let Some(body) = body else {
        return Err(match head.status.as_u16() {
            400..=599 => refused(head.status, INVALID),
            200..400 => refused(StatusCode::INTERNAL_SERVER_ERROR, INVALID),
            _ => LEFT,
        });
    };
    if head.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(ImageFailure::Format.into());
    }
    if body.is_empty() {
        return Err(refused(StatusCode::BAD_REQUEST, INVALID));
    }
    let control = joined(&head.headers, &header::CACHE_CONTROL)?;
    let age = max_age_of(control.as_deref().unwrap_or_default()).ok_or(LEFT)?;
    // Of several, the first one counts.
    let etag = head.headers.get(header::ETAG).map(HeaderValue::to_str);
    let etag = etag.transpose().map_err(|_| LEFT)?.map(str::to_owned);
    Ok(FetchedSource::new(body, etag, age, place))
}
