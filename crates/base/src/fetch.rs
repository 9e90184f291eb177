//! The HTTP client for the gateway's own requests: key sets, authorization checks, the CA, the
//! admin API, warming.
//!
//! A deadline covers the whole exchange, the response has a size limit, and redirects are not
//! followed. Connections are kept alive between exchanges. HTTPS certificates are always verified,
//! unless the caller brings a TLS configuration that does not.

use std::{
    net::SocketAddr,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{
    CertificateDer,
    pem::{self, PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tower_service::Service;

const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("edgeway/", env!("CARGO_PKG_VERSION")));

/// Idle connections kept for one host.
const IDLE_CONNECTIONS: usize = 32;
/// Idle timeout, shorter than the minute after which many servers close idle connections.
const IDLE: Duration = Duration::from_secs(30);

/// Reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no response within {0:?}")]
    Late(Duration),
    #[error("the response is larger than {0} bytes")]
    TooLong(usize),
    #[error("{}", legacy_message(.0))]
    Exchange(legacy::Error),
    #[error("incomplete response: {0}")]
    Broken(String),
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{}", crate::error::chain(.0))]
    Http(hyper::Error),
}

// The messages of these have their causes, so the errors are no sources: a chain of causes would
// say everything twice.
impl From<legacy::Error> for FetchError {
    fn from(error: legacy::Error) -> Self {
        Self::Exchange(error)
    }
}

impl From<hyper::Error> for FetchError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

/// Message for a failed exchange; the client's own text names itself before the cause.
fn legacy_message(error: &legacy::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) if error.is_connect() => {
            format!("cannot connect: {}", crate::error::chain(cause))
        }
        _ => crate::error::chain(error),
    }
}

/// CA certificates that server certificates are verified against.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The system's CA certificates.
    System,
    /// These CA certificates alone.
    Roots(Arc<RootCertStore>),
    /// No TLS.
    Plain,
}

/// Reason why no client can be made for a URL, with help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TrustError {
    message: String,
    pub help: &'static str,
    /// True if the file of CA certificates is at fault.
    pub is_file: bool,
}

/// Schemes of the URLs that a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schemes {
    HttpsOnly,
    HttpAndHttps,
}

/// Connector that opens connections to the URL's host, or to one address for every host.
#[derive(Clone, Debug)]
struct Connector {
    http: HttpConnector,
    /// URL of the address to connect to.
    to: Option<Uri>,
}

impl Connector {
    fn new(to: Option<SocketAddr>) -> Self {
        let mut http = HttpConnector::new();
        // TLS is added above.
        http.enforce_http(false);
        let to = to.map(|address| {
            let url = format!("http://{address}/");
            url.parse().expect("an address is an authority")
        });
        Self { http, to }
    }
}

impl Service<Uri> for Connector {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = <HttpConnector as Service<Uri>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(cx)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        self.http.call(self.to.clone().unwrap_or(url))
    }
}

/// An HTTP client. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Fetch(legacy::Client<HttpsConnector<Connector>, Full<Bytes>>);

impl Fetch {
    /// Creates a client; reads the system's CA certificates if `trust` names them.
    pub fn new(trust: &Trust) -> Result<Self, rustls::Error> {
        let schemes = match trust {
            Trust::Plain => Schemes::HttpAndHttps,
            Trust::System | Trust::Roots(_) => Schemes::HttpsOnly,
        };
        Ok(Self::with_tls(tls(trust)?, schemes))
    }

    /// Creates a client with a TLS configuration.
    pub fn with_tls(config: ClientConfig, schemes: Schemes) -> Self {
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        let builder = match schemes {
            Schemes::HttpAndHttps => builder.https_or_http(),
            Schemes::HttpsOnly => builder.https_only(),
        };
        let builder = builder.enable_http1().enable_http2();
        Self::over(builder.wrap_connector(Connector::new(None)))
    }

    /// Creates a client with a TLS configuration that speaks HTTP/1.1 only, so a connection has one
    /// request at a time and a server's limit of streams refuses none. It connects to `to` for
    /// every host if given.
    pub fn with_http1(config: ClientConfig, to: Option<SocketAddr>) -> Self {
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        let builder = builder.https_or_http().enable_http1();
        Self::over(builder.wrap_connector(Connector::new(to)))
    }

    fn over(connector: HttpsConnector<Connector>) -> Self {
        Self(
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .pool_idle_timeout(IDLE)
                .build(connector),
        )
    }

    /// Creates a client for HTTPS, or else for HTTP only. It trusts the CA certificates in the PEM
    /// text `ca`, or else the system's.
    pub fn with_ca(is_tls: bool, ca: Option<&[u8]>) -> Result<Self, String> {
        let trust = match ca {
            _ if !is_tls => Trust::Plain,
            Some(pem) => Trust::Roots(Arc::new(roots_of(CertificateDer::pem_slice_iter(pem))?)),
            None => Trust::System,
        };
        Self::new(&trust).map_err(|error| error.to_string())
    }

