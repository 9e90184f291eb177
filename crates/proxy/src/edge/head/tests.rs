//! Valid and invalid heads; `tests/it/smuggling` tests the same from outside.

use std::sync::Arc;

use crate::message::parse_request;
use http::StatusCode;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::{
    connection::{Connection, ConnectionFacts, listener::ListenerFacts},
    edge::{
        conn::{ConnIo, HeadWait},
        testkit::head as check,
        transport::{Socket, Transport},
    },
};

fn limits() -> HeadLimits {
    HeadLimits::new(8 * 1024, 32 * 1024, 128, UnderscoresConfig::Drop)
}

fn scan(input: &str) -> ScanResult {
    Scanner::default().scan(input.as_bytes(), &limits())
}

#[track_caller]
fn taken(input: &str) -> Head {
    match scan(input) {
        ScanResult::Head(head) => head,
        other => panic!("{input:?}: {other:?}"),
    }
}

#[track_caller]
fn refused(input: &str) -> (u16, &'static str) {
    match scan(input) {
        ScanResult::Refused(refused) => (refused.status.as_u16(), refused.reason),
        other => panic!("{input:?}: {other:?}"),
    }
}

/// Returns a head with these lines after `Host`.
fn with(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n\r\n")
}

#[track_caller]
fn body_of(lines: &str) -> BodyFraming {
    taken(&with(lines)).body
}

#[test]
fn a_head_has_its_length_and_the_framing_of_its_body() {
    let head = "GET /a?b HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let found = taken(&format!("{head}GET /next"));
    assert_eq!((found.length, found.body), (head.len(), BodyFraming::None));
    assert_eq!(body_of("Content-Length: 5"), BodyFraming::Length(5));
    assert_eq!(body_of("content-length:\t 12 \t"), BodyFraming::Length(12));
    assert_eq!(body_of("CONTENT-LENGTH:0"), BodyFraming::None);
    let longest = "999999999999999999";
    assert_eq!(
        body_of(&format!("Content-Length: {longest}")),
        BodyFraming::Length(999_999_999_999_999_999)
    );
    assert_eq!(body_of("Transfer-Encoding: chunked"), BodyFraming::Chunked);
    assert_eq!(body_of("transfer-encoding:Chunked"), BodyFraming::Chunked);
    assert_eq!(body_of("X-Content-Length: 5"), BodyFraming::None);
}

#[test]
fn odd_heads_that_are_sound_pass() {
    for head in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a.test:80/x?y HTTP/1.1\r\nHost: a.test:80\r\n\r\n",
        "GET HTTPS://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET http://a.test/x HTTP/1.0\r\n\r\n",
        "GET http://A.test:80/x HTTP/1.1\r\nHost: a.Test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: A.Test.\r\n\r\n",
        "M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a|b^c{d}[e]~?f=`g`&h=\\i HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nEmpty:\r\nSpaces: \t \r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\t\u{20ac}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^`|~09azAZ: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: foo, H2C\r\nContent-Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
    ] {
        taken(head);
    }
}

#[test]
fn an_ambiguous_head_is_refused() {
    for (lines, word) in [
        ("Content-Length: 5\r\nContent-Length: 6", "bad_framing"),
        ("Content-Length: 5\r\nContent-Length: 5", "bad_framing"),
        ("Content-Length: 5, 5", "bad_framing"),
        ("Content-Length:", "bad_framing"),
        ("Content-Length: +5", "bad_framing"),
        ("Content-Length: -1", "bad_framing"),
        ("Content-Length: 0x5", "bad_framing"),
        ("Content-Length: 5 5", "bad_framing"),
        ("Content-Length: 05", "bad_framing"),
        ("Content-Length: 1000000000000000000", "bad_framing"),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "bad_framing",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
            "bad_framing",
        ),
        ("Transfer-Encoding: identity", "bad_framing"),
        ("Transfer-Encoding: chunked, chunked", "bad_framing"),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "bad_framing",
        ),
        ("Transfer-Encoding: xchunked", "bad_framing"),
        ("Transfer-Encoding:  chunked", "bad_framing"),
        ("Transfer-Encoding:\tchunked", "bad_framing"),
        ("Transfer-Encoding: chunked ", "bad_framing"),
        ("Transfer-Encoding: \"chunked\"", "bad_framing"),
        ("Transfer-Encoding: chunked;q=1", "bad_framing"),
        ("Transfer-Encoding: chunked, identity", "bad_framing"),
        ("Transfer-Encoding:", "bad_framing"),
        ("Host: a.test", "bad_host"),
        ("X : y", "bad_header"),
        ("X\t: y", "bad_header"),
        (": y", "bad_header"),
        ("X", "bad_header"),
        ("X: y\r\n z", "bad_header"),
        ("X: y\r\n\tz", "bad_header"),
        (" X: y", "bad_header"),
        ("X\u{a0}: y", "bad_header"),
        ("X(y): z", "bad_header"),
        ("Content-Type: a\r\nContent-Type: b", "bad_header"),
        ("Authorization: a\r\nauthorization: a", "bad_header"),
        ("Origin: a\r\nORIGIN: b", "bad_header"),
        ("Referer: a\r\nReferer: b", "bad_header"),
        ("Range: bytes=0-1\r\nRange: bytes=0-2", "bad_header"),
        ("Expect: 100-continue\r\nExpect: 100-continue", "bad_header"),
        ("Upgrade: websocket\r\nUpgrade: foo", "bad_header"),
        ("X: y\0", "bad_request"),
        ("X: \u{b}y", "bad_request"),
        ("X: y\u{7f}", "bad_request"),
        ("X: y\rz: w", "bad_request"),
        ("X: y\nz: w", "bad_request"),
        ("X\0: y", "bad_request"),
    ] {
        assert_eq!(refused(&with(lines)), (400, word), "{lines:?}");
    }
    assert_eq!(
        refused(&with("Transfer-Encoding: gzip, chunked")),
        (501, "bad_framing")
    );
    assert_eq!(
        refused(&with("Expect: y 100-continue")),
        (417, "expectation")
    );
}

