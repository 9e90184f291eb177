//! Tests of what is a problem, and of its words.

use super::*;
use crate::{
    snapshot::{
        BackendStatus, CacheDiskStatus, CertificateStatus, ConfigStatus, LogFailure, ProblemOnset,
        RestartAt, RouteStatus, SlowRoute, UpstreamTraffic,
    },
    table,
};
use edgeway_upstreams::SilenceStatus;

fn found(status: &Snapshot) -> Vec<(&'static str, String)> {
    let time = time_of(status).unwrap_or_default();
    let list = find(status, time).into_iter();
    list.map(|problem| {
        // The line ends with what to look at.
        let (text, look) = problem.text.rsplit_once("; look at ").unwrap();
        assert!(!look.is_empty());
        (problem.section, text.to_owned())
    })
    .collect()
}

#[test]
fn a_plugin_that_fails_now_is_a_problem_with_its_error() {
    let mut status = Snapshot {
        plugins: vec![crate::table::testkit::plugin()],
        ..Snapshot::default()
    };
    let plugin = &mut status.plugins[0];
    plugin.routes[0].left_out = false;
    assert_eq!(found(&status), [], "failures of another time are none");
    let plugin = &mut status.plugins[0];
    plugin.routes[1].recent_failures = 25;
    plugin.routes[1].last_failure = Some("Error: no at plugin.js:4:22".to_owned());
    let text = "plugin ab-split (plugins/ab-split/plugin.js) failed 25 times on route web in the \
                last minute: Error: no at plugin.js:4:22";
    assert_eq!(found(&status), [("plugins", text.to_owned())]);
}

#[test]
fn a_gateway_without_problems_has_none() {
    assert_eq!(found(&Snapshot::default()), []);
}

#[test]
fn a_backend_that_fails_and_stays_is_a_problem_while_it_fails() {
    let mut status = Snapshot::default();
    for (failed, recent, count) in [(2, 2, 0), (3, 3, 1), (3, 0, 0)] {
        let backend = BackendStatus {
            state: "healthy".into(),
            failures_in_a_row: Some(failed),
            recent_failures: Some(recent),
            ..BackendStatus::default()
        };
        status.upstreams = vec![UpstreamStatus {
            backends: vec![backend],
            ..UpstreamStatus::default()
        }];
        assert_eq!(found(&status).len(), count, "{failed} {recent}");
    }
}

#[test]
fn a_backend_of_which_nothing_good_is_known_says_so() {
    let backend = |requests, failed, recent| BackendStatus {
        state: "healthy".into(),
        requests,
        failures_in_a_row: failed,
        recent_failures: Some(recent),
        ..BackendStatus::default()
    };
    let doubt = |backend: &BackendStatus| untried(backend).unwrap_or_default();
    assert_eq!(doubt(&backend(0, None, 0)), "neither checked nor used yet");
    let ejected_before = backend(3, Some(3), 0);
    assert_eq!(
        doubt(&ejected_before),
        "not used since its last 3 requests failed"
    );
    let is_used = [backend(3, Some(3), 3), backend(3, None, 0)];
    assert!(is_used.iter().all(|backend| doubt(backend).is_empty()));
    let is_checked = BackendStatus {
        probe: Some(edgeway_upstreams::ProbeStatus {
            passed: true,
            ..Default::default()
        }),
        ..ejected_before
    };
    assert_eq!(doubt(&is_checked), "");
}

#[test]
fn each_problem_names_its_section_and_the_most_serious_come_first() {
    let status = table::testkit::full();
    let list = find(&status, time_of(&status).unwrap());
    assert!(
        list.is_sorted_by_key(|problem| problem.severity),
        "{list:?}"
    );
    let mut sections: Vec<&str> = list.iter().map(|problem| problem.section).collect();
    sections.sort_unstable();
    let expected = [
        "cache",
        "certificates",
        "plugins",
        "shared",
        "shared",
        "upstreams",
    ];
    assert_eq!(sections, expected, "{list:?}");
    let refused = Snapshot {
        config: ConfigStatus {
            last_error: Some("first\nsecond".to_owned()),
            ..ConfigStatus::default()
        },
        ..Snapshot::default()
    };
    let text = "the last reload was refused, so the previous configuration stays in use: first";
    let text = text.to_owned();
    assert_eq!(found(&refused), [("reloads", text)]);
}

