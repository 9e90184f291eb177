//! Errors whose pages other routes have. Invariant: whatever the error, its page, the protocol and the
//! driver, a request is booked on the route where its error happened, with the method and the upstream
//! that it had there: in the access log, the metrics, the status, `logs` and `top`. The page's route
//! has a field of its own in the log.

use std::{collections::BTreeMap, fmt::Write as _, fs, time::Duration};

use bytes::Bytes;
use fastrand::Rng;
use serde_json::Value;

use crate::support::{
    client::{Request, post},
    fleet::edgeway,
    gateway::Gateway,
    http2,
    origins::{EchoOrigin, Failure, NumberedOrigin, ResettingOrigin},
    seed,
    wait::wait_for,
};

const REQUESTS: usize = 150;
const SOON: Duration = Duration::from_secs(20);

/// Ways to an error: its status, keys of the route, and the upstream that has failed.
const ERRORS: [(&str, u16, &str, Option<&str>); 6] = [
    ("gone", 410, "respond: 410", None),
    (
        "refused",
        403,
        "respond: ok, access: { deny: [127.0.0.1] }",
        None,
    ),
    (
        "file",
        404,
        "files: { root: none, otherwise: { status: 404 } }",
        None,
    ),
    ("broken", 500, "upstream: broken", Some("broken")),
    ("reset", 502, "upstream: reset", Some("reset")),
    ("away", 502, "upstream: away", Some("away")),
];

/// Routes with pages, by a name or by a path.
const PAGES: [(&str, &str); 5] = [
    ("by-name", "route: by-name"),
    ("taken-over", "route: taken-over"),
    ("text", "reroute: /pages/text"),
    ("files", "reroute: /pages/files/page.html"),
    ("app", "reroute: /pages/app"),
];

