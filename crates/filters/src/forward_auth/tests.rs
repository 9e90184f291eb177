//! Effects of the service's responses on requests, over a real socket.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Response},
};
use edgeway_base::metrics::Metrics;
use edgeway_core::chain::{
    Scheme,
    testkit::{FilterCheck, TestResponse, check, refused},
};
use edgeway_net::tasks::Tasks;
use parking_lot::Mutex;
use tokio::{net::TcpListener, runtime::Runtime};

use super::{AuthVerdict, ForwardAuth, HeaderName};

/// Response of the service from now on.
#[derive(Clone, Default)]
struct Script {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
    /// True if the service never responds.
    hangs: bool,
}

#[derive(Clone, Default)]
struct Shared {
    script: Arc<Mutex<Script>>,
    requests: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

/// A service on loopback.
struct Service {
    _runtime: Runtime,
    _tasks: Tasks,
    shared: Shared,
    url: String,
}

impl Service {
    fn new(status: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (tasks, shared) = (Tasks::default(), Shared::default());
        shared.script.lock().status = status;
        let state = shared.clone();
        let address = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let app = Router::new().fallback(respond).with_state(state);
            tasks.spawn("service", async move {
                axum::serve(listener, app).await.unwrap();
            });
            address
        });
        Self {
            _runtime: runtime,
            _tasks: tasks,
            shared,
            url: format!("http://{address}/verify"),
        }
    }

    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.script.lock());
    }

    fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    fn last(&self) -> (String, HeaderMap) {
        self.shared.heads.lock().last().unwrap().clone()
    }

    fn filter(&self, more: &str) -> FilterCheck {
        check::<ForwardAuth>(&format!("{{ url: '{}'{more} }}", self.url))
    }
}

async fn respond(State(shared): State<Shared>, request: Request) -> Response<Body> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let line = format!("{} {}", request.method(), request.uri());
    shared.heads.lock().push((line, request.headers().clone()));
    let script = shared.script.lock().clone();
    if script.hangs {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(script.status);
    for (name, value) in script.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(script.body)).unwrap()
}

fn given<'a>(response: &'a TestResponse, name: &str) -> Vec<&'a str> {
    let head = response.upstream.as_ref().expect("it went on");
    let values = head.headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

