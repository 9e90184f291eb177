//! Tests of reports and shares: drawn headers, and apps that are busy, silent or back again.

use proptest::prelude::*;

use super::*;
use crate::tests::Bench;

const SECOND: u64 = 1000 * MILLI;

fn report(utilisation: u16, delay_ms: u32) -> NodeReport {
    let text = format!("1 {utilisation} {delay_ms} 4096 8192");
    NodeReport::parse(text.as_bytes()).unwrap()
}

/// Returns the state after these reports, one each 100 ms, and the time of the last one.
fn after(reports: &[(u16, u32)]) -> (NodeState, u64) {
    let state = NodeState::default();
    let mut now = 0;
    for (utilisation, delay) in reports {
        now += 100 * MILLI;
        state.observe(&report(*utilisation, *delay), now);
    }
    (state, now)
}

#[test]
fn an_app_that_does_not_report_has_its_full_share() {
    let state = NodeState::default();
    assert_eq!(state.share(true, 3600 * SECOND), FULL_SHARE);
    assert_eq!(state.status(0), None);
}

#[test]
fn an_app_with_idle_time_has_its_full_share() {
    let (state, now) = after(&[(0, 0), (500, 20), (800, 50)]);
    assert_eq!(state.share(true, now), FULL_SHARE);
}

#[test]
fn a_busy_or_late_app_has_less_than_a_twentieth() {
    for reports in [
        [(1000, 10); 5].as_slice(),
        &[(100, 2), (1000, 5000)],
        &[(990, 700); 6],
        &[(300, 10), (990, 700), (990, 700), (990, 700), (990, 700)],
    ] {
        let (state, now) = after(reports);
        let share = state.share(true, now);
        assert!((LEAST_SHARE..50).contains(&share), "{reports:?}: {share}");
    }
}

#[test]
fn an_app_that_recovers_has_its_share_within_seconds() {
    let (state, mut now) = after(&[(1000, 5000); 20]);
    let begun = now;
    while state.share(true, now) < FULL_SHARE {
        now += 100 * MILLI;
        state.observe(&report(200, 2), now);
        assert!(now - begun < 5 * SECOND, "{:?}", state.status(now));
    }
}

#[test]
fn one_long_pause_of_garbage_collection_passes() {
    let (state, now) = after(&[(300, 5), (600, 300), (300, 5), (300, 5), (300, 5)]);
    let share = state.share(true, now);
    assert!(share > 400, "{share}: {:?}", state.status(now));
}

#[test]
fn an_app_that_lost_the_module_has_its_full_share() {
    let (state, now) = after(&[(1000, 5000); 20]);
    // Between two reports there are responses without one.
    state.responded_without_report(now + 4 * SECOND);
    assert!(state.status(now).is_some());
    state.responded_without_report(now + 6 * SECOND);
    assert_eq!(state.share(true, now + 20 * SECOND), FULL_SHARE);
    assert_eq!(state.status(now + 20 * SECOND), None);
    state.observe(&report(200, 2), now + 30 * SECOND);
    assert!(state.status(now + 30 * SECOND).is_some(), "it is back");
}

#[test]
fn an_app_that_falls_silent_loses_its_share_and_an_idle_one_does_not() {
    let (state, now) = after(&[(200, 2)]);
    state.began_to_wait(now + 10 * SECOND);
    let at = |wait: u64| state.share(true, now + 10 * SECOND + wait);
    assert_eq!(at(200 * MILLI), FULL_SHARE, "nothing was sent for 10 s");
    assert!(at(600 * MILLI) < FULL_SHARE);
    assert_eq!(at(2 * SECOND), SILENT_SHARE);
    assert_eq!(state.share(false, now + 20 * SECOND), FULL_SHARE);
}

#[test]
fn an_old_report_is_forgotten_without_requests() {
    let (state, now) = after(&[(1000, 5000); 5]);
    assert_eq!(state.share(false, now), LEAST_SHARE);
    let soon = state.share(false, now + 2 * SECOND);
    assert!((LEAST_SHARE..FULL_SHARE).contains(&soon), "{soon}");
    assert_eq!(state.share(false, now + 5 * SECOND), FULL_SHARE);
    // The request that tests it does not bring the old report back.
    state.began_to_wait(now + 5 * SECOND);
    assert_eq!(state.share(true, now + 5 * SECOND), FULL_SHARE);
}

#[test]
fn the_status_is_what_was_reported() {
    let (state, now) = after(&[(421, 7)]);
    let status = state.status(now + 1500 * MILLI).unwrap();
    let expected = NodeStatus {
        utilisation: 0.421,
        delay_ms: 7.0,
        heap_bytes: 4096,
        rss_bytes: 8192,
        age: 1.5,
    };
    assert_eq!(status, expected);
}

