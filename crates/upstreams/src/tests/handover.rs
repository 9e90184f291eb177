//! A successor process continues from the state of the previous one.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::HeaderValue;
use serde_json::{Map, Value, json};

use super::{Bench, FINE, Outcome, serve, take};
use crate::{BackendStatus, Force, NewMember, Upstream};

const YAML: &str = "{ balance: round_robin, slow_start: 60s, \
    eject: { errors: 3, for: 10s }, health: { interval: 5s }, \
    backends: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80] }";

/// Creates the successor process, `later` than the first, from the state that the first left.
fn successor(old: &Bench) -> Bench {
    let new = Bench::new();
    // As over a pipe: nothing but text.
    let text = serde_json::to_string(&old.zones.export()).unwrap();
    new.zones.inherit(serde_json::from_str(&text).unwrap());
    new
}

fn snapshot(upstream: &Upstream, address: &str) -> BackendStatus {
    let mut all = upstream.snapshot().backends.into_iter();
    all.find(|b| b.address == address).expect("it is there")
}

/// Backend 1 is ejected, 2 is drained, 3 is down, 4 is healthy with known latency.
fn eventful(bench: &Bench) -> Arc<Upstream> {
    let upstream = bench.upstream(YAML);
    bench.clock.advance(Duration::from_secs(30));
    serve(&upstream, 40, |address| match address {
        "10.0.0.1:80" => Outcome::ConnectFailed,
        _ => FINE,
    });
    upstream.drain("10.0.0.2:80", Force::No).unwrap();
    let now = upstream.shared.now();
    for backend in upstream.backends() {
        let state = &backend.state;
        match &**backend.address() {
            "10.0.0.3:80" => {
                let rules = super::super::health::HealthRules {
                    rise: 2,
                    fall: 3,
                    interval: Duration::from_secs(5),
                    interval_down: Duration::from_secs(1),
                };
                for passed in [false, false, false, true] {
                    state.health.lock().observe(rules, passed, false, now, 0);
                }
                state.set_healthy(false, now);
            }
            "10.0.0.4:80" => {
                let keep_alive = HeaderValue::from_static("timeout=5");
                backend.learn_keep_alive(Some(&keep_alive));
            }
            _ => {}
        }
    }
    let member = NewMember {
        address: "10.0.0.5:80".into(),
        weight: 3,
        drained: false,
        release: None,
    };
    upstream.add_member(&member).unwrap();
    upstream
        .shared
        .live
        .set_resolved("api.internal", &["10.0.0.9".parse().unwrap()]);
    upstream
}

#[test]
fn health_ejections_drains_and_members_are_handed_over() {
    let old_bench = Bench::new();
    let old = eventful(&old_bench);
    let new_bench = successor(&old_bench);
    let new = new_bench.upstream(YAML);
    let states = |upstream: &Upstream| -> Vec<(String, Cow<'static, str>, u64)> {
        let all = upstream.snapshot().backends.into_iter();
        all.map(|b| (b.address, b.state, b.weight)).collect()
    };
    assert_eq!(states(&new), states(&old));
    let words: Vec<_> = states(&new)
        .iter()
        .map(|(_, state, _)| state.clone())
        .collect();
    assert_eq!(words, ["ejected", "drained", "down", "healthy", "healthy"]);

    let (before, after) = (snapshot(&old, "10.0.0.1:80"), snapshot(&new, "10.0.0.1:80"));
    assert_eq!(after.ejected_for, before.ejected_for);
    assert_eq!(after.ejected_because, Some("refused".into()));
    let (before, after) = (snapshot(&old, "10.0.0.4:80"), snapshot(&new, "10.0.0.4:80"));
    assert!(before.ewma_ms.is_some());
    assert_eq!(after.ewma_ms, before.ewma_ms);
    assert_eq!(
        new.backends()[3].state.keep_alive(),
        old.backends()[3].state.keep_alive()
    );
    assert_eq!(new.shared.live.resolved(), old.shared.live.resolved());
    let due = |upstream: &Upstream| {
        let next = upstream.backends()[2].state.health.lock().next;
        next.saturating_sub(upstream.shared.now()) / 1_000_000
    };
    assert_eq!(due(&new), due(&old));
    assert!(due(&new) > 0);

    // Times go on: the ejection ends when it would have, with a slow start.
    new_bench.clock.advance(Duration::from_secs(11));
    assert_eq!(snapshot(&new, "10.0.0.1:80").state, "slow_start");
    // One pass was recorded already: one more, and it is up.
    let state = &new.backends()[2].state;
    let rules = super::super::health::HealthRules {
        rise: 2,
        fall: 3,
        interval: Duration::from_secs(5),
        interval_down: Duration::from_secs(1),
    };
    let change = state
        .health
        .lock()
        .observe(rules, true, false, new.shared.now(), 0);
    assert!(change.is_some());
}

