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

/// Returns a request with a body that `dice` draws, and the bytes of that body as they are sent.
fn drawn_request(dice: &mut fastrand::Rng) -> (Vec<u8>, Vec<u8>) {
    let content = vec![dice.u8(..); [0, 1, 900, 2000, 9000, 16_384, 50_000][dice.usize(0..7)]];
    let (line, body) = match dice.u8(0..3) {
        0 => (String::new(), Vec::new()),
        1 => (format!("content-length: {}\r\n", content.len()), content),
        _ => {
            let mut body = Vec::new();
            for chunk in content.chunks(dice.usize(1..20_000)) {
                body.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                body.extend([chunk, b"\r\n"].concat());
            }
            body.extend(b"0\r\n\r\n");
            ("transfer-encoding: chunked\r\n".to_owned(), body)
        }
    };
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{line}\r\n");
    ([head.as_bytes(), &body].concat(), body)
}

#[tokio::test]
async fn a_body_is_read_whole_whether_it_is_here_or_comes_later() {
    let seed = edgeway_testkit::drawn();
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut ways = [0, 0];
    for _ in 0..20 {
        let (mut io, mut client) = pair();
        let requests: Vec<_> = (0..8).map(|_| drawn_request(&mut dice)).collect();
        let sent: Vec<u8> = requests.iter().flat_map(|(all, _)| all.clone()).collect();
        let piece = dice.usize(1..40_000);
        let send = async {
            for piece in sent.chunks(piece) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let read = async {
            for (index, (_, expected)) in requests.iter().enumerate() {
                let head = io.next_head(false).await;
                assert!(matches!(head, HeadWait::Request), "seed {seed}: {head:?}");
                drop(io.take_head());
                let mut body = BytesMut::new();
                while !io.is_request_complete() {
                    if let Some(here) = io.take_body() {
                        assert!(!here.is_empty(), "seed {seed}");
                        body.extend_from_slice(&here);
                        ways[0] += 1;
                    } else {
                        let count = io.read_buf(&mut body).await.unwrap();
                        assert_ne!(count, 0, "seed {seed}");
                        ways[1] += 1;
                    }
                }
                assert!(body == expected[..], "seed {seed}, request {index}");
            }
        };
        tokio::join!(send, read);
    }
    assert!(ways.iter().all(|times| *times > 20), "{ways:?}");
}

#[tokio::test]
async fn one_read_takes_a_request_whose_client_sends_long_bodies() {
    let (mut io, mut client) = pair();
    let body = vec![b'x'; 16_384];
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 16384\r\n\r\n";
    for is_first in [true, false] {
        let request = [&head[..], &body].concat();
        client.write_all(&request).await.unwrap();
        let wait = io.next_head(false).await;
        assert!(matches!(wait, HeadWait::Request), "{wait:?}");
        drop(io.take_head());
        let mut here = io.take_body().expect("it came with the header section");
        assert_eq!(here.len() == body.len(), !is_first);
        while here.len() < body.len() {
            assert_ne!(io.read_buf(&mut here).await.unwrap(), 0);
        }
        assert!(here == body[..]);
        assert_eq!(io.buffered(), 0);
        io.idle();
    }
}

#[tokio::test]
async fn a_body_may_be_announced_with_any_length() {
    let (mut io, mut client) = pair();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        u64::MAX
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let wait = io.next_head(false).await;
    if matches!(wait, HeadWait::Request) {
        assert_eq!(io.take_head(), head);
        assert_eq!(io.room, LONG_READ_BUFFER);
    } else {
        assert!(matches!(wait, HeadWait::Refused(_)), "{wait:?}");
    }
}
