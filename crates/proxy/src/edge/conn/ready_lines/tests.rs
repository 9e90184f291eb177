//! The bytes of [`ResponseHeaderWriter::write`] and those that a Pingora session writes through the
//! connection, for the same responses.

use std::sync::Arc;

use edgeway_config::model::UnderscoresConfig;
use http::{HeaderValue, Version, header};
use pingora::{http::ResponseHeader, protocols::http::ServerSession};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Runtime,
};

use crate::{
    connection::{
        Connection, ConnectionFacts,
        listener::ListenerFacts,
        response_header::{ConnectionReuse, PresentHeaders, ResponseHeaderWriter},
    },
    edge::{
        conn::{ConnIo, HeadWait},
        head::HeadLimits,
        transport::{Socket, Transport},
    },
};

/// Response, and the request that it is for.
#[derive(Clone, Debug)]
struct Exchange {
    method: &'static str,
    /// Minor version of the request, and its `Connection`.
    version: u8,
    connection: &'static str,
    status: u16,
    phrase: Option<String>,
    /// True to write names as they are spelled here.
    has_case: bool,
    headers: Vec<(String, String)>,
    ready_lines: Option<String>,
}

const METHODS: [&str; 2] = ["GET", "HEAD"];
const CONNECTIONS: [&str; 3] = ["", "connection: close\r\n", "Connection: Keep-Alive\r\n"];
/// Statuses with and without a body, and some without a phrase of their own.
const STATUSES: [u16; 12] = [200, 204, 206, 301, 304, 400, 404, 416, 431, 503, 299, 599];
const DATES: [&str; 2] = [
    "Thu, 01 Jan 2015 08:00:00 GMT",
    "Sun, 06 Nov 1994 08:49:37 GMT",
];

fn header_line() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        3 => "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,20}",
        3 => prop_oneof![
            Just("set-cookie"), Just("Set-Cookie"), Just("vary"), Just("VARY"),
            Just("cache-control"), Just("age"), Just("content-type"), Just("accept-ranges"),
            Just("server"), Just("content-encoding"), Just("etag"), Just("eTag"),
        ].prop_map(str::to_owned),
    ];
    let value = "([!-~\u{a1}-\u{ff}]([ -~\t\u{a1}-\u{ff}]{0,40}[!-~\u{a1}-\u{ff}])?)?";
    (name, value).prop_filter(
        "names with a meaning for the connection come later",
        |line| {
            let name = line.0.to_ascii_lowercase();
            !["connection", "date", "content-length", "transfer-encoding"].contains(&&*name)
        },
    )
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let framing = prop_oneof![
        Just(None),
        (0..1u64 << 40).prop_map(|length| Some(("Content-Length", length.to_string()))),
        Just(Some(("transfer-encoding", "chunked".to_owned()))),
    ];
    let date = prop::option::of((
        prop::sample::select(&["date", "Date", "DATE"][..]),
        prop::sample::select(&DATES[..]),
    ));
    let request = (
        prop::sample::select(&METHODS[..]),
        0..2u8,
        prop::sample::select(&CONNECTIONS[..]),
    );
    let status_line = (
        prop::sample::select(&STATUSES[..]),
        prop::option::of("[!-~]([ -~]{0,20}[!-~])?"),
    );
    let lines = (
        any::<bool>(),
        prop::collection::vec(header_line(), 0..24),
        prop::option::of("(x-[a-z]{1,9}: [!-~]{0,20}\r\n){0,4}"),
    );
    let positions = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    (request, status_line, lines, framing, date, positions).prop_map(
        |(request, status_line, lines, framing, date, at)| {
            let mut headers = lines.1;
            if let Some((name, value)) = framing {
                headers.insert(at.0.index(headers.len() + 1), (name.to_owned(), value));
            }
            if let Some((name, value)) = date {
                // With spellings Pingora replaces that of `Date` too. No response of the fast path
                // has spellings.
                let name = if lines.0 { "Date" } else { name };
                let value = value.to_owned();
                headers.insert(at.1.index(headers.len() + 1), (name.to_owned(), value));
            }
            Exchange {
                method: request.0,
                version: request.1,
                connection: request.2,
                status: status_line.0,
                phrase: status_line.1,
                has_case: lines.0,
                headers,
                ready_lines: lines.2,
            }
        },
    )
}

