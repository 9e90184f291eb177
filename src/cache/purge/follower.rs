//! How far a gateway follows the log, and whether it can vouch for what it keeps: decisions
//! alone, no I/O.
//!
//! The order is what counts. Entries are applied before the gateway says that it has applied
//! them, and a gateway whose lease ran out applies all there is before it holds one again. A
//! gateway whose place is not in the log drops everything it keeps and goes on from the
//! end that the log had before.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use super::log::{Answer, Entry, Follows, Id, Position, Question};
use crate::cache::policy::Lifetime;

/// A gateway counts its lease as lost this much before Redis does: clocks differ in speed.
const MARGIN: Duration = Duration::from_millis(200);
/// Entries for which it is told how much was dropped.
const TOLD: usize = 16;

/// Whether purges may have been passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Every purge that is over is applied here.
    All,
    /// The gateway has had no lease since then: purges since are over without it.
    OnlyAfter(SystemTime),
}

impl Trust {
    /// Whether an answer counts as it would on a machine alone. What was made at its origin
    /// before the link was lost does not: a purge of it may not have come here.
    pub fn covers(self, lifetime: &Lifetime) -> bool {
        match self {
            Self::All => true,
            Self::OnlyAfter(lost) => {
                let made = lifetime.answered.checked_sub(lifetime.initial_age);
                made.is_some_and(|made| made > lost)
            }
        }
    }
}

/// The gateway's own part.
#[derive(Debug, Default)]
pub(super) struct Follower {
    position: Option<Position>,
    /// Invariant: a purge that is over is applied here, or it was over after this.
    held_until: Option<Instant>,
    /// Of the log that was seen last.
    generation: Option<String>,
    /// Newest last.
    done: VecDeque<(Id, u64)>,
}

/// What is to be done after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing; `true` if the lease is held.
    Rest(bool),
    /// Apply these one after the other, each followed by [`Follower::applied`], and ask again.
    Apply(Vec<Entry>),
    /// Drop everything, then [`Follower::forgot`], and ask again.
    Forget(Position),
}

impl Follower {
    /// Goes on from where another process was that kept the same.
    pub(super) fn resume(&mut self, position: Position) {
        self.position = Some(position);
    }

    pub(super) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// It follows another log from now on.
    pub(super) fn release(&mut self, now: Instant) {
        self.held_until = Some(self.held_until.map_or(now, |until| until.min(now)));
        self.generation = None;
    }

    pub(super) fn generation(&self) -> Option<&str> {
        self.generation.as_deref()
    }

    pub(super) fn question(&self, gateway: &str) -> Question {
        Question {
            gateway: gateway.to_owned(),
            position: self.position.clone(),
            done: self.done.clone(),
            ..Question::default()
        }
    }

    /// `sent` is from before the question was sent: the lease lasts from then at least.
    pub(super) fn next(&mut self, sent: Instant, answer: &Answer) -> Step {
        self.generation = Some(answer.generation.name.clone());
        match &answer.follows {
            Follows::Gap(end) => return Step::Forget(end.clone()),
            Follows::Entries(entries) => {
                if let Some(lasts) = answer.leased {
                    let until = sent + lasts.saturating_sub(MARGIN);
                    self.held_until = self.held_until.max(Some(until));
                }
                if !entries.is_empty() {
                    return Step::Apply(entries.clone());
                }
            }
        }
        Step::Rest(answer.leased.is_some())
    }

    /// An entry is applied, and so many objects were dropped for it.
    pub(super) fn applied(&mut self, position: Position, objects: u64) {
        self.done.push_back((position.id, objects));
        if self.done.len() > TOLD {
            self.done.pop_front();
        }
        self.position = Some(position);
    }

    /// Everything that was kept is dropped, after the log's end was this.
    pub(super) fn forgot(&mut self, position: Position) {
        self.done.clear();
        self.position = Some(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::clock::Clock,
        cache::purge::{
            Purge,
            log::{Content, Generation, LEASE},
        },
    };

    fn at(number: u64) -> Position {
        Position {
            id: Id(number, 0),
            drawn: number.to_string(),
        }
    }

    fn entry(number: u64) -> Entry {
        Entry {
            position: at(number),
            content: Content::Purges(vec![Purge::ALL]),
        }
    }

    fn answer(leased: bool, follows: Follows) -> Answer {
        Answer {
            generation: Generation {
                name: "g".to_owned(),
                age: LEASE,
            },
            leased: leased.then_some(LEASE),
            follows,
            leases: None,
            is_there: Vec::new(),
        }
    }

    #[test]
    fn a_new_gateway_forgets_before_it_holds_a_lease() {
        let clock = Clock::test();
        let mut follower = Follower::default();
        assert_eq!(follower.question("a").position, None);
        let step = follower.next(clock.now(), &answer(false, Follows::Gap(at(7))));
        assert_eq!(step, Step::Forget(at(7)));
        assert_eq!(follower.held_until(), None);
        follower.forgot(at(7));
        assert_eq!(follower.question("a").position, Some(at(7)));
        let step = follower.next(clock.now(), &answer(true, Follows::Entries(vec![])));
        assert_eq!(step, Step::Rest(true));
        assert_eq!(
            follower.held_until(),
            Some(clock.now() + (LEASE.saturating_sub(MARGIN)))
        );
    }

    #[test]
    fn it_says_what_it_has_applied_and_nothing_sooner() {
        let clock = Clock::test();
        let mut follower = Follower::default();
        follower.resume(at(1));
        let follows = Follows::Entries(vec![entry(2), entry(3)]);
        let step = follower.next(clock.now(), &answer(false, follows));
        assert_eq!(step, Step::Apply(vec![entry(2), entry(3)]));
        assert_eq!(follower.question("a").position, Some(at(1)));
        follower.applied(at(2), 5);
        assert_eq!(follower.question("a").position, Some(at(2)));
        assert_eq!(follower.question("a").done, [(Id(2, 0), 5)]);
        for number in 3..40 {
            follower.applied(at(number), 0);
        }
        assert_eq!(follower.question("a").done.len(), TOLD);
        assert_eq!(follower.held_until(), None);
    }

    #[test]
    fn an_answer_that_came_late_does_not_shorten_the_lease() {
        let clock = Clock::test();
        let mut follower = Follower::default();
        follower.resume(at(1));
        let early = clock.now();
        clock.advance(Duration::from_secs(1));
        follower.next(clock.now(), &answer(true, Follows::Entries(vec![])));
        let until = follower.held_until();
        follower.next(early, &answer(true, Follows::Entries(vec![])));
        assert_eq!(follower.held_until(), until);
    }

    #[test]
    fn what_was_made_before_the_loss_is_not_covered() {
        let lost = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let lifetime = |answered, age| Lifetime {
            answered: SystemTime::UNIX_EPOCH + Duration::from_secs(answered),
            initial_age: Duration::from_secs(age),
            fresh_for: LEASE,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            always_validate: false,
            must_revalidate: false,
        };
        let trust = Trust::OnlyAfter(lost);
        assert!(!trust.covers(&lifetime(999, 0)));
        assert!(!trust.covers(&lifetime(1000, 0)));
        assert!(trust.covers(&lifetime(1001, 0)));
        // Asked for before the loss, or by way of another cache that had it before.
        assert!(!trust.covers(&lifetime(1001, 2)));
        assert!(!trust.covers(&lifetime(1001, 9_999_999)));
        assert!(Trust::All.covers(&lifetime(1, 9_999_999)));
    }
}