#[test]
fn an_upstream_that_no_backend_serves_is_a_problem() {
    let mut status = Snapshot::default();
    let backends = |states: &[&'static str]| {
        let backend = |state: &&'static str| BackendStatus {
            state: (*state).into(),
            ..BackendStatus::default()
        };
        states.iter().map(backend).collect()
    };
    for (states, expected) in [
        (
            &[][..],
            "upstream web has no backend, so its requests get 503",
        ),
        (
            &["drained", "draining"],
            "all backends of upstream web are drained, so its requests get 503",
        ),
        (&["drained", "healthy"], ""),
    ] {
        status.upstreams = vec![UpstreamStatus {
            name: "web".to_owned(),
            backends: backends(states),
            ..UpstreamStatus::default()
        }];
        let text = found(&status).pop().map(|(_, text)| text);
        assert_eq!(text.unwrap_or_default(), expected, "{states:?}");
    }
    status.upstreams[0].backends.clear();
    let text = table::render_text(&status, None);
    assert!(
        text.lines()
            .any(|line| line.starts_with("web  ") && line.ends_with("no backend")),
        "{text}"
    );
}

#[test]
fn what_to_look_at_is_a_command_for_any_name_of_a_route() {
    for (name, option) in [
        ("api", "--route=api"),
        ("/*", "--route='/*'"),
        ("-x", "--route=-x"),
    ] {
        let route = RouteStatus {
            name: name.to_owned(),
            traffic: RouteTraffic {
                rate: 10.0,
                server_error_rate: 10.0,
                ..RouteTraffic::default()
            },
            ..RouteStatus::default()
        };
        let status = Snapshot {
            routes: vec![route],
            ..Snapshot::default()
        };
        let list = find(&status, time_of(&status).unwrap_or_default());
        let command = format!("`edgeway logs --errors {option}`");
        assert!(list[0].text.ends_with(&command), "{}", list[0].text);
    }
}

