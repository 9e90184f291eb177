//! Tests of the watch against a scripted gateway and scripted apps, with paused time.

mod invariant;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

use edgeway_base::shell::shown;
use tokio::time::sleep;

use super::{super::tests::options, *};
use crate::backends::tests::{FakeGateway, interrupt};

const MIB: u64 = 1 << 20;
const THREE: [&str; 3] = ["127.0.0.1:3000", "127.0.0.1:3001", "127.0.0.1:3002"];

/// Node apps behind the scripted gateway, and the command that restarts them.
struct Apps<'a> {
    gateway: &'a FakeGateway,
    /// Resident memory of each, in MiB; an app that is absent reports nothing.
    sizes: RefCell<BTreeMap<String, u64>>,
    /// Size of an app after a restart.
    begins_with: Cell<u64>,
    /// Ports whose command fails.
    failing: RefCell<BTreeSet<String>>,
    /// Times of the restarts.
    restarts: RefCell<Vec<Instant>>,
    takes: Duration,
}

impl<'a> Apps<'a> {
    fn new(gateway: &'a FakeGateway, sizes: &[(&str, u64)]) -> Self {
        gateway.state.borrow_mut().upstream.restart_at = Some(RestartAt {
            rss_bytes: Some(900 * MIB),
            heap_bytes: None,
        });
        let sizes = sizes.iter().map(|(app, size)| ((*app).to_owned(), *size));
        let apps = Self {
            gateway,
            sizes: RefCell::new(sizes.collect()),
            begins_with: Cell::new(100),
            failing: RefCell::default(),
            restarts: RefCell::default(),
            takes: Duration::from_secs(2),
        };
        apps.report();
        apps
    }

    fn set(&self, app: &str, size: u64) {
        self.sizes.borrow_mut().insert(app.to_owned(), size);
    }

    /// Lets each app that gets requests report its size.
    fn report(&self) {
        let mut state = self.gateway.state.borrow_mut();
        let drained: Vec<_> = state
            .upstream
            .backends
            .iter()
            .filter(|b| is_drained(b))
            .collect();
        let drained: Vec<_> = drained.into_iter().map(|b| b.address.clone()).collect();
        for (app, size) in &*self.sizes.borrow() {
            if !drained.contains(app) {
                let report = (Instant::now(), size * MIB);
                state.reports.insert(app.clone(), report);
            }
        }
    }

    /// Lets time pass, with a report of each app per second.
    async fn serve(&self, seconds: u64) {
        for _ in 0..seconds {
            self.report();
            sleep(Duration::from_secs(1)).await;
        }
    }
}

impl Programs for Apps<'_> {
    async fn run(&self, arguments: &[String]) -> Result<(), String> {
        let line = shown(arguments);
        self.gateway
            .state
            .borrow_mut()
            .log
            .push(format!("run {line}"));
        self.restarts.borrow_mut().push(Instant::now());
        sleep(self.takes).await;
        let port = line.rsplit('@').next().unwrap();
        if self.failing.borrow().contains(port) {
            return Err("exit status: 1".to_owned());
        }
        self.set(&format!("127.0.0.1:{port}"), self.begins_with.get());
        Ok(())
    }
}

struct Seen {
    outcome: Result<(), RequestFailure>,
    log: Vec<String>,
    lines: Vec<String>,
}

impl Seen {
    fn count(&self, text: &str) -> usize {
        self.lines.iter().filter(|line| line.contains(text)).count()
    }

    fn restarts(&self) -> Vec<&str> {
        let runs = self.log.iter();
        runs.filter_map(|line| line.strip_prefix("run restart node@"))
            .collect()
    }
}

