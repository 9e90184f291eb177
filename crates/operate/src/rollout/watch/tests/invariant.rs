//! The invariant of the watch under drawn sizes, states and failures.

use edgeway_upstreams::NodeStatus;
use proptest::prelude::*;

use super::*;

/// A gateway that checks the invariant of the watch at each drain.
struct Checked<'a> {
    inner: &'a FakeGateway,
    /// Backends that the watch has drained, and those of them that nobody has undrained since.
    ever: RefCell<BTreeSet<String>>,
    drained: RefCell<BTreeSet<String>>,
    violations: RefCell<Vec<String>>,
}

impl Checked<'_> {
    fn is_over(&self, address: &str) -> bool {
        let state = self.inner.state.borrow();
        let limits = state.upstream.restart_at.unwrap_or_default();
        let report = state.reports.get(address);
        report.is_some_and(|(at, rss)| {
            at.elapsed() < NodeStatus::FRESH && limits.rss_bytes.is_some_and(|limit| *rss >= limit)
        })
    }

    /// Notices what operators have undrained.
    fn update(&self) {
        let mut drained = self.drained.borrow_mut();
        drained.retain(|address| self.inner.with(address, |b| is_drained(b)));
    }
}

impl Gateway for Checked<'_> {
    async fn upstream(&self, name: &str) -> Result<UpstreamStatus, RequestFailure> {
        self.update();
        self.inner.upstream(name).await
    }

    async fn drain(&self, name: &Name, force: bool) -> Result<BackendStatus, RequestFailure> {
        self.update();
        let mut drained = self.drained.borrow().clone();
        let is_own = drained.remove(&name.address);
        if !drained.is_empty() {
            let text = format!("{} beside {drained:?}", name.address);
            self.violations.borrow_mut().push(text);
        }
        if !is_own && !self.is_over(&name.address) {
            let text = format!("{} is not over its limit", name.address);
            self.violations.borrow_mut().push(text);
        }
        if !is_own && self.inner.with(&name.address, |b| is_drained(b)) {
            let text = format!("{} is an operator's", name.address);
            self.violations.borrow_mut().push(text);
        }
        let outcome = self.inner.drain(name, force).await;
        if outcome.is_ok() {
            self.drained.borrow_mut().insert(name.address.clone());
            self.ever.borrow_mut().insert(name.address.clone());
        }
        outcome
    }

    async fn undrain(&self, name: &Name) -> Result<BackendStatus, RequestFailure> {
        self.drained.borrow_mut().remove(&name.address);
        if !self.ever.borrow().contains(&name.address) {
            let text = format!("{} is undrained, and was an operator's", name.address);
            self.violations.borrow_mut().push(text);
        }
        self.inner.undrain(name).await
    }

    async fn add(
        &self,
        _: &Name,
        _: u16,
        _: bool,
        _: Option<&str>,
    ) -> Result<BackendStatus, RequestFailure> {
        Err(RequestFailure::Refused("not by a watch".into()))
    }

    async fn remove(&self, _: &Name, _: bool) -> Result<BackendStatus, RequestFailure> {
        Err(RequestFailure::Refused("not by a watch".into()))
    }
}

