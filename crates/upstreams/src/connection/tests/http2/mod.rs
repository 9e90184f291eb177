//! Streams to apps that speak HTTP/2: which connections they share, and how these end.

mod unfit;

use std::{collections::HashSet, future::poll_fn, path::Path};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use rcgen::Certificate;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{
    secure::{NAMES, app_config},
    *,
};
use crate::tests::{Bench, take};

const LONG: Duration = Duration::from_secs(10);

/// App that speaks HTTP/2, and what it saw.
struct App {
    port: u16,
    seen: UnboundedReceiver<Seen>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Accepted,
    Closed,
    Reset(Reason),
}

impl App {
    async fn start(tls: Option<TlsAcceptor>, most_streams: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, seen) = unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                tell.send(Seen::Accepted).unwrap();
                let (tls, tell) = (tls.clone(), tell.clone());
                connections.spawn(async move {
                    match tls {
                        Some(tls) => match tls.accept(socket).await {
                            Ok(stream) => serve(stream, most_streams, &tell).await,
                            Err(error) => panic!("{error}"),
                        },
                        None => serve(socket, most_streams, &tell).await,
                    }
                    tell.send(Seen::Closed).unwrap();
                });
            }
        });
        Self {
            port,
            seen,
            _tasks: tasks,
        }
    }

    async fn plain() -> Self {
        Self::start(None, 1000).await
    }

    /// Starts an app with TLS that offers `protocols`, and writes its certificate into `folder`.
    async fn secure(folder: &Path, protocols: &[&[u8]]) -> Self {
        let (mut config, certificate) = app_config();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        write_cas(folder, "ca.pem", &[&certificate]);
        write_cas(folder, "more.pem", &[&certificate, &app_config().1]);
        Self::start(Some(TlsAcceptor::from(Arc::new(config))), 1000).await
    }

    fn upstream(&self, bench: &Bench, more: &str) -> Arc<Upstream> {
        let port = self.port;
        bench.upstream(&format!(
            "{{ backends: [127.0.0.1:{port}], protocol: h2, {more} }}"
        ))
    }

    async fn sees(&mut self, expected: Seen) {
        let seen = tokio::time::timeout(LONG, self.seen.recv()).await;
        assert_eq!(seen.expect("in time"), Some(expected));
    }
}

fn write_cas(folder: &Path, name: &str, list: &[&Certificate]) {
    let text: String = list.iter().map(|certificate| certificate.pem()).collect();
    std::fs::write(folder.join(name), text).unwrap();
}

/// Serves one connection. The path says how: see [`respond`].
async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin,
    most_streams: u32,
    tell: &UnboundedSender<Seen>,
) {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(most_streams);
    let mut connection = builder.handshake(io).await.unwrap();
    let mut streams = JoinSet::new();
    while let Some(Ok((request, response))) = connection.accept().await {
        if request.uri().path() == "/leaving" {
            connection.graceful_shutdown();
        }
        let tell = tell.clone();
        streams.spawn(respond(request, response, tell));
    }
}

