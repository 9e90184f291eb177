//! An HTTP/1 client that hides nothing: what goes out is what was written, and each piece of a
//! body is kept with the moment it came.
//!
//! Each body is verified to its end, by what it says itself ([`super::verify`]): a connection
//! that is dropped within a body fails its test, unless that has said why ([`Connection::leave`]).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use serde_json::Value;
use thiserror::Error;

use super::verify::{self, Verifier};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// No single step of an exchange may take longer; a hang is a failed test, not a stuck one.
const PATIENCE: Duration = Duration::from_secs(40);

/// Size of one write of a made-up body.
const PIECE: usize = 64 * 1024;

/// A request as it will be written.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Body,
    is_http10: bool,
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Whole(Bytes),
    /// In chunks, one write each.
    Chunks(Vec<Bytes>),
    /// So many made-up bytes, never in memory at once.
    Filler {
        bytes: u64,
        chunked: bool,
    },
}

/// The usual way to begin one: `get("/").header("accept", "*/*")`.
pub(crate) fn get(target: &str) -> Request {
    Request::new("GET", target)
}

pub(crate) fn post(target: &str, body: impl Into<Bytes>) -> Request {
    Request::new("POST", target).body(body)
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Body::None,
            is_http10: false,
        }
    }

    /// In HTTP/1.0.
    pub(crate) fn http10(mut self) -> Self {
        self.is_http10 = true;
        self
    }

    /// Adds a header; `host` and the body's length are written for you unless given here.
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    pub(crate) fn chunks<B: Into<Bytes>>(mut self, chunks: impl IntoIterator<Item = B>) -> Self {
        self.body = Body::Chunks(chunks.into_iter().map(Into::into).collect());
        self
    }

    pub(crate) fn filler(mut self, bytes: u64) -> Self {
        self.body = Body::Filler {
            bytes,
            chunked: false,
        };
        self
    }

    pub(crate) fn filler_chunked(mut self, bytes: u64) -> Self {
        self.body = Body::Filler {
            bytes,
            chunked: true,
        };
        self
    }

    fn names(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|(given, _)| given.eq_ignore_ascii_case(name))
    }

    fn head(&self, host: &str) -> String {
        let version = if self.is_http10 { "1.0" } else { "1.1" };
        let mut head = format!("{} {} HTTP/{version}\r\n", self.method, self.target);
        if !self.names("host") {
            head.push_str(&format!("host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &self.body {
            Body::None => {
                if matches!(self.method.as_str(), "POST" | "PUT" | "PATCH")
                    && !self.names("content-length")
                {
                    head.push_str("content-length: 0\r\n");
                }
            }
            Body::Whole(body) if !self.names("content-length") => {
                head.push_str(&format!("content-length: {}\r\n", body.len()));
            }
            Body::Filler {
                bytes,
                chunked: false,
            } => head.push_str(&format!("content-length: {bytes}\r\n")),
            Body::Chunks(_) | Body::Filler { chunked: true, .. } => {
                head.push_str("transfer-encoding: chunked\r\n");
            }
            Body::Whole(_) => {}
        }
        head.push_str("\r\n");
        head
    }
}

/// Why an exchange did not come to its end.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    #[error("cannot connect to {to}: {cause}")]
    Connect { to: SocketAddr, cause: io::Error },
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the connection ended before an answer came")]
    NoAnswer,
    #[error("the body was cut after {got} bytes")]
    Cut { got: usize },
    #[error("not HTTP: {0}")]
    Malformed(String),
    #[error("a body that does not hold: {0}")]
    Unsound(String),
    #[error("nothing came for {PATIENCE:?}")]
    Stuck,
}

impl ClientError {
    /// Whether an answer had begun: its client sees a broken connection, not an error page.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(self, Self::Cut { .. })
    }
}

pub(crate) type Result<T> = std::result::Result<T, ClientError>;

