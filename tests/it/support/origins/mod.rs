//! Origins in this process, named by their behaviour. Each listens on its own port and counts
//! requests; everything ends when the origin is dropped.

mod breaking;
mod canonical;
mod closing;
mod failing;
mod fixed;
mod halting;
mod http2;
mod lettered;
mod numbered;
mod plain;
pub(crate) mod planned;
mod preset;
mod reflecting;
mod scripted;
mod secure;
mod streams;
mod versioned;
mod websocket;

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{AbortHandle, JoinSet},
};

use super::client::find;

pub(crate) use self::{
    breaking::BreakingOrigin,
    canonical::CanonicalOrigin,
    closing::{ClosingOrigin, OnceOrigin, StoppingOrigin},
    failing::{Failure, FlappingOrigin, ResettingOrigin},
    fixed::FixedOrigin,
    halting::HaltingOrigin,
    http2::Http2Origin,
    lettered::LetteredOrigin,
    numbered::NumberedOrigin,
    plain::{BigOrigin, EchoOrigin, SlowOrigin, echoed},
    preset::{NUMBER, PresetOrigin},
    reflecting::ReflectingOrigin,
    scripted::ScriptedOrigin,
    secure::SecureOrigin,
    streams::{DripOrigin, SseOrigin},
    versioned::{Version, VersionedOrigin},
    websocket::WsOrigin,
};

/// Header that identifies a request, so that a duplicate is detected.
pub(crate) const MARK: &str = "x-request-mark";

/// Counts of an origin.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    connections: AtomicU64,
    requests: AtomicU64,
    /// Streams whose client disconnected before their end.
    cancelled: AtomicU64,
    marks: Mutex<HashMap<String, u32>>,
    received: Mutex<Vec<Received>>,
}

impl Counts {
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Returns how often the request with this mark arrived.
    pub(crate) fn times(&self, mark: &str) -> u32 {
        self.marks.lock().get(mark).copied().unwrap_or(0)
    }

    /// Returns the received request heads, the newest last (the first thousand are kept).
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    fn saw(&self, request: &Received) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(mark) = request.header(MARK) {
            *self.marks.lock().entry(mark.to_owned()).or_default() += 1;
        }
        let mut received = self.received.lock();
        if received.len() < 1000 {
            received.push(request.clone());
        }
    }

    fn saw_cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::SeqCst);
    }
}

/// Request head as received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the value of `name=` in the query.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.query(name)?.parse().ok()
    }
}

/// Handling of the connection after a response.
pub(crate) enum Then {
    Keep,
    Close,
    /// Closed with a RST instead of a FIN.
    Reset,
}

/// Behaviour of an origin for each request.
#[async_trait]
pub(crate) trait Serve: Send + Sync + 'static {
    async fn serve(&self, exchange: &mut Exchange<'_>) -> io::Result<Then>;
}

/// Listening origin.
pub(crate) struct Origin<S> {
    address: SocketAddr,
    counts: Arc<Counts>,
    serve: Arc<S>,
    accepting: Option<AbortHandle>,
    /// Tasks that end with the origin.
    tasks: JoinSet<()>,
}

impl<S: Serve> Origin<S> {
    async fn listen(serve: S) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut origin = Self {
            address,
            counts: Arc::default(),
            serve: Arc::new(serve),
            accepting: None,
            tasks: JoinSet::new(),
        };
        origin.accept_from(listener);
        origin
    }

    fn accept_from(&mut self, listener: TcpListener) {
        let (serve, counts) = (Arc::clone(&self.serve), Arc::clone(&self.counts));
        let accepting = self.tasks.spawn(async move {
            // Connections live as long as the loop that accepted them.
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let id = counts.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (serve, counts) = (Arc::clone(&serve), Arc::clone(&counts));
                connections.spawn(async move {
                    let ended = connection(&*serve, &counts, stream, id).await;
                    // The peer may disconnect at any moment; tests look at the counts.
                    drop(ended);
                });
            }
        });
        self.accepting = Some(accepting);
    }

    /// Stops listening and breaks every connection, as a killed process does.
    pub(crate) fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }

    /// Listens again on the same port.
    pub(crate) async fn resume(&mut self) {
        self.stop();
        while self.tasks.join_next().await.is_some() {}
        let socket = TcpSocket::new_v4().expect("sockets are to be had");
        socket.set_reuseaddr(true).expect("an option of any socket");
        socket.bind(self.address).expect("the port is still free");
        self.accept_from(socket.listen(1024).expect("it is bound"));
    }
}

impl<S> Origin<S> {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the origin's own settings, such as its delay.
    pub(crate) fn settings(&self) -> &S {
        &self.serve
    }
}

