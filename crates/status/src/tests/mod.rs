//! Tests of the admin listener from the view of a scraper, an operator and an attacker.

use std::sync::{Arc, atomic::Ordering};

use edgeway_base::{metrics::Exposition, secret::Secret};
use edgeway_gateway::explain::{ExplainError, ExplainRequest, Explanation};
use edgeway_net::tasks::Tasks;
use edgeway_proxy::live::history::RequestHistory;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};

use self::fake::Fake;
use super::{
    Snapshot,
    actions::BackendResult,
    client::{Client, ClientError, READ_TIMEOUT, Target},
    http::{AdminState, Connections, RejectionReason, serve_tcp, serve_unix},
    snapshot::{BanStatus, NotReady, Source},
    table,
};

mod api;
mod fake;
mod page;

struct Admin {
    address: std::net::SocketAddr,
    /// Token sent with each request, for tests about something else.
    shown: Option<Secret>,
    fake: Arc<Fake>,
    sessions: Arc<crate::sessions::Sessions>,
    /// Owner of the actions.
    actions: Tasks,
    _tasks: Tasks,
}

fn start() -> Admin {
    start_with(Fake::default())
}

/// Starts a listener with a token that each request sends, unless `fake` has its own.
fn start_with(mut fake: Fake) -> Admin {
    let shown = fake.token.is_none().then(|| Secret::new(TOKEN));
    fake.token = fake.token.or_else(|| shown.clone());
    Admin {
        shown,
        ..start_on("127.0.0.1:0", fake)
    }
}

const TOKEN: &str = "0123456789abcdef";

fn start_on(address: &str, fake: Fake) -> Admin {
    let listener = std::net::TcpListener::bind(address).unwrap();
    let mut address = listener.local_addr().unwrap();
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let fake = Arc::new(fake);
    let (actions, tasks) = (Tasks::default(), Tasks::default());
    let served = served(Arc::clone(&fake) as _, &fake, &actions);
    let sessions = Arc::clone(&served.sessions);
    tasks.spawn("admin", async move {
        serve_tcp(listener, served, &Connections::default())
            .await
            .unwrap();
    });
    Admin {
        address,
        shown: None,
        sessions,
        fake,
        actions,
        _tasks: tasks,
    }
}

fn served(source: Arc<dyn Source>, fake: &Arc<Fake>, actions: &Tasks) -> AdminState {
    AdminState {
        source,
        actions: Arc::clone(fake) as _,
        sessions: Arc::default(),
        sections: Arc::default(),
        tasks: actions.clone(),
        configuration: None,
    }
}

impl Admin {
    /// Sends a request, and returns the whole response as text.
    async fn send(&self, method: &str, path: &str, headers: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        self.send_over(&mut stream, method, path, headers, "").await
    }

    async fn send_over(
        &self,
        stream: &mut tokio::net::TcpStream,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> String {
        let length = body.len();
        let token = self.shown.as_ref();
        let token = token.map(|token| format!("Authorization: Bearer {}\r\n", token.reveal()));
        let token = token.unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\ncontent-length: {length}\r\n{token}{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        // Terminates, because each response closes its connection.
        stream.read_to_string(&mut response).await.unwrap();
        response
    }
}

const LOCAL: &str = "Host: localhost\r\n";

#[tokio::test]
async fn metrics_come_in_the_text_format() {
    let response = start().send("GET", "/metrics", LOCAL).await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(
        response.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{response}"
    );
    assert!(response.ends_with("edgeway_x_total 1\n"), "{response}");
}

#[tokio::test]
async fn clients_that_ask_for_open_metrics_get_it() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, is_open) in [
        (prometheus, true),
        ("application/openmetrics-text", true),
        ("text/plain, application/openmetrics-text;q=0.9", false),
        ("*/*", false),
        ("text/html,*/*;q=0.8", false),
    ] {
        let headers = format!("{LOCAL}Accept: {accept}\r\n");
        let response = start().send("GET", "/metrics", &headers).await;
        assert_eq!(response.ends_with("# EOF\n"), is_open, "{response}");
        let title = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
        assert_eq!(response.contains(title), is_open, "{response}");
        assert!(response.contains("vary: Accept\r\n"), "{response}");
    }
}

