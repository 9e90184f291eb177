//! Client of a running gateway's admin listener, for the command line.

use std::{
    fmt::Write as _, io, net::SocketAddr, os::unix::ffi::OsStrExt as _, path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use derive_more::Display;
use edgeway_base::secret::Secret;
use edgeway_cache::purge::Receipt;
use edgeway_net::fetch::{self, FetchError};
use http::{Method, Request, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_util::either::Either;

use super::{
    Snapshot,
    actions::{ActionError, OTHER_CONFIGURATION, SUCCEEDED, TOKEN_MISSING},
    http::CONFIGURATION,
    snapshot::Readiness,
};

/// Time limit of a read request.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit of an action. The gateway gives up before.
pub const ACTION: Duration = Duration::from_secs(125);

/// Retries of an action that met an upgrade, and the delay between them: the predecessor closes its
/// admin listener first.
const SUCCESSIONS: u32 = 50;
const SUCCESSION: Duration = Duration::from_millis(50);

/// Size limit of a response, far above those of the admin API.
pub(super) const MAX_RESPONSE_LEN: usize = 64 * 1024 * 1024;

/// Location of a gateway's admin listener.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub enum Target {
    #[display("{}", _0.display())]
    Socket(PathBuf),
    Address(SocketAddr),
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach a gateway at {0}: {1}")]
    Connect(Target, #[source] io::Error),
    #[error("the gateway at {0} sent no response: {1}")]
    Response(Target, String),
    #[error("the gateway at {} did not respond within {} s", .0, .1.as_secs())]
    Slow(Target, Duration),
    #[error("{0} does not respond like a gateway")]
    Stranger(Target),
    #[error(
        "{target} asks for the token, which was not sent: the socket {socket} cannot be reached, so \
         another user may listen there. If it is the gateway's, name it: `--admin {target}`"
    )]
    Withheld { target: Target, socket: Target },
    #[error("the gateway at {target} refused: {refused}")]
    Refused {
        target: Target,
        #[source]
        refused: Box<ActionError>,
    },
}

impl ClientError {
    /// Returns true if the gateway that responded serves another configuration.
    pub(super) fn is_of_other_gateway(&self) -> bool {
        matches!(self, Self::Refused { refused, .. } if refused.reason == OTHER_CONFIGURATION)
    }

    /// Returns true if the gateway that is meant may have seen nothing of the request: whatever is
    /// at an address may be another one, and lets nobody in.
    pub(super) fn is_elsewhere(&self) -> bool {
        match self {
            Self::Connect(..)
            | Self::Refused {
                target: Target::Address(_),
                ..
            } => true,
            _ => self.is_of_other_gateway(),
        }
    }
}

/// Client of a gateway. It opens a connection for each request.
#[derive(Clone, Debug)]
pub struct Client {
    /// Possible locations, the likeliest first. The next is used if one cannot be reached.
    pub targets: Vec<Target>,
    /// Token for an address, which is not sent to a socket. After a socket that cannot be reached,
    /// an address in `targets` does not get it either: any user of the machine may listen there.
    pub token: Option<Secret>,
    /// Configuration that the gateway must serve; `None` if `targets` are its own for certain.
    pub configuration: Option<PathBuf>,
}

impl Client {
    /// Fetches the gateway's state.
    ///
    /// # Errors
    ///
    /// Same as [`Self::get`].
    pub async fn snapshot(&self) -> Result<Snapshot, ClientError> {
        self.get("/v1/status").await
    }

    /// Asks for `/readyz`, which needs no token anywhere.
    ///
    /// # Errors
    ///
    /// Same as [`Self::get`].
    pub async fn readiness(&self) -> Result<Readiness, ClientError> {
        self.get("/readyz").await
    }

