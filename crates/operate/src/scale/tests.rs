//! Plans, and their steps against a gateway that follows a script.

use edgeway_base::shell::shown;

use super::{
    super::backends::tests::{FakeGateway, backend, interrupt},
    *,
};

/// Creates a gateway with two configured backends, and `added` ones with their states.
fn gateway(added: &[(&str, &str)]) -> FakeGateway {
    let gateway = FakeGateway::new(&["127.0.0.1:3000", "127.0.0.1:3001"]);
    let mut state = gateway.state.borrow_mut();
    state.upstream.scale = Some(Scale {
        unit: "node-app@{port}.service".to_owned(),
        first_port: 3000,
        last_port: 3007,
        manager: "user".into(),
        address: "127.0.0.1".parse().unwrap(),
    });
    for (address, is) in added {
        let mut added = backend(address, "added");
        added.state = (*is).to_owned().into();
        added.healthy = *is != "down";
        state.upstream.backends.push(added);
    }
    drop(state);
    gateway
}

fn plan(gateway: &FakeGateway, count: usize) -> Result<Plan, String> {
    let upstream = gateway.state.borrow().upstream.clone();
    Plan::make(&upstream, count)
}

/// The ports to start and to stop.
fn ports(added: &[(&str, &str)], count: usize) -> (Vec<String>, Vec<String>) {
    let plan = plan(&gateway(added), count).unwrap();
    let list = |apps: Vec<App>| -> Vec<String> {
        let ports = apps
            .iter()
            .filter_map(|app| app.name.address.split(':').nth(1));
        ports.map(str::to_owned).collect()
    };
    (list(plan.up), list(plan.down))
}

#[test]
fn free_ports_are_taken_from_the_first_and_given_back_from_the_last() {
    let none: [&str; 0] = [];
    let (up, down) = ports(&[], 4);
    assert_eq!((up, down), (vec!["3002".into(), "3003".into()], vec![]));
    let four = [("127.0.0.1:3003", "healthy"), ("127.0.0.1:3002", "down")];
    let (up, down) = ports(&four, 3);
    assert_eq!((up, down), (vec![], vec!["3002".to_owned()]), "it is down");
    assert_eq!(ports(&four, 2).1, ["3002", "3003"]);
    assert_eq!(ports(&four, 4), (vec![], vec![]));
    let healthy = [
        ("127.0.0.1:3003", "healthy"),
        ("127.0.0.1:3002", "slow_start"),
    ];
    assert_eq!(ports(&healthy, 3).1, ["3003"]);
    assert_eq!(ports(&[("127.0.0.1:3003", "healthy")], 4).0, ["3002"]);
    let elsewhere = [("127.0.0.1:4000", "healthy"), ("10.0.0.1:3002", "healthy")];
    assert_eq!(ports(&elsewhere, 3).0, ["3002"], "those are not counted");
    assert_eq!(ports(&elsewhere, 2).1, none, "nor stopped");
}

#[test]
fn what_was_left_halfway_is_finished_or_taken_back() {
    let left = [("127.0.0.1:3002", "drained"), ("127.0.0.1:3004", "healthy")];
    assert_eq!(ports(&left, 4), (vec!["3002".to_owned()], vec![]));
    assert_eq!(ports(&left, 5).0, ["3002", "3003"]);
    assert_eq!(ports(&left, 3), (vec![], vec!["3002".to_owned()]));
    assert_eq!(ports(&left, 2).1, ["3002", "3004"]);
}

