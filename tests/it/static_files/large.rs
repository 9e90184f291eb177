//! Large files: constant memory for readers of any speed, and never a mix of two contents.

use std::{fs, io::Write, os::unix::fs::FileExt, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::front;
use crate::support::{
    client::{Connection, get},
    gateway::Gateway,
};

const GIB: u64 = 1 << 30;

/// Memory that the gateway may take for these requests.
const MOST: u64 = 48 << 20;

async fn with_large() -> Gateway {
    let gateway = front("", "", &[("small", b"small")]).await;
    let file = fs::File::create(gateway.folder().join("www/large")).unwrap();
    file.set_len(2 * GIB).unwrap();
    file.write_all_at(b"middle", GIB).unwrap();
    file.write_all_at(b"end", 2 * GIB - 3).unwrap();
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gibibytes_take_no_memory() {
    let gateway = with_large().await;
    for path in ["/small", "/large"] {
        let request = get(path).header("range", "bytes=0-1");
        assert_eq!(gateway.send(&request).await.status(), 206);
    }
    let before = gateway.rss();
    // Clients that read the headers and then nothing, as many as would show.
    let mut idle = Vec::new();
    for _ in 0..50 {
        let mut connection = Connection::open(gateway.address()).await.unwrap();
        let head = connection.start(&get("/large")).await.unwrap();
        assert_eq!(head.header("content-length"), Some("2147483648"));
        idle.push(connection);
    }
    let mut connection = gateway.connect().await;
    for (range, body) in [
        ("bytes=1073741824-1073741829", "middle"),
        ("bytes=-3", "end"),
        ("bytes=2147483645-", "end"),
    ] {
        let request = get("/large").header("range", range);
        let response = connection.send(&request).await.unwrap();
        assert_eq!((response.status(), response.text()), (206, body.to_owned()));
    }
    // One that reads a good part of it.
    let request = get("/large").header("range", "bytes=1000000000-1200000000");
    let head = connection.start(&request).await.unwrap();
    assert_eq!(head.status, 206);
    let mut read = 0;
    while let Some(piece) = connection.piece().await.unwrap() {
        read += piece.len();
        if read % (64 << 20) < piece.len() {
            let now = gateway.rss();
            assert!(now < before + MOST, "{before} → {now} after {read}");
        }
    }
    assert_eq!(read, 200_000_001);
    let now = gateway.rss();
    assert!(now < before + MOST, "{before} → {now}");
    for connection in idle {
        connection.leave("a client that does not read is the subject");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_all_of_it() {
    let mut content = vec![0; 16_000_000];
    fastrand::Rng::with_seed(0).fill(&mut content);
    let gateway = front("", "", &[("file", &content)]).await;
    let mut connection = gateway.connect().await;
    let head = connection.start(&get("/file")).await.unwrap();
    let mut read = Vec::new();
    while let Some(piece) = connection.piece().await.unwrap() {
        read.extend_from_slice(&piece);
        if read.len() % (1 << 20) < piece.len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(head.status, 200);
    assert!(read == content);
}

/// Whatever is done to a file while it is sent, a response that is complete is one content.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_never_a_mix_of_two_contents() {
    const SIZE: usize = 6_000_000;
    let gateway = front("", "", &[("file", &vec![b'a'; SIZE])]).await;
    let path = gateway.folder().join("www/file");
    let (mut whole, mut broken) = (0, 0);
    for round in 0..24_u8 {
        let letter = b'b' + round;
        let mut connection = gateway.connect().await;
        let head = connection.start(&get("/file")).await.unwrap();
        let length: usize = head.header("content-length").unwrap().parse().unwrap();
        let mut read = Vec::new();
        let mut is_changed = false;
        let outcome = loop {
            match connection.piece().await {
                Ok(Some(piece)) => read.extend_from_slice(&piece),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            if !is_changed {
                is_changed = true;
                let size = SIZE + usize::from(round) * 1000;
                match round % 3 {
                    // Replaced as a deploy does it: the old file is sent to its end.
                    0 => {
                        let new = path.with_extension("new");
                        fs::write(&new, vec![letter; size]).unwrap();
                        fs::rename(new, &path).unwrap();
                    }
                    // Written in place.
                    1 => fs::write(&path, vec![letter; size]).unwrap(),
                    // Cut, then written again.
                    _ => {
                        let mut file = fs::File::create(&path).unwrap();
                        file.write_all(&vec![letter; size]).unwrap();
                    }
                }
            }
        };
        match outcome {
            Ok(()) => {
                whole += 1;
                assert_eq!(read.len(), length, "{round}");
                assert!(read == vec![read[0]; length], "{round}: a mix");
            }
            Err(error) => {
                broken += 1;
                assert!(error.is_truncated(), "{round}: {error}");
                assert_ne!(round % 3, 0, "a replaced file is sent to its end");
            }
        }
    }
    println!("{whole} whole, {broken} broken off");
    assert!(
        whole >= 8 && broken >= 1,
        "{whole} whole, {broken} broken off"
    );
    gateway
        .counts("edgeway_refused_total{reason=\"file_changed\"}", broken)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_leave_descriptors_for_everything_else() {
    const LIMIT: u64 = 256;
    let content = vec![b'x'; 17 * 1024];
    let names: Vec<String> = (0..2 * LIMIT).map(|n| format!("{n}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &content[..])).collect();
    let gateway = front("", "", &files).await;
    let limit = Rlimit {
        current: Some(LIMIT),
        maximum: Some(LIMIT),
    };
    let pid = i32::try_from(gateway.pid()).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Nofile, limit).expect("it is ours");
    let mut connection = gateway.connect().await;
    for name in &names {
        let response = connection.send(&get(&format!("/{name}"))).await.unwrap();
        assert_eq!(response.status(), 200, "{name}");
    }
    let links = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
    let links = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    let served = gateway.folder().join("www");
    let open = links.filter(|link| link.starts_with(&served) && *link != served);
    let open = u64::try_from(open.count()).unwrap();
    assert!((1..=LIMIT / 8).contains(&open), "{open}");
    assert_eq!(
        gateway.status().await["process"]["lacked_descriptors"],
        false
    );
}
