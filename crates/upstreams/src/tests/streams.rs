//! Leases of requests and of streams: each is counted once, and has a limit of its own.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::task::JoinSet;

use super::{Bench, acquire, take};
use crate::{LeaseRequest, Outcome, Unavailable, backend_state::BackendState, health::Health};

fn state() -> BackendState {
    BackendState::new(Arc::from("127.0.0.1:3000"), Health::default(), None)
}

#[test]
fn a_stream_holds_no_place_and_is_counted_all_the_same() {
    let state = state();
    assert!(state.reserve(1) && !state.reserve(1));
    assert!(state.begin_stream(2));
    assert!(state.reserve(1) && !state.has_place(1));
    assert!(state.has_room_for_stream(2) && state.begin_stream(2));
    assert!(state.reserve(1) && !state.has_room_for_stream(2));
    assert!(!state.begin_stream(2), "it keeps its place");
    assert_eq!((state.in_flight(), state.streams()), (3, 2));
    assert!(state.set_drained(true));
    state.end_stream();
    assert!(state.begin_stream(2), "it was there before the drain");
    assert_eq!((state.in_flight(), state.streams()), (2, 2));
    state.end_stream();
    state.end_stream();
    assert_eq!(state.in_flight(), 0);
    assert!(state.is_drained() && !state.reserve(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Leases begin, become streams and end in any order, on a backend that is drained or not.
    #[test]
    fn every_lease_is_counted_once(
        steps in prop::collection::vec((0..5u8, 0..8usize), 0..200),
        max in 1..5u32,
        most_streams in 1..5u32,
    ) {
        let state = state();
        // True for each lease that is a stream.
        let mut leases: Vec<bool> = Vec::new();
        let mut is_drained = false;
        for (step, which) in steps {
            let streams = leases.iter().filter(|is_stream| **is_stream).count();
            let (streams, all) = (u32::try_from(streams).unwrap(), u32::try_from(leases.len()).unwrap());
            let at = which.checked_rem(leases.len());
            match (step, at) {
                (0 | 1, _) => {
                    let has_place = !is_drained && all - streams < max;
                    prop_assert_eq!(state.has_place(max), has_place);
                    prop_assert_eq!(state.reserve(max), has_place);
                    if has_place {
                        leases.push(false);
                    }
                }
                (2, Some(at)) if !leases[at] => {
                    let begins = state.begin_stream(most_streams);
                    prop_assert_eq!(begins, streams < most_streams);
                    leases[at] = begins;
                }
                (3, Some(at)) => {
                    if leases.swap_remove(at) {
                        state.end_stream();
                    } else {
                        state.release();
                    }
                }
                (4, _) => {
                    is_drained = !is_drained;
                    state.set_drained(is_drained);
                }
                _ => {}
            }
            let streams = leases.iter().filter(|is_stream| **is_stream).count();
            prop_assert_eq!(state.in_flight() as usize, leases.len());
            prop_assert_eq!(state.streams() as usize, streams);
            prop_assert_eq!(state.is_drained(), is_drained);
        }
    }
}

const SMALL: &str = "{ backends: [10.0.0.1:80, 10.0.0.2:80], max_streams: 1,
    max_in_flight: { per_backend: 1, queue: 8, wait: 60s } }";

#[tokio::test]
async fn a_stream_over_the_limit_is_refused_at_once_and_delays_no_other() {
    let bench = Bench::new();
    let upstream = bench.upstream(SMALL);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut lease = take(&upstream, &[]).expect("a place is free");
        assert!(
            lease.begin_stream() && lease.begin_stream(),
            "once or twice"
        );
        open.push(lease);
    }
    let mut third = take(&upstream, &[]).expect("streams hold no place");
    assert!(!third.begin_stream(), "it keeps its place");
    drop(third);
    let ask = |request: &'static pingora::http::RequestHeader, is_upgrade| LeaseRequest {
        head: request,
        client: std::net::IpAddr::from([10, 0, 0, 9]),
        at: bench.clock.now(),
        tried: &[],
        is_upgrade,
        release: None,
    };
    let request = |name: &'static str, value: &'static str| {
        let mut request = pingora::http::RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header(name, value).unwrap();
        &*Box::leak(Box::new(request))
    };
    for (request, is_upgrade) in [
        (request("x", "y"), true),
        (request("accept", "text/event-stream"), false),
        (request("content-type", "application/grpc+proto"), false),
    ] {
        let refused = upstream.acquire(&ask(request, is_upgrade)).await;
        assert_eq!(refused.unwrap_err(), Unavailable::StreamsFull);
    }
    // The control: a page.
    drop(
        upstream
            .acquire(&ask(request("accept", "text/html"), false))
            .await
            .unwrap(),
    );
    drop(open.pop());
    let socket = upstream
        .acquire(&ask(request("x", "y"), true))
        .await
        .unwrap();
    assert_eq!(socket.backend.in_flight(), 1, "the one that has room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn permits_and_streams_stay_bounded_under_threads_and_no_waiter_is_forgotten() {
    const SLOW: Outcome = Outcome::Ok {
        first_byte: std::time::Duration::from_mins(1),
    };
    let bench = Bench::new();
    let upstream = bench.upstream(
        "{ backends: [10.0.0.1:80, 10.0.0.2:80], max_streams: 3, max_in_flight: { per_backend: 2, queue: 64, wait: 60s } }",
    );
    let mut lanes = JoinSet::new();
    for lane in 0..24 {
        let upstream = upstream.clone();
        lanes.spawn(async move {
            for turn in 0..300 {
                // Some waiting requests are dropped.
                if (lane + turn) % 7 == 0 {
                    let waited = std::time::Duration::from_micros(50);
                    drop(tokio::time::timeout(waited, acquire(&upstream)).await);
                    continue;
                }
                let mut lease = acquire(&upstream).await.expect("a minute is enough");
                if turn % 2 == 0 {
                    lease.begin_stream();
                    tokio::task::yield_now().await;
                }
                let backend = &lease.backend;
                assert!(backend.in_flight() <= 2 + 3);
                assert!(backend.state.streams() <= 3);
                lease.finish(SLOW);
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.unwrap();
    }
    for backend in upstream.backends() {
        assert_eq!((backend.in_flight(), backend.state.streams()), (0, 0));
    }
    assert_eq!(upstream.snapshot().queue, 0);
}

#[test]
fn streams_count_as_load_when_balancing() {
    for balance in ["least_conn", "p2c"] {
        let bench = Bench::new();
        let upstream = bench.upstream(&format!(
            "{{ backends: [10.0.0.1:80, 10.0.0.2:80], balance: {balance} }}"
        ));
        let other = upstream.backends()[1].id();
        let mut open = Vec::new();
        for _ in 0..6 {
            let mut lease = take(&upstream, &[other]).expect("there are places");
            assert_ne!(lease.backend.id(), other);
            assert!(lease.begin_stream());
            open.push(lease);
        }
        for _ in 0..4 {
            let lease = take(&upstream, &[]).expect("there are places");
            assert_eq!(lease.backend.id(), other, "{balance}");
            open.push(lease);
        }
    }
}
