//! Messages of HTTP/1, taken out of their framing, and the client that receives them.

use std::{io::Read as _, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, draw::Drawn, origin::Script, streams};
use crate::support::wait::pass;

/// Message taken out of its framing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) start: String,
    /// In order, names in lower case, without values that differ from request to request; trailers
    /// at the end, as `trailer NAME`.
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Vec<u8>,
    pub(super) is_complete: bool,
}

impl Message {
    /// A message that is nothing but this line.
    pub(super) fn bare(start: impl Into<String>) -> Self {
        Self {
            start: start.into(),
            headers: Vec::new(),
            content: Vec::new(),
            is_complete: false,
        }
    }

    /// Stands for a message that did not come.
    pub(super) fn late() -> Self {
        Self::bare("nothing in time")
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str, value: &str) -> bool {
        let is_same = |(given, held): &(String, String)| given == name && held == value;
        self.headers.iter().any(is_same)
    }

    /// Removes all headers of this name.
    pub(super) fn remove(&mut self, name: &str) {
        self.headers.retain(|(given, _)| given != name);
    }

    pub(super) fn status(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub(super) fn is_interim(&self) -> bool {
        self.start.starts_with("HTTP/") && self.status().starts_with('1')
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.has("content-encoding", "gzip")
    }

    /// Decodes the content as far as it came. The same content is compressed to other bytes if it
    /// arrives in other pieces.
    pub(super) fn decoded(&self) -> Vec<u8> {
        if self.content.is_empty() || !self.is_compressed() {
            return self.content.clone();
        }
        let mut content = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&*self.content);
        let whole = decoder.read_to_end(&mut content);
        assert_eq!(whole.is_ok(), self.is_complete, "{:?}", self.headers);
        if !self.is_complete {
            // How much of it is out already is a matter of the compressor.
            content.clear();
        }
        content
    }

    /// Replaces the content by a digest of what it decodes to.
    pub(super) fn digested(mut self) -> Self {
        self.hide_boundary();
        self.headers.sort_by(|a, b| a.0.cmp(&b.0));
        let content = without_id(self.decoded());
        if content.is_empty() {
            self.content.clear();
            return self;
        }
        let sum: u64 = (1..).zip(&content).map(|(at, b)| at * u64::from(*b)).sum();
        let text = String::from_utf8_lossy(&content[..content.len().min(60)]).into_owned();
        self.content = format!("{} bytes {sum} {text}", content.len()).into_bytes();
        self
    }

    /// Replaces the boundary between ranges, which is another one in each response.
    fn hide_boundary(&mut self) {
        let boundary = self.value("content-type");
        let boundary = boundary.and_then(|kind| kind.split_once("boundary="));
        let Some((_, boundary)) = boundary.map(|(a, b)| (a, b.to_owned())) else {
            return;
        };
        let same = "=".repeat(boundary.len());
        for (_, value) in &mut self.headers {
            *value = value.replace(&boundary, &same);
        }
        let boundary = boundary.as_bytes();
        for at in 0..self.content.len() {
            if self.content[at..].starts_with(boundary) {
                self.content[at..at + same.len()].fill(b'=');
            }
        }
    }
}

/// Replaces the request's id in a page of the gateway.
fn without_id(mut content: Vec<u8>) -> Vec<u8> {
    const ID: usize = 32;
    let is_id = |place: &[u8]| place.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if content.len() < 2000
        && let Some(at) = content.windows(ID).position(is_id)
    {
        content[at..at + ID].fill(b'0');
    }
    content
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Reader {
    Origin,
    /// Client of a request with this method.
    Client {
        is_head: bool,
        end: End,
    },
}

/// End of a client's connection, as far as it has been seen.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum End {
    Open,
    Closed,
    Reset,
}

