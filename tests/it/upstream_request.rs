//! `upstream_request` of a route. Invariant: a backend gets one well-formed request with exactly the
//! method and the body of the route, whatever the client sends and by whichever way, as from nginx;
//! and what comes next on either connection is read from its beginning.

use std::net::SocketAddr;

use fastrand::Rng;

use crate::support::{
    client::{Connection, Request, get, post},
    gateway::Gateway,
    http2,
    nginx::Nginx,
    ports::free_port,
    recorder::{Got, Recorder},
    seed,
};

const CASES: usize = 160;

/// Routes by name: keys of the gateway, and directives of nginx.
const ROUTES: [(&str, &str, &str); 6] = [
    ("plain", "", ""),
    (
        "method",
        "upstream_request: { method: PUT }",
        "proxy_method PUT;",
    ),
    (
        "get",
        "upstream_request: { method: GET }",
        "proxy_method GET;",
    ),
    (
        "none",
        "upstream_request: { body: '' }",
        "proxy_pass_request_body off; proxy_set_header Content-Length '';",
    ),
    (
        "text",
        "upstream_request: { body: 'by {method}' }",
        "proxy_set_body 'by $request_method';",
    ),
    (
        "both",
        "upstream_request: { method: DELETE, body: bye }",
        "proxy_method DELETE; proxy_set_body bye;",
    ),
];

/// Responds with method and length of a request.
fn says(got: &Got) -> Vec<u8> {
    let text = format!("{} {}", got.method, got.body.len());
    let content = if got.method == "HEAD" { "" } else { &text };
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{content}").into_bytes()
}

/// Returns method and body that a backend gets.
fn expected(route: &str, method: &str, body: &[u8]) -> (String, Vec<u8>) {
    let (method_sent, body) = match route {
        "method" => ("PUT", body.to_vec()),
        "get" => ("GET", body.to_vec()),
        "none" => (method, Vec::new()),
        "text" => (method, format!("by {method}").into_bytes()),
        "both" => ("DELETE", b"bye".to_vec()),
        _ => (method, body.to_vec()),
    };
    (method_sent.to_owned(), body)
}

