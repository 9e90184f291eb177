//! Status 444. Invariant: the client gets not a byte, on whichever way it comes there: the connection
//! ends, or the stream of HTTP/2 is reset and the others of its connection go on.

#![allow(
    clippy::print_stdout,
    reason = "tests: what goes wrong here fails them, and says so"
)]

use fastrand::Rng;

use crate::support::{
    client::{ClientError, Connection, Request, get},
    gateway::Gateway,
    http2,
    origins::EchoOrigin,
    ports::free_port,
    seed,
};

const CASES: usize = 200;

/// Ways to it: a route, a route whose filters need the body, one guarded by an address, a limit.
const WAYS: [&str; 4] = ["/closed", "/body", "/guarded", "/limited"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_no_byte_and_others_go_on() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let origin = EchoOrigin::start().await;
    let (h1, h2) = (free_port(), free_port());
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ address: '127.0.0.1:{h1}', name: web }}
  - {{ address: '127.0.0.1:{h2}', name: h2, http2: {{ cleartext: true }} }}
rate_limits:
  once: {{ rate: 1/h, status: 444 }}
upstreams:
  app: {{ backends: ['{}'], health: false }}
routes:
- {{ match: {{ path: /* }}, upstream: app, csrf: false }}
- {{ match: {{ path: /closed/* }}, respond: 444, csrf: false }}
- {{ match: {{ path: /body/* }}, respond: 444, csrf: false, body_limit: 1MB }}
- {{ match: {{ path: /guarded/*, header: {{ x-open: '1' }} }}, upstream: app, csrf: false }}
- {{ match: {{ path: /guarded/* }}, respond: {{ status: 444 }}, csrf: false }}
- {{ match: {{ path: /limited/* }}, upstream: app, csrf: false,
     rate_limit: [once] }}
",
        origin.address()
    ))
    .await;
    let streams = http2::Client::open(([127, 0, 0, 1], h2).into()).await;
    // What the limit allows.
    assert_eq!(gateway.get("/limited/").await.status(), 200);
    let mut logged = 1;
    for case in 0..CASES {
        let way = WAYS[random.usize(..WAYS.len())];
        let path = format!("{way}/{case}");
        let method = ["GET", "HEAD", "POST"][random.usize(..3)];
        let size = [0, 1, 3_000, 80_000][random.usize(..4)];
        let body = match method {
            "POST" => "x".repeat(size),
            _ => String::new(),
        };
        if random.bool() {
            let request = http2::request(method, &path);
            let response = streams.send(request, body).await;
            let error = response.expect_err(&path);
            assert!(error.is_reset(), "{path}: {error}");
            // The connection goes on.
            assert_eq!(streams.get("/open").await.status(), 200);
            logged += 1;
        } else {
            let mut connection = Connection::open(gateway.address())
                .await
                .expect("it is open");
            // The first request of a connection, or a later one.
            for _ in 0..random.usize(..3) {
                let before = connection.send(&get("/open")).await;
                assert_eq!(before.expect("a response").status(), 200);
                logged += 1;
            }
            let mut request = Request::new(method, &path);
            if method == "POST" {
                request = request.body(body);
            }
            // Bytes without a response would fail the connection's own check of what is left.
            let error = connection.send(&request).await.expect_err(&path);
            let is_nothing = matches!(error, ClientError::NoResponse | ClientError::Io(_));
            assert!(is_nothing, "{path}: {error:?}");
        }
    }
    let lines = gateway.log_lines(logged + CASES).await;
    let silent = lines.iter().filter(|line| line["status"] == 444);
    assert_eq!(silent.count(), CASES);
}
