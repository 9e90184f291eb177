//! A gibibyte down and up, with a length and in chunks: the gateway's memory does not grow.

use tokio::time::Instant;

use crate::{
    Report,
    support::{
        client::{Request, get, post},
        front::Front,
        gateway::Gateway,
        origins::BigOrigin,
    },
};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const BOUND: u64 = 16 * MIB;

pub(crate) async fn run(report: &mut Report) {
    let origin = BigOrigin::start().await;
    let gateway = Front::to(&origin).route("body_limit: 2GiB").start().await;
    // Memory that the first requests of any kind allocate is not growth.
    for request in [get("/?bytes=10000000"), post("/", "").filler(10 * MIB)] {
        exchange(&gateway, &request).await;
    }
    let runs: [(&str, Request); 4] = [
        ("down, with a length", get(&format!("/?bytes={GIB}"))),
        ("down, in chunks", get(&format!("/?bytes={GIB}&chunked=1"))),
        ("up, with a length", post("/", "").filler(GIB)),
        ("up, in chunks", post("/", "").filler_chunked(GIB)),
    ];
    for (name, request) in runs {
        let before = gateway.rss();
        let begun = Instant::now();
        let (status, bytes, highest) = exchange(&gateway, &request).await;
        let growth = highest.saturating_sub(before);
        let took = begun.elapsed();
        report.check(
            status == 200 && bytes == GIB && growth < BOUND,
            format!("{name}: {status}, {bytes} bytes in {took:.1?}, memory grew by {growth} bytes"),
        );
    }
}

/// Returns the status, the bytes that passed (as the origin counts them for uploads), and the
/// gateway's peak memory.
async fn exchange(gateway: &Gateway, request: &Request) -> (u16, u64, u64) {
    let mut highest = gateway.rss();
    let mut connection = gateway.connect().await;
    let exchange = async {
        let headers = connection
            .start(request)
            .await
            .expect("the gateway responds");
        let (mut bytes, mut last) = (0, Vec::new());
        while let Some(piece) = connection.piece().await.expect("the body is complete") {
            bytes += piece.len() as u64;
            last = piece.to_vec();
        }
        let counted = serde_json::from_slice::<serde_json::Value>(&last).ok();
        let counted = counted.and_then(|response| response["bytes"].as_u64());
        (headers.status, counted.unwrap_or(bytes))
    };
    tokio::pin!(exchange);
    let mut look = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        tokio::select! {
            (status, bytes) = &mut exchange => return (status, bytes, highest.max(gateway.rss())),
            _ = look.tick() => highest = highest.max(gateway.rss()),
        }
    }
}
