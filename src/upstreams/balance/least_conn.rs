//! The fewest requests under way, per weight. A slow backend keeps its requests longer
//! and so gets fewer.

use super::Members;
use crate::upstreams::{backend::Backend, live::Cursor};

/// The rotation proposes one; another is taken only if it is idle, or has at least two
/// requests less to do. A difference of one says which of two equals happened to answer
/// first, and following it would give most requests to whoever got the processor: so
/// equal backends share evenly, busy or not, and a slow one is still left behind.
pub(super) fn choose(
    members: &Members,
    cursor: &Cursor,
    admits: impl Fn(&Backend) -> bool,
) -> Option<usize> {
    let (proposed, turn) = members.rotate(cursor, &admits)?;
    let own = Load::of(&members.list[proposed]);
    let (mut best, mut least) = (proposed, own);
    if own.in_flight == 0 {
        return Some(best);
    }
    // Where the look round the others starts moves with each rotation, so that of several
    // that are equally idle not always the same one is found first.
    let count = members.list.len();
    let start = turn / members.sequence.len().max(1);
    for step in 0..count {
        let index = (start + step) % count;
        let backend = &members.list[index];
        let load = Load::of(backend);
        if load.is_less_than(least) && admits(backend) {
            best = index;
            least = load;
        }
    }
    let is_worth_it = least.in_flight == 0 || least.one_more().is_less_than(own);
    Some(if is_worth_it { best } else { proposed })
}

#[derive(Clone, Copy)]
struct Load {
    in_flight: u32,
    weight: u16,
}

impl Load {
    fn of(backend: &Backend) -> Self {
        Self {
            in_flight: backend.in_flight(),
            weight: backend.weight,
        }
    }

    fn one_more(self) -> Self {
        Self {
            in_flight: self.in_flight + 1,
            ..self
        }
    }

    fn is_less_than(self, other: Self) -> bool {
        // a/b < c/d without division.
        u64::from(self.in_flight) * u64::from(other.weight)
            < u64::from(other.in_flight) * u64::from(self.weight)
    }
}
