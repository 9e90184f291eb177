//! Health of the disk: its state for logs and status, and the pause before the next attempt.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use log::{info, warn};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::metrics::FolderFault;
use crate::base::clock::Clock;

/// Time between two attempts.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(3);
/// Time before a busy folder is logged: another process may be about to let go of it, as in an
/// upgrade.
const LOG_DELAY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The disk is not configured, or this process has let go of the folder.
    Off,
    Opening,
    /// Another process has the folder.
    Busy,
    /// Purges made while no process had the folder are not known yet.
    CatchingUp,
    Up,
    Down(FolderFault),
}

impl State {
    /// Returns the state as in metrics, log and status.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Opening => "opening",
            Self::Busy => "busy",
            Self::CatchingUp => "catching_up",
            Self::Up => "up",
            Self::Down(fault) => fault.name(),
        }
    }
}

/// The folder of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheDiskStatus {
    pub folder: String,
    /// `up`; `opening`, `busy` (another process has the folder), `catching_up` (with purges) or
    /// `off` (handed to the process that serves now); or an error: `full`, `read_only`, `missing`,
    /// `permission`, `slow`, `io`.
    pub state: String,
    /// Time of the last change of `state`; RFC 3339, UTC.
    pub since: String,
    /// The last error, kept after recovery.
    pub last_error: Option<String>,
    pub objects: usize,
    pub bytes: u64,
    pub budget_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Health {
    clock: Clock,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    since: SystemTime,
    last_error: Option<String>,
    retry_at: Option<Instant>,
    busy_since: Option<Instant>,
    /// True if the current outage was logged.
    is_logged: bool,
}

impl Health {
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            inner: Mutex::new(Inner {
                state: State::Off,
                since: clock.wall(),
                last_error: None,
                retry_at: None,
                busy_since: None,
                is_logged: false,
            }),
            clock: clock.clone(),
        }
    }

    pub(super) fn state(&self) -> State {
        self.inner.lock().state
    }

    pub(super) fn since(&self) -> (SystemTime, Option<String>) {
        let inner = self.inner.lock();
        (inner.since, inner.last_error.clone())
    }

    /// Returns true if the next attempt is due.
    pub(super) fn is_due(&self) -> bool {
        let now = self.clock.now();
        let inner = self.inner.lock();
        matches!(inner.state, State::Down(_)) && inner.retry_at.is_none_or(|at| now >= at)
    }

    /// Sets the state, and logs one line per change. `error` is the cause of a fault.
    pub(super) fn set(&self, folder: &Path, state: State, error: Option<String>) {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        if let State::Down(_) = state {
            inner.retry_at = Some(now + RETRY_INTERVAL);
        }
        if inner.state != state {
            inner.since = self.clock.wall();
        }
        let before = std::mem::replace(&mut inner.state, state);
        if let Some(error) = &error {
            inner.last_error = Some(error.clone());
        }
        let folder = folder.display();
        match state {
            State::Busy => {
                let since = *inner.busy_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= LOG_DELAY && !inner.is_logged {
                    inner.is_logged = true;
                    drop(inner);
                    warn!(folder:%; "cache folder in use by another process, nothing stored on disk until it is released");
                }
                return;
            }
            State::Down(fault) => {
                if before != state {
                    inner.is_logged = true;
                    drop(inner);
                    let reason = fault.name();
                    let error = error.unwrap_or_default();
                    warn!(folder:%, reason, error; "cache disk failed, serving without it");
                }
                return;
            }
            State::Up => {
                if before != State::Up {
                    inner.is_logged = false;
                    drop(inner);
                    info!(folder:%; "cache disk ready");
                    return;
                }
            }
            State::Off | State::Opening | State::CatchingUp => {}
        }
        inner.busy_since = None;
    }
}
