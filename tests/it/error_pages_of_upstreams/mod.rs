//! Pages of errors that an upstream has. Invariant: whichever way an error comes about, its client
//! gets the page and nothing else, nobody gets it from a cache, and the upstream of the page is asked
//! once, for nothing but the page, without what was meant for somebody else.

mod as_sent;

use std::{fmt::Write as _, net::SocketAddr};

use fastrand::Rng;

use crate::support::{
    client::{Connection, Request, get},
    gateway::Gateway,
    http2,
    ports::free_port,
    recorder::{Got, Recorder},
    seed,
};

const CASES: usize = 150;

/// Content of the page at a path.
fn page(path: &str) -> String {
    format!("<p>the page {path}</p>\n").repeat(30)
}

/// Responds with the status at the end of the path.
fn app(got: &Got) -> Vec<u8> {
    let path = got.target.split('?').next().unwrap_or_default();
    let status = path.rsplit('/').nth(1).unwrap_or_default();
    if status == "502" {
        return Vec::new();
    }
    let content = if got.method == "HEAD" {
        ""
    } else {
        "from the app"
    };
    format!(
        "HTTP/1.1 {status} Any\r\ncontent-length: 12\r\ncache-control: max-age=60\r\n\
         etag: \"a\"\r\nset-cookie: app=1\r\nretry-after: 7\r\n\r\n{content}"
    )
    .into_bytes()
}

/// Responds with a page in one of three framings, or with none.
fn pages(got: &Got) -> Vec<u8> {
    let path = got.target.split('?').next().unwrap_or_default();
    let content = page(path);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncache-control: max-age=60\r\n\
                etag: \"p\"\r\nset-cookie: page=1\r\nx-page: yes\r\nx-accel-redirect: /x\r\n";
    let length = content.len();
    match path {
        "/page/broken" => String::new(),
        "/page/cut" => format!(
            "{head}content-length: {}\r\nconnection: close\r\n\r\n{content}",
            length + 1
        ),
        "/page/long" => format!(
            "{head}content-length: 1048577\r\n\r\n{}",
            "a".repeat(1 << 20) + "b"
        ),
        "/page/404" => {
            format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{content}\r\n0\r\n\r\n")
        }
        "/page/5xx" => format!("{head}connection: close\r\n\r\n{content}"),
        _ => format!("{head}content-length: {length}\r\n\r\n{content}"),
    }
    .into_bytes()
}