    /// Creates a client for `url` that trusts the CA certificates in the file `ca`, or else the
    /// system's.
    pub fn to(url: &Uri, folder: &Path, ca: Option<&Path>) -> Result<Self, TrustError> {
        let trust = match ca {
            Some(ca) => {
                let roots = roots(&folder.join(ca)).map_err(|problem| TrustError {
                    message: format!("cannot use `{}`: {problem}", ca.display()),
                    help: "name a PEM file with the CA certificate",
                    is_file: true,
                })?;
                Trust::Roots(Arc::new(roots))
            }
            None if url.scheme_str() == Some("http") => Trust::Plain,
            None => Trust::System,
        };
        Self::new(&trust).map_err(|error| TrustError {
            message: format!("cannot load the system's CA certificates: {error}"),
            help: "install the package `ca-certificates`, or name a file: `ca: ca.pem`",
            is_file: false,
        })
    }

    /// Sends a request without a body and returns the whole response, which must arrive within
    /// `deadline` and have at most `longest` bytes.
    pub async fn send(
        &self,
        request: Request<()>,
        deadline: Duration,
        longest: usize,
    ) -> Result<Response<Bytes>, FetchError> {
        let request = request.map(|()| Bytes::new());
        self.send_with_body(request, deadline, longest).await
    }

    /// Sends a request without a body and returns the body of a response with status 200, otherwise
    /// like [`Self::send`]. Returns `None` for any other status, whose body is not read.
    pub async fn send_for_ok(
        &self,
        request: Request<()>,
        deadline: Duration,
        longest: usize,
    ) -> Result<Option<Bytes>, FetchError> {
        let request = request.map(|()| Bytes::new());
        let response = self.exchange(request, deadline, async |status, body| match status {
            StatusCode::OK => collect(body, longest).await.map(Some),
            _ => Ok(None),
        });
        Ok(response.await?.into_body())
    }

    /// Sends a request with a body, otherwise like [`Self::send`].
    pub async fn send_with_body(
        &self,
        request: Request<Bytes>,
        deadline: Duration,
        longest: usize,
    ) -> Result<Response<Bytes>, FetchError> {
        self.exchange(request, deadline, async |_, body| {
            collect(body, longest).await
        })
        .await
    }

    /// Sends a request without a body, reads the response to its end and returns the length of its
    /// body instead of the body.
    pub async fn measure(
        &self,
        request: Request<()>,
        deadline: Duration,
    ) -> Result<Response<u64>, FetchError> {
        let request = request.map(|()| Bytes::new());
        self.exchange(request, deadline, async |_, mut body| {
            let mut length = 0;
            while let Some(frame) = body.frame().await {
                length += frame?.data_ref().map_or(0, |data| data.len() as u64);
            }
            Ok(length)
        })
        .await
    }

    async fn exchange<T>(
        &self,
        mut request: Request<Bytes>,
        deadline: Duration,
        read: impl AsyncFnOnce(StatusCode, Incoming) -> Result<T, FetchError>,
    ) -> Result<Response<T>, FetchError> {
        let headers = request.headers_mut();
        headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
        let sent = self.0.request(request.map(Full::new));
        let exchange = async {
            let (parts, body) = sent.await?.into_parts();
            let body = read(parts.status, body).await?;
            Ok(Response::from_parts(parts, body))
        };
        let timed_out = |_| FetchError::Late(deadline);
        timeout(deadline, exchange).await.map_err(timed_out)?
    }
}

