//! Clients that close their direction of the connection after their request. Invariant: such a
//! client gets its response, whenever it comes; one that has left does not keep its backend busy.

#![allow(
    clippy::unwrap_used,
    reason = "tests: what goes wrong here fails them, and says so"
)]

use std::{fmt::Write as _, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

use crate::support::{
    certificates::Ca,
    client::Connection,
    front::Front,
    gateway::Gateway,
    origins::{Origin, SlowOrigin},
    seed,
    wait::{pass, wait_for},
};

const SITE: &str = "site.test";
const INTERIM: &str = "HTTP/1.1 100 Continue\r\n\r\n";
/// Time by which the origins are late. A client that waits for 200 ms gets an interim response.
const DELAYS: [u64; 5] = [0, 50, 190, 400, 1500];

async fn front(origins: &[Origin<SlowOrigin>], ca: &Ca) -> Gateway {
    let mut upstreams = String::new();
    let mut routes = String::new();
    for (number, origin) in origins.iter().enumerate() {
        let address = origin.address();
        let _infallible = writeln!(
            upstreams,
            "  u{number}: {{ backends: ['{address}'], health: false }}"
        );
        let _infallible = write!(
            routes,
            "- {{ match: {{ path: /{number} }}, upstream: u{number} }}\n\
             - {{ match: {{ path: /{number}/* }}, upstream: u{number}, cache: {{ ttl: 1m }} }}\n"
        );
    }
    let yaml = format!(
        "listeners:
- {{ address: '127.0.0.1:0', name: web }}
- {{ address: '127.0.0.1:0', name: tls, tls: {{ certificates: {{ cert: site.pem, key: site.key }} }} }}
defaults: {{ csrf: false }}
cache: {{ memory: 8MiB }}
upstreams:\n{upstreams}routes:\n{routes}"
    );
    Gateway::start_in(&yaml, |folder| ca.site(&[SITE]).write(folder, "site")).await
}

/// Sends a request and closes its direction. Returns all that comes.
async fn half_close(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: String) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    // A client of TLS may miss the end of its connection.
    drop(stream.read_to_end(&mut all).await);
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_no_more_gets_its_response() {
    let mut random = fastrand::Rng::with_seed(seed::drawn());
    let ca = Ca::new();
    let mut origins = Vec::new();
    for delay in DELAYS {
        origins.push(SlowOrigin::start(Duration::from_millis(delay)).await);
    }
    let gateway = front(&origins, &ca).await;
    let (web, tls) = (gateway.address(), gateway.listener("tls").parse().unwrap());
    let trust = Arc::new(ca.trust());
    let mut cases = JoinSet::new();
    for number in 0..seed::cases(60, 300) {
        let origin = random.usize(..DELAYS.len());
        let version = ["1.1", "1.1", "1.0"][random.usize(..3)];
        let place = random
            .choice([String::new(), format!("/{number}")])
            .unwrap();
        let (method, body) = random
            .choice([("GET", ""), ("POST", "content-length: 3\r\n\r\nabc")])
            .unwrap();
        let end = if body.is_empty() { "\r\n" } else { body };
        let target = format!("{method} /{origin}{place} HTTP/{version}");
        let request = format!("{target}\r\nhost: {SITE}\r\n{end}");
        let (is_tls, trust) = (random.bool(), Arc::clone(&trust));
        cases.spawn(async move {
            let came = if is_tls {
                let opened = Connection::open_tls(tls, SITE, &trust).await;
                half_close(opened.unwrap().into_stream(), request).await
            } else {
                half_close(TcpStream::connect(web).await.unwrap(), request).await
            };
            let interim = came.strip_prefix(INTERIM).filter(|_| version == "1.1");
            let response = interim.unwrap_or(&came);
            let is_whole = response.starts_with("HTTP/1.1 200 ") && response.ends_with('}');
            assert!(is_whole, "{target}, TLS {is_tls}: {came:?}");
        });
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
    let lines = gateway.log_lines(1).await;
    let left = lines.iter().find(|line| line["reason"] == "client_gone");
    assert_eq!(left, None);
}

/// The time for which a client may be silent that nothing can be asked any more begins with the
/// response.
#[tokio::test]
async fn a_late_response_in_pieces_reaches_a_client_that_sends_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = Front::to(listener.local_addr().unwrap());
    let gateway = front.start().await;
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {SITE}\r\n\r\n");
    let app = async {
        let (mut app, _) = listener.accept().await.unwrap();
        pass(Duration::from_millis(5500)).await;
        let headers = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
        app.write_all(headers).await.unwrap();
        pass(Duration::from_millis(500)).await;
        app.write_all(b"ok").await.unwrap();
    };
    let (came, ()) = tokio::join!(half_close(stream, request), app);
    assert!(came.ends_with("\r\n\r\nok"), "{came:?}");
}

/// The control: it closes both directions.
#[tokio::test]
async fn a_client_that_has_left_is_noticed() {
    let ca = Ca::new();
    let origin = SlowOrigin::start(Duration::from_secs(30)).await;
    let origins = [origin];
    let gateway = front(&origins, &ca).await;
    let begun = Instant::now();
    let request = format!("GET /0 HTTP/1.1\r\nhost: {SITE}\r\n\r\n");
    let mut plain = TcpStream::connect(gateway.address()).await.unwrap();
    plain.write_all(request.as_bytes()).await.unwrap();
    let trust = Arc::new(ca.trust());
    let tls = gateway.listener("tls").parse().unwrap();
    let opened = Connection::open_tls(tls, SITE, &trust).await;
    let mut tls = opened.unwrap().into_stream();
    tls.write_all(request.as_bytes()).await.unwrap();
    tls.flush().await.unwrap();
    wait_for("both are in flight", Duration::from_secs(10), async || {
        (origins[0].counts().requests() >= 2).then_some(())
    })
    .await;
    tls.shutdown().await.unwrap();
    drop((plain, tls));
    let lines = gateway.log_lines(2).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{begun:?}");
    for line in &lines {
        assert_eq!(line["reason"], "client_gone", "{lines:#?}");
    }
}
