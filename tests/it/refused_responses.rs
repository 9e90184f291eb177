//! Responses of backends that are refused for their headers. Invariant: whatever is wrong, wherever
//! it stands, and whichever way the response was read, no value of its headers is in any log, in the
//! status, in the list of requests or in a trace. The reason, the name of the header and the size are.
#![allow(
    clippy::panic,
    reason = "tests: what goes wrong here fails them, and says so"
)]

use std::{collections::HashMap, fs, io, net::SocketAddr, sync::Arc, time::Duration};

use fastrand::Rng;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::{Request, find},
    gateway::Gateway,
    seed,
    server::Server,
    wait::wait_for,
};

const CASES: usize = 120;
const SOON: Duration = Duration::from_secs(20);

/// Fault of a response over HTTP/1, and whether its line has the name of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A space in a name.
    BadName,
    /// A control in a value.
    BadValue,
    /// A line without a colon.
    NoColon,
    /// A status that is none.
    BadStatus,
    TooMany,
    TooLong,
    /// A length that is no number.
    BadLength,
    /// A section that ends with the connection.
    Incomplete,
}

const FAULTS: [Fault; 8] = [
    Fault::BadName,
    Fault::BadValue,
    Fault::NoColon,
    Fault::BadStatus,
    Fault::TooMany,
    Fault::TooLong,
    Fault::BadLength,
    Fault::Incomplete,
];

/// Names of headers whose values are secret.
const NAMES: [&str; 4] = ["Set-Cookie", "Authorization", "X-Api-Key", "Location"];

/// Sections by the target that they respond to, as they are sent.
type Sections = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// Target of a collector of traces (OTLP over HTTP).
const TRACES: &str = "/v1/traces";

/// Responds to each request with the section for its target, and closes. It collects traces, too.
async fn broken_http1() -> (Server, Sections) {
    let sections = Sections::default();
    let all = Arc::clone(&sections);
    let server = Server::start(move |socket| {
        let known = Arc::clone(&all);
        async move { serve_http1(socket, &known).await }
    });
    (server.await, sections)
}

