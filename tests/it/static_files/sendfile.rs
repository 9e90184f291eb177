//! Files over HTTP/1 without TLS, which the kernel sends without the gateway reading them. A client
//! gets the bytes of its range, as from nginx, or a connection that ends early: whatever the size,
//! the range, the socket's buffer, the client's speed, and changes of the file meanwhile.

use std::{fs, io::Write as _, net::SocketAddr, os::unix::fs::FileExt, path::Path, time::Duration};

use tokio::net::{TcpSocket, TcpStream};

use super::{age, front, nginx::serving, write_tree};
use crate::support::{
    client::{Connection, Request, Response, get},
    gateway::Gateway,
    seed,
};

/// More than the kernel holds for a client that does not read.
const LARGE: usize = 14_000_000;

/// Sizes at which another way begins: kept in memory, read, sent by the kernel, sent in parts.
const SIZES: [usize; 12] = [
    16_384, 16_385, 65_536, 65_537, 69_632, 69_633, 131_072, 1_048_576, 1_048_577, 1_114_113,
    3_333_333, 9_437_184,
];

fn seeded() -> fastrand::Rng {
    let seed = seed::drawn();
    fastrand::Rng::with_seed(seed)
}

/// Returns bytes of which no part looks like another.
fn numbered(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(0).fill(&mut bytes);
    bytes
}

/// Connects with a receive buffer of this size.
async fn connect(to: SocketAddr, buffer: u32) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(buffer).unwrap();
    let stream: TcpStream = socket.connect(to).await.unwrap();
    Connection::over(stream, "app.test".to_owned())
}

/// Sends the first of similar requests, which does not take the way that is tested here.
async fn prime(gateway: &Gateway) {
    let mut connection = connect(gateway.address(), 4 << 20).await;
    let response = connection.send(&file()).await.unwrap();
    assert_eq!(response.status(), 200);
    // The next one comes after the gateway has noted that it serves such requests itself.
    gateway.log_lines(1).await;
}

fn file() -> Request {
    get("/file").header("host", "app.test")
}

/// Draws a range of a file, with edges near those of pages and parts.
fn range(size: usize, random: &mut fastrand::Rng) -> Option<String> {
    let edge = |random: &mut fastrand::Rng| {
        let near = [0, 4096, 65_536, 1 << 20, size][random.usize(..5)];
        (near + random.usize(..5)).saturating_sub(random.usize(..5))
    };
    let (one, two) = (edge(random), edge(random));
    let (from, to) = (one.min(two), one.max(two));
    match random.u32(..5) {
        0 | 1 => None,
        2 => Some(format!("bytes={from}-")),
        3 => Some(format!("bytes=-{to}")),
        _ => Some(format!("bytes={from}-{to}")),
    }
}

fn seen(response: &Response) -> (u16, Option<String>) {
    let range = response.header("content-range").map(str::to_owned);
    (response.status(), range)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_range_at_any_speed_is_what_nginx_sends() {
    let mut random = seeded();
    let contents = SIZES.map(numbered);
    let names = SIZES.map(|size| format!("f{size}"));
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&contents)
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    let gateway = front("", "", &files).await;
    let home = tempfile::tempdir().unwrap();
    let nginx = serving(home.path(), &gateway.folder().join("www")).await;
    let mut sent = 0;
    for _ in 0..12 {
        let buffer = [4096, 16_384, 200_000, 4 << 20][random.usize(..4)];
        let mut own = connect(gateway.address(), buffer).await;
        let mut theirs = connect(nginx.address, 4 << 20).await;
        // The connection is kept, so that a byte too many would begin the next response.
        for _ in 0..6 {
            let at = random.usize(..SIZES.len());
            let mut request = get(&format!("/{}", names[at])).header("host", "app.test");
            if let Some(range) = range(SIZES[at], &mut random) {
                request = request.header("range", range);
            }
            let expected = theirs.send(&request).await.unwrap();
            let head = own.start(&request).await.unwrap();
            if random.bool() {
                // The socket's buffers fill up in the meantime.
                tokio::time::sleep(Duration::from_millis(random.u64(..30))).await;
            }
            let response = own.finish(head).await.unwrap();
            assert_eq!(seen(&response), seen(&expected), "{request:?}");
            if response.status() < 300 {
                assert!(response.body == expected.body, "{request:?}");
                sent += response.body.len();
            }
        }
    }
    println!("{sent} bytes");
    // HEAD has the headers and no byte of the file, and the next response begins right behind it.
    let mut own = gateway.connect().await;
    for name in ["f1048577", "f9437184"] {
        let head = Request::new("HEAD", &format!("/{name}"));
        let response = own.send(&head).await.unwrap();
        assert_eq!((response.status(), response.body.len()), (200, 0));
        let whole = own.send(&get(&format!("/{name}"))).await.unwrap();
        assert_eq!(
            whole.header("content-length"),
            response.header("content-length")
        );
    }
}

/// Change of a file that is being sent.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Another file takes its name.
    Replaced,
    Rewritten,
    Shrunk,
    Grown,
    /// Written in place, with its size as before.
    Overwritten,
}

