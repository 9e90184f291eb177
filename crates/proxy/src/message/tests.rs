//! Tests that read drawn messages here and with Pingora: both must find the same headers, the same
//! content and the same end.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora::{
    http::RequestHeader,
    protocols::{
        http::{
            ServerSession,
            v1::client::{HttpSession, http_req_header_to_wire},
        },
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
    request::{self, write_section},
    response::{self, Framing, ValueMemory},
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

fn asked(method: &str) -> RequestHeader {
    let mut request = RequestHeader::build(method, b"/", None).unwrap();
    request.insert_header("host", "a.test").unwrap();
    request
}

/// Reads `sent` in pieces of these lengths, as they might arrive.
fn by_us(sent: &[u8], method: &str, lengths: &[usize]) -> Option<Understood> {
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
    let framing = Framing::for_response(&asked(method).method, &mut response).ok()?;
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
    let written = session.write_request_header(Box::new(asked(method)));
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
    (by_us(sent, method, lengths), pingora)
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
        let (mut ours, mut pingora) = both(&sent, method, &lengths);
        // Pingora passes on the coding of a response without content.
        if let (Some(pingora), true) = (&mut pingora, method == "HEAD" || [204, 304].contains(&status)) {
            pingora.headers.remove(header::TRANSFER_ENCODING);
        }
        // A repeated length is stated once.
        let is_repeated = pingora.as_ref().is_some_and(|pingora| {
            pingora.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1
        });
        if let (Some(ours), Some(pingora), true) = (&mut ours, &pingora, is_repeated) {
            let lengths = pingora.headers.get_all(header::CONTENT_LENGTH);
            ours.headers.remove(header::CONTENT_LENGTH);
            for length in lengths {
                ours.headers.append(header::CONTENT_LENGTH, length.clone());
            }
        }
        // What a 204 announces may follow later, and would begin the next response.
        if let (Some(ours), Some(pingora), 204) = (&mut ours, &pingora, status) {
            prop_assert!(!ours.is_kept_alive || pingora.is_kept_alive);
            ours.is_kept_alive = pingora.is_kept_alive;
        }
        prop_assert_eq!(ours, pingora, "{}", sent.escape_ascii());
    }
}

#[test]
fn a_length_is_stated_once_as_a_number_even_without_content() {
    for (status, method) in [("200 OK", "HEAD"), ("304 Not Modified", "GET")] {
        for stated in ["5\r\ncontent-length: 5", "5, 5", "0005"] {
            let sent = format!("HTTP/1.1 {status}\r\ncontent-length: {stated}\r\n\r\n");
            let understood = by_us(sent.as_bytes(), method, &[99]).unwrap();
            let lengths = understood.headers.get_all(header::CONTENT_LENGTH).iter();
            assert!(lengths.eq(["5"]), "{method} {stated}");
        }
    }
}

#[test]
fn a_response_without_content_keeps_no_coding_of_its_hop() {
    for (status, method) in [
        ("200 OK", "HEAD"),
        ("304 Not Modified", "GET"),
        ("204 No Content", "GET"),
    ] {
        for coding in ["chunked", "gzip, chunked", "gzip"] {
            let sent =
                format!("HTTP/1.1 {status}\r\ntransfer-encoding: {coding}\r\nx-a: 1\r\n\r\n");
            let understood = by_us(sent.as_bytes(), method, &[99]).unwrap();
            let names: Vec<_> = understood.headers.keys().collect();
            assert_eq!(names, ["x-a"], "{method} {status} {coding}");
        }
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
        let understood = by_us(sent.as_bytes(), "GET", &[99]).unwrap();
        assert_eq!(understood.is_kept_alive, is_kept_alive, "{line}");
    }
}

#[test]
fn a_body_whose_end_cannot_be_known_is_refused() {
    for coding in [
        "gzip",
        "chunked, gzip",
        "identity, chunked",
        "chunked, identity",
        "identity\r\nTransfer-Encoding: chunked",
        "",
        ",",
        "chunked, chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked, gzip, chunked",
        "gzip, chunked",
        "gzip\r\nTransfer-Encoding: chunked",
    ] {
        let sent =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n1\r\nx\r\n0\r\n\r\n");
        assert_eq!(by_us(sent.as_bytes(), "GET", &[9]), None, "{coding}");
    }
}

#[test]
fn a_later_minor_version_is_read_as_the_latest_that_is_known() {
    let by_version = |version: &str| {
        let sent = format!("HTTP/{version} 200 OK\r\nContent-Length: 1\r\n\r\nx");
        by_us(sent.as_bytes(), "GET", &[7]).map(|read| read.content)
    };
    assert_eq!(by_version("1.2"), Some(b"x".to_vec()));
    assert_eq!(by_version("2.0"), None);
    assert_eq!(by_version("1.10"), None);
}

