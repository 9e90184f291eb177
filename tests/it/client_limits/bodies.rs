//! Bodies that arrive too slowly, responses that clients do not read, and slow backends.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

use super::{GAP, SECOND, about, closes, drip, proxied};
use crate::support::{
    client::{ClientError, get, post},
    gateway::Gateway,
    http2::{self, Client},
    origins::{BigOrigin, EchoOrigin, SlowOrigin},
    wait::{pass, wait_for},
};

const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n";

/// Accepts a connection with the headers of a request.
async fn accepted(listener: &TcpListener) -> io::Result<TcpStream> {
    let (mut stream, _) = listener.accept().await?;
    let mut headers = Vec::new();
    while !headers.ends_with(b"\r\n\r\n") {
        headers.push(stream.read_u8().await?);
    }
    Ok(stream)
}

/// Runs an origin that responds to each request without its body.
async fn hasty(listener: TcpListener) -> io::Result<()> {
    let mut open = Vec::new();
    loop {
        let mut stream = accepted(&listener).await?;
        let response = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nearly";
        stream.write_all(response).await?;
        open.push(stream);
    }
}

/// Runs an origin for one request, which delays `100 Continue`.
async fn delayed_continue(listener: TcpListener) -> io::Result<()> {
    let mut stream = accepted(&listener).await?;
    pass(Duration::from_millis(1500)).await;
    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    stream.read_u8().await?;
    let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(response).await
}

#[tokio::test]
async fn a_slow_body_gets_408_and_the_backend_is_not_blamed() {
    let origin = EchoOrigin::start().await;
    let limits = "{ body_rate: 1KiB, body_grace: 1s }";
    let eject = ", eject: { errors: 1, for: 60s }";
    let gateway = Gateway::start(&proxied(limits, origin.address(), eject)).await;
    let dripping = async |headers: &str, bytes: &[u8]| {
        let mut connection = gateway.connect().await;
        connection.write(headers).await.unwrap();
        drip(connection, bytes, GAP).await
    };
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n";
    let drips = tokio::join!(dripping(POST, &[b'x'; 100]), dripping(chunked, b"x"));
    for (response, took) in [drips.0, drips.1] {
        assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
        assert!(closes(&response), "{response}");
        about(took, SECOND);
    }
    gateway.refuses("body_timeout", 2).await;
    let lines = gateway.log_lines(2).await;
    assert_eq!(lines[0]["reason"], "body_timeout", "{lines:?}");
    // The control: a body that arrives fast enough, for longer than the grace.
    let mut connection = gateway.connect().await;
    connection
        .write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..10 {
        connection.write([b'x'; 1000]).await.unwrap();
        pass(Duration::from_millis(250)).await;
    }
    assert_eq!(connection.read_response().await.unwrap().status(), 200);
}

/// The deadlines of a backend are those of its own time.
#[tokio::test]
async fn a_client_that_pauses_in_its_body_costs_no_backend_its_place() {
    let origin = EchoOrigin::start().await;
    let limits = "{ body_grace: 10s }, http2: { cleartext: true }";
    let times = ", timeouts: { first_byte: 500ms, total: 3s }, eject: { errors: 1, for: 60s }";
    let gateway = Gateway::start(&proxied(limits, origin.address(), times)).await;
    let pause = Duration::from_millis(1500);
    let mut connection = gateway.connect().await;
    // Twice: the second request on the connection starts again.
    for _ in 0..2 {
        let begin = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx";
        connection.write(begin).await.unwrap();
        pass(pause).await;
        connection.write("y").await.unwrap();
        assert_eq!(connection.read_response().await.unwrap().status(), 200);
    }
    let client = Client::open(gateway.address()).await;
    let begun = client.begin(http2::request("POST", "/"), false).await;
    let (response, mut stream) = begun.unwrap();
    stream.send_data("x".into(), false).unwrap();
    pass(pause).await;
    stream.send_data("y".into(), true).unwrap();
    let response = http2::read_response(response).await.unwrap();
    assert_eq!(response.status(), 200);
    // The time of the whole request is up because of the client.
    let (response, _) = {
        connection.write(POST).await.unwrap();
        drip(connection, &[b'x'; 100], GAP).await
    };
    assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
    assert_eq!(gateway.get("/").await.status(), 200, "it is in rotation");
}

