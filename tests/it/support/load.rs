//! Concurrent requests, and a count of their outcomes.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use super::{
    client::{ClientError, Connection, Request, Response, get, post},
    origins::MARK,
    wait::{pass, turn_of},
};

/// Outcomes of the requests of a load.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Errors of requests without a readable response.
    pub(crate) failed: Vec<String>,
    /// Responses that had begun and whose connection broke.
    pub(crate) truncated: u64,
    /// Responses by the port of the instance that sent them.
    pub(crate) served: BTreeMap<u16, u64>,
    pub(crate) times: Vec<Duration>,
    /// Times by status.
    pub(crate) times_of: BTreeMap<u16, Vec<Duration>>,
}

impl Tally {
    pub(crate) fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Returns the number of requests without a 2xx or a truncated body.
    pub(crate) fn errors(&self) -> u64 {
        let bad = self
            .statuses
            .iter()
            .filter(|(s, _)| !(200..300).contains(*s));
        bad.map(|(_, count)| count).sum::<u64>() + self.failed.len() as u64
    }

    pub(crate) fn total(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.failed.len() as u64 + self.truncated
    }

    pub(crate) fn served_by(&self, port: u16) -> u64 {
        self.served.get(&port).copied().unwrap_or(0)
    }

    /// Returns the time that this share of the responses stayed below.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        quantile(&self.times, share)
    }

    /// Returns the same for responses of one status.
    pub(crate) fn quantile_of(&self, status: u16, share: f64) -> Duration {
        let times = self.times_of.get(&status);
        quantile(times.map_or(&[], Vec::as_slice), share)
    }

    fn add(&mut self, response: Result<Response, ClientError>, took: Duration) {
        match response {
            Ok(response) => {
                *self.statuses.entry(response.status()).or_default() += 1;
                self.times.push(took);
                self.times_of
                    .entry(response.status())
                    .or_default()
                    .push(took);
                if let Some(port) = served_by(&response) {
                    *self.served.entry(port).or_default() += 1;
                }
            }
            Err(error) if error.is_truncated() => self.truncated += 1,
            Err(error) => self.failed.push(error.to_string()),
        }
    }

    fn merge(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (port, count) in other.served {
            *self.served.entry(port).or_default() += count;
        }
        self.failed.extend(other.failed);
        self.truncated += other.truncated;
        self.times.extend(other.times);
        for (status, times) in other.times_of {
            self.times_of.entry(status).or_default().extend(times);
        }
    }
}

fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() as f64 * share) as usize;
    let at = at.min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

/// Returns the instance that responded: apps name it in a header, the test origins in their JSON.
fn served_by(response: &Response) -> Option<u16> {
    if let Some(port) = response.header("x-instance") {
        return port.parse().ok();
    }
    let body: serde_json::Value = serde_json::from_slice(&response.body).ok()?;
    body["port"].as_u64()?.try_into().ok()
}

/// Pause of a lane between two requests of a load that leaves CPU time to others.
const MOMENT: Duration = Duration::from_millis(10);

/// Time at which each request of a load may be sent.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// As soon as its lane is free.
    Free,
    /// A moment after its lane is free.
    Calm,
    /// Not before its scheduled time.
    Each(Duration),
}

/// Sends `count` requests over `lanes` kept connections, each lane as fast as responses arrive.
pub(crate) async fn lanes(
    to: SocketAddr,
    lanes: usize,
    count: u64,
    request: impl Fn(u64) -> Request + Send + Sync + 'static,
) -> Tally {
    run(to, lanes, count, Pace::Free, request).await
}

/// Sends `per_second` requests a second for `length`, whether or not responses arrive.
pub(crate) async fn paced(
    to: SocketAddr,
    per_second: u32,
    length: Duration,
    request: impl Fn(u64) -> Request + Send + Sync + 'static,
) -> Tally {
    let gap = Duration::from_secs(1) / per_second;
    let count = (length.as_secs_f64() * f64::from(per_second)) as u64;
    // Enough lanes that a second without responses does not slow the load.
    run(to, per_second as usize, count, Pace::Each(gap), request).await
}

/// Connection handling of a load's lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    KeepAlive,
    /// A new connection for each request.
    Fresh,
}

/// Load that continues until it is stopped.
pub(crate) struct Endless {
    lanes: JoinSet<Tally>,
    stop: Arc<AtomicBool>,
}

/// Starts `lanes` lanes, each with a moment between a response and the next request: the tests that
/// run at the same time need the CPUs too.
pub(crate) fn endless(
    to: SocketAddr,
    lanes: usize,
    kind: Lanes,
    request: impl Fn(u64) -> Request + Send + Sync + 'static,
) -> Endless {
    begin(to, lanes, kind, Pace::Calm, request)
}

/// Starts `lanes` lanes, each as fast as responses arrive.
pub(crate) fn flat_out(
    to: SocketAddr,
    lanes: usize,
    kind: Lanes,
    request: impl Fn(u64) -> Request + Send + Sync + 'static,
) -> Endless {
    begin(to, lanes, kind, Pace::Free, request)
}

