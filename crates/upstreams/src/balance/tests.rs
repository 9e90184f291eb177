//! Distribution of requests: counts that a user can verify with a counter at each backend.

use std::{collections::HashMap, time::Duration};

use http::HeaderValue;
use proptest::prelude::*;

use super::{HashKey, Ring, hash64};
use crate::{
    Lease, LeaseRequest, Outcome, Upstream,
    tests::{Bench, CLIENT, head, take},
};

const FOUR: &str = "[10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80]";
const MILLI: u64 = 1_000_000;

/// Requests by the last octet of their backend's address.
type Served = HashMap<char, u32>;

fn name(lease: &Lease) -> char {
    let address = lease.backend.address();
    let ip = address.split(':').next().unwrap();
    ip.chars().last().unwrap()
}

/// Sends `count` requests, `lanes` at a time, each in flight for as long as its backend takes. All
/// in simulated time, without sockets.
fn run(
    bench: &Bench,
    upstream: &Upstream,
    count: u32,
    lanes: usize,
    takes: impl Fn(char) -> u64,
) -> Served {
    let mut served = Served::new();
    let mut in_flight: Vec<(u64, u64, Lease)> = Vec::new();
    let mut now = 0;
    for _ in 0..count {
        if in_flight.len() == lanes {
            let first = (0..lanes).min_by_key(|lane| in_flight[*lane].0).unwrap();
            let (end, start, lease) = in_flight.remove(first);
            bench.clock.advance(Duration::from_nanos(end - now));
            now = end;
            let first_byte = Duration::from_nanos(end - start);
            lease.finish(Outcome::Ok { first_byte });
        }
        let lease = take(upstream, &[]).expect("there are places");
        *served.entry(name(&lease)).or_default() += 1;
        in_flight.push((now + takes(name(&lease)), now, lease));
    }
    check_invariants(upstream, in_flight.len());
    served
}

fn check_invariants(upstream: &Upstream, in_flight: usize) {
    let counted: u32 = upstream.backends().iter().map(|b| b.in_flight()).sum();
    assert_eq!(usize::try_from(counted).unwrap(), in_flight);
}

fn served_by(served: &Served, name: char) -> u32 {
    served.get(&name).copied().unwrap_or(0)
}

#[test]
fn four_equal_backends_get_exactly_a_quarter_one_at_a_time() {
    for balance in ["least_conn", "round_robin"] {
        let bench = Bench::new();
        let upstream = bench.upstream(&format!("{{ balance: {balance}, backends: {FOUR} }}"));
        let served = run(&bench, &upstream, 400, 1, |_| MILLI);
        for backend in '1'..='4' {
            assert_eq!(served_by(&served, backend), 100, "{balance}: {served:?}");
        }
    }
}

#[test]
fn four_equal_backends_get_about_a_quarter_eight_at_a_time() {
    for balance in ["least_conn", "round_robin", "p2c"] {
        let bench = Bench::new();
        let upstream = bench.upstream(&format!("{{ balance: {balance}, backends: {FOUR} }}"));
        fastrand::seed(1);
        let random = fastrand::Rng::with_seed(2);
        let random = std::cell::RefCell::new(random);
        let served = run(&bench, &upstream, 400, 8, |_| {
            MILLI + random.borrow_mut().u64(0..2 * MILLI)
        });
        for backend in '1'..='4' {
            let count = served_by(&served, backend);
            assert!((80..=120).contains(&count), "{balance}: {served:?}");
        }
    }
}

#[test]
fn a_slow_backend_gets_least() {
    for (balance, most) in [("least_conn", 30), ("p2c", 30)] {
        let bench = Bench::new();
        let upstream = bench.upstream(&format!("{{ balance: {balance}, backends: {FOUR} }}"));
        fastrand::seed(3);
        let served = run(&bench, &upstream, 200, 20, |backend| match backend {
            '2' => 2000 * MILLI,
            _ => 20 * MILLI,
        });
        assert!(
            served_by(&served, '2') < most,
            "15 % of 200 is 30; {balance}: {served:?}"
        );
    }
}

