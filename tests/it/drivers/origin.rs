//! Origin that plays scripts, over HTTP/1.1 or HTTP/2.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    message::{Message, Reader, message},
    secure::Secure,
    streams::{self, Frames},
};
use crate::support::{server::Server, wait::pass};

/// Response of the origin.
#[derive(Clone, Debug)]
pub(super) enum Script {
    /// Over HTTP/1.1, byte for byte.
    Bytes {
        pieces: Vec<Vec<u8>>,
        /// True if the connection ends after it, as planned or not.
        closes: bool,
        /// True if TLS ends before the connection.
        says_so: bool,
    },
    Frames(Frames),
}

impl Script {
    /// A response whose connection stays open.
    pub(super) fn of(pieces: Vec<Vec<u8>>) -> Self {
        Self::Bytes {
            pieces,
            closes: false,
            says_so: true,
        }
    }
}

/// Protocol between a gateway and its origin.
#[derive(Clone, Copy)]
pub(super) enum Backend<'a> {
    Plain,
    Secure(&'a Secure),
    Http2,
}

impl Backend<'_> {
    /// Returns the options of an upstream.
    pub(super) fn options(self) -> String {
        match self {
            Self::Plain => String::new(),
            Self::Secure(secure) => secure.option(),
            Self::Http2 => "protocol: h2".to_owned(),
        }
    }
}

/// Scripts and received requests by exchange: its number is the request's `User-Agent`, or ends its
/// path.
#[derive(Default)]
pub(super) struct Played {
    scripts: Mutex<HashMap<String, Script>>,
    seen: Mutex<HashMap<String, Vec<Message>>>,
}

impl Played {
    /// Notes a request, and returns the response to it.
    pub(super) fn next(&self, request: Message) -> Option<Script> {
        let number = request.value("user-agent").map(str::to_owned);
        let number = number.unwrap_or_else(|| number_of(&request.start));
        let script = self.scripts.lock().get(&number).cloned();
        self.seen.lock().entry(number).or_default().push(request);
        script
    }
}

fn number_of(start: &str) -> String {
    let path = start.split(' ').nth(1).unwrap_or_default();
    let number = path.rsplit("/n").next().unwrap_or_default();
    number.chars().take_while(char::is_ascii_digit).collect()
}

pub(super) struct ScriptedOrigin {
    pub(super) address: SocketAddr,
    played: Arc<Played>,
    _server: Server,
}

impl ScriptedOrigin {
    pub(super) async fn start(backend: Backend<'_>) -> Self {
        let acceptor = match backend {
            Backend::Secure(secure) => Some(secure.acceptor()),
            _ => None,
        };
        let is_http2 = matches!(backend, Backend::Http2);
        let played = Arc::<Played>::default();
        let own = Arc::clone(&played);
        let server = Server::start(move |stream| {
            let (played, acceptor) = (Arc::clone(&own), acceptor.clone());
            async move {
                match acceptor {
                    _ if is_http2 => streams::play(stream, &played).await,
                    None => play(stream, &played).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            play(stream, &played).await;
                        }
                    }
                }
            }
        })
        .await;
        Self {
            address: server.address(),
            played,
            _server: server,
        }
    }

    pub(super) fn set(&self, number: usize, script: Script) {
        let mut scripts = self.played.scripts.lock();
        scripts.insert(number.to_string(), script);
    }

    /// Returns the requests of an exchange so far.
    pub(super) fn seen(&self, number: usize) -> Vec<Message> {
        let seen = self.played.seen.lock();
        seen.get(&number.to_string()).cloned().unwrap_or_default()
    }

    /// Returns the number of exchanges that it has seen.
    pub(super) fn exchanges(&self) -> usize {
        self.played.seen.lock().len()
    }
}

async fn play(mut stream: impl AsyncRead + AsyncWrite + Unpin, played: &Played) {
    let mut input = Vec::new();
    loop {
        let request = loop {
            if let Some((request, length)) = message(&input, Reader::Origin) {
                input.drain(..length);
                break request;
            }
            match stream.read_buf(&mut input).await {
                Ok(1..) => {}
                _ => return,
            }
        };
        let is_head = request.start.starts_with("HEAD ");
        let Some(script) = played.next(request) else {
            let none = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(none).await.is_err() {
                return;
            }
            continue;
        };
        let Script::Bytes {
            pieces,
            closes,
            says_so,
        } = script
        else {
            return;
        };
        for (number, piece) in possible(pieces, is_head).iter().enumerate() {
            if number > 0 {
                pass(Duration::from_millis(3)).await;
            }
            if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
        if closes {
            if says_so {
                // The gateway may have closed it before.
                drop(stream.shutdown().await);
            }
            return;
        }
    }
}

/// Leaves out content that no response of this kind can have. It would be read as the beginning of
/// the next one, or not, as time will have it.
fn possible(pieces: Vec<Vec<u8>>, is_head: bool) -> Vec<Vec<u8>> {
    let whole = pieces.concat();
    let mut at = 0;
    while let Some(length) = whole[at..].windows(4).position(|end| end == b"\r\n\r\n") {
        let status = whole.get(at + 9..at + 12).unwrap_or_default();
        at += length + 4;
        if status.starts_with(b"1") {
            continue;
        }
        if !is_head && status != b"204" && status != b"304" {
            break;
        }
        let mut room = at;
        let cut = pieces.into_iter().map(|mut piece| {
            piece.truncate(room);
            room -= piece.len();
            piece
        });
        return cut.filter(|piece| !piece.is_empty()).collect();
    }
    pieces
}

/// Origin that closes a connection when it has read the second request on it, which it counts.
pub(super) async fn forgetful(listener: TcpListener, forgotten: Arc<AtomicU32>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(forget(stream, Arc::clone(&forgotten)));
    }
}

async fn forget(mut stream: TcpStream, forgotten: Arc<AtomicU32>) {
    let mut input = Vec::new();
    for has_response in [true, false] {
        let length = loop {
            if let Some((_, length)) = message(&input, Reader::Origin) {
                break length;
            }
            if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
                return;
            }
        };
        input.drain(..length);
        let accepted = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if !has_response {
            forgotten.fetch_add(1, Ordering::Relaxed);
        } else if stream.write_all(accepted).await.is_err() {
            return;
        }
    }
}
