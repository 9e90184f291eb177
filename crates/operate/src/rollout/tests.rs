//! Tests of rollouts against a scripted gateway and scripted programs.

use std::{cell::RefCell, path::Path, rc::Rc, time::Duration};

use clap::Parser;
use edgeway_base::shell::shown;

use super::*;
use crate::backends::tests::{FakeGateway, interrupt};

const THREE: [&str; 3] = ["127.0.0.1:3000", "127.0.0.1:3001", "127.0.0.1:3002"];

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: RolloutOptions,
}

pub(super) fn options(arguments: &[&str]) -> RolloutOptions {
    let line = ["rollout", "web"]
        .iter()
        .chain(arguments)
        .chain(&["--", "restart", "node@{port}"]);
    Line::parse_from(line).options
}

/// Programs that record their runs along with the gateway's requests. `broken` makes the app on a
/// port fail its checks from then on.
struct Fake<'a> {
    gateway: &'a FakeGateway,
    broken: Option<&'static str>,
    /// True if `--on-fail` repairs the app.
    mends: bool,
    on_run: RefCell<Option<Box<dyn FnOnce()>>>,
    /// A signal to the whole process group ends the command as well.
    ends_with: Option<&'static str>,
}

impl Programs for Fake<'_> {
    async fn run(&self, arguments: &[String]) -> Result<(), String> {
        let line = shown(arguments);
        let mut state = self.gateway.state.borrow_mut();
        if let Some(port) = self.broken
            && line.contains(port)
        {
            let address = format!("127.0.0.1:{port}");
            if line.starts_with("sh") && self.mends {
                state.broken.remove(&address);
            } else {
                state
                    .broken
                    .insert(address, "connection refused".to_owned());
            }
        }
        state.log.push(format!("run {line}"));
        drop(state);
        if let Some(act) = self.on_run.borrow_mut().take() {
            act();
        }
        self.ends_with.map_or(Ok(()), |why| Err(why.to_owned()))
    }
}

struct Done {
    outcome: Result<(), RolloutError>,
    log: Vec<String>,
    lines: Vec<String>,
}

async fn roll(
    gateway: &FakeGateway,
    arguments: &[&str],
    programs: &Fake<'_>,
    interrupt: Interrupt,
) -> Done {
    roll_with(None, gateway, arguments, programs, interrupt).await
}

async fn roll_with(
    file: Option<&Path>,
    gateway: &FakeGateway,
    arguments: &[&str],
    programs: &Fake<'_>,
    interrupt: Interrupt,
) -> Done {
    let upstream = gateway.state.borrow().upstream.clone();
    let options = options(arguments);
    let left = file.map_or(LeftDrained::default(), |file| {
        state_file::read(file).unwrap()
    });
    let plan = Plan::make(&options, &upstream, &left).unwrap();
    let (progress, lines) = Progress::recorded(plan.steps.len());
    let rollout = Rollout {
        options: &options,
        gateway,
        programs,
        progress,
        file: file.map(Path::to_owned),
        check_interrupt: interrupt.clone(),
        interrupt,
    };
    let outcome = rollout.run(&plan).await;
    let lines = lines.borrow().clone();
    Done {
        outcome,
        log: gateway.log(),
        lines,
    }
}

