//! Signals and their meaning for the process.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Received, SignalKind, signal};

/// Signals that the process handles.
pub(super) struct Signals {
    terminate: Received,
    interrupt: Received,
    quit: Received,
    hangup: Received,
    reopen: Received,
    upgrade: Received,
}

/// Action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalAction {
    /// SIGTERM, SIGINT, SIGQUIT: finish the requests in flight, then exit.
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
        // A log that reaches a limit of the size of files is handled as a disk that is full.
        drop(signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Forgets signals to stop that have arrived.
    pub(super) fn forget_stops(&mut self) -> io::Result<()> {
        self.terminate = signal(SignalKind::terminate())?;
        self.interrupt = signal(SignalKind::interrupt())?;
        self.quit = signal(SignalKind::quit())?;
        Ok(())
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.reopen.recv() => Signal::USR1,
            _ = self.upgrade.recv() => Signal::USR2,
        }
    }

    pub(super) async fn next_action(&mut self) -> SignalAction {
        match self.next().await {
            Signal::HUP => SignalAction::Reload,
            Signal::USR1 => SignalAction::Reopen,
            Signal::USR2 => SignalAction::Upgrade,
            _ => SignalAction::Stop,
        }
    }
}
