//! Drawn requests and responses, whole and broken.

use h2::Reason;

use super::{
    Way,
    origin::{Backend, Script},
    streams::{End, Frames},
};

/// Exchange that is the same for all sides.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) number: usize,
    pub(super) method: &'static str,
    /// The request in pieces, of which the client sends one after the other.
    pub(super) pieces: Vec<Vec<u8>>,
    pub(super) script: Script,
    /// True if the response breaks off.
    pub(super) is_broken: bool,
}

impl Drawn {
    /// A request that an origin has no script for.
    pub(super) fn plain(number: usize, method: &'static str, request: impl Into<Vec<u8>>) -> Self {
        Self {
            number,
            method,
            pieces: vec![request.into()],
            script: Script::of(Vec::new()),
            is_broken: false,
        }
    }

    /// Returns the exchange as text, without most of its content.
    pub(super) fn explained(&self) -> String {
        let lossy = |pieces: &[Vec<u8>]| {
            let shown = |piece: &Vec<u8>| {
                String::from_utf8_lossy(&piece[..piece.len().min(600)]).into_owned()
            };
            format!("{:#?}", pieces.iter().map(shown).collect::<Vec<_>>())
        };
        let response = match &self.script {
            Script::Bytes { pieces, closes, .. } => format!("{} closes: {closes}", lossy(pieces)),
            Script::Frames(frames) => format!(
                "{:?} {} {:?} {} {:?}",
                frames.interim,
                frames.status,
                frames.headers,
                lossy(&frames.pieces),
                frames.end
            ),
        };
        format!("request {}\nresponse {response}", lossy(&self.pieces))
    }
}

pub(super) fn one_of<T: Copy>(dice: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[dice.usize(..choices.len())]
}

/// Adds each of these lines with the chance of one in `odds`, but no header twice that may be there
/// only once.
pub(super) fn some_lines(dice: &mut fastrand::Rng, to: &mut String, odds: u8, lines: &[&str]) {
    for line in lines {
        let (name, _) = line.split_once(' ').expect("a name, and more");
        let is_list = ["Connection:", "Set-Cookie:", "Vary:"].contains(&name);
        let is_there = !is_list && to.lines().any(|other| other.starts_with(name));
        if dice.u8(..odds) == 0 && (!is_there || name.starts_with("HTTP")) {
            to.push_str(line);
            to.push_str("\r\n");
        }
    }
}

pub(super) fn bytes(dice: &mut fastrand::Rng) -> Vec<u8> {
    let length = match dice.u8(..8) {
        0 => 0,
        1..=5 => dice.usize(1..200),
        6 => dice.usize(200..20_000),
        _ => dice.usize(20_000..200_000),
    };
    let mut bytes = vec![0; length];
    dice.fill(&mut bytes);
    for byte in &mut bytes {
        *byte = b'a' + *byte % 26;
    }
    bytes
}