fn counted(metrics: &Metrics, outcome: &str) -> u64 {
    let text = String::from_utf8(metrics.text()).unwrap();
    let series = format!(
        "edgeway_auth_total{{filter=\"forward_auth\",outcome=\"{outcome}\",route=\"test\"}} "
    );
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn the_service_learns_the_request_and_its_client_and_nothing_that_a_client_claims() {
    let service = Service::new(204);
    let check = service.filter("").client(|client| {
        client.ip = "203.0.113.9".parse().unwrap();
        client.scheme = Scheme::Https;
    });
    let check = check.send(
        "POST",
        "/cart?id=7&x=%20",
        &[
            ("host", "shop.example.com"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("authorization", "Bearer t"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-host", "evil.test"),
            ("x-forwarded-proto", "ftp"),
            ("x-forwarded-uri", "/public"),
            ("x-forwarded-method", "GET"),
            ("x-original-uri", "/public"),
            ("x-original-url", "https://evil.test/public"),
            ("x-secret", "1"),
            ("content-length", "3"),
        ],
        &[b"abc"],
    );
    let (line, headers) = service.last();
    assert_eq!(line, "GET /verify");
    for (name, value) in [
        ("x-forwarded-method", "POST"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example.com"),
        ("x-forwarded-uri", "/cart?id=7&x=%20"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-original-method", "POST"),
        ("x-original-uri", "/cart?id=7&x=%20"),
        ("x-original-url", "https://shop.example.com/cart?id=7&x=%20"),
        ("cookie", "a=1; b=2"),
        ("authorization", "Bearer t"),
    ] {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
    assert!(!headers.contains_key("x-secret"));
    let check = check.expect([200]);
    // A trusted proxy knows which host its client sent.
    let check = check.client(|client| client.is_trusted = true);
    let hosts = [
        ("host", "inner"),
        ("x-forwarded-host", "shop.example.com, inner"),
    ];
    let _ = check.send("GET", "/", &hosts, &[]).expect([200]);
    assert_eq!(service.last().1["x-forwarded-host"], "shop.example.com");
}

#[test]
fn headers_of_the_service_reach_the_backend_and_those_of_the_client_do_not() {
    let service = Service::new(200);
    service
        .set(|script| script.headers = vec![("x-user", "ann"), ("x-role", "a"), ("x-role", "b")]);
    let forged = [
        ("x-user", "root"),
        ("x_user", "root"),
        ("X-ROLE", "root"),
        ("x-team", "root"),
    ];
    let check = service
        .filter(", copy: [X-User, X-Role, X-Team], user: X-User")
        .send("GET", "/", &forged, &[]);
    assert_eq!(given(check.last(), "x-user"), ["ann"]);
    assert_eq!(given(check.last(), "x-role"), ["a", "b"]);
    for absent in ["x-team", "x_user"] {
        assert_eq!(given(check.last(), absent), [""; 0], "{absent}");
    }
    let renamed = service
        .filter(", copy: [X-User as X-Role]")
        .send("GET", "/", &forged, &[]);
    assert_eq!(given(renamed.last(), "x-role"), ["ann"]);
    assert_eq!(given(renamed.last(), "x-user"), ["root"]);
    // The same holds for requests that pass without a verdict.
    service.set(|script| script.status = 500);
    let lenient = service.filter(", copy: [X-User], on_error: allow");
    let check = lenient.send("GET", "/", &forged, &[]);
    assert_eq!(given(check.last(), "x-user"), [""; 0]);
    assert_eq!(check.last().reason, Some("forward_auth_unavailable"));
    assert_eq!(counted(&check.metrics, "unavailable"), 1);
}

#[test]
fn a_user_may_have_a_name_in_utf_8() {
    let name = HeaderName::from_static("x-user");
    let value = http::HeaderValue::from_bytes("Zoë".as_bytes()).unwrap();
    let response = http::Response::builder().header(&name, value);
    let response = response.body(bytes::Bytes::new()).unwrap();
    let Ok(AuthVerdict::Allowed(allowed)) = AuthVerdict::from_response(response, &[], Some(&name))
    else {
        panic!("it allows");
    };
    assert_eq!(allowed.user.as_deref(), Some("Zoë"));
}

#[test]
fn a_denial_and_a_login_redirect_go_to_the_client_unchanged() {
    let service = Service::new(302);
    service.set(|script| {
        script.headers = vec![
            ("location", "https://login.test/?back=%2F"),
            ("set-cookie", "state=1; Path=/"),
            ("set-cookie", "other=2"),
            ("content-type", "text/html"),
            ("connection", "close"),
        ];
        script.body = "<a>log in</a>".to_owned();
    });
    let check = service.filter("").get("/");
    let response = check.last();
    assert_eq!(
        (response.status, response.reason, response.is_strike),
        (302, Some("forward_auth_denied"), false)
    );
    assert_eq!(response.headers["location"], "https://login.test/?back=%2F");
    let cookies: Vec<_> = response.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["state=1; Path=/", "other=2"]);
    assert_eq!(response.headers["cache-control"], "no-store");
    assert!(!response.headers.contains_key("connection"));
    assert_eq!(response.body, b"<a>log in</a>");
    service.set(|script| {
        script.status = 401;
        script.headers = vec![("www-authenticate", "Basic realm=\"x\"")];
        script.body.clear();
    });
    let check = check.get("/");
    assert!(check.last().is_strike);
    assert_eq!(
        check.last().headers["www-authenticate"],
        "Basic realm=\"x\""
    );
    service.set(|script| script.status = 403);
    let check = check.get("/").expect([302, 401, 403]);
    for outcome in ["missing", "invalid", "denied"] {
        assert_eq!(counted(&check.metrics, outcome), 1, "{outcome}");
    }
}

#[test]
fn a_login_of_the_service_replaces_401_where_the_route_says_so() {
    let service = Service::new(401);
    let denied = |headers: &[(&'static str, &'static str)], status, expected, is_strike| {
        service.set(|script| (script.status, script.headers) = (status, headers.to_vec()));
        let check = service.filter(", refusals: redirect, cache: 10s").get("/");
        assert_eq!(check.last().reason, Some("forward_auth_denied"));
        assert_eq!(check.last().is_strike, is_strike, "{status}");
        assert_eq!(check.last().status, expected);
        check
    };
    let login = [("location", "https://login.test/"), ("set-cookie", "a=1")];
    for status in [401, 302] {
        let check = denied(&login, status, 302, false);
        assert_eq!(check.last().headers["location"], "https://login.test/");
        assert_eq!(check.last().headers["set-cookie"], "a=1");
        assert_eq!(counted(&check.metrics, "missing"), 1);
        let requests = service.requests();
        let _ = check.get("/");
        assert_eq!(service.requests(), requests + 1, "it is not cached");
    }
    let challenge = [("www-authenticate", "Basic"), ("set-cookie", "a=1")];
    let check = denied(&challenge, 401, 401, true);
    assert_eq!(check.last().headers["www-authenticate"], "Basic");
    assert!(!check.last().headers.contains_key("set-cookie"));
    let _ = denied(&login, 403, 403, false);
    let check = denied(&login, 404, 500, false);
    assert!(!check.last().headers.contains_key("location"));
}

#[test]
fn what_is_neither_yes_nor_no_is_no() {
    let service = Service::new(500);
    let unavailable = Some("forward_auth_unavailable");
    for (status, headers) in [
        (500, vec![]),
        (503, vec![]),
        // A redirect without `Location`.
        (302, vec![]),
        (304, vec![("location", "/")]),
    ] {
        service.set(|script| (script.status, script.headers) = (status, headers));
        let check = service.filter("").get("/");
        assert_eq!(check.last().reason, unavailable, "{status}");
        assert_eq!(check.last().headers["retry-after"], "1");
        let _ = check.expect([503]);
    }
    service.set(|script| {
        script.status = 401;
        script.body = "x".repeat(65 * 1024);
    });
    let _ = service.filter("").get("/").expect([503]);
    service.set(|script| script.hangs = true);
    let check = service.filter(", timeout: 50ms").get("/");
    assert_eq!(check.last().reason, unavailable);
    let _ = check.expect([503]);
}

/// Gives each number a client of its own.
fn by(check: FilterCheck, number: u8) -> FilterCheck {
    check.client(|client| client.ip = [192, 0, 2, number].into())
}

#[test]
fn what_one_client_brings_about_closes_nothing_for_others_and_opens_nothing_for_it() {
    for (on_error, unjudged) in [("deny", 503), ("allow", 200)] {
        let service = Service::new(431);
        let mut check = service.filter(&format!(", cache: 10s, on_error: {on_error}"));
        // These statuses are about this request, and the client gets them.
        for status in [400, 404, 413, 414, 421, 429, 431] {
            service.set(|script| script.status = status);
            for _ in 0..10 {
                check = by(check, 1).get("/");
                assert_eq!(check.last().reason, Some("forward_auth_denied"));
                assert!(!check.last().is_strike);
                check = check.expect([status]);
            }
        }
        assert_eq!(service.requests(), 70, "none is remembered");
        assert_eq!(counted(&check.metrics, "denied"), 70);
        // A response that cannot be interpreted lets no request pass either.
        for (status, length) in [(302, 0), (200, 65 * 1024)] {
            service.set(|script| (script.status, script.body) = (status, "x".repeat(length)));
            for _ in 0..10 {
                check = by(check, 1).get("/").expect([503]);
            }
        }
        // Failures of one client do not affect others either.
        service.set(|script| (script.status, script.body) = (500, String::new()));
        for _ in 0..20 {
            check = by(check, 1).get("/").expect([unjudged]);
        }
        assert_eq!(service.requests(), 110);
        service.set(|script| script.status = 403);
        let _ = by(check, 2).get("/").expect([403]);
    }
}

#[test]
fn a_service_that_fails_is_left_alone_and_found_again() {
    let service = Service::new(500);
    let mut check = service.filter("");
    for number in 0..20 {
        check = by(check, number % 3).get("/").expect([503]);
    }
    assert_eq!(service.requests(), 5);
    check = check.advance("1s");
    for number in 0..20 {
        check = by(check, number % 3).get("/").expect([503]);
    }
    assert_eq!(service.requests(), 10);
    service.set(|script| script.status = 200);
    check = check.advance("1s").get("/").get("/").get("/");
    check = check.expect([200, 200, 200]);
    assert_eq!(service.requests(), 13);
    // A refusal counts as a response.
    service.set(|script| script.status = 403);
    for number in 0..20 {
        check = by(check, number % 3).get("/").expect([403]);
    }
    assert_eq!(service.requests(), 33);
}

#[test]
fn a_verdict_holds_for_the_same_question_and_its_time() {
    let service = Service::new(200);
    service.set(|script| script.headers = vec![("x-user", "ann")]);
    let get = |check: FilterCheck, cookie: &str, path: &str| {
        check.send("GET", path, &[("cookie", cookie)], &[])
    };
    let check = service.filter(", cache: 10s, copy: [X-User]");
    let check = get(get(check, "a=1", "/"), "a=1", "/");
    assert_eq!(given(check.last(), "x-user"), ["ann"]);
    assert_eq!(service.requests(), 1);
    // Other credentials, paths, methods and clients make a different request.
    let check = get(get(check, "a=2", "/"), "a=1", "/other").expect([200, 200, 200, 200]);
    let check = check.send("POST", "/", &[("cookie", "a=1")], &[]);
    let check = check.send("GET", "/", &[("authorization", "a=1")], &[]);
    let check = check.client(|client| client.ip = "192.0.2.1".parse().unwrap());
    let check = get(check, "a=1", "/").expect([200, 200, 200]);
    assert_eq!(service.requests(), 6);
    // A refusal is cached as long.
    service.set(|script| script.status = 403);
    let check = get(check, "a=1", "/").expect([200]).advance("10s");
    let _ = get(get(check, "a=1", "/"), "a=1", "/").expect([403, 403]);
    assert_eq!(service.requests(), 7);
    // A response for one client, or for one time, is not cached; nor is a failure.
    for (status, headers) in [
        (200, vec![("set-cookie", "a=1")]),
        (200, vec![("cache-control", "private, no-store")]),
        (302, vec![("location", "/login")]),
        (500, vec![]),
    ] {
        service.set(|script| (script.status, script.headers) = (status, headers));
        let before = service.requests();
        let _ = service.filter(", cache: 10s").get("/").get("/");
        assert_eq!(service.requests(), before + 2, "{status}");
    }
}

#[test]
fn mistakes_are_refused_with_a_remedy() {
    let check_messages = |yaml: &str, words: &[&str]| {
        let messages = refused::<ForwardAuth>(yaml).join("\n");
        for word in words {
            assert!(messages.contains(word), "{yaml}: {messages}");
        }
    };
    let with = |more: &str| format!("{{ url: 'http://127.0.0.1:1/', {more} }}");
    check_messages("{}", &["`forward_auth` has no `url`", "url: http://"]);
    check_messages("127.0.0.1:9000", &["invalid URL"]);
    check_messages("{ url: 'ftp://a/' }", &["invalid URL"]);
    let expected = "a URL with a user or a password is not supported";
    check_messages("{ url: 'http://u:p@a/' }", &[expected]);
    check_messages(&with("ca: a.pem"), &["`ca` is for HTTPS"]);
    check_messages(
        "{ url: 'https://a/', ca: /nowhere }",
        &["cannot use `/nowhere`"],
    );
    check_messages(
        &with("headers: [Host]"),
        &["header `Host` cannot be forwarded"],
    );
    check_messages(
        &with("headers: [X-Forwarded-For]"),
        &["sets `X-Forwarded-For` itself"],
    );
    check_messages(&with("copy: [Content-Length]"), &["reserved header name"]);
    check_messages(&with("copy: [X_User]"), &["underscore"]);
    check_messages(&with("copy: [X-User as Host]"), &["reserved header name"]);
    check_messages(
        &with("copy: [X-User as X-R, X-Role as X-R]"),
        &["two headers are copied as `x-r`"],
    );
    check_messages(&with("copy: ['X-*']"), &["no header is called `x-*`"]);
    check_messages(&with("user: 'a b'"), &["cannot be forwarded"]);
    check_messages(&with("timeout: 0s"), &["`timeout: 0s` is not between"]);
    check_messages(&with("cache: 1h"), &["`cache: 1h` is not between"]);
    check_messages(
        &with("max_in_flight: 0"),
        &["`max_in_flight: 0` is not between"],
    );
    check_messages(&with("on_error: pass"), &["pass"]);
}

#[test]
fn a_url_alone_is_enough() {
    let service = Service::new(200);
    let _ = check::<ForwardAuth>(&format!("'{}'", service.url))
        .get("/")
        .expect([200]);
    assert_eq!(service.requests(), 1);
}