    /// Sends `GET path`, within [`READ_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// If the gateway cannot be reached, the response is not that of a gateway, or it is a refusal.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, None, READ_TIMEOUT, read).await
    }

    /// Sends `GET path` like [`Self::get`], for a response of JSON lines.
    ///
    /// # Errors
    ///
    /// Same as [`Self::get`].
    pub async fn lines(&self, path: &str) -> Result<String, ClientError> {
        let read = |target: &Target, status: StatusCode, body: &[u8]| {
            let text = std::str::from_utf8(body).ok();
            match text.filter(|_| status.is_success()) {
                Some(text) => Ok(text.to_owned()),
                None => read(target, status, body),
            }
        };
        self.ask(Method::GET, path, None, READ_TIMEOUT, read).await
    }

    /// Sends `POST path` with a JSON body.
    ///
    /// # Errors
    ///
    /// Same as [`Self::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("plain data");
        self.ask(Method::POST, path, Some(body.into()), deadline, read)
            .await
    }

    /// Purges. The receipt reports the progress, independent of the response's status.
    ///
    /// # Errors
    ///
    /// Same as [`Self::get`], if the purge was not begun.
    pub async fn purge(&self, order: &Value) -> Result<Receipt, ClientError> {
        self.post("/v1/purge", order, ACTION).await
    }

    /// Sends `DELETE path`.
    ///
    /// # Errors
    ///
    /// Same as [`Self::get`].
    pub async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        self.ask(Method::DELETE, path, None, deadline, read).await
    }

    async fn ask<T>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        deadline: Duration,
        read: impl Fn(&Target, StatusCode, &[u8]) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut targets = self.targets.iter().peekable();
        let mut successions = 0;
        let (mut unreached, mut other) = (None, None);
        loop {
            let target = *targets.peek().expect("a client has a target");
            let token = self.token.as_ref().filter(|_| unreached.is_none());
            let question = self.request(target, token, &method, path, body.as_ref());
            let outcome = timeout(deadline, ask(target, question)).await;
            let result = match outcome {
                Err(_) => Err(ClientError::Slow(target.clone(), deadline)),
                // No request was sent yet, so the next target cannot repeat an action.
                Ok(Err(ClientError::Connect(..))) if targets.len() > 1 => {
                    if matches!(target, Target::Socket(_)) {
                        unreached = Some(target);
                    }
                    targets.next();
                    continue;
                }
                Ok(Err(error)) => Err(error),
                Ok(Ok(response)) => read(target, response.status(), response.body()),
            };
            match result {
                // The action was not done, because an upgrade came first.
                Err(ClientError::Refused { refused, .. })
                    if refused.reason == SUCCEEDED && successions < SUCCESSIONS =>
                {
                    successions += 1;
                    tokio::time::sleep(SUCCESSION).await;
                }
                // The action was not done, because this is another gateway.
                Err(error) if error.is_of_other_gateway() && targets.len() > 1 => {
                    other.get_or_insert(error);
                    targets.next();
                }
                Err(error) if other.is_some() && error.is_elsewhere() => {
                    return Err(other.unwrap_or(error));
                }
                Err(ClientError::Refused { target, refused })
                    if refused.reason == TOKEN_MISSING && self.token.is_some() =>
                {
                    return Err(match unreached {
                        Some(socket) => ClientError::Withheld {
                            target,
                            socket: socket.clone(),
                        },
                        None => ClientError::Refused { target, refused },
                    });
                }
                result => return result,
            }
        }
    }

    pub(super) fn request(
        &self,
        target: &Target,
        token: Option<&Secret>,
        method: &Method,
        path: &str,
        body: Option<&Bytes>,
    ) -> Request<Bytes> {
        let mut request = Request::new(body.cloned().unwrap_or_default());
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.parse().expect("paths of ours");
        let headers = request.headers_mut();
        let host = match target {
            Target::Socket(_) => "localhost".to_owned(),
            Target::Address(address) => address.to_string(),
        };
        headers.insert(header::HOST, host.parse().expect("an address"));
        let json = header::HeaderValue::from_static("application/json");
        headers.insert(header::ACCEPT, json.clone());
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, json);
        }
        if let (Target::Address(_), Some(token)) = (target, token)
            && let Ok(mut value) =
                header::HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
        {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        if let Some(path) = &self.configuration {
            let path = hex::encode(path.as_os_str().as_bytes());
            headers.insert(CONFIGURATION, path.parse().expect("hexadecimal digits"));
        }
        request
    }
}

async fn ask(target: &Target, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
    let stream = connect(target).await?;
    let response = fetch::exchange(stream, request, MAX_RESPONSE_LEN).await;
    response.map_err(|error| failed(target, error))
}

pub(super) async fn connect(target: &Target) -> Result<Either<UnixStream, TcpStream>, ClientError> {
    let connected = match target {
        Target::Socket(path) => UnixStream::connect(path).await.map(Either::Left),
        Target::Address(address) => TcpStream::connect(address).await.map(Either::Right),
    };
    connected.map_err(|error| ClientError::Connect(target.clone(), error))
}

pub(super) fn failed(target: &Target, error: FetchError) -> ClientError {
    let target = target.clone();
    match error {
        FetchError::Http(error) if error.is_parse() => ClientError::Stranger(target),
        error => ClientError::Response(target, error.to_string()),
    }
}

/// Parses the response into data, or into the refusal that it is.
pub(super) fn read<T: DeserializeOwned>(
    target: &Target,
    status: StatusCode,
    body: &[u8],
) -> Result<T, ClientError> {
    let stranger = || ClientError::Stranger(target.clone());
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|_| stranger());
    }
    let mut body: Value = serde_json::from_slice(body).map_err(|_| stranger())?;
    // A partial purge is a receipt, with the status of the part that is missing. `/readyz` gives its
    // reasons with 503.
    if body.get("purges").is_some() || body.get("ready").is_some() {
        return serde_json::from_value(body).map_err(|_| stranger());
    }
    let error = body.get_mut("error").map(Value::take);
    let refused = error.and_then(|error| serde_json::from_value(error).ok());
    let mut refused: ActionError = refused.ok_or_else(stranger)?;
    if refused.reason == OTHER_CONFIGURATION {
        let option = match target {
            Target::Socket(path) => format!("--socket {}", path.display()),
            Target::Address(address) => format!("--admin {address}"),
        };
        let message = &mut refused.message;
        let _infallible = write!(message, "; for the one here, add `{option}`");
    }
    Err(ClientError::Refused {
        target: target.clone(),
        refused: Box::new(refused),
    })
}

