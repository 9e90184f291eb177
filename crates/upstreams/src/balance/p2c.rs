//! Power of two choices: of two backends drawn at random by weight, the one that should respond
//! sooner, by requests in flight per weight × recent time to first byte.

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
    // So that noise among quick responses does not decide.
    const FLOOR: u64 = 1_000_000;
    let (a, b) = (&members.list[first], &members.list[second]);
    let (a_nanos, b_nanos) = (a.state.latency.nanos(now), b.state.latency.nanos(now));
    // If the latency of one is unknown, it counts as equal to the other's, so that requests in
    // flight decide.
    let known = a_nanos.or(b_nanos).unwrap_or(0);
    let a_nanos = a_nanos.unwrap_or(known).saturating_add(FLOOR);
    let b_nanos = b_nanos.unwrap_or(known).saturating_add(FLOOR);
    // Averages of equal backends differ by this much, and the draw would not count.
    let is_near = a_nanos.abs_diff(b_nanos) <= a_nanos.min(b_nanos) / 4;
    let is_second = cost(b, if is_near { a_nanos } else { b_nanos }) < cost(a, a_nanos);
    if is_second { second } else { first }
}

/// Returns the cost of one more request. Without requests in flight the latency is all of it: the
/// draw has counted the weight.
fn cost(backend: &Backend, nanos: u64) -> u128 {
    // Scaled up before the weight divides, so that rounding does not make costs equal.
    const ONE: u128 = 65_536;
    u128::from(nanos) * (ONE + u128::from(backend.in_flight()) * ONE / u128::from(backend.weight))
}