fn fake(gateway: &FakeGateway) -> Fake<'_> {
    Fake {
        gateway,
        broken: None,
        mends: false,
        on_run: RefCell::default(),
        ends_with: None,
    }
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_is_drained_restarted_and_taken_in_again() {
    let gateway = FakeGateway::new(&THREE);
    let (_sender, interrupt) = interrupt();
    let done = roll(&gateway, &[], &fake(&gateway), interrupt).await;
    assert_eq!(done.outcome, Ok(()));
    let each = |port| {
        [
            format!("drain 127.0.0.1:{port}"),
            format!("run restart node@{port}"),
            format!("undrain 127.0.0.1:{port}"),
        ]
    };
    assert_eq!(done.log, [each(3000), each(3001), each(3002)].concat());
    assert_eq!(done.lines.last().unwrap(), "3 backends restarted");
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_awaited_and_closed_ones_are_reported() {
    let gateway = FakeGateway::new(&THREE);
    gateway.state.borrow_mut().finishes = 1;
    gateway.with(THREE[0], |backend| backend.in_flight = 20);
    gateway.with(THREE[1], |backend| backend.in_flight = 1000);
    let (_sender, interrupt) = interrupt();
    let before = tokio::time::Instant::now();
    let done = roll(
        &gateway,
        &["--drain-timeout", "5s"],
        &fake(&gateway),
        interrupt,
    )
    .await;
    assert_eq!(done.outcome, Ok(()));
    assert!(before.elapsed() >= Duration::from_secs(7));
    let closed: Vec<_> = done
        .lines
        .iter()
        .filter(|line| line.contains("aborts"))
        .collect();
    assert_eq!(closed.len(), 1, "{:?}", done.lines);
    assert!(closed[0].starts_with("web/127.0.0.1:3001: 9"), "{closed:?}");
}

#[tokio::test(start_paused = true)]
async fn it_stops_at_the_first_that_does_not_come_back_which_stays_drained() {
    let gateway = FakeGateway::new(&THREE);
    let programs = Fake {
        broken: Some("3001"),
        ..fake(&gateway)
    };
    let (_sender, interrupt) = interrupt();
    let done = roll(&gateway, &["--timeout", "4s"], &programs, interrupt).await;
    assert_eq!(done.outcome, Err(RolloutError::Failed));
    assert_eq!(
        done.log[3..],
        ["drain 127.0.0.1:3001", "run restart node@3001"]
    );
    assert_eq!(
        done.lines[done.lines.len() - 3..],
        [
            "web/127.0.0.1:3001: did not come back within 4s: 0 good checks in a row, the \
             last one: connection refused; it stays drained, so no user reaches it",
            "once it is fixed: `edgeway undrain web/127.0.0.1:3001`",
            "not restarted: 127.0.0.1:3002",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_next_rollout_begins_with_what_the_failed_one_left_drained() {
    let gateway = FakeGateway::new(&THREE[..2]);
    gateway.state.borrow_mut().keeps_last = true;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.rollout.json");
    let (_sender, interrupt) = interrupt();
    for (broken, outcome) in [
        (Some("3001"), Err(RolloutError::Failed)),
        (None, Ok(())),
        (None, Ok(())),
    ] {
        let programs = Fake {
            broken,
            ..fake(&gateway)
        };
        if broken.is_none() {
            gateway.state.borrow_mut().broken.clear();
        }
        gateway.state.borrow_mut().log.clear();
        let arguments = ["--timeout", "4s"];
        let interrupt = interrupt.clone();
        let done = roll_with(Some(&file), &gateway, &arguments, &programs, interrupt).await;
        assert_eq!(done.outcome, outcome, "{:?}", done.lines);
    }
    // It was first in the second rollout, and has its place in the third.
    assert_eq!(gateway.log()[0], "drain 127.0.0.1:3000");
    // What is drained by hand meanwhile is not restarted.
    gateway.with(THREE[1], |backend| backend.state = "drained".into());
    let upstream = gateway.state.borrow().upstream.clone();
    let left: LeftDrained = state_file::read(&file).unwrap();
    let plan = Plan::make(&options(&["--force"]), &upstream, &left).unwrap();
    assert_eq!((plan.steps.len(), plan.skipped.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn on_fail_runs_for_it_and_takes_it_in_if_that_helps() {
    for mends in [true, false] {
        let gateway = FakeGateway::new(&THREE);
        let programs = Fake {
            broken: Some("3000"),
            mends,
            ..fake(&gateway)
        };
        let (_sender, interrupt) = interrupt();
        let arguments = ["--on-fail", "rollback {port} 'a b'"];
        let done = roll(&gateway, &arguments, &programs, interrupt).await;
        assert_eq!(
            done.outcome,
            Err(RolloutError::Failed),
            "it is a failure all the same"
        );
        let mut expected = vec![
            "drain 127.0.0.1:3000",
            "run restart node@3000",
            r"run sh -c 'rollback 3000 '\''a b'\'''",
        ];
        if mends {
            expected.push("undrain 127.0.0.1:3000");
        }
        assert_eq!(done.log, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_before_the_command_undoes_the_drain() {
    let gateway = FakeGateway::new(&THREE);
    gateway.with(THREE[0], |backend| backend.in_flight = u64::MAX);
    gateway.state.borrow_mut().finishes = 0;
    let (sender, interrupt) = interrupt();
    let programs = fake(&gateway);
    let rolling = roll(&gateway, &[], &programs, interrupt);
    let end = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sender.send_replace(true);
    };
    let (done, ()) = tokio::join!(rolling, end);
    assert_eq!(done.outcome, Err(RolloutError::Interrupted));
    assert_eq!(done.log, ["drain 127.0.0.1:3000", "undrain 127.0.0.1:3000"]);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_after_the_command_leaves_it_drained_with_a_note() {
    let gateway = FakeGateway::new(&THREE);
    let (sender, interrupt) = interrupt();
    let programs = Fake {
        on_run: RefCell::new(Some(Box::new(move || {
            sender.send_replace(true);
        }))),
        ..fake(&gateway)
    };
    let done = roll(&gateway, &[], &programs, interrupt).await;
    assert_eq!(done.outcome, Err(RolloutError::Interrupted));
    assert_eq!(done.log, ["drain 127.0.0.1:3000", "run restart node@3000"]);
    let lines = done.lines.join("\n");
    assert!(
        lines.contains("`edgeway undrain web/127.0.0.1:3000`"),
        "{lines}"
    );
    assert!(
        lines.contains("not restarted: 127.0.0.1:3001, 127.0.0.1:3002"),
        "{lines}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_that_ends_with_us_is_no_broken_build() {
    let gateway = FakeGateway::new(&THREE);
    let (sender, interrupt) = interrupt();
    let programs = Fake {
        on_run: RefCell::new(Some(Box::new(move || {
            sender.send_replace(true);
        }))),
        ends_with: Some("signal 2"),
        ..fake(&gateway)
    };
    let done = roll(&gateway, &["--on-fail", "mend"], &programs, interrupt).await;
    assert_eq!(done.outcome, Err(RolloutError::Interrupted));
    assert_eq!(done.log, ["drain 127.0.0.1:3000", "run restart node@3000"]);
    let lines = done.lines.join("\n");
    assert!(
        lines.contains("`edgeway undrain web/127.0.0.1:3000`"),
        "{lines}"
    );
}

#[test]
fn a_backend_that_is_drained_already_is_left_alone() {
    let gateway = FakeGateway::new(&THREE);
    gateway.with(THREE[1], |backend| backend.state = "drained".into());
    let upstream = gateway.state.borrow().upstream.clone();
    let options = options(&[]);
    let plan = Plan::make(&options, &upstream, &LeftDrained::default()).unwrap();
    let names: Vec<_> = plan.steps.iter().map(|step| &*step.name.address).collect();
    assert_eq!(names, ["127.0.0.1:3000", "127.0.0.1:3002"]);
    let text = plan.to_text(&options);
    assert!(text.starts_with("web/127.0.0.1:3001: skipped"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_drained_meanwhile_is_left_alone() {
    let gateway = Rc::new(FakeGateway::new(&THREE));
    let (_sender, interrupt) = interrupt();
    let operator = Rc::clone(&gateway);
    let programs = Fake {
        on_run: RefCell::new(Some(Box::new(move || {
            operator.with(THREE[1], |backend| backend.state = "drained".into());
        }))),
        ..fake(&gateway)
    };
    let done = roll(&gateway, &[], &programs, interrupt).await;
    assert_eq!(done.outcome, Ok(()));
    let touched = done.log.iter().any(|line| line.contains("3001"));
    assert!(!touched, "{:?}", done.log);
    let lines = done.lines.join("\n");
    assert!(lines.contains("web/127.0.0.1:3001: skipped"), "{lines}");
    assert!(lines.ends_with("2 backends restarted"), "{lines}");
}

#[test]
fn the_only_one_is_restarted_by_force_only() {
    let gateway = FakeGateway::new(&THREE[..1]);
    let upstream = gateway.state.borrow().upstream.clone();
    let none = LeftDrained::default();
    let refused = Plan::make(&options(&[]), &upstream, &none).unwrap_err();
    assert!(refused.contains("users get 503"), "{refused}");
    assert!(Plan::make(&options(&["--force"]), &upstream, &none).is_ok());
}

#[test]
fn a_dry_run_prints_each_step() {
    let gateway = FakeGateway::new(&THREE[..2]);
    let upstream = gateway.state.borrow().upstream.clone();
    let arguments = ["--on-fail", "rollback {port}", "--probes", "2"];
    let options = options(&arguments);
    let plan = Plan::make(&options, &upstream, &LeftDrained::default()).unwrap();
    let text = plan.to_text(&options);
    let first: Vec<&str> = text.lines().take(6).collect();
    assert_eq!(
        first,
        [
            "web/127.0.0.1:3000",
            "  drain it, wait up to 30s for requests in flight",
            "  run: restart node@3000",
            "  wait up to 1min for 2 good checks in a row",
            "  send it requests again",
            "  if it does not come back: sh -c 'rollback 3000'",
        ]
    );
    assert_eq!(text.lines().count(), 12);
}
