//! Backends of the shapes: they record what reached them, and respond as the query asks.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{client::find, server::Server, wait::pass};

/// Header that names the case of a request.
pub(super) const CASE: &str = "x-case";

/// Request as a backend received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Port as the shape writes it.
    pub(super) backend: u16,
    /// First backend of its upstream.
    pub(super) group: String,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: usize,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns true for a request that asks who may pass.
    pub(super) fn is_check(&self) -> bool {
        self.target.contains("auth-check")
    }

    /// Returns the value of `do=` in the query.
    fn wish(&self) -> &str {
        let query = self
            .target
            .split_once('?')
            .map_or("", |(_, query)| query)
            .split('&');
        let mut wishes = query.filter_map(|pair| pair.strip_prefix("do="));
        wishes.next().unwrap_or_default()
    }
}

/// Backends of one side: nginx and the gateway have their own.
pub(super) struct Origins {
    addresses: BTreeMap<u16, SocketAddr>,
    seen: Arc<Mutex<Vec<Seen>>>,
    _servers: Vec<Server>,
}

impl Origins {
    /// Listens for each port that the shape writes.
    pub(super) async fn start(backends: &[u16]) -> Self {
        let mut servers = Vec::new();
        let mut addresses = BTreeMap::new();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        for backend in backends.iter().copied() {
            let all = Arc::clone(&seen);
            let server = Server::start(move |stream| {
                let seen = Arc::clone(&all);
                async move {
                    let own = stream.local_addr()?.port();
                    serve(stream, backend, own, &seen).await
                }
            })
            .await;
            addresses.insert(backend, server.address());
            servers.push(server);
        }
        Self {
            addresses,
            seen,
            _servers: servers,
        }
    }

    pub(super) fn addresses(&self) -> &BTreeMap<u16, SocketAddr> {
        &self.addresses
    }

    /// Takes what was received since the last call.
    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock())
    }
}

async fn serve(
    mut stream: TcpStream,
    backend: u16,
    own: u16,
    all: &Mutex<Vec<Seen>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        let (mut seen, is_old) = parse(&text, backend);
        seen.body = body(&mut stream, &mut buffer, &seen).await?;
        let is_upgrade = seen.header("upgrade") == Some("websocket");
        let is_kept = !is_old && seen.header("connection") != Some("close");
        all.lock().push(seen.clone());
        if is_upgrade {
            let response = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
                connection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            stream.write_all(response.as_bytes()).await?;
            let mut piece = [0; 64];
            let count = stream.read(&mut piece).await?;
            return stream.write_all(&piece[..count]).await;
        }
        match seen.wish() {
            "close" => return Ok(()),
            "slow" => pass(Duration::from_millis(1400)).await,
            _ => {}
        }
        let response = response(&seen, own);
        stream.write_all(&response).await?;
        if !is_kept {
            return Ok(());
        }
    }
}

fn parse(text: &str, backend: u16) -> (Seen, bool) {
    let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
    let mut first = lines.next().unwrap_or_default().splitn(3, ' ');
    let mut part = || first.next().unwrap_or_default().to_owned();
    let (method, target, version) = (part(), part(), part());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let mut headers: Vec<(String, String)> = headers.collect();
    headers.sort();
    let seen = Seen {
        backend,
        group: String::new(),
        method,
        target,
        headers,
        body: 0,
    };
    (seen, version == "HTTP/1.0")
}

/// Reads a request's body and returns its length.
async fn body(stream: &mut TcpStream, buffer: &mut Vec<u8>, seen: &Seen) -> io::Result<usize> {
    if seen.header("transfer-encoding").is_none() {
        let length = seen.header("content-length");
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        need(stream, buffer, length).await?;
        buffer.drain(..length);
        return Ok(length);
    }
    let mut total = 0;
    loop {
        let end = loop {
            if let Some(end) = find(buffer, b"\r\n") {
                break end;
            }
            need(stream, buffer, buffer.len() + 1).await?;
        };
        let digits = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let size = usize::from_str_radix(digits.trim(), 16).map_err(io::Error::other)?;
        need(stream, buffer, end + 2 + size + 2).await?;
        buffer.drain(..end + 2 + size + 2);
        total += size;
        if size == 0 {
            return Ok(total);
        }
    }
}

async fn need(stream: &mut TcpStream, buffer: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
    while buffer.len() < bytes {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Writes the response that the query asks for.
fn response(seen: &Seen, own: u16) -> Vec<u8> {
    let wish = seen.wish();
    let backend = seen.backend;
    let mut status = wish.parse().unwrap_or(200);
    let mut kind = "text/html; charset=utf-8";
    let mut more = String::new();
    let mut body = format!("<p>took {} {}</p>\n", seen.method, seen.body);
    match wish {
        "json" => {
            kind = "application/json";
            body = format!("{{\"list\":[{}]}}", "1234567890,".repeat(400) + "0");
        }
        "big" => body.push_str(&"<li>one of many lines</li>\n".repeat(900)),
        "own" => {
            status = 302;
            more = format!("location: http://127.0.0.1:{own}/next\r\n");
        }
        "moved" => {
            const PLACES: [&str; 5] = [
                "http://app.internal/x?y=1",
                "https://old.internal:8443/a/b",
                "http://app/home",
                "http://127.0.0.1:3000/checkout/done",
                "http://app.internal.example/x",
            ];
            status = 302;
            let place = PLACES[seen.target.len() % PLACES.len()];
            more = format!("location: {place}\r\n");
            if seen.method == "POST" {
                more.push_str("refresh: 5; url=http://app.internal/later\r\n");
            }
        }
        "next" => status = 302,
        "away" => status = 301,
        "lost" => status = 404,
        _ => {}
    }
    more.push_str(match wish {
        "next" => "location: /next?a=b\r\n",
        "away" => "location: https://other.example.net/x\r\n",
        "cookie" => "set-cookie: sid=1; Path=/; HttpOnly\r\n",
        "crumbs" => {
            "set-cookie: sid=1; Domain=.APP.internal; Path=/app/x; HttpOnly\r\n\
            set-cookie: theme=dark; path=/other; SameSite=Strict; httponly\r\n\
            set-cookie: lang=de; Domain=shop.internal; Max-Age=60\r\n\
            set-cookie: plain=1\r\n"
        }
        "fresh" => "cache-control: public, max-age=60\r\n",
        "private" => "cache-control: private, no-store\r\n",
        "vary" => "cache-control: max-age=60\r\nvary: accept-language\r\n",
        "dated" | "lost" => "last-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        "tagged" => "etag: \"v1\"\r\n",
        "accel" => "x-accel-redirect: /protected/report.txt\r\n",
        _ => "",
    });
    if seen.is_check() {
        let is_known = seen
            .header("cookie")
            .is_some_and(|cookie| cookie.contains("sid=good"));
        status = if is_known { 200 } else { 401 };
        more.push_str("x-user: ann\r\n");
        if let Some(url) = seen.header("x-original-url") {
            more = format!("location: https://login.test/?rd={url}\r\n{more}");
        }
        body.clear();
    }
    let served = seen.header(CASE).unwrap_or_default();
    let length = body.len();
    let mut bytes = format!(
        "HTTP/1.1 {status} Any\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
        server: app\r\nx-powered-by: Express\r\nx-served: {served}\r\nx-backend: {backend}\r\n\
        {more}\r\n"
    )
    .into_bytes();
    if matches!(status, 204 | 304) {
        let text =
            String::from_utf8_lossy(&bytes).replace(&format!("content-length: {length}\r\n"), "");
        return text.into_bytes();
    }
    if seen.method != "HEAD" {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}
