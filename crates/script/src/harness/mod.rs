//! Runs tests of plugins (`*.test.js`) in the engine that runs plugins.
//!
//! The tests have an isolate of their own. A plugin under test has another, with the limits that it
//! has on a route: `test_kit` carries requests into it and results back.

mod fixtures;
mod test_kit;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use log::Level;

use self::test_kit::TestKit;
use super::{
    budget::{HookLimits, Isolation},
    call::{Hook, Input, first},
    capabilities::SharedCapabilities,
    error::{Failure, FailureKind},
    host::Log,
    isolate::Isolate,
    source::Source,
};

/// Longest wait of a test for one operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits of tests, which compare much and are not on the path of a request.
const TEST_LIMITS: HookLimits = HookLimits {
    cpu: Duration::from_secs(30),
    wall: OPERATION_TIMEOUT,
    wait_until: OPERATION_TIMEOUT,
    memory: 64 << 20,
    stack: 256 << 10,
    load: Duration::from_secs(5),
    isolation: Isolation::Worker,
};

/// Events of a test run of one file.
#[derive(Debug)]
pub enum Event {
    /// A line of the test's own `console`.
    Line(Level, String),
    Tested(TestResult),
}

/// Result of one test.
#[derive(Debug)]
pub struct TestResult {
    pub name: String,
    pub outcome: Result<(), Failure>,
    pub took: Duration,
}

/// Runs the tests of a file, one after the other, and reports events. Fails only if the file cannot
/// be loaded; `shown` is the name of its folder in stack traces.
pub async fn run(
    shown: &str,
    file: &Path,
    report: Arc<dyn Fn(Event) + Send + Sync>,
) -> Result<(), Failure> {
    let source = Source::read_tests(shown, file)?;
    let kit = Arc::new(TestKit::new(shown, &source.folder, report));
    let log: Arc<dyn Log> = kit.clone();
    let isolate = Isolate::new(
        &source,
        TEST_LIMITS,
        "{}",
        &SharedCapabilities::default(),
        &log,
    )?;
    // Tests need no request; their runner is called like a hook.
    let call = isolate.call(Input::default());
    let mut call = isolate.begin(call, Hook::Request);
    while call.outcome.is_none() {
        if call.waiting.all.is_empty() {
            let why = "its promise never settles";
            call.outcome = Some(Err(Failure::new(FailureKind::Wall, why)));
            break;
        }
        let next = tokio::time::timeout(OPERATION_TIMEOUT, first(&mut call.waiting.all)).await;
        if let Ok((promise, settled)) = next {
            call = isolate.settle(call, promise, settled);
        } else {
            let why = format!("it waited for more than {OPERATION_TIMEOUT:?}");
            call.outcome = Some(Err(Failure::new(FailureKind::Wall, why)));
        }
    }
    if let Some(Err(failure)) = call.outcome.take() {
        kit.stopped(&failure);
    }
    Ok(())
}