fn yaml(backend: SocketAddr, h1: u16, h2: u16) -> String {
    let routes = ROUTES.iter().map(|(name, keys, _)| {
        let keys = if keys.is_empty() {
            String::new()
        } else {
            format!(", {keys}")
        };
        format!("- {{ match: {{ path: /{name}/* }}, upstream: app{keys} }}\n")
    });
    format!(
        "
listeners:
  - {{ address: '127.0.0.1:{h1}', name: web }}
  - {{ address: '127.0.0.1:{h2}', name: h2, http2: {{ cleartext: true }} }}
upstreams:
  app: {{ backends: ['{backend}'], health: false, eject: {{ errors: 0 }} }}
routes:
{}- {{ match: {{ path: /limited/* }}, upstream: app, body_limit: 1kB,
     upstream_request: {{ method: GET, body: '' }} }}
",
        routes.collect::<String>()
    )
}

/// Way of a case's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Length,
    Chunked,
    Http2,
}

fn one<T: Copy>(list: &[T], random: &mut Rng) -> T {
    list[random.usize(..list.len())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_gets_method_and_body_of_the_route() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let backend = Recorder::start(says).await;
    let home = tempfile::tempdir().expect("a folder for the test can be made");
    let nginx = Nginx::start(home.path(), |address| {
        let locations = ROUTES.iter().map(|(name, _, directives)| {
            let pass = format!("proxy_pass http://{};", backend.address);
            format!("location /{name}/ {{ {pass} proxy_http_version 1.1; {directives} }}\n")
        });
        let locations = locations.collect::<String>();
        format!("access_log off; server {{ listen {address}; {locations} }}")
    })
    .await;
    let (mut replaced, mut pooled) = (0, 0);
    let (h1, h2) = (free_port(), free_port());
    let yaml = yaml(backend.address, h1, h2);
    let gateway = Gateway::start(&yaml).await;
    let streams = http2::Client::open(([127, 0, 0, 1], h2).into()).await;
    let mut kept: Option<Connection> = None;
    for case in 0..CASES {
        let (route, ..) = one(&ROUTES, &mut random);
        let methods = [
            "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS",
        ];
        let method = one(&methods, &mut random);
        let size = one(&[0, 0, 1, 900, 20_000, 300_000], &mut random);
        let body: Vec<u8> = (0..size).map(|_| random.alphanumeric() as u8).collect();
        let way = one(&[Way::Length, Way::Chunked, Way::Http2], &mut random);
        let number = case.to_string();
        let path = format!("/{route}/{number}?a=1");
        let shown = format!("seed {seed}, {method} {path}, {size} bytes, {way:?}");
        let mut request = Request::new(method, &path).header("x-number", &number);
        request = match way {
            Way::Length if size > 0 => request.body(body.clone()),
            Way::Chunked if size > 0 => request.chunks(body.chunks(7_000).map(<[u8]>::to_vec)),
            _ => request,
        };
        let (status, text) = if way == Way::Http2 {
            let request = http2::request(method, &path).header("x-number", &number);
            let response = streams.send(request, body.clone()).await;
            let response = response.expect(&shown);
            (response.status(), response.text().to_owned())
        } else {
            let mut connection = match kept.take() {
                Some(connection) => {
                    pooled += 1;
                    connection
                }
                None => gateway.connect().await,
            };
            let response = connection.send(&request).await.expect(&shown);
            let is_kept = response.header("connection") != Some("close");
            kept = is_kept.then_some(connection);
            (response.status(), response.text())
        };
        assert_eq!(status, 200, "{shown}");
        let (sent, content) = expected(route, method, &body);
        let all = backend.take(&number);
        let [got] = &all[..] else {
            unreachable!("{shown}: {} requests", all.len());
        };
        assert_eq!((&got.method, &got.body), (&sent, &content), "{shown}");
        assert_eq!(got.target, path, "{shown}");
        let says = format!("{sent} {}", content.len());
        let says = if method == "HEAD" { "" } else { &says };
        assert_eq!(text, says, "{shown}");
        if matches!(route, "none" | "text" | "both") {
            replaced += 1;
            assert_eq!(got.header("transfer-encoding"), None, "{shown}");
            let length = got.header("content-length").unwrap_or("0");
            assert_eq!(length, content.len().to_string(), "{shown}");
        }
        if way != Way::Http2 {
            let mut connection = Connection::open(nginx.address).await.expect("it listens");
            drop(connection.send(&request).await.expect(&shown));
            drop(connection.leave("one request each"));
            let theirs = backend.take(&number);
            let theirs: Vec<_> = theirs.iter().map(|got| (&got.method, &got.body)).collect();
            assert_eq!(theirs, [(&sent, &content)], "{shown}");
        }
    }
    assert!(
        replaced > 50 && pooled > 50,
        "{replaced} and {pooled} say nothing"
    );
}

#[tokio::test]
async fn a_body_that_is_left_out_is_still_limited_and_awaited() {
    let backend = Recorder::start(says).await;
    let (h1, h2) = (free_port(), free_port());
    let yaml = yaml(backend.address, h1, h2);
    let gateway = Gateway::start(&yaml).await;
    let ask = |size: usize, number: &str| {
        let path = format!("/limited/{number}");
        let chunks = vec![vec![b'a'; size]; 10];
        post(&path, "").header("x-number", number).chunks(chunks)
    };
    // The refusal of a filter comes before the backend has anything.
    assert_eq!(gateway.send(&ask(1_000, "long")).await.status(), 413);
    assert_eq!(backend.take("long"), []);
    assert_eq!(gateway.send(&ask(10, "short")).await.text(), "GET 0");
    assert_eq!(backend.take("short").len(), 1);

    // A client that waits for `100 Continue` gets it from the gateway.
    let mut connection = gateway.connect().await;
    let head = "POST /none/expect HTTP/1.1\r\nhost: a.test\r\nx-number: expect\r\n\
                content-encoding: gzip\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    connection.write(head).await.expect("it reads");
    assert_eq!(connection.read_interim().await.expect("it responds"), 100);
    assert_eq!(backend.take("expect"), [], "nothing before the body");
    connection.write("hello").await.expect("it reads");
    let response = connection.read_response().await.expect("it responds");
    assert_eq!(
        (response.status(), response.text()),
        (200, "POST 0".to_owned())
    );
    let got = backend.take("expect");
    assert_eq!(got[0].header("expect"), None);
    assert_eq!(got[0].header("content-encoding"), None);
    assert_eq!(got[0].header("content-length"), Some("0"));
    let next = connection.send(&get("/none/next")).await;
    assert_eq!(next.expect("the connection is kept").text(), "GET 0");
    // RFC 9110, 10.1.1: an expectation of HTTP/1.0 is none.
    let old = post("/plain/old", "hello")
        .http10()
        .header("x-number", "old");
    let old = old.header("expect", "100-continue");
    assert_eq!(gateway.send(&old).await.text(), "POST 5");
    assert_eq!(backend.take("old")[0].header("expect"), None);
}

#[tokio::test]
async fn a_request_is_sent_again_only_if_both_methods_are_idempotent() {
    // Each breaks its connection after a request.
    let (one, two) = (
        Recorder::start(|_| Vec::new()).await,
        Recorder::start(|_| Vec::new()).await,
    );
    let (first, second) = (one.address, two.address);
    let gateway = Gateway::start(&format!(
        "
upstreams:
  app: {{ backends: ['{first}', '{second}'], health: false, eject: {{ errors: 0 }},
         retry: {{ attempts: 2, on: [connect, reset] }} }}
routes:
- {{ match: {{ path: /put }}, upstream: app, upstream_request: {{ method: PUT }} }}
- {{ match: {{ path: /post }}, upstream: app, upstream_request: {{ method: POST }} }}
"
    ))
    .await;
    for (path, attempts) in [("/put", 2), ("/post", 1)] {
        let request = get(path).header("x-number", path);
        assert_eq!(gateway.send(&request).await.status(), 502);
        let asked = one.take(path).len() + two.take(path).len();
        assert_eq!(asked, attempts, "{path}");
    }
}
