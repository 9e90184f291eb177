//! Who has applied a purge: decisions alone, no I/O.
//!
//! A receipt says of a gateway that it has applied a purge only if its lease says so, and
//! says that the purge is over only if nobody else can hold a lease that is not known here.

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

/// What became of a purge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub purges: Vec<Purge>,
    /// The gateway that was asked.
    pub gateway: String,
    /// Of the purge in the log; the last one if there were several attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    pub others: Others,
    /// Who serves nothing older, this gateway first.
    pub applied: Vec<Applied>,
    /// Whose lease ran out: they apply it before they have one again. Until then they ask the
    /// origin first, or, with `on_purge_link_lost: serve`, serve what is older, and the purge is
    /// not over.
    pub lapsed: Vec<String>,
    /// Who has a lease and has not said so within the time that was waited.
    pub pending: Vec<String>,
    /// Of the application, that were told before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    pub took_ms: f64,
}

/// How it stands with the other gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Others {
    /// There is no Redis: this gateway knows of no other.
    Alone,
    /// Every other one has applied it, or asks the origin before it serves what is older.
    Reached,
    /// They can read it, but some have not said that they have, some serve without a lease, or
    /// it is not known yet who there is.
    Waiting,
    /// Redis is lost: they do not know of it. It is sent as soon as Redis is back.
    Unreached,
}

/// A gateway that has applied a purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub gateway: String,
    /// What it dropped or marked as stale, where that is known.
    pub objects: Option<u64>,
}

/// An instance of the application that was told of a purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub address: String,
    /// Of its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Instance {
    pub fn is_done(&self) -> bool {
        self.status
            .is_some_and(|status| (200..300).contains(&status))
    }
}

/// What keeps a purge from being over, the weightiest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// The other gateways do not know of it.
    Unreached,
    /// Some have not said that they have applied it.
    Waiting,
    /// Every gateway is done with it, and some instance of the application is not.
    Instances,
}

impl Shortfall {
    /// The fixed word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unreached => "unreached",
            Self::Waiting => "waiting",
            Self::Instances => "instances",
        }
    }

    /// Of an answer that tells of it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Unreached => StatusCode::SERVICE_UNAVAILABLE,
            Self::Waiting => StatusCode::ACCEPTED,
            Self::Instances => StatusCode::BAD_GATEWAY,
        }
    }
}

impl Receipt {
    /// Every gateway and every instance is done with it, or known to be out.
    pub fn is_over(&self) -> bool {
        self.shortfall().is_none()
    }

    /// Of an answer that tells of it.
    pub fn status(&self) -> StatusCode {
        self.shortfall().map_or(StatusCode::OK, Shortfall::status)
    }

    /// Why it is not over.
    pub fn shortfall(&self) -> Option<Shortfall> {
        match self.others {
            Others::Unreached => Some(Shortfall::Unreached),
            Others::Waiting => Some(Shortfall::Waiting),
            Others::Alone | Others::Reached if self.instances.iter().all(Instance::is_done) => None,
            Others::Alone | Others::Reached => Some(Shortfall::Instances),
        }
    }
}

/// How far the others are, as told at one time.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) generation: Generation,
    pub(super) leases: Vec<Lease>,
    /// Whether the purge is in the log still.
    pub(super) is_there: bool,
}

/// One purge on its way to the others.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Who is not waited for.
    me: String,
    position: Position,
    generation: String,
    others: BTreeMap<String, Other>,
    /// Until then there may be gateways that believe in leases which the log has lost.
    not_before: Option<Instant>,
}

/// Another gateway, as far as this purge is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    standing: Standing,
    /// The generation of the log that it was in last. One that is in none of those since may
    /// still serve: it has not heard of them.
    generation: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Awaited,
    Applied(Option<u64>),
    /// Without a lease; whether it serves what is older.
    Lapsed {
        serves: bool,
    },
    /// It has given its lease up, or was not heard of for long.
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

/// A gateway that was in the log a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) generation: String,
    pub(super) seen: Instant,
    pub(super) validates: bool,
}

/// For so long a gateway is remembered that is in no log any more.
pub(super) const REMEMBERED: Duration = Duration::from_mins(1);

/// Who was there a moment ago, by name.
#[derive(Debug, Default)]
pub(super) struct Peers(pub(super) BTreeMap<String, Peer>);

impl Peers {
    /// As the log tells now. Who is not in the log that it was in has left it.
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
    /// The log has lost it: it has to be published again.
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

    /// It is in the log once more, since that has lost it.
    pub(super) fn again(&mut self, published: &Published, peers: &Peers, now: Instant) {
        self.position = published.position.clone();
        self.generation.clone_from(&published.generation.name);
        self.not_before = Some(now + LEASE);
        for Other { standing, .. } in self.others.values_mut() {
            // Who has applied it has applied it, wherever it read it.
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

    /// `doubt_until`: when the link is sure of the log again, if it has seen it lose something.
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
                // It was in the log before this one, and may not know that there is another.
                // By the time that this counts, any lease that it believes in has run out.
                None => match peers.0.get(gateway) {
                    Some(peer) if peer.validates => Standing::Lapsed { serves: false },
                    Some(_) => Standing::Awaited,
                    None => Standing::Gone,
                },
            };
        }
        // A log that was begun a moment ago does not know yet who holds a lease of the one
        // before.
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

    /// Writes what is known into a receipt; `is_over` is what [`Waiting::observe`] said last.
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

/// How long a purge waits for the others if nobody says so.
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
        // `d` came later, with nothing in its cache, and `e` has left.
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
        // It is back, and has applied it before it has a lease.
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
        // Nobody says anything of `a`: it may believe in its lease, or serve without one.
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
        // Nobody has heard of it for long.
        assert_eq!(later(Duration::from_secs(10), &mut peers), Progress::Over);
        assert!(peers.0.is_empty());
    }

    #[test]
    fn who_was_there_before_the_log_was_lost_is_waited_for_and_named() {
        let clock = Clock::test();
        let mut peers = Peers::default();
        let both = [serving("a"), lease("b", 2000, 8), lease("me", 9, 8)];
        peers.see("me", "before", &both, clock.now());
        // `b` is in the new one; nobody has said anything of `a`.
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
        // Who leaves the log that it is in is not waited for.
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
