//! Tests of receipts.

use super::*;
use crate::base::clock::Clock;

const OLD: Duration = Duration::from_mins(1);

fn lease(gateway: &str, left: i64, applied: u64) -> Lease {
    Lease {
        gateway: gateway.to_owned(),
        left,
        applied: Id(applied, 0),
        done: vec![(Id(applied, 0), 3)],
    }
}

fn published(id: u64, leases: Vec<Lease>) -> PublishResponse {
    PublishResponse {
        position: Position {
            id: Id(id, 0),
            drawn: id.to_string(),
        },
        generation: generation(OLD),
        leases,
    }
}

fn generation(age: Duration) -> Generation {
    Generation {
        name: "g".to_owned(),
        age,
    }
}

fn view(leases: Vec<Lease>) -> PeerView {
    PeerView {
        generation: generation(OLD),
        leases,
        is_there: true,
    }
}

fn receipt_for(waiting: &Waiting, is_over: bool) -> Receipt {
    let mut receipt = Receipt {
        gateway: "me".to_owned(),
        others: PeerStates::Unreached,
        ..Receipt::default()
    };
    waiting.tell(&mut receipt, is_over);
    receipt
}

fn waiting(published: &PublishResponse) -> Waiting {
    Waiting::new("me", published, &Peers::default())
}

fn observe(waiting: &mut Waiting, view: &PeerView, now: Instant) -> Progress {
    waiting.observe(view, &Peers::default(), None, now)
}

#[test]
fn a_purge_is_over_when_each_gateway_has_applied_it_or_is_out() {
    let now = Clock::test().now();
    let leases = vec![
        lease("me", 2000, 8),
        lease("a", 2000, 8),
        lease("b", 900, 8),
        lease("c", -40, 2),
        lease("e", 2000, 2),
    ];
    let mut waiting = waiting(&published(9, leases));
    let first = view(vec![
        lease("a", 2900, 9),
        lease("b", 500, 8),
        lease("c", -80, 2),
        lease("e", 2000, 2),
    ]);
    assert_eq!(observe(&mut waiting, &first, now), Progress::Waiting);
    let receipt = receipt_for(&waiting, false);
    assert_eq!(receipt.pending, ["b", "e"]);
    assert_eq!(receipt.lapsed, ["c"]);
    assert_eq!(receipt.applied[0].objects, Some(3));
    assert_eq!(receipt.others, PeerStates::Waiting);
    assert!(!receipt.is_over());
    // `d` came later, with an empty cache, and `e` has left.
    let then = view(vec![
        lease("a", 2900, 12),
        lease("b", -1, 8),
        lease("c", 100, 9),
        lease("d", 2000, 1),
    ]);
    assert_eq!(observe(&mut waiting, &then, now), Progress::Over);
    let receipt = receipt_for(&waiting, true);
    assert_eq!(receipt.lapsed, ["b"]);
    let applied: Vec<&str> = receipt.applied.iter().map(|a| a.gateway.as_str()).collect();
    assert_eq!(applied, ["a", "c"]);
    assert!(receipt.is_over());
}

#[test]
fn gateways_without_a_lease_are_named_for_an_hour() {
    let now = Clock::test().now();
    let mut waiting = waiting(&published(9, vec![lease("a", 100, 8)]));
    let left = view(vec![lease("a", 100, 8)]);
    assert_eq!(observe(&mut waiting, &left, now), Progress::Waiting);
    assert_eq!(receipt_for(&waiting, false).status(), StatusCode::ACCEPTED);
    for left in [-1, -3_500_000] {
        let progress = observe(&mut waiting, &view(vec![lease("a", left, 8)]), now);
        assert_eq!(progress, Progress::Over, "{left}");
        let receipt = receipt_for(&waiting, true);
        assert_eq!(
            (receipt.status(), receipt.others, &*receipt.lapsed),
            (StatusCode::OK, PeerStates::Linked, &["a".to_owned()][..])
        );
    }
    // It is back, and has applied the purge before it has a lease.
    let progress = observe(&mut waiting, &view(vec![lease("a", 2000, 9)]), now);
    assert_eq!(progress, Progress::Over);
    let receipt = receipt_for(&waiting, true);
    assert_eq!(receipt.others, PeerStates::Reached);
    assert!(receipt.lapsed.is_empty(), "{receipt:?}");
}