#[test]
fn a_body_is_read_where_its_backend_writes_more_than_it_must() {
    for (fields, body) in [
        ("Transfer-Encoding: Chunked", "1\r\nx\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked,", "1\r\nx\r\n0\r\n\r\n"),
        (
            "Transfer-Encoding: , chunked\r\nTrailer: A",
            "1\r\nx\r\n0\r\nA: b\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked",
            "00000000000000001\r\nx\r\n00000000000000000000\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding:",
            "1\r\nx\r\n0\r\n\r\n",
        ),
        ("Transfer-Encoding: Identity\r\nContent-Length: 1", "x"),
        ("Content-Length: 01", "x"),
        ("Content-Length: 1, 1", "x"),
    ] {
        let sent = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}");
        for cuts in [&[999][..], &[1]] {
            let read = by_us(sent.as_bytes(), "GET", cuts).expect(fields);
            assert_eq!(read.content, b"x", "{fields}");
            assert!(
                read.is_kept_alive && !read.headers.contains_key("trailer"),
                "{fields}"
            );
            // Clients get it as all of them understand it.
            let sent = |name| read.headers.get_all(name).iter().collect::<Vec<_>>();
            let framing = [sent("transfer-encoding"), sent("content-length")].concat();
            assert!(framing == ["chunked"] || framing == ["1"], "{framing:?}");
        }
    }
    // Without a length, its body ends with the connection.
    let sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nx";
    assert!(!by_us(sent, "GET", &[9]).unwrap().is_kept_alive);
    for size in [
        "1000000000000000f",
        "0ffffffffffffffffff",
        "0000000000000000",
        "0x1",
    ] {
        let sent = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nx");
        assert_eq!(by_us(sent.as_bytes(), "GET", &[99]), None, "{size}");
    }
}

/// Some parsers take a size without digits for zero.
#[test]
fn a_chunk_without_a_size_does_not_end_a_body() {
    for end in [
        "\r\n\r\n",
        "\n\n",
        " \r\n\r\n",
        "\t\r\n\r\n",
        ";x\r\n\r\n",
        " 0\r\n\r\n",
    ] {
        let sent = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n{end}");
        for cuts in [&[99][..], &[1]] {
            assert_eq!(by_us(sent.as_bytes(), "GET", cuts), None, "{end:?}");
        }
    }
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
        let is_written = write_section(&drawn, b"", &mut written).is_ok();
        match http_req_header_to_wire(&drawn) {
            Some(wire) => prop_assert_eq!(written, wire),
            None => prop_assert!(!is_written),
        }
    }
}

async fn read_by_pingora(head: &[u8]) -> RequestHeader {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(head).await.unwrap();
    let mut session = ServerSession::new_http1(Box::new(Socket::from(ours)));
    assert!(session.read_request().await.unwrap());
    session.req_header().clone()
}

#[track_caller]
fn check_request(head: &str) {
    let read = request::parse(&Bytes::copy_from_slice(head.as_bytes())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pingoras = runtime.block_on(read_by_pingora(head.as_bytes()));
    assert_eq!(read.method, pingoras.method);
    assert_eq!(read.version, pingoras.version);
    assert_eq!(read.raw_path(), pingoras.raw_path());
    assert_eq!(read.uri, pingoras.uri);
    assert_eq!(read.headers, pingoras.headers);
}

proptest! {
    #[test]
    fn a_head_is_parsed_as_pingora_parses_it(
        target in r"/[!$%&'()*+,./0-9:;=@A-Z\[\]^_a-z{|}~-]{0,40}(\?[!$-;=?-~]{0,40})?",
        version in 0..2,
        lines in proptest::collection::vec(
            "(x[a-zA-Z0-9!$*_.|~-]{0,20}|Cookie|accept):[ \t]?[ -~\t\u{a1}-\u{ff}]{0,40}\r\n",
            0..12,
        ),
    ) {
        let lines = lines.concat();
        check_request(&format!("GET {target} HTTP/1.{version}\r\nHost: a.test\r\n{lines}\r\n"));
    }
}

#[test]
fn a_connection_is_kept_as_its_client_wants() {
    let wants = |version: &str, lines: &str| {
        let head = format!("GET / HTTP/{version}\r\nhost: a.test\r\n{lines}\r\n");
        request::is_kept(&request::parse(&Bytes::from(head)).unwrap())
    };
    // RFC 9112, 9.3: HTTP/1.0 has to ask.
    for (lines, by_http10, by_http11) in [
        ("", false, true),
        ("connection: Keep-Alive\r\n", true, true),
        ("Connection: CLOSE\r\n", false, false),
        ("connection: close, x-a\r\n", false, false),
        ("connection: Upgrade\r\n", false, true),
        ("connection: keep-alive,Upgrade\r\n", true, true),
        ("connection: upgrade, close\r\n", false, false),
        ("connection: upgrade,\r\n", false, true),
        (
            "connection: keep-alive\r\nconnection: close\r\n",
            false,
            false,
        ),
        (
            "connection: x\r\nx: y\r\nconnection: keep-alive\r\n",
            true,
            true,
        ),
    ] {
        assert_eq!(wants("1.0", lines), by_http10, "{lines}");
        assert_eq!(wants("1.1", lines), by_http11, "{lines}");
    }
}

#[test]
fn unusual_targets_are_parsed_as_pingora_parses_them() {
    for line in [
        "GET http://a.test/x?y=%20 HTTP/1.1",
        "GET http://a.test HTTP/1.1",
        "GET HTTPS://a.test/x HTTP/1.0",
        "OPTIONS * HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
    ] {
        check_request(&format!("{line}\r\nhost: a.test\r\n\r\n"));
    }
    let many = "a: b\r\n".repeat(256);
    check_request(&format!("GET / HTTP/1.1\r\n{many}\r\n"));
    let too_many = format!("GET / HTTP/1.1\r\n{many}a: b\r\n\r\n");
    assert!(request::parse(&Bytes::from(too_many)).is_none());
}