/// Reports a load of the app behind a backend, as its responses do.
fn report(bench: &Bench, upstream: &Upstream, name: char, text: &str) {
    let backends = upstream.backends();
    let start = format!("10.0.0.{name}:");
    let backend = backends.iter().find(|b| b.address().starts_with(&start));
    let header = HeaderValue::from_str(text).unwrap();
    let backend = backend.unwrap();
    // A load that rises counts half with each report.
    for _ in 0..6 {
        backend.learn_node_report(Some(&header), bench.clock.now());
    }
}

/// Utilisation of half and a delay of some milliseconds, and a loop that is blocked again and again.
const UNHURRIED: &str = "1 500 5 4096 8192";
const BLOCKED: &str = "1 1000 900 4096 8192";

#[test]
fn node_without_reports_is_least_conn() {
    for lanes in [1, 8] {
        let of_method = |balance| {
            let bench = Bench::new();
            let upstream = bench.upstream(&format!("{{ balance: {balance}, backends: {FOUR} }}"));
            run(&bench, &upstream, 400, lanes, |backend| match backend {
                '3' => 50 * MILLI,
                _ => 2 * MILLI,
            })
        };
        assert_eq!(of_method("node"), of_method("least_conn"));
    }
}

#[test]
fn a_busy_app_gets_less_than_a_twentieth_and_its_share_when_it_recovers() {
    let bench = Bench::new();
    let upstream = bench.upstream(&format!("{{ balance: node, backends: {FOUR} }}"));
    fastrand::seed(4);
    for lanes in [1, 16] {
        for name in '1'..='4' {
            let text = if name == '2' { BLOCKED } else { UNHURRIED };
            report(&bench, &upstream, name, text);
        }
        // In less time than it takes to forget a report.
        let served = run(&bench, &upstream, 900, lanes, |_| MILLI);
        assert!(served_by(&served, '2') < 45, "{lanes}: {served:?}");
        for name in ['1', '3', '4'] {
            assert!(served_by(&served, name) > 250, "{lanes}: {served:?}");
        }
        for _ in 0..30 {
            bench.clock.advance(Duration::from_millis(100));
            for name in '1'..='4' {
                report(&bench, &upstream, name, UNHURRIED);
            }
        }
        let served = run(&bench, &upstream, 400, lanes, |_| MILLI);
        assert!(
            (80..=120).contains(&served_by(&served, '2')),
            "{lanes}: {served:?}"
        );
    }
}

#[test]
fn equally_busy_apps_share_evenly() {
    let bench = Bench::new();
    let upstream = bench.upstream(&format!("{{ balance: node, backends: {FOUR} }}"));
    for name in '1'..='4' {
        report(&bench, &upstream, name, BLOCKED);
    }
    let served = run(&bench, &upstream, 400, 1, |_| MILLI);
    for name in '1'..='4' {
        assert_eq!(served_by(&served, name), 100, "{served:?}");
    }
}

#[test]
fn a_report_takes_no_backend_out_of_rotation() {
    let bench = Bench::new();
    let yaml = "{ balance: node, backends: [10.0.0.1:80, 10.0.0.2:80] }";
    let upstream = bench.upstream(yaml);
    report(&bench, &upstream, '1', UNHURRIED);
    report(&bench, &upstream, '2', BLOCKED);
    upstream.drain("10.0.0.1:80", crate::Force::No).unwrap();
    let served = run(&bench, &upstream, 50, 1, |_| MILLI);
    assert_eq!(served_by(&served, '2'), 50, "the busy one is the only one");
}

#[test]
fn weights_are_respected() {
    let backends = "[{ address: '10.0.0.1:80', weight: 2 }, 10.0.0.2:80]";
    for balance in ["least_conn", "round_robin"] {
        let bench = Bench::new();
        let yaml = format!("{{ balance: {balance}, backends: {backends} }}");
        let served = run(&bench, &bench.upstream(&yaml), 300, 1, |_| MILLI);
        assert_eq!(
            (served_by(&served, '1'), served_by(&served, '2')),
            (200, 100),
            "{balance}"
        );
        let busy = run(&bench, &bench.upstream(&yaml), 3000, 12, |_| MILLI);
        assert!(
            (1900..=2100).contains(&served_by(&busy, '1')),
            "{balance}: {busy:?}"
        );
    }
}