/// Watches the apps while `script` runs, and interrupts the watch then.
async fn watch(apps: &Apps<'_>, arguments: &[&str], script: impl AsyncFnOnce()) -> Seen {
    let options = options(&[&["--watch"], arguments].concat());
    let (sender, interrupt) = interrupt();
    let (progress, lines) = Progress::recorded(0);
    let watch = Watch::new(apps.gateway, apps, &options, progress, interrupt);
    let script = async {
        script().await;
        sender.send_replace(true);
    };
    let (outcome, ()) = tokio::join!(watch.run(), script);
    let lines = lines.borrow().clone();
    Seen {
        outcome,
        log: apps.gateway.log(),
        lines,
    }
}

fn each(port: u16) -> [String; 3] {
    [
        format!("drain 127.0.0.1:{port}"),
        format!("run restart node@{port}"),
        format!("undrain 127.0.0.1:{port}"),
    ]
}

#[tokio::test(start_paused = true)]
async fn apps_over_the_limit_are_restarted_one_at_a_time_the_largest_first() {
    let gateway = FakeGateway::new(&THREE);
    let apps = Apps::new(
        &gateway,
        &[(THREE[0], 950), (THREE[1], 899), (THREE[2], 990)],
    );
    let seen = watch(&apps, &[], async || apps.serve(40).await).await;
    assert_eq!(seen.outcome, Ok(()));
    assert_eq!(seen.log, [each(3002), each(3000)].concat());
    assert_eq!(
        seen.lines[0],
        "watching 3 backends of upstream `web`, restart at rss 900MiB"
    );
    let expected = "web/127.0.0.1:3002: `restart_at` reached: rss 990 MiB, limit 900MiB: \
                    restarting it";
    assert_eq!(seen.lines[1], expected);
    let waits = "web/127.0.0.1:3000: `restart_at` reached: rss 950 MiB, limit 900MiB; not \
                 restarted while";
    assert_eq!(seen.count(waits), 0, "one loop: it sees nothing meanwhile");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_always_over_its_limit_is_restarted_ever_less_often() {
    let gateway = FakeGateway::new(&THREE);
    let apps = Apps::new(&gateway, &[(THREE[0], 950)]);
    apps.begins_with.set(950);
    let seen = watch(&apps, &[], async || apps.serve(3 * 3600).await).await;
    let restarts = apps.restarts.borrow();
    let gaps: Vec<u64> = restarts
        .windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).as_secs())
        .collect();
    assert_eq!(gaps.len(), 7, "{gaps:?}");
    for (gap, wait) in gaps.iter().zip([60, 120, 240, 480, 960, 1920, 3600]) {
        assert!((wait..wait + 5).contains(gap), "{gaps:?}");
    }
    assert_eq!(seen.count("is the limit below what the app needs?"), 8);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_leaks_again_after_its_back_off_waits_no_longer() {
    let gateway = FakeGateway::new(&THREE);
    let apps = Apps::new(&gateway, &[(THREE[0], 950)]);
    let seen = watch(&apps, &[], async || {
        for _ in 0..5 {
            apps.serve(70).await;
            apps.set(THREE[0], 950);
        }
        apps.serve(10).await;
    })
    .await;
    assert_eq!(seen.restarts().len(), 6, "{:?}", seen.log);
    assert_eq!(seen.count("again"), 0, "{:?}", seen.lines);
}

/// A leak that is about as fast as the first back-off is long must not lead to a longer one, in which
/// the app would be killed.
#[tokio::test(start_paused = true)]
async fn an_app_that_leaks_again_late_in_its_back_off_is_restarted_at_its_end() {
    let gateway = FakeGateway::new(&THREE);
    let apps = Apps::new(&gateway, &[(THREE[0], 950)]);
    let seen = watch(&apps, &[], async || {
        for _ in 0..5 {
            apps.serve(45).await;
            apps.set(THREE[0], 950);
            apps.serve(20).await;
        }
    })
    .await;
    assert_eq!(seen.restarts().len(), 6, "{:?}", seen.log);
    assert_eq!(seen.count("is the limit below what the app needs?"), 5);
}