/// Invariant: after `scale N`, N backends are there whose units run, whatever ran before.
#[tokio::test(start_paused = true)]
async fn apps_that_are_down_after_a_reboot_are_started_again() {
    let gateway = gateway(&[("127.0.0.1:3002", "down"), ("127.0.0.1:3003", "down")]);
    let shown = plan(&gateway, 5).unwrap().text();
    let starts = [3002, 3003, 3004].map(|port| format!("start node-app@{port}.service"));
    assert_eq!(shown, starts.join("\n"));
    let (outcome, log, lines) = scale(&gateway, 5, None).await;
    assert_eq!(outcome, Ok(()));
    let starts =
        [3002, 3003, 3004].map(|port| format!("systemctl --user start -- node-app@{port}.service"));
    assert_eq!(log[..3], starts);
    assert_eq!(log[3..], ["add 127.0.0.1:3004", "undrain 127.0.0.1:3004"]);
    for line in [
        "web/127.0.0.1:3002: started again and in rotation",
        "web/127.0.0.1:3003: started again and in rotation",
        "upstream `web` has 5 backends",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line}: {lines:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_stays_down_is_reported_and_kept() {
    let gateway = gateway(&[("127.0.0.1:3002", "down")]);
    let bad = ("127.0.0.1:3002".to_owned(), "connection refused".to_owned());
    gateway.state.borrow_mut().broken.extend([bad]);
    let (outcome, log, lines) = scale(&gateway, 4, None).await;
    assert_eq!(outcome, Err(Failure::FAILED));
    // It does not keep the other one from being started.
    assert_eq!(log.last().unwrap(), "undrain 127.0.0.1:3003");
    assert!(
        !log.iter().any(|line| line.starts_with("remove")),
        "{log:?}"
    );
    let last = lines.last().unwrap();
    assert!(
        last.contains("connection refused") && last.ends_with("look at `node-app@3002.service`"),
        "{last}"
    );
}

#[test]
fn an_impossible_scale_is_reported_with_a_remedy() {
    let refused = plan(&gateway(&[]), 1).unwrap_err();
    assert!(
        refused.starts_with("2 backends of upstream `web` are written"),
        "{refused}"
    );
    assert!(
        refused.contains("remove 1 of them there and reload"),
        "{refused}"
    );
    let refused = plan(&gateway(&[]), 9).unwrap_err();
    assert!(refused.contains("room for 8 backends"), "{refused}");
    let without = FakeGateway::new(&["127.0.0.1:3000"]);
    let refused = plan(&without, 2).unwrap_err();
    assert!(refused.contains("has no `scale`"), "{refused}");
}

struct Fake<'a> {
    gateway: &'a FakeGateway,
    /// The `systemctl` verb that fails.
    fails: Option<&'static str>,
    /// True if units may be started again after `systemctl reset-failed`.
    resets: bool,
}

impl Programs for Fake<'_> {
    async fn run(&self, arguments: &[String]) -> Result<(), String> {
        let line = shown(arguments);
        let mut before = self.gateway.log().into_iter();
        let is_reset = self.resets && before.any(|line| line.contains("reset-failed"));
        let is_bad = self.fails.is_some_and(|verb| line.contains(verb)) && !is_reset;
        self.gateway.state.borrow_mut().log.push(line);
        if is_bad {
            Err("exit status: 1".to_owned())
        } else {
            Ok(())
        }
    }
}

async fn scale(
    gateway: &FakeGateway,
    count: usize,
    fails: Option<&'static str>,
) -> (Result<(), Failure>, Vec<String>, Vec<String>) {
    scale_with(gateway, count, (fails, false)).await
}