proptest! {
    #[test]
    fn a_share_is_never_nothing_nor_more_than_all(
        reports in proptest::collection::vec((0..=1000_u16, 0..=3_600_000_u32, any::<u64>()), 0..20),
        since in any::<u64>(),
        now in any::<u64>(),
        waits in any::<bool>(),
    ) {
        let state = NodeState::default();
        state.began_to_wait(since);
        for (utilisation, delay, at) in reports {
            state.observe(&report(utilisation, delay), at);
        }
        let share = state.share(waits, now);
        prop_assert!((SILENT_SHARE..=FULL_SHARE).contains(&share), "{share}");
        if let Some(status) = state.status(now) {
            prop_assert!((0.0..=1.0).contains(&status.utilisation), "{status:?}");
        }
    }

    #[test]
    fn more_load_never_means_a_larger_share(
        (a, b) in ((0..=1000_u16, 0..=10_000_u32), (0..=1000_u16, 0..=10_000_u32)),
    ) {
        let of = |(utilisation, delay): (u16, u32)| after(&[(utilisation, delay)]).0.share(true, 0);
        let most = (a.0.max(b.0), a.1.max(b.1));
        prop_assert!(of(most) <= of(a).min(of(b)));
    }
}

#[test]
fn only_a_backend_that_reports_has_series_and_they_end_with_it() {
    let bench = Bench::new();
    let text = || String::from_utf8(bench.metrics.text()).unwrap();
    let both = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80] }");
    let header = http::HeaderValue::from_static("1 250 12 4096 8192");
    both.backends()[1].learn_node_report(Some(&header), bench.clock.now());
    both.publish();
    let labels = r#"{backend="10.0.0.2:80",upstream="web"}"#;
    for line in [
        format!("edgeway_backend_node_utilisation_ratio{labels} 0.25"),
        format!("edgeway_backend_node_delay_seconds{labels} 0.012"),
        format!("edgeway_backend_node_heap_bytes{labels} 4096"),
        format!("edgeway_backend_node_rss_bytes{labels} 8192"),
        format!("edgeway_backend_node_report_age_seconds{labels} 0"),
    ] {
        assert!(text().contains(&line), "{line}: {}", text());
    }
    assert_eq!(text().matches("edgeway_backend_node_rss_bytes{").count(), 1);
    // The app is redeployed without the module.
    bench.clock.advance(Duration::from_secs(10));
    both.backends()[1].learn_node_report(None, bench.clock.now());
    both.publish();
    assert!(!text().contains("edgeway_backend_node_"), "{}", text());
    both.backends()[1].learn_node_report(Some(&header), bench.clock.now());
    both.publish();
    assert_eq!(text().matches("edgeway_backend_node_rss_bytes{").count(), 1);
    let _one = bench.upstream("{ backends: [10.0.0.1:80] }");
    // A scrape that still has the removed backend in its hands.
    both.publish();
    drop(both);
    assert!(!text().contains("edgeway_backend_node_"), "{}", text());
}

#[test]
fn the_series_of_an_app_that_lost_the_module_before_a_reload_end_after_it() {
    let bench = Bench::new();
    let text = || String::from_utf8(bench.metrics.text()).unwrap();
    let yaml = "{ backends: [10.0.0.1:80], restart_at: { rss: 1 } }";
    let before = bench.upstream(yaml);
    let header = http::HeaderValue::from_static("1 250 12 4096 8192");
    let learn = |upstream: &crate::Upstream, header| {
        upstream.backends()[0].learn_node_report(header, bench.clock.now());
    };
    learn(&before, Some(&header));
    before.publish();
    assert!(text().contains("edgeway_backend_node_over_limit{"));
    bench.clock.advance(Duration::from_secs(10));
    learn(&before, None);
    let after = bench.upstream(yaml);
    after.publish();
    drop(before);
    assert!(!text().contains("edgeway_backend_node_"), "{}", text());
    learn(&after, Some(&header));
    let again = bench.upstream(yaml);
    again.publish();
    assert!(text().contains("edgeway_backend_node_over_limit{"));
}

#[test]
fn a_broken_report_changes_nothing() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80] }");
    let backend = &upstream.backends()[0];
    let learn = |text: &str| {
        let header = http::HeaderValue::from_str(text).unwrap();
        backend.learn_node_report(Some(&header), bench.clock.now());
        upstream.snapshot().backends[0].node.clone()
    };
    assert_eq!(learn("1 2000 0 0 0"), None);
    let before = learn("1 500 3 4096 8192");
    assert!(before.is_some());
    assert_eq!(learn("1 500 3 4096 8192 0"), before);
    assert_eq!(learn(&"9".repeat(4096)), before);
}
