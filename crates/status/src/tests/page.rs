//! Tests of the status page with browsers, their cookies, and pages of other sites.

use edgeway_core::chain::{FixedFields, LoggedRequest, Text};
use edgeway_core_filters::access_log::Redactor;
use tokio::net::TcpStream;

use super::*;
use crate::http::paths;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const HTML: &str = "Host: localhost\r\nAccept: text/html\r\n";

/// A response, as far as these tests read it.
struct Seen {
    status: u16,
    text: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        let head = self.text.split("\r\n\r\n").next()?;
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn place(&self) -> &str {
        self.header("location").unwrap_or_default()
    }

    /// Returns the cookie as a browser sends it.
    fn cookie(&self) -> String {
        let set = self.header("set-cookie").unwrap_or_default();
        format!("Cookie: {}\r\n", set.split(';').next().unwrap_or_default())
    }

    /// Returns the value that the forms of a page repeat.
    fn csrf(&self) -> String {
        let mark = "name=\"csrf\" value=\"";
        let after = self.text.split(mark).nth(1).expect("the page has forms");
        after.split('"').next().unwrap().to_owned()
    }
}

/// Starts a listener whose clients send nothing but what the test says.
fn bare(token: Option<&str>) -> Admin {
    start_on(
        "127.0.0.1:0",
        Fake {
            token: token.map(Secret::new),
            address: Some("127.0.0.1:9900".parse().unwrap()),
            ..Fake::default()
        },
    )
}

impl Admin {
    async fn see(&self, method: &str, path: &str, headers: &str, body: &str) -> Seen {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let text = self
            .send_over(&mut stream, method, path, headers, body)
            .await;
        let status = text[9..12].parse().unwrap();
        Seen { status, text }
    }

    async fn login(&self, body: &str) -> Seen {
        let headers = format!("{HTML}{FORM}");
        self.see("POST", "/login", &headers, body).await
    }

    /// Logs in, and returns the cookie and the value that forms repeat.
    async fn enter(&self) -> (String, String) {
        let entered = self.login(&format!("token={TOKEN}")).await;
        let cookie = entered.cookie();
        let page = self
            .see("GET", "/status", &format!("{HTML}{cookie}"), "")
            .await;
        assert_eq!(page.status, 200, "{}", page.text);
        let csrf = page.csrf();
        (cookie, csrf)
    }
}

#[tokio::test]
async fn a_browser_logs_in_with_the_token_and_out_again() {
    let admin = bare(Some(TOKEN));
    for path in ["/", "/status"] {
        let seen = admin.see("GET", path, HTML, "").await;
        assert_eq!((seen.status, seen.place()), (303, "/login"), "{path}");
    }
    let form = admin.see("GET", "/login", HTML, "").await;
    assert!(form.text.contains("type=\"password\""), "{}", form.text);
    for wrong in [
        "token=",
        "",
        "token=0123456789abcdeg",
        "token=0123456789abcdef0",
    ] {
        let seen = admin.login(wrong).await;
        assert_eq!((seen.status, seen.place()), (303, "/login?why=token_wrong"));
        assert_eq!(seen.header("set-cookie"), None, "{wrong}");
    }
    let why = admin.see("GET", "/login?why=token_wrong", HTML, "").await;
    assert!(why.text.contains("this is not the token"), "{}", why.text);
    let other = admin.see("GET", "/login?why=<b>", HTML, "").await;
    assert!(!other.text.contains("<b>") && !other.text.contains("id=\"why\""));

    let entered = admin.login(&format!("token={TOKEN}")).await;
    assert_eq!((entered.status, entered.place()), (303, "/status"));
    let cookie = entered.header("set-cookie").unwrap();
    assert!(cookie.starts_with("edgeway_80="), "{cookie}");
    for part in ["Path=/", "Max-Age=28800", "HttpOnly", "SameSite=Strict"] {
        assert!(cookie.split("; ").any(|found| found == part), "{cookie}");
    }
    assert_eq!(cookie.split(['=', ';']).nth(1).unwrap().len(), 64);
    let cookie = entered.cookie();
    let page = admin
        .see("GET", "/status", &format!("{HTML}{cookie}"), "")
        .await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("Log out"), "{}", page.text);

    let leave = format!("{HTML}{FORM}{cookie}");
    let csrf = format!("csrf={}", page.csrf());
    let left = admin.see("POST", "/logout", &leave, &csrf).await;
    assert_eq!((left.status, left.place()), (303, "/login"));
    assert!(left.header("set-cookie").unwrap().contains("Max-Age=0"));
    let page = admin
        .see("GET", "/status", &format!("{HTML}{cookie}"), "")
        .await;
    assert_eq!(page.place(), "/login");
    assert_eq!(*admin.fake.sessions.lock(), ["login page", "logout page"]);
}