fn yaml(app: SocketAddr, pages: SocketAddr, h1: u16, h2: u16) -> String {
    let all = |more: &str| {
        let mut list = String::new();
        for (status, keys) in [
            ("404", "path: /page/404"),
            ("5xx", "path: '/page/5xx?of={path}'"),
            ("403", "path: /page/403, status: 404"),
            ("410", "path: /page/410, own_status: true"),
            ("413", "path: /page/413"),
            ("409", "path: /page/broken"),
            ("417", "path: /page/cut"),
            ("418", "path: /page/long"),
        ] {
            write!(list, "{status}: {{ upstream: pages, {keys}{more} }}, ").expect("it is text");
        }
        list
    };
    let (without, with) = (all(""), all(", credentials: true"));
    format!(
        "
listeners:
  - {{ address: '127.0.0.1:{h1}', name: web }}
  - {{ address: '127.0.0.1:{h2}', name: h2, http2: {{ cleartext: true }} }}
cache: {{ memory: 16MiB }}
upstreams:
  app: {{ backends: ['{app}'], health: false, eject: {{ errors: 0 }}, retry: {{ attempts: 1 }} }}
  dead: {{ backends: ['127.0.0.1:9'], health: false, eject: {{ errors: 0 }}, retry: {{ attempts: 1 }} }}
  pages: {{ backends: ['{pages}'], health: false, eject: {{ errors: 0 }} }}
defaults:
  csrf: false
  headers: {{ request: {{ set: {{ X-Secret: of the app }}, remove: [X-Forged] }} }}
routes:
- {{ match: {{ path: /all/* }}, upstream: app, error_pages: {{ pages: {{ {without} }}, intercept: true }} }}
- {{ match: {{ path: /creds/* }}, upstream: app, error_pages: {{ pages: {{ {with} }}, intercept: true }} }}
- {{ match: {{ path: /cached/* }}, upstream: app, cache: {{ ttl: 60s }},
     error_pages: {{ pages: {{ {without} }}, intercept: true }} }}
- {{ match: {{ path: /own/* }}, upstream: app, error_pages: {{ pages: {{ {without} }} }} }}
- {{ match: {{ path: /dead/* }}, upstream: dead, error_pages: {{ pages: {{ {without} }} }} }}
- {{ match: {{ path: /closed/* }}, upstream: app, access: {{ allow: [192.0.2.1] }},
     error_pages: {{ pages: {{ {without} }} }} }}
- {{ match: {{ path: /limited/* }}, upstream: app, body_limit: 100B,
     error_pages: {{ pages: {{ {without} }} }} }}
- {{ match: {{ path: /gone/* }}, respond: 410, error_pages: {{ pages: {{ {without} }} }} }}
"
    )
}

/// Error of a case: the status, and the page with the status that it is sent with.
fn expected(route: &str, status: u16, has_body: bool) -> (u16, Option<(&'static str, u16)>) {
    let error = match route {
        "dead" => 502,
        "closed" => 403,
        "gone" => 410,
        "limited" if has_body => 413,
        _ => status,
    };
    let is_of_app = matches!(route, "all" | "creds" | "cached" | "own" | "limited");
    let is_passed = is_of_app && error == status && error != 502;
    if matches!(route, "own" | "limited") && is_passed {
        return (error, None);
    }
    let page = match error {
        404 => Some(("/page/404", 404)),
        403 => Some(("/page/403", 404)),
        410 => Some(("/page/410", 200)),
        413 => Some(("/page/413", 413)),
        500..600 => Some(("/page/5xx", error)),
        _ => None,
    };
    (error, page)
}

fn one<T: Copy>(list: &[T], random: &mut Rng) -> T {
    list[random.usize(..list.len())]
}

/// Headers that every client sends.
const SENT: [(&str, &str); 7] = [
    ("cookie", "session=1"),
    ("authorization", "Bearer x"),
    ("x-secret", "forged"),
    ("x-forged", "1"),
    ("x-other", "1"),
    ("if-none-match", "\"p\""),
    ("range", "bytes=0-1"),
];

/// Status, content, and the headers `etag`, `set-cookie`, `x-page` and `cache-control`.
type Response = (u16, String, [Option<String>; 4]);

const READ: [&str; 4] = ["etag", "set-cookie", "x-page", "cache-control"];

async fn by_http2(
    streams: &http2::Client,
    method: &str,
    (path, number): (&str, &str),
    body: &str,
) -> Response {
    let mut request = http2::request(method, path).header("x-number", number);
    for (name, value) in SENT {
        request = request.header(name, value);
    }
    let response = streams.send(request, body.to_owned()).await.expect(path);
    let headers = READ.map(|name| response.header(name).map(str::to_owned));
    (response.status(), response.text().to_owned(), headers)
}

async fn by_http1(
    gateway: &Gateway,
    kept: &mut Option<Connection>,
    method: &str,
    (path, number): (&str, &str),
    body: &str,
) -> Response {
    let mut request = Request::new(method, path).header("x-number", number);
    for (name, value) in SENT {
        request = request.header(name, value);
    }
    if !body.is_empty() {
        request = request.body(body.to_owned());
    }
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => gateway.connect().await,
    };
    let response = connection.send(&request).await.expect(path);
    let is_kept = response.header("connection") != Some("close");
    *kept = is_kept.then_some(connection);
    let headers = READ.map(|name| response.header(name).map(str::to_owned));
    (response.status(), response.text(), headers)
}

/// Checks the requests that the upstream of a page got for one error.
fn check_request(asked: &[Got], target: &str, has_credentials: bool, shown: &str) {
    let [asked] = asked else {
        unreachable!("{shown}: {} requests for the page", asked.len());
    };
    assert_eq!((&*asked.method, asked.body.len()), ("GET", 0), "{shown}");
    assert_eq!(asked.target, target, "{shown}");
    for name in [
        "x-secret",
        "x-forged",
        "if-none-match",
        "range",
        "content-length",
    ] {
        assert_eq!(asked.header(name), None, "{shown}: {name}");
    }
    for name in ["cookie", "authorization"] {
        let is_there = asked.header(name).is_some();
        assert_eq!(is_there, has_credentials, "{shown}: {name}");
    }
    assert_eq!(asked.header("x-other"), Some("1"), "{shown}");
    assert!(asked.header("x-forwarded-for").is_some(), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_has_the_page_of_the_upstream() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let (origin, source) = (Recorder::start(app).await, Recorder::start(pages).await);
    let (mut replaced, mut passed) = (0, 0);
    let (h1, h2) = (free_port(), free_port());
    let yaml = yaml(origin.address, source.address, h1, h2);
    let gateway = Gateway::start(&yaml).await;
    let streams = http2::Client::open(([127, 0, 0, 1], h2).into()).await;
    let mut kept: Option<Connection> = None;
    for case in 0..CASES {
        let routes = [
            "all", "creds", "cached", "own", "dead", "closed", "limited", "gone",
        ];
        let route = one(&routes, &mut random);
        let status = one(&[200, 400, 403, 404, 410, 500, 502, 503], &mut random);
        let method = one(&["GET", "GET", "GET", "HEAD", "POST"], &mut random);
        let body = if method == "POST" {
            "b".repeat(one(&[1, 5_000], &mut random))
        } else {
            String::new()
        };
        let number = case.to_string();
        let path = format!("/{route}/{status}/{number}");
        let is_h2 = random.u8(..3) == 0;
        let shown = format!(
            "seed {seed}, {method} {path}, {} bytes, h2 {is_h2}",
            body.len()
        );
        let (error, page_of) = expected(route, status, body.len() > 100);
        // Twice, since the second time something may come from the cache.
        for _ in 0..2 {
            let (got, text, headers) = if is_h2 {
                by_http2(&streams, method, (&path, &number), &body).await
            } else {
                by_http1(&gateway, &mut kept, method, (&path, &number), &body).await
            };
            let asked = source.take(&number);
            let reached = origin.take(&number);
            let Some((page_path, sent_as)) = page_of else {
                passed += 1;
                // A range of a response with 200.
                assert!(got == error || got == 206 && error == 200, "{shown}: {got}");
                assert_eq!(asked, [], "{shown}");
                continue;
            };
            replaced += 1;
            let content = if method == "HEAD" {
                String::new()
            } else {
                page(page_path)
            };
            assert_eq!((got, &text), (sent_as, &content), "{shown}");
            let [etag, cookie, mark, cache] = headers;
            let has_credentials = route == "creds";
            assert_eq!((etag, mark.as_deref()), (None, Some("yes")), "{shown}");
            assert_eq!(cookie.is_some(), has_credentials, "{shown}");
            assert_eq!(cache.as_deref(), Some("no-store"), "{shown}");
            let target = match page_path {
                "/page/5xx" => format!("{page_path}?of={path}"),
                _ => page_path.to_owned(),
            };
            check_request(&asked, &target, has_credentials, &shown);
            let is_of_app = matches!(route, "all" | "creds" | "cached" | "own");
            if error == 502 {
                // On a connection that was open before, it may be sent again.
                assert_eq!(reached.is_empty(), route == "dead", "{shown}");
            } else {
                assert_eq!(reached.len(), usize::from(is_of_app), "{shown}");
            }
        }
    }
    // One line for each request.
    let lines = gateway.log_lines(2 * CASES).await;
    assert_eq!(lines.len(), 2 * CASES);
    assert!(
        replaced > 100 && passed > 50,
        "{replaced} and {passed} say nothing"
    );
}

#[tokio::test]
async fn without_a_page_the_client_gets_the_built_in_one() {
    let (origin, source) = (Recorder::start(app).await, Recorder::start(pages).await);
    let yaml = yaml(origin.address, source.address, free_port(), free_port());
    let gateway = Gateway::start(&yaml).await;
    for (status, attempts) in [(409, 2), (417, 2), (418, 2)] {
        let number = status.to_string();
        let request = get(&format!("/all/{status}/x")).header("x-number", &number);
        let response = gateway.send(&request).await;
        assert_eq!(response.status(), status);
        assert!(response.text().starts_with(&number), "{}", response.text());
        assert_eq!(response.header("retry-after"), Some("7"));
        assert_eq!(response.header("etag"), None);
        let asked = source.take(&number).len();
        assert!(asked <= attempts && asked > 0, "{status}: {asked}");
    }
    let lines = gateway.log_lines(3).await;
    assert!(
        lines.iter().all(|line| line["reason"] == "error_page"),
        "{lines:?}"
    );
    assert!(gateway.stderr().contains("no page of an error"));
}

/// A request that a filter refused reaches the backend of its route by no page.
#[tokio::test]
async fn no_page_is_a_way_around_the_filter_that_refused() {
    let seed = seed::drawn();
    let mut random = Rng::with_seed(seed);
    let respond = |got: &Got| {
        let status = if got.target.starts_with("/missing") {
            404
        } else {
            200
        };
        format!("HTTP/1.1 {status} Any\r\ncontent-length: 6\r\n\r\nsecret").into_bytes()
    };
    let (origin, other) = (
        Recorder::start(respond).await,
        Recorder::start(respond).await,
    );
    let gateway = Gateway::start(&format!(
        "
upstreams:
  app: {{ backends: ['{}'], health: false }}
  other: {{ backends: ['{}'], health: false }}

defaults: {{ error_pages: {{ pages: {{ 4xx: {{ upstream: app, own_status: true }} }} }} }}
routes:
- {{ match: {{ path: /access/* }}, upstream: app, access: {{ allow: [192.0.2.1] }} }}
- {{ match: {{ path: /methods/* }}, upstream: app, methods: [DELETE] }}
- {{ match: {{ path: /key/* }}, upstream: app, api_key: {{ keys: [{{ name: a, hash: 'sha256:{}' }}] }} }}
- {{ match: {{ path: /dots/* }}, upstream: app, access: {{ allow: [192.0.2.1] }},
     error_pages: {{ pages: {{ 403: {{ upstream: app, path: '/errors-{{status}}/{{header.x-page}}', own_status: true }} }} }} }}
- {{ match: {{ path: /other/* }}, upstream: app, access: {{ allow: [192.0.2.1] }},
     error_pages: {{ pages: {{ 403: {{ upstream: other }} }} }} }}
- {{ match: {{ path: /open/* }}, upstream: app }}
- {{ match: {{ path: /long/* }}, upstream: app, body_limit: 10B }}
- {{ match: {{ path: /guarded/* }}, upstream: app, access: {{ allow: [192.0.2.1] }} }}
- {{ match: {{ path: /* }}, upstream: app,
     error_pages: {{ pages: {{ 4xx: {{ upstream: other, own_status: true }} }}, intercept: true }} }}
",
        origin.address,
        other.address,
        "0".repeat(64),
    ))
    .await;
    let mut pages = 0;
    for case in 0..150 {
        let route = one(
            &[
                "access", "methods", "key", "dots", "other", "open", "long", "GUARDED", "missing",
            ],
            &mut random,
        );
        let name = one(
            &["secret", "Secret", "%73ecret", "a/../secret", "a//secret"],
            &mut random,
        );
        let method = one(&["GET", "GET", "HEAD", "POST"], &mut random);
        let page = one(
            &["a", "../key/secret", "a/../../key/secret", "./a"],
            &mut random,
        );
        let path = format!("/{route}/{name}");
        let number = case.to_string();
        let mut request = Request::new(method, &path)
            .header("x-number", &number)
            .header("x-page", page);
        if route == "long" {
            // Without its length, its first piece is refused when a backend has it already.
            request = Request::new("POST", &path)
                .header("x-number", &number)
                .chunks(["0123456789", "secret"]);
        }
        let response = gateway.send(&request).await;
        let shown = format!(
            "seed {seed}, {method} {path}, page {page}: {}",
            response.status()
        );
        let (reached, asked) = (origin.take(&number), other.take(&number));
        match route {
            "open" => assert_eq!((response.status(), reached.len()), (200, 1), "{shown}"),
            "other" => {
                assert_eq!((response.status(), asked.len()), (403, 1), "{shown}");
                assert_eq!(reached, [], "{shown}");
                pages += 1;
            }
            // No filter refused these, and the same route has the page.
            "missing" => {
                assert_eq!((reached.len(), asked.len()), (1, 1), "{shown}");
                pages += 1;
            }
            // It takes another route, and the guard of this path refuses it all the same.
            "GUARDED" => {
                assert_eq!((response.status(), asked.len()), (403, 0), "{shown}");
                assert_eq!(reached, [], "{shown}");
            }
            // The backend has its beginning, and nothing else.
            "long" => {
                assert_eq!(response.status(), 413, "{shown}");
                assert!(reached.len() <= 1, "{shown}");
                assert!(reached.iter().all(|got| got.method == "POST"), "{shown}");
            }
            "dots" if page == "a" => {
                assert_eq!(reached.len(), 1, "{shown}");
                assert_eq!(reached[0].target, "/errors-403/a", "{shown}");
                pages += 1;
            }
            _ => {
                assert!((400..500).contains(&response.status()), "{shown}");
                assert!(!response.text().contains("secret"), "{shown}");
                assert_eq!(reached, [], "{shown}");
            }
        }
    }
    assert!(pages > 5, "the pages are never asked for");
}
