//! HTTP/2 clients: an ordinary one, and one that writes frames by hand.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Request};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{client::MOST, verify::Verifier};

/// Timeout of each step; a hang is a failed test, not a stuck one.
const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

/// Connection without TLS, with prior knowledge.
#[derive(Debug)]
pub(crate) struct Client {
    send: SendRequest<Bytes>,
    /// Task that drives the connection; its result shows how the connection ended.
    driver: JoinSet<Result<(), h2::Error>>,
}

/// Complete response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) parts: http::response::Parts,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.parts.status.as_u16()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the response is text")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the response is JSON")
    }
}

/// Builds a request of the `http` crate, for `http://app.test`.
pub(crate) fn request(method: &str, target: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("http://app.test{target}"))
}

impl Client {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &mut h2::client::Builder::new()).await
    }

    pub(crate) async fn open_with(address: SocketAddr, builder: &mut h2::client::Builder) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("an option of any socket");
        Self::over(stream, builder).await
    }

    /// Uses an open stream, for example with TLS.
    pub(crate) async fn over<S>(stream: S, builder: &mut h2::client::Builder) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = builder
            .handshake(stream)
            .await
            .expect("the gateway speaks HTTP/2");
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Self { send, driver }
    }

    /// Begins a request whose body follows, unless `is_whole`.
    pub(crate) async fn begin(
        &self,
        request: http::request::Builder,
        is_end: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let request = request.body(()).expect("a request is well formed");
        let mut send = self.send.clone().ready().await?;
        send.send_request(request, is_end)
    }

    /// Sends a request and reads the complete response.
    pub(crate) async fn send(
        &self,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<Response, h2::Error> {
        let body = body.into();
        let is_head = request.method_ref() == Some(&http::Method::HEAD);
        let (response, mut stream) = self.begin(request, body.is_empty()).await?;
        if !body.is_empty() {
            // The request may be refused before all of it is sent: then the response has the
            // reason.
            drop(upload(&mut stream, body, true).await);
        }
        read(response, is_head).await
    }

    pub(crate) async fn get(&self, target: &str) -> Response {
        let sent = self.send(request("GET", target), "").await;
        sent.expect("the gateway responds")
    }

    /// Returns how the connection ended.
    pub(crate) async fn ended(&mut self) -> Result<(), h2::Error> {
        let ended = within(self.driver.join_next()).await;
        ended.expect("asked once").expect("it does not panic")
    }
}

/// Outcomes of the requests of a load over HTTP/2.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) succeeded: u64,
    /// Requests that a connection with a GOAWAY did not process, and that were sent again on
    /// another.
    pub(crate) moved: u64,
    pub(crate) connections: u64,
    pub(crate) failed: Vec<String>,
}

/// Sends one request after the other until `stop`, and opens a new connection after a GOAWAY.
pub(crate) async fn endless(to: SocketAddr, target: &str, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let client = Client::open(to).await;
        tally.connections += 1;
        while !stop.load(Ordering::Relaxed) {
            match client.send(request("GET", target), "").await {
                Ok(response) if response.status() == 200 => tally.succeeded += 1,
                Ok(response) => tally.failed.push(format!("status {}", response.status())),
                // RFC 9113, 6.8: streams above the last one were not and will not be processed.
                Err(error)
                    if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) =>
                {
                    tally.moved += 1;
                    break;
                }
                Err(error) => {
                    tally.failed.push(error.to_string());
                    break;
                }
            }
        }
    }
    tally
}

/// Reads the rest of a response to any method but `HEAD`, and verifies its body.
pub(crate) async fn read_response(
    response: h2::client::ResponseFuture,
) -> Result<Response, h2::Error> {
    read(response, false).await
}

async fn read(response: h2::client::ResponseFuture, is_head: bool) -> Result<Response, h2::Error> {
    let (parts, mut body) = within(response).await?.into_parts();
    let header = |name: &str| {
        let value = parts.headers.get(name)?;
        Some(value.to_str().expect("a header is text").to_owned())
    };
    let status = parts.status.as_u16();
    let has_body = !is_head && !matches!(status, 204 | 304);
    let mut verifier = has_body.then(|| Verifier::of(status, &header));
    let mut all = BytesMut::new();
    while let Some(piece) = next(&mut body).await? {
        all.extend_from_slice(&piece);
        assert!(all.len() <= MOST, "the body has no end");
        if let Some(verifier) = &mut verifier {
            let held = verifier.take(&piece);
            held.unwrap_or_else(|why| panic!("a body that does not hold: {why}"));
        }
    }
    let trailers = within(body.trailers()).await?;
    assert!(has_body || all.is_empty(), "a body where none may be");
    if let Some(verifier) = verifier {
        let held = verifier.end();
        held.unwrap_or_else(|why| panic!("a body that does not hold: {why}"));
    }
    Ok(Response {
        parts,
        body: all.freeze(),
        trailers,
    })
}

/// Returns the next piece of a body, and restores its window.
pub(crate) async fn next(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let Some(piece) = within(body.data()).await.transpose()? else {
        return Ok(None);
    };
    body.flow_control().release_capacity(piece.len())?;
    Ok(Some(piece))
}

/// Sends as much as the peer's window allows, until all is sent.
pub(crate) async fn upload(
    stream: &mut SendStream<Bytes>,
    mut body: Bytes,
    is_end: bool,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = within(std::future::poll_fn(|cx| stream.poll_capacity(cx))).await;
        let Some(room) = room.transpose()? else {
            // The stream is over; the response has the reason.
            return Ok(());
        };
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, is_end && body.is_empty())?;
    }
    Ok(())
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it is done in time")
}

/// Connection with hand-written frames.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
    /// Bytes that are read at once.
    pub(crate) room: usize,
    input: BytesMut,
}

/// Received frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Bytes,
}

impl Frames {
    /// Connects without sending a byte.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("an option of any socket");
        Self {
            stream,
            room: 16 * 1024,
            input: BytesMut::new(),
        }
    }

    /// Connects, and sends the preface and empty SETTINGS.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let mut frames = Self::connect(address).await;
        let start = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
        frames.write(&start).await.expect("the gateway reads");
        frames
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Returns the next frame, `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            self.input.reserve(self.room);
            let mut room = (&mut self.input).limit(self.room);
            match within(self.stream.read_buf(&mut room)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let header = self.input.get(..9)?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let (kind, flags) = (header[3], header[4]);
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        if self.input.len() < 9 + length {
            return None;
        }
        self.input.advance(9);
        Some(Frame {
            kind,
            flags,
            stream,
            payload: self.input.split_to(length).freeze(),
        })
    }

    /// Reads to the end of the connection; returns the codes of the GOAWAY frames.
    pub(crate) async fn goaways(&mut self) -> Vec<u32> {
        let mut codes = Vec::new();
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                codes.push((&frame.payload[4..]).get_u32());
            }
        }
        codes
    }

    /// Returns the next frame of this kind.
    pub(crate) async fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}

/// Connection preface of HTTP/2 (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns the bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Returns the header block of `METHOD path` for `app.test`, with no new entries in the index.
pub(crate) fn block(method: &str, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    block.push(match method {
        "GET" => 0x82,
        "POST" => 0x83,
        other => panic!("no short form of {other}"),
    });
    // `:scheme: http`; then `:path` and `:authority` as literals.
    block.push(0x86);
    for (name, value) in [(0x04, path), (0x01, "app.test")] {
        block.push(name);
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// Returns one header of a block as a literal without indexing.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0x00];
    for part in [name, value] {
        field.push(u8::try_from(part.len()).expect("a short part"));
        field.extend_from_slice(part.as_bytes());
    }
    field
}
