//! Bodies of requests: early responses, repetitions and refusals.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{PATIENCE, draw::Drawn, message::received, origin::forgetful, side::DRIVERS, yaml};

/// A backend may accept a request at once and want its body all the same.
#[tokio::test]
async fn an_early_response_does_not_cut_the_upload_off() {
    const LENGTH: usize = 300_000;
    for side in DRIVERS {
        let origin = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = origin.local_addr().expect("it is bound");
        let mut origins = JoinSet::new();
        origins.spawn(async move {
            let (mut stream, _) = origin.accept().await?;
            let mut input = Vec::new();
            let end = loop {
                stream.read_buf(&mut input).await?;
                if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
            };
            let accepted = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(accepted).await?;
            while input.len() < end + LENGTH {
                if stream.read_buf(&mut input).await? == 0 {
                    break;
                }
            }
            std::io::Result::Ok(input.len() - end)
        });
        let gateway = side.start(&yaml(address, "")).await;
        let mut client = TcpStream::connect(gateway.address())
            .await
            .expect("the gateway listens");
        let head =
            format!("POST /n1 HTTP/1.1\r\nhost: app.test\r\ncontent-length: {LENGTH}\r\n\r\n");
        let body = vec![b'x'; LENGTH];
        client.write_all(head.as_bytes()).await.expect("it reads");
        client.write_all(&body[..1000]).await.expect("it reads");
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            let read = timeout(PATIENCE, client.read_buf(&mut response)).await;
            let read = read.expect("the response is early").expect("it is open");
            assert_ne!(read, 0, "{side:?}");
        }
        assert!(response.starts_with(b"HTTP/1.1 202 "), "{side:?}");
        client.write_all(&body[1000..]).await.expect("it reads");
        let stored = timeout(PATIENCE, origins.join_next()).await;
        let stored = stored.expect("the body arrives").expect("it was spawned");
        let stored = stored
            .expect("the origin does not panic")
            .expect("it reads");
        assert_eq!(stored, LENGTH, "{side:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_sent_again_counts_once() {
    for side in DRIVERS {
        let origin = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = origin.local_addr().expect("it is bound");
        let mut origins = JoinSet::new();
        let forgotten = Arc::new(AtomicU32::new(0));
        origins.spawn(forgetful(origin, Arc::clone(&forgotten)));
        let gateway = side.start(&yaml(address, "")).await;
        for number in 0..6 {
            let head = "host: app.test\r\ntransfer-encoding: chunked\r\n\r\n";
            let body = format!("46\r\n{}\r\n0\r\n\r\n", "x".repeat(0x46));
            let request = format!("PUT /small/n{number} HTTP/1.1\r\n{head}{body}");
            let case = Drawn::plain(number, "PUT", request);
            let (messages, _) = received(gateway.address(), &case).await;
            assert_eq!(messages[0].start, "HTTP/1.1 200 OK", "request {number}");
        }
        // The control: some were sent again, which is no attempt more.
        assert!(forgotten.load(Ordering::Relaxed) > 0);
        let lines = gateway.log_lines(6).await;
        assert!(lines.iter().all(|line| line["attempts"] == 1), "{lines:?}");
    }
}

/// A client that offered a body and got a response may not send it. What it sends next would be
/// taken for the body.
#[tokio::test]
async fn a_response_in_place_of_continue_ends_the_connection() {
    let origin = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = origin.local_addr().expect("it is bound");
    let gateway = DRIVERS[0].start(&yaml(address, "")).await;
    let refuse = async {
        let (mut stream, _) = origin.accept().await.expect("the gateway connects");
        let mut input = Vec::new();
        while !input.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut input).await.expect("headers come");
        }
        let refusal = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno";
        stream.write_all(refusal).await.expect("it reads");
        stream
    };
    let offer = async {
        let mut client = TcpStream::connect(gateway.address())
            .await
            .expect("the gateway listens");
        let head = "PUT /n1 HTTP/1.1\r\nhost: app.test\r\ncontent-length: 40\r\n\
            expect: 100-continue\r\n\r\n";
        client.write_all(head.as_bytes()).await.expect("it reads");
        let mut seen = String::new();
        let read = client.read_to_string(&mut seen);
        let read = timeout(PATIENCE, read).await.expect("it ends in time");
        read.expect("it ends in order");
        seen.to_ascii_lowercase()
    };
    let (_stream, seen) = tokio::join!(refuse, offer);
    assert!(seen.starts_with("http/1.1 401 "), "{seen}");
    assert!(seen.contains("\r\nconnection: close\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nno"), "{seen}");
}
