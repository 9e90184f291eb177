//! Limits on requests in flight, and the return of every permit.

use std::{sync::Arc, thread};

use edgeway_base::{clock::Clock, metrics::Metrics};
use edgeway_config::{diagnostic::Diagnostics, tree};
use edgeway_core::{
    chain::{
        Claims, Exchange, Filter, Identity, RequestFacts, Verdict,
        testkit::{check, refused},
    },
    limits::key::{Key, KeyList},
};
use pingora::http::RequestHeader;
use proptest::prelude::*;

use super::{InFlight, PerKey, counts::RouteCounts};

/// A route under test, and its requests.
struct Route {
    filter: Arc<InFlight>,
    metrics: Metrics,
    head: RequestHeader,
}

fn key(yaml: &str) -> KeyList {
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(yaml, 0, &mut diagnostics).unwrap();
    tree::read(&node, &mut diagnostics).unwrap()
}

fn route(max: Option<u32>, per_key: Option<(u32, &str)>) -> Route {
    let metrics = Metrics::default();
    Route {
        filter: Arc::new(InFlight {
            counts: Arc::new(RouteCounts::new(&metrics, "r")),
            max,
            per_key: per_key.map(|(max, yaml)| {
                let key = key(yaml);
                Arc::new(PerKey { max, key })
            }),
        }),
        metrics,
        head: RequestHeader::build("GET", b"/", None).unwrap(),
    }
}

impl Route {
    /// Starts a request; returns its facts while it is in flight, or the reason of a refusal.
    fn begin(&self, ip: &str, user: Option<&str>) -> Result<RequestFacts, &'static str> {
        let mut facts = RequestFacts::new(Clock::test().now());
        facts.client.ip = ip.parse().unwrap();
        let mut ex = Exchange {
            head: &self.head,
            facts: &mut facts,
        };
        let mut verdict = self.filter.on_request(&mut ex);
        if let Some(user) = user {
            let claims = serde_json::json!({ "sub": user }).as_object().cloned();
            *ex.facts.identity_mut() = Identity {
                claims: claims.map(|claims| Claims(Arc::new(claims))),
                ..Identity::default()
            };
        }
        let phases = Arc::clone(&self.filter).traits().phases;
        let wants_more = phases.wants(edgeway_core::chain::Phase::Authorized);
        if matches!(verdict, Verdict::Next) && wants_more {
            verdict = self.filter.on_authorized(&mut ex);
        }
        match verdict {
            Verdict::Next => Ok(facts),
            Verdict::Reply(reply) => {
                assert_eq!(reply.status, 503);
                assert!(reply.headers.iter().any(|(name, _)| name == "retry-after"));
                // It holds no permit, though its facts are still alive.
                Err(reply.reason.unwrap())
            }
        }
    }

    fn gauge(&self) -> i64 {
        let text = String::from_utf8(self.metrics.text()).unwrap();
        let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

const A: &str = "192.0.2.1";
const B: &str = "192.0.2.2";

#[test]
fn a_route_has_so_many_places_and_each_comes_back() {
    let route = route(Some(2), None);
    let first = route.begin(A, None).unwrap();
    let second = route.begin(B, None).unwrap();
    assert_eq!(route.begin(A, None).err(), Some("in_flight"));
    assert_eq!(route.gauge(), 2);
    drop(first);
    let third = route.begin(A, None).unwrap();
    assert_eq!(route.begin(A, None).err(), Some("in_flight"));
    drop((second, third));
    assert_eq!(route.gauge(), 0);
    assert_eq!(route.filter.counts.sizes().0, 0);
}

#[test]
fn a_client_has_its_own_places() {
    let route = route(Some(4), Some((2, "client.ip")));
    let of_a = [route.begin(A, None).unwrap(), route.begin(A, None).unwrap()];
    assert_eq!(route.begin(A, None).err(), Some("in_flight_key"));
    // A client that is refused for its own limit takes no permit of others.
    let of_b = [route.begin(B, None).unwrap(), route.begin(B, None).unwrap()];
    assert_eq!(route.begin("192.0.2.3", None).err(), Some("in_flight"));
    assert_eq!(route.filter.counts.sizes().1, 2);
    drop((of_a, of_b));
    assert_eq!(route.filter.counts.sizes().1, 0);
}

#[test]
fn a_client_is_counted_once_it_is_known() {
    let route = route(Some(3), Some((1, "[jwt.sub, client.ip]")));
    let of_u1 = route.begin(A, Some("u1")).unwrap();
    assert_eq!(route.begin(B, Some("u1")).err(), Some("in_flight_key"));
    // That refusal returned its permit of the route.
    let others = [
        route.begin(A, Some("u2")).unwrap(),
        route.begin(A, None).unwrap(),
    ];
    assert_eq!(route.begin(A, None).err(), Some("in_flight"));
    drop((of_u1, others));
    assert_eq!(route.filter.counts.sizes().0, 0);
    assert_eq!(route.filter.counts.sizes().1, 0);
}

#[test]
fn a_changed_limit_counts_requests_in_flight() {
    let old = route(Some(3), None);
    let in_flight = [old.begin(A, None).unwrap(), old.begin(A, None).unwrap()];
    // A reload does the same: it makes another filter over the same counts.
    let new = Route {
        filter: Arc::new(InFlight {
            counts: Arc::clone(&old.filter.counts),
            max: Some(2),
            per_key: None,
        }),
        ..route(None, None)
    };
    assert_eq!(new.begin(A, None).err(), Some("in_flight"));
    drop(in_flight);
    drop(old);
    assert!(new.begin(A, None).is_ok());
}

#[test]
fn a_rush_of_clients_leaves_no_room_behind() {
    let counts = Arc::new(RouteCounts::new(&Metrics::default(), "r"));
    let rush: Vec<_> = (0..50_000)
        .map(|key| RouteCounts::enter_key(&counts, Key(key), 1).unwrap())
        .collect();
    drop(rush);
    let (_, keys, room) = counts.sizes();
    assert_eq!(keys, 0);
    assert!(room <= 16 * 2 * 64, "{room}");
}

#[test]
fn threads_never_pass_a_bound_and_lose_no_place() {
    let counts = Arc::new(RouteCounts::new(&Metrics::default(), "r"));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for turn in 0..2_000_u128 {
                    let place = RouteCounts::enter(&counts, Some(5));
                    let key = RouteCounts::enter_key(&counts, Key(turn % 3), 2);
                    assert!(counts.sizes().0 <= 5);
                    drop((place, key));
                }
            });
        }
    });
    let (route, keys, _) = counts.sizes();
    assert_eq!((route, keys), (0, 0));
    assert!(RouteCounts::enter(&counts, Some(1)).is_some());
}

