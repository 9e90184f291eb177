//! Bytes pass a tunnel in their order, both ways at once, and so does the end of each side.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{PATIENCE, draw::one_of, secure::Secure, side::DRIVERS};
use crate::support::{front::Front, wait::pass};

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: app.test\r\nconnection: keep-alive, Upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Bytes that one side sends, in pieces with pauses between them.
#[derive(Clone, Debug)]
struct Sent(Vec<(Vec<u8>, Duration)>);

impl Sent {
    fn draw(dice: &mut fastrand::Rng) -> Self {
        let count = dice.usize(0..6);
        let piece = |dice: &mut fastrand::Rng| {
            let length = one_of(dice, &[1, 5, 200, 4096, 8192, 8193, 70_000, 400_000]);
            let mut bytes = vec![0; length];
            dice.fill(&mut bytes);
            (bytes, Duration::from_millis(one_of(dice, &[0, 0, 1, 5])))
        };
        Self((0..count).map(|_| piece(dice)).collect())
    }

    fn whole(&self) -> Vec<u8> {
        let pieces: Vec<&[u8]> = self.0.iter().map(|(bytes, _)| &bytes[..]).collect();
        pieces.concat()
    }
}

/// Side of a tunnel.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    /// Ends at once and reads on, as a client may.
    Client,
    /// Ends when the client has ended. Its end is that of the tunnel.
    Origin,
}

/// Sends all of it and then the end, and returns what comes until the other side ends.
async fn exchange(stream: impl AsyncRead + AsyncWrite, sent: Sent, side: Side) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        for (bytes, pause) in sent.0 {
            writer.write_all(&bytes).await.expect("the tunnel is open");
            writer.flush().await.expect("the tunnel is open");
            pass(pause).await;
        }
        if side == Side::Client {
            writer.shutdown().await.expect("the tunnel is open");
        }
    };
    let read = async {
        let mut all = Vec::new();
        reader
            .read_to_end(&mut all)
            .await
            .expect("it ends in order");
        all
    };
    let both = async { tokio::join!(write, read).1 };
    let all = timeout(PATIENCE, both).await;
    if side == Side::Origin {
        writer.shutdown().await.expect("the tunnel is open");
    }
    all.expect("both sides end in time")
}

async fn until_empty_line(stream: &mut (impl AsyncRead + Unpin)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("headers come"));
    }
}

#[tokio::test]
async fn bytes_pass_a_tunnel_unchanged_both_ways() {
    bytes_pass_a_tunnel(None).await;
}

#[tokio::test]
async fn bytes_pass_a_tunnel_over_tls_unchanged_both_ways() {
    bytes_pass_a_tunnel(Some(&Secure::new())).await;
}

/// Acts as an app: accepts the handshake, and sends its part.
async fn accept(mut stream: impl AsyncRead + AsyncWrite + Unpin, sent: Sent) -> Vec<u8> {
    until_empty_line(&mut stream).await;
    stream.write_all(SWITCH.as_bytes()).await.expect("it reads");
    stream.flush().await.expect("it reads");
    exchange(stream, sent, Side::Origin).await
}

async fn bytes_pass_a_tunnel(secure: Option<&Secure>) {
    let seed = crate::support::seed::drawn();
    let mut dice = fastrand::Rng::with_seed(seed);
    let origin = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = origin.local_addr().expect("it is bound");
    let tls = secure.map(Secure::option).unwrap_or_default();
    let yaml = Front::to(address)
        .upstream(&tls)
        .route("websocket: true")
        .yaml();
    for (turn, side) in DRIVERS.into_iter().cycle().enumerate().take(30) {
        let gateway = side.start(&yaml).await;
        let [to_origin, to_client] = [Sent::draw(&mut dice), Sent::draw(&mut dice)];
        let theirs = to_client.clone();
        let accept = async {
            let (stream, _) = origin.accept().await.expect("the gateway connects");
            match secure {
                None => accept(stream, theirs).await,
                Some(secure) => {
                    let stream = secure.acceptor().accept(stream).await;
                    accept(stream.expect("the gateway trusts it"), theirs).await
                }
            }
        };
        let ours = to_origin.clone();
        let client = async {
            let mut stream = TcpStream::connect(gateway.address())
                .await
                .expect("the gateway listens");
            stream
                .write_all(HANDSHAKE.as_bytes())
                .await
                .expect("it reads");
            until_empty_line(&mut stream).await;
            exchange(stream, ours, Side::Client).await
        };
        let (at_origin, at_client) = tokio::join!(accept, client);
        let place = format!("{side:?}, seed {seed}, turn {turn}");
        assert!(at_client == to_client.whole(), "to the client: {place}");
        assert!(at_origin == to_origin.whole(), "to the origin: {place}");
    }
}

/// However a tunnel is asked for, it opens.
#[tokio::test]
async fn each_handshake_opens_a_tunnel() {
    let many = "x-a: 1\r\n".repeat(90);
    let handshakes = [
        HANDSHAKE.to_owned(),
        HANDSHAKE.replace("GET /ws", "GET http://app.test/ws"),
        HANDSHAKE.replace("host: app.test\r\n", &format!("host: app.test\r\n{many}")),
        HANDSHAKE.replace("keep-alive, Upgrade", "x-a, Upgrade, close"),
    ];
    for (side, cache) in DRIVERS
        .map(|side| [(side, "cache: {}"), (side, "")])
        .concat()
    {
        let origin = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = origin.local_addr().expect("it is bound");
        let yaml = Front::to(address)
            .with("cache: { max_object: 1MiB }")
            .route(&format!("websocket: true, {cache}"))
            .yaml();
        let gateway = side.start(&yaml).await;
        for handshake in &handshakes {
            let accept = async {
                let (stream, _) = origin.accept().await.expect("the gateway connects");
                accept(stream, Sent(Vec::new())).await
            };
            let client = async {
                let stream = TcpStream::connect(gateway.address()).await;
                let mut stream = stream.expect("the gateway listens");
                let sent = stream.write_all(handshake.as_bytes()).await;
                sent.expect("it reads");
                let mut status = [0; 12];
                let read = timeout(PATIENCE, stream.read_exact(&mut status)).await;
                read.expect("it responds in time").expect("it responds");
                assert_eq!(&status, b"HTTP/1.1 101", "{side:?} {handshake}");
            };
            tokio::join!(accept, client);
        }
    }
}
