//! Signals and their meaning for the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that the process handles.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
    upgrade: Signal,
}

/// Action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalAction {
    /// SIGTERM, SIGINT: finish the requests in flight, then exit.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: open the log files again (after a rotation).
    Reopen,
    /// SIGUSR2: replace this process with a new one.
    Upgrade,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    pub(super) async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Stop,
            _ = self.interrupt.recv() => SignalAction::Stop,
            _ = self.hangup.recv() => SignalAction::Reload,
            _ = self.reopen.recv() => SignalAction::Reopen,
            _ = self.upgrade.recv() => SignalAction::Upgrade,
        }
    }
}