#[test]
fn an_ejection_doubles_over_a_change_of_process() {
    let bench = Bench::new();
    let old = bench.upstream(YAML);
    let out = |upstream: &Upstream| {
        serve(upstream, 40, |address| match address {
            "10.0.0.1:80" => Outcome::ConnectFailed,
            _ => FINE,
        });
        snapshot(upstream, "10.0.0.1:80").ejected_for.unwrap()
    };
    assert!((out(&old) - 10.0).abs() < 0.01);
    bench.clock.advance(Duration::from_secs(12));
    let new_bench = successor(&bench);
    let new = new_bench.upstream(YAML);
    fastrand::seed(7);
    assert!((out(&new) - 20.0).abs() < 0.01);
}

#[test]
fn a_backend_that_dns_names_later_takes_its_part_then_unless_it_is_old() {
    let yaml = "{ backends: [{ dns: 'api.internal:80' }, 10.0.0.9:80] }";
    for (wait, state) in [(5, "ejected"), (600, "healthy")] {
        let old_bench = Bench::new();
        let old = old_bench.upstream(yaml);
        old.shared
            .live
            .set_resolved("api.internal", &["10.0.0.1".parse().unwrap()]);
        old.rebuild();
        serve(&old, 40, |address| match address {
            "10.0.0.1:80" => Outcome::ConnectFailed,
            _ => FINE,
        });
        let mut exported = old_bench.zones.export();
        let web = exported["upstream web"].as_object_mut().unwrap();
        web["resolved"] = json!({});
        let new_bench = Bench::new();
        new_bench.zones.inherit(exported);
        let new = new_bench.upstream(yaml);
        assert_eq!(new.backends().len(), 1);
        new_bench.clock.advance(Duration::from_secs(wait));
        new.shared
            .live
            .set_resolved("api.internal", &["10.0.0.1".parse().unwrap()]);
        new.rebuild();
        assert_eq!(snapshot(&new, "10.0.0.1:80").state, state, "after {wait} s");
    }
}

#[test]
fn the_export_of_another_version_is_read_as_far_as_possible() {
    let bench = Bench::new();
    let exported = json!({ "upstream web": {
        "since": "a later version",
        "decisions": { "drained": ["10.0.0.2:80"], "muted": [] },
        "resolved": { "api": ["10.0.0.9"], "bad": ["x"], "worse": 3 },
        "backends": {
            "10.0.0.1:80": { "ejected_for_ms": 5000, "mood": "good" },
            "10.0.0.3:80": { "health": { "up": "perhaps" } },
            "10.0.0.4:80": 7,
        },
    }});
    bench.zones.inherit(exported.as_object().unwrap().clone());
    let upstream = bench.upstream(YAML);
    let words: Vec<_> = upstream
        .snapshot()
        .backends
        .iter()
        .map(|b| b.state.clone())
        .collect();
    assert_eq!(words, ["ejected", "drained", "healthy", "healthy"]);
    assert_eq!(upstream.shared.live.resolved().len(), 1);
}

#[test]
fn garbage_is_ignored_and_no_time_is_believed_without_bound() {
    for garbage in [
        json!(null),
        json!(3),
        json!([]),
        json!({ "backends": [], "decisions": 1 }),
    ] {
        let bench = Bench::new();
        bench
            .zones
            .inherit(Map::from_iter([("upstream web".to_owned(), garbage)]));
        let upstream = bench.upstream(YAML);
        assert!(take(&upstream, &[]).is_some());
        assert!(
            upstream
                .snapshot()
                .backends
                .iter()
                .all(|b| b.state == "healthy")
        );
    }
    let bench = Bench::new();
    let far = u64::MAX;
    let exported: Value = json!({ "backends": { "10.0.0.1:80": {
        "ejected_for_ms": far, "health": { "due_in_ms": far, "against": far >> 40 },
        "ejection": { "last": { "cause": "errors", "span_ms": far, "ends_in_ms": far,
                                "ended_ago_ms": 0 } },
    } } });
    bench
        .zones
        .inherit(Map::from_iter([("upstream web".to_owned(), exported)]));
    let upstream = bench.upstream(YAML);
    let out = snapshot(&upstream, "10.0.0.1:80").ejected_for.unwrap();
    assert!(out <= 3600.0, "{out}");
}