#[tokio::test]
async fn the_page_shows_what_node_apps_report() {
    let admin = bare(Some(TOKEN));
    let (cookie, _csrf) = admin.enter().await;
    let headers = format!("{HTML}{cookie}");
    let page = admin.see("GET", "/status", &headers, "").await;
    let report = "loop 42 % busy, 7ms late; heap 90 MiB, rss 180 MiB";
    assert!(page.text.contains(report), "{}", page.text);
    // Without script it is loaded again, which must not close the filter.
    let filter = "data-key=\"filter\" open";
    assert!(page.text.contains(filter), "{}", page.text);
}

#[tokio::test]
async fn failed_logins_are_limited_and_recorded() {
    let admin = bare(Some(TOKEN));
    for _ in 0..10 {
        admin.login("token=x").await;
    }
    let right = admin.login(&format!("token={TOKEN}")).await;
    assert_eq!(right.place(), "/login?why=login_rate");
    let recorded = admin.fake.turned_away.lock().clone();
    assert_eq!(recorded[..10], [RejectionReason::TokenWrong; 10]);
    assert_eq!(recorded[10..], [RejectionReason::LoginRate]);
}

/// Invariant: over TCP without a token in the configuration, a link that somebody with access to the
/// socket made is the only way to the page.
#[tokio::test]
async fn without_a_token_a_link_opens_the_page_once() {
    let admin = bare(None);
    let link = admin.see("POST", "/v1/page-link", LOCAL, "").await;
    assert_eq!(link.status, 403, "{}", link.text);
    let form = admin.see("GET", "/login", HTML, "").await;
    assert!(!form.text.contains("password"), "{}", form.text);
    let wrong = admin.login(&format!("token={TOKEN}")).await;
    assert_eq!(wrong.place(), "/login?why=token_wrong");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let tasks = Tasks::default();
    let served = AdminState {
        sessions: Arc::clone(&admin.sessions),
        ..served(Arc::clone(&admin.fake) as _, &admin.fake, &tasks)
    };
    tasks.spawn("admin", async move {
        serve_unix(listener, served, &Connections::default())
            .await
            .unwrap();
    });
    let client = Client::new(Target::Socket(path));
    let nothing = serde_json::json!({});
    let link: crate::actions::PageLink = client
        .post("/v1/page-link", &nothing, READ_TIMEOUT)
        .await
        .unwrap();
    let at = "http://edgeway.localhost:9900";
    let path = link.url.strip_prefix(at).expect(&link.url);
    // A look at the link does not use it up.
    for _ in 0..2 {
        let shown = admin.see("GET", path, HTML, "").await;
        assert_eq!(shown.status, 200);
        assert_eq!(shown.header("set-cookie"), None);
    }
    let key = path.split_once("?link=").unwrap().1;
    let entered = admin.login(&format!("link={key}")).await;
    assert_eq!(entered.place(), "/status");
    let again = admin.login(&format!("link={key}")).await;
    assert_eq!(again.place(), "/login?why=link_unknown");
    let headers = format!("{HTML}{}", entered.cookie());
    let page = admin.see("GET", "/status", &headers, "").await;
    assert_eq!(page.status, 200);
    // The session reads what the page reads, and acts by its forms alone.
    let read = admin.see("GET", "/v1/status", &headers, "").await;
    assert_eq!(read.status, 200);
    let drain = "/v1/upstreams/web/backends/127.0.0.1:3000/drain";
    let act = admin.see("POST", drain, &headers, "").await;
    assert_eq!(act.status, 403);
    assert!(act.text.contains("socket_only"), "{}", act.text);
    assert!(admin.done().is_empty());
}

