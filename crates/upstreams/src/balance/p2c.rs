//! Power of two choices: of two backends drawn at random, the one that should respond sooner, by
//! requests in flight × recent time to first byte, per weight.

use super::Members;
use crate::{backend::Backend, upstream_zone::Cursor};

pub(super) fn choose(
    members: &Members,
    cursor: &Cursor,
    now: u64,
    admits: impl Fn(&Backend) -> bool,
) -> Option<usize> {
    let (first, _) = match draw(members, &admits) {
        Some(index) => (index, 0),
        None => members.rotate(cursor, &admits)?,
    };
    let is_other = |backend: &Backend| backend.id() != members.list[first].id();
    let second = match members.list.len() {
        // With two members the other one need not be drawn.
        2 => Some(1 - first).filter(|index| admits(&members.list[*index])),
        _ => draw(members, |backend: &Backend| {
            is_other(backend) && admits(backend)
        }),
    };
    Some(second.map_or(first, |second| better_of(members, now, first, second)))
}

/// Draws an accepted backend at random, by weight. After a few attempts the caller rotates instead.
fn draw(members: &Members, admits: impl Fn(&Backend) -> bool) -> Option<usize> {
    (0..4)
        .map(|_| members.sequence.at(fastrand::usize(..)))
        .find(|index| members.list.get(*index).is_some_and(|b| admits(b)))
}

/// Returns the one with the lower cost; `first`, drawn by weight, on a tie.
fn better_of(members: &Members, now: u64, first: usize, second: usize) -> usize {
    let (a, b) = (&members.list[first], &members.list[second]);
    let (a_nanos, b_nanos) = (a.state.latency.nanos(now), b.state.latency.nanos(now));
    // If the latency of one is unknown, it counts as equal to the other's, so that requests in
    // flight decide.
    let known = a_nanos.or(b_nanos).unwrap_or(0);
    let is_second = cost(b, b_nanos.unwrap_or(known)) < cost(a, a_nanos.unwrap_or(known));
    if is_second { second } else { first }
}

fn cost(backend: &Backend, nanos: u64) -> u128 {
    // So that noise among quick responses does not decide.
    const FLOOR: u128 = 1_000_000;
    // Scaled up before the weight divides, so that rounding does not make costs equal.
    (u128::from(backend.in_flight()) + 1) * (u128::from(nanos) + FLOOR) * 65_536
        / u128::from(backend.weight)
}
