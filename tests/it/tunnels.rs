//! Tunnels begin as soon as the backend agrees, however early that is.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::{
    client::{Connection, Request, find},
    gateway::Gateway,
};

/// Starts an origin that responds on each connection before it has read a request, and then echoes
/// the bytes after the request.
async fn hasty_origin(response: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("it listens");
            open.spawn(async move {
                // The connection ends when the gateway closes it.
                let _outcome = respond_and_echo(stream, response).await;
            });
        }
    });
    (address, tasks)
}

async fn respond_and_echo(mut stream: TcpStream, response: &str) -> io::Result<()> {
    stream.write_all(response.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?.to_ascii_lowercase());
    }
    if find(&head, b"content-length").is_some() || find(&head, b"transfer-encoding").is_some() {
        // A handshake has no body framing: the missing echo fails the test.
        return Ok(());
    }
    let mut buffer = [0; 512];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn front(origin: SocketAddr) -> Gateway {
    Gateway::start(&format!(
        "
upstreams: {{ app: {{ backends: [\"{origin}\"], health: false }} }}
routes: [{{ match: {{ path: /* }}, upstream: app, websocket: true }}]
"
    ))
    .await
}

fn upgrade() -> Request {
    Request::new("GET", "/ws")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[tokio::test]
async fn a_backend_that_switches_at_once_gets_its_tunnel() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let (origin, _serving) = hasty_origin(switch).await;
    let gateway = front(origin).await;
    for turn in 0..30 {
        let mut client = gateway.connect().await;
        let response = client.start(&upgrade()).await.unwrap();
        assert_eq!(response.status, 101);
        let mut stream = client.into_stream();
        stream.write_all(b"echo").await.unwrap();
        let mut back = [0; 4];
        let read = stream.read_exact(&mut back).await;
        assert!(read.is_ok(), "tunnel {turn} ended: {read:?}");
        assert_eq!(&back, b"echo");
    }
    let line = &gateway.log_lines(30).await[0];
    assert_eq!(line["bytes_in"], 4, "{line}");
}

#[tokio::test]
async fn a_refusal_of_the_backend_is_forwarded_and_the_connection_continues() {
    let refuse = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
    let (origin, _serving) = hasty_origin(refuse).await;
    let gateway = front(origin).await;
    let mut client: Connection = gateway.connect().await;
    for _ in 0..10 {
        let response = client.send(&upgrade()).await.unwrap();
        assert_eq!((response.status(), response.text().as_str()), (403, "no"));
    }
}
