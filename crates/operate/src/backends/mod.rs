//! Operations on backends of the running gateway, shared by the commands that drain, restart and
//! scale: requests to the gateway, and waiting for a state.

use std::{
    fmt,
    future::{Future, poll_fn},
    task::Poll,
    time::Duration,
};

use edgeway_base::system;
pub use edgeway_status::{actions::BackendName as Name, problems::is_drained};
use edgeway_status::{
    problems::is_in_rotation,
    snapshot::{BackendStatus, UpstreamStatus},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{sleep, timeout},
};

use super::Failure;

/// Interval between checks of a backend while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why a request to the gateway failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailure {
    #[error("{0}")]
    Refused(String),
    /// The gateway cannot be reached. It may come back, as after an upgrade or a restart.
    #[error("{0}")]
    Away(String),
}

impl From<RequestFailure> for String {
    fn from(failure: RequestFailure) -> Self {
        failure.to_string()
    }
}

/// Requests of the commands to the running gateway.
#[expect(async_fn_in_trait, reason = "commands call it on their own thread")]
pub trait Gateway {
    async fn upstream(&self, name: &str) -> Result<UpstreamStatus, RequestFailure>;
    async fn drain(&self, name: &Name, force: bool) -> Result<BackendStatus, RequestFailure>;
    async fn undrain(&self, name: &Name) -> Result<BackendStatus, RequestFailure>;
    async fn add(
        &self,
        name: &Name,
        weight: u16,
        drained: bool,
        release: Option<&str>,
    ) -> Result<BackendStatus, RequestFailure>;
    async fn remove(&self, name: &Name, force: bool) -> Result<BackendStatus, RequestFailure>;

    async fn backend(&self, name: &Name) -> Result<BackendStatus, RequestFailure> {
        let upstream = self.upstream(&name.upstream).await?;
        let mut all = upstream.backends.into_iter();
        all.find(|backend| backend.address == name.address)
            .ok_or_else(|| {
                RequestFailure::Refused(format!("there is no backend `{name}` any more"))
            })
    }
}

/// Returns true if a backend of this release is in rotation: neither down, nor ejected, nor drained.
pub fn serves(status: &UpstreamStatus, release: &str) -> bool {
    let mut backends = status.backends.iter();
    backends.any(|backend| backend.release.as_deref() == Some(release) && is_in_rotation(backend))
}

/// Signal that becomes true when the user interrupts the command.
pub type Interrupt = watch::Receiver<bool>;

/// Reason why a wait ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitFailure<T> {
    /// The deadline passed. Contains the last state.
    TooLong(T),
    Interrupted,
    Trouble(RequestFailure),
}

/// Waits until the backend has no request in flight. On failure returns how many there are.
pub async fn until_idle(
    gateway: &impl Gateway,
    name: &Name,
    deadline: Duration,
    interrupt: &Interrupt,
) -> Result<(), WaitFailure<u64>> {
    until(
        gateway,
        name,
        deadline,
        interrupt,
        |backend| match backend.in_flight {
            0 => Ok(()),
            left => Err(left),
        },
    )
    .await
}

/// Starting point for counting checks: the number of checks that do not count. `None` until the
/// gateway can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckBaseline(Option<u64>);

impl CheckBaseline {
    /// Counts from the given state of the backend.
    pub fn now(backend: &BackendStatus) -> Self {
        Self(Some(begun(backend)))
    }

    /// Counts from the moment when an unreachable gateway can be reached again.
    pub fn return_of_gateway() -> Self {
        Self(None)
    }

    /// Returns the number of checks passed in a row since the starting point.
    fn good(&mut self, backend: &BackendStatus) -> u64 {
        let Some(probe) = &backend.probe else {
            return 0;
        };
        let mut since = *self.0.get_or_insert_with(|| begun(backend));
        if probe.count + 1 < since {
            // The count restarted with the gateway, so all of its checks are later.
            since = 0;
            self.0 = Some(since);
        }
        probe.passed_in_a_row.min(probe.count.saturating_sub(since))
    }
}

/// Returns the number of checks that have begun.
fn begun(backend: &BackendStatus) -> u64 {
    let probe = backend.probe.as_ref();
    probe.map_or(0, |probe| probe.count + u64::from(probe.running))
}

