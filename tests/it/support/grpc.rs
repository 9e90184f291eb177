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
pub(crate) struct TalkRequest {
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
pub(crate) struct TalkResponse {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(uint32, tag = "2")]
    pub(crate) number: u32,
}

pub(crate) fn message(text: &str) -> TalkRequest {
    TalkRequest {
        text: text.to_owned(),
        ..TalkRequest::default()
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
    received: Mutex<Vec<(String, HeaderMap)>>,
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
        self.received.lock().last().cloned().unwrap()
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

type ResponseStream = Pin<Box<dyn Stream<Item = Result<TalkResponse, Status>> + Send>>;
type ResponseFuture<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

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

async fn pause(message: &TalkRequest) {
    tokio::time::sleep(Duration::from_millis(message.pause.into())).await;
}

impl UnaryService<TalkRequest> for Talk {
    type Response = TalkResponse;
    type Future = ResponseFuture<TalkResponse>;

    fn call(&mut self, request: Request<TalkRequest>) -> Self::Future {
        let mut open = self.open();
        Box::pin(async move {
            let mark = request.metadata().get("x-mark").cloned();
            let message = request.into_inner();
            pause(&message).await;
            open.over();
            if message.text == "fail" {
                return Err(failure());
            }
            let mut response = Response::new(TalkResponse {
                text: message.text,
                number: 1,
            });
            if let Some(mark) = mark {
                response.metadata_mut().insert("x-heard", mark);
            }
            Ok(response)
        })
    }
}

/// Method that sends `times` responses.
struct Repeat(Talk);

impl server::ServerStreamingService<TalkRequest> for Repeat {
    type Response = TalkResponse;
    type ResponseStream = ResponseStream;
    type Future = ResponseFuture<ResponseStream>;

    fn call(&mut self, request: Request<TalkRequest>) -> Self::Future {
        let open = self.0.open();
        let message = request.into_inner();
        Box::pin(async move {
            let responses = stream::unfold(
                (open, message, 0),
                |(mut open, message, number)| async move {
                    if number > message.times {
                        return None;
                    }
                    if number == message.times {
                        open.over();
                        let breaks = message.text == "break";
                        return breaks.then(|| (Err(failure()), (open, message, number + 1)));
                    }
                    pause(&message).await;
                    let text = message.text.clone();
                    let response = TalkResponse { text, number };
                    Some((Ok(response), (open, message, number + 1)))
                },
            );
            Ok(Response::new(Box::pin(responses) as ResponseStream))
        })
    }
}

/// Method that sends one response to all messages.
struct Collect(Talk);

impl ClientStreamingService<TalkRequest> for Collect {
    type Response = TalkResponse;
    type Future = ResponseFuture<TalkResponse>;

    fn call(&mut self, request: Request<Streaming<TalkRequest>>) -> Self::Future {
        let mut open = self.0.open();
        let mut messages = request.into_inner();
        Box::pin(async move {
            let (mut text, mut number) = (String::new(), 0);
            while let Some(message) = messages.message().await? {
                number += 1;
                if message.text == "fail" {
                    // Before the client has sent all of its messages.
                    open.over();
                    return Err(failure());
                }
                text.push_str(&message.text);
            }
            open.over();
            Ok(Response::new(TalkResponse { text, number }))
        })
    }
}

/// Method that responds to each message as it arrives.
struct Chat(Talk);

impl StreamingService<TalkRequest> for Chat {
    type Response = TalkResponse;
    type ResponseStream = ResponseStream;
    type Future = ResponseFuture<ResponseStream>;

    fn call(&mut self, request: Request<Streaming<TalkRequest>>) -> Self::Future {
        let open = self.0.open();
        let messages = request.into_inner();
        Box::pin(async move {
            let responses = stream::unfold(
                (open, messages, 0),
                |(mut open, mut messages, number)| async move {
                    match messages.message().await {
                        Ok(Some(message)) => {
                            pause(&message).await;
                            let text = message.text;
                            Some((
                                Ok(TalkResponse { text, number }),
                                (open, messages, number + 1),
                            ))
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
            Ok(Response::new(Box::pin(responses) as ResponseStream))
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
        let headers = (request.uri().to_string(), request.headers().clone());
        self.0.received.lock().push(headers);
        let talk = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<TalkResponse, TalkRequest>::default();
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
        let acceptor = identity.acceptor(&["h2"], None);
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
        request: impl tonic::IntoRequest<TalkRequest>,
    ) -> Result<Response<TalkResponse>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Talk/Echo");
        let request = request.into_request();
        self.0.unary(request, path, ProstCodec::default()).await
    }

    pub(crate) async fn repeat(
        &mut self,
        message: TalkRequest,
    ) -> Result<Streaming<TalkResponse>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Talk/Repeat");
        let response = self
            .0
            .server_streaming(Request::new(message), path, ProstCodec::default());
        Ok(response.await?.into_inner())
    }

    pub(crate) async fn collect(
        &mut self,
        messages: impl Stream<Item = TalkRequest> + Send + 'static,
    ) -> Result<TalkResponse, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Talk/Collect");
        let response =
            self.0
                .client_streaming(Request::new(messages.boxed()), path, ProstCodec::default());
        Ok(response.await?.into_inner())
    }

    pub(crate) async fn chat(
        &mut self,
        messages: impl Stream<Item = TalkRequest> + Send + 'static,
    ) -> Result<Streaming<TalkResponse>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Talk/Chat");
        let response =
            self.0
                .streaming(Request::new(messages.boxed()), path, ProstCodec::default());
        Ok(response.await?.into_inner())
    }
}
