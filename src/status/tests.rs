//! The admin listener as a scraper, an operator and an attacker see it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Snapshot, Source,
    client::{self, Target},
    http::{Hosts, SocketError, bind_unix, serve_tcp, serve_unix},
    table,
};
use crate::base::tasks::Tasks;

#[derive(Default)]
struct Fake {
    is_down: AtomicBool,
}

impl Source for Fake {
    fn snapshot(&self) -> Snapshot {
        table::tests::full()
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(vec!["no backend of `web` is healthy".to_owned()]);
        }
        Ok(())
    }

    fn metrics_text(&self) -> Vec<u8> {
        b"# TYPE edgeway_x_total counter\nedgeway_x_total 1\n".to_vec()
    }
}

struct Admin {
    address: std::net::SocketAddr,
    fake: Arc<Fake>,
    _tasks: Tasks,
}

fn start(hosts: Hosts) -> Admin {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Arc::new(Fake::default());
    let source: Arc<dyn Source> = Arc::clone(&fake) as _;
    let tasks = Tasks::default();
    tasks.spawn("admin", async move {
        serve_tcp(listener, source, hosts).await.unwrap();
    });
    Admin {
        address,
        fake,
        _tasks: tasks,
    }
}

impl Admin {
    /// The whole answer to one request, as text.
    async fn send(&self, method: &str, path: &str, headers: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Ends since each answer closes its connection.
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

const LOCAL: &str = "Host: localhost\r\n";

#[tokio::test]
async fn metrics_come_in_the_text_format() {
    let answer = start(Hosts::Loopback(vec![]))
        .send("GET", "/metrics", LOCAL)
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("edgeway_x_total 1\n"), "{answer}");
}

#[tokio::test]
async fn live_and_ready_are_two_questions() {
    let admin = start(Hosts::Loopback(vec![]));
    let ready = admin.send("GET", "/readyz", LOCAL).await;
    assert!(ready.starts_with("HTTP/1.1 200 OK\r\n"), "{ready}");
    admin.fake.is_down.store(true, Ordering::Relaxed);
    let ready = admin.send("GET", "/readyz", LOCAL).await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(
        ready.ends_with(r#"{"ready":false,"reasons":["no backend of `web` is healthy"]}"#),
        "{ready}"
    );
    let live = admin.send("GET", "/healthz", LOCAL).await;
    assert!(live.starts_with("HTTP/1.1 200 OK\r\n"), "{live}");
    assert!(live.ends_with("\r\n\r\nok\n"), "{live}");
}

#[tokio::test]
async fn status_is_json_for_programs_and_a_page_for_browsers() {
    let admin = start(Hosts::Loopback(vec![]));
    let json = admin.send("GET", "/status", LOCAL).await;
    assert!(
        json.contains("content-type: application/json\r\n"),
        "{json}"
    );
    let body = json.split_once("\r\n\r\n").unwrap().1;
    let read: Snapshot = serde_json::from_str(body).unwrap();
    assert_eq!(read, table::tests::full());

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
    for absent in ["<script", "src=", "http://", "https://"] {
        assert!(!html.contains(absent), "{absent} in {html}");
    }
}

#[tokio::test]
async fn names_are_escaped_on_the_page() {
    struct Hostile;
    impl Source for Hostile {
        fn snapshot(&self) -> Snapshot {
            let mut snapshot = table::tests::full();
            snapshot.routes[0].name = "<img onerror=x>".to_owned();
            snapshot
        }
        fn ready(&self) -> Result<(), Vec<String>> {
            Ok(())
        }
        fn metrics_text(&self) -> Vec<u8> {
            Vec::new()
        }
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::default();
    tasks.spawn("admin", async move {
        let hosts = Hosts::Loopback(vec![]);
        serve_tcp(listener, Arc::new(Hostile), hosts).await.unwrap();
    });
    let admin = Admin {
        address,
        fake: Arc::default(),
        _tasks: tasks,
    };
    let html = admin
        .send("GET", "/status", "Host: localhost\r\nAccept: text/html\r\n")
        .await;
    assert!(html.contains("&lt;img onerror=x&gt;"), "{html}");
}

#[tokio::test]
async fn a_rebound_name_is_turned_away() {
    let admin = start(Hosts::Loopback(vec!["gateway.internal".to_owned()]));
    for path in ["/status", "/metrics", "/nothing"] {
        let answer = admin.send("GET", path, "Host: evil.test:9900\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
        assert!(!answer.contains("3000"), "{answer}");
    }
    for host in [
        "127.0.0.1:9900",
        "[::1]:9900",
        "localhost",
        "gateway.internal:9900",
    ] {
        let answer = admin
            .send("GET", "/healthz", &format!("Host: {host}\r\n"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_get_json() {
    let admin = start(Hosts::Loopback(vec![]));
    let missing = admin.send("GET", "/nothing", LOCAL).await;
    assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
    assert!(missing.contains(r#""reason":"not_found""#), "{missing}");
    let post = admin.send("POST", "/status", LOCAL).await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    assert!(post.contains("allow: GET,HEAD\r\n"), "{post}");
    assert!(post.contains(r#""reason":"method""#), "{post}");
    for answer in [missing, post] {
        assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn the_client_reads_what_the_socket_serves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = bind_unix(&path).unwrap();
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let tasks = Tasks::default();
    tasks.spawn("admin", async move {
        serve_unix(listener, Arc::new(Fake::default()))
            .await
            .unwrap();
    });
    let target = Target::Socket(path.clone());
    let snapshot = client::snapshot(&target).await.unwrap();
    assert_eq!(snapshot, table::tests::full());
    assert_eq!(client::get(&target, "/nothing").await.unwrap().status, 404);

    assert!(matches!(bind_unix(&path), Err(SocketError::InUse(_))));
}

#[test]
fn a_socket_left_behind_is_replaced_and_a_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    drop(bind_unix(&path).unwrap());
    assert!(path.exists());
    drop(bind_unix(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(bind_unix(&path), Err(SocketError::NoSocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
}
