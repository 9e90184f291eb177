//! Redis is stopped, paused, flushed, killed and brought back under a load on cached routes with
//! level 2: no request fails or waits longer than the deadline, and gateways share responses again.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Report,
    support::{
        client::{Request, get},
        front::Front,
        gateway::{Gateway, sum_of},
        load::endless_paced,
        origins::{NumberedOrigin, Origin},
        redis::Redis,
        wait::{pass, until, wait_for},
    },
};

const PER_SECOND: u32 = 200;
/// Duration of each state: longer than a lease of purges.
const WHILE: Duration = Duration::from_secs(5);
/// Number of turns after which the other gateway gets the same request; an even number.
const BEHIND: u64 = 20;
/// Maximum time until gateways share again.
const BACK_WITHIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);
const LINKED: &str = "edgeway_cache_purge_link_up";

/// Two gateways with one Redis. The load is on both.
struct Pair {
    gateways: [Gateway; 2],
    /// Origin that ends with the pair.
    _origin: Origin<NumberedOrigin>,
}

fn page(name: &str) -> Request {
    get(&format!("/page?{name}")).header("host", "shop")
}

impl Pair {
    async fn start(redis: &Redis) -> Self {
        let origin = NumberedOrigin::start().await;
        let minute = [("cache-control", "max-age=60")];
        origin.settings().tell("/page", 200, &minute);
        let yaml = Front::to(&origin)
            .with(&format!("redis: {}", redis.section("")))
            .with("cache: { shared: redis }")
            .route("name: app, cache: {}")
            .yaml();
        let pair = Self {
            gateways: [Gateway::start(&yaml).await, Gateway::start(&yaml).await],
            _origin: origin,
        };
        wait_for("purges are followed", PATIENCE, async || {
            pair.are_linked(true).await.then_some(())
        })
        .await;
        pair
    }

    async fn are_linked(&self, is_linked: bool) -> bool {
        for gateway in &self.gateways {
            if gateway.count(LINKED).await != u64::from(is_linked) {
                return false;
            }
        }
        true
    }

    /// Returns true if the second gateway finds a response that only the first one requested.
    async fn share(&self) -> bool {
        let [first, second] = &self.gateways;
        let new = page(&format!("{:x}", fastrand::u64(..)));
        first.send(&new).await;
        // It is written in the background.
        pass(Duration::from_millis(50)).await;
        let ask = new.header("cache-control", "only-if-cached");
        second.send(&ask).await.status() == 200
    }

    /// Checks the effects of a lost Redis.
    async fn lost(&self, report: &mut Report, fault: &str) {
        pass(WHILE).await;
        report.check(
            self.are_linked(false).await && !self.share().await,
            format!("{fault}: the link of purges is lost, and nothing is shared"),
        );
    }

    async fn back(&self, report: &mut Report, fault: &str) {
        let begun = Instant::now();
        let after = until(PATIENCE, &mut async || {
            (self.are_linked(true).await && self.share().await).then(|| begun.elapsed())
        })
        .await;
        report.check(
            after.is_some_and(|after| after < BACK_WITHIN),
            format!("{fault}: the link is back and responses are shared after {after:.2?}"),
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
            let within = |bound: &str| {
                of(&format!(
                    "edgeway_cache_level2_lookup_duration_seconds_bucket{{route=\"app\",le=\"{bound}\"}}"
                ))
            };
            let came = |result: &str| {
                of(&format!(
                    "edgeway_cache_level2_lookup_duration_seconds_count{{route=\"app\",result=\"{result}\"}}"
                ))
            };
            let (all, timely) = (
                of("edgeway_cache_level2_lookup_duration_seconds_count"),
                within("0.02"),
            );
            Report::note(format!(
                "level 2 was asked {all} times ({} hits, {} misses, {} errors): {} within 1 ms, \
                 {} within 5 ms, {} within 15 ms, {timely} within 20 ms",
                came("hit"),
                came("miss"),
                came("error"),
                within("0.001"),
                within("0.005"),
                within("0.015"),
            ));
            report.check(
                came("hit") > 0 && came("error") > 0 && timely == all,
                format!("no wait above 20 ms: {timely} of {all}"),
            );
        }
    }
}

pub(crate) async fn run(report: &mut Report) {
    let mut redis = Redis::start().await;
    let pair = Pair::start(&redis).await;
    let shared = until(PATIENCE, &mut async || pair.share().await.then_some(())).await;
    report.check(shared.is_some(), "control: the gateways share responses");
    let load = |at: usize| {
        endless_paced(pair.gateways[at].address(), PER_SECOND / 2, move |turn| {
            // Half of it is new to both gateways, and the other gateway got the other half a moment
            // ago.
            let is_new = turn % 2 == at as u64;
            let name = if is_new {
                turn
            } else {
                turn.saturating_sub(BEHIND)
            };
            page(&name.to_string())
        })
    };
    let loads = [load(0), load(1)];
    pass(WHILE).await;
    redis.pause();
    pair.lost(report, "stopped").await;
    redis.resume();
    pair.back(report, "resumed").await;
    // Nothing reverts it before: every command waits.
    let span = (WHILE + Duration::from_secs(1)).as_millis().to_string();
    redis.cli(&["CLIENT", "PAUSE", &span, "ALL"]);
    pair.lost(report, "paused").await;
    pair.back(report, "after the pause").await;
    redis.flush();
    pair.back(report, "flushed").await;
    redis.kill();
    pair.lost(report, "killed").await;
    redis.restart().await;
    pair.back(report, "restarted").await;
    pass(WHILE).await;
    for load in loads {
        let tally = load.stop().await;
        report.check(
            tally.status(200) == tally.total(),
            format!("{} of {} served", tally.status(200), tally.total()),
        );
        Report::note(format!(
            "p50 {:.2?}, p99 {:.2?}, at most {:.2?}",
            tally.quantile(0.5),
            tally.quantile(0.99),
            tally.quantile(1.0)
        ));
    }
    pair.waits(report).await;
}
