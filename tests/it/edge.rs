//! Responses of the gateway itself, and its processing of a request before an origin sees it:
//! routes, refusals, deadlines.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    client::{self, Request, Response, get, post},
    gateway::Gateway,
    origins::{EchoOrigin, Failure, ResettingOrigin, SlowOrigin},
    ports::free_port,
    wait::wait_for,
};

fn upstream(address: SocketAddr, settings: &str) -> String {
    format!("upstreams:\n  app:\n    backends: [\"{address}\"]\n    health: false\n{settings}")
}

#[tokio::test]
async fn routes_respond_redirect_rewrite_and_forward() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "{}
routes:
  - match: {{ path: /* }}
    upstream: app
  - match: {{ path: /hello }}
    respond: {{ status: 200, body: \"hello from the edge\" }}
  - match: {{ path: /old/* }}
    redirect: /new/{{rest}}
  - match: {{ path: /v1/* }}
    upstream: app
    rewrite: {{ prefix: /v1, with: /api }}
  - match: {{ path: /hello, method: POST }}
    upstream: app
  - match: {{ host: \"*.example.com\", path: /hello }}
    respond: {{ status: 200, body: \"hello from a tenant\" }}
",
        upstream(origin.address(), "")
    ))
    .await;
    assert_eq!(gateway.get("/hello").await.text(), "hello from the edge");
    let tenant = get("/hello").header("host", "a.example.com");
    assert_eq!(gateway.send(&tenant).await.text(), "hello from a tenant");
    for (condition, status) in [("*", 304), (" * ", 304), ("\"a\"", 200), ("*, \"a\"", 200)] {
        let conditional = get("/hello").header("if-none-match", condition);
        let response = gateway.send(&conditional).await;
        assert_eq!(response.status(), status, "{condition}");
    }
    let moved = gateway.get("/old/a/b?c=d").await;
    assert!((300..400).contains(&moved.status()), "{}", moved.status());
    assert!(moved.header("location").unwrap().starts_with("/new/a/b"));
    assert_eq!(origin.counts().requests(), 0);

    // The control: other requests reach the origin.
    assert_eq!(
        gateway.send(&post("/hello", "x")).await.json()["target"],
        "/hello"
    );
    assert_eq!(
        gateway.get("/v1/items?x=%20y").await.json()["target"],
        "/api/items?x=%20y"
    );
    assert_eq!(gateway.get("/other").await.json()["target"], "/other");
}

#[tokio::test]
async fn dot_segments_are_resolved_before_a_route_is_chosen() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "{}
routes:
  - match: {{ path: /* }}
    upstream: app
  - match: {{ path: /private/* }}
    respond: {{ status: 403, body: \"private\" }}
",
        upstream(origin.address(), "")
    ))
    .await;
    for target in ["/private/a", "/public/../private/a", "/./private/a"] {
        assert_eq!(gateway.get(target).await.status(), 403, "{target}");
    }
    for target in [
        "/public/%2e%2e/private/a",
        "/a%00",
        "/a%5cb",
        "/a\\b",
        "/%2E./private/a",
        "/public/..;/private/a",
        "/public/%2e%2e;a=b/private/a",
    ] {
        assert_eq!(gateway.get(target).await.status(), 400, "{target}");
    }
    assert_eq!(origin.counts().requests(), 0);
    // The control: paths with the same meaning reach the origin in one form, in whatever form they
    // arrived.
    for (target, sent) in [
        ("/%69sr/a%2fb//c?d=../%65", "/isr/a%2Fb/c?d=../%65"),
        ("//caf%c3%a9/@a%2Fb/", "/caf%C3%A9/@a%2Fb/"),
        ("/%7Eme//", "/~me/"),
    ] {
        let seen = gateway.get(target).await.json();
        assert_eq!(seen["target"], sent, "{target}");
    }
}

/// curl, Go and PHP send JSON in a query as it is written; other proxies take it.
#[tokio::test]
async fn quotes_and_brackets_in_a_query_arrive_as_browsers_write_them() {
    let origin = EchoOrigin::start().await;
    let config = upstream(origin.address(), "");
    let yaml = format!("{config}\nroutes:\n  - {{ match: {{ path: /* }}, upstream: app }}\n");
    let gateway = Gateway::start(&yaml).await;
    for (query, sent) in [
        ("filter={\"a\":1}", "filter={%22a%22:1}"),
        ("a=<b>&c=%22", "a=%3Cb%3E&c=%22"),
        ("a=b|c^d`e\\", "a=b|c^d`e\\"),
    ] {
        for origin in [String::new(), format!("http://{}", gateway.address())] {
            let seen = gateway.get(&format!("{origin}/a?{query}")).await.json();
            assert_eq!(seen["target"], format!("/a?{sent}"), "{origin} {query}");
        }
    }
    assert_eq!(gateway.get("/a\"b").await.status(), 400);
}

#[tokio::test]
async fn repeated_slashes_stay_where_they_are_wanted() {
    let origin = EchoOrigin::start().await;
    let config = upstream(origin.address(), "");
    let routes = "routes:\n  - { match: { path: /* }, upstream: app }\n  - { match: { path: /a/* }, respond: a }\n";
    let merges = Gateway::start(&format!("{config}\n{routes}")).await;
    assert_eq!(merges.get("//a/b").await.text(), "a");
    let keeps = Gateway::start(&format!("merge_slashes: false\n{config}\n{routes}")).await;
    assert_eq!(keeps.get("//a/b").await.json()["target"], "//a/b");
}

#[tokio::test]
async fn replies_of_the_gateway_have_the_headers_of_every_response() {
    const SHOP: &str = "https://shop.example.com";
    let origin = EchoOrigin::start().await;
    let config = |filters: &str| {
        format!(
            "{}
  dead:
    backends: [\"127.0.0.1:{}\"]
    health: false
defaults:
{filters}
  csrf: {{ origins: [{SHOP}] }}
  timing: true
  body_limit: 1KiB
  headers: {{ request: {{ remove: [X-Debug] }} }}
routes:
  - match: {{ path: /app/* }}
    upstream: app
    methods: [GET, POST, OPTIONS]
  - match: {{ path: /inner/* }}
    upstream: app
    access: {{ allow: [10.0.0.0/8] }}
  - match: {{ path: /fixed }}
    respond: ok
  - match: {{ path: /old }}
    redirect: /fixed
  - match: {{ path: /dead }}
    upstream: dead
",
            upstream(origin.address(), ""),
            free_port()
        )
    };
    let replies = async |gateway: &Gateway| {
        let mut replies: Vec<Response> = Vec::new();
        for (request, status) in [
            (get("/nowhere"), 404),
            (get("/fixed"), 200),
            (get("/old"), 307),
            (get("/inner/a"), 403),
            (Request::new("DELETE", "/app/a"), 405),
            (post("/app/a", "").filler(2000), 413),
            (get("/dead"), 502),
        ] {
            let reply = gateway.send(&request.header("origin", SHOP)).await;
            assert_eq!(reply.status(), status, "{}", reply.text());
            replies.push(reply);
        }
        replies
    };
    let on = format!(
        "  security_headers: helmet\n  request_id: true\n  cors: {{ origins: [{SHOP}], expose: [X-Request-Id] }}\n"
    );
    let gateway = Gateway::start(&config(&on)).await;
    let preflight = Request::new("OPTIONS", "/app/a")
        .header("origin", SHOP)
        .header("access-control-request-method", "POST");
    let mut all = replies(&gateway).await;
    all.push(gateway.send(&preflight).await);
    for reply in all {
        let status = reply.status();
        let options = reply.header("x-content-type-options");
        assert_eq!(options, Some("nosniff"), "{status}");
        let id = reply.header("x-request-id").unwrap_or_default();
        assert_eq!(id.len(), 32, "{status}");
        let allowed = reply.header("access-control-allow-origin");
        assert_eq!(allowed, Some(SHOP), "{status}");
        assert_eq!(reply.header("server"), None, "{status}");
    }
    assert_eq!(origin.counts().requests(), 0);
    // The control: without the filters, responses lack their headers.
    let off = "  security_headers: off\n  request_id: false\n";
    for reply in replies(&Gateway::start(&config(off)).await).await {
        for name in [
            "x-content-type-options",
            "x-request-id",
            "access-control-allow-origin",
        ] {
            assert_eq!(reply.header(name), None, "{}", reply.status());
        }
    }
}

#[tokio::test]
async fn a_refusal_reads_as_json_or_as_a_page() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "{}\nroutes:\n  - match: {{ path: /here }}\n    upstream: app\n",
        upstream(origin.address(), "")
    ))
    .await;
    let as_json = gateway
        .send(&get("/nowhere").header("accept", "application/json"))
        .await;
    assert_eq!(as_json.header("content-type"), Some("application/json"));
    assert_eq!(as_json.json()["error"]["status"], 404);
    assert_eq!(as_json.json()["error"]["reason"], "no_route");
    let as_page = gateway
        .send(&get("/nowhere").header("accept", "text/html"))
        .await;
    assert!(
        as_page
            .header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(as_page.text().contains("404"), "{}", as_page.text());
    let head = gateway.send(&Request::new("HEAD", "/nowhere")).await;
    assert_eq!((head.status(), head.body.len()), (404, 0));
}

#[tokio::test]
async fn the_edge_responds_to_a_preflight_and_refusals_are_readable_across_origins() {
    let origin = EchoOrigin::start().await;
    let gateway = Gateway::start(&format!(
        "{}
routes:
  - match: {{ path: /api/* }}
    upstream: app
    cors: {{ origins: [\"https://shop.example.com\"] }}
  - match: {{ path: /api/inner }}
    upstream: app
    access: {{ allow: [10.0.0.0/8] }}
    cors: {{ origins: [\"https://shop.example.com\"] }}
",
        upstream(origin.address(), "")
    ))
    .await;
    let from = |origin: &str, request: Request| request.header("origin", origin);
    let preflight =
        || Request::new("OPTIONS", "/api/a").header("access-control-request-method", "POST");
    let shop = "https://shop.example.com";
    let allowed = gateway.send(&from(shop, preflight())).await;
    assert!(
        [200, 204].contains(&allowed.status()),
        "{}",
        allowed.status()
    );
    assert_eq!(allowed.header("access-control-allow-origin"), Some(shop));
    assert_eq!(origin.counts().requests(), 0);

    let refused = gateway.send(&from(shop, get("/api/inner"))).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.header("access-control-allow-origin"), Some(shop));
    let response = gateway.send(&from(shop, get("/api/a"))).await;
    assert_eq!(response.header("access-control-allow-origin"), Some(shop));
    assert!(
        response
            .header("vary")
            .unwrap()
            .to_ascii_lowercase()
            .contains("origin")
    );

    // The control: a foreign origin gets no CORS headers.
    let foreign = gateway.send(&from("https://evil.test", preflight())).await;
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    let foreign = gateway
        .send(&from("https://evil.test", get("/api/a")))
        .await;
    assert_eq!(foreign.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_silent_origin_ends_in_504_at_the_deadline() {
    let origin = SlowOrigin::start(Duration::from_secs(3)).await;
    let config = |deadline: &str| {
        let settings =
            format!("    timeouts: {{ first_byte: {deadline} }}\n    retry: {{ attempts: 1 }}\n");
        format!(
            "{}routes:\n  - match: {{ path: /* }}\n    upstream: app\n",
            upstream(origin.address(), &settings)
        )
    };
    let hasty = Gateway::start(&config("150ms")).await;
    let reply = hasty.get("/").await;
    assert_eq!(reply.status(), 504);
    assert!(
        reply.headers.at < Duration::from_millis(2900),
        "{:?}",
        reply.headers.at
    );
    // The control.
    let patient = Gateway::start(&config("30s")).await;
    assert_eq!(patient.get("/").await.status(), 200);
}

#[tokio::test]
async fn beyond_the_limit_requests_wait_and_beyond_the_queue_they_get_retry_after() {
    let origin = ResettingOrigin::start(Failure::Hang).await;
    let config = |queue: u32, wait: &str| {
        let settings =
            format!("    max_in_flight: {{ per_backend: 1, queue: {queue}, wait: {wait} }}\n");
        format!(
            "{}routes:\n  - match: {{ path: /* }}\n    upstream: app\n",
            upstream(origin.address(), &settings)
        )
    };
    let gateway = Gateway::start(&config(0, "5s")).await;
    let mut first = gateway.connect().await;
    first
        .write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    wait_for("the backend is busy", Duration::from_secs(5), async || {
        (origin.counts().requests() == 1).then_some(())
    })
    .await;
    let full = gateway.get("/health").await;
    assert_eq!(full.status(), 503);
    assert!(full.header("retry-after").is_some());
    // The control: once the place is free, the same request passes.
    drop(first);
    wait_for("the place is free", Duration::from_secs(5), async || {
        (gateway.get("/health").await.status() == 200).then_some(())
    })
    .await;

    // With a queue the request waits there first.
    let gateway = Gateway::start(&config(5, "300ms")).await;
    let mut first = gateway.connect().await;
    let seen = origin.counts().requests();
    first
        .write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    wait_for("the backend is busy", Duration::from_secs(5), async || {
        (origin.counts().requests() == seen + 1).then_some(())
    })
    .await;
    let waited = gateway.get("/health").await;
    assert_eq!(waited.status(), 503);
    assert!(
        waited.headers.at >= Duration::from_millis(250),
        "{:?}",
        waited.headers.at
    );
}

#[tokio::test]
async fn a_response_that_breaks_midway_is_aborted_and_never_completed() {
    for failure in [Failure::ResetInBody, Failure::EndInChunks] {
        let origin = ResettingOrigin::start(failure).await;
        let gateway = Gateway::start(&format!(
            "{}routes:\n  - match: {{ path: /* }}\n    upstream: app\n    compression: {{ encodings: [gzip] }}\n",
            upstream(origin.address(), "")
        ))
        .await;
        for request in [get("/"), get("/").header("accept-encoding", "gzip")] {
            let response = client::send(gateway.address(), &request).await;
            assert!(
                response
                    .as_ref()
                    .is_err_and(client::ClientError::is_truncated),
                "{failure:?}: {response:?}"
            );
        }
        // The control: a complete response of the same origin ends as complete.
        assert_eq!(gateway.get("/health").await.json()["status"], "ok");
    }
}

/// Origin that sends the same bytes for each request on each connection.
struct Parrot {
    address: SocketAddr,
    _task: tokio::task::JoinSet<()>,
}

impl Parrot {
    async fn start(response: &'static str) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut seen = Vec::new();
                    while let Ok(1..) = stream.read_buf(&mut seen).await {
                        if seen.ends_with(b"\r\n\r\n") {
                            seen.clear();
                            if stream.write_all(response.as_bytes()).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            _task: task,
        }
    }
}

/// Returns the header names of a response, sorted, with duplicates.
fn names(response: &Response) -> Vec<&str> {
    let mut names: Vec<&str> = response
        .headers
        .fields
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn security_headers_are_in_each_response_once_on_every_path() {
    let plain =
        Parrot::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nserver: parrot\r\n\r\nok").await;
    let own = Parrot::start(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-powered-by: parrot\r\nx-frame-options: DENY\r\n\r\nok",
    )
    .await;
    let gateway = Gateway::start(&format!(
        "upstreams:
  plain: {{ backends: [\"{}\"], health: false }}
  own: {{ backends: [\"{}\"], health: false }}
routes:
  - match: {{ path: /plain }}
    upstream: plain
  - match: {{ path: /own }}
    upstream: own
  - match: {{ path: /less }}
    upstream: plain
    headers: {{ response: {{ remove: [X-Frame-Options] }} }}
  - match: {{ path: /off }}
    upstream: plain
    security_headers: false
",
        plain.address, own.address
    ))
    .await;
    let mut connection = gateway.connect().await;
    // Twice on one connection: no state of one response leaks into the next.
    for _ in 0..2 {
        let response = connection.send(&get("/plain")).await.unwrap();
        assert_eq!(response.text(), "ok");
        assert_eq!(response.header("x-frame-options"), Some("SAMEORIGIN"));
        assert_eq!(response.header("server"), None);
        let seen = names(&response);
        let mut once = seen.clone();
        once.dedup();
        assert_eq!(seen, once);

        let theirs = connection.send(&get("/own")).await.unwrap();
        assert_eq!(theirs.header("x-frame-options"), Some("DENY"));
        assert_eq!(names(&theirs), seen, "the same set by the other way");

        let less = connection.send(&get("/less")).await.unwrap();
        assert_eq!(less.header("x-frame-options"), None);
        assert_eq!(less.header("x-content-type-options"), Some("nosniff"));

        // The control.
        let off = connection.send(&get("/off")).await.unwrap();
        assert_eq!(off.header("x-content-type-options"), None);

        let missing = connection.send(&get("/nowhere")).await.unwrap();
        assert_eq!(missing.status(), 404);
        assert_eq!(missing.headers.get_all("x-frame-options").count(), 1);
    }
}
