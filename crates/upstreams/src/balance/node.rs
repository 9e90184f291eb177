//! Balancing by the load that the apps report, on top of the fewest requests in flight.
//!
//! Reports come ten times a second and arrive with responses, so they cannot replace the count of
//! requests in flight, which is exact at any moment. They decide how often a backend may be chosen
//! at all; among those that may, `least_conn` chooses. Without reports this is `least_conn`.

use super::{Members, least_conn};
use crate::{backend::Backend, upstream_zone::Cursor};

/// Chooses a backend. Each is a candidate with the probability of its share to the largest share
/// of all: so if all are equally busy, all are candidates, and one always is.
pub(super) fn choose(
    members: &Members,
    cursor: &Cursor,
    now: u64,
    admits: impl Fn(&Backend) -> bool,
) -> Option<usize> {
    // Streams may be silent.
    let share = |Backend { state, .. }: &Backend| state.node.share(state.requests() > 0, now);
    let admitted = members.list.iter().filter(|backend| admits(backend));
    let largest = admitted.map(|backend| share(backend)).max()?;
    // Drawn once for all: a backend that the search meets twice gets no second chance.
    let least = fastrand::u32(..largest.max(1));
    least_conn::choose(members, cursor, |backend| {
        admits(backend) && share(backend) > least
    })
}