/// Takes the first message out of `input`; `None` if it is not complete. A client that has seen the
/// end of the connection takes what there is.
pub(super) fn message(input: &[u8], reader: Reader) -> Option<(Message, usize)> {
    let end = input.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&input[..end]).into_owned();
    let mut lines = text.trim_end().split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let all: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut message = Message {
        start,
        headers: all,
        content: Vec::new(),
        is_complete: true,
    };
    let (has_no_body, end_seen) = match reader {
        Reader::Origin => (false, End::Open),
        Reader::Client { is_head, end } => {
            let is_bare = message.is_interim() || ["204", "304"].contains(&message.status());
            (is_head || is_bare, end)
        }
    };
    let rest = &input[end..];
    let used;
    if has_no_body {
        used = 0;
    } else if message.value("transfer-encoding").is_some() {
        let mut trailers;
        (message.content, trailers, used, message.is_complete) = unchunk(rest);
        message.headers.append(&mut trailers);
    } else if let Some(length) = message.value("content-length") {
        let length: usize = length.parse().expect("the gateway sends valid lengths");
        used = length.min(rest.len());
        message.content = rest[..used].to_vec();
        message.is_complete = used == length;
    } else if reader == Reader::Origin {
        used = 0;
    } else {
        used = rest.len();
        message.content = rest.to_vec();
        message.is_complete = end_seen == End::Closed;
    }
    if !message.is_complete && end_seen == End::Open {
        return None;
    }
    message.headers = without_changes(message.headers);
    Some((message, end + used))
}

/// Returns the headers without values that differ from request to request, by name: the order of
/// different names is not significant (RFC 9110, 5.3). A `Date` of the origin is of 2015.
pub(super) fn without_changes(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    for (name, value) in &mut headers {
        let is_own_date = name == "date" && !value.contains(" 2015 ");
        if is_own_date || ["traceparent", "x-request-id"].contains(&name.as_str()) {
            "of this request".clone_into(value);
        }
    }
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
}

/// Returns the content of a chunked body, its trailers, its bytes, and true if it is complete.
fn unchunk(body: &[u8]) -> (Vec<u8>, Vec<(String, String)>, usize, bool) {
    let (mut content, mut trailers) = (Vec::new(), Vec::new());
    let mut at = 0;
    let line = |at: usize| {
        let length = body[at..].windows(2).position(|two| two == b"\r\n")?;
        let line = String::from_utf8_lossy(&body[at..at + length]).into_owned();
        Some((line, at + length + 2))
    };
    loop {
        let Some((size, after)) = line(at) else {
            return (content, trailers, body.len(), false);
        };
        let size = size.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).expect("the gateway sends valid sizes");
        at = after;
        if size == 0 {
            break;
        }
        let here = size.min(body.len() - at);
        content.extend_from_slice(&body[at..at + here]);
        at += here;
        if here < size || !body[at..].starts_with(b"\r\n") {
            return (content, trailers, body.len(), false);
        }
        at += 2;
    }
    while let Some((trailer, after)) = line(at) {
        at = after;
        let Some((name, value)) = trailer.split_once(':') else {
            return (content, trailers, at, true);
        };
        let name = format!("trailer {}", name.to_ascii_lowercase());
        trailers.push((name, value.trim().to_owned()));
    }
    (content, trailers, at, false)
}

/// Sends the request on a connection of its own. Returns the messages that come back, and the
/// connection if its end would be seen before that of the response, or after it: the client has all
/// of a response whose end the origin sends apart.
pub(super) async fn received(
    gateway: SocketAddr,
    drawn: &Drawn,
) -> (Vec<Message>, Option<TcpStream>) {
    let mut stream = TcpStream::connect(gateway)
        .await
        .expect("the gateway listens");
    for (number, piece) in drawn.pieces.iter().enumerate() {
        if number > 0 {
            pass(Duration::from_millis(3)).await;
        }
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut input = Vec::new();
    let mut messages = Vec::new();
    let mut end = End::Open;
    let is_head = drawn.method == "HEAD";
    loop {
        let reader = Reader::Client { is_head, end };
        if let Some((message, length)) = message(&input, reader) {
            input.drain(..length);
            let is_interim = message.is_interim();
            messages.push(message);
            if !is_interim {
                break;
            }
        } else if end != End::Open {
            break;
        }
        let Ok(read) = timeout(PATIENCE, stream.read_buf(&mut input)).await else {
            messages.push(Message::late());
            break;
        };
        end = match read {
            Ok(1..) => End::Open,
            Ok(0) => End::Closed,
            Err(_) => End::Reset,
        };
    }
    let ends_apart = matches!(&drawn.script, Script::Frames(frames)
        if matches!(frames.end, streams::End::Empty | streams::End::Trailers));
    (messages, ends_apart.then_some(stream))
}