impl Exchange {
    fn response(&self) -> ResponseHeader {
        let mut head = if self.has_case {
            ResponseHeader::build(self.status, None).unwrap()
        } else {
            ResponseHeader::build_no_case(self.status, None).unwrap()
        };
        head.set_reason_phrase(self.phrase.as_deref()).unwrap();
        for (name, value) in &self.headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            head.append_header(name.clone(), value).unwrap();
        }
        head
    }

    /// Returns the bytes that reach the client if a Pingora session writes the response and the
    /// connection adds to it; and the session's decision about the connection.
    fn by_pingora(&self, response: ResponseHeader) -> (Vec<u8>, ConnectionReuse) {
        runtime().block_on(written_by_pingora(self, response))
    }

    /// Returns the bytes of [`ResponseHeaderWriter::write`] for the same response. `date` is the
    /// current time.
    fn by_us(&self, is_chunked: bool, reuse: ConnectionReuse, date: &HeaderValue) -> Vec<u8> {
        let mut head = self.response();
        let mut out = b"earlier bytes".to_vec();
        let present = PresentHeaders::of(&head.headers);
        let writer = ResponseHeaderWriter {
            out: &mut out,
            ready_lines: self.ready_lines.as_deref().map(str::as_bytes),
        };
        writer.write(&mut head, present, is_chunked, reuse, || date.clone());
        out.split_off(b"earlier bytes".len())
    }

    /// Returns both, as of the same time.
    fn both(&self, is_chunked: bool) -> (Vec<u8>, Vec<u8>) {
        let (theirs, reuse) = self.by_pingora(self.response());
        let (_, lines) = parsed(&theirs);
        let date = lines
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("date"));
        let date = HeaderValue::from_bytes(&date.expect("Pingora writes one").1).unwrap();
        (self.by_us(is_chunked, reuse, &date), theirs)
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn written_by_pingora(
    exchange: &Exchange,
    response: ResponseHeader,
) -> (Vec<u8>, ConnectionReuse) {
    let (ours, mut client) = UnixStream::pair().unwrap();
    let request = format!(
        "{} / HTTP/1.{}\r\nhost: a.test\r\n{}\r\n",
        exchange.method, exchange.version, exchange.connection
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let connection = Connection::new(ListenerFacts::test(), ConnectionFacts::test());
    let connection = Arc::new(connection);
    let transport = Transport::Plain(Socket::unix(ours));
    let mut io = ConnIo::new(transport, Arc::clone(&connection));
    let limits = HeadLimits::new(512, 2048, 32, UnderscoresConfig::Drop);
    let wait = io.next_head(&limits, false).await;
    assert!(matches!(wait, HeadWait::Request), "{wait:?}");
    if let Some(lines) = &exchange.ready_lines {
        connection.write_lines(lines.as_bytes().into());
    }
    if let Some(date) = response.headers.get(header::DATE) {
        connection.write_date(date.clone());
    }
    let mut session = ServerSession::new_http1(Box::new(io));
    assert!(session.read_request().await.unwrap());
    let reuse = if session.as_http1().unwrap().will_keepalive() {
        ConnectionReuse::KeepAlive
    } else {
        ConnectionReuse::Close
    };
    let written = session.write_response_header(Box::new(response)).await;
    written.unwrap();
    // It writes what is buffered. The body may be incomplete, which is no subject here.
    drop(session.finish_body().await);
    drop(session);
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    let end = memchr::memmem::find(&bytes, b"\r\n\r\n").expect("an empty line") + 4;
    bytes.truncate(end);
    (bytes, reuse)
}

/// Status line and header lines of a section, by `httparse`.
type Parsed = ((u8, u16, String), Vec<(String, Vec<u8>)>);

#[track_caller]
fn parsed(section: &[u8]) -> Parsed {
    let mut room = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut room);
    let length = response.parse(section).unwrap();
    assert_eq!(length, httparse::Status::Complete(section.len()));
    let lines = response.headers.iter();
    let lines = lines.map(|line| (line.name.to_owned(), line.value.to_vec()));
    (
        (
            response.version.unwrap(),
            response.code.unwrap(),
            response.reason.unwrap().to_owned(),
        ),
        lines.collect(),
    )
}

