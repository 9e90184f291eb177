//! The HTTP client for the gateway's own requests: key sets, authorization checks, the CA, the
//! admin API, warming.
//!
//! A deadline covers the whole exchange, the response has a size limit, and redirects are not
//! followed. Connections are kept alive between exchanges; an idempotent request is sent once more if
//! its connection closes before a response. HTTPS certificates are always verified,
//! unless the caller brings a TLS configuration that does not.

mod one_connection;
#[cfg(test)]
mod tests;

use std::{
    error::Error as _,
    io::{self, ErrorKind},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{
    CertificateDer,
    pem::{self, PemObject},
};
use tokio::time::timeout;
use tower_service::Service;

use self::one_connection::collect_with_trailers;
pub use self::one_connection::{
    collect, drain, exchange, exchange_for_success, exchange_in_pieces, exchange_over,
};

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
    #[error("{}", edgeway_base::error::chain(.0))]
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
    let text = match error.source() {
        Some(cause) if error.is_connect() => {
            format!("cannot connect: {}", edgeway_base::error::chain(cause))
        }
        _ => edgeway_base::error::chain(error),
    };
    if text.contains("CaUsedAsEndEntity") {
        // `openssl req -x509` makes such certificates.
        return format!("{text}; make the certificate with `-addext basicConstraints=CA:FALSE`");
    }
    text
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

/// Versions of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// HTTP/1.1, and HTTP/2 if the server chooses it in the TLS handshake.
    Negotiated,
    /// HTTP/2 alone, also without TLS.
    Http2,
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

type Client = legacy::Client<HttpsConnector<Connector>, Full<Bytes>>;

/// An HTTP client. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Fetch {
    client: Client,
    /// The same client, with a new connection for each request.
    unpooled: Client,
}

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
        Self::over(builder.wrap_connector(Connector::new(None)), false)
    }

    /// Creates a client with a TLS configuration that speaks HTTP/1.1 only, so a connection has one
    /// request at a time and a server's limit of streams refuses none. It connects to `to` for
    /// every host if given.
    pub fn with_http1(config: ClientConfig, to: Option<SocketAddr>) -> Self {
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        let builder = builder.https_or_http().enable_http1();
        Self::over(builder.wrap_connector(Connector::new(to)), false)
    }

    fn over(connector: HttpsConnector<Connector>, http2_only: bool) -> Self {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE)
            .http2_only(http2_only);
        Self {
            client: builder.build(connector.clone()),
            unpooled: builder.pool_max_idle_per_host(0).build(connector),
        }
    }

    /// Creates a client for `url` that trusts the CA certificates in the PEM text `ca`, or else the
    /// system's.
    pub fn with_ca(url: &Uri, ca: Option<&[u8]>, versions: Versions) -> Result<Self, String> {
        let trust = match ca {
            _ if url.scheme_str() != Some("https") => Trust::Plain,
            Some(pem) => Trust::Roots(Arc::new(roots_of(CertificateDer::pem_slice_iter(pem))?)),
            None => Trust::System,
        };
        let config = tls(&trust).map_err(|error| error.to_string())?;
        if versions == Versions::Negotiated {
            return Ok(Self::with_tls(config, Schemes::HttpAndHttps));
        }
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        let builder = builder.https_or_http().enable_http2();
        let connector = builder.wrap_connector(Connector::new(None));
        Ok(Self::over(connector, true))
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

    /// Sends a request like [`Self::send_with_body`], and returns the trailers of the response in
    /// place of its body.
    pub async fn send_for_trailers(
        &self,
        request: Request<Bytes>,
        deadline: Duration,
        longest: usize,
    ) -> Result<Response<HeaderMap>, FetchError> {
        self.exchange(request, deadline, async |_, body| {
            let body = collect_with_trailers(body, longest).await?;
            Ok(body.trailers().cloned().unwrap_or_default())
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
        let request = request.map(Full::new);
        let again = request.method().is_idempotent().then(|| request.clone());
        let exchange = async {
            let mut sent = self.client.request(request).await;
            let is_lost = matches!(&sent, Err(error) if is_closed_on_use(error));
            if let Some(again) = again.filter(|_| is_lost) {
                sent = self.unpooled.request(again).await;
            }
            let (parts, body) = sent?.into_parts();
            let body = read(parts.status, body).await?;
            Ok(Response::from_parts(parts, body))
        };
        let timed_out = |_| FetchError::Late(deadline);
        timeout(deadline, exchange).await.map_err(timed_out)?
    }
}

/// Returns true if a connection closed before anything of a response came. A server may close a kept
/// one just as it is used.
fn is_closed_on_use(error: &legacy::Error) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(|cause| {
        let io = cause.source().and_then(|io| io.downcast_ref::<io::Error>());
        let is_reset = |io: &io::Error| {
            matches!(
                io.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            )
        };
        cause.is_incomplete_message() || cause.is_closed() || io.is_some_and(is_reset)
    })
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
