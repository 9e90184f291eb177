//! Receipts of purges, with the gateways that have applied them: decisions only, no I/O.
//!
//! A receipt lists a gateway as one that has applied a purge only if its lease says so, and reports
//! the purge as over only if no other gateway can hold a lease that is unknown here.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Purge,
    log::{Generation, Id, LEASE, Lease, Position, Published},
};

/// Outcome of a purge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub purges: Vec<Purge>,
    /// The gateway that received the purge.
    pub gateway: String,
    /// Id of the purge in the log; the last one after several attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    pub others: Others,
    /// Gateways that serve no older response, this one first.
    pub applied: Vec<Applied>,
    /// Gateways whose lease ran out: they apply the purge before they have a lease again. Until
    /// then they validate with the origin first, or, with `on_purge_link_lost: serve`, serve older
    /// responses, and the purge is not over.
    pub lapsed: Vec<String>,
    /// Gateways with a lease that did not confirm in time.
    pub pending: Vec<String>,
    /// Instances of the application that were notified first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    pub took_ms: f64,
}

/// State of the purge at the other gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Others {
    /// Redis is not configured: this gateway knows no other.
    Alone,
    /// All other gateways have applied the purge, or validate older responses before serving them.
    Reached,
    /// The other gateways can read the purge, but some have not confirmed, some serve without a
    /// lease, or it is not known yet which gateways exist.
    Waiting,
    /// Redis is lost: the other gateways do not know the purge. It is sent as soon as Redis is
    /// back.
    Unreached,
}

/// A gateway that has applied a purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub gateway: String,
    /// Number of responses that were dropped or marked as stale, if known.
    pub objects: Option<u64>,
}

/// An instance of the application that was notified of a purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub address: String,
    /// Status of the response of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Reason for a missing response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Instance {
    pub fn is_done(&self) -> bool {
        self.status
            .is_some_and(|status| (200..300).contains(&status))
    }
}

/// Reasons why a purge is not over, the most serious first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// The other gateways do not know the purge.
    Unreached,
    /// Some gateways have not confirmed the purge.
    Waiting,
    /// Every gateway is done, and some instance of the application is not.
    Instances,
}

impl Shortfall {
    /// Returns the name of the reason.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unreached => "unreached",
            Self::Waiting => "waiting",
            Self::Instances => "instances",
        }
    }

    /// Returns the status of a response that reports the shortfall.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Unreached => StatusCode::SERVICE_UNAVAILABLE,
            Self::Waiting => StatusCode::ACCEPTED,
            Self::Instances => StatusCode::BAD_GATEWAY,
        }
    }
}

impl Receipt {
    /// Returns true if every gateway and every instance is done with the purge, or known to be out.
    pub fn is_over(&self) -> bool {
        self.shortfall().is_none()
    }

    /// Returns the status of a response with this receipt.
    pub fn status(&self) -> StatusCode {
        self.shortfall().map_or(StatusCode::OK, Shortfall::status)
    }

    /// Returns the reason why the purge is not over.
    pub fn shortfall(&self) -> Option<Shortfall> {
        match self.others {
            Others::Unreached => Some(Shortfall::Unreached),
            Others::Waiting => Some(Shortfall::Waiting),
            Others::Alone | Others::Reached if self.instances.iter().all(Instance::is_done) => None,
            Others::Alone | Others::Reached => Some(Shortfall::Instances),
        }
    }
}

/// State of the other gateways at one time.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) generation: Generation,
    pub(super) leases: Vec<Lease>,
    /// True if the purge is still in the log.
    pub(super) is_there: bool,
}

/// A purge on its way to the other gateways.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Name of this gateway, which is not waited for.
    me: String,
    position: Position,
    generation: String,
    others: BTreeMap<String, Other>,
    /// Until then there may be gateways that rely on leases which the log has lost.
    not_before: Option<Instant>,
}

