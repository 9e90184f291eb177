//! Operations at run time: drained backends, and members that are added and removed.

use std::{borrow::Cow, sync::Arc};

use super::{
    Bench, FINE, FOUR, Outcome, Unavailable, acquire, acquire_beside, address, head, serve, settle,
    take,
};
use crate::{DecisionStore, Force, MemberError, NewMember, Upstream};

fn new(address: &str) -> NewMember {
    NewMember {
        address: address.to_owned(),
        weight: 1,
        drained: false,
        release: None,
    }
}

fn state(upstream: &Upstream, address: &str) -> Cow<'static, str> {
    let snapshot = upstream.snapshot();
    let found = snapshot.backends.iter().find(|b| b.address == address);
    found.map_or("gone".into(), |backend| backend.state.clone())
}

fn addresses(upstream: &Upstream) -> Vec<String> {
    let backends = upstream.backends();
    backends.iter().map(|b| b.address().to_string()).collect()
}

#[test]
fn a_drained_backend_gets_no_request_of_any_balancer() {
    for balance in [
        "round_robin",
        "least_conn",
        "p2c",
        "hash:client.ip",
        "hash:path",
    ] {
        let bench = Bench::new();
        let upstream = bench.upstream(&format!("{{ balance: '{balance}', backends: {FOUR} }}"));
        let drained = address(&take(&upstream, &[]).unwrap());
        upstream.drain(&drained, Force::No).unwrap();
        let served = serve(&upstream, 200, |_| FINE);
        assert!(!served.contains_key(&drained), "{balance}: {served:?}");
        upstream.undrain(&drained).unwrap();
        let served = serve(&upstream, 200, |_| FINE);
        assert!(served.contains_key(&drained), "{balance}: {served:?}");
    }
}

#[test]
fn a_cookie_does_not_lead_to_a_drained_backend_and_is_replaced() {
    let bench = Bench::new();
    let upstream = bench.upstream(&format!(
        "{{ backends: {FOUR}, sticky: {{ cookie: stick }} }}"
    ));
    let first = take(&upstream, &[]).unwrap();
    let cookie = upstream.sticky_cookie(&first).unwrap();
    let pair = cookie
        .to_str()
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let ask = || {
        let mut head = head("/");
        head.insert_header("cookie", pair.as_str()).unwrap();
        let ask = super::LeaseRequest {
            head: &head,
            client: super::CLIENT,
            at: upstream.shared.clock.now(),
            tried: &[],
            is_upgrade: false,
            release: None,
        };
        upstream
            .try_acquire(&ask, upstream.shared.now())
            .ok()
            .unwrap()
    };
    assert_eq!(address(&ask()), address(&first));
    upstream.drain(first.backend.address(), Force::No).unwrap();
    let other = ask();
    assert_ne!(address(&other), address(&first));
    assert!(
        upstream.sticky_cookie(&other).is_some(),
        "it stays there from now on"
    );
}

#[test]
fn requests_in_flight_finish_and_the_state_shows_when() {
    let bench = Bench::new();
    let upstream = bench.upstream(&format!("{{ backends: {FOUR} }}"));
    let lease = take(&upstream, &[]).unwrap();
    let drained = address(&lease);
    let status = upstream.drain(&drained, Force::No).unwrap();
    assert_eq!((&*status.state, status.in_flight), ("draining", 1));
    assert!(status.healthy, "it is not ill");
    upstream.publish();
    let text = String::from_utf8(bench.metrics.text()).unwrap();
    let series = |name: &str| format!(r#"{name}{{backend="{drained}",upstream="web"}} 1"#);
    assert!(text.contains(&series("edgeway_backend_draining")), "{text}");
    assert!(text.contains(&series("edgeway_backend_healthy")), "{text}");
    lease.finish(FINE);
    assert_eq!(state(&upstream, &drained), "drained");
    assert_eq!(upstream.undrain(&drained).unwrap().state, "healthy");
}

#[test]
fn panic_uses_all_but_the_drained() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80] }");
    upstream.drain("10.0.0.2:80", Force::No).unwrap();
    serve(&upstream, 20, |_| Outcome::ConnectFailed);
    assert!(upstream.snapshot().panic);
    let served = serve(&upstream, 100, |_| FINE);
    assert_eq!(served.len(), 2, "{served:?}");
    assert!(!served.contains_key("10.0.0.2:80"));
}