/// Invariant: only a report of the process that serves now restarts it.
#[tokio::test(start_paused = true)]
async fn a_report_of_a_replaced_process_restarts_nothing() {
    let gateway = FakeGateway::new(&THREE);
    let apps = Apps::new(&gateway, &[]);
    let report = |size: u64| {
        let report = (Instant::now(), size * MIB);
        gateway
            .state
            .borrow_mut()
            .reports
            .insert(THREE[0].into(), report);
    };
    let state =
        |state: &'static str| gateway.with(THREE[0], |backend| backend.state = state.into());
    let seen = watch(&apps, &[], async || {
        // Restarted by others: by an operator, and after a crash that a check has seen.
        for out in ["drained", "draining", "down", "ejected"] {
            state(out);
            report(950);
            sleep(Duration::from_secs(3)).await;
            state("healthy");
            sleep(Duration::from_secs(20)).await;
        }
        // Too old to be about the present.
        report(100);
        gateway.state.borrow_mut().away = 12;
        report(950);
        sleep(Duration::from_secs(20)).await;
    })
    .await;
    assert_eq!(seen.restarts(), [""; 0], "{:?}", seen.lines);
    // The control: a report of the present process.
    let seen = watch(&apps, &[], async || {
        report(950);
        sleep(Duration::from_secs(20)).await;
    })
    .await;
    assert_eq!(seen.restarts(), ["3000"], "and the old report not again");
}

