//! Response headers that the gateway controls: framing, version, and required ones.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    front::Front,
    gateway::Gateway,
    http2,
    origins::{Origin, ScriptedOrigin},
};

const SOON: Duration = Duration::from_secs(10);

async fn front(script: &[(&str, &str)]) -> (Gateway, Origin<ScriptedOrigin>) {
    let origin = ScriptedOrigin::start(script).await;
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ address: \"127.0.0.1:0\", name: web, http2: {{ cleartext: true }} }}]
upstreams: {{ app: {{ backends: ['{}'], health: false }} }}
routes:
  - {{ match: {{ path: '/kept/*' }}, upstream: app, cache: {{}} }}
  - {{ match: {{ path: '/*' }}, upstream: app }}
",
        origin.address()
    ))
    .await;
    (gateway, origin)
}

/// Returns the raw response of a scripted backend over HTTP/1.
async fn raw(gateway: &Gateway, path: &str, version: &str, end: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address())
        .await
        .expect("it listens");
    let asked =
        format!("GET {path} HTTP/{version}\r\nhost: app.test\r\nconnection: keep-alive\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.expect("it reads");
    let mut raw = Vec::new();
    let reading = async {
        while !raw.ends_with(end) {
            if stream.read_buf(&mut raw).await.expect("it responds") == 0 {
                break;
            }
        }
    };
    timeout(SOON, reading).await.expect("it comes");
    String::from_utf8(raw).expect("it is text")
}

#[tokio::test]
async fn a_response_without_content_has_no_chunks() {
    let none = "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\n\r\n0\r\n\r\n";
    let (gateway, _origin) = front(&[("/a", none), ("/kept/a", none)]).await;
    for path in ["/a", "/kept/a", "/kept/a"] {
        let got = raw(&gateway, path, "1.1", b"\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 204"), "{got}");
        assert!(!got.to_lowercase().contains("transfer-encoding"), "{got}");
        assert!(got.ends_with("\r\n\r\n"), "{got}");
    }
}

#[tokio::test]
async fn a_response_has_the_http_version_of_its_sender() {
    let old = "HTTP/1.0 200 OK\r\ncontent-length: 2\r\ncache-control: max-age=60\r\n\r\nok";
    let (gateway, _origin) = front(&[("/a", old), ("/kept/a", old), ("/kept/b", old)]).await;
    for (path, version) in [
        ("/a", "1.1"),
        ("/a", "1.0"),
        ("/kept/a", "1.1"),
        ("/kept/a", "1.1"),
        ("/kept/b", "1.0"),
    ] {
        let got = raw(&gateway, path, version, b"ok").await;
        assert!(
            got.starts_with("HTTP/1.1 200"),
            "{path} in {version}: {got}"
        );
        let connection = "\r\nConnection: keep-alive\r\n";
        assert!(got.contains(connection), "{path} in {version}: {got}");
    }
}

#[tokio::test]
async fn the_address_of_a_backend_in_refresh_becomes_that_of_the_client() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut backend = JoinSet::new();
    backend.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        let response = format!(
            "HTTP/1.1 200 OK\r\nrefresh: 5; URL=http://{address}/b\r\ncontent-length: 0\r\n\r\n"
        );
        socket.write_all(response.as_bytes()).await.unwrap();
        socket
    });
    let gateway = Front::to(address).start().await;
    let response = gateway.get("/a").await;
    let public = format!("5; URL=http://{}/b", gateway.address());
    assert_eq!(response.header("refresh"), Some(public.as_str()));
    drop(backend);
}

#[tokio::test]
async fn requirements_of_a_backend_are_forwarded() {
    let required = "HTTP/1.1 426 Upgrade Required\r\nupgrade: WebSocket\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\nno";
    let (gateway, _origin) = front(&[("/a", required)]).await;
    let got = raw(&gateway, "/a", "1.1", b"no").await.to_lowercase();
    assert!(got.starts_with("http/1.1 426"), "{got}");
    assert!(got.contains("\r\nupgrade: websocket\r\n"), "{got}");
    // RFC 9113, 8.2.2: no connection-specific header.
    let client = http2::Client::open(gateway.address()).await;
    let response = client.get("/a").await;
    assert_eq!((response.status(), response.header("upgrade")), (426, None));
}
