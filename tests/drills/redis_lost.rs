//! Redis is flushed, paused, killed and brought back under load, and a cluster loses a master: no
//! request fails or waits for it, and limits continue to apply.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Report,
    support::{
        client::get,
        gateway::{Gateway, sum_of},
        load::endless_paced,
        redis::{Cluster, Redis},
        wait::{pass, until, wait_for},
    },
};

const PER_SECOND: u32 = 200;
/// Duration of each state.
const WHILE: Duration = Duration::from_secs(4);
/// Maximum time until gateways share again.
const BACK_WITHIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// Two gateways with one Redis. The load is on both.
struct Pair {
    gateways: [Gateway; 2],
    /// Number of measurements; each uses new clients.
    questions: u32,
}

impl Pair {
    async fn start(redis: &str) -> Self {
        let yaml = format!(
            "
redis: {redis}
rate_limits:
  many: {{ rate: 60/min, burst: 20, key: 'header:x-client', store: redis, on_store_error: local }}
  few: {{ rate: 3/h, key: 'header:x-client', store: redis, on_store_error: local }}
routes:
  - {{ match: {{ path: /few }}, respond: ok, rate_limit: [few] }}
  - {{ match: {{ path: /* }}, respond: ok, rate_limit: [many] }}
"
        );
        let gateways = [Gateway::start(&yaml).await, Gateway::start(&yaml).await];
        let pair = Self {
            gateways,
            questions: 0,
        };
        wait_for("redis is up", PATIENCE, async || {
            pair.are_up(1).await.then_some(())
        })
        .await;
        pair
    }

    async fn are_up(&self, is_up: u64) -> bool {
        for gateway in &self.gateways {
            if gateway.count("edgeway_redis_up").await != is_up {
                return false;
            }
        }
        true
    }

    /// Returns how many of six requests of one client pass, three to each gateway: three if they
    /// share, six if not.
    async fn passed(&mut self) -> u32 {
        self.questions += 1;
        let client = format!("question-{}", self.questions);
        let mut passed = 0;
        for gateway in &self.gateways {
            for _ in 0..3 {
                let ask = get("/few").header("x-client", &client);
                passed += u32::from(gateway.send(&ask).await.status() == 200);
            }
        }
        passed
    }

    /// Returns true if gateways share for any client, wherever its bucket is.
    async fn share(&mut self, clients: u32) -> bool {
        for _ in 0..clients {
            if self.passed().await != 3 {
                return false;
            }
        }
        true
    }

    /// Returns the time until they share again.
    async fn shared_after(&mut self, clients: u32) -> Option<Duration> {
        let begun = Instant::now();
        until(PATIENCE, &mut async || {
            self.share(clients).await.then(|| begun.elapsed())
        })
        .await
    }

    /// Checks the effects of a lost Redis, and that each gateway counts by itself.
    async fn by_themselves(&mut self, report: &mut Report, fault: &str) {
        let begun = Instant::now();
        let down = until(BACK_WITHIN, &mut async || {
            self.are_up(0).await.then(|| begun.elapsed())
        })
        .await;
        report.check(
            down.is_some(),
            format!("{fault}: `edgeway_redis_up` is 0 after {down:.2?}"),
        );
        pass(WHILE).await;
        let passed = self.passed().await;
        report.check(
            passed == 6,
            format!("{fault}: each gateway lets 3 of 3 pass by itself ({passed} of 6)"),
        );
        self.questions += 1;
        let (client, mut passed) = (format!("alone-{}", self.questions), 0);
        for _ in 0..4 {
            let ask = get("/few").header("x-client", &client);
            passed += u32::from(self.gateways[0].send(&ask).await.status() == 200);
        }
        report.check(
            passed == 3 && self.are_up(0).await,
            format!("{fault}: the limit goes on, {passed} of 4 pass at one gateway"),
        );
    }

    async fn back(&mut self, report: &mut Report, fault: &str, clients: u32) {
        let after = self.shared_after(clients).await;
        report.check(
            after.is_some_and(|after| after < BACK_WITHIN) && self.are_up(1).await,
            format!("{fault}: shared again after {after:.2?}"),
        );
    }

    /// Reports the waiting times from the gateways' metrics.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole things are counted"
    )]
    async fn waits(&self, report: &mut Report) {
        for gateway in &self.gateways {
            let text = gateway.admin_get("/metrics").await.text();
            let of = |series: &str| sum_of(&text, series) as u64;
            let all = of("edgeway_redis_command_duration_seconds_count");
            let timely = of("edgeway_redis_command_duration_seconds_bucket{le=\"0.02\"}");
            Report::note(format!(
                "{all} commands: {} within 1 ms, {} within 5 ms, {} within 15 ms, {timely} within 20 ms; \
                 {} timeouts, {} of a lost connection; {} not sent",
                of("edgeway_redis_command_duration_seconds_bucket{le=\"0.001\"}"),
                of("edgeway_redis_command_duration_seconds_bucket{le=\"0.005\"}"),
                of("edgeway_redis_command_duration_seconds_bucket{le=\"0.015\"}"),
                of("edgeway_redis_errors_total{kind=\"timeout\"}"),
                of("edgeway_redis_errors_total{kind=\"connection\"}"),
                of("edgeway_redis_errors_total{kind=\"open\"}"),
            ));
            report.check(
                all > 0 && timely == all,
                format!("no wait above 20 ms: {timely} of {all}"),
            );
        }
    }

    /// Runs `faults` under a load of 200 requests a second, half of it to each gateway.
    async fn under_load(
        &mut self,
        report: &mut Report,
        faults: impl AsyncFnOnce(&mut Self, &mut Report),
    ) {
        let load = |gateway: &Gateway| {
            endless_paced(gateway.address(), PER_SECOND / 2, |turn| {
                get("/").header("x-client", (turn % 40).to_string())
            })
        };
        let loads = [load(&self.gateways[0]), load(&self.gateways[1])];
        pass(WHILE).await;
        faults(self, report).await;
        pass(WHILE).await;
        for load in loads {
            let tally = load.stop().await;
            let accounted = tally.status(200) + tally.status(429);
            report.check(
                accounted == tally.total() && tally.status(429) > 0,
                format!(
                    "{accounted} of {} served by the limit: {:?}",
                    tally.total(),
                    tally.statuses
                ),
            );
            Report::note(format!(
                "p50 {:.2?}, p99 {:.2?}, at most {:.2?}",
                tally.quantile(0.5),
                tally.quantile(0.99),
                tally.quantile(1.0)
            ));
        }
        self.waits(report).await;
    }
}

pub(crate) async fn run(report: &mut Report) {
    let mut redis = Redis::start().await;
    let mut pair = Pair::start(&redis.url()).await;
    report.check(pair.share(3).await, "control: the gateways share");
    pair.under_load(report, async |pair, report| {
        redis.flush();
        pair.back(report, "flushed", 1).await;
        pass(WHILE).await;
        for _ in 0..3 {
            redis.pause();
            pair.by_themselves(report, "paused").await;
            redis.resume();
            pair.back(report, "resumed", 1).await;
        }
        redis.kill();
        pair.by_themselves(report, "killed").await;
        redis.restart().await;
        pair.back(report, "restarted", 1).await;
    })
    .await;
    drop(pair);

    let mut cluster = Cluster::start().await;
    let nodes = cluster.addresses();
    let mut pair = Pair::start(&format!("{{ mode: cluster, nodes: [{nodes}] }}")).await;
    report.check(
        pair.share(20).await,
        "control: the gateways share a cluster",
    );
    pair.under_load(report, async |pair, report| {
        let master = cluster.masters()[0];
        cluster.0[master].kill();
        let begun = Instant::now();
        let down = until(BACK_WITHIN, &mut async || {
            pair.are_up(0).await.then_some(())
        })
        .await;
        report.check(
            down.is_some(),
            "a master is killed: `edgeway_redis_up` is 0",
        );
        let is_master = wait_for("the replica takes over", PATIENCE, async || {
            (cluster.masters().len() == 3).then(|| begun.elapsed())
        });
        Report::note(format!(
            "the replica took over after {:.2?}",
            is_master.await
        ));
        pair.back(report, "failed over", 20).await;
    })
    .await;
}