/// Starts a load of a fixed rate over kept connections, whether or not responses arrive.
pub(crate) fn endless_paced(
    to: SocketAddr,
    per_second: u32,
    request: impl Fn(u64) -> Request + Send + Sync + 'static,
) -> Endless {
    let pace = Pace::Each(Duration::from_secs(1) / per_second);
    begin(to, per_second as usize, Lanes::KeepAlive, pace, request)
}

fn begin(
    to: SocketAddr,
    lanes: usize,
    kind: Lanes,
    pace: Pace,
    request: impl Fn(u64) -> Request + Send + Sync + 'static,
) -> Endless {
    let start = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let (next, request) = (Arc::new(AtomicU64::new(0)), Arc::new(request));
    let mut set = JoinSet::new();
    for _ in 0..lanes {
        let (next, request, stop) = (Arc::clone(&next), Arc::clone(&request), Arc::clone(&stop));
        set.spawn(async move {
            let mut tally = Tally::default();
            let mut connection = None;
            while !stop.load(Ordering::Relaxed) {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                if let Pace::Each(gap) = pace {
                    let turn = u32::try_from(turn).expect("a load ends within hours");
                    turn_of(start + gap * turn).await;
                }
                let begun = Instant::now();
                let response = exchange(&mut connection, to, &request(turn)).await;
                if kind == Lanes::Fresh {
                    connection = None;
                }
                tally.add(response, begun.elapsed());
                if let Pace::Calm = pace {
                    pass(MOMENT).await;
                }
            }
            tally
        });
    }
    Endless { lanes: set, stop }
}

impl Endless {
    /// Stops the load and returns its outcomes.
    pub(crate) async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Tally::default();
        for tally in self.lanes.join_all().await {
            total.merge(tally);
        }
        total
    }
}

async fn run(
    to: SocketAddr,
    lanes: usize,
    count: u64,
    pace: Pace,
    request: impl Fn(u64) -> Request + Send + Sync + 'static,
) -> Tally {
    let (next, request) = (Arc::new(AtomicU64::new(0)), Arc::new(request));
    let start = Instant::now();
    let mut work = JoinSet::new();
    for _ in 0..lanes {
        let (next, request) = (Arc::clone(&next), Arc::clone(&request));
        work.spawn(async move {
            let mut tally = Tally::default();
            let mut connection = None;
            loop {
                let turn = next.fetch_add(1, Ordering::SeqCst);
                if turn >= count {
                    return tally;
                }
                if let Pace::Each(gap) = pace {
                    let turn = u32::try_from(turn).expect("a load ends within hours");
                    turn_of(start + gap * turn).await;
                }
                let begun = Instant::now();
                let response = exchange(&mut connection, to, &request(turn)).await;
                tally.add(response, begun.elapsed());
            }
        });
    }
    let mut total = Tally::default();
    while let Some(tally) = work.join_next().await {
        total.merge(tally.expect("a lane does not panic"));
    }
    total
}

/// Sends one request on the lane's connection, which is dropped when it breaks or should close.
async fn exchange(
    lane: &mut Option<Connection>,
    to: SocketAddr,
    request: &Request,
) -> Result<Response, ClientError> {
    let mut connection = match lane.take() {
        Some(connection) => connection,
        None => Connection::open(to).await?,
    };
    let response = connection.send(request).await?;
    let closes = response
        .header("connection")
        .is_some_and(|v| v.eq_ignore_ascii_case("close"));
    if !closes {
        *lane = Some(connection);
    }
    Ok(response)
}

/// Runs twenty lanes that send at the same time, repeatedly at the moment when an origin closes
/// idle connections. Returns the mark of each request and its status.
pub(crate) async fn race(
    to: SocketAddr,
    rounds: u64,
    idle: Duration,
    method: &'static str,
) -> Vec<(String, u16)> {
    let mut lanes = JoinSet::new();
    for lane in 0..20 {
        // Each lane aims at a different moment from 5 ms before to 5 ms after.
        let early = Duration::from_millis(5).saturating_sub(Duration::from_micros(500 * lane));
        let delay = Duration::from_micros(500 * lane).saturating_sub(Duration::from_millis(5));
        let gap = idle.saturating_sub(early) + delay;
        lanes.spawn(async move {
            let (mut connection, mut seen) = (None, Vec::new());
            for round in 0..rounds {
                if round > 0 {
                    pass(gap).await;
                }
                let mark = format!("{method}-{lane}-{round}");
                let request = match method {
                    "POST" => post("/", "x"),
                    _ => get("/"),
                };
                let response = exchange(&mut connection, to, &request.header(MARK, &mark)).await;
                let response = response.expect("the gateway responds to each request");
                seen.push((mark, response.status()));
            }
            seen
        });
    }
    lanes.join_all().await.into_iter().flatten().collect()
}