/// Client-side TLS configuration. Reads the system's CA certificates if `trust` names them.
pub fn tls(trust: &Trust) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match trust {
        Trust::System => config.try_with_platform_verifier()?,
        Trust::Roots(roots) => config.with_root_certificates(Arc::clone(roots)),
        Trust::Plain => config.with_root_certificates(RootCertStore::empty()),
    };
    Ok(config.with_no_client_auth())
}

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
    exchange_over(stream, request, Some(quiet), async |status, mut body| {
        if status != StatusCode::OK {
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

/// Sends one request, and passes the response to `read`. `quiet` limits the wait for its headers.
async fn exchange_over<T>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: Request<Bytes>,
    quiet: Option<Duration>,
    read: impl AsyncFnOnce(StatusCode, Incoming) -> Result<T, FetchError>,
) -> Result<Response<T>, FetchError> {
    let headers = request.headers_mut();
    headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let response = async {
        let sent = sender.send_request(request.map(Full::new));
        let (parts, body) = within(quiet, sent).await??.into_parts();
        let body = read(parts.status, body).await?;
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

/// Reads a whole body, which may have at most `longest` bytes.
async fn collect(body: Incoming, longest: usize) -> Result<Bytes, FetchError> {
    let body = Limited::new(body, longest).collect().await;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            FetchError::TooLong(longest)
        } else {
            FetchError::Broken(crate::error::chain(&*error))
        }
    })?;
    Ok(body.to_bytes())
}

/// Reads the CA certificates of a PEM file.
pub fn roots(path: &Path) -> Result<RootCertStore, String> {
    roots_of(CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?)
}

fn roots_of(
    read: impl Iterator<Item = Result<CertificateDer<'static>, pem::Error>>,
) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in read {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("no certificate found".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::tasks::Tasks;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Replies to each connection's first request with these bytes, then stays silent.
    async fn server(tasks: &Tasks, response: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn("server", async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 2048];
                let length = stream.read(&mut head).await.unwrap();
                assert!(head[..length].starts_with(b"GET /x HTTP/1.1\r\n"));
                stream.write_all(response).await.unwrap();
                open.push(stream);
            }
        });
        address
    }

    async fn fetch(
        response: &'static [u8],
        deadline: Duration,
    ) -> Result<Response<Bytes>, FetchError> {
        let tasks = Tasks::default();
        let address = server(&tasks, response).await;
        let request = Request::get(format!("http://{address}/x"))
            .body(())
            .unwrap();
        let client = Fetch::new(&Trust::Plain).unwrap();
        client.send(request, deadline, 16).await
    }

    /// Invariant: a peer that is silent for some time is given up, whatever it has sent before.
    #[tokio::test]
    async fn a_stream_from_a_silent_peer_ends() {
        for response in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n: \n\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n: \n\r\n",
            b"HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\nhalf",
        ] {
            let tasks = Tasks::default();
            let address = server(&tasks, response).await;
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = Request::get("/x").body(Bytes::new()).unwrap();
            let quiet = Duration::from_millis(200);
            let mut length = 0;
            let exchange = exchange_in_pieces(stream, request, 16, quiet, |piece| {
                length += piece.len();
                ControlFlow::Continue(())
            });
            let ended = timeout(PATIENCE, exchange).await.expect("it gives up");
            assert!(matches!(ended, Err(FetchError::Late(_))), "{ended:?}");
            assert!(length <= 4);
        }
    }

    #[tokio::test]
    async fn a_response_arrives_complete_and_redirects_are_responses() {
        let response = fetch(
            b"HTTP/1.1 302 Found\r\nlocation: /y\r\ncontent-length: 2\r\n\r\nok",
            PATIENCE,
        );
        let response = response.await.unwrap();
        assert_eq!(response.status(), 302);
        assert_eq!(response.headers()["location"], "/y");
        assert_eq!(&response.body()[..], b"ok");
    }

    #[tokio::test]
    async fn a_long_response_is_refused_and_a_slow_one_abandoned() {
        let long = b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n12345678901234567";
        let error = fetch(long, PATIENCE).await.unwrap_err();
        assert!(matches!(error, FetchError::TooLong(16)), "{error}");
        let short = Duration::from_millis(20);
        // The headers alone are no response either.
        for slow in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n1234",
        ] {
            let error = fetch(slow, short).await.unwrap_err();
            assert!(matches!(error, FetchError::Late(_)), "{error}");
        }
    }

    #[tokio::test]
    async fn the_body_of_an_error_is_not_waited_for() {
        let tasks = Tasks::default();
        let client = Fetch::new(&Trust::Plain).unwrap();
        for (response, body) in [
            (
                &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..],
                Some(&b"ok"[..]),
            ),
            (
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 99\r\n\r\n",
                None,
            ),
        ] {
            let address = server(&tasks, response).await;
            let request = Request::get(format!("http://{address}/x"))
                .body(())
                .unwrap();
            let found = client.send_for_ok(request, PATIENCE, 16).await.unwrap();
            assert_eq!(found.as_deref(), body);
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error_that_names_it() {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = unused.local_addr().unwrap();
        drop(unused);
        let client = Fetch::new(&Trust::Plain).unwrap();
        let request = Request::get(format!("http://{address}/x"))
            .body(())
            .unwrap();
        let error = client.send(request, PATIENCE, 16).await.unwrap_err();
        let text = crate::error::chain(&error);
        assert_eq!(text.matches("refused").count(), 1, "{text}");
    }

    #[tokio::test]
    async fn a_tls_client_speaks_nothing_else() {
        let roots = Arc::new(RootCertStore::empty());
        let client = Fetch::new(&Trust::Roots(roots)).unwrap();
        let request = Request::get("http://127.0.0.1:1/x").body(()).unwrap();
        let error = client.send(request, PATIENCE, 16).await.unwrap_err();
        assert!(matches!(error, FetchError::Exchange(_)), "{error}");
    }
}