/// Status and headers of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// Since the request's first byte was written.
    pub(crate) at: Duration,
    /// Statuses of what came before it, such as 103.
    pub(crate) interim: Vec<u16>,
}

impl Head {
    /// The first value of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = |(given, _): &&(String, String)| given.eq_ignore_ascii_case(name);
        let (_, value) = self.headers.iter().find(found)?;
        Some(value)
    }

    pub(crate) fn headers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// A whole answer, whose body was verified.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    /// The body, with the framing taken off.
    pub(crate) body: Bytes,
    /// What followed the last chunk.
    pub(crate) trailers: Vec<(String, String)>,
    /// The body as it came, each piece with its moment since the request's first byte.
    pub(crate) pieces: Vec<(Duration, Bytes)>,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body, with its content coding taken off too.
    #[track_caller]
    pub(crate) fn decoded(&self) -> Vec<u8> {
        let coding = self.header("content-encoding").unwrap_or_default();
        if self.body.is_empty() {
            return Vec::new();
        }
        verify::decoded(coding, &self.body).expect("it was verified as it came")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!(
                "not JSON ({error}), status {}: {}",
                self.head.status,
                self.text()
            ),
        }
    }

    /// When the first piece came that brings the body up to holding `text`.
    pub(crate) fn arrival_of(&self, text: &str) -> Option<Duration> {
        let mut so_far = Vec::new();
        self.pieces.iter().find_map(|(at, piece)| {
            so_far.extend_from_slice(piece);
            so_far
                .windows(text.len())
                .any(|window| window == text.as_bytes())
                .then_some(*at)
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    /// Bytes left of the chunk that is being read; `None` before a chunk's head.
    Chunk(Option<u64>),
    UntilClose,
    Ended,
}

/// One connection, used for one exchange after the other.
#[derive(Debug)]
pub(crate) struct Connection<S = TcpStream> {
    stream: S,
    buffer: BytesMut,
    host: String,
    framing: Framing,
    started: Instant,
    body_bytes: usize,
    /// Of the body that is being read.
    verifier: Option<Verifier>,
    owed: Owed,
    trailers: Vec<(String, String)>,
    /// What is sent is written by hand, and answers may follow one another.
    is_by_hand: bool,
    is_http10: bool,
}

/// A body that is still to be read and verified.
#[derive(Debug, Default)]
struct Owed(Option<String>);

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(what) = self.0.take()
            && !std::thread::panicking()
        {
            panic!("{what} was not read to its end: do that, or say why not (`leave`)");
        }
    }
}

impl Connection {
    pub(crate) async fn open(to: SocketAddr) -> Result<Self> {
        Ok(Self::over(connect(to).await?, to.to_string()))
    }

    /// As [`Connection::open`], from this address of ours.
    pub(crate) async fn open_from(from: IpAddr, to: SocketAddr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = timeout(PATIENCE, socket.connect(to))
            .await
            .map_err(|_| ClientError::Stuck)?
            .map_err(|cause| ClientError::Connect { to, cause })?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream, to.to_string()))
    }
}

impl Connection<TlsStream<TcpStream>> {
    /// TLS to a site, whose name is the one asked for and the host of requests.
    pub(crate) async fn open_tls(
        to: SocketAddr,
        site: &str,
        config: &Arc<ClientConfig>,
    ) -> Result<Self> {
        let name = ServerName::try_from(site.to_owned()).expect("it can be a site's name");
        let connector = TlsConnector::from(Arc::clone(config));
        let handshake = connector.connect(name, connect(to).await?);
        let stream = timeout(PATIENCE, handshake)
            .await
            .map_err(|_| ClientError::Stuck)??;
        Ok(Self::over(stream, site.to_owned()))
    }

