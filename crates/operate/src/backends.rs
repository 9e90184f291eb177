//! Operations on backends of the running gateway, shared by the commands that drain, restart and
//! scale: requests to the gateway, and waiting for a state.

use std::{fmt, future::Future, str::FromStr, time::Duration};

use edgeway_status::snapshot::{BackendStatus, UpstreamStatus};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Interval between checks of a backend while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// `UPSTREAM/ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub upstream: String,
    pub address: String,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            // The path of a unix socket has slashes of its own.
            Some((upstream, address)) if !upstream.is_empty() && !address.is_empty() => Ok(Self {
                upstream: upstream.to_owned(),
                address: address.to_owned(),
            }),
            _ => Err("write UPSTREAM/ADDRESS, such as web/127.0.0.1:3001".to_owned()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream, self.address)
    }
}

/// Why a request to the gateway failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailure {
    #[error("{0}")]
    Refused(String),
    /// The gateway cannot be reached. It may come back, as after an upgrade or a restart.
    #[error("{0}")]
    Away(String),
}

/// Requests of the commands to the running gateway.
#[expect(
    async_fn_in_trait,
    reason = "commands call it on the thread that they run on"
)]
pub trait Gateway {
    async fn upstream(&self, name: &str) -> Result<UpstreamStatus, RequestFailure>;
    async fn drain(&self, name: &Name, force: bool) -> Result<BackendStatus, RequestFailure>;
    async fn undrain(&self, name: &Name) -> Result<BackendStatus, RequestFailure>;
    async fn add(
        &self,
        name: &Name,
        weight: u16,
        drained: bool,
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

/// Returns true if the backend gets no new requests.
pub fn is_drained(backend: &BackendStatus) -> bool {
    matches!(&*backend.state, "draining" | "drained")
}

/// Formats a count: `1 request`, `3 requests`.
pub fn requests(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} request{plural}")
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

/// Completes when the user interrupts the command.
pub async fn interrupted(interrupt: &Interrupt) {
    let mut interrupt = interrupt.clone();
    let wanted = interrupt.wait_for(|is_wanted| *is_wanted).await.is_ok();
    if !wanted {
        // The sender is gone, so no interrupt can come.
        std::future::pending::<()>().await;
    }
}

/// Runs `work`, which is notified when the user presses Ctrl-C or sends SIGTERM.
pub async fn interruptible<F: Future>(work: impl FnOnce(Interrupt) -> F) -> F::Output {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, interrupt) = watch::channel(false);
    let work = work(interrupt);
    tokio::pin!(work);
    let (Ok(mut int), Ok(mut term)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return work.await;
    };
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
        sender.send_replace(true);
    }
}

#[cfg(test)]
pub mod tests {
    use std::{cell::RefCell, collections::BTreeMap};

    use tokio::time::Instant;

    use super::*;
    use edgeway_upstreams::{NodeStatus, ProbeStatus};

    /// A gateway with one upstream, `web`, whose backends follow a test's script. Each poll takes a
    /// backend's next state from the script, and the last one stays.
    #[derive(Default)]
    pub struct FakeGateway {
        pub state: RefCell<FakeState>,
    }

    #[derive(Default)]
    pub struct FakeState {
        pub upstream: UpstreamStatus,
        /// Requests that complete with each poll.
        pub finishes: u64,
        /// Backends whose checks fail, with the message.
        pub broken: BTreeMap<String, String>,
        /// Requests received, in order.
        pub log: Vec<String>,
        /// Number of polls during which the gateway is unreachable.
        pub away: u32,
        /// Time of the last report of each app, and its resident memory.
        pub reports: BTreeMap<String, (Instant, u64)>,
        /// True if the last backend in rotation is drained by force only.
        pub keeps_last: bool,
    }

    pub fn backend(address: &str, origin: &str) -> BackendStatus {
        BackendStatus {
            address: address.to_owned(),
            weight: 1,
            state: "healthy".into(),
            healthy: true,
            origin: origin.to_owned().into(),
            ..BackendStatus::default()
        }
    }

    impl FakeGateway {
        pub fn new(addresses: &[&str]) -> Self {
            let gateway = Self::default();
            let backends = addresses.iter().map(|address| backend(address, "file"));
            gateway.state.borrow_mut().upstream = UpstreamStatus {
                name: "web".to_owned(),
                backends: backends.collect(),
                ..UpstreamStatus::default()
            };
            gateway.state.borrow_mut().finishes = u64::MAX;
            gateway
        }

        pub fn log(&self) -> Vec<String> {
            self.state.borrow().log.clone()
        }

        pub fn with<T>(&self, address: &str, change: impl FnOnce(&mut BackendStatus) -> T) -> T {
            let mut state = self.state.borrow_mut();
            let mut all = state.upstream.backends.iter_mut();
            change(all.find(|b| b.address == address).expect("it is there"))
        }

        fn note(&self, line: String) {
            self.state.borrow_mut().log.push(line);
        }
    }

