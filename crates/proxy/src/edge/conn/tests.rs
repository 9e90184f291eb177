//! Tests of buffering between the socket and a session.

use tokio::net::UnixStream;

use super::*;
use crate::{
    connection::{ConnectionFacts, listener::ListenerFacts},
    edge::transport::Socket,
};

fn pair() -> (ConnIo, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connection = Connection::new(ListenerFacts::test(), ConnectionFacts::test());
    let transport = Transport::Plain(Socket::unix(ours));
    (ConnIo::new(transport, Arc::new(connection)), theirs)
}

#[tokio::test]
async fn nothing_goes_out_before_the_flush() {
    let (mut io, mut client) = pair();
    io.write_all(b"headers").await.unwrap();
    io.write_all(b" body").await.unwrap();
    assert_eq!(
        client.try_read(&mut [0; 16]).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    io.flush().await.unwrap();
    let mut seen = [0; 16];
    let count = client.read(&mut seen).await.unwrap();
    assert_eq!(&seen[..count], b"headers body");
}

#[tokio::test]
async fn bytes_keep_their_order_whatever_their_sizes() {
    let (mut io, mut client) = pair();
    let sizes = [1, 100, 4000, 96, 1, 5000, 200_000, 3, 4096, 4097, 70_000];
    let total: usize = sizes.iter().sum();
    let sent: Vec<u8> = (0..total).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let expected = sent.clone();
    let writer = async move {
        let mut at = 0;
        for size in sizes {
            io.write_all(&sent[at..at + size]).await.unwrap();
            at += size;
        }
        AsyncWriteExt::shutdown(&mut io).await.unwrap();
    };
    let reader = async move {
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        seen
    };
    let ((), seen) = tokio::join!(writer, reader);
    assert!(
        seen == expected,
        "{} of {} bytes",
        seen.len(),
        expected.len()
    );
}

#[tokio::test]
async fn a_preface_of_http2_may_come_in_any_pieces() {
    let second = b"PRI * HTTP/2.0\r\n\r\nXX";
    for (bytes, is_http2) in [(PREFACE, true), (&second[..], false)] {
        for split in 1..bytes.len() {
            let (mut io, mut client) = pair();
            let sent = async {
                for piece in [&bytes[..split], &bytes[split..]] {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (wait, ()) = tokio::join!(io.next_head(true), sent);
            let is_right = match wait {
                HeadWait::Http2 => is_http2,
                HeadWait::Refused(_) => !is_http2,
                HeadWait::Request | HeadWait::Closed => false,
            };
            assert!(is_right, "split at {split}: {wait:?}");
        }
    }
}

/// A new configuration has a shorter limit while the connection waits.
#[tokio::test]
async fn a_waiting_connection_has_the_limits_that_its_listener_has_now() {
    let (mut io, mut client) = pair();
    let request = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "y".repeat(900)
    );
    client.write_all(request.as_bytes()).await.unwrap();
    assert!(matches!(io.next_head(false).await, HeadWait::Request));
    drop(io.take_head());
    io.idle();
    let facts = Arc::clone(&io.connection().listener);
    let sent = async {
        tokio::task::yield_now().await;
        let mut listener = edgeway_gateway::Listener::clone(&facts.config());
        listener.limits.headers = Some(edgeway_base::units::ByteSize(512));
        listener.name = "renamed".into();
        facts.set_config(
            Arc::new(listener),
            &edgeway_base::metrics::Metrics::default(),
        );
        client.write_all(request.as_bytes()).await.unwrap();
    };
    let (wait, ()) = tokio::join!(io.next_head(false), sent);
    assert!(matches!(wait, HeadWait::Refused(_)), "{wait:?}");
    assert_eq!(&*io.connection().listener.name(), "renamed");
}
