//! 400 MB of responses into 256 MiB: the memory that the cache takes, and the responses that it
//! keeps when some are requested far more often than others.

use std::time::Duration;

use crate::{
    Report,
    support::{
        client::{Connection, get},
        front::Front,
        origins::NumberedOrigin,
        wait::pass,
    },
};

const OBJECTS: usize = 1000;
const OBJECT: usize = 400_000;
const BUDGET: u64 = 256 << 20;
/// Number of requests that warm the cache up; the next constant is the number that is measured.
const WARM: usize = 4000;
const COUNTED: usize = 4000;

pub(crate) async fn run(report: &mut Report) {
    let origin = NumberedOrigin::start().await;
    for object in 0..OBJECTS {
        let path = format!("/{object}");
        let headers = [
            ("cache-control", "max-age=86400"),
            ("content-type", "image/png"),
        ];
        origin.settings().tell(&path, 200, &headers);
        origin.settings().pad(&path, OBJECT);
    }
    let gateway = Front::to(&origin)
        .listener("limits: { requests_per_connection: 1000000 }")
        .with("access_log: false")
        .with("cache: { memory: 256MiB }")
        .route("cache: {}")
        .start()
        .await;
    let mut connection = gateway.connect().await;
    for _ in 0..50 {
        connection
            .send(&get("/status-not-there"))
            .await
            .expect("a response");
    }
    let before = gateway.rss();
    for object in 0..OBJECTS {
        fetch(&mut connection, object).await;
    }
    // Memory of a burst is returned within seconds.
    pass(Duration::from_secs(12)).await;
    let grown = gateway.rss().saturating_sub(before);
    let counted = gateway.count("edgeway_cache_bytes").await;
    Report::note(format!(
        "resident memory grew by {:.1} MiB, {:.1} MiB counted",
        mebibytes(grown),
        mebibytes(counted)
    ));
    report.check(counted <= BUDGET, "what is counted is within the budget");
    report.check(
        grown <= BUDGET + BUDGET / 10,
        "resident memory is within 10 % of the budget",
    );

    let mut zipf = Zipf::new(OBJECTS, 1);
    for _ in 0..WARM {
        fetch(&mut connection, zipf.next()).await;
    }
    let mut hits = 0;
    for _ in 0..COUNTED {
        hits += usize::from(fetch(&mut connection, zipf.next()).await);
    }
    let ratio = hits as f64 / COUNTED as f64;
    Report::note(format!(
        "Zipf(1.0) over {OBJECTS} responses: {ratio:.3} hits"
    ));
    report.check(ratio >= 0.80, "at least 80 % are hits");
    pass(Duration::from_secs(12)).await;
    let grown = gateway.rss().saturating_sub(before);
    Report::note(format!("then {:.1} MiB", mebibytes(grown)));
    report.check(
        grown <= BUDGET + BUDGET / 10,
        "resident memory is within 10 % of the budget after that too",
    );
}

/// Requests an object; returns true for a hit.
async fn fetch(connection: &mut Connection, object: usize) -> bool {
    let response = connection.send(&get(&format!("/{object}"))).await;
    let response = response.expect("a response");
    assert_eq!(response.status(), 200);
    response.header("x-cache-status") == Some("HIT")
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Random numbers of which the n-th is drawn 1/n as often as the first.
struct Zipf {
    /// Cumulative share of each number.
    shares: Vec<f64>,
    random: fastrand::Rng,
}

impl Zipf {
    fn new(numbers: usize, seed: u64) -> Self {
        let mut sum = 0.0;
        let shares = (1..=numbers).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self {
            shares: shares.collect(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn next(&mut self) -> usize {
        let all = self.shares.last().copied().unwrap_or_default();
        let drawn = self.random.f64() * all;
        self.shares.partition_point(|share| *share < drawn)
    }
}
