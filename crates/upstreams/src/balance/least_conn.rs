//! Balancing by the fewest requests in flight per weight. A slow backend keeps its requests longer
//! and so gets fewer.

use std::sync::atomic::Ordering;

use super::Members;
use crate::{backend::Backend, upstream_zone::Cursor};

/// Chooses a backend. The rotation proposes one. Another is taken if it is idle and the proposed
/// one is not, or if it has at least two requests fewer in flight: a difference of one only shows
/// which of two equal backends happened to respond first, and following it would give most requests
/// to the backend that got the CPU.
///
/// A backend that was passed over is owed a turn, and gets it once it has as few requests as the
/// others. So a backend that stalls for a moment is spared, and catches up after; a backend that
/// stays slow is never as free as the others and is left behind.
pub(super) fn choose(
    members: &Members,
    cursor: &Cursor,
    admits: impl Fn(&Backend) -> bool,
) -> Option<usize> {
    let (proposed, turn) = members.rotate(cursor, &admits)?;
    let proposed_load = Load::measure(&members.list[proposed]);
    if proposed_load.in_flight == 0 {
        return Some(proposed);
    }
    // The start of the search moves with each rotation, so that of several equally idle backends a
    // different one is found first each time.
    let count = members.list.len();
    let start = turn / members.sequence.len().max(1);
    let others = || (0..count).map(|step| (start + step) % count);

    let mut least = proposed_load;
    for index in others() {
        let backend = &members.list[index];
        let load = Load::measure(backend);
        if load.is_less_than(least) && admits(backend) {
            least = load;
        }
    }
    let mut best = proposed_load.ties_with(least).then_some(proposed);
    let mut most_owed = best.map_or(i32::MIN, |index| owed(&members.list[index]));
    for index in others() {
        let backend = &members.list[index];
        if Load::measure(backend).ties_with(least) && owed(backend) > most_owed && admits(backend) {
            best = Some(index);
            most_owed = owed(backend);
        }
    }
    let best = best.unwrap_or(proposed);
    if best != proposed {
        shift(&members.list[best], -1);
        shift(&members.list[proposed], 1);
    }
    Some(best)
}

/// Most turns that a backend can be owed: enough to even out a stall. A backend that stays slow
/// reaches this too, and still gets only the turns in which it is as free as the others. A backend
/// out of rotation is proposed no turns, so it is owed none.
const MAX_OWED: i32 = 64;

fn owed(backend: &Backend) -> i32 {
    backend.state.owed.load(Ordering::Relaxed)
}

fn shift(backend: &Backend, turns: i32) {
    let now = (owed(backend) + turns).clamp(-MAX_OWED, MAX_OWED);
    // Two concurrent updates may lose a turn: the value is a hint, not an exact count.
    backend.state.owed.store(now, Ordering::Relaxed);
}

#[derive(Clone, Copy)]
struct Load {
    in_flight: u32,
    weight: u16,
}

impl Load {
    fn measure(backend: &Backend) -> Self {
        Self {
            in_flight: backend.in_flight(),
            weight: backend.weight,
        }
    }

    /// Returns true if the load equals the least one, give or take one request.
    fn ties_with(self, least: Self) -> bool {
        if least.in_flight == 0 {
            return self.in_flight == 0;
        }
        !least.one_more().is_less_than(self)
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