/// Last state of a backend that does not come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastState {
    good: u64,
    last: Option<String>,
    healthy: bool,
}

impl fmt::Display for LastState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.last {
            None => write!(f, "no check has completed"),
            Some(last) => {
                write!(
                    f,
                    "{} good checks in a row, the last one: {last}",
                    self.good
                )?;
                if !self.healthy {
                    write!(f, "; `health` does not count it as up")?;
                }
                Ok(())
            }
        }
    }
}

/// Waits until `probes` checks in a row have passed that began later than `since`.
pub async fn until_good(
    gateway: &impl Gateway,
    name: &Name,
    mut since: CheckBaseline,
    probes: u64,
    deadline: Duration,
    interrupt: &Interrupt,
) -> Result<(), WaitFailure<LastState>> {
    until(gateway, name, deadline, interrupt, move |backend| {
        let good = since.good(backend);
        if good >= probes && backend.healthy {
            return Ok(());
        }
        Err(LastState {
            good,
            last: backend.probe.as_ref().map(|probe| probe.text.clone()),
            healthy: backend.healthy,
        })
    })
    .await
}

/// Polls a backend until `judge` accepts its state. It also waits for a gateway that is unreachable
/// for a while.
async fn until<T: Clone + Default>(
    gateway: &impl Gateway,
    name: &Name,
    deadline: Duration,
    interrupt: &Interrupt,
    mut judge: impl FnMut(&BackendStatus) -> Result<(), T>,
) -> Result<(), WaitFailure<T>> {
    let mut last = T::default();
    let mut away = None;
    let look = async {
        loop {
            match gateway.backend(name).await {
                Ok(backend) => match judge(&backend) {
                    Ok(()) => return Ok(()),
                    Err(seen) => {
                        last = seen;
                        away = None;
                    }
                },
                Err(trouble @ RequestFailure::Away(_)) => away = Some(trouble),
                Err(trouble @ RequestFailure::Refused(_)) => {
                    return Err(WaitFailure::Trouble(trouble));
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    let outcome = tokio::select! {
        outcome = timeout(deadline, look) => outcome,
        () = interrupted(interrupt) => return Err(WaitFailure::Interrupted),
    };
    match outcome {
        Ok(outcome) => outcome,
        Err(_) => Err(away.map_or_else(|| WaitFailure::TooLong(last), WaitFailure::Trouble)),
    }
}

/// Fails once the user has interrupted the command.
pub(crate) fn check_interrupt(interrupt: &Interrupt) -> Result<(), Failure> {
    if *interrupt.borrow() {
        return Err(Failure::INTERRUPTED);
    }
    Ok(())
}

/// Completes when the user interrupts the command.
pub async fn interrupted(interrupt: &Interrupt) {
    let mut interrupt = interrupt.clone();
    let wanted = interrupt.wait_for(|is_wanted| *is_wanted).await.is_ok();
    if !wanted {
        // The sender is gone, so no interrupt can come.
        std::future::pending::<()>().await;
    }
}

/// Runs `work`, which is notified of each signal that would end the program: of Ctrl-C, and of the
/// end of its terminal.
pub async fn interruptible<F: Future>(work: impl FnOnce(Interrupt) -> F) -> F::Output {
    let (sender, interrupt) = watch::channel(false);
    let work = work(interrupt);
    tokio::pin!(work);
    // `nohup` has the command outlive its terminal.
    let hangup = (!system::ignores_hangup()).then(SignalKind::hangup);
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::quit(),
    ];
    let kinds = kinds.into_iter().chain(hangup);
    let mut signals: Vec<Signal> = kinds.filter_map(|kind| signal(kind).ok()).collect();
    loop {
        let received = poll_fn(|context| {
            let mut polls = signals.iter_mut().map(|signal| signal.poll_recv(context));
            polls.find(Poll::is_ready).unwrap_or(Poll::Pending)
        });
        tokio::select! {
            done = &mut work => return done,
            _ = received => {}
        }
        sender.send_replace(true);
    }
}

#[cfg(test)]
pub mod tests;