async fn connection<S: Serve>(
    serve: &S,
    counts: &Counts,
    stream: TcpStream,
    id: u64,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wire = Wire {
        stream,
        buffer: BytesMut::new(),
        id,
        requests: 0,
    };
    while let Some(request) = wire.request().await? {
        wire.requests += 1;
        counts.saw(&request);
        let mut exchange = Exchange {
            body: BodyLeft::of(&request),
            request,
            wire: &mut wire,
            counts,
            chunked: false,
        };
        let then = serve.serve(&mut exchange).await?;
        match then {
            Then::Keep => {}
            Then::Close => return Ok(()),
            Then::Reset => {
                wire.stream.set_zero_linger()?;
                return Ok(());
            }
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
    id: u64,
    requests: u64,
}

impl Wire {
    /// Returns the next request head, `None` if the client disconnected between two requests.
    async fn request(&mut self) -> io::Result<Option<Received>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let raw = self.buffer.split_to(end + 4);
                return Ok(Some(parse(&String::from_utf8_lossy(&raw))?));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

fn parse(raw: &str) -> io::Result<Received> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, raw.to_owned());
    let mut lines = raw.split("\r\n").filter(|line| !line.is_empty());
    let mut first = lines.next().ok_or_else(bad)?.split(' ');
    let (method, target) = first.next().zip(first.next()).ok_or_else(bad)?;
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(bad)?;
            Ok((name.to_owned(), value.trim().to_owned()))
        })
        .collect::<io::Result<_>>()?;
    Ok(Received {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyLeft {
    Length(u64),
    Chunked,
    Ended,
}

impl BodyLeft {
    fn of(request: &Received) -> Self {
        if request.header("transfer-encoding").is_some() {
            return Self::Chunked;
        }
        let length = request.header("content-length");
        match length.and_then(|length| length.parse().ok()) {
            None | Some(0) => Self::Ended,
            Some(length) => Self::Length(length),
        }
    }
}

/// Request and the means to respond to it.
pub(crate) struct Exchange<'a> {
    pub(crate) request: Received,
    wire: &'a mut Wire,
    counts: &'a Counts,
    body: BodyLeft,
    chunked: bool,
}

impl Exchange<'_> {
    /// Reads the request's body to its end and returns its length; none of it is kept.
    async fn drain(&mut self) -> io::Result<u64> {
        let mut total = 0;
        while let Some(piece) = self.body_piece().await? {
            total += piece;
        }
        Ok(total)
    }

    /// Returns the length of the next piece of the request's body as it arrives.
    async fn body_piece(&mut self) -> io::Result<Option<u64>> {
        match self.body {
            BodyLeft::Ended => Ok(None),
            BodyLeft::Length(left) => {
                self.need(1).await?;
                let taken = left.min(self.wire.buffer.len() as u64);
                self.wire.buffer.advance(usize::try_from(taken).unwrap());
                self.body = match left - taken {
                    0 => BodyLeft::Ended,
                    left => BodyLeft::Length(left),
                };
                Ok(Some(taken))
            }
            BodyLeft::Chunked => {
                let line = loop {
                    if let Some(end) = find(&self.wire.buffer, b"\r\n") {
                        break self.wire.buffer.split_to(end + 2);
                    }
                    let have = self.wire.buffer.len();
                    self.need(have + 1).await?;
                };
                let digits = String::from_utf8_lossy(&line);
                let size = usize::from_str_radix(digits.trim(), 16)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                self.need(size + 2).await?;
                self.wire.buffer.advance(size + 2);
                if size == 0 {
                    self.body = BodyLeft::Ended;
                    return Ok(None);
                }
                Ok(Some(size as u64))
            }
        }
    }

    /// Waits until this many bytes are in the buffer.
    async fn need(&mut self, bytes: usize) -> io::Result<()> {
        while self.wire.buffer.len() < bytes {
            self.wire.buffer.reserve(64 * 1024);
            if self.wire.stream.read_buf(&mut self.wire.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.stream.write_all(bytes).await
    }

    /// Sends a complete response with a length; the request's body is read first.
    async fn reply(&mut self, status: u16, headers: &str, body: &[u8]) -> io::Result<Then> {
        self.drain().await?;
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Any\r\ncontent-length: {length}\r\n{headers}\r\n");
        let body = if self.request.method == "HEAD" {
            &[]
        } else {
            body
        };
        self.write(&[head.as_bytes(), body].concat()).await?;
        Ok(Then::Keep)
    }

    async fn json(&mut self, value: &serde_json::Value) -> io::Result<Then> {
        let text = value.to_string();
        self.reply(200, "content-type: application/json\r\n", text.as_bytes())
            .await
    }

    /// Sends the headers of a chunked response.
    async fn begin(&mut self, headers: &str) -> io::Result<()> {
        let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{headers}\r\n");
        self.begin_with(&head).await
    }

    /// Begins a response as [`Exchange::begin`] does, with a complete head.
    async fn begin_with(&mut self, head: &str) -> io::Result<()> {
        self.chunked = true;
        self.write(head.as_bytes()).await
    }

    async fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(self.chunked, "a chunk follows a chunked head");
        let head = format!("{:x}\r\n", bytes.len());
        let chunk = [head.as_bytes(), bytes, b"\r\n"].concat();
        self.write(&chunk).await
    }

    async fn end(&mut self) -> io::Result<Then> {
        self.write(b"0\r\n\r\n").await?;
        Ok(Then::Keep)
    }

    /// Waits until the client has disconnected.
    async fn client_left(&mut self) {
        loop {
            match self.wire.stream.read_buf(&mut self.wire.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}
