//! Waiting for a condition: the only place in the tests that lets time pass.

use std::time::Duration;

use tokio::time::Instant;

/// Pauses between two looks, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(25)];
/// Time that anything may take on a machine that is busy with other tests.
const LEAST: Duration = Duration::from_secs(30);

/// Polls until there is a result; fails the test after `limit`, or after [`LEAST`] if that is longer.
pub(crate) async fn wait_for<T>(
    condition: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let limit = limit.max(LEAST);
    match until(limit, &mut ask).await {
        Some(response) => response,
        None => panic!("waited {limit:?} in vain until {condition}"),
    }
}

/// Polls as [`wait_for`] does, for callers that continue without a result.
pub(crate) async fn until<T>(
    limit: Duration,
    ask: &mut impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(response) = ask().await {
            return Some(response);
        }
        let waited = start.elapsed();
        if waited >= limit {
            return None;
        }
        // Others need the CPU: a look costs a request to the gateway, or to an app that starts.
        let [least, most] = PAUSES;
        tokio::time::sleep((waited / 16).clamp(least, most)).await;
    }
}

/// Sleeps where time itself is tested: an origin's delay, the pace of a load.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Waits for the moment when the next request of a load is due.
pub(crate) async fn turn_of(moment: Instant) {
    tokio::time::sleep_until(moment).await;
}
