//! File descriptors of the process: how many it may have, and whether it had none left.

use std::{
    io,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};

use crate::clock::Clock;

/// Time for which a lack of descriptors is reported.
const RECENT: Duration = Duration::from_mins(1);

static LACKED: Mutex<Option<Instant>> = Mutex::new(None);

/// Returns the number that the process may have; `None` for no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Returns a part of the limit, such as the sixteenth, and at most `max`.
pub fn part(divisor: u64, max: u32) -> u32 {
    let part = limit().map(|limit| u32::try_from(limit / divisor).unwrap_or(max));
    part.map_or(max, |part| part.min(max))
}

/// Returns true if `error` means that none was left. [`were_lacking`] then says so for a while.
pub fn are_lacking(error: &io::Error) -> bool {
    let is_so = matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    );
    if is_so {
        *LACKED.lock() = Some(Clock::machine().now());
    }
    is_so
}

/// Returns true if none was left within the last minute.
pub fn were_lacking() -> bool {
    let lacked = *LACKED.lock();
    lacked.is_some_and(|at| Clock::machine().now().saturating_duration_since(at) < RECENT)
}
