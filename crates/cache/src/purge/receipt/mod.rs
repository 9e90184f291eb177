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
use serde_with_macros::skip_serializing_none;

use super::{
    Purge,
    log::{Generation, Id, LEASE, Lease, Position, PublishResponse},
};

/// Outcome of a purge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub purges: Vec<Purge>,
    /// The gateway that received the purge.
    pub gateway: String,
    /// Id of the purge in the log; the last one after several attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    pub others: PeerStates,
    /// Gateways that serve no older response, this one first.
    pub applied: Vec<AppliedGateway>,
    /// Gateways whose lease ran out within the last hour: they apply the purge before they have a
    /// lease again. Until then they may serve older responses; with `on_purge_link_lost: revalidate`
    /// only those that they have fetched since.
    pub lapsed: Vec<String>,
    /// Gateways with a lease that did not confirm in time.
    pub pending: Vec<String>,
    /// Instances of the application that were notified first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    pub took_ms: f64,
}

/// State of the purge at the other gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerStates {
    /// Redis is not configured: this gateway knows no other.
    #[default]
    Alone,
    /// All other gateways have applied the purge.
    Reached,
    /// All other gateways with a lease have applied the purge. Others were cut off, since they
    /// crashed or lost Redis, and may serve older responses until they are back.
    Linked,
    /// The other gateways can read the purge, but some have not confirmed, or it is not known yet
    /// which gateways exist.
    Waiting,
    /// Redis is lost: the other gateways do not know the purge. It is sent as soon as Redis is
    /// back.
    Unreached,
}

/// A gateway that has applied a purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedGateway {
    pub gateway: String,
    /// Number of responses that were dropped or marked as stale, if known.
    pub objects: Option<u64>,
}

/// An instance of the application that was notified of a purge.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub address: String,
    /// Status of the response of the instance.
    pub status: Option<u16>,
    /// Reason for a missing response.
    pub error: Option<String>,
}

impl Instance {
    pub fn is_done(&self) -> bool {
        self.status
            .is_some_and(|status| (200..300).contains(&status))
    }
}

edgeway_base::enum_table! {
    /// Reasons why a purge is not over, the most serious first.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Shortfall => word {
        /// The other gateways do not know the purge.
        Unreached = "unreached",
        /// Some gateways have not confirmed the purge.
        Waiting = "waiting",
        /// Every gateway is done, and some instance of the application is not.
        Instances = "instances",
    }
}

impl Shortfall {
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
    /// Returns true if every gateway and every instance is done with the purge, or named as cut off.
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
            PeerStates::Unreached => Some(Shortfall::Unreached),
            PeerStates::Waiting => Some(Shortfall::Waiting),
            PeerStates::Alone | PeerStates::Reached | PeerStates::Linked
                if self.instances.iter().all(Instance::is_done) =>
            {
                None
            }
            PeerStates::Alone | PeerStates::Reached | PeerStates::Linked => {
                Some(Shortfall::Instances)
            }
        }
    }
}

/// State of the other gateways at one time.
#[derive(Clone, Debug)]
pub(super) struct PeerView {
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
    pub(super) position: Position,
    generation: String,
    others: BTreeMap<String, PeerState>,
    /// Until then there may be gateways that rely on leases which the log has lost.
    not_before: Option<Instant>,
}

/// Another gateway with respect to this purge.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PeerState {
    standing: PeerStanding,
    /// Name of the log that the gateway was last seen in. A gateway that is in no later log may
    /// still serve: it does not know of a later one.
    generation: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerStanding {
    Awaited,
    Applied(Option<u64>),
    /// Without a lease: it may serve older responses, and nobody waits for it.
    Lapsed,
    /// The gateway has given up its lease, or was not seen for long.
    Gone,
}

impl PeerStanding {
    fn is_done(self) -> bool {
        match self {
            Self::Awaited => false,
            Self::Applied(_) | Self::Lapsed | Self::Gone => true,
        }
    }
}

