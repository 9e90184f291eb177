//! Lag of the runtimes: the time from when work is ready until a thread begins it. It is measured
//! while clients send requests: a quiet gateway has nothing to be late for, and should not wake up.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::connection::activity::Activity;

/// Time between two measurements. Each wakes a worker.
const INTERVAL: Duration = Duration::from_millis(250);

/// Buckets in seconds: a timer is late by a millisecond at best, and a second is an outage.
const BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

edgeway_base::metric_handles! {
    /// Histograms of the lag, one for each runtime.
    #[derive(Clone, Debug)]
    pub(super) struct EventLoops() {
        main { runtime: "main" },
        workers { runtime: "workers" }:
            (Histogram in BUCKETS) = "edgeway_event_loop_lag_seconds",
            "Time that work waits for a thread: of the `workers`, which serve requests, and of `main` with its timers. Has buckets of its own, from 0.001 to 2.5.";
    }
}

impl EventLoops {
    /// Measures the lag of this thread and of the `workers`, for ever, unless the process is quiet.
    ///
    /// Workers are measured by work that this thread hands to them: a timer of their own would
    /// measure the worker that has the timers, and not whether one of them is free.
    pub(super) async fn watch(self, workers: Option<Handle>, activity: Arc<Activity>) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One measurement at a time: workers that hang do not collect them.
        let mut measuring = JoinSet::new();
        loop {
            let due = tick.tick().await;
            self.main.observe(due.elapsed().as_secs_f64());
            while measuring.try_join_next().is_some() {}
            // A measurement that waits for a worker goes on, and so does this.
            if measuring.is_empty()
                && let Some(quiet) = activity.quiet()
            {
                activity.sign_after(quiet).await;
                // Measured at once: the first request may be what holds a worker up.
                tick.reset();
            }
            let Some(workers) = workers.as_ref().filter(|_| measuring.is_empty()) else {
                continue;
            };
            let (histogram, start) = (self.workers.clone(), Instant::now());
            measuring.spawn_on(
                async move { histogram.observe(start.elapsed().as_secs_f64()) },
                workers,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use edgeway_base::metrics::{Histogram, Metrics};

    use super::*;

    /// Number of measurements, and the sum of their lags.
    fn lag(histogram: &Histogram) -> (u64, f64) {
        (histogram.get_sample_count(), histogram.get_sample_sum())
    }

    #[test]
    fn a_worker_that_is_held_up_shows_as_lag() {
        let workers = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (free, held) = std::sync::mpsc::channel::<()>();
        workers.handle().spawn(async move { held.recv() });
        let loops = EventLoops::new(&Metrics::default());
        let own = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        own.block_on(async {
            let watching = loops
                .clone()
                .watch(Some(workers.handle().clone()), Arc::default());
            let freed = async {
                tokio::time::sleep(4 * INTERVAL).await;
                assert_eq!(lag(&loops.workers).0, 0, "the worker is held");
                free.send(()).unwrap();
                while lag(&loops.workers).0 < 2 {
                    tokio::time::sleep(INTERVAL / 5).await;
                }
            };
            tokio::select! {
                () = watching => {}
                () = freed => {}
            }
        });
        let (count, sum) = lag(&loops.workers);
        assert!(
            count >= 2 && sum > 3.0 * INTERVAL.as_secs_f64(),
            "{count} {sum}"
        );
        assert!(lag(&loops.main).0 >= 4);
    }

    #[tokio::test]
    async fn a_quiet_process_is_not_measured_until_the_next_sign() {
        let workers = Handle::current();
        let loops = EventLoops::new(&Metrics::default());
        let activity = Arc::<Activity>::default();
        activity.set_quiet(true);
        let watching = loops.clone().watch(Some(workers), Arc::clone(&activity));
        let client = async {
            tokio::time::sleep(4 * INTERVAL).await;
            assert_eq!((lag(&loops.main).0, lag(&loops.workers).0), (1, 0));
            activity.touch();
            activity.set_quiet(false);
            // The first measurement is made at once, and others follow.
            tokio::time::sleep(INTERVAL / 2).await;
            assert_eq!(lag(&loops.workers).0, 1);
            while lag(&loops.workers).0 < 3 {
                tokio::time::sleep(INTERVAL / 5).await;
            }
            assert!(lag(&loops.main).0 >= 3);
        };
        tokio::select! {
            () = watching => {}
            () = client => {}
        }
    }
}