/// Neither may one whose response is complete.
#[tokio::test]
async fn a_client_that_pauses_or_drips_after_its_response_gives_back_its_place() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = "{ body_grace: 1s }, http2: { cleartext: true }";
    let place = ", max_in_flight: { per_backend: 1, wait: 10s }";
    let yaml = proxied(limits, listener.local_addr().unwrap(), place);
    let clients = async {
        let gateway = Gateway::start(&yaml).await;
        let mut connection = gateway.connect().await;
        connection.write(POST).await.unwrap();
        assert_eq!(connection.read_response().await.unwrap().status(), 200);
        assert_eq!(gateway.get("/").await.status(), 200, "the place is free");
        let mut connection = gateway.connect().await;
        connection.write(POST).await.unwrap();
        assert_eq!(connection.read_response().await.unwrap().status(), 200);
        let dripping = drip(connection, &[b'x'; 100], GAP);
        let (response, _) = tokio::join!(gateway.get("/"), dripping);
        assert_eq!(response.status(), 200, "the place is free");
        let client = Client::open(gateway.address()).await;
        let begun = client.begin(http2::request("POST", "/"), false).await;
        let (response, _stream) = begun.unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(gateway.get("/").await.status(), 200, "the place is free");
    };
    tokio::select! {
        ended = hasty(listener) => panic!("{ended:?}"),
        () = clients => {}
    }
}

/// A body whose client does not know how long it will be, such as the lines of a log, may be slow
/// as long as it does not pause.
#[tokio::test]
async fn a_live_upload_may_be_slow() {
    const LINE: &str = "one line of a log\n";
    const LINES: usize = 12;
    let origin = BigOrigin::start().await;
    let limits = "{ body_rate: 16KiB, body_grace: 600ms }, http2: { cleartext: true }";
    let gateway = Gateway::start(&proxied(limits, origin.address(), "")).await;
    let begin = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let pause = Duration::from_millis(300);
    let http1 = async {
        let mut connection = gateway.connect().await;
        connection.write(begin).await.unwrap();
        for _ in 0..LINES {
            connection.write_chunk(LINE.as_bytes()).await.unwrap();
            pass(pause).await;
        }
        connection.write_chunk(b"").await.unwrap();
        let response = connection.read_response().await.unwrap();
        (response.status(), response.text())
    };
    let http2 = async {
        let client = Client::open(gateway.address()).await;
        let begun = client.begin(http2::request("POST", "/"), false).await;
        let (response, mut stream) = begun.unwrap();
        for _ in 0..LINES {
            stream.send_data(LINE.into(), false).unwrap();
            pass(pause).await;
        }
        stream.send_data("".into(), true).unwrap();
        let response = http2::read_response(response).await.unwrap();
        (response.status(), response.text().to_owned())
    };
    // The control: lines of a body that has a length.
    let known = async {
        let mut connection = gateway.connect().await;
        connection.write(POST).await.unwrap();
        drip(connection, &[b'x'; LINES], pause).await.0
    };
    let (http1, http2, known) = tokio::join!(http1, http2, known);
    let expected = (200, format!("{{\"bytes\":{}}}", LINES * LINE.len()));
    assert_eq!(http1, expected);
    assert_eq!(http2, expected);
    assert!(known.starts_with("HTTP/1.1 408 "), "{known}");
}

/// The body of a request may go on while its response streams, as long as both sides like.
#[tokio::test]
async fn a_body_has_no_rate_once_its_response_has_begun() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let origin = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut headers = Vec::new();
        while !headers.ends_with(b"\r\n\r\n") {
            headers.push(stream.read_u8().await.unwrap());
        }
        let begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(begin).await.unwrap();
        for _ in 0..8 {
            stream.write_all(b"1\r\nx\r\n").await.unwrap();
            pass(GAP).await;
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        stream
    };
    let limits = "{ body_rate: 1KiB, body_grace: 300ms }";
    let gateway = Gateway::start(&proxied(limits, address, "")).await;
    let client = async {
        let mut connection = gateway.connect().await;
        let begin = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\ny\r\n";
        connection.write(begin).await.unwrap();
        let headers = connection.read_headers().await.unwrap();
        let response = connection.finish(headers).await;
        response.map(|response| response.text())
    };
    let (response, _stream) = tokio::join!(client, origin);
    assert_eq!(response.unwrap(), "x".repeat(8));
}

