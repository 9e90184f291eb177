//! The fewest requests under way, per weight. A slow backend keeps its requests longer
//! and so gets fewer.

use super::Members;
use crate::upstreams::{backend::Backend, live::Cursor};

/// The rotation proposes one; another is taken only if it has strictly less to do. So
/// ties rotate by weight, and equal backends share evenly even when none is busy.
pub(super) fn choose(
    members: &Members,
    cursor: &Cursor,
    admits: impl Fn(&Backend) -> bool,
) -> Option<usize> {
    let (proposed, turn) = members.rotate(cursor, &admits)?;
    let mut best = proposed;
    let mut least = Load::of(&members.list[proposed]);
    if least.in_flight == 0 {
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
    Some(best)
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

    fn is_less_than(self, other: Self) -> bool {
        // a/b < c/d without division.
        u64::from(self.in_flight) * u64::from(other.weight)
            < u64::from(other.in_flight) * u64::from(self.weight)
    }
}