#[tokio::test(start_paused = true)]
async fn when_all_are_drained_no_request_waits() {
    let bench = Bench::new();
    let upstream = bench.upstream(
        "{ backends: [10.0.0.1:80, 10.0.0.2:80], \
         max_in_flight: { per_backend: 1, queue: 8, wait: 60s } }",
    );
    upstream.drain("10.0.0.1:80", Force::No).unwrap();
    let _held = acquire(&upstream).await.unwrap();
    let mut waiting = [acquire_beside(&upstream), acquire_beside(&upstream)];
    settle().await;
    assert_eq!(upstream.snapshot().queue, 2);
    let before = tokio::time::Instant::now();
    upstream.drain("10.0.0.2:80", Force::Yes).unwrap();
    for waiter in &mut waiting {
        let refused = waiter.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(refused, Unavailable::NoBackend);
    }
    let refused = acquire(&upstream).await.unwrap_err();
    assert_eq!(refused, Unavailable::NoBackend);
    assert_eq!(before.elapsed(), std::time::Duration::ZERO);
    assert!(!upstream.snapshot().panic, "it is no failure");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_gets_a_permit_as_soon_as_a_backend_is_no_longer_drained() {
    let bench = Bench::new();
    let upstream = bench.upstream(
        "{ backends: [10.0.0.1:80, 10.0.0.2:80], \
         max_in_flight: { per_backend: 1, queue: 8, wait: 60s } }",
    );
    upstream.drain("10.0.0.1:80", Force::No).unwrap();
    let _held = acquire(&upstream).await.unwrap();
    let mut waiter = acquire_beside(&upstream);
    settle().await;
    upstream.undrain("10.0.0.1:80").unwrap();
    let got = waiter.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(got, "10.0.0.1:80");
}

#[test]
fn the_last_in_rotation_is_drained_only_by_force() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80] }");
    // One is out for its failures: the other is the last then, though not the only one.
    serve(&upstream, 20, |address| match address {
        "10.0.0.1:80" => Outcome::ConnectFailed,
        _ => FINE,
    });
    let refused = upstream.drain("10.0.0.2:80", Force::No).unwrap_err();
    assert_eq!(refused.reason(), "last_backend");
    assert!(refused.to_string().contains("`10.0.0.2:80`"), "{refused}");
    upstream.drain("10.0.0.1:80", Force::No).unwrap();
    let again = upstream.drain("10.0.0.1:80", Force::No).unwrap();
    assert_eq!(again.state, "drained", "asking twice is no error");
    assert!(upstream.drain("10.0.0.2:80", Force::No).is_err());
    upstream.drain("10.0.0.2:80", Force::Yes).unwrap();
    assert!(take(&upstream, &[]).is_none());
}

#[test]
fn an_unknown_address_is_reported_with_the_known_ones() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80, 'unix:/run/app.sock'] }");
    let refused = upstream.drain("10.0.0.1:81", Force::No).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "upstream `web` has no backend `10.0.0.1:81`; it has `10.0.0.1:80`, `unix:/run/app.sock`"
    );
    assert_eq!(
        upstream.undrain("x").unwrap_err().reason(),
        "no_such_backend"
    );
    upstream.drain("unix:/run/app.sock", Force::No).unwrap();
}

#[test]
fn failures_of_closed_requests_do_not_count_against_a_returning_backend() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ slow_start: 10s, backends: [10.0.0.1:80, 10.0.0.2:80] }");
    let leases: Vec<_> = (0..20).map(|_| take(&upstream, &[]).unwrap()).collect();
    upstream.drain("10.0.0.1:80", Force::No).unwrap();
    for lease in leases {
        let is_drained = address(&lease) == "10.0.0.1:80";
        lease.finish(if is_drained { Outcome::Reset } else { FINE });
    }
    upstream.undrain("10.0.0.1:80").unwrap();
    assert_eq!(state(&upstream, "10.0.0.1:80"), "slow_start");
}

#[test]
fn an_ejection_from_before_ends_with_the_drain() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80] }");
    serve(&upstream, 20, |address| match address {
        "10.0.0.1:80" => Outcome::ConnectFailed,
        _ => FINE,
    });
    assert_eq!(state(&upstream, "10.0.0.1:80"), "ejected");
    upstream.drain("10.0.0.1:80", Force::No).unwrap();
    upstream.undrain("10.0.0.1:80").unwrap();
    assert_eq!(state(&upstream, "10.0.0.1:80"), "healthy");
}

#[test]
fn a_drained_backend_is_no_reason_to_keep_a_failing_one() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80] }");
    upstream.drain("10.0.0.3:80", Force::No).unwrap();
    serve(&upstream, 100, |address| match address {
        "10.0.0.1:80" => Outcome::Status(503),
        _ => FINE,
    });
    // Two of three would be out: more than half.
    assert_eq!(state(&upstream, "10.0.0.1:80"), "healthy");
}