#[cfg(test)]
mod tests {
    use edgeway_net::tasks::Tasks;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, UnixListener},
    };

    use super::*;

    impl Client {
        pub fn new(target: Target) -> Self {
            Self {
                targets: vec![target],
                token: None,
                configuration: None,
            }
        }
    }

    /// Creates a client of a server that sends `response` on each connection.
    async fn somebody(response: &'static str) -> (Client, Tasks) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::default();
        tasks.spawn("somebody", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut received = [0; 1024];
                let _length = stream.read(&mut received).await.unwrap();
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        });
        (Client::new(Target::Address(address)), tasks)
    }

    #[tokio::test]
    async fn a_server_that_is_no_gateway_is_recognised() {
        for response in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}",
        ] {
            let (client, _tasks) = somebody(response).await;
            let error = client.snapshot().await.unwrap_err();
            assert!(
                matches!(error, ClientError::Stranger(_)),
                "{response}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_refusal_comes_as_it_was_made() {
        let (client, _tasks) = somebody(
            "HTTP/1.1 409 Conflict\r\ncontent-length: 60\r\n\r\n\
             {\"error\":{\"status\":409,\"reason\":\"busy\",\"message\":\"not now\"}}",
        )
        .await;
        let error = client.get::<Value>("/v1/status").await.unwrap_err();
        assert!(error.to_string().ends_with(" refused: not now"), "{error}");
        let ClientError::Refused { refused, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((refused.status, &*refused.reason), (409, "busy"));
    }

    /// Invariant: a process that listens in place of a stopped gateway never sees its token.
    #[tokio::test]
    async fn the_token_is_not_sent_to_a_server_in_place_of_a_gateway() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone.sock");
        let dead = folder.path().join("dead.sock");
        drop(UnixListener::bind(&dead).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Target::Address(listener.local_addr().unwrap());
        let attempt = |sockets: &[&PathBuf]| {
            let sockets = sockets.iter().map(|path| Target::Socket((*path).clone()));
            let client = Client {
                targets: sockets.chain([address.clone()]).collect(),
                token: Some(Secret::new("a-token-of-16-letters".to_owned())),
                configuration: None,
            };
            let listener = &listener;
            async move {
                let serve = async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut room = [0; 1024];
                    let length = stream.read(&mut room).await.unwrap();
                    let refusal = "{\"error\":{\"status\":401,\"reason\":\"token_missing\",\
                                   \"message\":\"no token\"}}";
                    let response = format!(
                        "HTTP/1.1 401 Unauthorized\r\ncontent-length: {}\r\n\r\n{refusal}",
                        refusal.len()
                    );
                    stream.write_all(response.as_bytes()).await.unwrap();
                    String::from_utf8_lossy(&room[..length]).into_owned()
                };
                let (seen, error) = tokio::join!(serve, client.snapshot());
                (seen.contains("a-token-of"), error.unwrap_err())
            }
        };
        for sockets in [&[&gone][..], &[&dead], &[&gone, &dead]] {
            let (is_shown, error) = attempt(sockets).await;
            assert!(!is_shown, "{sockets:?}");
            let text = error.to_string();
            assert!(text.contains(&format!("--admin {address}")), "{text}");
        }
        // As the only target, it gets the token.
        let (is_shown, error) = attempt(&[]).await;
        assert!(is_shown);
        assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_no_server_is() {
        let folder = tempfile::tempdir().unwrap();
        let (gone, silent) = (
            folder.path().join("gone.sock"),
            folder.path().join("silent.sock"),
        );
        let _silent = UnixListener::bind(&silent).unwrap();
        let (mut client, _tasks) = somebody("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        client.targets.insert(0, Target::Socket(gone.clone()));
        assert!(client.snapshot().await.is_ok());
        // A server accepts the connection, so the action may be done and no other target is used.
        client.targets[0] = Target::Socket(silent);
        let attempt = client.delete::<Value>("/x", Duration::from_millis(50));
        assert!(matches!(attempt.await.unwrap_err(), ClientError::Slow(..)));

        client.targets = vec![Target::Socket(gone)];
        let error = client.snapshot().await.unwrap_err().to_string();
        assert!(error.starts_with("cannot reach a gateway at "), "{error}");
        assert!(error.contains("gone.sock"), "{error}");
    }
}
