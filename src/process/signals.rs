//! Signals, as the process understands them.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Which signals we listen to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
    upgrade: Signal,
}

/// What one of them asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// SIGTERM, SIGINT: finish what is under way, then leave.
    Stop,
    /// SIGHUP: read the configuration anew.
    Reload,
    /// SIGUSR1: open the log files anew (somebody has moved them).
    Reopen,
    /// SIGUSR2: put a new process in the place of this one.
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

    pub(super) async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.terminate.recv() => Ask::Stop,
            _ = self.interrupt.recv() => Ask::Stop,
            _ = self.hangup.recv() => Ask::Reload,
            _ = self.reopen.recv() => Ask::Reopen,
            _ = self.upgrade.recv() => Ask::Upgrade,
        }
    }
}
