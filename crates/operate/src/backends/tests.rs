//! Tests of operations on backends, and the gateway that others use for theirs.

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
        _release: Option<&str>,
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

#[tokio::test]
async fn the_end_of_the_terminal_interrupts_a_command() {
    use rustix::process::{Signal, getpid, kill_process};
    let hangup = (!system::ignores_hangup()).then_some(Signal::HUP);
    for signal in [Signal::QUIT].into_iter().chain(hangup) {
        interruptible(|interrupt| async move {
            kill_process(getpid(), signal).unwrap();
            interrupted(&interrupt).await;
        })
        .await;
    }
}