/// A request that was sent: its route, its page's route, method and status.
type Sent = (String, String, &'static str, u16);

fn yaml(broken: &str, reset: &str, app: &str) -> String {
    let mut yaml = format!(
        "
listeners: [{{ address: '127.0.0.1:0', name: web, http2: {{ cleartext: true }} }}]
upstreams:
  broken: {{ backends: ['{broken}'], health: false, eject: {{ errors: 0 }}, retry: {{ attempts: 1 }} }}
  reset: {{ backends: ['{reset}'], health: false, eject: {{ errors: 0 }}, retry: {{ attempts: 1 }} }}
  away: {{ backends: ['127.0.0.1:1'], health: false, eject: {{ errors: 0 }}, retry: {{ attempts: 1 }} }}
  app: {{ backends: ['{app}'], health: false }}
routes:
- {{ match: {{ named: true }}, name: by-name, respond: page }}
- {{ match: {{ named: true }}, name: taken-over, upstream: app }}
- {{ match: {{ path: /pages/text, internal: true }}, name: text, respond: page, access_log: false }}
- {{ match: {{ path: '/pages/files/*', internal: true }}, name: files, files: {{ root: site }} }}
- {{ match: {{ path: /pages/app, internal: true }}, name: app, upstream: app, cache: {{ ttl: 1h }} }}
"
    );
    for (error, status, keys, _) in ERRORS {
        for (page, leads) in PAGES {
            writeln!(
                yaml,
                "- {{ match: {{ path: '/{error}/{page}/*' }}, name: {error}-{page}, {keys}, \
                 error_pages: {{ pages: {{ {status}: {{ {leads} }} }}, intercept: true }} }}"
            )
            .expect("a string takes text");
        }
    }
    yaml
}

async fn begin(yaml: &str) -> Gateway {
    Gateway::start_in(yaml, |folder| {
        fs::create_dir(folder.join("none")).expect("it can be made");
        fs::create_dir_all(folder.join("site/pages/files")).expect("it can be made");
        fs::write(folder.join("site/pages/files/page.html"), "page").expect("it takes files");
    })
    .await
}

/// Sends drawn requests one after the other.
async fn send(gateway: &Gateway, random: &mut Rng) -> Vec<Sent> {
    let client = http2::Client::open(gateway.address()).await;
    let mut sent = Vec::new();
    for _ in 0..REQUESTS {
        let (error, status, _, _) = ERRORS[random.usize(..ERRORS.len())];
        let (page, _) = PAGES[random.usize(..PAGES.len())];
        // Files take no other methods.
        let methods = if error == "file" { 2 } else { 4 };
        let method = ["GET", "HEAD", "POST", "DELETE"][random.usize(..methods)];
        let target = format!("/{error}/{page}/{}", sent.len());
        let got = if random.bool() {
            let request = http2::request(method, &target);
            let body = if method == "POST" {
                Bytes::from("a=1")
            } else {
                Bytes::new()
            };
            let response = client.send(request, body).await;
            response.expect("the gateway responds").status()
        } else if method == "POST" {
            gateway.send(&post(&target, "a=1")).await.status()
        } else {
            gateway.send(&Request::new(method, &target)).await.status()
        };
        assert_eq!(got, status, "{method} {target}");
        sent.push((format!("{error}-{page}"), page.to_owned(), method, status));
    }
    sent
}

fn number(line: &Value) -> usize {
    let path = line["path"].as_str().expect("a path");
    let (_, number) = path.rsplit_once('/').expect("it has segments");
    number.parse().expect("the last one is a number")
}

fn checks_line(line: &Value, sent: &[Sent]) {
    let (route, page, method, status) = &sent[number(line)];
    let upstream = ERRORS.iter().find(|(error, ..)| {
        route
            .strip_prefix(error)
            .is_some_and(|rest| rest.starts_with('-'))
    });
    let upstream = upstream.and_then(|(.., upstream)| *upstream);
    assert_eq!(line["route"], **route, "{line}");
    assert_eq!(line["page_route"], **page, "{line}");
    assert_eq!(line["method"], **method, "{line}");
    assert_eq!(line["status"], *status, "{line}");
    assert_eq!(line["upstream"].as_str(), upstream, "{line}");
    assert_eq!(line["attempts"], u64::from(upstream.is_some()), "{line}");
}

/// Invariant: each request has one line, on its own route.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_booked_on_the_route_where_they_happen() {
    let broken = ResettingOrigin::start(Failure::Status(500)).await;
    let reset = ResettingOrigin::start(Failure::ResetBeforeResponse).await;
    let app = EchoOrigin::start().await;
    let addresses = [broken.address(), reset.address(), app.address()];
    let [broken, reset, app] = addresses.map(|address| address.to_string());
    let seed = seed::drawn();
    let gateway = begin(&yaml(&broken, &reset, &app)).await;
    let mut random = Rng::with_seed(seed);
    let sent = send(&gateway, &mut random).await;
    for line in gateway.log_lines(sent.len()).await {
        checks_line(&line, &sent);
    }
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for (route, ..) in &sent {
        *expected.entry(route).or_default() += 1;
    }
    for (route, count) in &expected {
        let series = format!("edgeway_http_requests_total{{route=\"{route}\"}}");
        gateway.counts(&series, *count).await;
    }
    for (page, _) in PAGES {
        let series = format!("edgeway_http_requests_total{{route=\"{page}\"}}");
        assert_eq!(gateway.count(&series).await, 0, "{page}");
    }
    shown(&gateway, &sent).await;
}

