//! Two gateways and one Redis: a client gets as many requests as the limit says, whichever gateway
//! it uses. With leases it gets slightly more at most, and without Redis twice as many.

use std::time::Duration;

use tokio::{task::JoinSet, time::Instant};

use crate::{
    Report,
    support::{
        client::get,
        gateway::Gateway,
        load::{Tally, paced},
        redis::Redis,
        wait::wait_for,
    },
};

/// 400 requests a second in total, equally many from each client to each gateway.
const CLIENTS: u32 = 8;
const PER_SECOND: u32 = 25;
const LENGTH: Duration = Duration::from_secs(10);
/// Requests in a minute, and at once.
const RATE: f64 = 100.0;
/// Maximum that two gateways hold with `lease: 10%`.
const LEASED: f64 = 20.0;

/// Requests that passed for each client.
struct Outcome {
    passed: Vec<u64>,
    took: Duration,
    asked: u64,
}

impl Outcome {
    fn least(&self) -> u64 {
        self.passed.iter().copied().min().unwrap_or_default()
    }

    fn most(&self) -> u64 {
        self.passed.iter().copied().max().unwrap_or_default()
    }

    /// Returns the bucket, plus the refill meanwhile.
    fn bound(&self) -> f64 {
        (RATE + self.took.as_secs_f64() * RATE / 60.0).ceil()
    }
}

async fn gateway(redis: &Redis, store: &str) -> Gateway {
    let gateway = Gateway::start(&format!(
        "redis: {}\nrate_limits: {{ user: {{ rate: 100/min, key: 'header:x-client', {store} }} }}\n\
         routes: [{{ match: {{ path: /* }}, respond: ok, rate_limit: [user] }}]\n",
        redis.url()
    ))
    .await;
    wait_for("redis is up", Duration::from_secs(10), async || {
        (gateway.count("edgeway_redis_up").await == 1).then_some(())
    })
    .await;
    gateway
}

async fn outcome(report: &mut Report, redis: &Redis, store: &str) -> Outcome {
    let gateways = [gateway(redis, store).await, gateway(redis, store).await];
    redis.flush();
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let begun = Instant::now();
    let mut loads = JoinSet::new();
    for client in 0..CLIENTS {
        for gateway in &gateways {
            let address = gateway.address();
            loads.spawn(async move {
                let load = paced(address, PER_SECOND, LENGTH, move |_| {
                    get("/").header("x-client", client.to_string())
                });
                (client as usize, load.await)
            });
        }
    }
    let mut tallies: Vec<Vec<Tally>> = (0..CLIENTS).map(|_| Vec::new()).collect();
    for (client, tally) in loads.join_all().await {
        tallies[client].push(tally);
    }
    let took = begun.elapsed();
    let all = || tallies.iter().flatten();
    let accounted: u64 = all().map(|t| t.status(200) + t.status(429)).sum();
    let total: u64 = all().map(Tally::total).sum();
    report.check(
        accounted == total,
        format!("{store}: {accounted} of {total} requests got 200 or 429"),
    );
    let info = redis.cli(&["INFO", "commandstats"]);
    let calls = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    let asked = calls.and_then(|rest| rest.split(',').next()?.parse().ok());
    let mut lost = 0;
    for gateway in &gateways {
        lost += gateway.count("edgeway_rate_limit_store_errors_total").await;
    }
    report.check(lost == 0, format!("{store}: Redis was there for each"));
    Outcome {
        passed: tallies
            .iter()
            .map(|both| both.iter().map(|t| t.status(200)).sum())
            .collect(),
        took,
        asked: asked.unwrap_or_default(),
    }
}

pub(crate) async fn run(report: &mut Report) {
    let redis = Redis::start().await;
    let mut each = Vec::new();
    for store in ["store: redis", "store: redis, lease: 10%", "store: memory"] {
        let outcome = outcome(report, &redis, store).await;
        Report::note(format!(
            "{store}: {:?} passed for each client in {:.2?}; Redis was asked {} times",
            outcome.passed, outcome.took, outcome.asked
        ));
        each.push(outcome);
    }
    let [shared, leased, memory] = each.try_into().unwrap_or_else(|_| unreachable!("three"));
    let bound = shared.bound();
    report.check(
        shared.least() as f64 >= RATE && shared.most() as f64 <= bound,
        format!("shared: from {RATE} to {bound} for each client"),
    );
    let bound = leased.bound() + LEASED;
    report.check(
        leased.least() as f64 >= RATE - LEASED && leased.most() as f64 <= bound,
        format!("with leases: at most {bound} for each client"),
    );
    report.check(
        leased.asked < shared.asked,
        "with leases Redis is asked less often",
    );
    report.check(
        memory.least() > 200 && memory.asked == 0,
        "control: each gateway by itself lets as many pass again",
    );
}