fn change(path: &Path, change: Change, random: &mut fastrand::Rng) {
    let open = fs::File::options().write(true).open(path).unwrap();
    match change {
        Change::Replaced => {
            let new = path.with_extension("new");
            fs::write(&new, vec![b'n'; LARGE + 1]).unwrap();
            fs::rename(new, path).unwrap();
        }
        Change::Rewritten => fs::write(path, vec![b'n'; LARGE]).unwrap(),
        Change::Shrunk => open.set_len(random.u64(1..LARGE as u64)).unwrap(),
        Change::Grown => {
            let mut end = fs::File::options().append(true).open(path).unwrap();
            end.write_all(b"more").unwrap();
        }
        Change::Overwritten => {
            let at = random.u64(..LARGE as u64 - 100_000);
            open.write_all_at(&vec![b'n'; 100_000], at).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_sent_is_never_sent_to_its_end() {
    let mut random = seeded();
    let content = numbered(LARGE);
    let gateway = front("", "", &[("file", &content)]).await;
    let path = gateway.folder().join("www/file");
    let changes = [
        Change::Replaced,
        Change::Rewritten,
        Change::Shrunk,
        Change::Grown,
        Change::Overwritten,
    ];
    prime(&gateway).await;
    for kind in changes.into_iter().cycle().take(10) {
        fs::remove_file(&path).unwrap();
        write_tree(path.parent().unwrap(), &[("file", &content)]);
        let mut connection = connect(gateway.address(), 64 << 10).await;
        let head = connection.start(&file()).await.unwrap();
        assert_eq!(head.header("content-length"), Some("14000000"));
        let mut read = Vec::new();
        let enough = random.usize(..2_000_000);
        while read.len() <= enough {
            read.extend_from_slice(&connection.piece().await.unwrap().unwrap());
        }
        change(&path, kind, &mut random);
        let outcome = loop {
            match connection.piece().await {
                Ok(Some(piece)) => read.extend_from_slice(&piece),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match (kind, outcome) {
            (Change::Replaced, Ok(())) => assert!(read == content, "{kind:?}"),
            (Change::Replaced, Err(error)) => panic!("{kind:?}: {error}"),
            (_, Ok(())) => panic!("{kind:?}: sent to its end"),
            (_, Err(error)) => {
                assert!(error.is_truncated(), "{kind:?}: {error}");
                assert!(read.len() < LARGE, "{kind:?}");
            }
        }
    }
    let broken = "edgeway_refused_total{reason=\"file_changed\"}";
    gateway.counts(broken, 8).await;
    let lines = gateway.log_lines(11).await;
    let broken = |line: &&serde_json::Value| line["reason"] == "file_changed";
    assert_eq!(lines.iter().filter(broken).count(), 8);
    for line in lines.iter().filter(broken) {
        let sent = line["bytes_out"].as_u64().unwrap();
        assert!(sent > 0 && sent < LARGE as u64, "{line:#}");
    }
}

/// The control of what the page says about `sendfile`: only a copy stays as it was once the
/// response is complete, and the kernel's way is in use at all.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(edgeway_portable, ignore = "files are sent without a copy on Linux")]
async fn bytes_that_were_sent_stay_as_they_were_only_without_sendfile() {
    let content = vec![b'o'; 150_000];
    for (keys, is_copied) in [("", false), (", sendfile: false", true)] {
        let gateway = front(keys, "", &[("file", &content)]).await;
        prime(&gateway).await;
        let mut connection = connect(gateway.address(), 4 << 20).await;
        connection.write(file().text()).await.unwrap();
        // The log line says that the gateway is done with it.
        let lines = gateway.log_lines(2).await;
        assert_eq!(lines[1]["bytes_out"], 150_000);
        let path = gateway.folder().join("www/file");
        let open = fs::File::options().write(true).open(&path).unwrap();
        open.write_all_at(&vec![b'n'; 150_000], 0).unwrap();
        let response = connection.read_response().await.unwrap();
        assert_eq!(response.body.len(), 150_000);
        assert_eq!(response.body == content, is_copied, "{keys}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_disconnected_and_a_slow_one_is_not() {
    let yaml = "
listeners: [{ address: \"127.0.0.1:0\", name: web, limits: { send_timeout: 1s } }]
routes: [{ match: { path: /* }, files: { root: www, recheck: 0s } }]
";
    let content = numbered(LARGE);
    let gateway = Gateway::start_in(yaml, |folder| {
        write_tree(&folder.join("www"), &[("file", &content)]);
        age(&folder.join("www/file"));
    })
    .await;
    prime(&gateway).await;
    let mut idle = connect(gateway.address(), 64 << 10).await;
    idle.start(&file()).await.unwrap();
    let mut slow = connect(gateway.address(), 64 << 10).await;
    slow.start(&file()).await.unwrap();
    let began = slow.elapsed();
    let mut read = Vec::new();
    // Twice the time in which a client must take something.
    while let Some(piece) = slow.piece().await.unwrap() {
        read.extend_from_slice(&piece);
        let due = Duration::from_millis(2 * read.len() as u64 / 14_000);
        tokio::time::sleep((due + began).saturating_sub(slow.elapsed())).await;
    }
    assert!(read == content);
    let lines = gateway.log_lines(3).await;
    let line = lines.iter().find(|line| line["reason"] == "send_timeout");
    let sent = line.unwrap()["bytes_out"].as_u64().unwrap();
    assert!(sent > 0 && sent < LARGE as u64, "{sent}");
    idle.leave("a client that does not read is the subject");
}
