//! Tests of rates, percentiles and shared records.

use super::*;

fn requests(metrics: &Metrics, route: &str, status: &str, count: u64) {
    let labels = [("route", route), ("method", "GET"), ("status", status)];
    metrics
        .counter("edgeway_http_requests_total", "r", &labels)
        .inc_by(count);
    if status.starts_with('5') {
        failed(metrics, route, count);
    }
}

fn failed(metrics: &Metrics, route: &str, count: u64) {
    let counter = metrics.counter("edgeway_http_failed_total", "f", &[("route", route)]);
    counter.inc_by(count);
}

#[test]
fn a_rate_is_the_growth_of_its_window() {
    let (metrics, clock) = (Metrics::default(), Clock::test());
    requests(&metrics, "shop", "200", 1_000_000);
    let traffic = Traffic::new(metrics.clone(), clock.clone());
    // 20 requests in each of 120 s, then silence.
    for _ in 0..60 {
        // One of them was broken off.
        requests(&metrics, "shop", "200", 31);
        failed(&metrics, "shop", 1);
        requests(&metrics, "shop", "404", 6);
        requests(&metrics, "shop", "499", 2);
        requests(&metrics, "shop", "502", 1);
        clock.advance(INTERVAL);
        traffic.record();
    }
    let shop = traffic.recent().routes["shop"].clone();
    let about = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found}");
    about(shop.rate, 20.0);
    about(shop.client_error_rate, 3.0);
    about(shop.server_error_rate, 1.0);
    assert_eq!((shop.requests, shop.server_errors), (1_002_400, 120));
    assert!(
        traffic.0.history.lock().len() <= 32,
        "the history is bounded"
    );
    clock.advance(RATES);
    about(traffic.recent().routes["shop"].rate, 0.0);
}

#[test]
fn records_share_what_did_not_change() {
    let (metrics, clock) = (Metrics::default(), Clock::test());
    requests(&metrics, "busy", "200", 1);
    requests(&metrics, "silent", "200", 1);
    let traffic = Traffic::new(metrics.clone(), clock.clone());
    let next = || {
        clock.advance(INTERVAL);
        traffic.record();
        traffic.0.history.lock().back().cloned().unwrap()
    };
    let first = next();
    assert!(Arc::ptr_eq(&first.routes, &next().routes));
    requests(&metrics, "busy", "200", 1);
    let changed = next();
    let is_shared = |name: &str| Arc::ptr_eq(&first.routes[name], &changed.routes[name]);
    assert!(is_shared("silent") && !is_shared("busy"));
}

#[test]
fn rates_after_a_quiet_time_are_those_of_their_window() {
    let (metrics, clock) = (Metrics::default(), Clock::test());
    let seconds = {
        let labels = [("route", "shop")];
        metrics.histogram("edgeway_http_first_byte_seconds", "d", &labels)
    };
    requests(&metrics, "shop", "200", 1_000);
    (0..1_000).for_each(|_| seconds.observe(20.0));
    let traffic = Traffic::new(metrics.clone(), clock.clone());
    clock.advance(INTERVAL);
    traffic.record();
    // Nothing is recorded for ten minutes, and then there are requests again.
    clock.advance(Duration::from_mins(10));
    traffic.catch_up();
    traffic.record();
    requests(&metrics, "shop", "200", 20);
    (0..20).for_each(|_| seconds.observe(0.004));
    clock.advance(INTERVAL);
    traffic.record();
    let shop = traffic.recent().routes["shop"].clone();
    // The window of ten seconds begins up to one interval earlier.
    assert!(
        shop.rate >= 20.0 / 12.0 && shop.rate <= 2.0,
        "{}",
        shop.rate
    );
    assert!(shop.p99_ms.unwrap() <= 5.0, "{:?}", shop.p99_ms);
    assert!(
        traffic.0.history.lock().len() <= 33,
        "the history is bounded"
    );
}

#[test]
fn a_route_that_appears_later_counts_from_zero() {
    let (metrics, clock) = (Metrics::default(), Clock::test());
    let traffic = Traffic::new(metrics.clone(), clock.clone());
    clock.advance(RATES);
    traffic.record();
    requests(&metrics, "new", "200", 50);
    clock.advance(Duration::from_secs(5));
    let new = traffic.recent().routes["new"].clone();
    assert_eq!(new.requests, 50);
    assert!(new.rate > 3.0 && new.rate <= 10.0, "{}", new.rate);
    assert_eq!((new.hit_ratio, new.p95_ms), (None, None));
}

