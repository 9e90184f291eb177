//! Process 1 of a container, once another process serves. A container ends with its first process,
//! so that one stays, forwards signals, reaps children, and ends with the gateway.

use std::{io, os::fd::OwnedFd};

use edgeway_base::system;
use log::{debug, info, warn};
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait},
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    signal::unix::{self, SignalKind},
};

use super::signals::Signals;

/// Exit status if that of the gateway is unknown.
const UNKNOWN: u8 = 1;

/// Returns true if a container, or what looks like one to its processes, ends with this process.
pub(super) fn is_needed() -> bool {
    getpid() == Pid::INIT
}

/// State of process 1 after it has been succeeded.
pub(super) struct InitProcess {
    /// Pipe on which each gateway writes its process id once it serves. It stays open to the
    /// gateway's end.
    gateways: pipe::Receiver,
    /// Reports the end of each child.
    child: unix::Signal,
    /// Signals to forward.
    signals: Signals,
    wards: GatewayProcess,
}

impl InitProcess {
    /// Creates it, with the writing end of the pipe that all gateways of this container hold.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let (gateways, reports) = system::pipe()?;
        let init = Self {
            gateways: pipe::Receiver::from_owned_fd(gateways)?,
            child: unix::signal(SignalKind::child())?,
            signals: Signals::listen()?,
            wards: GatewayProcess::default(),
        };
        Ok((init, reports))
    }

    /// Runs until no gateway is left in the container. Returns the exit status of the last one.
    pub(super) async fn run(mut self, first: u32) -> u8 {
        self.wards.serves(first);
        info!(pid = first; "staying as the first process of a container, another one serves");
        let mut pid_bytes = [0; 4];
        let mut filled = 0;
        loop {
            tokio::select! {
                // A signal goes to the process that serves by now.
                biased;
                read = self.gateways.read(&mut pid_bytes[filled..]) => match read {
                    Ok(0) => break,
                    Ok(read) => {
                        filled += read;
                        if filled == pid_bytes.len() {
                            filled = 0;
                            self.wards.serves(u32::from_ne_bytes(pid_bytes));
                        }
                    }
                    Err(error) => {
                        warn!(error:%; "cannot learn which process serves");
                        break;
                    }
                },
                _ = self.child.recv() => drop(self.bury()),
                signal = self.signals.next() => self.pass_on(signal),
            }
        }
        // The pipe closes a moment before its process ends.
        while !self.wards.is_over() && self.bury() {
            self.child.recv().await;
        }
        self.bury();
        let status = self.wards.status();
        info!(status; "last gateway of this container exited");
        status
    }

    /// Same as [`InitProcess::run`], for a gateway that was stopped already: a second signal would cut its
    /// drain short.
    pub(super) async fn run_to_the_end(mut self, first: u32) -> u8 {
        if let Err(error) = self.signals.forget_stops() {
            warn!(error:%; "cannot listen for signals again");
        }
        self.run(first).await
    }

    fn pass_on(&self, signal: Signal) {
        let Some(newest) = self.wards.newest().and_then(Pid::from_raw) else {
            return;
        };
        if let Err(error) = kill_process(newest, signal) {
            warn!(signal:? = signal, error:%; "cannot pass a signal on to the gateway");
        }
    }

    /// Reaps every child that has ended. False if there is no child any more.
    fn bury(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    debug!(pid = pid.as_raw_nonzero().get(); "child process ended");
                    self.wards.ended(pid.as_raw_nonzero().get(), status);
                }
                Ok(None) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Reports to process 1 that this process serves.
pub(super) fn report_pid(init: &OwnedFd) {
    if let Err(error) = rustix::io::write(init, &std::process::id().to_ne_bytes()) {
        warn!(error:%; "cannot tell the first process of this container that we serve");
    }
}

/// The gateway that serves, and its exit status.
#[derive(Debug, Default)]
struct GatewayProcess {
    newest: Option<i32>,
    ended: Option<u8>,
}

impl GatewayProcess {
    fn serves(&mut self, pid: u32) {
        let pid = pid.cast_signed();
        if self.newest != Some(pid) {
            self.newest = Some(pid);
            self.ended = None;
        }
    }

    fn ended(&mut self, pid: i32, status: WaitStatus) {
        if self.newest == Some(pid) {
            self.ended = Some(code(status));
        }
    }

    /// Receiver of signals. `None` once it has ended, since its process id may be reused.
    fn newest(&self) -> Option<i32> {
        self.newest.filter(|_| self.ended.is_none())
    }

    fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    fn status(&self) -> u8 {
        self.ended.unwrap_or(UNKNOWN)
    }
}

/// Exit status as a shell reports it: 128 plus the signal for a process killed by a signal.
fn code(status: WaitStatus) -> u8 {
    let code = status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::waitpid;

    use super::*;

    #[expect(clippy::zombie_processes, reason = "waited for by its number")]
    fn ended(script: &str) -> WaitStatus {
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap().1
    }

    #[test]
    fn the_container_ends_as_its_gateway_did() {
        assert_eq!(code(ended("exit 0")), 0);
        assert_eq!(code(ended("exit 78")), 78);
        assert_eq!(code(ended("kill -9 $$")), 137);
    }

    #[test]
    fn the_newest_gateway_counts() {
        let mut wards = GatewayProcess::default();
        wards.serves(7);
        wards.serves(9);
        wards.ended(7, ended("exit 3"));
        assert_eq!((wards.newest(), wards.is_over()), (Some(9), false));
        wards.ended(9, ended("exit 4"));
        assert_eq!((wards.newest(), wards.status()), (None, 4));
        // Reported twice, by itself and by the process that started it.
        wards.serves(9);
        assert!(wards.is_over());
        wards.serves(11);
        assert_eq!(wards.newest(), Some(11));
    }

    #[test]
    fn nothing_known_is_a_failure() {
        assert_eq!(GatewayProcess::default().status(), 1);
    }
}