/// Invariant: a client that sends the body it announced, without waiting for `100 Continue`, gets the
/// page of the error. A connection that is closed with unread bytes is reset, and the client may lose
/// the response.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_wait_gets_its_page() {
    let broken = ResettingOrigin::start(Failure::Status(500)).await;
    let reset = ResettingOrigin::start(Failure::ResetBeforeResponse).await;
    let app = EchoOrigin::start().await;
    let addresses = [broken.address(), reset.address(), app.address()];
    let [broken, reset, app] = addresses.map(|address| address.to_string());
    let mut lost = Vec::new();
    let gateway = begin(&yaml(&broken, &reset, &app)).await;
    for (error, status, ..) in ERRORS.iter().filter(|(error, ..)| *error != "file") {
        for (page, _) in PAGES {
            for length in [3_000, 60_000] {
                for at_once in [length, length / 2, 0] {
                    let shown = format!("{error}, {page}, {at_once}/{length}");
                    let head = format!(
                        "POST /{error}/{page}/1 HTTP/1.1\r\nHost: a.test\r\n\
                         Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
                    );
                    let mut connection = gateway.connect().await;
                    let first = head + &"a".repeat(at_once);
                    connection.write(&first).await.expect("it accepts");
                    let body = connection.write(&"a".repeat(length - at_once)).await;
                    let got = connection.read_response().await;
                    let got = got.map(|response| response.status());
                    if body.is_err() || !matches!(got, Ok(got) if got == *status) {
                        lost.push(format!("{shown}: {body:?}, {got:?}"));
                    }
                }
            }
        }
    }
    assert!(lost.is_empty(), "{} lost:\n{}", lost.len(), lost.join("\n"));
}

/// Checks what the operator sees of the same requests.
async fn shown(gateway: &Gateway, sent: &[Sent]) {
    let (route, ..) = &sent[0];
    let logs = edgeway(gateway, &["logs", "--json", "--route", route, "-n", "500"]).await;
    let lines: Vec<Value> = logs
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let own = sent.iter().filter(|(own, ..)| own == route).count();
    assert_eq!(lines.len(), own, "{route}: {}", logs.stdout);
    for line in &lines {
        checks_line(line, sent);
    }
    let failing = sent.iter().find(|(_, _, _, status)| *status >= 500);
    let (failing, page, ..) = failing.expect("one of many fails");
    // A problem needs a rate.
    let target = format!("/{}/x", failing.replacen('-', "/", 1));
    let status = wait_for("the route is a problem", SOON, async || {
        for _ in 0..20 {
            gateway.get(&target).await;
        }
        let status = gateway.status().await;
        let routes = status["routes"].as_array().expect("a list").clone();
        let rate = |name: &str| {
            let route = routes.iter().find(|route| route["name"] == name);
            let traffic = &route.expect("it is there")["traffic"];
            traffic["server_error_rate"].as_f64().unwrap_or_default()
        };
        assert!(rate(page) < 0.01, "{page}: {status}");
        (rate(failing) > 1.0).then_some(status)
    })
    .await;
    let text = format!("route {failing}: 100% of the requests failed");
    let printed = edgeway(gateway, &["status"]).await.stdout;
    assert!(printed.contains(&text), "{text}: {printed}\n{status}");
    let top = edgeway(gateway, &["top", "--once"]).await.stdout;
    assert!(top.contains(&text), "{text}: {top}");
}