async fn scale_with(
    gateway: &FakeGateway,
    count: usize,
    (fails, resets): (Option<&'static str>, bool),
) -> (Result<(), Failure>, Vec<String>, Vec<String>) {
    let plan = plan(gateway, count).unwrap();
    let (progress, lines) = Progress::recorded(plan.up.len());
    let (_sender, interrupt) = interrupt();
    let scaling = Scaling {
        gateway,
        programs: &Fake {
            gateway,
            fails,
            resets,
        },
        progress,
        probes: 3,
        timeout: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(5),
        interrupt,
    };
    let outcome = scaling.run(&plan).await;
    let lines = lines.borrow().clone();
    (outcome, gateway.log(), lines)
}

#[tokio::test(start_paused = true)]
async fn a_new_app_is_started_added_and_checked_before_it_serves() {
    let gateway = gateway(&[]);
    let (outcome, log, lines) = scale(&gateway, 3, None).await;
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        log,
        [
            "systemctl --user start -- node-app@3002.service",
            "add 127.0.0.1:3002",
            "undrain 127.0.0.1:3002",
        ]
    );
    assert_eq!(lines.last().unwrap(), "upstream `web` has 3 backends");
    let (_, _, lines) = scale(&gateway, 3, None).await;
    assert_eq!(lines, ["upstream `web` has 3 backends already"]);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_goes_is_drained_removed_and_stopped() {
    let gateway = gateway(&[("127.0.0.1:3002", "healthy")]);
    gateway.with("127.0.0.1:3002", |backend| backend.in_flight = 4);
    gateway.state.borrow_mut().finishes = 1;
    let (outcome, log, _) = scale(&gateway, 2, None).await;
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        log,
        [
            "drain 127.0.0.1:3002",
            "remove 127.0.0.1:3002",
            "systemctl --user stop -- node-app@3002.service",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_app_that_does_not_come_up_leaves_nothing_behind() {
    let gateway = gateway(&[]);
    let bad = ("127.0.0.1:3002".to_owned(), "connection refused".to_owned());
    gateway.state.borrow_mut().broken.extend([bad]);
    let (outcome, log, lines) = scale(&gateway, 4, None).await;
    assert_eq!(outcome, Err(Failure::FAILED));
    assert_eq!(
        log,
        [
            "systemctl --user start -- node-app@3002.service",
            "add 127.0.0.1:3002",
            "remove 127.0.0.1:3002",
            "systemctl --user stop -- node-app@3002.service",
        ]
    );
    let lines = lines.join("\n");
    assert!(lines.contains("is not healthy after 10s"), "{lines}");
    assert!(lines.contains("connection refused"), "{lines}");
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_cannot_be_started_is_reported_with_the_command() {
    let gateway = gateway(&[("127.0.0.1:3002", "drained")]);
    let (outcome, log, lines) = scale(&gateway, 3, Some("start")).await;
    assert_eq!(outcome, Err(Failure::FAILED));
    assert_eq!(
        log[1..],
        [
            "systemctl --user reset-failed -- node-app@3002.service",
            "systemctl --user start -- node-app@3002.service",
            "remove 127.0.0.1:3002",
            "systemctl --user stop -- node-app@3002.service"
        ]
    );
    assert!(
        lines.iter().any(|line| line
            .contains("`systemctl --user start -- node-app@3002.service` failed: exit status: 1")),
        "{lines:?}"
    );
}

/// An app that ended again and again has used up the starts of its unit.
#[tokio::test(start_paused = true)]
async fn a_unit_without_starts_left_gets_new_ones() {
    for (added, last) in [
        (&[][..], "undrain 127.0.0.1:3002"),
        (
            &[("127.0.0.1:3002", "down")],
            "systemctl --user start -- node-app@3002.service",
        ),
    ] {
        let gateway = gateway(added);
        let (outcome, log, _) = scale_with(&gateway, 3, (Some("start"), true)).await;
        assert_eq!(outcome, Ok(()), "{log:?}");
        assert_eq!(
            log[..3],
            [
                "systemctl --user start -- node-app@3002.service",
                "systemctl --user reset-failed -- node-app@3002.service",
                "systemctl --user start -- node-app@3002.service",
            ]
        );
        assert_eq!(log.last().unwrap(), last);
    }
    // Nothing to reset: the first failure is the reason.
    let gateway = gateway(&[("127.0.0.1:3002", "drained")]);
    let (outcome, log, lines) = scale_with(&gateway, 3, (Some("systemctl"), false)).await;
    assert_eq!(outcome, Err(Failure::FAILED));
    assert!(
        log[2..].iter().all(|line| !line.contains(" start ")),
        "{log:?}"
    );
    assert!(
        lines.iter().any(|line| line.contains("start --")),
        "{lines:?}"
    );
}
