//! Backups: a backup gets a request exactly while no other backend can take it.

use proptest::prelude::*;

use super::*;

/// An event at the upstream.
#[derive(Clone, Debug)]
enum Step {
    /// A request, with the number of earlier attempts at other backends.
    Take(usize),
    /// The end of the oldest request.
    Finish(Outcome),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop::sample::select(vec![FINE, Outcome::ConnectFailed, Outcome::Status(503)]);
    prop_oneof![
        4 => (0..3_usize).prop_map(Step::Take),
        4 => outcome.prop_map(Step::Finish),
        1 => (0..15_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn a_backup_gets_what_no_other_backend_can_take(
        balance in prop::sample::select(vec!["round_robin", "least_conn", "p2c", "hash:client.ip"]),
        usual in 1..4_usize,
        backups in 1..3_usize,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let bench = Bench::new();
        let written = (0..usual + backups).map(|number| {
            let backup = if number < usual { "" } else { ", backup: true" };
            format!("{{ address: '10.0.0.{number}:80'{backup} }}")
        });
        let backends: Vec<String> = written.collect();
        let upstream = bench.upstream(&format!(
            "{{ balance: '{balance}', max_in_flight: {{ per_backend: 2 }}, slow_start: 5s, \
             eject: {{ errors: 2, for: 5s }}, backends: [{}] }}",
            backends.join(", ")
        ));
        let mut in_flight: Vec<Lease> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(seconds) => bench.clock.advance(Duration::from_secs(seconds)),
                Step::Finish(_) if in_flight.is_empty() => {}
                Step::Finish(outcome) => in_flight.remove(0).finish(outcome),
                Step::Take(earlier) => {
                    let all = upstream.backends();
                    let tried: Vec<BackendId> = all.iter().take(earlier).map(|b| b.id()).collect();
                    let now = upstream.shared.now();
                    let can = |is_backup: bool| {
                        all.iter().any(|backend| {
                            backend.is_backup == is_backup
                                && backend.state.is_up(now)
                                && backend.in_flight() < 2
                                && !tried.contains(&backend.id())
                        })
                    };
                    let (usual_can, backup_can) = (can(false), can(true));
                    let lease = take(&upstream, &tried);
                    let by_backup = lease.as_ref().map(|lease| lease.backend.is_backup);
                    if usual_can {
                        prop_assert_eq!(by_backup, Some(false));
                    } else if backup_can {
                        prop_assert_eq!(by_backup, Some(true));
                    }
                    in_flight.extend(lease);
                }
            }
        }
    }
}

#[test]
fn an_upstream_of_backups_alone_is_refused() {
    let bench = Bench::new();
    let (_, problems) =
        bench.try_compile("{ backends: [{ address: '10.0.0.1:80', backup: true }] }");
    assert_eq!(problems.list()[0].code, "edgeway::upstream::only_backups");
}
