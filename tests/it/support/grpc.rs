//! Small gRPC service, its server and its client, written by hand instead of by `protoc`.

use std::{
    convert::Infallible,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, uri::PathAndQuery};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client,
    codegen::Service,
    metadata::MetadataMap,
    server::{self, ClientStreamingService, NamedService, StreamingService, UnaryService},
    transport::{Channel, Endpoint, Server, server::Connected},
};
use tonic_prost::ProstCodec;

/// Request message.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Say {
    /// Text; the words `wait`, `fail`, `break` and `reset` are commands.
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    /// Number of requested responses.
    #[prost(uint32, tag = "2")]
    pub(crate) times: u32,
    /// Pause before each response.
    #[prost(uint32, tag = "3")]
    pub(crate) pause: u32,
}

/// Response message.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Heard {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(uint32, tag = "2")]
    pub(crate) number: u32,
}

pub(crate) fn say(text: &str) -> Say {
    Say {
        text: text.to_owned(),
        ..Say::default()
    }
}

/// Details of a failure, as bytes that are not text.
pub(crate) const DETAILS: &[u8] = &[0, 1, 2, 254, 255];

/// Counts of the server.
#[derive(Debug, Default)]
pub(crate) struct TalkCounts {
    connections: AtomicU64,
    calls: AtomicU64,
    /// Calls that were cancelled before their response.
    cancelled: AtomicU64,
    heads: Mutex<Vec<(String, HeaderMap)>>,
}

impl TalkCounts {
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Returns the URI and the headers of the newest call.
    pub(crate) fn newest(&self) -> (String, HeaderMap) {
        self.heads.lock().last().cloned().unwrap()
    }
}

/// Counts a call as cancelled unless it is marked as over.
struct Open {
    counts: Arc<TalkCounts>,
    is_over: bool,
}