#[tokio::test]
async fn forms_act_and_show_their_results() {
    let admin = bare(Some(TOKEN));
    let (cookie, csrf) = admin.enter().await;
    let headers = format!("{HTML}{FORM}{cookie}");
    let backend = "upstream=web&address=127.0.0.1%3A3000";
    for (path, body, done, shown) in [
        ("drain", backend, "drain web/127.0.0.1:3000 false", "is now"),
        ("undrain", backend, "undrain web/127.0.0.1:3000", "is now"),
        (
            "unban",
            "address=192.0.2.7",
            "unban 192.0.2.7",
            "may pass again",
        ),
        (
            "purge",
            "kind=url&value=%2Fa",
            "purge [Purge { target: Url(\"/a\"), effect: Hard }] true",
            "Purged.",
        ),
        (
            "purge",
            "kind=tag&value=a&soft=true",
            "purge [Purge { target: Tag(\"a\"), effect: Soft }] true",
            "not everywhere",
        ),
        (
            "purge",
            "kind=all&value=",
            "purge [Purge { target: All, effect: Hard }] true",
            "Purged.",
        ),
    ] {
        let path = format!("/status/act/{path}");
        let body = format!("{body}&csrf={csrf}");
        let seen = admin.see("POST", &path, &headers, &body).await;
        assert_eq!(seen.status, 303, "{}", seen.text);
        assert_eq!(admin.done(), [done]);
        let result = admin.see("GET", seen.place(), &headers, "").await;
        assert!(result.text.contains(shown), "{shown}: {}", result.text);
        // It stays, also if the page is loaded again.
        let again = admin.see("GET", seen.place(), &headers, "").await;
        assert!(again.text.contains(shown));
    }
    for (path, body, shown) in [
        ("drain", "upstream=nowhere&address=x", "there is none"),
        ("purge", "kind=all&value=x", "can only be"),
        ("purge", "kind=url&value=", "bad_purge"),
        ("explain", "url=%3Cb%3E", "&#60;b&#62;"),
        ("lookup", "url=x&client=y", "invalid client address"),
    ] {
        let path = format!("/status/act/{path}");
        let body = format!("{body}&csrf={csrf}");
        let seen = admin.see("POST", &path, &headers, &body).await;
        let result = admin.see("GET", seen.place(), &headers, "").await;
        assert!(result.text.contains(shown), "{shown}: {}", result.text);
        assert!(admin.done().is_empty());
    }
    // Another session does not see the result.
    let body = format!("{backend}&csrf={csrf}");
    let seen = admin
        .see("POST", "/status/act/drain", &headers, &body)
        .await;
    let (other, _) = admin.enter().await;
    let headers = format!("{HTML}{other}");
    let page = admin.see("GET", seen.place(), &headers, "").await;
    assert!(!page.text.contains("is now"), "{}", page.text);
}

/// Invariant: a form acts only with the value that its own session's page has.
#[tokio::test]
async fn a_form_without_the_value_of_its_session_changes_nothing() {
    let admin = bare(Some(TOKEN));
    let (cookie, csrf) = admin.enter().await;
    let (_, of_another) = admin.enter().await;
    assert_ne!(csrf, of_another);
    let headers = format!("{HTML}{FORM}{cookie}");
    let backend = "upstream=web&address=127.0.0.1%3A3000";
    for (method, path) in paths() {
        if !(path.starts_with("/status/act/") || path == "/logout") {
            continue;
        }
        for wrong in ["", "csrf=", &format!("csrf={of_another}")] {
            let body = format!("{backend}&url=%2F&kind=url&value=%2F&{wrong}");
            let seen = admin.see(method, path, &headers, &body).await;
            assert_eq!(seen.status, 403, "{path} {wrong}");
            assert!(seen.text.contains("csrf"), "{}", seen.text);
        }
        let json = format!("{HTML}Content-Type: application/json\r\n{cookie}");
        let seen = admin.see(method, path, &json, "{}").await;
        assert_eq!(seen.status, 415, "{path}");
    }
    assert!(admin.done().is_empty());
    let page = admin.see("GET", "/status", &headers, "").await;
    assert_eq!(page.status, 200, "the session has not ended");
    // A program with the token needs no such value.
    let program = format!("{HTML}{FORM}Authorization: Bearer {TOKEN}\r\n");
    let seen = admin
        .see("POST", "/status/act/drain", &program, backend)
        .await;
    assert_eq!(seen.status, 303);
    assert_eq!(admin.done(), ["drain web/127.0.0.1:3000 false"]);
}

