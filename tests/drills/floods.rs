//! Floods of HTTP/2 frames: their connections are closed, and no other client notices.

use std::{net::SocketAddr, time::Duration};

use tokio::{io::AsyncReadExt, process::Command, task::JoinSet, time::Instant};

use crate::{
    Report,
    support::{
        client::get,
        front::Front,
        gateway::{Gateway, cpu_of},
        http2::{
            CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, PRIORITY,
            RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
        },
        load::paced,
        origins::EchoOrigin,
        wait::pass,
    },
};

const LENGTH: Duration = Duration::from_secs(5);
/// Number of attackers; each reconnects as soon as its connection is closed.
const ATTACKERS: usize = 8;
/// Number of attackers whose requests are real work for the origin, too.
const WORKERS: usize = 1;
/// Approximate bytes of one write.
const PIECE: usize = 32 * 1024;
const MIB: u64 = 1024 * 1024;

/// Bytes that an attacker sends first, and bytes that it repeats.
struct Flood {
    name: &'static str,
    first: Vec<u8>,
    again: Again,
    /// Set if it reads responses.
    reads: bool,
}

enum Again {
    Same(Vec<u8>),
    /// Requests that are reset at once.
    Resets,
    /// More requests than may be open.
    Requests,
}

pub(crate) async fn run(report: &mut Report) {
    let origin = EchoOrigin::start().await;
    let gateway = Front::to(&origin).http2().start().await;
    let address = gateway.address();
    requests(report, address).await;

    // The first seconds of any process are slower, and take memory that stays.
    paced(address, 200, Duration::from_secs(2), |_| get("/")).await;
    let quiet = paced(address, 200, LENGTH, |_| get("/")).await;
    Report::note(format!("p95 {:.2?} when quiet", quiet.quantile(0.95)));
    for flood in floods() {
        attack(report, &gateway, flood).await;
    }
}

/// The control: as many streams as clients like, one after the other.
async fn requests(report: &mut Report, address: SocketAddr) {
    let output = Command::new("h2load")
        .args(["-n", "20000", "-c", "10", "-m", "10"])
        .arg(format!("http://{address}/"))
        .output()
        .await
        .expect("h2load is installed: run `make drills`");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |start: &str| text.lines().find(|line| line.starts_with(start));
    Report::note(line("finished").unwrap_or("h2load did not finish"));
    let requests = line("requests:").unwrap_or_default();
    report.check(
        requests.contains("20000 succeeded, 0 failed"),
        format!("h2load: {requests}"),
    );
}

fn floods() -> Vec<Flood> {
    let flood = |name, first, again| Flood {
        name,
        first,
        again: Again::Same(again),
        reads: true,
    };
    let begun = |flags, method| frame(HEADERS, flags, 1, &block(method, "/"));
    let ping = frame(PING, 0, 0, &[0; 8]);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
    vec![
        Flood {
            name: "rapid reset",
            first: Vec::new(),
            again: Again::Resets,
            reads: true,
        },
        Flood {
            name: "requests, and nothing read",
            first: Vec::new(),
            again: Again::Requests,
            reads: false,
        },
        flood(
            "CONTINUATION",
            begun(END_STREAM, "GET"),
            frame(CONTINUATION, 0, 1, &[]),
        ),
        flood("PING", Vec::new(), ping.clone()),
        Flood {
            name: "PING, and nothing read",
            first: Vec::new(),
            again: Again::Same(ping),
            reads: false,
        },
        flood("SETTINGS", Vec::new(), settings.clone()),
        Flood {
            name: "SETTINGS, and nothing read",
            first: Vec::new(),
            again: Again::Same(settings),
            reads: false,
        },
        flood(
            "empty DATA",
            begun(END_HEADERS, "POST"),
            frame(DATA, 0, 1, &[]),
        ),
        flood("PRIORITY", Vec::new(), frame(PRIORITY, 0, 1, &[0; 5])),
        flood(
            "WINDOW_UPDATE",
            Vec::new(),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ),
    ]
}

async fn attack(report: &mut Report, gateway: &Gateway, flood: Flood) {
    let name = flood.name;
    let address = gateway.address();
    let pid = gateway.pid();
    let before = gateway.rss();
    let flood = std::sync::Arc::new(flood);
    let mut attackers = JoinSet::new();
    let count = match flood.again {
        Again::Requests => WORKERS,
        Again::Same(_) | Again::Resets => ATTACKERS,
    };
    for _ in 0..count {
        let flood = std::sync::Arc::clone(&flood);
        attackers.spawn(async move {
            let end = Instant::now() + LENGTH;
            let mut connections = 0u64;
            while Instant::now() < end {
                once(address, &flood, end).await;
                connections += 1;
            }
            connections
        });
    }
    let others = paced(address, 200, LENGTH, |_| get("/")).await;
    let connections: u64 = attackers.join_all().await.into_iter().sum();
    pass(Duration::from_secs(1)).await;
    let (cpu, rss) = (cpu_of(pid), gateway.rss());
    pass(Duration::from_secs(1)).await;
    let idle = cpu_of(pid).saturating_sub(cpu);

    let p95 = others.quantile(0.95);
    report.check(
        others.errors() == 0 && p95 < Duration::from_millis(50),
        format!(
            "{name}: p95 of others {p95:.2?}, {} errors",
            others.errors()
        ),
    );
    report.check(
        connections > count as u64,
        format!("{name}: {connections} connections were ended"),
    );
    report.check(
        idle <= Duration::from_millis(50),
        format!("{name}: {idle:.0?} of CPU in the second after the next"),
    );
    let grown = rss.saturating_sub(before);
    report.check(
        grown < 16 * MIB,
        format!("{name}: memory {} MiB, was {} MiB", rss / MIB, before / MIB),
    );
}

/// Runs one connection until it is closed or the attack ends.
async fn once(address: SocketAddr, flood: &Flood, end: Instant) {
    let mut frames = Frames::open(address).await;
    let mut next = 1u32;
    let mut piece = || match &flood.again {
        Again::Same(bytes) => bytes.repeat(PIECE / bytes.len()),
        Again::Resets | Again::Requests => {
            let request = block("GET", "/");
            let mut bytes = Vec::with_capacity(PIECE);
            while bytes.len() < PIECE {
                let flags = END_HEADERS | END_STREAM;
                bytes.extend(frame(HEADERS, flags, next, &request));
                if matches!(flood.again, Again::Resets) {
                    bytes.extend(frame(RST_STREAM, 0, next, &[0, 0, 0, 8]));
                }
                next += 2;
            }
            bytes
        }
    };
    if frames.write(&flood.first).await.is_err() {
        return;
    }
    let (mut reader, mut writer) = frames.stream.into_split();
    let writing = async {
        while Instant::now() < end {
            if tokio::io::AsyncWriteExt::write_all(&mut writer, &piece())
                .await
                .is_err()
            {
                break;
            }
        }
    };
    let reading = async {
        let mut buffer = vec![0; 64 * 1024];
        if !flood.reads {
            std::future::pending::<()>().await;
        }
        while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
        () = tokio::time::sleep_until(end) => {}
    }
}
