//! The table with the tiers below memory: before each step of a case another gateway with an empty
//! memory takes over, so stored responses come from below.
//!
//! All cases advance together: there is a gateway for each step of the longest case.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::task::{JoinSet, LocalSet};

use super::{
    Case, Script, Source, Step, cases,
    gateway::{Bench, SOON, STRICTER, Way, base_of},
};
use crate::support::{
    client::get,
    gateway::Gateway,
    redis::Redis,
    wait::{pass, wait_for},
};

const WRITTEN: &str = "edgeway_cache_level2_writes_total{outcome=\"stored\"}";
const FOUND_ON_DISK: &str = "edgeway_cache_disk_lookup_duration_seconds_count{result=\"hit\"}";
const FOUND: &str = "edgeway_cache_level2_lookup_duration_seconds_count{result=\"hit\"}";

/// Cases with stale responses that have no window and cannot be validated: those are not stored
/// there, since hardly any request can use them.
const NOT_BELOW: [&str; 2] = [
    "max-stale takes a stale response",
    "max-stale without a number takes any",
];

/// Outcome of a table.
struct Outcome {
    cases: usize,
    failed: Vec<String>,
    /// Number of passed steps served from a stored response; `found` counts lookups that found it
    /// below.
    stored: u64,
    found: u64,
}

/// State of a case.
#[derive(Clone)]
struct Progress {
    case: &'static Case,
    base: String,
    steps: Arc<[Step]>,
    status: u16,
}

#[tokio::test]
async fn level_2_passes_the_table() {
    let redis = Redis::start().await;
    let more = format!(
        "redis: {}\ncache: {{ shared: redis }}\n",
        redis.section(", timeout: 1s")
    );
    let outcome = below(&more, FOUND, &NOT_BELOW, async |bench| {
        let new = Gateway::start(&bench.yaml).await;
        new.follows_purges().await;
        wait_for("everything is written", SOON, async || {
            // The last requested response is written last.
            let last = get(&bench.new_path()).header("host", "app.test");
            bench.gateway.send(&last).await;
            pass(Duration::from_millis(20)).await;
            let ask = last.header("cache-control", "only-if-cached");
            (new.send(&ask).await.status() == 200).then_some(())
        })
        .await;
        // It writes nothing before it knows the position of purges.
        wait_for("it writes too", SOON, async || {
            new.get(&bench.new_path()).await;
            pass(Duration::from_millis(20)).await;
            (new.metric(WRITTEN).await > 0.0).then_some(())
        })
        .await;
        bench.gateway = new;
    })
    .await;
    // A response on its way to Redis during a write to another path is dropped if both share a slot
    // of the table of writes; the older response then stays until it expires.
    outcome.assert_held_but(1);
}

#[tokio::test]
async fn the_disk_passes_the_table() {
    // A response that the disk does not return in time is fetched, and the machine may be busy.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let folder = folder.unwrap();
    let store = folder.path().join("kept");
    let more = format!(
        "cache: {{ disk: {{ folder: '{}', size: 64MiB }} }}\n",
        store.display()
    );
    let outcome = below(&more, FOUND_ON_DISK, &NOT_BELOW, async |bench| {
        // Queued responses are written at exit.
        let ended = bench.gateway.terminate(SOON).await;
        assert!(ended.success());
        bench.gateway.start_again(&[], &[]).await;
        wait_for("the disk is used", SOON, async || {
            (bench.gateway.metric("edgeway_cache_disk_up").await > 0.0).then_some(())
        })
        .await;
    })
    .await;
    outcome.assert_held();
}

/// The control: with nothing below, the cases fail, except those that store nothing.
#[tokio::test]
async fn without_a_lower_tier_nothing_stays_stored() {
    let outcome = below("", FOUND, &[], async |bench| {
        bench.gateway = Gateway::start(&bench.yaml).await;
    })
    .await;
    let (failed, cases) = (outcome.failed.len(), outcome.cases);
    assert!(failed * 2 > cases, "{failed} of {cases}");
    assert_eq!((outcome.stored, outcome.found), (0, 0));
}

/// Runs the table; `renew` replaces the gateway before each step. `found` counts lookups that found
/// a response below; `unlike` are the cases that do not hold there.
async fn below(
    more: &str,
    found: &str,
    unlike: &[&str],
    renew: impl AsyncFn(&mut Bench),
) -> Outcome {
    let mut bench = Bench::start(more).await;
    let selected = cases().filter(|case| !STRICTER.contains(&&*case.name));
    let selected = selected.filter(|case| !unlike.contains(&&*case.name));
    let mut going: Vec<_> = selected
        .enumerate()
        .map(|(number, case)| Progress {
            case,
            base: base_of(case, Way::Below, number),
            steps: Script::parse(&case.script).steps.into(),
            status: 200,
        })
        .collect();
    let mut outcome = Outcome {
        cases: going.len(),
        failed: Vec::new(),
        stored: 0,
        found: 0,
    };
    for at in 0.. {
        going.retain(|progress| progress.steps.len() > at);
        if going.is_empty() {
            break;
        }
        renew(&mut bench).await;
        let before = bench.gateway.count(found).await;
        let shared = Arc::new(bench);
        // While the tiers below learn of a write, nothing is read from them.
        let (safe, writing): (Vec<_>, Vec<_>) = going.drain(..).partition(|it| it.is_safe(at));
        for group in [safe, writing] {
            let mut running = JoinSet::new();
            let all = async {
                for progress in group {
                    let slot = Arc::clone(&shared.slots).acquire_owned().await;
                    let slot = slot.expect("it is never closed");
                    let bench = Arc::clone(&shared);
                    running.spawn_local(async move {
                        let _slot = slot;
                        progress.step(&bench, at).await
                    });
                }
                running.join_all().await
            };
            for stepped in LocalSet::new().run_until(all).await {
                match stepped {
                    Ok((progress, is_stored)) => {
                        outcome.stored += u64::from(is_stored);
                        going.push(progress);
                    }
                    Err(failed) => outcome.failed.push(failed),
                }
            }
        }
        bench = Arc::into_inner(shared).expect("all steps are over");
        outcome.found += bench.gateway.count(found).await - before;
    }
    outcome
}

impl Progress {
    fn is_safe(&self, at: usize) -> bool {
        matches!(
            &*self.steps[at].method,
            "GET" | "HEAD" | "OPTIONS" | "TRACE"
        )
    }

    /// Runs a step; returns whether the stored response was used, or an error.
    async fn step(mut self, bench: &Bench, at: usize) -> Result<(Self, bool), String> {
        let step = &self.steps[at];
        let wrong = bench.step(Way::Below, step, &self.base, self.status).await;
        if !wrong.is_empty() {
            let (name, section) = (&self.case.name, &self.case.section);
            return Err(format!("{name} ({section}), step {}: {wrong:?}", at + 1));
        }
        let is_stored = matches!(
            step.source,
            Some(Source::Cache | Source::Validated | Source::Background | Source::Bridged)
        );
        self.status = step.stored_status(self.status);
        Ok((self, is_stored))
    }
}

impl Outcome {
    fn assert_held(&self) {
        self.assert_held_but(0);
    }

    fn assert_held_but(&self, left_out: usize) {
        let failed = &self.failed;
        assert!(
            failed.len() <= left_out,
            "{}:\n{}",
            failed.len(),
            failed.join("\n")
        );
        assert!(self.stored > 100, "{}", self.stored);
        assert!(
            self.found >= self.stored,
            "{} of {}",
            self.found,
            self.stored
        );
    }
}
