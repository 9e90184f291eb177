//! Five hundred clients send headers byte by byte: all are closed in time, and no other client
//! notices.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::Instant,
};

use crate::{
    Report,
    support::{
        client::{Connection, get},
        front::Front,
        gateway::Gateway,
        load::{Tally, lanes, paced},
        origins::EchoOrigin,
        wait::{pass, until},
    },
};

const ADDRESSES: u8 = 50;
const EACH: usize = 10;
/// Duration of the phases before, during and after the attack.
const LENGTH: Duration = Duration::from_secs(14);
const BYTE: Duration = Duration::from_secs(1);
/// The gateway's own default.
const DUE: Duration = Duration::from_secs(10);
const TOLERANCE: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;
const MIB: u64 = 1024 * 1024;
/// Memory that an allocator may keep.
const SLACK: u64 = 4 * MIB;

/// End of one connection.
struct End {
    took: Duration,
    got_408: bool,
}

pub(crate) async fn run(report: &mut Report) {
    let origin = EchoOrigin::start().await;
    let gateway = Front::to(&origin)
        .listener("limits: { connections_per_ip: 250 }")
        .upstream("app: node")
        .start()
        .await;
    let ordinary = || paced(gateway.address(), 200, LENGTH, |_| get("/"));
    // As many clients as attack later, so that the gateway has allocated for them once.
    lanes(gateway.address(), 240, 5000, |_| get("/")).await;
    let quiet = ordinary().await.quantile(0.95);
    let before = settled(&gateway, None).await;

    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(attack(report, &gateway, ordinary).await);
        // The allocator returns free memory as others allocate.
        ordinary().await;
        let held = settled(&gateway, Some(before)).await;
        Report::note(format!("{held} held after it"));
    }
    rounds.sort();
    let p95 = rounds[ROUNDS / 2];
    report.check(
        p95 < Duration::from_millis(50),
        format!("p95 of the others is {p95:.2?} (median of {ROUNDS}), {quiet:.2?} when quiet"),
    );
    let counted = gateway
        .count("edgeway_refused_total{reason=\"header_timeout\"}")
        .await;
    let wanted = ROUNDS * usize::from(ADDRESSES) * EACH;
    report.check(
        counted == wanted as u64,
        format!("{counted} are in the metric"),
    );
    let after = settled(&gateway, Some(before)).await;
    let is_back = after.files <= before.files && after.memory <= before.memory + SLACK;
    report.check(is_back, format!("{after} held, {before} before"));
}

/// Runs the attack with all of them at once; returns the p95 of other requests.
async fn attack<L>(report: &mut Report, gateway: &Gateway, ordinary: impl Fn() -> L) -> Duration
where
    L: Future<Output = Tally>,
{
    let address = gateway.address();
    let dripping = async {
        let mut clients = JoinSet::new();
        for last in 1..=ADDRESSES {
            for _ in 0..EACH {
                clients.spawn(drip(Ipv4Addr::new(127, 0, 1, last).into(), address));
            }
        }
        clients.join_all().await
    };
    let (ends, others) = tokio::join!(dripping, ordinary());
    let in_time = |end: &&End| end.took.abs_diff(DUE) <= TOLERANCE;
    let on_time = ends.iter().filter(in_time).count();
    let with_408 = ends.iter().filter(|end| end.got_408).count();
    let first = ends.iter().map(|end| end.took).min().unwrap_or_default();
    let last = ends.iter().map(|end| end.took).max().unwrap_or_default();
    report.check(
        on_time == ends.len() && with_408 == ends.len(),
        format!("{on_time} closed at 10 s ± 1 s ({first:.2?} to {last:.2?}), {with_408} with 408"),
    );
    let failed = others.errors() + others.truncated;
    report.check(
        failed == 0,
        format!("{failed} of {} others failed", others.total()),
    );
    others.quantile(0.95)
}

/// Memory and files that the gateway holds.
#[derive(Clone, Copy)]
struct Held {
    files: usize,
    memory: u64,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.memory as f64 / MIB as f64;
        write!(f, "{} descriptors and {mib:.1} MiB", self.files)
    }
}

/// Returns what it holds after idle connections have closed, and if possible once it is down to
/// `target`.
async fn settled(gateway: &Gateway, target: Option<Held>) -> Held {
    let folder = format!("/proc/{}/fd", gateway.pid());
    let held = || Held {
        files: fs::read_dir(&folder).map_or(0, Iterator::count),
        memory: gateway.rss(),
    };
    let Some(target) = target else {
        // Connections to the backend are closed after four idle seconds.
        pass(Duration::from_secs(6)).await;
        return held();
    };
    let limit = Duration::from_secs(30);
    let mut is_down = async || {
        let held = held();
        let is_back = held.files <= target.files && held.memory <= target.memory + SLACK;
        is_back.then_some(held)
    };
    until(limit, &mut is_down).await.unwrap_or_else(held)
}

/// Sends one byte of a header section each second, until the connection ends.
async fn drip(from: IpAddr, to: SocketAddr) -> End {
    let opened = Connection::open_from(from, to).await;
    let stream = opened.expect("the gateway accepts").into_stream();
    let started = Instant::now();
    let (mut reading, mut writing) = stream.into_split();
    let dripping = async {
        for byte in b"GET / HTTP/1.1\r\nx-very-long: ".iter().cycle() {
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
            pass(BYTE).await;
        }
        std::future::pending::<()>().await;
    };
    let mut response = Vec::new();
    tokio::select! {
        () = dripping => {}
        // A reset is an end as well.
        _end = reading.read_to_end(&mut response) => {}
    }
    End {
        took: started.elapsed(),
        got_408: response.starts_with(b"HTTP/1.1 408 "),
    }
}