#[derive(Clone, Debug)]
enum Event {
    Size(usize, u64),
    /// An operator or a check changes the state.
    State(usize, &'static str),
    /// A restart of this app fails from now on, or succeeds.
    Fails(usize, bool),
    BeginsWith(u64),
    Away(u32),
    Limit(Option<u64>),
    InFlight(usize, u64),
}

fn event() -> impl Strategy<Value = Event> {
    let size = prop_oneof![Just(100_u64), Just(899), 900..1000_u64];
    let states = prop::sample::select(vec!["healthy", "drained", "draining", "down", "ejected"]);
    let limit = prop_oneof![Just(None), Just(Some(900)), Just(Some(950))];
    prop_oneof![
        4 => (0..3_usize, size.clone()).prop_map(|(app, size)| Event::Size(app, size)),
        2 => (0..3_usize, states).prop_map(|(app, state)| Event::State(app, state)),
        1 => (0..3_usize, any::<bool>()).prop_map(|(app, fails)| Event::Fails(app, fails)),
        1 => size.prop_map(Event::BeginsWith),
        1 => (1..60_u32).prop_map(Event::Away),
        1 => limit.prop_map(Event::Limit),
        1 => (0..3_usize, 0..50_u64).prop_map(|(app, count)| Event::InFlight(app, count)),
    ]
}

async fn play(events: &[(u64, Event)], finishes: u64, reports: bool) -> (Vec<String>, usize) {
    let inner = FakeGateway::new(&THREE);
    inner.state.borrow_mut().keeps_last = true;
    inner.state.borrow_mut().finishes = finishes;
    let apps = Apps::new(&inner, &THREE.map(|app| (app, 100)));
    let gateway = Checked {
        inner: &inner,
        ever: RefCell::default(),
        drained: RefCell::default(),
        violations: RefCell::default(),
    };
    let options = options(&["--watch", "--timeout", "5s"]);
    let (sender, interrupt) = interrupt();
    let (progress, _lines) = Progress::recorded(0);
    let watch = Watch::new(&gateway, &apps, &options, progress, interrupt);
    let script = async {
        for (gap, event) in events {
            match event.clone() {
                Event::Size(app, size) => apps.set(THREE[app], size),
                Event::State(app, state) => {
                    inner.with(THREE[app], |backend| backend.state = state.into());
                }
                Event::Fails(app, true) => {
                    apps.failing.borrow_mut().insert(THREE[app][10..].into());
                }
                Event::Fails(app, false) => {
                    apps.failing.borrow_mut().remove(&THREE[app][10..]);
                }
                Event::BeginsWith(size) => apps.begins_with.set(size),
                Event::Away(polls) => inner.state.borrow_mut().away = polls,
                Event::Limit(limit) => {
                    let limits = limit.map(|limit| RestartAt {
                        rss_bytes: Some(limit * MIB),
                        heap_bytes: None,
                    });
                    inner.state.borrow_mut().upstream.restart_at = limits;
                }
                Event::InFlight(app, count) => {
                    inner.with(THREE[app], |backend| backend.in_flight = count);
                }
            }
            if reports {
                apps.serve(*gap).await;
            } else {
                apps.report();
                sleep(Duration::from_secs(*gap)).await;
            }
        }
        sender.send_replace(true);
    };
    let (outcome, ()) = tokio::join!(watch.run(), script);
    assert_eq!(outcome, Ok(()));
    (gateway.violations.take(), apps.restarts.borrow().len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn at_most_one_is_drained_and_only_one_over_its_limit_or_failed(
        events in prop::collection::vec((1..90_u64, event()), 1..40),
        finishes in prop_oneof![Just(0_u64), 1..5_u64, Just(u64::MAX)],
        reports in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (violations, _restarts) = runtime.block_on(play(&events, finishes, reports));
        prop_assert_eq!(violations, Vec::<String>::new());
    }
}

/// The control of the property: its check notices each kind of violation.
#[tokio::test]
async fn the_check_of_the_property_notices_violations() {
    let inner = FakeGateway::new(&THREE);
    let apps = Apps::new(&inner, &[(THREE[0], 950), (THREE[1], 950), (THREE[2], 100)]);
    let gateway = Checked {
        inner: apps.gateway,
        ever: RefCell::default(),
        drained: RefCell::default(),
        violations: RefCell::default(),
    };
    let name = |index: usize| Name {
        upstream: "web".into(),
        address: THREE[index].into(),
    };
    gateway.drain(&name(0), false).await.unwrap();
    gateway.drain(&name(0), false).await.unwrap();
    assert_eq!(gateway.violations.take(), [""; 0]);
    gateway.drain(&name(1), false).await.unwrap();
    assert_eq!(gateway.violations.take().len(), 1, "a second one");
    gateway.undrain(&name(0)).await.unwrap();
    gateway.undrain(&name(1)).await.unwrap();
    gateway.drain(&name(2), false).await.unwrap();
    let violations = gateway.violations.take();
    assert_eq!(violations, ["127.0.0.1:3002 is not over its limit"]);
    gateway.undrain(&name(2)).await.unwrap();
    inner.with(THREE[0], |backend| backend.state = "drained".into());
    gateway.drain(&name(0), false).await.unwrap();
    let violations = gateway.violations.take();
    assert_eq!(violations, ["127.0.0.1:3000 is an operator's"]);
}

/// The control of the property: drawn events do lead to restarts.
#[tokio::test(start_paused = true)]
async fn events_of_the_property_lead_to_restarts() {
    let mut events = Vec::new();
    for app in 0..3 {
        events.push((30, Event::Size(app, 950)));
    }
    let (violations, restarts) = play(&events, u64::MAX, true).await;
    assert_eq!((violations, restarts), (vec![], 3));
}