/// Another gateway with respect to this purge.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    standing: Standing,
    /// Name of the log that the gateway was last seen in. A gateway that is in no later log may
    /// still serve: it does not know of a later one.
    generation: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Awaited,
    Applied(Option<u64>),
    /// Without a lease; `serves` if it serves older responses.
    Lapsed {
        serves: bool,
    },
    /// The gateway has given up its lease, or was not seen for long.
    Gone,
}

impl Standing {
    fn is_done(self) -> bool {
        match self {
            Self::Awaited | Self::Lapsed { serves: true } => false,
            Self::Applied(_) | Self::Lapsed { serves: false } | Self::Gone => true,
        }
    }
}

/// A gateway that was recently in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) generation: String,
    pub(super) seen: Instant,
    pub(super) validates: bool,
}

/// Time for which a gateway is remembered that is in no log any more.
pub(super) const REMEMBERED: Duration = Duration::from_mins(1);

/// Gateways seen recently, by name.
#[derive(Debug, Default)]
pub(super) struct Peers(pub(super) BTreeMap<String, Peer>);

impl Peers {
    /// Updates the gateways from the leases in the log. A gateway missing from the log that it was
    /// in has left.
    pub(super) fn see(&mut self, me: &str, generation: &str, leases: &[Lease], now: Instant) {
        let is_here = |name: &str| leases.iter().any(|lease| lease.gateway == name);
        self.0.retain(|name, peer| {
            let is_remembered = now.saturating_duration_since(peer.seen) < REMEMBERED;
            is_here(name) || (peer.generation != generation && is_remembered)
        });
        for lease in leases.iter().filter(|lease| lease.gateway != me) {
            let peer = Peer {
                generation: generation.to_owned(),
                seen: now,
                validates: lease.validates,
            };
            self.0.insert(lease.gateway.clone(), peer);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    Over,
    /// The log has lost the purge, which has to be published again.
    Lost,
}

impl Waiting {
    pub(super) fn new(me: &str, published: &Published, peers: &Peers) -> Self {
        let mut waiting = Self {
            me: me.to_owned(),
            position: published.position.clone(),
            generation: published.generation.name.clone(),
            others: BTreeMap::new(),
            not_before: None,
        };
        waiting.learn(published, peers);
        waiting
    }

    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    /// Records that the purge was published again after the log had lost it.
    pub(super) fn again(&mut self, published: &Published, peers: &Peers, now: Instant) {
        self.position = published.position.clone();
        self.generation.clone_from(&published.generation.name);
        self.not_before = Some(now + LEASE);
        for Other { standing, .. } in self.others.values_mut() {
            // A gateway that has applied it stays done, whatever log it read it from.
            if !matches!(standing, Standing::Applied(_) | Standing::Gone) {
                *standing = Standing::Awaited;
            }
        }
        self.learn(published, peers);
    }

    fn learn(&mut self, published: &Published, peers: &Peers) {
        let generation = &published.generation.name;
        for lease in &published.leases {
            if lease.gateway != self.me {
                let other = self.others.entry(lease.gateway.clone());
                let other = other.or_insert_with(|| Other {
                    standing: standing_of(lease),
                    generation: generation.clone(),
                });
                other.generation.clone_from(generation);
            }
        }
        for (name, peer) in &peers.0 {
            let other = || Other {
                standing: Standing::Awaited,
                generation: peer.generation.clone(),
            };
            self.others.entry(name.clone()).or_insert_with(other);
        }
    }

    /// Updates the state. `doubt_until`: end of the doubt about leases, if the link has seen the
    /// log lose something.
    pub(super) fn observe(
        &mut self,
        view: &View,
        peers: &Peers,
        doubt_until: Option<Instant>,
        now: Instant,
    ) -> Progress {
        if view.generation.name != self.generation || !view.is_there {
            return Progress::Lost;
        }
        for (gateway, other) in &mut self.others {
            if matches!(other.standing, Standing::Applied(_) | Standing::Gone) {
                continue;
            }
            let lease = view.leases.iter().find(|lease| lease.gateway == *gateway);
            if lease.is_some() {
                other.generation.clone_from(&self.generation);
            }
            other.standing = match lease {
                Some(lease) if lease.applied >= self.position.id => {
                    let mut done = lease.done.iter();
                    let told = done.find(|(id, _)| *id == self.position.id);
                    Standing::Applied(told.map(|(_, objects)| *objects))
                }
                Some(lease) => standing_of(lease),
                None if other.generation == self.generation => Standing::Gone,
                // The gateway was in the previous log, and may not know that there is another one.
                // By the time that this counts, any lease that it relies on has run out.
                None => match peers.0.get(gateway) {
                    Some(peer) if peer.validates => Standing::Lapsed { serves: false },
                    Some(_) => Standing::Awaited,
                    None => Standing::Gone,
                },
            };
        }
        // A log that was created recently does not know yet which gateways hold a lease of the
        // previous one.
        let is_young = view.generation.age < LEASE;
        let is_sure = self
            .not_before
            .max(doubt_until)
            .is_none_or(|until| now >= until);
        let mut others = self.others.values();
        if is_young || !is_sure || others.any(|other| !other.standing.is_done()) {
            return Progress::Waiting;
        }
        Progress::Over
    }

    /// Writes the state into a receipt; `is_over` is the last result of [`Waiting::observe`].
    pub(super) fn tell(&self, receipt: &mut Receipt, is_over: bool) {
        receipt.id = Some(self.position.id);
        receipt.others = if is_over {
            Others::Reached
        } else {
            Others::Waiting
        };
        for (gateway, other) in &self.others {
            let gateway = gateway.clone();
            match other.standing {
                Standing::Awaited => receipt.pending.push(gateway),
                Standing::Applied(objects) => receipt.applied.push(Applied { gateway, objects }),
                Standing::Lapsed { .. } => receipt.lapsed.push(gateway),
                Standing::Gone => {}
            }
        }
    }
}

fn standing_of(lease: &Lease) -> Standing {
    if lease.left > 0 {
        Standing::Awaited
    } else {
        let serves = !lease.validates;
        Standing::Lapsed { serves }
    }
}

/// Time that a purge waits for the other gateways by default.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    const OLD: Duration = Duration::from_mins(1);

    fn lease(gateway: &str, left: i64, applied: u64) -> Lease {
        Lease {
            gateway: gateway.to_owned(),
            left,
            applied: Id(applied, 0),
            done: vec![(Id(applied, 0), 3)],
            validates: true,
        }
    }

    fn serving(gateway: &str) -> Lease {
        Lease {
            validates: false,
            ..lease(gateway, 2000, 8)
        }
    }

    fn published(id: u64, leases: Vec<Lease>) -> Published {
        Published {
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

    fn view(leases: Vec<Lease>) -> View {
        View {
            generation: generation(OLD),
            leases,
            is_there: true,
        }
    }

    fn told(waiting: &Waiting, is_over: bool) -> Receipt {
        let mut receipt = Receipt {
            purges: vec![],
            gateway: "me".to_owned(),
            id: None,
            others: Others::Unreached,
            applied: vec![],
            lapsed: vec![],
            pending: vec![],
            instances: vec![],
            took_ms: 0.0,
        };
        waiting.tell(&mut receipt, is_over);
        receipt
    }

    fn waiting(published: &Published) -> Waiting {
        Waiting::new("me", published, &Peers::default())
    }

    fn observe(waiting: &mut Waiting, view: &View, now: Instant) -> Progress {
        waiting.observe(view, &Peers::default(), None, now)
    }

    #[test]
    fn it_is_over_when_each_has_applied_it_or_is_out() {
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
        let receipt = told(&waiting, false);
        assert_eq!(receipt.pending, ["b", "e"]);
        assert_eq!(receipt.lapsed, ["c"]);
        assert_eq!(receipt.applied[0].objects, Some(3));
        assert_eq!(receipt.others, Others::Waiting);
        assert!(!receipt.is_over());
        // `d` came later, with an empty cache, and `e` has left.
        let then = view(vec![
            lease("a", 2900, 12),
            lease("b", -1, 8),
            lease("c", 100, 9),
            lease("d", 2000, 1),
        ]);
        assert_eq!(observe(&mut waiting, &then, now), Progress::Over);
        let receipt = told(&waiting, true);
        assert_eq!(receipt.lapsed, ["b"]);
        let applied: Vec<&str> = receipt.applied.iter().map(|a| a.gateway.as_str()).collect();
        assert_eq!(applied, ["a", "c"]);
        assert!(receipt.is_over());
    }

    #[test]
    fn who_serves_without_a_lease_keeps_it_from_being_over_and_is_named() {
        let now = Clock::test().now();
        let serving = |left, applied| Lease {
            validates: false,
            ..lease("a", left, applied)
        };
        let mut waiting = waiting(&published(9, vec![serving(100, 8)]));
        for left in [100, -1, -50_000] {
            let progress = observe(&mut waiting, &view(vec![serving(left, 8)]), now);
            assert_eq!(progress, Progress::Waiting, "{left}");
        }
        let receipt = told(&waiting, false);
        assert_eq!(
            (receipt.status(), &*receipt.lapsed),
            (StatusCode::ACCEPTED, &["a".to_owned()][..])
        );
        // It is back, and has applied the purge before it has a lease.
        let progress = observe(&mut waiting, &view(vec![serving(2000, 9)]), now);
        assert_eq!(progress, Progress::Over);
        assert_eq!(told(&waiting, true).status(), StatusCode::OK);
    }

    #[test]
    fn a_log_that_lost_the_purge_gets_it_again_and_time_to_be_sure() {
        let clock = Clock::test();
        let mut waiting = waiting(&published(9, vec![lease("a", 2000, 8)]));
        let mut peers = Peers::default();
        peers.see("me", "g", &[serving("a")], clock.now());
        let flushed = View {
            is_there: false,
            ..view(vec![])
        };
        let lost = waiting.observe(&flushed, &peers, None, clock.now());
        assert_eq!(lost, Progress::Lost);
        let generation = Generation {
            name: "h".to_owned(),
            age: OLD,
        };
        let again = Published {
            generation: generation.clone(),
            ..published(4, vec![])
        };
        waiting.again(&again, &peers, clock.now());
        // The log does not list `a`: it may rely on its lease, or serve without one.
        let empty = View {
            generation,
            ..view(vec![])
        };
        let mut later = |by: Duration, peers: &mut Peers| {
            clock.advance(by);
            peers.see("me", "h", &[], clock.now());
            waiting.observe(&empty, peers, None, clock.now())
        };
        assert_eq!(later(Duration::ZERO, &mut peers), Progress::Waiting);
        assert_eq!(later(LEASE, &mut peers), Progress::Waiting);
        assert_eq!(
            later(Duration::from_secs(50), &mut peers),
            Progress::Waiting
        );
        // It was not seen for long.
        assert_eq!(later(Duration::from_secs(10), &mut peers), Progress::Over);
        assert!(peers.0.is_empty());
    }

    #[test]
    fn who_was_there_before_the_log_was_lost_is_waited_for_and_named() {
        let clock = Clock::test();
        let mut peers = Peers::default();
        let both = [serving("a"), lease("b", 2000, 8), lease("me", 9, 8)];
        peers.see("me", "before", &both, clock.now());
        // `b` is in the new log; `a` is not listed.
        peers.see("me", "g", &[lease("b", 2000, 1)], clock.now());
        let mut waiting = Waiting::new("me", &published(9, vec![]), &peers);
        let now = clock.now();
        let some = view(vec![lease("b", 2000, 9)]);
        let progress = waiting.observe(&some, &peers, None, now);
        assert_eq!(progress, Progress::Waiting);
        let receipt = told(&waiting, false);
        assert_eq!(receipt.pending, ["a"]);
        assert_eq!(receipt.status(), StatusCode::ACCEPTED);
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
        let young = View {
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
        let mut receipt = told(&waiting, false);
        receipt.purges.push(Purge::ALL);
        let json = serde_json::to_string(&receipt).unwrap();
        assert!(json.contains(r#""id":"9-0","others":"waiting""#), "{json}");
        assert_eq!(serde_json::from_str::<Receipt>(&json).unwrap(), receipt);
    }
}