#[test]
fn request_lines_are_exact() {
    for (line, status, word) in [
        ("get / HTTP/1.1", 400, "method"),
        ("G@T / HTTP/1.1", 400, "method"),
        (" GET / HTTP/1.1", 400, "method"),
        ("GET\t/\tHTTP/1.1", 400, "method"),
        ("GET  / HTTP/1.1", 400, "bad_request"),
        ("GET /  HTTP/1.1", 400, "bad_request"),
        ("GET / HTTP/1.1 ", 400, "bad_request"),
        ("GET / x HTTP/1.1", 400, "bad_request"),
        ("GET /", 400, "bad_request"),
        ("GET HTTP/1.1", 400, "bad_request"),
        ("GET / http/1.1", 400, "bad_request"),
        ("GET / HTTP/1.01", 400, "bad_request"),
        ("GET / HTTP/11", 400, "bad_request"),
        ("GET / HTTP/1.2", 505, "version"),
        ("GET / HTTP/2.0", 505, "version"),
        ("GET / HTTP/0.9", 505, "version"),
        ("TRACE / HTTP/1.1", 405, "method"),
        ("CONNECT a.test:443 HTTP/1.1", 405, "method"),
        ("GET a.test:80 HTTP/1.1", 400, "bad_path"),
        ("GET a.test HTTP/1.1", 400, "bad_path"),
        ("GET ftp://a.test/ HTTP/1.1", 400, "bad_path"),
        ("GET http:///x HTTP/1.1", 400, "bad_path"),
        ("GET http://u@a.test/ HTTP/1.1", 400, "bad_path"),
        ("GET http:/a.test/ HTTP/1.1", 400, "bad_path"),
        ("GET http://a.test\\b/ HTTP/1.1", 400, "bad_path"),
        ("GET * HTTP/1.1", 400, "bad_path"),
        ("GET ? HTTP/1.1", 400, "bad_path"),
        ("GET /#x HTTP/1.1", 400, "bad_path"),
        ("GET /\u{e9} HTTP/1.1", 400, "bad_path"),
        ("GET /<x> HTTP/1.1", 400, "bad_path"),
        ("GET /\"?a HTTP/1.1", 400, "bad_path"),
        ("GET /?a#x HTTP/1.1", 400, "bad_path"),
        ("GET /`x HTTP/1.1", 400, "bad_path"),
        (
            "GET /a-long-path-with-its-mistake-at-the-end\" HTTP/1.1",
            400,
            "bad_path",
        ),
        ("GET http://b.test/ HTTP/1.1", 400, "bad_host"),
        ("GET http://a.test:81/ HTTP/1.1", 400, "bad_host"),
        ("PRI * HTTP/2.0", 400, "bad_request"),
    ] {
        let head = format!("{line}\r\nHost: a.test\r\n\r\n");
        assert_eq!(refused(&head), (status, word), "{line}");
    }
    for (host, line) in [
        ("", "GET / HTTP/1.1"),
        ("Host:\r\n", "GET / HTTP/1.1"),
        ("Host: a b\r\n", "GET / HTTP/1.1"),
        ("Host: a@b\r\n", "GET / HTTP/1.1"),
        ("Host: a/b\r\n", "GET / HTTP/1.1"),
        ("Host: a,b\r\n", "GET / HTTP/1.1"),
        ("Host: a:http\r\n", "GET / HTTP/1.1"),
        ("Host: [::1\r\n", "GET / HTTP/1.1"),
        ("Host: \u{e9}\r\n", "GET / HTTP/1.1"),
        ("Host: a\r\nHost: a\r\n", "GET / HTTP/1.0"),
    ] {
        assert_eq!(
            refused(&format!("{line}\r\n{host}\r\n")),
            (400, "bad_host"),
            "{host:?}"
        );
    }
    assert_eq!(
        refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, "bad_framing")
    );
}

