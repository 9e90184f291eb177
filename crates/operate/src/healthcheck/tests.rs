//! Refused arguments, restarts with their pauses, and probes of real sockets.

use std::cell::RefCell;

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: HealthcheckOptions,
}

/// Records commands; `Err` for those of a unit named `bad`, and no end for one named `hangs`.
#[derive(Default)]
struct Recorded(RefCell<Vec<String>>);

impl Programs for Recorded {
    async fn run(&self, arguments: &[String]) -> Result<(), String> {
        self.0.borrow_mut().push(arguments.join(" "));
        match arguments.last() {
            Some(unit) if unit == "bad" => Err("exit status: 5".to_owned()),
            Some(unit) if unit == "hangs" => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

fn options(line: &str) -> Result<HealthcheckOptions, String> {
    edgeway_core::chain::testkit::without_filters();
    let words = std::iter::once("x").chain(line.split_whitespace());
    let parsed = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    probes(&parsed.options)?;
    Ok(parsed.options)
}

#[test]
fn mistakes_are_refused_with_the_form_to_write() {
    for (line, part) in [
        ("--http site", "write NAME=URL"),
        ("--http site=shop.example.com", "no http or https URL"),
        ("--redis r=127.0.0.1:6379", "write NAME=URL"),
        ("--mongodb m=127.0.0.1", "has no port"),
        ("--tcp m=127.0.0.1:99999", "has no port"),
        (
            "--gateway --restart api=a.service",
            "unknown probe; there is `gateway`",
        ),
        ("--gateway --restart gateway", "write NAME=UNIT"),
        ("--gateway --restart gateway=--now", "write NAME=UNIT"),
        (
            "--gateway --tcp gateway=a:1",
            "two probes are named `gateway`",
        ),
        ("--gateway --attempts 0", "1..=10"),
        (
            "--gateway --redis-password-file /nowhere/at/all",
            "cannot read `/nowhere/at/all`",
        ),
    ] {
        let refused = options(line).map(drop).unwrap_err();
        assert!(refused.contains(part), "{line}: {refused}");
    }
    assert!(run(&options("").unwrap()).is_err());
}

#[test]
fn passwords_are_not_in_debug_output() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "swordfish\n").unwrap();
    let line = format!(
        "--redis r=redis://:hunter2@127.0.0.1:1 --redis-password-file {}",
        file.display()
    );
    let options = options(&line).unwrap();
    let shown = format!("{:?}", probes(&options).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(!shown.contains("swordfish"), "{shown}");
}

/// Makes runs of a check whose probes `api` and `front` are good or bad, some minutes apart.
struct Site {
    options: HealthcheckOptions,
    clock: Clock,
    programs: Recorded,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("new/restarts.json");
        let probes = "--tcp api=127.0.0.1:1 --tcp front=127.0.0.1:1";
        let line = format!("{probes} --state {} {more}", state.display());
        Self {
            options: options(&line).unwrap(),
            clock: Clock::test(),
            programs: Recorded::default(),
            _folder: folder,
        }
    }

    async fn run(&self, ok: bool) -> Vec<RestartOutcome> {
        self.run_with(ok, false).await.unwrap()
    }

    async fn run_with(&self, ok: bool, is_alive: bool) -> Result<Vec<RestartOutcome>, String> {
        let check = Check {
            options: &self.options,
            programs: &self.programs,
            clock: self.clock.clone(),
        };
        let probes = [("api", ok, is_alive), ("front", ok, false)];
        let probes = probes.map(|(name, ok, is_alive)| ProbeOutcome {
            name: name.to_owned(),
            ok,
            is_alive,
            ..ProbeOutcome::default()
        });
        match check.restart(&probes).await {
            (done, None) => Ok(done),
            (_, Some(problem)) => Err(problem),
        }
    }

    fn restarts(&self) -> usize {
        self.programs.0.borrow().len()
    }
}

#[tokio::test]
async fn a_unit_that_stays_bad_is_restarted_ever_more_rarely() {
    let site = Site::new("--restart api=api.service");
    assert_eq!(site.run(true).await, []);
    let mut at = Vec::new();
    for run in 0..48 {
        let before = site.restarts();
        let outcome = &site.run(false).await[0];
        if site.restarts() > before {
            assert_eq!(outcome.outcome, RestartResult::Restarted);
            at.push(5 * run);
        } else {
            assert_eq!(outcome.outcome, RestartResult::Pausing);
            assert!(outcome.until.is_some());
        }
        site.clock.advance(Duration::from_mins(5));
    }
    // Pauses of 4, 8, 16, 32, 60 and 60 minutes, at the next run each.
    assert_eq!(at, [0, 5, 15, 35, 70, 130, 190]);
    // A good run forgets them all.
    assert_eq!(site.run(true).await, []);
    assert_eq!(site.run(false).await[0].outcome, RestartResult::Restarted);
    assert_eq!(
        site.programs.0.borrow()[0],
        "systemctl restart -- api.service"
    );
}

#[tokio::test]
async fn several_probes_of_one_unit_restart_it_once() {
    let site =
        Site::new("--restart api=a.service --restart front=a.service --restart api=b.service");
    assert_eq!(site.run(false).await.len(), 2);
    assert_eq!(site.restarts(), 2);
    // One of them says that a restart would not help, in whatever order they are named.
    for order in [
        "api=a.service --restart front",
        "front=a.service --restart api",
    ] {
        let site = Site::new(&format!("--restart {order}=a.service"));
        let outcome = &site.run_with(false, true).await.unwrap()[0];
        assert_eq!(outcome.outcome, RestartResult::NotNeeded, "{order}");
    }
}

/// Invariant: a run changes nothing of units that it does not name.
#[tokio::test]
async fn another_check_with_the_same_file_keeps_pauses() {
    let site = Site::new("--restart api=api.service");
    site.run(false).await;
    let mut other = Site::new("--restart front=front.service");
    other.options.state.clone_from(&site.options.state);
    for ok in [false, true] {
        other.run(ok).await;
        assert_eq!(site.run(false).await[0].outcome, RestartResult::Pausing);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_hangs_is_reported_and_delays_no_other() {
    let site = Site::new("--restart api=hangs --restart front=front.service");
    let begun = tokio::time::Instant::now();
    let outcomes = site.run(false).await;
    assert_eq!(outcomes[0].outcome, RestartResult::Failed);
    let error = outcomes[0].error.as_deref().unwrap();
    assert_eq!(error, "not restarted after 90 s; systemd retries");
    assert_eq!(outcomes[1].outcome, RestartResult::Restarted);
    assert_eq!(begun.elapsed().as_secs(), 90);
}

#[tokio::test]
async fn a_dry_run_restarts_and_remembers_nothing() {
    let site = Site::new("--restart api=api.service --dry-run");
    for _ in 0..2 {
        assert_eq!(site.run(false).await[0].outcome, RestartResult::DryRun);
    }
    assert_eq!(site.restarts(), 0);
    assert!(!site.options.state.exists());
}

#[tokio::test]
async fn a_restart_that_fails_is_reported_and_pauses_too() {
    let site = Site::new("--restart api=bad");
    let first = site.run(false).await;
    assert_eq!(first[0].outcome, RestartResult::Failed);
    assert_eq!(first[0].error.as_deref(), Some("exit status: 5"));
    assert_eq!(site.run(false).await[0].outcome, RestartResult::Pausing);
}

#[tokio::test]
async fn a_clock_that_was_set_back_ends_a_pause() {
    let site = Site::new("--restart api=api.service");
    site.run(false).await;
    let now: DateTime<Utc> = site.clock.wall().into();
    let restarts: Restarts = state_file::read(&site.options.state).unwrap();
    assert!(restarts.pausing("api.service", now).is_some());
    let yesterday = now - chrono::Duration::days(1);
    assert_eq!(restarts.pausing("api.service", yesterday), None);
}

#[tokio::test]
async fn a_gateway_that_responds_is_not_restarted() {
    let site = Site::new("--restart api=edgeway.service");
    let outcome = &site.run_with(false, true).await.unwrap()[0];
    assert_eq!(outcome.outcome, RestartResult::NotNeeded);
    assert_eq!(site.restarts(), 0);
    // Nor does that begin a pause.
    assert_eq!(site.run(false).await[0].outcome, RestartResult::Restarted);
}

#[tokio::test]
async fn a_broken_state_file_is_reported_and_restarts_nothing() {
    let site = Site::new("--restart api=api.service");
    site.run(true).await;
    fs::write(&site.options.state, "{").unwrap();
    let problem = site.run_with(false, false).await.unwrap_err();
    assert!(problem.contains("restarts.json"), "{problem}");
    assert!(problem.ends_with("; remove it"), "{problem}");
    assert_eq!(site.restarts(), 0);
}

#[tokio::test]
async fn a_probe_is_attempted_until_it_counts_as_failed() {
    // No program listens on a port that was just released.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = options(&format!("--tcp api={address} --attempts 2 --delay 10ms")).unwrap();
    let check = Check {
        options: &options,
        programs: &Recorded::default(),
        clock: Clock::test(),
    };
    let all = probes(&options).unwrap();
    let (good, problem) = check.run(&all).await;
    assert!(good.ok && problem.is_none(), "{good:?}");
    assert_eq!(good.probes[0].attempts, 1);
    drop(listener);
    let (bad, _) = check.run(&all).await;
    assert!(!bad.ok);
    assert_eq!(bad.probes[0].attempts, 2);
    assert!(bad.probes[0].error.as_ref().unwrap().contains("refused"));
    let line = serde_json::to_string(&bad).unwrap();
    assert!(
        line.contains("\"restarts\":[]") && !line.contains("is_alive"),
        "{line}"
    );
}
