//! A connection to the gateway that sends one request after the other.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header, uri::Authority};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::base::error;

/// Settings of all requests.
pub(super) struct RequestSettings {
    /// Address to connect to for every host. Absent to resolve the host.
    pub(super) to: Option<SocketAddr>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) headers: HeaderMap,
    /// Deadline of a response with all of its body.
    pub(super) deadline: Duration,
}

/// Result of a request.
pub(super) struct WarmResponse {
    pub(super) status: u16,
    /// Value of `X-Cache-Status`.
    pub(super) cache: Option<String>,
    pub(super) bytes: u64,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("cannot connect: {}", error::chain(.0))]
    Connect(#[source] io::Error),
    #[error("{}", error::chain(.0))]
    Exchange(#[from] hyper::Error),
    #[error("no response within {} s", .0.as_secs())]
    Late(Duration),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// An open connection.
struct OpenConnection {
    /// Scheme and authority of the connection.
    to: (bool, Authority),
    sender: SendRequest<Empty<Bytes>>,
    connection: Connection,
}

/// A worker's connection, opened when it is needed.
pub(super) struct WorkerConnection<'a> {
    asker: &'a RequestSettings,
    open: Option<OpenConnection>,
}

impl<'a> WorkerConnection<'a> {
    pub(super) fn new(asker: &'a RequestSettings) -> Self {
        Self { asker, open: None }
    }

    /// Fetches a URL and reads the whole response.
    pub(super) async fn get(
        &mut self,
        url: &Uri,
        encoding: &HeaderValue,
    ) -> Result<WarmResponse, ConnectionError> {
        let deadline = self.asker.deadline;
        let answer = async {
            let was_open = self.open.is_some();
            match self.try_get(url, encoding).await {
                // The gateway may have closed the idle connection in the meantime.
                Err(ConnectionError::Exchange(error)) if was_open && !error.is_parse() => {
                    self.open = None;
                    self.try_get(url, encoding).await
                }
                answer => answer,
            }
        };
        let answer = timeout(deadline, answer).await;
        let answer = answer.unwrap_or(Err(ConnectionError::Late(deadline)));
        if answer.is_err() {
            // The rest of the response must not be taken for the next one.
            self.open = None;
        }
        answer
    }

    async fn try_get(
        &mut self,
        url: &Uri,
        encoding: &HeaderValue,
    ) -> Result<WarmResponse, ConnectionError> {
        let is_https = url.scheme_str() == Some("https");
        let authority = url.authority().expect("the list has whole URLs").clone();
        let to = (is_https, authority);
        let wanted = to.clone();
        let is_usable = |open: &OpenConnection| open.to == wanted && !open.sender.is_closed();
        let open = match self.open.take().filter(is_usable) {
            Some(open) => open,
            None => self.asker.connect(to).await?,
        };
        let OpenConnection {
            to,
            mut sender,
            mut connection,
        } = open;
        let request = self.asker.request(url, encoding);
        let answer: hyper::Result<WarmResponse> = {
            let exchange = async {
                sender.ready().await?;
                let answer = sender.send_request(request).await?;
                let (head, mut body) = answer.into_parts();
                let mut bytes = 0;
                while let Some(frame) = body.frame().await {
                    bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
                }
                let cache = head.headers.get("x-cache-status");
                Ok(WarmResponse {
                    status: head.status.as_u16(),
                    cache: cache.and_then(|it| Some(it.to_str().ok()?.to_owned())),
                    bytes,
                })
            };
            tokio::pin!(exchange);
            // The connection transfers the bytes.
            tokio::select! {
                biased;
                answer = &mut exchange => answer,
                ended = &mut connection => {
                    let answer = exchange.await;
                    return Ok(match (answer, ended) {
                        (Ok(answer), _) => answer,
                        // The connection's error is more specific than that it has closed.
                        (Err(_), Err(why)) | (Err(why), Ok(())) => return Err(why.into()),
                    });
                }
            }
        };
        let answer = answer?;
        self.open = Some(OpenConnection {
            to,
            sender,
            connection,
        });
        Ok(answer)
    }
}

impl RequestSettings {
    fn request(&self, url: &Uri, encoding: &HeaderValue) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        let target = url.path_and_query().map_or("/", |target| target.as_str());
        *request.uri_mut() = target.parse().expect("it is part of a URL");
        let headers = request.headers_mut();
        let authority = url.authority().expect("the list has whole URLs").as_str();
        let host = HeaderValue::from_str(authority).expect("an authority is visible ASCII");
        headers.insert(header::HOST, host);
        headers.insert(header::ACCEPT_ENCODING, encoding.clone());
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        request
    }

    async fn connect(&self, to: (bool, Authority)) -> Result<OpenConnection, ConnectionError> {
        let (is_https, authority) = &to;
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16();
        let port = port.unwrap_or(if *is_https { 443 } else { 80 });
        let stream = match self.to {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((host, port)).await,
        };
        let stream = stream.map_err(ConnectionError::Connect)?;
        let stream: Box<dyn Stream> = if *is_https {
            let name = ServerName::try_from(host.to_owned());
            let name = name.map_err(|bad| ConnectionError::Connect(io::Error::other(bad)))?;
            let tls = TlsConnector::from(Arc::clone(&self.tls));
            let stream = tls.connect(name, stream).await;
            Box::new(stream.map_err(ConnectionError::Connect)?)
        } else {
            Box::new(stream)
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(OpenConnection {
            to,
            sender,
            connection: Box::pin(connection),
        })
    }
}
