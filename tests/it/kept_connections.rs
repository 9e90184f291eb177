//! Connections of clients after responses of the gateway itself. Invariant: a connection ends only
//! after a response that says so, and only if the client's request was not there as a whole; each
//! response on a kept connection belongs to its own request.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    reason = "tests: what goes wrong here fails them, and says so"
)]

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    gateway::Gateway,
    origins::{Failure, ResettingOrigin},
    seed,
    wait::pass,
};

const REQUESTS: usize = 300;
/// Bodies hold a request that would be seen if a body were taken for one.
const CONTENT: &str = "GET /moved/smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Request as its bytes, and what is expected of its response.
struct Sent {
    bytes: String,
    status: u16,
    has_body: bool,
    /// True if the body is not sent, although it is announced.
    waits: bool,
}

fn draw(number: usize, random: &mut Rng) -> Sent {
    let (path, status) = [
        ("moved", 307),
        ("refused", 405),
        ("guarded", 403),
        ("away", 502),
        ("dropped", 502),
        ("hangs", 504),
        ("stored", 502),
        ("none", 404),
    ][random.usize(..8)];
    let mut bytes = String::new();
    let has_body = random.u8(..3) > 0 && status != 504;
    let method = if has_body { "POST" } else { "GET" };
    let status = match (path, has_body) {
        ("refused", false) => 502,
        _ => status,
    };
    let put = "a string takes it";
    write!(
        bytes,
        "{method} /{path}/{number} HTTP/1.1\r\nHost: a.test\r\n"
    )
    .expect(put);
    // As proxies write the target, and what browsers ask for besides.
    if random.u8(..8) == 0 {
        let target = format!("http://a.test/{path}/{number}");
        bytes = bytes.replace(&format!("/{path}/{number}"), &target);
    }
    if random.u8(..8) == 0 {
        let options = ["Upgrade", "keep-alive, Upgrade"][random.usize(..2)];
        write!(bytes, "Connection: {options}\r\n").expect(put);
    }
    let content = CONTENT.repeat([0, 1, 20, 400][random.usize(..4)]);
    // The backend that drops requests reads them first.
    let waits = has_body && !content.is_empty() && path != "dropped" && random.u8(..40) == 0;
    if waits {
        bytes.push_str("Expect: 100-continue\r\n");
    }
    if has_body && random.bool() {
        bytes.push_str("Transfer-Encoding: chunked\r\n\r\n");
        if !content.is_empty() && !waits {
            write!(bytes, "{:x}\r\n{content}\r\n", content.len()).expect(put);
        }
        if !waits {
            bytes.push_str("0\r\n\r\n");
        }
    } else if has_body {
        write!(bytes, "Content-Length: {}\r\n\r\n", content.len()).expect(put);
        if !waits {
            bytes.push_str(&content);
        }
    } else {
        bytes.push_str("\r\n");
    }
    Sent {
        bytes,
        status,
        has_body,
        waits,
    }
}