#[test]
fn drains_and_members_outlive_reloads() {
    let bench = Bench::new();
    let old = bench.upstream(&format!("{{ backends: {FOUR} }}"));
    old.drain("10.0.0.2:80", Force::No).unwrap();
    old.add_member(&NewMember {
        drained: true,
        ..new("10.0.0.8:80")
    })
    .unwrap();
    old.add_member(&NewMember {
        weight: 3,
        ..new("10.0.0.9:80")
    })
    .unwrap();
    let new = bench.upstream("{ backends: [10.0.0.2:80, 10.0.0.1:80] }");
    drop(old);
    let list = ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.8:80", "10.0.0.9:80"];
    assert_eq!(addresses(&new), list);
    let states: Vec<_> = list.iter().map(|address| state(&new, address)).collect();
    assert_eq!(states, ["drained", "healthy", "drained", "healthy"]);
    let snapshot = new.snapshot();
    let origins: Vec<_> = snapshot.backends.iter().map(|b| b.origin.clone()).collect();
    assert_eq!(origins, ["file", "file", "added", "added"]);
    assert_eq!(snapshot.backends[3].weight, 3);
}

#[test]
fn members_come_and_go() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80] }");
    let status = upstream.add_member(&new("10.0.0.2:80")).unwrap();
    assert_eq!((&*status.state, &*status.origin), ("healthy", "added"));
    assert_eq!(serve(&upstream, 10, |_| FINE).len(), 2);
    let refused = upstream.add_member(&new("10.0.0.2:80")).unwrap_err();
    assert_eq!(refused.reason(), "backend_exists");

    let lease = loop {
        let lease = take(&upstream, &[]).unwrap();
        if address(&lease) == "10.0.0.2:80" {
            break lease;
        }
    };
    let reason = |force| {
        let refused = upstream.remove_member("10.0.0.2:80", force);
        refused.unwrap_err().reason()
    };
    assert_eq!(reason(Force::No), "not_drained");
    upstream.drain("10.0.0.2:80", Force::No).unwrap();
    assert_eq!(reason(Force::No), "busy");
    upstream.remove_member("10.0.0.2:80", Force::Yes).unwrap();
    assert_eq!(addresses(&upstream), ["10.0.0.1:80"]);
    assert_eq!(reason(Force::Yes), "no_such_backend");

    // Added again while its last request still goes on: the same backend, not drained.
    let status = upstream.add_member(&new("10.0.0.2:80")).unwrap();
    assert_eq!((&*status.state, status.in_flight), ("healthy", 1));
    lease.finish(FINE);
    assert_eq!(upstream.backends()[1].in_flight(), 0);
}

#[test]
fn what_is_written_is_removed_in_the_file_only() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80, 10.0.0.2:80] }");
    let refused = upstream
        .remove_member("10.0.0.1:80", Force::Yes)
        .unwrap_err();
    assert_eq!(refused.reason(), "backend_written");
    assert!(
        refused.to_string().contains("remove it there and reload"),
        "{refused}"
    );
}

#[test]
fn an_address_that_cannot_be_one_is_refused_as_in_the_file() {
    let bench = Bench::new();
    let upstream = bench.upstream("{ backends: [10.0.0.1:80] }");
    for (address, help) in [
        ("127.0.0.1", "write `127.0.0.1:3000`"),
        ("localhost:3000", "write `127.0.0.1:3000`"),
        (
            &format!("unix:/{}", "x".repeat(120)),
            "write a path of at most 107 bytes",
        ),
    ] {
        let refused = upstream.add_member(&new(address)).unwrap_err();
        assert_eq!(refused.reason(), "bad_address");
        assert!(refused.to_string().contains(help), "{refused}");
    }
    let refused = upstream.add_member(&NewMember {
        weight: 0,
        ..new("10.0.0.2:80")
    });
    assert_eq!(refused.unwrap_err(), MemberError::BadWeight);
    assert_eq!(addresses(&upstream), ["10.0.0.1:80"]);
}

#[test]
fn decisions_survive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let process = || Bench {
        keeper: Arc::new(DecisionStore::open(folder.path().join("backends.json"))),
        ..Bench::new()
    };
    let yaml = "{ backends: [10.0.0.1:80, 10.0.0.2:80] }";
    let first = process().upstream(yaml);
    first.drain("10.0.0.2:80", Force::No).unwrap();
    first
        .add_member(&NewMember {
            weight: 2,
            ..new("10.0.0.8:80")
        })
        .unwrap();
    first
        .add_member(&NewMember {
            drained: true,
            ..new("10.0.0.9:80")
        })
        .unwrap();

    let second = process().upstream(yaml);
    let list = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.8:80", "10.0.0.9:80"];
    assert_eq!(addresses(&second), list);
    let states: Vec<_> = list.iter().map(|address| state(&second, address)).collect();
    assert_eq!(states, ["healthy", "drained", "healthy", "drained"]);
    assert_eq!(second.backends()[2].weight, 2);
    second.undrain("10.0.0.2:80").unwrap();
    second.remove_member("10.0.0.9:80", Force::No).unwrap();

    let third = process().upstream(yaml);
    assert_eq!(addresses(&third), list[..3]);
    assert_eq!(state(&third, "10.0.0.2:80"), "healthy");
}
