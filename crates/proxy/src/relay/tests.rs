//! Tests that read drawn responses with the relay and with Pingora: both must find the same
//! headers, the same content and the same end.

use bytes::BytesMut;
use http::{HeaderMap, header};
use pingora::{
    http::RequestHeader,
    protocols::{
        http::v1::client::{HttpSession, http_req_header_to_wire},
        l4::stream::Stream as Socket,
    },
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::{
    body::{MessageBody, Piece},
    response::{self, Framing, ValueMemory},
    upload::write_section,
};

/// A response as a reader understands it.
#[derive(Debug, PartialEq)]
struct Understood {
    status: u16,
    phrase: String,
    headers: HeaderMap,
    content: Vec<u8>,
    is_kept_alive: bool,
}

fn request(method: &str) -> RequestHeader {
    let mut request = RequestHeader::build(method, b"/", None).unwrap();
    request.insert_header("host", "a.test").unwrap();
    request
}

/// Reads `sent` in pieces of these lengths, as they might arrive.
fn by_relay(sent: &[u8], method: &str, lengths: &[usize]) -> Option<Understood> {
    let mut arriving = sent;
    let mut lengths = lengths.iter().cycle();
    let mut arrive = |input: &mut BytesMut| {
        let length = (*lengths.next().unwrap()).min(arriving.len());
        let (piece, rest) = arriving.split_at(length);
        arriving = rest;
        input.extend_from_slice(piece);
        length > 0
    };
    let mut input = BytesMut::new();
    let mut response = loop {
        if let Some(response) = response::parse(&mut input, ValueMemory::Input).ok()? {
            break response;
        }
        if !arrive(&mut input) {
            return None;
        }
    };
    let is_kept_alive = response::is_kept_alive(&response);
    let framing = Framing::of(&request(method), &mut response).ok()?;
    let mut content = Vec::new();
    if framing != Framing::None {
        let mut body = MessageBody::new(framing);
        loop {
            let Piece { bytes, is_last } = match body.take(&mut input).ok()? {
                Some(piece) => piece,
                None if arrive(&mut input) => continue,
                None => body.close().ok()?,
            };
            content.extend_from_slice(&bytes.unwrap_or_default());
            if is_last {
                break;
            }
        }
    }
    // What follows the end is noticed now, or before the connection is used again.
    let is_quiet = input.is_empty() && !arrive(&mut input);
    Some(Understood {
        status: response.status.as_u16(),
        phrase: response.get_reason_phrase().unwrap_or_default().to_owned(),
        headers: response.headers.clone(),
        content,
        is_kept_alive: is_kept_alive && framing != Framing::UntilClose && is_quiet,
    })
}

async fn by_pingora(sent: &[u8], method: &str) -> Option<Understood> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut session = HttpSession::new(Box::new(Socket::from(ours)));
    let written = session.write_request_header(Box::new(request(method)));
    written.await.unwrap();
    // All of it is there before the first read: only then does Pingora see what follows the end.
    theirs.write_all(sent).await.unwrap();
    theirs.shutdown().await.unwrap();
    session.read_response().await.ok()?;
    let mut content = Vec::new();
    while let Some(piece) = session.read_body_bytes().await.ok()? {
        content.extend_from_slice(&piece);
    }
    let response = session.resp_header().unwrap().clone();
    session.respect_keepalive();
    let is_kept_alive = session.reuse().await.is_some();
    theirs.read_to_end(&mut Vec::new()).await.ok();
    Some(Understood {
        status: response.status.as_u16(),
        phrase: response.get_reason_phrase().unwrap_or_default().to_owned(),
        headers: response.headers.clone(),
        content,
        is_kept_alive,
    })
}

fn both(sent: &[u8], method: &str, lengths: &[usize]) -> (Option<Understood>, Option<Understood>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pingora = runtime.block_on(by_pingora(sent, method));
    (by_relay(sent, method, lengths), pingora)
}

#[test]
fn the_headers_of_a_response_do_not_hold_what_else_was_read() {
    for memory in [ValueMemory::Own, ValueMemory::Input] {
        let mut input = BytesMut::with_capacity(8192);
        input.extend_from_slice(b"HTTP/1.1 200 OK\r\nX-A: one\r\nX-B: two\r\n\r\nbody");
        let response = response::parse(&mut input, memory).unwrap().unwrap();
        assert_eq!(input, &b"body"[..]);
        input.clear();
        assert_eq!(response.headers["x-a"], "one");
        assert_eq!(response.headers["x-b"], "two");
        // Without another owner, the buffer can be used again from its beginning.
        let is_free = input.try_reclaim(8192);
        assert_eq!(is_free, memory == ValueMemory::Own);
        assert_eq!(response.headers["x-b"], "two");
        drop(response);
        assert!(input.try_reclaim(8192));
    }
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "(x|X-[a-z]{1,8}|Content-Type|Set-Cookie|cache-control): [ -~\t]{0,30}\r\n",
        1 => "x-folded: [a-z]{1,8}\r\n[ \t]{1,3}[a-z]{1,8}\r\n",
        1 => "x-[a-z]{1,4} : [a-z]{0,8}\r\n",
    ]
}