/// Every path with every proof from every origin: a GET changes nothing, and a page of another site
/// does not act.
#[tokio::test]
async fn no_get_and_no_foreign_page_changes_anything() {
    let admin = bare(Some(TOKEN));
    let (cookie, csrf) = admin.enter().await;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let key = admin.sessions.link();
    admin.fake.sessions.lock().clear();
    let body = format!(
        "upstream=web&address=127.0.0.1%3A3000&url=%2F&kind=url&value=%2F&csrf={csrf}&link={key}"
    );
    let foreign = [
        "Origin: https://evil.test\r\n",
        "Origin: null\r\n",
        "Origin: http://localhost:3000\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ];
    for (method, path) in paths() {
        let path = path
            .replace("{upstream}", "web")
            .replace("{address}", "127.0.0.1:3000");
        if path.ends_with("/stream") {
            continue;
        }
        for proof in ["", &cookie, &bearer] {
            let with_query = format!("{path}?{body}");
            for method in ["GET", "HEAD"] {
                let headers = format!("{HTML}{proof}");
                admin.see(method, &with_query, &headers, "").await;
            }
            if method == "GET" {
                continue;
            }
            for origin in foreign {
                let headers = format!("{HTML}{FORM}{proof}{origin}");
                let seen = admin.see(method, &path, &headers, &body).await;
                assert_eq!(seen.status, 403, "{method} {path} {proof} {origin}");
                assert!(seen.text.contains("cross_site"), "{}", seen.text);
            }
        }
    }
    assert!(admin.done().is_empty());
    assert!(admin.fake.sessions.lock().is_empty());
    // The link was not used up either.
    assert_eq!(admin.login(&format!("link={key}")).await.place(), "/status");
}

#[tokio::test]
async fn a_session_is_not_shared_with_pages_at_other_ports() {
    let admin = bare(Some(TOKEN));
    let (cookie, _) = admin.enter().await;
    let same_site = format!("{HTML}{cookie}Sec-Fetch-Site: same-site\r\n");
    // A link leads here, but a script there gets nothing.
    let page = admin.see("GET", "/status", &same_site, "").await;
    assert_eq!(page.status, 200);
    for path in ["/v1/status", "/status/stream", "/metrics"] {
        let seen = admin.see("GET", path, &same_site, "").await;
        assert_eq!(seen.status, 403, "{path}");
    }
    // The cookie of a gateway at another port is another one.
    let other = format!("Host: localhost:9901\r\nAccept: text/html\r\n{cookie}");
    let seen = admin.see("GET", "/status", &other, "").await;
    assert_eq!(seen.place(), "/login");
    // A typed address is of no site.
    let typed = format!("{LOCAL}{cookie}Sec-Fetch-Site: none\r\n");
    assert_eq!(admin.see("GET", "/v1/status", &typed, "").await.status, 200);
}

/// An open stream of the page.
struct Stream(TcpStream);

impl Stream {
    async fn open(admin: &Admin, path: &str, cookie: &str) -> Self {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\n{LOCAL}{cookie}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(stream)
    }

    /// Returns what comes, once it has this text.
    async fn read_until(&mut self, expected: &str) -> String {
        let mut room = vec![0; 65536];
        let mut text = String::new();
        while !text.contains(expected) {
            let length = self.0.read(&mut room).await.unwrap();
            assert!(length > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&room[..length]));
        }
        text
    }

    /// Returns what comes until the stream ends, as it does soon after the session.
    async fn read_to_end(&mut self) -> String {
        let mut rest = String::new();
        let ended = tokio::time::timeout(
            std::time::Duration::from_secs(10),
            self.0.read_to_string(&mut rest),
        );
        ended.await.expect("it ends with the session").unwrap();
        assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
        rest
    }
}