#[test]
fn a_log_that_lost_the_purge_gets_it_again_and_time_to_be_sure() {
    let clock = Clock::test();
    let mut waiting = waiting(&published(9, vec![lease("a", 2000, 8)]));
    let mut peers = Peers::default();
    peers.see("me", "g", &[lease("a", 2000, 8)], clock.now());
    let flushed = PeerView {
        is_there: false,
        ..view(vec![])
    };
    let lost = waiting.observe(&flushed, &peers, None, clock.now());
    assert_eq!(lost, Progress::Lost);
    let generation = Generation {
        name: "h".to_owned(),
        age: OLD,
    };
    let again = PublishResponse {
        generation: generation.clone(),
        ..published(4, vec![])
    };
    waiting.again(&again, &peers, clock.now());
    // The log does not list `a`: it may rely on its lease, or serve without one.
    let empty = PeerView {
        generation,
        ..view(vec![])
    };
    let mut later = |by: Duration, peers: &mut Peers| {
        clock.advance(by);
        peers.see("me", "h", &[], clock.now());
        waiting.observe(&empty, peers, None, clock.now())
    };
    assert_eq!(later(Duration::ZERO, &mut peers), Progress::Waiting);
    // By then any lease has ended: it is over without `a`, which is named.
    assert_eq!(later(LEASE, &mut peers), Progress::Over);
    assert_eq!(peers.0.len(), 1);
    // It was not seen for long.
    assert_eq!(later(REMEMBERED, &mut peers), Progress::Over);
    assert!(peers.0.is_empty());
    assert_eq!(receipt_for(&waiting, true).lapsed, [""; 0]);
}

#[test]
fn gateways_from_before_the_loss_of_the_log_are_named() {
    let clock = Clock::test();
    let mut peers = Peers::default();
    let both = [lease("a", 2000, 8), lease("b", 2000, 8), lease("me", 9, 8)];
    peers.see("me", "before", &both, clock.now());
    // `b` is in the new log; `a` is not listed.
    peers.see("me", "g", &[lease("b", 2000, 1)], clock.now());
    let mut waiting = Waiting::new("me", &published(9, vec![]), &peers);
    let now = clock.now();
    let some = view(vec![lease("b", 2000, 9)]);
    // It may rely on a lease of the old log.
    let in_doubt = waiting.observe(&some, &peers, Some(now + LEASE), now);
    assert_eq!(in_doubt, Progress::Waiting);
    assert_eq!(waiting.observe(&some, &peers, None, now), Progress::Over);
    let receipt = receipt_for(&waiting, true);
    assert_eq!(receipt.lapsed, ["a"]);
    assert_eq!(receipt.others, PeerStates::Linked);
    let all = view(vec![lease("b", 2000, 9), lease("a", 2000, 9)]);
    assert_eq!(waiting.observe(&all, &peers, None, now), Progress::Over);
    // A gateway that leaves the log that it is in is not waited for.
    peers.see("me", "g", &[lease("a", 2000, 9)], now);
    assert_eq!(peers.0.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_young_log_and_a_link_in_doubt_wait() {
    let clock = Clock::test();
    let mut waiting = waiting(&published(9, vec![]));
    let young = PeerView {
        generation: generation(LEASE / 2),
        ..view(vec![])
    };
    assert_eq!(
        observe(&mut waiting, &young, clock.now()),
        Progress::Waiting
    );
    let until = Some(clock.now() + LEASE);
    let old = view(vec![]);
    let mut in_doubt = |now| waiting.observe(&old, &Peers::default(), until, now);
    assert_eq!(in_doubt(clock.now()), Progress::Waiting);
    clock.advance(LEASE);
    assert_eq!(in_doubt(clock.now()), Progress::Over);
}

#[test]
fn a_receipt_is_read_as_it_was_written() {
    let waiting = waiting(&published(9, vec![lease("a", 1, 8)]));
    let mut receipt = receipt_for(&waiting, false);
    receipt.purges.push(Purge::ALL);
    let json = serde_json::to_string(&receipt).unwrap();
    assert!(json.contains(r#""id":"9-0","others":"waiting""#), "{json}");
    assert_eq!(serde_json::from_str::<Receipt>(&json).unwrap(), receipt);
}
