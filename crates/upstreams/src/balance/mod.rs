//! Choice of a backend for a request: balancing methods over one list of members.
//!
//! A balancer only orders; the caller's `admits` decides which backends are eligible (in rotation,
//! not full, not tried yet). Nothing here locks or allocates per request.

mod hash;
mod least_conn;
mod node;
mod p2c;
mod round_robin;
mod sticky;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use derive_more::Display;
use pingora::http::RequestHeader;

pub(super) use self::{
    hash::{HashKey, Ring, hash64},
    round_robin::Sequence,
    sticky::Sticky,
};
use super::{backend::Backend, canary::Trial, upstream_zone::Cursor};

/// Balancing method of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Display)]
pub(super) enum Balance {
    /// Smooth weighted rotation.
    #[display("round_robin")]
    RoundRobin,
    /// The fewest requests in flight per weight; ties rotate.
    #[display("least_conn")]
    LeastConn,
    /// The better of two drawn at random, by requests in flight × latency.
    #[display("p2c")]
    P2c,
    /// The fewest requests in flight among the backends whose app is not busy, by its reports.
    #[display("node")]
    Node,
    /// The same key goes to the same backend.
    #[display("hash:{_0}")]
    Hash(HashKey),
}

/// Members of an upstream at one moment, with the data that the balancers precompute.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) list: Box<[Arc<Backend>]>,
    /// True if some of them are backups.
    pub(super) has_backups: bool,
    sequence: Sequence,
    /// Hash ring; empty unless the method hashes.
    ring: Ring,
    /// Release that gets the requests that belong to no other.
    pub(super) current: Option<Arc<str>>,
    /// Release that stands in for it while it is down.
    pub(super) before: Option<Arc<str>>,
    /// Release that a part of the visitors gets in its place.
    pub(super) trial: Option<Arc<Trial>>,
}

/// Input of a choice.
pub(super) struct BalanceInput<'a> {
    pub(super) head: &'a RequestHeader,
    pub(super) client: IpAddr,
    /// Nanoseconds of the upstream's epoch.
    pub(super) now: u64,
}

impl Balance {
    /// Names in configuration and messages.
    pub(super) const NAMES: [&'static str; 5] =
        ["round_robin", "least_conn", "p2c", "node", "hash:<key>"];
}

impl Members {
    pub(super) fn new(
        list: Vec<Arc<Backend>>,
        balance: &Balance,
        current: Option<Arc<str>>,
    ) -> Self {
        let weights: Vec<u16> = list.iter().map(|backend| backend.weight).collect();
        let hashed: &[Arc<Backend>] = match balance {
            Balance::Hash(_) => &list,
            Balance::RoundRobin | Balance::LeastConn | Balance::P2c | Balance::Node => &[],
        };
        let ring = Ring::new(hashed.iter().map(|b| (&**b.address(), b.weight)));
        Self {
            has_backups: list.iter().any(|backend| backend.is_backup),
            sequence: Sequence::new(&weights),
            ring,
            current,
            before: None,
            trial: None,
            list: list.into_boxed_slice(),
        }
    }

    /// Returns a backend that `admits` accepts, or `None` if there is none.
    pub(super) fn choose(
        &self,
        balance: &Balance,
        cursor: &Cursor,
        choice: &BalanceInput<'_>,
        admits: impl Fn(&Backend) -> bool,
    ) -> Option<&Arc<Backend>> {
        let index = match balance {
            Balance::RoundRobin => self.rotate(cursor, admits).map(|(index, _)| index),
            Balance::LeastConn => least_conn::choose(self, cursor, admits),
            Balance::P2c => p2c::choose(self, cursor, choice.now, admits),
            Balance::Node => node::choose(self, cursor, choice.now, admits),
            Balance::Hash(key) => {
                let key = key.hash(choice.head, choice.client);
                self.ring.choose(&self.list, key, admits)
            }
        }?;
        self.list.get(index)
    }

    /// Returns the position of the next accepted backend in rotation, and the turn. A backend that
    /// is passed over gives its turn to the next one, and the rotation goes on from there: so the
    /// rest share evenly, and no neighbour gets double.
    fn rotate(&self, cursor: &Cursor, admits: impl Fn(&Backend) -> bool) -> Option<(usize, usize)> {
        let draws = self.sequence.len().min(4 * self.list.len());
        for _ in 0..draws {
            let turn = cursor.draw();
            let index = self.sequence.at(turn);
            if admits(self.list.get(index)?) {
                return Some((index, turn));
            }
        }
        // Only when weights differ much, or other threads draw at the same time.
        let index = self.list.iter().position(|backend| admits(backend))?;
        Some((index, 0))
    }
}