#[tokio::test(start_paused = true)]
async fn the_last_backend_in_rotation_waits_for_another_one() {
    let gateway = FakeGateway::new(&THREE[..2]);
    gateway.state.borrow_mut().keeps_last = true;
    gateway.with(THREE[1], |backend| backend.state = "drained".into());
    let apps = Apps::new(&gateway, &[(THREE[0], 950)]);
    let seen = watch(&apps, &[], async || {
        apps.serve(35).await;
        assert_eq!(gateway.log(), ["drain 127.0.0.1:3000"; 4]);
        gateway.with(THREE[1], |backend| backend.state = "healthy".into());
        apps.serve(25).await;
    })
    .await;
    assert_eq!(seen.log[4..], each(3000));
    let refused = "web/127.0.0.1:3000: not restarted: `127.0.0.1:3000` is the last backend in \
                   rotation; trying again every 10s";
    assert_eq!(seen.count(refused), 1, "{:?}", seen.lines);
    assert_eq!(
        seen.lines[0],
        "web/127.0.0.1:3001: is drained, so it is left alone"
    );

    gateway.with(THREE[1], |backend| backend.state = "drained".into());
    apps.set(THREE[0], 950);
    let forced = watch(&apps, &["--force"], async || apps.serve(20).await).await;
    assert_eq!(forced.log[7], "drain 127.0.0.1:3000 by force");
    assert_eq!(forced.restarts().len(), 2, "{:?}", forced.log);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_away_is_waited_for() {
    let gateway = FakeGateway::new(&THREE);
    let apps = Apps::new(&gateway, &[(THREE[0], 950)]);
    gateway.state.borrow_mut().away = 20;
    let seen = watch(&apps, &[], async || {
        apps.serve(60).await;
        gateway.state.borrow_mut().away = 20;
        apps.set(THREE[1], 950);
        apps.serve(60).await;
    })
    .await;
    assert_eq!(seen.outcome, Ok(()));
    assert_eq!(seen.restarts(), ["3000", "3001"]);
    assert_eq!(
        seen.count("nobody is there; waiting"),
        2,
        "{:?}",
        seen.lines
    );
    assert_eq!(seen.count("watching upstream `web` again"), 1);
}

#[tokio::test(start_paused = true)]
async fn changed_limits_are_seen_and_missing_ones_are_refused_at_the_beginning() {
    let gateway = FakeGateway::new(&THREE);
    let apps = Apps::new(&gateway, &[(THREE[0], 850)]);
    let limit = |rss: Option<u64>| {
        gateway.state.borrow_mut().upstream.restart_at = rss.map(|rss| RestartAt {
            rss_bytes: Some(rss * MIB),
            heap_bytes: None,
        });
    };
    let seen = watch(&apps, &[], async || {
        apps.serve(10).await;
        limit(None);
        apps.serve(10).await;
        assert_eq!(gateway.log(), [""; 0]);
        limit(Some(800));
        apps.serve(20).await;
    })
    .await;
    assert_eq!(seen.restarts(), ["3000"]);
    assert_eq!(seen.count("has no `restart_at` any more"), 1);
    assert_eq!(seen.count("`restart_at` is now rss 800MiB"), 1);

    limit(None);
    let refused = watch(&apps, &[], async || {}).await.outcome.unwrap_err();
    assert!(refused.to_string().contains("write such as"), "{refused}");
    gateway.state.borrow_mut().upstream.name = "other".into();
    let refused = watch(&apps, &[], async || {}).await.outcome.unwrap_err();
    assert_eq!(refused.to_string(), "unknown upstream `web`");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_does_not_come_back_is_left_drained_after_three_restarts() {
    let gateway = FakeGateway::new(&THREE);
    let apps = Apps::new(&gateway, &[(THREE[0], 990), (THREE[1], 950)]);
    apps.failing.borrow_mut().insert("3000".into());
    let seen = watch(&apps, &[], async || {
        apps.serve(600).await;
        assert_eq!(apps.restarts.borrow().len(), 3);
        assert!(gateway.with(THREE[0], |backend| is_drained(backend)));
        // An operator repairs it.
        apps.failing.borrow_mut().clear();
        apps.set(THREE[0], 100);
        gateway.with(THREE[0], |backend| backend.state = "healthy".into());
        apps.serve(30).await;
    })
    .await;
    assert_eq!(seen.log[..2], each(3000)[..2]);
    assert_eq!(seen.restarts(), ["3000", "3000", "3000", "3001"]);
    let times = apps.restarts.borrow();
    for (pair, wait) in times.windows(2).zip([60, 120]) {
        let gap = pair[1].duration_since(pair[0]).as_secs();
        assert!((wait..wait + 5).contains(&gap), "{times:?}");
    }
    assert_eq!(seen.count("3 restarts have failed, so it stays drained"), 1);
    let other = "not restarted while 127.0.0.1:3000 is drained";
    assert_eq!(seen.count(other), 1, "{:?}", seen.lines);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_undoes_a_drain_and_completes_a_restart() {
    let gateway = FakeGateway::new(&THREE);
    let apps = Apps::new(&gateway, &[(THREE[0], 950)]);
    gateway.state.borrow_mut().finishes = 0;
    gateway.with(THREE[0], |backend| backend.in_flight = 5);
    let seen = watch(&apps, &[], async || apps.serve(5).await).await;
    assert_eq!(seen.outcome, Ok(()));
    assert_eq!(seen.log, ["drain 127.0.0.1:3000", "undrain 127.0.0.1:3000"]);

    gateway.with(THREE[0], |backend| backend.in_flight = 0);
    let begin = Instant::now();
    let seen = watch(&apps, &[], async || apps.serve(1).await).await;
    assert_eq!(seen.outcome, Ok(()));
    assert_eq!(seen.log[2..], each(3000));
    assert!(begin.elapsed() > apps.takes, "the command has ended before");

    let begin = Instant::now();
    let idle = watch(&apps, &[], async || apps.serve(3).await).await;
    assert_eq!(
        (idle.outcome, begin.elapsed()),
        (Ok(()), Duration::from_secs(3))
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_that_cannot_name_a_backend_is_refused_at_the_beginning() {
    let gateway = FakeGateway::new(&["unix:/run/app.sock"]);
    let apps = Apps::new(&gateway, &[]);
    let refused = watch(&apps, &[], async || {}).await.outcome.unwrap_err();
    assert!(refused.to_string().contains("has no `{port}`"), "{refused}");
}
