//! Exchanges over a connection that the caller has opened, which is closed afterwards.

use std::{ops::ControlFlow, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header, response::Parts};
use http_body_util::{BodyExt, Collected, Full, LengthLimitError, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{FetchError, USER_AGENT};

/// Sends one HTTP/1.1 request over its own connection and returns the whole response. The caller
/// sets the deadline.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Bytes>,
    longest: usize,
) -> Result<Response<Bytes>, FetchError> {
    exchange_over(stream, request, None, async |_, body| {
        collect(body, longest).await
    })
    .await
}

/// Sends one request like [`exchange`], and returns the body of a response with a status from 200 to
/// 299. That of any other is not read.
pub async fn exchange_for_success(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Bytes>,
    longest: usize,
) -> Result<Response<Option<Bytes>>, FetchError> {
    exchange_over(stream, request, None, async |response, body| {
        if !response.status.is_success() {
            return Ok(None);
        }
        collect(body, longest).await.map(Some)
    })
    .await
}

/// Sends one request like [`exchange`], and passes the body of a response with status 200 to `take`
/// as it arrives, until that returns `Break`. Returns the rest of the response.
///
/// The peer sends something at least once in the time `quiet`, or the exchange fails: one whose
/// machine is gone never closes its connection.
pub async fn exchange_in_pieces(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Bytes>,
    longest: usize,
    quiet: Duration,
    mut take: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Response<Bytes>, FetchError> {
    exchange_over(stream, request, Some(quiet), async |response, mut body| {
        if response.status != StatusCode::OK {
            return within(Some(quiet), collect(body, longest)).await?;
        }
        while let Some(frame) = within(Some(quiet), body.frame()).await? {
            if let Some(piece) = frame?.data_ref()
                && take(piece).is_break()
            {
                break;
            }
        }
        Ok(Bytes::new())
    })
    .await
}

/// Waits for this time at most, if there is a limit.
async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = T>,
) -> Result<T, FetchError> {
    match limit {
        Some(limit) => timeout(limit, work)
            .await
            .map_err(|_| FetchError::Late(limit)),
        None => Ok(work.await),
    }
}

/// Sends one request, over HTTP/2 if that is its version, and passes the response to `read`. `quiet`
/// limits the wait for its headers.
pub async fn exchange_over<T>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: Request<Bytes>,
    quiet: Option<Duration>,
    read: impl AsyncFnOnce(&Parts, Incoming) -> Result<T, FetchError>,
) -> Result<Response<T>, FetchError> {
    let headers = request.headers_mut();
    headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
    let stream = TokioIo::new(stream);
    if request.version() == Version::HTTP_2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        let sent = sender.send_request(request.map(Full::new));
        return finish(sent, connection, quiet, read).await;
    }
    let close = HeaderValue::from_static("close");
    request.headers_mut().insert(header::CONNECTION, close);
    let (mut sender, connection) = http1::handshake(stream).await?;
    let sent = sender.send_request(request.map(Full::new));
    finish(sent, connection, quiet, read).await
}

/// Waits for the response, and passes it to `read`.
async fn finish<T>(
    sent: impl Future<Output = hyper::Result<Response<Incoming>>>,
    connection: impl Future<Output = hyper::Result<()>>,
    quiet: Option<Duration>,
    read: impl AsyncFnOnce(&Parts, Incoming) -> Result<T, FetchError>,
) -> Result<Response<T>, FetchError> {
    let response = async {
        let (parts, body) = within(quiet, sent).await??.into_parts();
        let body = read(&parts, body).await?;
        Ok(Response::from_parts(parts, body))
    };
    // The connection future transfers the bytes of the response, and ends no later.
    tokio::pin!(connection);
    tokio::pin!(response);
    tokio::select! {
        biased;
        response = &mut response => response,
        _ended = &mut connection => response.await,
    }
}

/// Reads a body to its end, and keeps nothing of it.
pub async fn drain(mut body: Incoming) -> Result<(), FetchError> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// Reads a whole body, which may have at most `longest` bytes.
pub async fn collect(body: Incoming, longest: usize) -> Result<Bytes, FetchError> {
    Ok(collect_with_trailers(body, longest).await?.to_bytes())
}

/// Reads a whole body like [`collect`], and the trailers after it.
pub(super) async fn collect_with_trailers(
    body: Incoming,
    longest: usize,
) -> Result<Collected<Bytes>, FetchError> {
    let body = Limited::new(body, longest).collect().await;
    body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            FetchError::TooLong(longest)
        } else {
            FetchError::Broken(edgeway_base::error::chain(&*error))
        }
    })
}