/// A route that takes over what another one does not have decides about the response itself.
#[tokio::test]
async fn a_takeover_is_booked_on_the_route_that_responds() {
    let app = EchoOrigin::start().await;
    let yaml = format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- match: {{ path: /new/* }}
  name: new
  respond: 404
  error_pages: {{ pages: {{ 404: {{ route: old, own_status: true }} }} }}
- {{ match: {{ named: true }}, name: old, upstream: app }}
",
        app.address()
    );
    let gateway = Gateway::start(&yaml).await;
    assert_eq!(gateway.get("/new/x").await.status(), 200);
    let lines = gateway.log_lines(1).await;
    assert_eq!(
        (lines[0]["route"].as_str(), lines[0]["upstream"].as_str()),
        (Some("old"), Some("app"))
    );
    assert_eq!(lines[0].get("page_route"), None, "{}", lines[0]);
}

/// Invariant: the backend of a page gets the client's body or none, never the text that replaced it
/// for another backend, and the length that its headers say (RFC 9112, 6.3).
#[tokio::test]
async fn a_text_for_one_backend_reaches_no_other() {
    let failing = ResettingOrigin::start(Failure::Status(404)).await;
    let app = EchoOrigin::start().await;
    let backend = |address| {
        format!(
            "{{ backends: ['{address}'], health: false, timeouts: {{ first_byte: 2s }}, eject: {{ errors: 0 }}, retry: {{ attempts: 1 }} }}"
        )
    };
    let mut yaml = format!(
        "
listeners: [{{ address: '127.0.0.1:0', name: web, http2: {{ cleartext: true }} }}]
upstreams: {{ first: {}, away: {}, app: {} }}
routes:
- {{ match: {{ named: true }}, name: old, upstream: app }}
- {{ match: {{ path: '/page/*', internal: true }}, name: page, upstream: app }}
",
        backend(failing.address().to_string()),
        backend("127.0.0.1:1".to_owned()),
        backend(app.address().to_string()),
    );
    let texts = ["", "x", "event {query.q}"];
    let leads = [
        "route: old, own_status: true",
        "reroute: /page/x",
        "upstream: app, as_sent: true",
    ];
    let mut paths = Vec::new();
    for upstream in ["first", "away"] {
        for (text, replaced) in texts.iter().enumerate() {
            for (lead, leads) in leads.iter().enumerate() {
                let path = format!("/{upstream}/{text}/{lead}");
                writeln!(
                    yaml,
                    "- {{ match: {{ path: '{path}' }}, upstream: {upstream}, upstream_request: {{ method: POST, body: '{replaced}' }}, \
                     error_pages: {{ pages: {{ 404: {{ {leads} }}, 502: {{ {leads} }} }}, intercept: true }} }}"
                )
                .expect("a string takes it");
                paths.push(path);
            }
        }
    }
    let gateway = Gateway::start(&yaml).await;
    let hidden = "GET%20/hidden%20HTTP/1.1%0d%0aHost:%20x%0d%0a%0d%0a";
    let h2 = http2::Client::open(gateway.address()).await;
    for path in &paths {
        let target = format!("{path}?q={hidden}");
        for request in [
            Request::new("GET", &target),
            post(&target, "123456"),
            post(&target, "1".repeat(9000)),
            Request::new("POST", &target).chunks(["12", "34"]),
        ] {
            let response = gateway.send(&request).await;
            assert!([200, 404, 502].contains(&response.status()), "{path}");
            if response.status() == 200 {
                let echo = response.json();
                let length = echo["length"].as_u64();
                assert!(
                    [0, 6, 9000, 4].map(Some).contains(&length),
                    "{path}: {echo}"
                );
            }
        }
        let sent = http2::request("POST", &target);
        let response = h2.send(sent, "123456").await.expect("it responds");
        assert!([200, 404, 502].contains(&response.status()), "{path}");
    }
    let lines = gateway.log_lines(paths.len() * 5).await;
    let is_late = |line: &Value| line["reason"] == "upstream_timeout";
    assert!(!lines.iter().any(is_late), "a backend waited for a body");
    let received = app.counts().received();
    assert!(received.len() > 30, "the control: pages were asked for");
    assert!(!received.iter().any(|request| request.target == "/hidden"));
}

/// A page that a route has in its cache stays the page when the cache asks whether it is fresh.
#[tokio::test]
async fn a_page_is_renewed_in_the_cache() {
    let app = NumberedOrigin::start().await;
    app.settings().tell("/page", 200, &[("etag", "\"a\"")]);
    let yaml = format!(
        "
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
- {{ match: {{ path: /gone/* }}, respond: 404, error_pages: {{ pages: {{ 404: {{ reroute: /page }} }} }} }}
- {{ match: {{ path: /page, internal: true }}, upstream: app, cache: {{ ttl: 1s, stale_while_revalidate: 0s }} }}
",
        app.address()
    );
    let gateway = Gateway::start(&yaml).await;
    let page = gateway.get("/gone/x").await;
    wait_for("the page was renewed", SOON, async || {
        let again = gateway.get("/gone/x").await;
        assert_eq!((again.status(), again.text()), (404, page.text()));
        (app.counts().requests() > 2).then_some(())
    })
    .await;
}