#[test]
fn p2c_respects_weights_of_equally_quick_backends() {
    for backends in [
        "[{ address: '10.0.0.1:80', weight: 2 }, 10.0.0.2:80]",
        "[{ address: '10.0.0.1:80', weight: 4 }, 10.0.0.2:80, 10.0.0.3:80]",
    ] {
        let bench = Bench::new();
        let yaml = format!("{{ balance: p2c, backends: {backends} }}");
        fastrand::seed(5);
        let random = std::cell::RefCell::new(fastrand::Rng::with_seed(6));
        let takes = |_| 2 * MILLI + random.borrow_mut().u64(0..MILLI);
        let served = run(&bench, &bench.upstream(&yaml), 3000, 1, takes);
        let heavy = served_by(&served, '1');
        assert!((1850..=2150).contains(&heavy), "{backends}: {served:?}");
        let busy = run(&bench, &bench.upstream(&yaml), 3000, 24, takes);
        let heavy = served_by(&busy, '1');
        assert!((1800..=2200).contains(&heavy), "{backends}: {busy:?}");
    }
}

#[test]
fn a_skipped_backend_leaves_its_share_to_all() {
    for balance in ["least_conn", "round_robin"] {
        let bench = Bench::new();
        let upstream = bench.upstream(&format!("{{ balance: {balance}, backends: {FOUR} }}"));
        for backend in upstream.backends() {
            if backend.address().starts_with("10.0.0.2") {
                backend.state.eject(u64::MAX);
            }
        }
        let served = run(&bench, &upstream, 300, 1, |_| MILLI);
        for backend in ['1', '3', '4'] {
            assert_eq!(served_by(&served, backend), 100, "{balance}: {served:?}");
        }
    }
}

#[test]
fn p2c_prefers_the_faster_backend() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ balance: p2c, backends: [10.0.0.1:80, 10.0.0.2:80] }");
    fastrand::seed(4);
    let served = run(&bench, &upstream, 400, 1, |backend| match backend {
        '1' => 80 * MILLI,
        _ => 5 * MILLI,
    });
    assert!(served_by(&served, '1') < 60, "{served:?}");
    assert!(
        served_by(&served, '1') > 0,
        "the slow one is tried again: {served:?}"
    );
}