impl Open {
    fn over(&mut self) {
        self.is_over = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.is_over {
            self.counts.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<Heard, Status>> + Send>>;
type Answering<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

#[derive(Clone)]
struct Talk(Arc<TalkCounts>);

impl Talk {
    fn open(&self) -> Open {
        Open {
            counts: Arc::clone(&self.0),
            is_over: false,
        }
    }
}

fn failure() -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-why", "because".parse().unwrap());
    Status::with_details_and_metadata(
        Code::FailedPrecondition,
        "not now: 100 % sure",
        DETAILS.into(),
        metadata,
    )
}

async fn pause(say: &Say) {
    tokio::time::sleep(Duration::from_millis(say.pause.into())).await;
}

impl UnaryService<Say> for Talk {
    type Response = Heard;
    type Future = Answering<Heard>;

    fn call(&mut self, request: Request<Say>) -> Self::Future {
        let mut open = self.open();
        Box::pin(async move {
            let said = request.metadata().get("x-said").cloned();
            let say = request.into_inner();
            pause(&say).await;
            open.over();
            if say.text == "fail" {
                return Err(failure());
            }
            let mut response = Response::new(Heard {
                text: say.text,
                number: 1,
            });
            if let Some(said) = said {
                response.metadata_mut().insert("x-heard", said);
            }
            Ok(response)
        })
    }
}

/// Method that sends `times` responses.
struct Repeat(Talk);

impl server::ServerStreamingService<Say> for Repeat {
    type Response = Heard;
    type ResponseStream = Answers;
    type Future = Answering<Answers>;

    fn call(&mut self, request: Request<Say>) -> Self::Future {
        let open = self.0.open();
        let say = request.into_inner();
        Box::pin(async move {
            let answers = stream::unfold((open, say, 0), |(mut open, say, number)| async move {
                if number > say.times {
                    return None;
                }
                if number == say.times {
                    open.over();
                    let breaks = say.text == "break";
                    return breaks.then(|| (Err(failure()), (open, say, number + 1)));
                }
                pause(&say).await;
                let text = say.text.clone();
                let heard = Heard { text, number };
                Some((Ok(heard), (open, say, number + 1)))
            });
            Ok(Response::new(Box::pin(answers) as Answers))
        })
    }
}

/// Method that sends one response to all messages.
struct Collect(Talk);

impl ClientStreamingService<Say> for Collect {
    type Response = Heard;
    type Future = Answering<Heard>;

    fn call(&mut self, request: Request<Streaming<Say>>) -> Self::Future {
        let mut open = self.0.open();
        let mut words = request.into_inner();
        Box::pin(async move {
            let (mut text, mut number) = (String::new(), 0);
            while let Some(say) = words.message().await? {
                number += 1;
                if say.text == "fail" {
                    // Before the client has sent all of its messages.
                    open.over();
                    return Err(failure());
                }
                text.push_str(&say.text);
            }
            open.over();
            Ok(Response::new(Heard { text, number }))
        })
    }
}

/// Method that responds to each message as it arrives.
struct Chat(Talk);

impl StreamingService<Say> for Chat {
    type Response = Heard;
    type ResponseStream = Answers;
    type Future = Answering<Answers>;

    fn call(&mut self, request: Request<Streaming<Say>>) -> Self::Future {
        let open = self.0.open();
        let words = request.into_inner();
        Box::pin(async move {
            let answers = stream::unfold(
                (open, words, 0),
                |(mut open, mut words, number)| async move {
                    match words.message().await {
                        Ok(Some(say)) => {
                            pause(&say).await;
                            let text = say.text;
                            Some((Ok(Heard { text, number }), (open, words, number + 1)))
                        }
                        Ok(None) => {
                            open.over();
                            None
                        }
                        // The client has disconnected.
                        Err(_) => None,
                    }
                },
            );
            Ok(Response::new(Box::pin(answers) as Answers))
        })
    }
}

impl Service<http::Request<Body>> for Talk {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let head = (request.uri().to_string(), request.headers().clone());
        self.0.heads.lock().push(head);
        let talk = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Heard, Say>::default();
            let mut grpc = server::Grpc::new(codec).max_decoding_message_size(usize::MAX);
            Ok(match request.uri().path() {
                "/test.Talk/Echo" => grpc.unary(talk, request).await,
                "/test.Talk/Repeat" => grpc.server_streaming(Repeat(talk), request).await,
                "/test.Talk/Collect" => grpc.client_streaming(Collect(talk), request).await,
                "/test.Talk/Chat" => grpc.streaming(Chat(talk), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

impl NamedService for Talk {
    const NAME: &'static str = "test.Talk";
}

/// Running server.
pub(crate) struct TalkServer {
    address: SocketAddr,
    counts: Arc<TalkCounts>,
    _tasks: JoinSet<()>,
}

impl TalkServer {
    /// Starts the server without TLS, with prior knowledge.
    pub(crate) async fn start() -> Self {
        Self::listen(|socket| async { Some(socket) }).await
    }

    pub(crate) async fn start_tls(identity: &super::certificates::Issued) -> Self {
        let (chain, key) = identity.ders();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        Self::listen(move |socket| {
            let accept = acceptor.accept(socket);
            async move { accept.await.ok() }
        })
        .await
    }

    async fn listen<T, F>(enter: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> Self
    where
        T: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        F: Future<Output = Option<T>> + Send,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::<TalkCounts>::default();
        let counted = Arc::clone(&counts);
        let incoming = stream::unfold((listener, enter), move |(listener, enter)| {
            let counted = Arc::clone(&counted);
            async move {
                loop {
                    let (socket, _) = listener.accept().await.ok()?;
                    counted.connections.fetch_add(1, Ordering::SeqCst);
                    if let Some(io) = enter(socket).await {
                        return Some((Ok::<_, std::io::Error>(io), (listener, enter)));
                    }
                }
            }
        });
        let talk = Talk(Arc::clone(&counts));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let served = Server::builder()
                .add_service(talk)
                .serve_with_incoming(Box::pin(incoming));
            served.await.unwrap();
        });
        Self {
            address,
            counts,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn counts(&self) -> &TalkCounts {
        &self.counts
    }
}

/// Client of one server.
#[derive(Clone)]
pub(crate) struct TalkClient(client::Grpc<Channel>);

impl TalkClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self::to(endpoint).await
    }

    pub(crate) async fn to(endpoint: Endpoint) -> Self {
        let channel = endpoint.connect().await.unwrap();
        Self(client::Grpc::new(channel).max_decoding_message_size(usize::MAX))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unknown(error.to_string()))
    }

    pub(crate) async fn echo(
        &mut self,
        request: impl tonic::IntoRequest<Say>,
    ) -> Result<Response<Heard>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Talk/Echo");
        let request = request.into_request();
        self.0.unary(request, path, ProstCodec::default()).await
    }

    pub(crate) async fn repeat(&mut self, say: Say) -> Result<Streaming<Heard>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Talk/Repeat");
        let asked = self
            .0
            .server_streaming(Request::new(say), path, ProstCodec::default());
        Ok(asked.await?.into_inner())
    }

    pub(crate) async fn collect(
        &mut self,
        words: impl Stream<Item = Say> + Send + 'static,
    ) -> Result<Heard, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Talk/Collect");
        let asked =
            self.0
                .client_streaming(Request::new(words.boxed()), path, ProstCodec::default());
        Ok(asked.await?.into_inner())
    }

    pub(crate) async fn chat(
        &mut self,
        words: impl Stream<Item = Say> + Send + 'static,
    ) -> Result<Streaming<Heard>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Talk/Chat");
        let asked = self
            .0
            .streaming(Request::new(words.boxed()), path, ProstCodec::default());
        Ok(asked.await?.into_inner())
    }
}