/// Returns the lines sorted by name; those of one name stay in their order.
fn sorted(section: &[u8]) -> Parsed {
    let (status_line, mut lines) = parsed(section);
    for (name, _) in &mut lines {
        name.make_ascii_lowercase();
    }
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    (status_line, lines)
}

/// Changes that a broken writer could make to a section.
fn mutated(section: &[u8]) -> Vec<Vec<u8>> {
    let text: Vec<&[u8]> = section.split_inclusive(|byte| *byte == b'\n').collect();
    let without = |at: usize| {
        let mut lines = text.clone();
        lines.remove(at);
        lines.concat()
    };
    let mut swapped = text.clone();
    let last = swapped.len() - 2;
    swapped.swap(last, last - 1);
    let mut lower = section.to_vec();
    lower[text[0].len()..].make_ascii_lowercase();
    let mut all = vec![
        without(1),
        without(last),
        without(last + 1),
        swapped.concat(),
        section
            .iter()
            .copied()
            .filter(|byte| *byte != b'\r')
            .collect(),
        [text[0], &text.concat()[..]].concat(),
    ];
    if lower != section {
        all.push(lower);
    }
    all
}

proptest! {
    #[test]
    fn bytes_equal_those_of_pingora(exchange in exchange()) {
        let (ours, theirs) = exchange.both(false);
        prop_assert_eq!(ours.escape_ascii().to_string(), theirs.escape_ascii().to_string());
    }

    /// The control: a writer with an error writes other bytes.
    #[test]
    fn bytes_of_a_broken_writer_differ_from_those_of_pingora(exchange in exchange()) {
        let (ours, theirs) = exchange.both(false);
        for broken in mutated(&ours) {
            prop_assert_ne!(broken, &theirs[..]);
        }
    }

    /// Difference: a `Connection` of the response stays at its place with Pingora. Here it is the
    /// last line, since an insertion into the map could allocate.
    #[test]
    fn a_connection_header_of_the_response_is_replaced(
        mut exchange in exchange(),
        values in prop::collection::vec("keep-alive|close|x-a, upgrade", 1..3),
        at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(exchange.headers.len() + 1);
        for value in values {
            exchange.headers.insert(at, ("connection".to_owned(), value));
        }
        let (ours, theirs) = exchange.both(false);
        prop_assert_eq!(sorted(&ours), sorted(&theirs));
        let connections = sorted(&ours).1;
        let connections = connections.iter().filter(|(name, _)| name == "connection");
        prop_assert_eq!(connections.count(), 1);
    }

    /// Difference: Pingora ends a body without a length with its connection, although it announces
    /// that the connection stays. Here such a body has chunks, and one more line.
    #[test]
    fn a_body_without_a_length_is_announced_as_chunked(mut exchange in exchange()) {
        exchange.headers.retain(|(name, _)| name != "Content-Length");
        let is_chunked = exchange.headers.iter().any(|(name, _)| name == "transfer-encoding");
        let (ours, theirs) = exchange.both(true);
        let (ours, mut theirs) = (sorted(&ours), sorted(&theirs));
        if !is_chunked {
            theirs.1.push(("transfer-encoding".to_owned(), b"chunked".to_vec()));
            theirs.1.sort_by(|one, other| one.0.cmp(&other.0));
        }
        prop_assert_eq!(ours, theirs);
    }

    /// Difference: the version is always our own. With Pingora it is the one in the headers.
    #[test]
    fn the_version_is_that_of_the_sender(exchange in exchange()) {
        let (ours, _) = exchange.both(false);
        let mut old = exchange.response();
        old.set_version(Version::HTTP_10);
        let (theirs, reuse) = exchange.by_pingora(old);
        prop_assert!(theirs.starts_with(b"HTTP/1.0 ") && ours.starts_with(b"HTTP/1.1 "));
        let mut head = exchange.response();
        head.set_version(Version::HTTP_10);
        let present = PresentHeaders::of(&head.headers);
        let mut out = Vec::new();
        let writer = ResponseHeaderWriter { out: &mut out, ready_lines: None };
        writer.write(&mut head, present, false, reuse, || HeaderValue::from_static(DATES[0]));
        prop_assert!(out.starts_with(b"HTTP/1.1 "));
    }
}