/// Returns a configuration whose every route leads to an error or a reply.
fn failing(dropping: SocketAddr, hanging: SocketAddr) -> String {
    format!(
        "
cache: {{ memory: 8MiB }}
defaults: {{ csrf: false }}
upstreams:
  away: {{ backends: ['127.0.0.1:9'], health: false, eject: {{ errors: 0 }} }}
  dropping: {{ backends: ['{dropping}'], health: false, eject: {{ errors: 0 }} }}
  hanging: {{ backends: ['{hanging}'], health: false, eject: {{ errors: 0 }},
    timeouts: {{ first_byte: 100ms }} }}
routes:
- {{ match: {{ path: /moved/* }}, redirect: /here }}
- {{ match: {{ path: /refused/* }}, upstream: away, methods: [GET] }}
- {{ match: {{ path: /guarded/* }}, upstream: away, access: {{ deny: [127.0.0.1] }} }}
- {{ match: {{ path: /away/* }}, upstream: away }}
- {{ match: {{ path: /dropped/* }}, upstream: dropping }}
- {{ match: {{ path: /hangs/* }}, upstream: hanging }}
- {{ match: {{ path: /stored/* }}, upstream: away, cache: {{}} }}
"
    )
}

#[tokio::test]
async fn errors_keep_the_connection() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let dropping = ResettingOrigin::start(Failure::ResetBeforeResponse).await;
    let hanging = ResettingOrigin::start(Failure::Hang).await;
    let yaml = failing(dropping.address(), hanging.address());
    let gateway = Gateway::start(&yaml).await;
    let (closed, kept_bodies) = send_all(&gateway, &mut random).await;
    println!("{closed} closed, {kept_bodies} kept after bodies");
    // A body that arrives later than its headers may cost a connection.
    assert!(
        kept_bodies > 10 * closed.max(5),
        "{closed} closed, {kept_bodies} kept"
    );
}

/// Sends drawn requests one after the other. Returns the number of connections that were closed
/// although the request was there as a whole, and of those that were kept after a body.
async fn send_all(gateway: &Gateway, random: &mut Rng) -> (usize, usize) {
    let mut connection = gateway.connect().await;
    let (mut closed, mut kept_bodies) = (0, 0);
    for number in 0..REQUESTS {
        let sent = draw(number, random);
        connection.write(&sent.bytes).await.expect("it accepts");
        let response = connection.read_response().await;
        let shown = sent.bytes.chars().take(300).collect::<String>();
        let response = response.unwrap_or_else(|error| panic!("{number}: {error:?}: {shown}"));
        assert_eq!(response.status(), sent.status, "{number}: {shown}");
        if response.header("connection") != Some("close") {
            assert!(!sent.waits, "what follows could be the body: {shown}");
            kept_bodies += usize::from(sent.has_body);
            continue;
        }
        assert!(sent.has_body, "closed for nothing: {shown}");
        assert!(connection.is_closed().await, "{number}: {shown}");
        closed += usize::from(!sent.waits);
        connection = gateway.connect().await;
    }
    (closed, kept_bodies)
}

/// Invariant: the last response of a connection is complete, though the client has sent requests that
/// nobody reads: closing at once would reset it (RFC 9112, 9.6; nginx: `lingering_close`).
#[tokio::test]
async fn requests_after_the_last_cut_off_no_response() {
    const SIZE: usize = 2_000_000;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("big"), vec![b'x'; SIZE]).expect("a file");
    let yaml = format!(
        "
listeners: [{{ address: '127.0.0.1:0', limits: {{ requests_per_connection: 3 }} }}]
routes: [{{ match: {{ path: /* }}, files: {} }}]
",
        folder.path().display()
    );
    let gateway = Gateway::start(&yaml).await;
    let request = b"GET /big HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for depth in [1, 2, 10] {
        let mut socket = TcpStream::connect(gateway.address())
            .await
            .expect("it accepts");
        let asked = request.repeat(depth);
        socket.write_all(&asked).await.expect("it reads");
        let (mut responses, mut came, mut piece) = (0, 0, vec![0; 1 << 16]);
        while came < 3 * SIZE {
            let count = socket.read(&mut piece).await.expect("no reset");
            assert!(count > 0, "{depth} at a time: closed after {came} bytes");
            // Headers are short beside the bodies.
            came += count;
            if came / SIZE > responses {
                responses = came / SIZE;
                // The connection may be closed by now.
                let _closed = socket.write_all(request).await;
            }
            pass(Duration::from_millis(1)).await;
        }
    }
}

/// A client may send the headers of a request long before its body. Up to 1 MiB of it are read after
/// the response; the response to a longer one says that the connection ends.
#[tokio::test]
async fn a_body_that_comes_after_the_response_is_not_taken_for_a_request() {
    const MOST: usize = 1 << 20;
    let dropping = ResettingOrigin::start(Failure::ResetBeforeResponse).await;
    let hanging = ResettingOrigin::start(Failure::Hang).await;
    let yaml = failing(dropping.address(), hanging.address());
    let gateway = Gateway::start(&yaml).await;
    for path in ["moved", "refused", "guarded", "away", "none"] {
        for length in [1, CONTENT.len(), 20_000, MOST, MOST + 1] {
            let shown = format!("{path}, {length} bytes");
            let mut connection = gateway.connect().await;
            let head = format!(
                "POST /{path}/x HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"
            );
            connection.write(&head).await.expect("it accepts");
            let response = connection.read_response().await.expect("it responds");
            let is_closing = response.header("connection") == Some("close");
            assert_eq!(is_closing, length > MOST, "{shown}");
            if is_closing {
                continue;
            }
            let body: String = CONTENT.chars().cycle().take(length).collect();
            connection.write(&body).await.expect("it reads on");
            // The request in the body has another response.
            let next = "GET /none/next HTTP/1.1\r\nHost: a.test\r\n\r\n";
            connection.write(next).await.expect("it accepts");
            let response = connection.read_response().await.expect("it responds");
            assert_eq!(response.status(), 404, "{shown}");
        }
    }
}
