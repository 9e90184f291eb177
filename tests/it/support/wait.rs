//! Waiting for something to become true: the only place in the tests that lets time pass.

use std::time::Duration;

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_millis(5);

/// Asks again and again until there is an answer; fails the test after `limit`.
pub(crate) async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    match until(limit, &mut ask).await {
        Some(answer) => answer,
        None => panic!("waited {limit:?} in vain until {what}"),
    }
}

/// As [`wait_for`], for callers that go on without an answer.
pub(crate) async fn until<T>(
    limit: Duration,
    ask: &mut impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Lets time pass where time itself is what is tested: an origin's delay, the pace of a load.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The pace of a load: the moment when its next request is due.
pub(crate) async fn turn_of(moment: Instant) {
    tokio::time::sleep_until(moment).await;
}