/// Cuts bytes into pieces that arrive one after the other.
pub(super) fn split(dice: &mut fastrand::Rng, whole: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = whole;
    while dice.u8(..3) == 0 && rest.len() > 1 && pieces.len() < 4 {
        let (piece, after) = rest.split_at(dice.usize(1..rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces.push(rest.to_vec());
    pieces
}

pub(super) fn chunked(dice: &mut fastrand::Rng, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(dice.usize(1..=rest.len()));
        let extension = one_of(dice, &["", "", ";a=b"]);
        body.extend(format!("{:x}{extension}\r\n", chunk.len()).into_bytes());
        body.extend(chunk);
        body.extend(b"\r\n");
        rest = after;
    }
    body.extend(b"0\r\n\r\n");
    body
}

const REQUEST_LINES: [&str; 15] = [
    "Accept-Encoding: gzip",
    "Accept: text/html",
    "Cookie: a=1; b=2",
    "X-Forwarded-For: 1.2.3.4",
    "TE: trailers",
    "Connection: close",
    "Connection: keep-alive, x-gone",
    "Connection: keep-alive",
    "Connection: x-gone\r\nConnection: keep-alive",
    "X-Gone: 1",
    "If-None-Match: \"a\"",
    "Expect: 100-continue",
    "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Range: bytes=0-9",
    "Content-Type: application/json",
];

pub(super) fn exchange(
    dice: &mut fastrand::Rng,
    number: usize,
    way: Way,
    backend: Backend<'_>,
) -> Drawn {
    let version = way.version();
    let method = one_of(
        dice,
        &[
            "GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS",
        ],
    );
    let place = one_of(dice, &["", "/small", "/changed", "/zipped", "/read"]);
    let mut request = format!(
        "{method} {place}/n{number}?q={} HTTP/{version}\r\nHost: app.test\r\nUser-Agent: {number}\r\n",
        dice.u8(..9)
    );
    some_lines(dice, &mut request, 5, &REQUEST_LINES);
    let mut request = request.into_bytes();
    let content = bytes(dice);
    match (method, dice.u8(..3)) {
        ("POST" | "PUT", 0) | ("GET" | "DELETE", 2)
            if version == "1.1" && (dice.bool() || method == "POST") =>
        {
            request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            request.extend(chunked(dice, &content));
        }
        ("POST" | "PUT", _) => {
            request.extend(format!("Content-Length: {}\r\n\r\n", content.len()).into_bytes());
            request.extend(&content);
        }
        _ => request.extend(b"\r\n"),
    }
    let script = match backend {
        Backend::Http2 => Script::Frames(frames(dice)),
        Backend::Plain | Backend::Secure(_) => script(dice),
    };
    Drawn {
        number,
        method,
        pieces: split(dice, &request),
        script,
        is_broken: false,
    }
}

const STATUSES: [&str; 11] = [
    "200 OK",
    "200 OK",
    "200 Fine",
    "201 Created",
    "204 No Content",
    "301 Moved",
    "304 Not Modified",
    "404 Not Found",
    "500 Broken",
    "503 Busy",
    "206 Part",
];

/// Response headers that HTTP/2 has as well.
const RESPONSE_LINES: [&str; 11] = [
    "Content-Type: text/html",
    "Content-Type: text/event-stream",
    "Set-Cookie: s=1",
    "Set-Cookie: t=2; Path=/",
    "Cache-Control: no-store",
    "X-Powered-By: Test",
    "Location: /elsewhere",
    "Vary: Accept",
    "Content-Encoding: x-odd",
    "Date: Thu, 01 Jan 2015 08:00:00 GMT",
    "Accept-Ranges: bytes",
];

fn script(dice: &mut fastrand::Rng) -> Script {
    let version = one_of(dice, &["1.1", "1.1", "1.1", "1.0"]);
    let status = one_of(dice, &STATUSES);
    let mut head = String::new();
    if version == "1.1" {
        let interim = [
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n",
            "HTTP/1.1 100 Continue\r\n",
        ];
        some_lines(dice, &mut head, 8, &interim);
    }
    head.push_str(&format!("HTTP/{version} {status}\r\n"));
    some_lines(dice, &mut head, 6, &RESPONSE_LINES);
    let of_http1 = [
        "Connection: keep-alive",
        "Connection: close",
        "Connection: x-hop, keep-alive\r\nX-Hop: 1",
        "Keep-Alive: timeout=5",
        "X-Folded: a\r\n b",
        "Upgrade: h2c",
    ];
    some_lines(dice, &mut head, 6, &of_http1);
    let mut whole = head.into_bytes();
    let content = bytes(dice);
    let mut closes = dice.u8(..6) == 0 || version == "1.0";
    match dice.u8(..8) {
        0..=2 => {
            whole.extend(format!("Content-Length: {}\r\n\r\n", content.len()).into_bytes());
            whole.extend(&content);
        }
        3..=5 if version == "1.1" => {
            whole.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            whole.extend(chunked(dice, &content));
        }
        6 => {
            // Broken off: not all of what was announced comes.
            whole.extend(format!("Content-Length: {}\r\n\r\n", content.len() + 7).into_bytes());
            whole.extend(&content);
            closes = true;
        }
        _ => {
            whole.extend(b"\r\n");
            whole.extend(&content);
            closes = true;
        }
    }
    if dice.u8(..15) == 0 {
        whole.truncate(dice.usize(..whole.len()));
        closes = true;
    } else if dice.u8(..40) == 0 {
        whole = b"this is not HTTP\r\n\r\n".to_vec();
        closes = true;
    }
    Script::Bytes {
        pieces: split(dice, &whole),
        closes,
        says_so: dice.u8(..3) > 0,
    }
}

fn frames(dice: &mut fastrand::Rng) -> Frames {
    let status = one_of(dice, &STATUSES);
    let mut lines = String::new();
    some_lines(dice, &mut lines, 6, &RESPONSE_LINES);
    let mut headers = Vec::new();
    for line in RESPONSE_LINES.iter().filter(|line| lines.contains(*line)) {
        let (name, value) = line.split_once(": ").expect("a name and a value");
        headers.push((name.to_owned(), value.to_owned()));
    }
    let content = bytes(dice);
    let reason = one_of(dice, &[Reason::INTERNAL_ERROR, Reason::CANCEL]);
    let end = match dice.u8(..12) {
        0 => End::Reset(reason),
        1 => End::Instead(reason),
        2 => End::Closed,
        3 | 4 => End::Trailers,
        5 | 6 => End::Empty,
        _ => End::Last,
    };
    // A response that is there as a whole and then reset would be complete, or not.
    let is_cut = matches!(end, End::Reset(_) | End::Closed);
    let length = match dice.u8(..8) {
        0..=2 if !is_cut => Some(content.len()),
        3 => Some(content.len() + 7),
        _ => None,
    };
    if let Some(length) = length {
        headers.push(("content-length".to_owned(), length.to_string()));
    }
    let mut interim = Vec::new();
    for status in [103, 100] {
        if dice.u8(..8) == 0 {
            interim.push(status);
        }
    }
    let pieces = split(dice, &content);
    Frames {
        interim,
        status: status[..3].parse().expect("it begins with a number"),
        headers,
        pieces: pieces.into_iter().filter(|it| !it.is_empty()).collect(),
        end,
    }
}