#[tokio::test]
async fn live_and_ready_are_two_questions() {
    let admin = start();
    let ready = admin.send("GET", "/readyz", LOCAL).await;
    assert!(ready.starts_with("HTTP/1.1 200 OK\r\n"), "{ready}");
    admin.fake.is_down.store(true, Ordering::Relaxed);
    let ready = admin.send("GET", "/readyz", LOCAL).await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(
        ready.ends_with(
            r#"{"ready":false,"reasons":["no backend of a required upstream is in rotation"]}"#
        ),
        "{ready}"
    );
    assert!(!ready.contains("web"), "{ready}");
    let live = admin.send("GET", "/healthz", LOCAL).await;
    assert!(live.starts_with("HTTP/1.1 200 OK\r\n"), "{live}");
    assert!(live.ends_with("\r\n\r\nok\n"), "{live}");
}

#[tokio::test]
async fn a_probe_of_an_upstream_learns_nothing_else() {
    let admin = start();
    let path = "/readyz/upstreams/a%20b%2Fc";
    let ready = admin.send("GET", path, LOCAL).await;
    assert!(ready.starts_with("HTTP/1.1 200 OK\r\n"), "{ready}");
    assert!(ready.ends_with(r#"{"ready":true,"reasons":[]}"#), "{ready}");
    admin.fake.is_down.store(true, Ordering::Relaxed);
    let ready = admin.send("GET", path, LOCAL).await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(
        ready.ends_with(r#"{"ready":false,"reasons":["not ready"]}"#),
        "{ready}"
    );
    for unknown in [
        "/readyz/upstreams/a",
        "/readyz/upstreams/",
        "/readyz/upstreams/a%20b/c",
    ] {
        let response = admin.send("GET", unknown, LOCAL).await;
        assert!(
            response.starts_with("HTTP/1.1 404 "),
            "{unknown}: {response}"
        );
    }
}

#[tokio::test]
async fn status_is_json_for_programs_and_a_page_for_browsers() {
    let admin = start();
    let json = admin.send("GET", "/status", LOCAL).await;
    assert!(
        json.contains("content-type: application/json\r\n"),
        "{json}"
    );
    let body = json.split_once("\r\n\r\n").unwrap().1;
    let read: Snapshot = serde_json::from_str(body).unwrap();
    assert_eq!(read, table::testkit::full());

    let headers = "Host: 127.0.0.1\r\nAccept: text/html,*/*;q=0.8\r\n";
    let html = admin.send("GET", "/status", headers).await;
    assert!(html.contains("content-type: text/html"), "{html}");
    for part in [
        "generation 3",
        "127.0.0.1:3001",
        "shop.example.com",
        "least_conn",
    ] {
        assert!(html.contains(part), "{part} missing in {html}");
    }
    // Placeholders show addresses; nothing is loaded from elsewhere, and no script is in the page.
    for absent in [
        "<script>",
        "src=\"http",
        "href=\"http",
        " style=",
        " onclick=",
    ] {
        assert!(!html.contains(absent), "{absent} in {html}");
    }
    assert_eq!(html.matches("<script").count(), 1, "{html}");
}

#[tokio::test]
async fn names_are_escaped_on_the_page() {
    struct Hostile;
    impl Source for Hostile {
        fn snapshot(&self) -> Snapshot {
            let mut snapshot = table::testkit::full();
            let name = || "<img onerror=x>".to_owned();
            snapshot.routes[0].name = name();
            snapshot.routes[0].matches = name();
            snapshot.upstreams[0].name = name();
            snapshot.upstreams[0].backends[0].address = name();
            snapshot.reloads[0].error = Some(name());
            snapshot.reloads[1].changes[0] = name();
            snapshot.limits[0].name = name();
            snapshot.expiries[0].name = name();
            snapshot.plugins[0].name = name();
            snapshot.listeners[0].name = name();
            snapshot.version = name();
            snapshot
        }
        fn explain(&self, question: &ExplainRequest) -> Result<Explanation, ExplainError> {
            Err(ExplainError::Url(question.url.clone()))
        }
        fn bans(&self) -> Vec<BanStatus> {
            Vec::new()
        }
        fn ready(&self) -> Result<(), Vec<NotReady>> {
            Ok(())
        }
        fn admin_address(&self) -> Option<std::net::SocketAddr> {
            None
        }
        fn history(&self) -> Arc<RequestHistory> {
            Arc::default()
        }
        fn upstream_ready(&self, _upstream: &str) -> Option<bool> {
            None
        }
        fn metrics(&self, _format: Exposition) -> Vec<u8> {
            Vec::new()
        }
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (actions, tasks) = (Tasks::default(), Tasks::default());
    let shown = Secret::new(TOKEN);
    let fake = Arc::new(Fake {
        token: Some(shown.clone()),
        ..Fake::default()
    });
    let served = served(Arc::new(Hostile), &fake, &actions);
    tasks.spawn("admin", async move {
        serve_tcp(listener, served, &Connections::default())
            .await
            .unwrap();
    });
    let admin = Admin {
        address,
        shown: Some(shown),
        sessions: Arc::default(),
        fake,
        actions,
        _tasks: tasks,
    };
    let html = admin
        .send("GET", "/status", "Host: localhost\r\nAccept: text/html\r\n")
        .await;
    assert!(
        html.matches("&#60;img onerror=x&#62;").count() >= 11,
        "{html}"
    );
    assert!(!html.contains("<img onerror"), "{html}");
}

#[tokio::test]
async fn a_rebound_name_is_turned_away() {
    let admin = start();
    for path in ["/status", "/metrics", "/nothing"] {
        let response = admin.send("GET", path, "Host: evil.test:9900\r\n").await;
        assert!(response.starts_with("HTTP/1.1 421 "), "{response}");
        assert!(!response.contains("3000"), "{response}");
    }
    for host in ["127.0.0.1:9900", "[::1]:9900", "localhost"] {
        let response = admin
            .send("GET", "/healthz", &format!("Host: {host}\r\n"))
            .await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{host}: {response}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_get_json() {
    let admin = start();
    let missing = admin.send("GET", "/nothing", LOCAL).await;
    assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
    assert!(missing.contains(r#""reason":"not_found""#), "{missing}");
    let post = admin.send("POST", "/status", LOCAL).await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    assert!(post.contains("allow: GET,HEAD\r\n"), "{post}");
    let get = admin.send("GET", "/v1/upstreams/web/backends", LOCAL).await;
    assert!(get.starts_with("HTTP/1.1 405 "), "{get}");
    assert!(get.contains("allow: POST\r\n"), "{get}");
    assert!(post.contains(r#""reason":"method""#), "{post}");
    for response in [missing, post] {
        assert!(
            response.contains("cache-control: no-store\r\n"),
            "{response}"
        );
        assert!(response.contains("connection: close\r\n"), "{response}");
    }
}

#[tokio::test]
async fn the_client_reads_what_the_socket_serves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (tasks, fake) = (Tasks::default(), Arc::new(Fake::default()));
    let served = served(Arc::clone(&fake) as _, &fake, &tasks);
    tasks.spawn("admin", async move {
        serve_unix(listener, served, &Connections::default())
            .await
            .unwrap();
    });
    let client = Client::new(Target::Socket(path.clone()));
    let snapshot = client.snapshot().await.unwrap();
    assert_eq!(snapshot, table::testkit::full());
    let missing = client.get::<serde_json::Value>("/nothing").await;
    let Err(ClientError::Refused { refused, .. }) = missing else {
        panic!("{missing:?}");
    };
    assert_eq!((refused.status, &*refused.reason), (404, "not_found"));
    let drain = "/v1/upstreams/web/backends/127.0.0.1:3000/drain";
    let nothing = serde_json::json!({});
    let drained: BackendResult = client.post(drain, &nothing, READ_TIMEOUT).await.unwrap();
    assert_eq!(drained.upstream, "web");
    assert_eq!(*fake.done.lock(), ["drain web/127.0.0.1:3000 false"]);
}