#[test]
fn clients_that_left_are_no_failures_of_the_upstream() {
    let (metrics, clock) = (Metrics::default(), Clock::test());
    let traffic = Traffic::new(metrics.clone(), clock.clone());
    for (outcome, count) in [
        ("ok", 50),
        ("client_gone", 20),
        ("stale", 10),
        ("reset", 15),
        ("timeout", 5),
    ] {
        let labels = [("upstream", "web"), ("backend", "b"), ("outcome", outcome)];
        let attempts = metrics.counter("edgeway_upstream_requests_total", "a", &labels);
        attempts.inc_by(count);
    }
    clock.advance(RATES);
    let web = traffic.recent().upstreams["web"].clone();
    let about = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found}");
    about(web.rate, 10.0);
    about(web.failure_rate, 2.0);
}

/// Invariant: the count is that of the attempts which failed in the last minute, a record more
/// or less.
#[test]
fn failures_of_a_backend_count_for_a_minute() {
    let (metrics, clock) = (Metrics::default(), Clock::test());
    let counter = |backend, outcome| {
        let labels = [
            ("upstream", "web"),
            ("backend", backend),
            ("outcome", outcome),
        ];
        metrics.counter("edgeway_upstream_requests_total", "a", &labels)
    };
    counter("a", "reset").inc_by(1000);
    let traffic = Traffic::new(metrics.clone(), clock.clone());
    let mut at = Vec::new();
    for step in 0..300_u64 {
        clock.advance(INTERVAL);
        counter("a", "ok").inc();
        if step % 7 < 3 && (step / 60) % 2 == 0 {
            counter("a", "reset").inc();
            counter("a", "timeout").inc();
            at.push(step);
        }
        traffic.record();
        let within = |records: u64| 2 * at.iter().filter(|at| *at + records > step).count() as u64;
        let recent = traffic.recent();
        let web = &recent.backend_failures["web"];
        let count = web.get("a").copied().unwrap_or_default();
        assert!(
            (within(30)..=within(31)).contains(&count),
            "{step}: {count}"
        );
        assert!(count > 0 || !web.contains_key("a"));
    }
}

#[test]
fn latencies_forget_what_is_older_than_a_minute() {
    let (metrics, clock) = (Metrics::default(), Clock::test());
    let labels = [("route", "shop")];
    let seconds = metrics.histogram("edgeway_http_first_byte_seconds", "d", &labels);
    let traffic = Traffic::new(metrics.clone(), clock.clone());
    (0..100).for_each(|_| seconds.observe(20.0));
    traffic.record();
    for _ in 0..40 {
        clock.advance(INTERVAL);
        traffic.record();
    }
    (0..100).for_each(|_| seconds.observe(0.004));
    let shop = traffic.recent().routes["shop"].clone();
    assert!(shop.p99_ms.unwrap() <= 5.0, "{:?}", shop.p99_ms);
}

#[test]
fn the_hit_ratio_leaves_out_what_may_not_be_looked_up() {
    let (metrics, clock) = (Metrics::default(), Clock::test());
    let traffic = Traffic::new(metrics.clone(), clock.clone());
    for (result, count) in [("hit", 6), ("stale", 2), ("miss", 2), ("bypass", 90)] {
        let labels = [("route", "shop"), ("result", result)];
        metrics
            .counter("edgeway_cache_requests_total", "c", &labels)
            .inc_by(count);
    }
    clock.advance(INTERVAL);
    assert_eq!(traffic.recent().routes["shop"].hit_ratio, Some(0.8));
}

#[test]
fn the_hour_has_a_point_for_each_minute() {
    let (metrics, clock) = (Metrics::default(), Clock::test());
    let traffic = Traffic::new(metrics.clone(), clock.clone());
    let minute = |ok, failed| {
        for _ in 0..30 {
            requests(&metrics, "shop", "200", ok);
            requests(&metrics, "api", "503", failed);
            clock.advance(INTERVAL);
            traffic.record();
        }
    };
    minute(20, 0);
    minute(15, 5);
    let figures = traffic.recent().figures;
    assert_eq!(figures.minute.len(), 30);
    let rates: Vec<_> = figures.minute.iter().map(|it| it.rate).collect();
    assert_eq!(rates, [10.0; 30]);
    assert_eq!(figures.now.error_share, Some(0.25));
    let seen: Vec<_> = figures
        .hour
        .iter()
        .map(|it| (it.rate, it.error_share))
        .collect();
    assert_eq!(seen, [(10.0, Some(0.0)), (10.0, Some(0.25))]);

    // While the process is quiet nothing is recorded, and each minute counts.
    requests(&metrics, "shop", "200", 60);
    clock.advance(INTERVAL);
    traffic.record();
    clock.advance(Duration::from_mins(5));
    traffic.catch_up();
    traffic.record();
    let rates: Vec<_> = traffic
        .recent()
        .figures
        .hour
        .iter()
        .map(|it| it.rate)
        .collect();
    assert_eq!(rates, [10.0, 10.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    clock.advance(Duration::from_hours(3));
    traffic.catch_up();
    assert_eq!(traffic.recent().figures.hour.len(), 60);
}