/// Node.js sends no more of a piped body after the response, and keeps the connection for its next
/// request until the gateway closes it.
#[tokio::test]
async fn a_client_that_an_app_refused_and_that_sends_no_more_is_closed_soon() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let origin = async {
        let mut stream = accepted(&listener).await.unwrap();
        let refused = b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\n\r\nlong";
        stream.write_all(refused).await.unwrap();
        stream
    };
    let gateway = Gateway::start(&proxied("{}", address, "")).await;
    let client = async {
        let mut connection = gateway.connect().await;
        let begin = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\ny\r\n";
        connection.write(begin).await.unwrap();
        drip(connection, b"", GAP).await
    };
    let ((all, took), _stream) = tokio::join!(client, origin);
    assert!(all.ends_with("long"), "{all}");
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[tokio::test]
async fn a_slow_backend_is_not_held_against_a_body() {
    let limits = "{ body_rate: 100MiB, body_grace: 500ms }";
    // The backend responds late, long after the body was complete.
    let slow = SlowOrigin::start(Duration::from_millis(1500)).await;
    let gateway = Gateway::start(&proxied(limits, slow.address(), "")).await;
    for request in [post("/", "x"), post("/", "").chunks(["a", "b"])] {
        assert_eq!(gateway.send(&request).await.status(), 200);
    }
    // The backend delays `100 Continue`, and the client waits for it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut origin = JoinSet::new();
    origin.spawn(delayed_continue(listener));
    let gateway = Gateway::start(&proxied(limits, address, "")).await;
    let mut connection = gateway.connect().await;
    connection
        .write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(connection.read_interim().await.unwrap(), 100);
    connection.write("x").await.unwrap();
    assert_eq!(connection.read_response().await.unwrap().status(), 200);

    // The backend reads nothing, so the body stops: the backend's own deadline ends the request.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deadline = ", timeouts: { first_byte: 2s }, retry: { attempts: 1 }";
    let backend = deaf.local_addr().unwrap();
    let gateway = Gateway::start(&proxied(limits, backend, deadline)).await;
    let response = gateway.send(&post("/", "").filler(64 << 20)).await;
    assert_eq!(response.status(), 504, "{}", response.text());
    assert_eq!(gateway.refused("body_timeout").await, 0);
}

#[tokio::test]
async fn an_unread_response_is_closed_and_one_with_a_slow_reader_is_not() {
    let origin = BigOrigin::start().await;
    let limits = "{ send_timeout: 1s }";
    let gateway = Gateway::start(&proxied(limits, origin.address(), "")).await;
    let request = get("/?bytes=67108864");
    let mut unread = gateway.connect().await;
    unread.start(&request).await.unwrap();
    let stalled = Instant::now();
    wait_for(
        "the response is closed",
        Duration::from_secs(10),
        async || (gateway.refused("send_timeout").await == 1).then_some(()),
    )
    .await;
    about(stalled.elapsed(), SECOND + Duration::from_millis(200));
    let lines = gateway.log_lines(1).await;
    assert_eq!(lines[0]["reason"], "send_timeout", "{lines:?}");
    assert_eq!(lines[0]["status"], 200, "{lines:?}");
    // Data in flight is lost with the connection.
    let mut got = 0;
    let outcome = loop {
        match unread.piece().await {
            Ok(Some(piece)) => got += piece.len(),
            other => break other,
        }
    };
    assert!(
        outcome.as_ref().is_err_and(ClientError::is_truncated),
        "{outcome:?} after {got}"
    );

    // The control: a client that reads a little at a time, for far longer.
    let mut slow = gateway.connect().await;
    slow.start(&request).await.unwrap();
    let mut stream = slow.leave("a part of it shows that it is not closed");
    let mut piece = vec![0; 256 * 1024];
    for _ in 0..8 {
        stream.read_exact(&mut piece).await.unwrap();
        pass(Duration::from_millis(500)).await;
    }
    gateway.refuses("send_timeout", 1).await;
}

#[tokio::test]
async fn a_slow_backend_is_not_held_against_a_stream_of_http_2() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = "{ body_rate: 100MiB, body_grace: 500ms }, http2: { cleartext: true }";
    let deadline = ", timeouts: { first_byte: 2s }, retry: { attempts: 1 }";
    let backend = deaf.local_addr().unwrap();
    let gateway = Gateway::start(&proxied(limits, backend, deadline)).await;
    let client = Client::open(gateway.address()).await;
    let body = vec![b'x'; 32 << 20];
    let response = client
        .send(http2::request("POST", "/"), body)
        .await
        .unwrap();
    assert_eq!(response.status(), 504, "{}", response.text());
    assert_eq!(gateway.refused("body_timeout").await, 0);
}