#[tokio::test]
async fn the_stream_sends_sections_and_ends_with_the_session() {
    let admin = bare(Some(TOKEN));
    let (cookie, csrf) = admin.enter().await;
    let mut stream = Stream::open(&admin, "/status/stream", &cookie).await;
    let mut text = stream.read_until(r#"{"id":"listeners""#).await;
    assert!(
        text.contains("content-type: text/event-stream\r\n"),
        "{text}"
    );
    assert!(text.contains("retry: 500\n"), "{text}");
    assert!(text.contains("event: section\n"), "{text}");
    // Without changes nothing is sent again: each section once, and at the next interval a comment.
    let later = stream.read_until("\r\n:").await;
    text.push_str(&later);
    for id in ["summary", "upstreams", "listeners"] {
        let event = format!(r#"{{"id":"{id}""#);
        assert_eq!(text.matches(&event).count(), 1, "{id}: {later}");
    }
    // Its forms have the value of this session.
    assert!(text.contains(&format!(r#"value=\"{csrf}\""#)), "{text}");
    let headers = format!("{HTML}{FORM}{cookie}");
    let body = format!("csrf={csrf}");
    let left = admin.see("POST", "/logout", &headers, &body).await;
    assert_eq!(left.status, 303);
    // The end comes at the next look, long before the next sections or the time of a slow reader.
    let rest = stream.read_to_end().await;
    assert!(!rest.contains("event: section"), "{rest}");
}

/// Adds a request that has ended.
fn push(admin: &Admin, path: &str) {
    let mut request = LoggedRequest {
        fixed: FixedFields {
            ended: std::time::UNIX_EPOCH + std::time::Duration::from_secs(1),
            ..FixedFields::default()
        },
        texts: [None; Text::COUNT],
    };
    request.texts[Text::Path as usize] = Some(path.as_bytes());
    admin.fake.history.push(&request, &Redactor::none());
}

#[tokio::test]
async fn the_stream_of_requests_sends_nothing_after_the_end_of_the_session() {
    let admin = bare(Some(TOKEN));
    let (cookie, _) = admin.enter().await;
    let mut stream = Stream::open(&admin, "/v1/requests/stream", &cookie).await;
    stream.read_until("retry: 500").await;
    push(&admin, "/before");
    stream.read_until("/before").await;
    let secret = cookie.split(['=', '\r']).nth(1).unwrap();
    let token = Secret::new(TOKEN);
    let session = admin.sessions.find(secret, Some(&token)).unwrap();
    // This test and the listener share one thread, so no look comes between the two.
    admin.sessions.end(session.id);
    push(&admin, "/after");
    let rest = stream.read_to_end().await;
    assert!(!rest.contains("/after"), "{rest}");
}

/// Invariant: whatever number of readers the page has, its sections are rendered once in each
/// interval.
#[tokio::test]
async fn readers_of_the_page_share_its_sections() {
    let fake = Arc::new(Fake::default());
    let source: Arc<dyn Source> = Arc::clone(&fake) as _;
    let sections = served(Arc::clone(&source), &fake, &Tasks::default()).sections;
    for interval in 0..3 {
        let readers = (0..16).map(|_| sections.sections_for(interval, &source));
        let all = futures_util::future::join_all(readers).await;
        assert_eq!(all.len(), 16);
        // One that is late gets the latest.
        assert!(sections.sections_for(0, &source).await.is_ok());
    }
    assert_eq!(fake.snapshots.lock().len(), 3);
}

#[tokio::test]
async fn the_thread_with_the_deadlines_renders_nothing() {
    let admin = bare(Some(TOKEN));
    let (cookie, _) = admin.enter().await;
    let headers = format!("{HTML}{cookie}");
    for path in ["/status", "/v1/status", "/v1/upstreams", "/v1/profiles"] {
        let seen = admin.see("GET", path, &headers, "").await;
        assert_eq!(seen.status, 200, "{path}");
    }
    let mut stream = Stream::open(&admin, "/status/stream", &cookie).await;
    stream.read_until("event: section").await;
    let threads = admin.fake.snapshots.lock().clone();
    // The login has led to a page as well.
    assert_eq!(threads.len(), 6);
    // This test and the listener share one thread.
    assert!(!threads.contains(&std::thread::current().id()));
}

#[tokio::test]
async fn a_page_says_that_no_requests_will_come() {
    let admin = bare(Some(TOKEN));
    let (cookie, _) = admin.enter().await;
    let query = edgeway_proxy::live::history::RequestQuery::default;
    let others = std::iter::from_fn(|| admin.fake.history.follow(query(), None));
    let others: Vec<_> = others.collect();
    assert_eq!(others.len(), 16);
    let mut stream = Stream::open(&admin, "/status/stream", &cookie).await;
    let text = stream.read_until("event: section").await;
    assert!(
        text.contains("event: unfollowed\ndata: without new requests"),
        "{text}"
    );
}