async fn respond(
    request: Request<RecvStream>,
    mut response: SendResponse<Bytes>,
    tell: UnboundedSender<Seen>,
) {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    let status = |status| Response::builder().status(status).body(()).unwrap();
    if path == "/silent" {
        let reset = poll_fn(|cx| response.poll_reset(cx)).await;
        tell.send(Seen::Reset(reset.unwrap())).unwrap();
        return;
    }
    if path == "/refused" {
        response.send_reset(Reason::REFUSED_STREAM);
        return;
    }
    if path != "/echo" {
        response
            .send_response(status(StatusCode::NO_CONTENT), true)
            .unwrap();
        return;
    }
    response
        .send_informational(status(StatusCode::EARLY_HINTS))
        .unwrap();
    let mut sending = response
        .send_response(status(StatusCode::OK), false)
        .unwrap();
    while let Some(data) = body.data().await {
        let Ok(mut data) = data else {
            return;
        };
        body.flow_control().release_capacity(data.len()).unwrap();
        while !data.is_empty() {
            sending.reserve_capacity(data.len());
            let room = poll_fn(|cx| sending.poll_capacity(cx)).await;
            let piece = data.split_to(data.len().min(room.unwrap().unwrap()));
            sending.send_data(piece, false).unwrap();
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    sending.send_trailers(trailers).unwrap();
}

async fn open(upstream: &Upstream) -> (Lease, BackendStream) {
    let lease = take(upstream, &[]).unwrap();
    let stream = upstream.open_stream(&lease, false, LONG).await.unwrap();
    (lease, stream)
}

fn send(stream: &mut BackendStream, path: &str, end: bool) {
    let request = Request::builder().uri(format!("http://a.test{path}"));
    let request = request.method(Method::POST).body(()).unwrap();
    stream.send_request(request, end).unwrap();
}

async fn response(stream: &mut BackendStream) -> Result<StatusCode> {
    let parts = poll_fn(|cx| stream.poll_response(cx)).await;
    parts.map(|parts| parts.status)
}

/// Makes a whole request, which ends with its stream. Returns the connection's address.
async fn ask(upstream: &Upstream, path: &str) -> Option<SocketAddr> {
    let (_lease, mut stream) = open(upstream).await;
    send(&mut stream, path, true);
    let status = response(&mut stream).await.unwrap();
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(stream.is_end_stream());
    stream.local()
}

#[tokio::test]
async fn streams_share_a_connection_up_to_the_gateways_limit() {
    let app = App::plain().await;
    let upstream = app.upstream(&Bench::default(), "");
    let local = ask(&upstream, "/").await;
    let (lease, mut first) = open(&upstream).await;
    assert!(first.is_reused() && first.local() == local && local.is_some());
    send(&mut first, "/silent", true);
    let mut more = Vec::new();
    for _ in 1..100 {
        let (lease, mut stream) = open(&upstream).await;
        assert!(stream.is_reused() && stream.local() == local);
        send(&mut stream, "/silent", true);
        more.push((lease, stream));
    }
    let (_lease, next) = open(&upstream).await;
    assert!(!next.is_reused() && next.local() != local);
    drop((lease, first));
    // The oldest has room again.
    let (_lease, again) = open(&upstream).await;
    assert!(again.is_reused() && again.local() == local);
    let lease = take(&upstream, &[]).unwrap();
    let new = upstream.open_stream(&lease, true, LONG).await.unwrap();
    assert!(!new.is_reused());
}

#[tokio::test]
async fn a_connection_is_shared_once_the_limit_of_its_backend_is_known() {
    let app = App::plain().await;
    let upstream = app.upstream(&Bench::default(), "");
    let (_lease, mut first) = open(&upstream).await;
    let (_lease, second) = open(&upstream).await;
    assert_ne!(first.local(), second.local());
    send(&mut first, "/", true);
    response(&mut first).await.unwrap();
    let (_lease, third) = open(&upstream).await;
    assert_eq!(third.local(), first.local());
}

#[tokio::test]
async fn a_backends_own_limit_is_kept() {
    let app = App::start(None, 2).await;
    let upstream = app.upstream(&Bench::default(), "");
    let local = ask(&upstream, "/").await;
    let (_first, second, third) = (
        open(&upstream).await.1,
        open(&upstream).await.1,
        open(&upstream).await.1,
    );
    assert_eq!(second.local(), local);
    assert_ne!(third.local(), local);
}

#[tokio::test]
async fn bodies_interim_responses_and_trailers_pass() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::secure(folder.path(), &[b"h2", b"http/1.1"]).await;
    let bench = Bench {
        folder: folder.path().to_owned(),
        ..Bench::default()
    };
    let upstream = app.upstream(&bench, "tls: { ca: ca.pem, name: a.test }");
    let (_lease, mut stream) = open(&upstream).await;
    send(&mut stream, "/echo", false);
    assert_eq!(
        response(&mut stream).await.unwrap(),
        StatusCode::EARLY_HINTS
    );
    assert_eq!(response(&mut stream).await.unwrap(), StatusCode::OK);
    let content: Vec<u8> = (0..3_000_000).map(|_| fastrand::u8(..)).collect();
    let (mut left, mut is_sent) = (Bytes::from(content.clone()), false);
    let mut seen = Vec::new();
    poll_fn(|cx| {
        if !is_sent {
            let sent = stream.poll_send(cx, &mut left, true);
            is_sent = sent.map(Result::unwrap).is_ready();
        }
        loop {
            match std::task::ready!(stream.poll_data(cx)) {
                Some(data) => seen.extend_from_slice(&data.unwrap()),
                None => return Poll::Ready(()),
            }
        }
    })
    .await;
    assert!(is_sent && seen == content);
    let trailers = poll_fn(|cx| stream.poll_trailers(cx)).await.unwrap();
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    assert!(stream.is_end_stream());
}

#[tokio::test]
async fn a_connection_that_the_backend_leaves_ends_its_streams_and_gets_no_new_ones() {
    let mut app = App::plain().await;
    let upstream = app.upstream(&Bench::default(), "");
    ask(&upstream, "/").await;
    let (_lease, mut kept) = open(&upstream).await;
    send(&mut kept, "/echo", false);
    let local = ask(&upstream, "/leaving").await;
    assert_eq!(kept.local(), local);
    let (_lease, next) = open(&upstream).await;
    assert!(!next.is_reused() && next.local() != local);
    app.sees(Seen::Accepted).await;
    app.sees(Seen::Accepted).await;
    let mut last = Bytes::from_static(b"last");
    poll_fn(|cx| kept.poll_send(cx, &mut last, true))
        .await
        .unwrap();
    response(&mut kept).await.unwrap();
    response(&mut kept).await.unwrap();
    let data = poll_fn(|cx| kept.poll_data(cx)).await;
    assert_eq!(data.unwrap().unwrap(), "last");
    drop(kept);
    app.sees(Seen::Closed).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_reset_and_one_may_be_refused() {
    let mut app = App::plain().await;
    let upstream = app.upstream(&Bench::default(), "");
    ask(&upstream, "/").await;
    let (lease, mut stream) = open(&upstream).await;
    send(&mut stream, "/silent", false);
    ask(&upstream, "/").await;
    app.sees(Seen::Accepted).await;
    drop((lease, stream));
    app.sees(Seen::Reset(Reason::CANCEL)).await;
    let (_lease, mut stream) = open(&upstream).await;
    assert!(stream.is_reused());
    send(&mut stream, "/refused", false);
    let reset = poll_fn(|cx| stream.poll_reset(cx)).await;
    assert_eq!(reset.unwrap(), Reason::REFUSED_STREAM);
    let error = response(&mut stream).await.unwrap_err();
    let root = error.root_cause().downcast_ref::<h2::Error>().unwrap();
    assert!(root.is_reset() && root.is_remote());
    let mut data = Bytes::from_static(b"data");
    let sent = poll_fn(|cx| stream.poll_send(cx, &mut data, true)).await;
    assert_eq!(*sent.unwrap_err().etype(), ErrorType::WriteError);
}

#[tokio::test]
async fn a_connection_is_closed_after_its_idle_time_and_not_during_a_stream() {
    let mut app = App::plain().await;
    let upstream = app.upstream(&Bench::default(), "pool: { idle: 50ms }");
    ask(&upstream, "/").await;
    let (lease, mut stream) = open(&upstream).await;
    send(&mut stream, "/silent", true);
    let local = ask(&upstream, "/").await;
    // The control: a later connection without a stream is closed by then.
    let mut other = App::plain().await;
    let without = other.upstream(&Bench::default(), "pool: { idle: 50ms }");
    ask(&without, "/").await;
    other.sees(Seen::Accepted).await;
    other.sees(Seen::Closed).await;
    assert_eq!(ask(&upstream, "/").await, local);
    app.sees(Seen::Accepted).await;
    drop((lease, stream));
    app.sees(Seen::Reset(Reason::CANCEL)).await;
    app.sees(Seen::Closed).await;
    assert_ne!(ask(&upstream, "/").await, local);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_fails_because_its_connection_expires() {
    let app = App::plain().await;
    let upstream = app.upstream(&Bench::default(), "pool: { idle: 1ms }");
    let mut clients = JoinSet::new();
    for _ in 0..2 {
        let upstream = Arc::clone(&upstream);
        clients.spawn(async move {
            let mut seen = HashSet::new();
            for _ in 0..200 {
                seen.insert(ask(&upstream, "/").await);
                tokio::time::sleep(Duration::from_micros(fastrand::u64(..6000))).await;
            }
            seen
        });
    }
    // The control: connections have expired.
    let seen = clients.join_all().await;
    assert!(seen.iter().all(|seen| seen.len() > 1));
}

#[tokio::test]
async fn a_stopping_app_gets_its_connections_closed_when_their_streams_end() {
    let mut app = App::plain().await;
    let upstream = app.upstream(&Bench::default(), "pool: { idle: 1h }");
    ask(&upstream, "/").await;
    let (lease, mut stream) = open(&upstream).await;
    send(&mut stream, "/echo", false);
    let local = ask(&upstream, "/").await;
    upstream.backends()[0].close_idle();
    assert_ne!(ask(&upstream, "/").await, local);
    app.sees(Seen::Accepted).await;
    app.sees(Seen::Accepted).await;
    drop((lease, stream));
    app.sees(Seen::Closed).await;
    // A connection that is made for an earlier request is not kept for others.
    let lease = take(&upstream, &[]).unwrap();
    upstream.backends()[0].close_idle();
    app.sees(Seen::Closed).await;
    drop(upstream.open_stream(&lease, false, LONG).await.unwrap());
    app.sees(Seen::Accepted).await;
    app.sees(Seen::Closed).await;
}

#[tokio::test]
async fn a_backend_that_leaves_the_configuration_loses_its_connections() {
    let mut app = App::plain().await;
    let upstream = app.upstream(&Bench::default(), "pool: { idle: 1h }");
    let (lease, mut stream) = open(&upstream).await;
    send(&mut stream, "/", true);
    drop((lease, upstream));
    assert!(response(&mut stream).await.is_ok(), "its stream goes on");
    app.sees(Seen::Accepted).await;
    drop(stream);
    app.sees(Seen::Closed).await;
}

#[tokio::test]
async fn a_request_gets_a_connection_of_its_own_settings_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut app = App::secure(folder.path(), &[b"h2"]).await;
    // The state of the backend outlives the reloads.
    let bench = Bench {
        folder: folder.path().to_owned(),
        ..Bench::default()
    };
    let mut known: Vec<Option<SocketAddr>> = Vec::new();
    let mut before = None;
    for ca in ["ca.pem", "more.pem"] {
        for name in NAMES {
            let tls = format!("pool: {{ idle: 1h }}, tls: {{ ca: {ca}, name: {name} }}");
            let upstream = app.upstream(&bench, &tls);
            let local = ask(&upstream, "/").await;
            assert!(!known.contains(&local));
            assert_eq!(ask(&upstream, "/").await, local, "the control");
            app.sees(Seen::Accepted).await;
            if before.is_some() {
                // No request asks for the last one again.
                app.sees(Seen::Closed).await;
            }
            known.push(local);
            before = Some(upstream);
        }
    }
}