    impl Gateway for FakeGateway {
        async fn upstream(&self, name: &str) -> Result<UpstreamStatus, RequestFailure> {
            let mut state = self.state.borrow_mut();
            if state.away > 0 {
                state.away -= 1;
                return Err(RequestFailure::Away("nobody is there".to_owned()));
            }
            if name != state.upstream.name {
                return Err(RequestFailure::Refused(format!(
                    "unknown upstream `{name}`"
                )));
            }
            let mut snapshot = state.upstream.clone();
            for backend in &mut snapshot.backends {
                let report = state.reports.get(&backend.address);
                backend.node = report.map(|(at, rss_bytes)| NodeStatus {
                    rss_bytes: *rss_bytes,
                    age: at.elapsed().as_secs_f64(),
                    ..NodeStatus::default()
                });
            }
            let FakeState {
                upstream,
                finishes,
                broken,
                ..
            } = &mut *state;
            for backend in &mut upstream.backends {
                let is_down = backend.state == "down";
                if !is_drained(backend) && !is_down {
                    continue;
                }
                backend.in_flight = backend.in_flight.saturating_sub(*finishes);
                if backend.in_flight == 0 && !is_down {
                    backend.state = "drained".into();
                }
                let probe = backend.probe.get_or_insert_default();
                let bad = broken.get(&backend.address);
                probe.count += 1;
                probe.passed = bad.is_none();
                probe.text = bad.cloned().unwrap_or_else(|| "ok".to_owned());
                probe.passed_in_a_row = match bad {
                    Some(_) => 0,
                    None => probe.passed_in_a_row + 1,
                };
                backend.healthy |= is_down && probe.passed_in_a_row >= 3;
            }
            Ok(snapshot)
        }

        async fn drain(&self, name: &Name, force: bool) -> Result<BackendStatus, RequestFailure> {
            let forced = if force { " by force" } else { "" };
            self.note(format!("drain {}{forced}", name.address));
            let state = self.state.borrow();
            let mut others = state.upstream.backends.iter();
            let is_other = |b: &BackendStatus| b.address != name.address && !is_drained(b);
            if state.keeps_last && !force && !others.any(is_other) {
                let why = format!("`{}` is the last backend in rotation", name.address);
                return Err(RequestFailure::Refused(why));
            }
            drop(state);
            self.with(&name.address, |backend| {
                backend.state = "draining".into();
                Ok(backend.clone())
            })
        }

        async fn undrain(&self, name: &Name) -> Result<BackendStatus, RequestFailure> {
            self.note(format!("undrain {}", name.address));
            self.with(&name.address, |backend| {
                backend.state = "healthy".into();
                Ok(backend.clone())
            })
        }

        async fn add(
            &self,
            name: &Name,
            _weight: u16,
            drained: bool,
        ) -> Result<BackendStatus, RequestFailure> {
            self.note(format!("add {}", name.address));
            let mut added = backend(&name.address, "added");
            if drained {
                added.state = "drained".into();
            }
            let mut state = self.state.borrow_mut();
            state.upstream.backends.push(added.clone());
            Ok(added)
        }

        async fn remove(&self, name: &Name, _force: bool) -> Result<BackendStatus, RequestFailure> {
            self.note(format!("remove {}", name.address));
            let mut state = self.state.borrow_mut();
            let all = &mut state.upstream.backends;
            let index = all.iter().position(|b| b.address == name.address);
            Ok(all.remove(index.expect("it is there")))
        }
    }

    /// Creates an interrupt that never comes, unless the sender is used.
    pub fn interrupt() -> (watch::Sender<bool>, Interrupt) {
        watch::channel(false)
    }

    #[test]
    fn a_backend_is_named_with_its_upstream() {
        let name: Name = "web/127.0.0.1:3001".parse().unwrap();
        assert_eq!((&*name.upstream, &*name.address), ("web", "127.0.0.1:3001"));
        let name: Name = "web/unix:/run/app.sock".parse().unwrap();
        assert_eq!(name.address, "unix:/run/app.sock");
        assert_eq!(name.to_string(), "web/unix:/run/app.sock");
        for wrong in ["web", "/127.0.0.1:3001", "web/", "127.0.0.1:3001"] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }

    fn probed(count: u64, row: u64, running: bool) -> BackendStatus {
        BackendStatus {
            probe: Some(ProbeStatus {
                count,
                passed_in_a_row: row,
                running,
                ..ProbeStatus::default()
            }),
            ..backend("127.0.0.1:3001", "file")
        }
    }

    #[test]
    fn only_checks_that_began_later_count() {
        let mut since = CheckBaseline::now(&probed(7, 7, false));
        assert_eq!(since.good(&probed(7, 7, true)), 0);
        assert_eq!(since.good(&probed(9, 9, false)), 2);
        let mut since = CheckBaseline::now(&probed(7, 7, true));
        assert_eq!(since.good(&probed(8, 8, false)), 0, "it began before");
        assert_eq!(since.good(&probed(9, 9, false)), 1);
        assert_eq!(since.good(&probed(12, 1, false)), 1, "in a row");
        let mut none = CheckBaseline::now(&backend("127.0.0.1:3001", "file"));
        assert_eq!(none.good(&probed(1, 1, false)), 1);
    }

    #[test]
    fn a_gateway_that_was_restarted_counts_from_zero() {
        let mut since = CheckBaseline::now(&probed(70, 70, true));
        assert_eq!(since.good(&probed(2, 2, false)), 2);
        assert_eq!(since.good(&probed(3, 3, false)), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_is_away_for_a_while_is_waited_for() {
        let gateway = FakeGateway::new(&["127.0.0.1:3001"]);
        let name: Name = "web/127.0.0.1:3001".parse().unwrap();
        let (_sender, interrupt) = interrupt();
        gateway.state.borrow_mut().away = 5;
        let deadline = Duration::from_secs(1);
        assert_eq!(
            until_idle(&gateway, &name, deadline, &interrupt).await,
            Ok(())
        );
        gateway.state.borrow_mut().away = 5000;
        let waited = until_idle(&gateway, &name, deadline, &interrupt).await;
        let away = RequestFailure::Away("nobody is there".to_owned());
        assert_eq!(waited, Err(WaitFailure::Trouble(away)));
    }
}
