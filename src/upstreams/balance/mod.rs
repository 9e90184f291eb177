//! Which backend gets a request: five ways over one list of members.
//!
//! A balancer only orders; who may be chosen at all (in rotation, not full, not tried
//! yet) is the caller's `admits`. Nothing here locks or allocates per request.

mod hash;
mod least_conn;
mod p2c;
mod round_robin;
mod sticky;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use pingora::http::RequestHeader;

pub(super) use self::{
    hash::{HashKey, Ring, hash64},
    round_robin::Sequence,
    sticky::Sticky,
};
use super::{backend::Backend, live::Cursor};

/// How an upstream spreads its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Balance {
    /// Smooth weighted rotation.
    RoundRobin,
    /// The fewest requests under way per weight; ties rotate.
    LeastConn,
    /// The better of two drawn at random, by requests under way × latency.
    P2c,
    /// The same key goes to the same backend.
    Hash(HashKey),
}

/// The members of an upstream at one moment, with what the balancers precompute.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) list: Box<[Arc<Backend>]>,
    sequence: Sequence,
    /// Without points where the balance does not hash.
    ring: Ring,
}

/// What a choice goes by.
pub(super) struct Choice<'a> {
    pub(super) head: &'a RequestHeader,
    pub(super) client: IpAddr,
    /// Nanoseconds of the upstream's epoch.
    pub(super) now: u64,
}

impl Balance {
    /// The names for configuration and messages.
    pub(super) const NAMES: [&'static str; 4] = ["round_robin", "least_conn", "p2c", "hash:<key>"];

    pub(super) fn name(&self) -> String {
        match self {
            Self::RoundRobin => "round_robin".to_owned(),
            Self::LeastConn => "least_conn".to_owned(),
            Self::P2c => "p2c".to_owned(),
            Self::Hash(key) => format!("hash:{key}"),
        }
    }
}

impl Members {
    pub(super) fn new(list: Vec<Arc<Backend>>, balance: &Balance) -> Self {
        let weights: Vec<u16> = list.iter().map(|backend| backend.weight).collect();
        let hashed: &[Arc<Backend>] = match balance {
            Balance::Hash(_) => &list,
            Balance::RoundRobin | Balance::LeastConn | Balance::P2c => &[],
        };
        let ring = Ring::new(hashed.iter().map(|b| (&**b.address(), b.weight)));
        Self {
            sequence: Sequence::new(&weights),
            ring,
            list: list.into_boxed_slice(),
        }
    }

    /// One that `admits` lets pass, or `None` if there is none.
    pub(super) fn choose(
        &self,
        balance: &Balance,
        cursor: &Cursor,
        choice: &Choice<'_>,
        admits: impl Fn(&Backend) -> bool,
    ) -> Option<&Arc<Backend>> {
        let index = match balance {
            Balance::RoundRobin => round_robin::choose(self, cursor, admits),
            Balance::LeastConn => least_conn::choose(self, cursor, admits),
            Balance::P2c => p2c::choose(self, cursor, choice.now, admits),
            Balance::Hash(key) => {
                let key = key.hash(choice.head, choice.client);
                self.ring.choose(&self.list, key, admits)
            }
        }?;
        self.list.get(index)
    }

    /// The next in rotation that passes, and its place. Who is passed over gives its turn
    /// to the one after it in the rotation, and the rotation goes on from there: so the
    /// rest share evenly, and no neighbour gets double. Also gives the turn.
    fn rotate(&self, cursor: &Cursor, admits: impl Fn(&Backend) -> bool) -> Option<(usize, usize)> {
        let draws = self.sequence.len().min(4 * self.list.len());
        for _ in 0..draws {
            let turn = cursor.draw();
            let index = self.sequence.at(turn);
            if admits(self.list.get(index)?) {
                return Some((index, turn));
            }
        }
        // Only when weights differ much, or others draw at the same time.
        let index = self.list.iter().position(|backend| admits(backend))?;
        Some((index, 0))
    }
}
