//! Origin that records every byte it gets, and a parser of those bytes that accepts only what all
//! programs read alike.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::server::Server;

/// Bytes of one connection.
type Record = Arc<Mutex<Vec<u8>>>;

/// Origin that sends each complete request's target, and records all bytes.
pub(super) struct Recorder {
    server: Server,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Recorder {
    pub(super) async fn start() -> Self {
        let records: Arc<Mutex<Vec<Record>>> = Arc::default();
        let recorded = Arc::clone(&records);
        let server = Server::start(move |stream| {
            let record = Record::default();
            recorded.lock().push(Arc::clone(&record));
            serve(stream, record)
        });
        Self {
            server: server.await,
            records,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Returns the bytes since the last call, connection by connection.
    pub(super) fn take(&self) -> Vec<Vec<u8>> {
        let records = self.records.lock();
        let taken = records
            .iter()
            .map(|record| std::mem::take(&mut *record.lock()));
        taken.filter(|bytes| !bytes.is_empty()).collect()
    }
}

async fn serve(mut stream: TcpStream, record: Record) {
    let mut waiting = Vec::new();
    let mut piece = vec![0; 16 * 1024];
    loop {
        let count = match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        record.lock().extend_from_slice(&piece[..count]);
        waiting.extend_from_slice(&piece[..count]);
        while let Ok(Some((request, length))) = Request::read(&waiting) {
            waiting.drain(..length);
            let response = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
                request.target.len(),
                request.target
            );
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Request that can be read in one way only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) target: String,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

/// Requests in the bytes of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) requests: Vec<Request>,
    /// Set if the last request was truncated; it does not count as one.
    pub(super) is_cut: bool,
}

impl Reading {
    /// Returns all requests in `bytes`, or an error if a part could be read differently.
    pub(super) fn of(mut bytes: &[u8]) -> Result<Self, String> {
        let mut reading = Self::default();
        while !bytes.is_empty() {
            let Some((request, length)) = Request::read(bytes)? else {
                reading.is_cut = true;
                break;
            };
            reading.requests.push(request);
            bytes = &bytes[length..];
        }
        Ok(reading)
    }
}

fn is_token(text: &[u8]) -> bool {
    let is_token_byte = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !text.is_empty() && text.iter().all(is_token_byte)
}

/// Returns the line that `bytes` begins with, and where the next one begins; `None` if incomplete.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    let Some(end) = bytes.iter().position(|b| matches!(b, b'\r' | b'\n' | 0)) else {
        return Ok(None);
    };
    match bytes[end..] {
        [b'\r', b'\n', ..] => Ok(Some((&bytes[..end], end + 2))),
        [b'\r'] => Ok(None),
        _ => Err(format!(
            "a bare control byte after {:?}",
            text(&bytes[..end])
        )),
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Request {
    /// Returns the request that `bytes` begins with, and its length; `None` if it is incomplete.
    fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let Some((first, mut at)) = line(bytes)? else {
            return Ok(None);
        };
        let words: Vec<&[u8]> = first.split(|b| *b == b' ').collect();
        let [method, target, version] = words[..] else {
            return Err(format!("request line {:?}", text(first)));
        };
        let is_target =
            target.first() == Some(&b'/') || target == b"*" || target.starts_with(b"http://");
        let is_upper = method.iter().all(|b| b.is_ascii_uppercase() || *b == b'-');
        if !is_token(method)
            || !is_upper
            || !is_target
            || !target.iter().all(u8::is_ascii_graphic)
            || !matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
        {
            return Err(format!("request line {:?}", text(first)));
        }
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        loop {
            let Some((field, length)) = line(&bytes[at..])? else {
                return Ok(None);
            };
            at += length;
            if field.is_empty() {
                break;
            }
            let colon = field.iter().position(|b| *b == b':');
            let colon = colon.ok_or_else(|| format!("no colon in {:?}", text(field)))?;
            let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
            let is_value = value
                .iter()
                .all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f));
            if !is_token(name) || !is_value {
                return Err(format!("header {:?}", text(field)));
            }
            headers.push((text(name).to_ascii_lowercase(), value.to_vec()));
        }
        let mut request = Self {
            target: text(target),
            headers,
            body: Vec::new(),
        };
        request.check_head(version == b"HTTP/1.1")?;
        let body = request.read_body(&bytes[at..])?;
        Ok(body.map(|length| (request, at + length)))
    }

    pub(super) fn values(&self, name: &str) -> Vec<&[u8]> {
        let with_name = self.headers.iter().filter(|(own, _)| own == name);
        with_name.map(|(_, value)| value.as_slice()).collect()
    }

    fn check_head(&self, is_http_11: bool) -> Result<(), String> {
        for name in [
            "host",
            "content-length",
            "transfer-encoding",
            "content-type",
            "expect",
        ] {
            if self.values(name).len() > 1 {
                return Err(format!("{name} stands twice"));
            }
        }
        let is_host = |b: &u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(b);
        let hosts = self.values("host");
        if is_http_11 && hosts.is_empty() {
            return Err("no host".to_owned());
        }
        if hosts
            .iter()
            .any(|host| host.is_empty() || !host.iter().all(is_host))
        {
            return Err("a host that is none".to_owned());
        }
        if let Some(rest) = self.target.strip_prefix("http://") {
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            if hosts
                .first()
                .is_some_and(|host| *host != authority.as_bytes())
            {
                return Err("two hosts".to_owned());
            }
        }
        if self
            .values("expect")
            .iter()
            .any(|e| !e.eq_ignore_ascii_case(b"100-continue"))
        {
            return Err("an odd expectation".to_owned());
        }
        let coding = self.values("transfer-encoding");
        if !coding.is_empty() && !self.values("content-length").is_empty() {
            return Err("a length and a coding".to_owned());
        }
        match coding.first() {
            Some(coding) if !is_http_11 || *coding != b"chunked" => {
                Err(format!("coding {:?}", text(coding)))
            }
            _ => Ok(()),
        }
    }

    /// Reads the body that `bytes` begins with; returns its length on the wire, `None` if it is
    /// incomplete.
    fn read_body(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        if let Some(length) = self.values("content-length").first() {
            let is_plain = length.iter().all(u8::is_ascii_digit)
                && (*length == b"0" || !length.starts_with(b"0"));
            let length: usize = std::str::from_utf8(length)
                .ok()
                .filter(|_| is_plain)
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(|| format!("length {:?}", text(length)))?;
            let Some(body) = bytes.get(..length) else {
                return Ok(None);
            };
            self.body = body.to_vec();
            return Ok(Some(length));
        }
        if self.values("transfer-encoding").is_empty() {
            return Ok(Some(0));
        }
        let mut at = 0;
        loop {
            let Some((size, length)) = line(&bytes[at..])? else {
                return Ok(None);
            };
            at += length;
            // No extensions: the gateway forwards none.
            if size.is_empty() || size.len() > 8 || !size.iter().all(u8::is_ascii_hexdigit) {
                return Err(format!("chunk size {:?}", text(size)));
            }
            let size = usize::from_str_radix(&text(size), 16).expect("digits, and few");
            let Some(chunk) = bytes.get(at..at + size + 2) else {
                return Ok(None);
            };
            if !chunk.ends_with(b"\r\n") {
                return Err("a chunk without its end".to_owned());
            }
            self.body.extend_from_slice(&chunk[..size]);
            at += size + 2;
            if size == 0 {
                return Ok(Some(at));
            }
        }
    }
}
