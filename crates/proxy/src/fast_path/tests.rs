//! Tests of the fast path against Pingora's own reading of requests.

use edgeway_gateway::{World, compile, load_text};
use pingora::protocols::{http::ServerSession, l4::stream::Stream as Socket};
use proptest::prelude::*;
use tokio::{io::AsyncWriteExt, net::UnixStream};

use super::*;

#[tokio::test]
async fn a_request_that_pingora_rejects_after_all_is_counted() {
    let yaml = "listeners: [{ address: 127.0.0.1:8080 }]\n\
                routes: [{ name: all, match: {}, respond: ok }]\n";
    let file = load_text("t.yaml", yaml).file.unwrap();
    let world = World::default();
    let metrics = world.metrics.clone();
    let gateway = compile(&file, std::path::Path::new("."), &world).0;
    let live = Arc::new(Live::new(gateway.unwrap(), world));
    let service = Arc::new(super::super::service(&live));
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Pingora finds the end of the stream where the headers were. Without a connection of the
    // edge, the request has no route.
    drop(theirs);
    let head = Bytes::from_static(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
    let arrival = RequestArrival {
        left: 1,
        is_stopping: false,
        has_body: false,
    };
    let stream: Stream = Box::new(Socket::from(ours));
    let fast_path = FastPath::new(&live, &service);
    let outcome = fast_path.attempt(stream, None, &head, arrival).await;
    assert!(matches!(outcome, FastPathOutcome::Over(None)));
    let page = String::from_utf8(metrics.text()).unwrap();
    for line in [
        "edgeway_http_requests_total{method=\"GET\",route=\"(none)\",status=\"500\"} 1",
        "edgeway_refused_total{reason=\"internal\",route=\"(none)\"} 1",
        "edgeway_http_in_flight 0",
    ] {
        assert!(page.lines().any(|own| own == line), "{line}:\n{page}");
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
fn check(head: &str) {
    let read = parse(&Bytes::copy_from_slice(head.as_bytes())).unwrap();
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
        check(&format!("GET {target} HTTP/1.{version}\r\nHost: a.test\r\n{lines}\r\n"));
    }
}

#[test]
fn an_ambiguous_connection_header_is_left_to_pingora() {
    let wants = |version: &str, lines: &str| {
        let head = format!("GET / HTTP/{version}\r\nhost: a.test\r\n{lines}\r\n");
        asks_keep_alive(&parse(&Bytes::from(head)).unwrap())
    };
    // RFC 9112, 9.3: HTTP/1.0 has to ask.
    assert_eq!(wants("1.1", ""), Some(true));
    assert_eq!(wants("1.0", ""), Some(false));
    for version in ["1.0", "1.1"] {
        let wants = |lines| wants(version, lines);
        assert_eq!(wants("connection: Keep-Alive\r\n"), Some(true));
        assert_eq!(wants("Connection: CLOSE\r\n"), Some(false));
        assert_eq!(wants("connection: close, x-a\r\n"), None);
        let is_http11 = version == "1.1";
        assert_eq!(wants("connection: Upgrade\r\n"), Some(is_http11));
        assert_eq!(wants("connection: keep-alive,Upgrade\r\n"), Some(true));
        assert_eq!(wants("connection: upgrade, close\r\n"), None);
        assert_eq!(wants("connection: upgrade,\r\n"), None);
        let both = "connection: keep-alive\r\nconnection: close\r\n";
        assert_eq!(wants(both), None);
        let twice = "connection: close\r\nx: y\r\nconnection: close\r\n";
        assert_eq!(wants(twice), None);
    }
}

#[test]
fn an_unusual_head_is_left_to_pingora_unless_it_asks_for_a_websocket() {
    for line in [
        "GET http://a.test/x?y=%20 HTTP/1.1",
        "GET http://a.test HTTP/1.1",
        "GET HTTPS://a.test/x HTTP/1.0",
    ] {
        check(&format!("{line}\r\nhost: a.test\r\n\r\n"));
    }
    for line in ["OPTIONS * HTTP/1.1", "GET /\u{e9} HTTP/1.1"] {
        let plain = format!("{line}\r\nhost: a.test\r\n\r\n");
        assert!(parse(&Bytes::from(plain)).is_none(), "{line}");
        check(&format!(
            "{line}\r\nhost: a.test\r\nupgrade: websocket\r\n\r\n"
        ));
    }
    let many = "a: b\r\n".repeat(MAX_FIELDS);
    check(&format!("GET / HTTP/1.1\r\n{many}\r\n"));
    let too_many = format!("GET / HTTP/1.1\r\n{many}a: b\r\n\r\n");
    assert!(parse(&Bytes::from(too_many)).is_none());
}