#[test]
fn what_the_gateway_lacks_is_a_problem_of_its_own() {
    let mut status = table::testkit::full();
    status.process.lacked_descriptors = true;
    status.process.max_descriptors = Some(1024);
    status.unsaved_decisions = Some("No space left on device".to_owned());
    let redis = status.redis.as_mut().unwrap();
    (redis.up, redis.rejection) = (true, Some("OOM".to_owned()));
    let list = find(&status, time_of(&status).unwrap());
    let kinds: Vec<&str> = list.iter().map(|problem| problem.kind).collect();
    for kind in ["no_descriptors", "decisions_unsaved", "redis_rejects"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    assert!(!kinds.contains(&"redis_down"), "{kinds:?}");
}

#[test]
fn a_refused_reload_is_about_a_place_in_a_file() {
    for (message, expected) in [
        (
            "edgeway.yaml:11:21: error: unknown key `x`",
            "edgeway.yaml:11:21",
        ),
        ("refused: conf/a.yaml:1:2: error", "conf/a.yaml:1:2"),
        ("cannot listen on 127.0.0.1:80: address in use", ""),
        ("", ""),
    ] {
        assert_eq!(place(message), expected, "{message}");
    }
}

#[test]
fn the_wall_clock_of_a_snapshot_counts_and_else_its_uptime() {
    let mut status = table::testkit::full();
    status.uptime_seconds = 60;
    status.at = "2027-03-01T00:00:00.000Z".to_owned();
    assert_eq!(
        time_of(&status).unwrap().to_rfc3339(),
        "2027-03-01T00:00:00+00:00"
    );
    status.at = String::new();
    assert_eq!(
        time_of(&status).unwrap().to_rfc3339(),
        "2027-01-15T08:01:00+00:00"
    );
}

#[test]
fn a_few_failed_responses_are_no_problem_of_a_route() {
    for (rate, failed, is_problem) in [
        (100.0, 0.2, false),
        (100.0, 5.0, true),
        (1.0, 0.09, false),
        (1.0, 0.1, true),
        (0.0, 0.0, false),
    ] {
        let traffic = RouteTraffic {
            rate,
            server_error_rate: failed,
            client_error_rate: 9.0,
            ..RouteTraffic::default()
        };
        let status = Snapshot {
            routes: vec![RouteStatus {
                traffic,
                ..RouteStatus::default()
            }],
            ..Snapshot::default()
        };
        assert_eq!(!found(&status).is_empty(), is_problem, "{failed} of {rate}");
    }
}

#[test]
fn an_app_that_has_reached_its_memory_limit_is_a_problem() {
    let mut status = table::testkit::full();
    status.upstreams[0].restart_at = Some(RestartAt {
        rss_bytes: Some(100 << 20),
        heap_bytes: None,
    });
    let text = "backend web/127.0.0.1:3000: `restart_at` reached: rss 180 MiB, limit 100MiB";
    assert!(found(&status).contains(&("upstreams", text.to_owned())));
}

#[test]
fn a_folder_that_another_process_has_is_no_problem() {
    for (state, is_problem) in [
        ("up", false),
        ("busy", false),
        ("catching_up", false),
        ("off", false),
        ("full", true),
        ("slow", true),
    ] {
        let status = Snapshot {
            cache_disk: Some(CacheDiskStatus {
                state: state.to_owned(),
                ..CacheDiskStatus::default()
            }),
            ..Snapshot::default()
        };
        assert_eq!(!found(&status).is_empty(), is_problem, "{state}");
    }
}

#[test]
fn a_certificate_is_a_problem_from_two_weeks_before_its_end() {
    let days = |expires: &str| {
        let mut status = table::testkit::full();
        status.at = "2027-01-02T00:00:00Z".to_owned();
        status.expiries[0].expires = expires.to_owned();
        let left = time_left(&status.expiries[0], time_of(&status).unwrap())?;
        Some((left.num_days(), is_soon(left)))
    };
    assert_eq!(days("2027-01-16T00:00:00.000Z"), Some((14, false)));
    assert_eq!(days("2027-01-15T23:59:59.000Z"), Some((13, true)));
    assert_eq!(days("2027-01-01T23:59:59.000Z"), Some((0, true)));
    assert_eq!(days("soon"), None);
}

/// Returns the texts about an upstream with a route.
fn of_upstream(upstream: UpstreamStatus, route: RouteStatus) -> Vec<String> {
    let status = Snapshot {
        upstreams: vec![upstream],
        routes: vec![route],
        ..Snapshot::default()
    };
    found(&status).into_iter().map(|(_, text)| text).collect()
}

fn backend(address: &str) -> BackendStatus {
    BackendStatus {
        address: address.to_owned(),
        state: "healthy".into(),
        ..BackendStatus::default()
    }
}

#[test]
fn a_dead_backend_that_is_never_ejected_is_a_problem_with_its_cause() {
    let dead = BackendStatus {
        failures_in_a_row: Some(16),
        refused_in_a_row: Some(16),
        recent_failures: Some(16),
        ..backend("a")
    };
    let upstream = UpstreamStatus {
        name: "web".to_owned(),
        backends: vec![dead],
        ..UpstreamStatus::default()
    };
    let text = "backend web/a: the last 16 connections were refused; it stays in rotation";
    assert_eq!(of_upstream(upstream, RouteStatus::default()), [text]);
}

#[test]
fn a_backend_with_a_part_of_failures_is_one_if_most_of_them_are_its_own() {
    let failing = |failed| BackendStatus {
        recent_failures: Some(failed),
        ..backend(&failed.to_string())
    };
    for (failed, rate, expected) in [(12, 2.0, true), (4, 2.0, false), (12, 0.5, false)] {
        let upstream = UpstreamStatus {
            backends: vec![failing(1), failing(failed)],
            traffic: Some(UpstreamTraffic {
                rate: 20.0,
                failure_rate: rate,
                ..UpstreamTraffic::default()
            }),
            ..UpstreamStatus::default()
        };
        let lines = of_upstream(upstream, RouteStatus::default());
        assert_eq!(lines.len(), usize::from(expected), "{lines:?}");
    }
}

#[test]
fn a_silence_is_a_problem_by_the_requests_and_the_usual_time() {
    for (requests, seconds, usual_ms, expected) in [
        (3, 4.0, 12.0, true),
        (3, 3.9, 12.0, false),
        (3, 7.0, 1000.0, false),
        (1, 5.9, 12.0, false),
        (1, 6.0, 12.0, true),
        (1, 20.0, 1000.0, false),
    ] {
        let silent = BackendStatus {
            silence: Some(SilenceStatus {
                requests,
                seconds,
                usual_ms: Some(usual_ms),
            }),
            ..backend("a")
        };
        let is_problem = silence(&silent).is_some();
        assert_eq!(is_problem, expected, "{requests} {seconds} {usual_ms}");
    }
}

#[test]
fn a_slow_route_says_where_the_time_goes() {
    let route = RouteStatus {
        name: "shop".to_owned(),
        upstream: Some("web".to_owned()),
        traffic: RouteTraffic {
            slow: Some(SlowRoute {
                p95_ms: 4400.0,
                usual_p95_ms: 12.0,
            }),
            ..RouteTraffic::default()
        },
        ..RouteStatus::default()
    };
    for (averages, expected) in [
        ([2000.0, 2100.0], ": all 2 backends of web alike"),
        (
            [2.0, 2100.0],
            ": backend web/1 is slow: 2100 ms, the others 2 ms",
        ),
        (
            [2.0, 3.0],
            ": not by upstream web, whose backends take 3 ms",
        ),
    ] {
        let averages = averages.into_iter().enumerate();
        let backends = averages.map(|(index, average)| BackendStatus {
            ewma_ms: Some(average),
            sustained_ms: Some(average),
            ..backend(&index.to_string())
        });
        let upstream = UpstreamStatus {
            name: "web".to_owned(),
            backends: backends.collect(),
            ..UpstreamStatus::default()
        };
        let begin = "route shop: p95 of the first byte is 4.4 s, was 12 ms before";
        let lines = of_upstream(upstream, route.clone());
        assert!(lines.contains(&format!("{begin}{expected}")), "{lines:?}");
    }
}

#[test]
fn a_certificate_that_was_not_issued_does_not_expire() {
    let mut status = Snapshot {
        at: "2027-01-02T00:00:00Z".to_owned(),
        certificates: vec![CertificateStatus {
            name: "shop.test".to_owned(),
            ..CertificateStatus::default()
        }],
        expiries: vec![CertificateExpiry {
            expires: "2027-01-08T00:00:00Z".to_owned(),
            name: "shop.test".to_owned(),
            listener: "public".to_owned(),
        }],
        ..Snapshot::default()
    };
    let text = "certificate shop.test was not issued yet, and a self-signed one stands in";
    assert_eq!(found(&status), [("certificates", text.to_owned())]);
    status.certificates[0].expires = Some(status.expiries[0].expires.clone());
    let text = "certificate shop.test of listener public expires in 6 days";
    assert_eq!(found(&status), [("certificates", text.to_owned())]);
}

#[test]
fn a_certificate_that_cannot_be_used_is_a_problem() {
    let status = Snapshot {
        unusable_certificates: vec!["public".to_owned()],
        ..Snapshot::default()
    };
    let text = "listener public: a certificate on disk is unusable, and not served";
    assert_eq!(found(&status), [("certificates", text.to_owned())]);
}

#[test]
fn a_log_that_cannot_be_written_is_a_problem() {
    let status = Snapshot {
        failing_logs: vec![LogFailure {
            log: "access log".to_owned(),
            target: "/var/log/a.log".to_owned(),
            error: "No space left on device".to_owned(),
            dropped: 7,
        }],
        ..Snapshot::default()
    };
    let text = "the access log /var/log/a.log cannot be written: No space left on device; lines \
                are kept in memory, and 7 were dropped";
    assert_eq!(found(&status), [("summary", text.to_owned())]);
}

#[test]
fn a_problem_says_since_when_by_its_own_record_or_by_the_log_of_problems() {
    let mut status = table::testkit::full();
    let onset = |kind: &str, subject: &str| ProblemOnset {
        kind: kind.into(),
        subject: subject.into(),
        since: "2027-01-16T09:59:00.000Z".into(),
    };
    status.problem_onsets = vec![
        onset("plugin_suspended", "ab-split on api"),
        // It has a record of its own.
        onset("redis_down", "10.0.0.5:6379"),
        // Controls: another subject, another kind.
        onset("certificate_order", "other.example.com"),
        onset("certificate_missing", "www.example.com"),
    ];
    let list = find(&status, time_of(&status).unwrap());
    let since = list.iter().map(|it| {
        let since = it.since.as_deref().and_then(|since| since.get(11..19));
        (it.kind, since.unwrap_or_default())
    });
    assert_eq!(
        since.collect::<Vec<_>>(),
        [
            // At 10:03:04 it is ejected for 65 s.
            ("backend_ejected", "10:01:59"),
            ("redis_down", "09:30:00"),
            ("purge_link", "09:30:03"),
            ("cache_folder", "09:31:00"),
            ("certificate_order", ""),
            ("plugin_suspended", "09:59:00"),
        ]
    );
}