fn ask<T>(
    upstream: &Upstream,
    header: Option<(&'static str, String)>,
    then: impl FnOnce(Lease) -> T,
) -> T {
    let mut head = head("/");
    if let Some((name, value)) = header {
        head.insert_header(name, value).unwrap();
    }
    let ask = LeaseRequest {
        head: &head,
        client: CLIENT,
        at: upstream.shared.clock.now(),
        tried: &[],
        is_upgrade: false,
        release: None,
    };
    then(upstream.try_acquire(&ask, upstream.shared.now()).unwrap())
}

#[test]
fn the_same_key_goes_to_the_same_backend_while_it_is_there() {
    let bench = Bench::new();
    let upstream = bench.upstream(&format!(
        "{{ balance: 'hash:header:x-user', backends: {FOUR} }}"
    ));
    let owner = |key: u32| {
        ask(&upstream, Some(("x-user", format!("user-{key}"))), |l| {
            name(&l)
        })
    };
    let before: Vec<char> = (0..2000).map(owner).collect();
    assert_eq!(before, (0..2000).map(owner).collect::<Vec<_>>());
    let mut served = Served::new();
    for backend in &before {
        *served.entry(*backend).or_default() += 1;
    }
    assert!(
        served.values().all(|count| (350..650).contains(count)),
        "{served:?}"
    );

    for backend in upstream.backends() {
        if backend.address().starts_with("10.0.0.2") {
            backend.state.eject(u64::MAX);
        }
    }
    for (key, was) in (0..2000).zip(&before) {
        let is = owner(key);
        assert_ne!(is, '2');
        assert!(is == *was || *was == '2', "only keys of the lost one move");
    }
}

#[test]
fn a_backend_more_moves_its_own_share_of_keys_only() {
    let bench = Bench::new();
    let owners = |yaml: &str| -> Vec<char> {
        let upstream = bench.upstream(yaml);
        (0..4000)
            .map(|key| ask(&upstream, Some(("x-user", format!("u{key}"))), |l| name(&l)))
            .collect()
    };
    let four = owners(&format!(
        "{{ balance: 'hash:header:x-user', backends: {FOUR} }}"
    ));
    let five = owners(
        "{ balance: 'hash:header:x-user', backends: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80, 10.0.0.5:80] }",
    );
    let moved = four.iter().zip(&five).filter(|(a, b)| a != b).count();
    assert!(
        moved < 4000 / 5 * 5 / 4,
        "{moved} of 4000 moved, a fifth is 800"
    );
    assert!(four.iter().zip(&five).all(|(a, b)| a == b || *b == '5'));
}

#[test]
fn a_sticky_browser_stays_until_its_backend_is_gone() {
    let bench = Bench::new();
    let upstream = bench.upstream(&format!(
        "{{ balance: round_robin, sticky: {{ cookie: stick }}, backends: {FOUR} }}"
    ));
    let (home, cookie) = ask(&upstream, None, |lease| {
        let cookie = upstream
            .sticky_cookie(&lease)
            .expect("a new browser gets one");
        (name(&lease), cookie.to_str().unwrap().to_owned())
    });
    let pair = cookie.split(';').next().unwrap().to_owned();
    for _ in 0..20 {
        ask(&upstream, Some(("cookie", pair.clone())), |lease| {
            assert_eq!(name(&lease), home);
            assert_eq!(upstream.sticky_cookie(&lease), None, "it has it already");
        });
    }
    let backend = upstream
        .backends()
        .into_iter()
        .find(|b| b.address().starts_with(&format!("10.0.0.{home}:")));
    backend.unwrap().state.eject(u64::MAX);
    ask(&upstream, Some(("cookie", pair)), |lease| {
        assert_ne!(name(&lease), home);
        assert!(upstream.sticky_cookie(&lease).is_some(), "it moves");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_weights_and_any_outages_give_a_backend_in_rotation(
        weights in proptest::collection::vec(1u16..50, 1..8),
        out in proptest::collection::vec(any::<bool>(), 8),
        balance in prop_oneof!["round_robin", "least_conn", "p2c", "hash:client[.]ip"],
        seed in any::<u64>(),
    ) {
        let bench = Bench::new();
        let backends: Vec<String> = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| format!("{{ address: '10.0.0.{}:80', weight: {weight} }}", index + 1))
            .collect();
        let upstream = bench.upstream(&format!(
            "{{ balance: '{balance}', backends: [{}] }}", backends.join(", ")
        ));
        fastrand::seed(seed);
        let all = upstream.backends();
        for (backend, out) in all.iter().zip(&out) {
            if *out {
                backend.state.eject(u64::MAX);
            }
        }
        let some_up = all.iter().zip(&out).any(|(_, out)| !out);
        let mut held = Vec::new();
        for _ in 0..40 {
            let lease = take(&upstream, &[]).expect("1024 places each");
            let is_up = lease.backend.state.is_up(1);
            prop_assert_eq!(is_up, some_up, "who is out is chosen only if all are");
            held.push(lease);
            check_invariants(&upstream, held.len());
        }
    }

    #[test]
    fn a_full_ring_falls_to_the_remaining_backend(key in any::<u64>(), left in 0usize..6) {
        let bench = Bench::new();
        let upstream = bench.upstream(
            "{ balance: 'hash:client.ip', backends: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80, 10.0.0.5:80, 10.0.0.6:80] }",
        );
        let list = upstream.backends();
        let ring = Ring::new(list.iter().map(|b| (&**b.address(), b.weight)));
        let only = list[left].id();
        prop_assert_eq!(ring.choose(&list, key, |b| b.id() == only), Some(left));
        prop_assert_eq!(ring.choose(&list, key, |_| false), None);
    }
}

#[test]
fn hashes_are_the_same_on_every_machine() {
    // Sticky cookies and hash keys of one gateway must mean the same to the next.
    assert_eq!(hash64(b""), 0xf52a_15e9_a9b5_e89b);
    assert_eq!(
        HashKey::parse("path").unwrap().hash(&head("/a"), CLIENT),
        hash64(b"/a")
    );
}
