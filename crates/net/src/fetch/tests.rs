//! Tests of the client.

use std::{net::SocketAddr, ops::ControlFlow};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::tasks::Tasks;

const PATIENCE: Duration = Duration::from_secs(20);

/// Replies to each connection's first request with these bytes, then stays silent.
async fn server(tasks: &Tasks, response: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("server", async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 2048];
            let length = stream.read(&mut head).await.unwrap();
            assert!(head[..length].starts_with(b"GET /x HTTP/1.1\r\n"));
            stream.write_all(response).await.unwrap();
            open.push(stream);
        }
    });
    address
}

async fn fetch(response: &'static [u8], deadline: Duration) -> Result<Response<Bytes>, FetchError> {
    let tasks = Tasks::default();
    let address = server(&tasks, response).await;
    let request = Request::get(format!("http://{address}/x"))
        .body(())
        .unwrap();
    let client = Fetch::new(&Trust::Plain).unwrap();
    client.send(request, deadline, 16).await
}

/// Invariant: a peer that is silent for some time is given up, whatever it has sent before.
#[tokio::test]
async fn a_stream_from_a_silent_peer_ends() {
    for response in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n: \n\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n: \n\r\n",
        b"HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\nhalf",
    ] {
        let tasks = Tasks::default();
        let address = server(&tasks, response).await;
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = Request::get("/x").body(Bytes::new()).unwrap();
        let quiet = Duration::from_millis(200);
        let mut length = 0;
        let exchange = exchange_in_pieces(stream, request, 16, quiet, |piece| {
            length += piece.len();
            ControlFlow::Continue(())
        });
        let ended = timeout(PATIENCE, exchange).await.expect("it gives up");
        assert!(matches!(ended, Err(FetchError::Late(_))), "{ended:?}");
        assert!(length <= 4);
    }
}

#[tokio::test]
async fn a_response_arrives_complete_and_redirects_are_responses() {
    let response = fetch(
        b"HTTP/1.1 302 Found\r\nlocation: /y\r\ncontent-length: 2\r\n\r\nok",
        PATIENCE,
    );
    let response = response.await.unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "/y");
    assert_eq!(&response.body()[..], b"ok");
}

#[tokio::test]
async fn a_long_response_is_refused_and_a_slow_one_abandoned() {
    let long = b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n12345678901234567";
    let error = fetch(long, PATIENCE).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLong(16)), "{error}");
    let short = Duration::from_millis(20);
    // The headers alone are no response either.
    for slow in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n1234",
    ] {
        let error = fetch(slow, short).await.unwrap_err();
        assert!(matches!(error, FetchError::Late(_)), "{error}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_closes_on_use_fails_no_idempotent_request() {
    let tasks = Tasks::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("server", async move {
        let mut head = [0; 2048];
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut head).await.unwrap() > 0);
            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(response).await.unwrap();
            // The next request is read, and has no response.
            let _length = stream.read(&mut head).await.unwrap();
        }
    });
    for (method, is_sent_again) in [("GET", true), ("POST", false)] {
        let client = Fetch::new(&Trust::Plain).unwrap();
        let send = || {
            let request = Request::builder().method(method);
            let request = request.uri(format!("http://{address}/x")).body(()).unwrap();
            client.send(request, PATIENCE, 16)
        };
        assert!(send().await.is_ok());
        assert_eq!(send().await.is_ok(), is_sent_again, "{method}");
    }
}

#[tokio::test]
async fn the_body_of_an_error_is_not_waited_for() {
    let tasks = Tasks::default();
    let client = Fetch::new(&Trust::Plain).unwrap();
    for (response, body) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..],
            Some(&b"ok"[..]),
        ),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 99\r\n\r\n",
            None,
        ),
    ] {
        let address = server(&tasks, response).await;
        let request = Request::get(format!("http://{address}/x"))
            .body(())
            .unwrap();
        let found = client.send_for_ok(request, PATIENCE, 16).await.unwrap();
        assert_eq!(found.as_deref(), body);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_that_names_it() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let client = Fetch::new(&Trust::Plain).unwrap();
    let request = Request::get(format!("http://{address}/x"))
        .body(())
        .unwrap();
    let error = client.send(request, PATIENCE, 16).await.unwrap_err();
    let text = edgeway_base::error::chain(&error);
    assert_eq!(text.matches("refused").count(), 1, "{text}");
}

#[tokio::test]
async fn a_tls_client_speaks_nothing_else() {
    let roots = Arc::new(RootCertStore::empty());
    let client = Fetch::new(&Trust::Roots(roots)).unwrap();
    let request = Request::get("http://127.0.0.1:1/x").body(()).unwrap();
    let error = client.send(request, PATIENCE, 16).await.unwrap_err();
    assert!(matches!(error, FetchError::Exchange(_)), "{error}");
}