    /// What the handshake came to.
    pub(crate) fn tls(&self) -> &ClientConnection {
        self.stream.get_ref().1
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(to))
        .await
        .map_err(|_| ClientError::Stuck)?
        .map_err(|cause| ClientError::Connect { to, cause })?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Over a stream that is open; `host` is what requests name.
    pub(crate) fn over(stream: S, host: String) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            host,
            framing: Framing::Ended,
            started: Instant::now(),
            body_bytes: 0,
            verifier: None,
            owed: Owed::default(),
            trailers: Vec::new(),
            is_by_hand: false,
            is_http10: false,
        }
    }

    /// Leaves the body that is being read unread, for a reason; the stream may go on.
    pub(crate) fn leave(mut self, _why: &'static str) -> S {
        self.owed.0 = None;
        self.stream
    }

    /// The stream itself, for what comes after an upgrade.
    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    /// One whole exchange.
    pub(crate) async fn send(&mut self, request: &Request) -> Result<Response> {
        let head = self.start(request).await?;
        self.finish(head).await
    }

    /// Sends the request and reads the answer's head.
    pub(crate) async fn start(&mut self, request: &Request) -> Result<Head> {
        self.started = Instant::now();
        if let Some(what) = self.owed.0.take() {
            return Err(ClientError::Unsound(format!(
                "{what} was not read to its end"
            )));
        }
        self.nothing_follows()?;
        self.is_by_hand = false;
        self.is_http10 = request.is_http10;
        let sent = self.write_request(request).await;
        match self.read_head_for(&request.method).await {
            // An origin may answer before it took all of a body, and close.
            Ok(head) => Ok(head),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    /// Reads the rest of an answer whose head was read.
    pub(crate) async fn finish(&mut self, head: Head) -> Result<Response> {
        let mut pieces = Vec::new();
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
            pieces.push((self.started.elapsed(), piece));
        }
        Ok(Response {
            head,
            body: body.freeze(),
            trailers: std::mem::take(&mut self.trailers),
            pieces,
        })
    }

    /// Nothing may come before it is asked for.
    fn nothing_follows(&self) -> Result<()> {
        if self.is_by_hand || self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = self.buffer.len();
        let text = String::from_utf8_lossy(&self.buffer[..bytes.min(200)]);
        let what = format!("{bytes} bytes follow the end of an answer: {text:?}");
        Err(ClientError::Unsound(what))
    }

    async fn write_request(&mut self, request: &Request) -> Result<()> {
        let head = request.head(&self.host);
        match &request.body {
            // Head and body in one write, as most clients do.
            Body::Whole(body) => self.put([head.as_bytes(), body].concat()).await,
            Body::None => self.put(head).await,
            Body::Chunks(chunks) => {
                self.put(head).await?;
                for chunk in chunks {
                    self.put_chunk(chunk).await?;
                }
                self.put("0\r\n\r\n").await
            }
            Body::Filler { bytes, chunked } => {
                self.put(head).await?;
                let piece = vec![b'x'; PIECE];
                let mut left = *bytes;
                while left > 0 {
                    let part = &piece[..PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
                    if *chunked {
                        self.put_chunk(part).await?;
                    } else {
                        self.put(part).await?;
                    }
                    left -= part.len() as u64;
                }
                if *chunked {
                    self.put("0\r\n\r\n").await?;
                }
                Ok(())
            }
        }
    }

    /// Bytes as they are.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.is_by_hand = true;
        self.put(bytes).await
    }

    async fn put(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref()))
            .await
            .map_err(|_| ClientError::Stuck)??;
        Ok(())
    }

    pub(crate) async fn write_chunk(&mut self, bytes: &[u8]) -> Result<()> {
        self.is_by_hand = true;
        self.put_chunk(bytes).await
    }

    async fn put_chunk(&mut self, bytes: &[u8]) -> Result<()> {
        let head = format!("{:x}\r\n", bytes.len());
        self.put([head.as_bytes(), bytes, b"\r\n"].concat()).await
    }

    /// The head of an answer to a request that was written by hand.
    pub(crate) async fn read_head(&mut self) -> Result<Head> {
        self.read_head_for("GET").await
    }

    /// The whole answer to such a request.
    pub(crate) async fn read_answer(&mut self) -> Result<Response> {
        let head = self.read_head().await?;
        self.finish(head).await
    }

    async fn read_head_for(&mut self, method: &str) -> Result<Head> {
        let mut interim = Vec::new();
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let raw = self.buffer.split_to(end + 4);
                let mut head = self.parse_head(&raw, method)?;
                // 100 Continue and the like come before the answer; 101 is one.
                if (100..200).contains(&head.status) && head.status != 101 {
                    interim.push(head.status);
                    continue;
                }
                head.interim = interim;
                return Ok(head);
            }
            match self.fill().await {
                Ok(0) => return Err(ClientError::NoAnswer),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// One interim head such as `100 Continue`, for requests that were written by hand.
    pub(crate) async fn read_interim(&mut self) -> Result<u16> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let raw = self.buffer.split_to(end + 4);
                return Ok(self.parse_head(&raw, "GET")?.status);
            }
            if self.fill().await? == 0 {
                return Err(ClientError::NoAnswer);
            }
        }
    }

    fn parse_head(&mut self, raw: &[u8], method: &str) -> Result<Head> {
        let text = String::from_utf8_lossy(raw);
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| ClientError::Malformed(first.to_owned()))?;
        let mut headers = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| ClientError::Malformed(line.to_owned()))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let head = Head {
            status,
            headers,
            at: self.started.elapsed(),
            interim: Vec::new(),
        };
        let no_body = method == "HEAD" || matches!(status, 100..200 | 204 | 304);
        self.body_bytes = 0;
        self.trailers.clear();
        self.verifier = None;
        self.framing = if no_body {
            Framing::Ended
        } else {
            framing(&head, self.is_http10)?
        };
        if !no_body {
            let header = |name: &str| head.header(name).map(str::to_owned);
            self.verifier = Some(Verifier::of(status, &header));
            let target = format!("the body of a {status} to {method}");
            self.owed.0 = (self.framing != Framing::Ended).then_some(target);
        }
        if self.framing == Framing::Ended {
            self.verified()?;
            if status >= 200 {
                self.nothing_follows()?;
            }
        }
        Ok(head)
    }

    /// The body has ended; does it hold?
    fn verified(&mut self) -> Result<()> {
        self.owed.0 = None;
        match self.verifier.take() {
            Some(verifier) => verifier.end().map_err(ClientError::Unsound),
            None => Ok(()),
        }
    }

    /// The next piece of the body as it comes, `None` once the body has ended as it should.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        let piece = self.next_piece().await;
        let piece = piece.inspect_err(|_| self.owed.0 = None)?;
        if let (Some(piece), Some(verifier)) = (&piece, &mut self.verifier)
            && let Err(why) = verifier.take(piece)
        {
            self.owed.0 = None;
            return Err(ClientError::Unsound(why));
        }
        if self.framing == Framing::Ended {
            self.verified()?;
            self.nothing_follows()?;
        }
        Ok(piece)
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.framing {
                Framing::Ended => return Ok(None),
                Framing::Chunk(None) => {
                    if let Some(end) = find(&self.buffer, b"\r\n") {
                        let line = self.buffer.split_to(end + 2);
                        let size = chunk_size(&line)?;
                        self.framing = Framing::Chunk(Some(size));
                        continue;
                    }
                }
                // The last chunk: trailers may follow, and an empty line does.
                Framing::Chunk(Some(0)) => {
                    if let Some(end) = find(&self.buffer, b"\r\n") {
                        let line = self.buffer.split_to(end + 2);
                        if end == 0 {
                            self.framing = Framing::Ended;
                        } else {
                            let line = String::from_utf8_lossy(&line[..end]).into_owned();
                            let (name, value) = line
                                .split_once(':')
                                .ok_or_else(|| ClientError::Malformed(line.clone()))?;
                            let trailer = (name.to_owned(), value.trim().to_owned());
                            self.trailers.push(trailer);
                        }
                        continue;
                    }
                }
                Framing::Chunk(Some(left)) => {
                    if !self.buffer.is_empty() {
                        let piece = self.take(left);
                        let left = left - piece.len() as u64;
                        self.framing = Framing::Chunk(Some(left));
                        if left == 0 {
                            self.end_chunk().await?;
                        }
                        return Ok(Some(piece));
                    }
                }
                Framing::Length(left) => {
                    if !self.buffer.is_empty() {
                        let piece = self.take(left);
                        let left = left - piece.len() as u64;
                        self.framing = if left == 0 {
                            Framing::Ended
                        } else {
                            Framing::Length(left)
                        };
                        return Ok(Some(piece));
                    }
                }
                Framing::UntilClose => {
                    if !self.buffer.is_empty() {
                        return Ok(Some(self.take(u64::MAX)));
                    }
                }
            }
            match self.fill().await {
                Ok(0) if self.framing == Framing::UntilClose => self.framing = Framing::Ended,
                Ok(0) | Err(ClientError::Io(_)) => {
                    return Err(ClientError::Cut {
                        got: self.body_bytes,
                    });
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn end_chunk(&mut self) -> Result<()> {
        while self.buffer.len() < 2 {
            if self.fill().await? == 0 {
                return Err(ClientError::Cut {
                    got: self.body_bytes,
                });
            }
        }
        let end = self.buffer.split_to(2);
        self.framing = Framing::Chunk(None);
        if &end[..] == b"\r\n" {
            Ok(())
        } else {
            Err(ClientError::Malformed(format!("{end:?} ends a chunk")))
        }
    }

    fn take(&mut self, at_most: u64) -> Bytes {
        let size = usize::try_from(at_most)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len());
        self.body_bytes += size;
        self.buffer.split_to(size).freeze()
    }

    async fn fill(&mut self) -> Result<usize> {
        self.buffer.reserve(PIECE);
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer))
            .await
            .map_err(|_| ClientError::Stuck)??;
        Ok(read)
    }

    /// Whether the other side has closed, once everything it had sent was read.
    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(self.fill().await, Ok(0) | Err(ClientError::Io(_)))
    }

    /// Time since the last request's first byte.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// One exchange on a connection of its own.