#[test]
fn an_error_is_reported_before_the_head_is_complete() {
    assert_eq!(refused("\x16\x03\x01\x02\0\x01"), (400, "bad_request"));
    assert_eq!(refused("GET / HTTP/1.1\n"), (400, "bad_request"));
    assert_eq!(refused("GET / HTTP/3.1\r\n"), (505, "version"));
    assert_eq!(refused("GET / HTTP/1.1\r\nX : y\r\n"), (400, "bad_header"));
    assert_eq!(refused("\r\nGET / HTTP/1.1\r\n"), (400, "bad_request"));
    let tight = HeadLimits::new(20, 60, 2, UnderscoresConfig::Drop);
    let early = |input: &str| match Scanner::default().scan(input.as_bytes(), &tight) {
        ScanResult::Refused(refused) => refused.status.as_u16(),
        ScanResult::Partial => 0,
        ScanResult::Head(_) => 200,
    };
    assert_eq!(early("GET /56789 HTTP/1.1\r"), 0);
    assert_eq!(early("GET /567890 HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
    assert_eq!(early("GET /5678901 HTTP/1.1\r\nHost: a\r\n\r\n"), 414);
    assert_eq!(early("GET /567890123456789012"), 414);
    assert_eq!(
        early(&format!("GET / HTTP/1.1\r\nHost: {}", "a".repeat(40))),
        431
    );
    assert_eq!(early("GET / HTTP/1.1\r\nHost: a\r\nb: c\r\n\r\n"), 200);
    assert_eq!(early("GET / HTTP/1.1\r\nHost: a\r\nb: c\r\nd: e\r\n"), 431);
}

#[test]
fn a_refusal_has_method_and_target_for_the_log() {
    let words = |input: &str| {
        let ScanResult::Refused(refused) = scan(input) else {
            panic!("{input:?} is refused");
        };
        (refused.method, refused.target)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        words("GET /a HTTP/1.1\r\nX : y\r\n"),
        (some("GET"), some("/a"))
    );
    assert_eq!(words("GET /a b\n"), (some("GET"), some("/a%20b")));
    assert_eq!(words("GET /\0 HTTP/1.1\r\n"), (some("GET"), some("/%00")));
    assert_eq!(words("\x16\x03\x01"), (None, None));
    let timed_out = timeout(b"PUT /slow HTT");
    assert_eq!(timed_out.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(
        (timed_out.method, timed_out.target),
        (some("PUT"), some("/slow%20HTT"))
    );
}

/// Invariant: a name is as long as any other may be, whatever it is made of.
#[test]
fn names_of_headers_have_one_longest_length() {
    for fill in ["x", "_"] {
        let limits = HeadLimits::new(8 * 1024, 32 * 1024, 128, UnderscoresConfig::Allow);
        let scan = |length: usize| {
            let text = with(&format!("x{}: 1", fill.repeat(length - 1)));
            Scanner::default().scan(text.as_bytes(), &limits)
        };
        assert!(matches!(scan(256), ScanResult::Head(_)), "{fill}");
        assert!(matches!(scan(257), ScanResult::Refused(_)), "{fill}");
    }
}

#[test]
fn names_with_underscores_go_as_configured() {
    let head = with("X_A: 1\r\nX-B: 2\r\nContent_Length: 5\r\n_: _");
    let with_policy = |policy| {
        let limits = HeadLimits::new(100, 1000, 10, policy);
        Scanner::default().scan(head.as_bytes(), &limits)
    };
    let ScanResult::Head(found) = with_policy(UnderscoresConfig::Drop) else {
        panic!("it is a head");
    };
    let dropped: Vec<&str> = found
        .dropped
        .iter()
        .map(|line| &head[line.clone()])
        .collect();
    assert_eq!(dropped, ["X_A: 1\r\n", "Content_Length: 5\r\n", "_: _\r\n"]);
    assert_eq!(found.body, BodyFraming::None);
    assert!(matches!(
        with_policy(UnderscoresConfig::Allow),
        ScanResult::Head(head) if head.dropped.is_empty()
    ));
    assert!(matches!(
        with_policy(UnderscoresConfig::Refuse),
        ScanResult::Refused(refused) if refused.reason == "bad_header"
    ));
}

#[test]
fn each_byte_of_a_slow_head_is_scanned_once() {
    let head = with("A: b\r\nContent-Length: 3");
    let mut scanner = Scanner::default();
    for end in 1..head.len() {
        let outcome = scanner.scan(&head.as_bytes()[..end], &limits());
        assert_eq!(outcome, ScanResult::Partial, "{end}");
        assert!(scanner.seen + 1 >= end, "{end}");
    }
    let outcome = scanner.scan(head.as_bytes(), &limits());
    assert_eq!(outcome, ScanResult::Head(taken(&head)));
}

#[test]
fn the_next_head_is_scanned_from_its_start() {
    let mut scanner = Scanner::default();
    for lines in [
        "X_A: 1\r\nContent-Length: 3",
        "Transfer-Encoding: chunked",
        "A: b",
    ] {
        let head = with(lines);
        let outcome = scanner.scan(head.as_bytes(), &limits());
        assert_eq!(outcome, ScanResult::Head(taken(&head)));
        scanner.restart();
    }
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("GET / HTTP/1.1\r\n".to_owned()),
        Just("POST /x HTTP/1.0\r\n".to_owned()),
        Just("Host: a.test\r\n".to_owned()),
        Just("Content-Length: 5\r\n".to_owned()),
        Just("Transfer-Encoding: chunked\r\n".to_owned()),
        Just("X_y: z\r\n".to_owned()),
        Just("\r\n".to_owned()),
        "[ -~]{0,70}",
        "[a-z-]{1,20}: [ -~]{0,40}\r\n",
        "[\\x00-\\x7f\u{e9}]{1,3}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
}

/// Generates a valid head: method, target, lines after `Host`, and the line of its body.
fn sound() -> impl Strategy<Value = (&'static str, String, Vec<String>, &'static str)> {
    let method = proptest::sample::select(vec!["GET", "POST", "OPTIONS", "M-SEARCH"]);
    let target = r"/[!$%&'()*+,./0-9:;=@A-Z\[\]^_a-z{|}~-]{0,40}(\?[!$-;=?-~]{0,40})?";
    // No meaningful header has such a name.
    let line = "x[a-zA-Z0-9!$*_.|~-]{0,20}:[ \t]?[ -~\t\u{a1}-\u{ff}]{0,40}";
    let body = vec![
        "",
        "Content-Length: 0\r\n",
        "content-length: 7 \r\n",
        "Transfer-Encoding: chunked\r\n",
    ];
    let lines = proptest::collection::vec(line, 0..12);
    (method, target, lines, proptest::sample::select(body))
}

/// Returns a session's view of a head that was scanned: method, target, and number of headers.
async fn read_by_pingora(head: &[u8]) -> Option<(String, Vec<u8>, usize)> {
    let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
    let connection = Connection::new(ListenerFacts::test(), ConnectionFacts::test());
    let transport = Transport::Plain(Socket::unix(ours));
    let mut io = ConnIo::new(transport, Arc::new(connection));
    theirs.write_all(head).await.unwrap();
    assert!(matches!(io.next_head(false).await, HeadWait::Request));
    let head = parse_request(&io.take_head())?;
    let lines = head.headers.len();
    Some((head.method.to_string(), head.raw_path().to_vec(), lines))
}

proptest! {
    /// Otherwise it would be refused for another reason than it has.
    #[test]
    fn an_accepted_head_can_be_parsed((method, target, lines, body) in sound()) {
        let text = lines.iter().fold(String::new(), |text, line| text + line + "\r\n");
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n{text}{body}\r\n");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let read = runtime.block_on(read_by_pingora(head.as_bytes()));
        let has_underscore = |line: &&String| line.split(':').next().is_some_and(|name| name.contains('_'));
        let dropped = lines.iter().filter(has_underscore).count();
        let expected = 1 + lines.len() - dropped + usize::from(!body.is_empty());
        prop_assert_eq!(read, Some((method.to_owned(), target.into_bytes(), expected)), "{:?}", head);
    }

    #[test]
    fn a_head_gives_the_same_result_in_two_pieces(bytes in noise(), at in any::<u8>()) {
        check(&[&[at], bytes.as_slice()].concat());
    }

    /// Checks that a lenient parser reads an accepted head as the same lines.
    #[test]
    fn an_accepted_head_is_the_same_to_another_parser(bytes in noise()) {
        if let ScanResult::Head(head) = Scanner::default().scan(&bytes, &limits()) {
            let mut headers = [httparse::EMPTY_HEADER; 200];
            let mut request = httparse::Request::new(&mut headers);
            let parsed = request.parse(&bytes);
            prop_assert_eq!(parsed, Ok(httparse::Status::Complete(head.length)));
            let text = std::str::from_utf8(&bytes[..head.length]).unwrap_or_default();
            if !text.is_empty() {
                prop_assert_eq!(request.headers.len() + 3, text.split("\r\n").count());
            }
        }
    }
}