/// Headers that frame a body, and the body so framed, sometimes wrongly.
fn framed() -> impl Strategy<Value = (String, Vec<u8>)> {
    let content = proptest::collection::vec(any::<u8>(), 0..300);
    let stated =
        (content.clone(), -2_i64..3, any::<bool>()).prop_map(|(content, off, is_twice)| {
            let off = if off.abs() == 2 { off / 2 } else { 0 };
            let length = i64::try_from(content.len())
                .unwrap()
                .saturating_add(off)
                .max(0);
            let line = format!("content-length: {length}\r\n");
            (line.repeat(1 + usize::from(is_twice)), content)
        });
    let chunks = proptest::collection::vec((content.clone(), "(|;[a-z]{1,5}=[a-z]{1,5})"), 0..5);
    let chunked =
        (chunks, "(|x-trailer: a\r\n)", 0_usize..12).prop_map(|(chunks, trailer, cut)| {
            let mut body = Vec::new();
            for (chunk, extension) in chunks.iter().filter(|(chunk, _)| !chunk.is_empty()) {
                body.extend(format!("{:x}{extension}\r\n", chunk.len()).into_bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(format!("0\r\n{trailer}\r\n").into_bytes());
            if cut < 6 {
                body.truncate(body.len().saturating_sub(cut));
            }
            ("Transfer-Encoding: chunked\r\n".to_owned(), body)
        });
    let until_close = content.prop_map(|content| (String::new(), content));
    prop_oneof![stated, chunked, until_close]
}

proptest! {
    #[test]
    fn a_response_is_read_as_pingora_reads_it(
        version in 0..2,
        status in prop_oneof![Just(200_u16), Just(204), Just(304), Just(404), 200_u16..600],
        phrase in "(| | OK| Found It|  )",
        fields in proptest::collection::vec(field(), 0..6),
        // Of several lines, and of `keep-alive` among other options, Pingora sees less.
        connection in "(|connection: (close|Keep-Alive|Close, x)\r\n)",
        (framing, body) in framed(),
        method in prop_oneof![Just("GET"), Just("HEAD")],
        lengths in proptest::collection::vec(1_usize..400, 1..6),
    ) {
        let fields = fields.concat();
        let head = format!("HTTP/1.{version} {status}{phrase}\r\n{fields}{connection}{framing}\r\n");
        let mut sent = head.into_bytes();
        sent.extend(&body);
        let (mut relay, pingora) = both(&sent, method, &lengths);
        // The relay states a repeated length once.
        let is_repeated = pingora.as_ref().is_some_and(|pingora| {
            pingora.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1
        });
        if let (Some(relay), Some(pingora), true) = (&mut relay, &pingora, is_repeated) {
            let lengths = pingora.headers.get_all(header::CONTENT_LENGTH);
            relay.headers.remove(header::CONTENT_LENGTH);
            for length in lengths {
                relay.headers.append(header::CONTENT_LENGTH, length.clone());
            }
        }
        // What a 204 announces may follow later, and would begin the next response.
        if let (Some(relay), Some(pingora), 204) = (&mut relay, &pingora, status) {
            prop_assert!(!relay.is_kept_alive || pingora.is_kept_alive);
            relay.is_kept_alive = pingora.is_kept_alive;
        }
        prop_assert_eq!(relay, pingora, "{}", sent.escape_ascii());
    }
}

#[test]
fn a_connection_on_which_a_204_announces_content_is_not_used_again() {
    for (line, is_kept_alive) in [
        ("", true),
        ("content-length: 0\r\n", true),
        ("content-length: 5\r\n", false),
        ("transfer-encoding: chunked\r\n", false),
    ] {
        let sent = format!("HTTP/1.1 204 No Content\r\n{line}\r\n");
        let understood = by_relay(sent.as_bytes(), "GET", &[99]).unwrap();
        assert_eq!(understood.is_kept_alive, is_kept_alive, "{line}");
    }
}

#[test]
fn a_body_whose_end_cannot_be_known_is_refused() {
    for coding in ["gzip", "chunked, gzip", "identity", ""] {
        let sent = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\nx");
        assert_eq!(by_relay(sent.as_bytes(), "GET", &[9]), None, "{coding}");
    }
    // The control.
    let sent = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    assert_eq!(by_relay(sent, "GET", &[9]).unwrap().content, b"x");
}

#[test]
fn another_protocol_is_noticed_before_it_sends_an_empty_line() {
    let mut input = BytesMut::from(&b"SSH-2.0-OpenSSH_9.2\r\n"[..]);
    assert!(response::parse(&mut input, ValueMemory::Input).is_err());
    let mut input = BytesMut::from(&b"HTTP/1.1 200 OK\r\nserv"[..]);
    assert!(
        response::parse(&mut input, ValueMemory::Input)
            .unwrap()
            .is_none()
    );
}

proptest! {
    /// A header section has the bytes that Pingora would write.
    #[test]
    fn a_request_is_written_as_pingora_writes_it(
        method in "(GET|POST|PURGE|M-SEARCH)",
        path in prop_oneof![
            "/[a-z%?=&;]{0,40}",
            prop::collection::vec(0u8..128, 1..20)
                .prop_map(|bytes| format!("/{}", String::from_utf8(bytes).unwrap())),
        ],
        fields in prop::collection::vec(("[a-zA-Z-]{1,12}", "[ -~]{0,300}"), 0..30),
    ) {
        let Ok(mut drawn) = RequestHeader::build_no_case(&*method, path.as_bytes(), None) else {
            return Ok(());
        };
        for (name, value) in fields {
            drawn.append_header(name, value).unwrap();
        }
        // A buffer that was used before.
        let mut written = BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]);
        let length = written.len();
        bytes::Buf::advance(&mut written, length);
        let is_written = write_section(&drawn, &mut written).is_ok();
        match http_req_header_to_wire(&drawn) {
            Some(wire) => prop_assert_eq!(written, wire),
            None => prop_assert!(!is_written),
        }
    }
}