proptest! {
    /// Compares the counts with a plain list of requests in flight.
    #[test]
    fn counts_agree_with_those_of_a_list(steps in prop::collection::vec((0_u8..4, any::<bool>(), any::<prop::sample::Index>()), 0..200)) {
        let route = route(Some(5), Some((2, "client.ip")));
        let mut in_flight: Vec<(u8, RequestFacts)> = Vec::new();
        for (client, begins, which) in steps {
            if begins {
                let began = route.begin(&format!("192.0.2.{client}"), None);
                let of_client = in_flight.iter().filter(|(other, _)| *other == client).count();
                let expected = if in_flight.len() >= 5 {
                    Some("in_flight")
                } else if of_client >= 2 {
                    Some("in_flight_key")
                } else {
                    None
                };
                prop_assert_eq!(began.as_ref().err().copied(), expected);
                if let Ok(facts) = began {
                    in_flight.push((client, facts));
                }
            } else if !in_flight.is_empty() {
                let at = which.index(in_flight.len());
                in_flight.swap_remove(at);
            }
            prop_assert_eq!(route.gauge(), i64::try_from(in_flight.len()).unwrap());
        }
    }
}

#[test]
fn one_after_the_other_is_never_too_many() {
    check::<InFlight>("{ max: 1, per_key: 1, key: [jwt.sub, client.ip] }")
        .get("/")
        .get("/")
        .expect([200, 200]);
    check::<InFlight>("1").get("/").get("/").expect([200, 200]);
}

#[test]
fn a_limit_of_zero_is_reported_with_a_remedy() {
    assert!(refused::<InFlight>("0")[0].starts_with("`in_flight` of 0 would refuse"));
    assert!(refused::<InFlight>("{ max: 3, per_key: 0 }")[0].starts_with("`in_flight` of 0"));
    let of_nobody = refused::<InFlight>("{ max: 3, key: client.network }");
    assert!(
        of_nobody[0].contains("no effect without `per_key`"),
        "{of_nobody:?}"
    );
    assert!(refused::<InFlight>("{}")[0].starts_with("`in_flight` has no limit"));
    assert!(refused::<InFlight>("{ key: client.ip }")[0].starts_with("`in_flight` has no limit"));
    assert!(refused::<InFlight>("many")[0].contains("a number of requests such as `200`"));
}