/// A gateway that was recently in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) generation: String,
    pub(super) seen: Instant,
}

/// Time for which a gateway is remembered that is in no log any more, as long as the log names one
/// without a lease.
pub(super) const REMEMBERED: Duration = Duration::from_hours(1);

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
    pub(super) fn new(me: &str, published: &PublishResponse, peers: &Peers) -> Self {
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

    /// Records that the purge was published again after the log had lost it.
    pub(super) fn again(&mut self, published: &PublishResponse, peers: &Peers, now: Instant) {
        self.position = published.position.clone();
        self.generation.clone_from(&published.generation.name);
        self.not_before = Some(now + LEASE);
        for PeerState { standing, .. } in self.others.values_mut() {
            // A gateway that has applied it stays done, whatever log it read it from.
            if !matches!(standing, PeerStanding::Applied(_) | PeerStanding::Gone) {
                *standing = PeerStanding::Awaited;
            }
        }
        self.learn(published, peers);
    }

    fn learn(&mut self, published: &PublishResponse, peers: &Peers) {
        let generation = &published.generation.name;
        for lease in &published.leases {
            if lease.gateway != self.me {
                let other = self.others.entry(lease.gateway.clone());
                let other = other.or_insert_with(|| PeerState {
                    standing: standing_of(lease),
                    generation: generation.clone(),
                });
                other.generation.clone_from(generation);
            }
        }
        for (name, peer) in &peers.0 {
            let other = || PeerState {
                standing: PeerStanding::Awaited,
                generation: peer.generation.clone(),
            };
            self.others.entry(name.clone()).or_insert_with(other);
        }
    }

    /// Updates the state. `doubt_until`: end of the doubt about leases, if the link has seen the
    /// log lose something.
    pub(super) fn observe(
        &mut self,
        view: &PeerView,
        peers: &Peers,
        doubt_until: Option<Instant>,
        now: Instant,
    ) -> Progress {
        if view.generation.name != self.generation || !view.is_there {
            return Progress::Lost;
        }
        for (gateway, other) in &mut self.others {
            if matches!(
                other.standing,
                PeerStanding::Applied(_) | PeerStanding::Gone
            ) {
                continue;
            }
            let lease = view.leases.iter().find(|lease| lease.gateway == *gateway);
            if lease.is_some() {
                other.generation.clone_from(&self.generation);
            }
            other.standing = match lease {
                Some(lease) if lease.applied >= self.position.id => {
                    let mut done = lease.done.iter();
                    let report = done.find(|(id, _)| *id == self.position.id);
                    PeerStanding::Applied(report.map(|(_, objects)| *objects))
                }
                Some(lease) => standing_of(lease),
                None if other.generation == self.generation => PeerStanding::Gone,
                // The gateway was in the previous log, and may not know that there is another one.
                // By the time that this counts, any lease that it relies on has run out.
                None if peers.0.contains_key(gateway) => PeerStanding::Lapsed,
                None => PeerStanding::Gone,
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
        let is_cut_off = |other: &PeerState| other.standing == PeerStanding::Lapsed;
        receipt.others = if !is_over {
            PeerStates::Waiting
        } else if self.others.values().any(is_cut_off) {
            PeerStates::Linked
        } else {
            PeerStates::Reached
        };
        for (gateway, other) in &self.others {
            let gateway = gateway.clone();
            match other.standing {
                PeerStanding::Awaited => receipt.pending.push(gateway),
                PeerStanding::Applied(objects) => {
                    receipt.applied.push(AppliedGateway { gateway, objects });
                }
                PeerStanding::Lapsed => receipt.lapsed.push(gateway),
                PeerStanding::Gone => {}
            }
        }
    }
}

fn standing_of(lease: &Lease) -> PeerStanding {
    if lease.left > 0 {
        PeerStanding::Awaited
    } else {
        PeerStanding::Lapsed
    }
}

/// Time that a purge waits for the other gateways by default.
pub(super) const DEFAULT_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