async fn serve_http1(
    mut socket: TcpStream,
    sections: &Mutex<HashMap<String, Vec<u8>>>,
) -> io::Result<()> {
    let mut request = Vec::new();
    let end = loop {
        match find(&request, b"\r\n\r\n") {
            Some(end) => break end + 4,
            None if socket.read_buf(&mut request).await? == 0 => return Ok(()),
            None => {}
        }
    };
    let section = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length = section
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    while request.len() < end + length && socket.read_buf(&mut request).await? > 0 {}
    let target = section.split(' ').nth(1).unwrap_or_default();
    if target == TRACES {
        let spans = &request[end..];
        let whole = |all: &mut Vec<u8>| all.extend_from_slice(spans);
        whole(sections.lock().entry(TRACES.to_owned()).or_default());
        return socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
    let section = sections.lock().get(target).cloned();
    socket.write_all(&section.expect("it is drawn")).await
}

fn secret(random: &mut Rng) -> String {
    (0..24).map(|_| random.alphanumeric()).collect()
}

/// Draws the lines of headers with secrets, and puts one with the fault somewhere among them.
fn section(fault: Fault, secret: &str, random: &mut Rng) -> Vec<u8> {
    let name = NAMES[random.usize(..NAMES.len())];
    let mut lines: Vec<String> = (0..random.usize(1..6))
        .map(|_| {
            format!(
                "{}: sid={secret}; Path=/",
                NAMES[random.usize(..NAMES.len())]
            )
        })
        .collect();
    let control = ["\u{1}", "\u{7f}", "\0"][random.usize(..3)];
    let faulty = match fault {
        Fault::BadName => format!("{}: sid={secret}", name.replacen('-', " ", 1) + " x"),
        Fault::BadValue => format!("{name}: sid={secret}{control}{secret}"),
        Fault::NoColon => format!("sid={secret} {secret}"),
        Fault::BadLength => format!("Content-Length: {secret}"),
        Fault::TooMany => vec![format!("{name}: {secret}"); 300].join("\r\n"),
        Fault::TooLong => format!("{name}: {secret}{}", "x".repeat(1 << 20)),
        Fault::BadStatus | Fault::Incomplete => format!("{name}: {secret}"),
    };
    lines.insert(random.usize(..=lines.len()), faulty);
    let status = if fault == Fault::BadStatus {
        "2x0"
    } else {
        "200 OK"
    };
    let end = if fault == Fault::Incomplete {
        ""
    } else {
        "\r\n\r\n"
    };
    let end = if fault == Fault::BadLength {
        end.to_owned()
    } else {
        format!("\r\nContent-Length: 2{end}ok")
    };
    format!("HTTP/1.1 {status}\r\n{}{end}", lines.join("\r\n")).into_bytes()
}

fn yaml(backend: SocketAddr, h2: SocketAddr) -> String {
    format!(
        "
tracing: {{ endpoint: 'http://{backend}', protocol: http, interval: 100ms, sample: 100% }}
upstreams:
  app: {{ backends: ['{backend}'], health: false, eject: {{ errors: 0 }}, retry: {{ attempts: 2 }} }}
  h2: {{ backends: ['{h2}'], health: false, protocol: h2, eject: {{ errors: 0 }} }}
routes:
- {{ match: {{ path: /plain/* }}, name: plain, upstream: app }}
- {{ match: {{ path: /cached/* }}, name: cached, upstream: app, cache: {{}} }}
- {{ match: {{ path: /h2/* }}, name: h2, upstream: h2 }}
- match: {{ path: /page/* }}
  name: page
  respond: 502
  error_pages: {{ pages: {{ 502: {{ upstream: app }} }} }}
"
    )
}

/// Returns everything that an operator may read of a gateway.
async fn all_logs(gateway: &Gateway) -> String {
    let mut all = gateway.stderr();
    for file in ["access.log", "stderr"] {
        all += &fs::read_to_string(gateway.folder().join(file)).unwrap_or_default();
    }
    for path in ["/v1/requests?n=1000", "/v1/status", "/metrics"] {
        let response = gateway.admin_get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        all += &response.text();
    }
    all
}

/// Invariant: no log has the secret, and all have the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_has_a_value_of_a_header_that_was_refused() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let secret = secret(&mut random);
    let (origin, sections) = broken_http1().await;
    let h2 = broken_http2(&secret, seed).await;
    let yaml = yaml(origin.address(), h2.address());
    for level in ["info", "info,edgeway=debug"] {
        let gateway = Gateway::start_with(&yaml, &[("EDGEWAY_LOG", level)]).await;
        let mut of_backend = 0;
        for number in 0..CASES {
            let fault = FAULTS[random.usize(..FAULTS.len())];
            let way = ["plain", "plain", "cached", "h2", "page"][random.usize(..5)];
            let method = ["GET", "POST", "HEAD"][random.usize(..3)];
            let target = format!("/{way}/{number}");
            let section = section(fault, &secret, &mut random);
            sections.lock().insert(target.clone(), section);
            let mut request = Request::new(method, &target);
            if random.bool() {
                request = request.header("range", "bytes=0-1");
            }
            let response = gateway.send(&request).await;
            assert_eq!(response.status(), 502, "{fault:?} {method} {target}");
            let text = format!("{:?}{}", response.headers, response.text());
            assert!(
                !text.contains(&secret),
                "{fault:?} {method} {target}: {text}"
            );
            of_backend += usize::from(way != "page");
        }
        let lines = gateway.log_lines(CASES).await;
        let refused = |line: &&Value| {
            let reason = line["reason"].as_str().unwrap_or_default();
            ["upstream_bad_answer", "upstream_reset"].contains(&reason)
        };
        assert_eq!(lines.iter().filter(refused).count(), of_backend);
        let logs = wait_for("the log is written", SOON, async || {
            let logs = all_logs(&gateway).await;
            logs.contains("request failed").then_some(logs)
        })
        .await;
        let spans = wait_for("traces are there", SOON, async || {
            sections.lock().remove(TRACES)
        })
        .await;
        assert!(!String::from_utf8_lossy(&spans).contains(&secret));
        let leak = logs.find(&secret).map(|at| {
            let begin = logs[..at].rfind('\n').map_or(0, |at| at + 1);
            let line = logs[begin..].lines().next().unwrap_or_default();
            line.chars().take(600).collect::<String>()
        });
        assert_eq!(leak, None, "{level}");
        // The control: the words that help are there.
        assert!(logs.contains("InvalidHTTPHeader"), "{logs}");
    }
}

/// The name of the header, its reason and the size of the section are in the line.
#[tokio::test]
async fn the_line_of_a_refused_response_names_its_header() {
    let (origin, sections) = broken_http1().await;
    let gateway = Gateway::start(&yaml(origin.address(), origin.address())).await;
    let long = "y".repeat(300);
    for (target, lines, words) in [
        (
            "/plain/value",
            "a: b\r\nSet-Cookie: s3cr\u{1}et".to_owned(),
            "invalid header value in 46 bytes, header `set-cookie`",
        ),
        (
            "/plain/name",
            "Set Cookie: s3cret".to_owned(),
            "invalid header name in 39 bytes",
        ),
        (
            "/plain/long",
            format!("{long}: s3cr\u{1}et"),
            &format!("header `{}`", &long[..64]),
        ),
        (
            "/plain/many",
            "a: s3cret\r\n".repeat(300) + "a: b",
            "too many headers",
        ),
    ] {
        let section = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n");
        sections
            .lock()
            .insert(target.to_owned(), section.into_bytes());
        assert_eq!(gateway.get(target).await.status(), 502, "{target}");
        wait_for("the line is there", SOON, async || {
            gateway.stderr().contains(words).then_some(())
        })
        .await;
    }
    assert!(!gateway.stderr().contains("s3cr"), "{}", gateway.stderr());
}

/// Origin of HTTP/2 whose responses have drawn headers that no response may have.
async fn broken_http2(secret: &str, seed: u64) -> Server {
    let secret = secret.to_owned();
    let mut random = Rng::with_seed(seed);
    Server::start(move |socket| {
        let block = block(&secret, &mut random);
        async move { serve_http2(socket, &block).await }
    })
    .await
}

/// Draws a header block without indexing (RFC 7541, 6.2.2) that has a fault.
fn block(secret: &str, random: &mut Rng) -> Vec<u8> {
    let cookie = format!("sid={secret}");
    let mut fields = vec![
        (":status", "200".to_owned()),
        ("set-cookie", cookie.clone()),
    ];
    match random.usize(..6) {
        0 => fields.push(("Set-Cookie", cookie)),
        1 => fields.push(("set-cookie", format!("{cookie}\u{1}"))),
        2 => secret.clone_into(&mut fields[0].1),
        3 => fields.push(("connection", cookie)),
        4 => fields.push((":other", cookie)),
        _ => fields.push(("set cookie", cookie)),
    }
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, &value] {
            block.push(u8::try_from(text.len()).expect("it is short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// Responds to each request of a connection with the same block.
async fn serve_http2(mut socket: TcpStream, block: &[u8]) -> io::Result<()> {
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).await?;
    // Settings, and that those of the gateway are taken.
    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    socket.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await?;
    loop {
        let mut frame = [0; 9];
        socket.read_exact(&mut frame).await?;
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await?;
        if frame[3] != 1 {
            continue;
        }
        let mut response = u32::try_from(block.len())
            .expect("it is short")
            .to_be_bytes()[1..]
            .to_vec();
        // Headers that end the block and the stream.
        response.extend_from_slice(&[1, 5]);
        response.extend_from_slice(&frame[5..]);
        response.extend_from_slice(block);
        socket.write_all(&response).await?;
    }
}

#[test]
fn drawn_sections_have_their_secret() {
    let mut random = Rng::with_seed(7);
    for fault in FAULTS {
        let section = section(fault, "s3cret", &mut random);
        assert!(
            String::from_utf8_lossy(&section).contains("s3cret"),
            "{fault:?}"
        );
    }
}