pub(crate) async fn send(to: SocketAddr, request: &Request) -> Result<Response> {
    Connection::open(to).await?.send(request).await
}

/// RFC 9112, 7.1: extensions may follow the digits, and spaces may not.
fn chunk_size(line: &[u8]) -> Result<u64> {
    let text = String::from_utf8_lossy(line);
    let digits = text.trim_end_matches("\r\n");
    let digits = digits.split(';').next().unwrap_or_default();
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16)
        .ok()
        .filter(|_| is_plain)
        .ok_or_else(|| ClientError::Malformed(format!("chunk head {text:?}")))
}

/// How the body of an answer is framed (RFC 9112, 6.3).
fn framing(head: &Head, is_http10: bool) -> Result<Framing> {
    let lengths: Vec<_> = head.headers_named("content-length").collect();
    let codings: Vec<_> = head.headers_named("transfer-encoding").collect();
    let bad = || ClientError::Malformed(format!("framed by {codings:?} and {lengths:?}"));
    match (&codings[..], &lengths[..]) {
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") && !is_http10 => {
            Ok(Framing::Chunk(None))
        }
        ([], [length]) if length.bytes().all(|digit| digit.is_ascii_digit()) => {
            match length.parse() {
                Ok(0) => Ok(Framing::Ended),
                Ok(length) => Ok(Framing::Length(length)),
                Err(_) => Err(bad()),
            }
        }
        ([], []) => Ok(Framing::UntilClose),
        _ => Err(bad()),
    }
}

/// Where `what` begins in `bytes`.
pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
