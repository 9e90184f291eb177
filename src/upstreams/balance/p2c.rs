//! Two drawn at random, and of these the one that should answer sooner: requests under
//! way × recent first-byte time, per weight.

use super::Members;
use crate::upstreams::{backend::Backend, live::Cursor};

pub(super) fn choose(
    members: &Members,
    cursor: &Cursor,
    now: u64,
    admits: impl Fn(&Backend) -> bool,
) -> Option<usize> {
    let count = members.list.len();
    if count < 3 {
        return better_of(
            members,
            now,
            members.rotate(cursor, &admits)?,
            (0..count).rev().find(|index| admits(&members.list[*index]))?,
            (0..count).find(|index| admits(&members.list[*index]))?,
        );
    }
    let first = draw(members, &admits).or_else(|| members.rotate(cursor, &admits))?;
    let second = draw(members, |backend: &Backend| {
        backend.id() != members.list[first].id() && admits(backend)
    });
    better_of(members, now, first, first, second.unwrap_or(first))
}

/// One at random, by weight, that passes. A few attempts: who finds none rotates.
fn draw(members: &Members, admits: impl Fn(&Backend) -> bool) -> Option<usize> {
    (0..4)
        .map(|_| members.sequence.at(fastrand::usize(..)))
        .find(|index| members.list.get(*index).is_some_and(|b| admits(b)))
}

/// The one with the lower cost; `tie` if neither is.
fn better_of(
    members: &Members,
    now: u64,
    tie: usize,
    first: usize,
    second: usize,
) -> Option<usize> {
    let (a, b) = (members.list.get(first)?, members.list.get(second)?);
    let (a_nanos, b_nanos) = (a.state.latency.nanos(now), b.state.latency.nanos(now));
    // Nothing known of one: it is taken to be as quick as the other, so that requests
    // under way decide. A millisecond more for both, so that noise among quick answers
    // does not.
    let known = a_nanos.or(b_nanos).unwrap_or(0);
    let a_cost = cost(a, a_nanos.unwrap_or(known));
    let b_cost = cost(b, b_nanos.unwrap_or(known));
    Some(match a_cost.cmp(&b_cost) {
        std::cmp::Ordering::Less => first,
        std::cmp::Ordering::Greater => second,
        std::cmp::Ordering::Equal => tie,
    })
}

fn cost(backend: &Backend, nanos: u64) -> u128 {
    const FLOOR: u128 = 1_000_000;
    // Scaled up before the weight divides, so that it does not round costs to equal.
    (u128::from(backend.in_flight()) + 1) * (u128::from(nanos) + FLOOR) * 65_536
        / u128::from(backend.weight)
}
