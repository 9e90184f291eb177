//! How many pages one upstream renders at once for the cache and for crawlers, so that
//! people never wait for either.
//!
//! Work at the origin is of three kinds, and each holds a [`Permit`] while it lasts:
//!
//! - a *revalidation* in the background, which nobody waits for. It starts at once or not
//!   at all: the stale answer goes on being served, and a later request tries again.
//! - a *miss of a crawler*. It waits in a queue that is bounded in length and time, first
//!   come, first served, and is refused then.
//! - a *miss of a person*. It always starts at once, and counts.
//!
//! With a budget of `renders`, of which crawlers have half (at least one):
//!
//! - revalidations and crawlers' misses together are never more than `renders`;
//! - what crawlers cause of it, their misses and the revalidations of what they asked for,
//!   is never more than half, so that people's revalidations find places;
//! - nothing that crawlers cause starts while people's misses and all the rest fill the
//!   budget.
//!
//! No lock is taken for what the store answers.

mod counts;
mod crawlers;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

pub use counts::Counts;
pub use crawlers::{Crawlers, DEFAULT_CRAWLERS};

use crate::{
    base::{clock::Clock, metrics::Metrics},
    zones::Zone,
};
use counts::BudgetMetrics;

/// On whose behalf something is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Person,
    Crawler,
}

/// How much may be rendered, and how much may wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At least 1.
    pub renders: u32,
    /// How many crawlers' misses may wait.
    pub queue: u32,
    /// For how long each.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            renders: 4,
            queue: 64,
            wait: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// The share of crawlers.
    fn crawling(self) -> u32 {
        (self.renders / 2).max(1)
    }
}

/// A crawler's miss that was not let through: 503, with this `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Whole seconds, at least one.
    pub retry_after: Duration,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Full,
    Late,
}

impl Busy {
    /// The word for log, metric and status page.
    pub fn reason(self) -> &'static str {
        match self.why {
            Why::Full => "render_queue_full",
            Why::Late => "render_queue_timeout",
        }
    }
}

/// The budget of one upstream. It outlives a reload: what is under way then still counts.
#[derive(Debug)]
pub struct Budget {
    clock: Clock,
    metrics: BudgetMetrics,
    inner: Mutex<Inner>,
}

impl Zone for Budget {}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    /// Under way: people's misses, revalidations for people, and whatever crawlers cause.
    people: u32,
    revalidating: u32,
    crawling: u32,
    waiting: VecDeque<Waiter>,
    next_waiter: u64,
    /// How long a place of crawlers is held, as it has been of late.
    held: Duration,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    place: oneshot::Sender<Permit>,
}

/// A place at the origin, given back when this is dropped: once the whole answer is there.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    kind: Kind,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Person,
    Revalidation,
    Crawl,
}

impl Permit {
    /// Whether it is for a miss of a person.
    pub fn is_persons(&self) -> bool {
        self.kind == Kind::Person
    }
}

impl Budget {
    pub fn new(upstream: &str, limits: Limits, clock: Clock, metrics: &Metrics) -> Self {
        Self {
            clock,
            metrics: BudgetMetrics::new(metrics, upstream),
            inner: Mutex::new(Inner {
                limits,
                people: 0,
                revalidating: 0,
                crawling: 0,
                waiting: VecDeque::new(),
                next_waiter: 0,
                held: Duration::ZERO,
            }),
        }
    }

    /// What a configuration says from now on. What is under way beyond it ends in its time.
    pub fn set(self: &Arc<Self>, limits: Limits) {
        self.inner.lock().limits = limits;
        self.admit();
    }

    /// A place for a miss of a person.
    pub fn person(self: &Arc<Self>) -> Permit {
        self.inner.lock().people += 1;
        self.permit(Kind::Person)
    }

    /// A place for a revalidation in the background; `None` if there is none now.
    pub fn revalidate(self: &Arc<Self>, by: By) -> Option<Permit> {
        let mut inner = self.inner.lock();
        let kind = match by {
            By::Person if inner.has_place() => {
                inner.revalidating += 1;
                Some(Kind::Revalidation)
            }
            // Those who wait were there before.
            By::Crawler if inner.may_crawl() && inner.waiting.is_empty() => {
                inner.crawling += 1;
                Some(Kind::Crawl)
            }
            By::Person | By::Crawler => None,
        };
        drop(inner);
        if kind.is_none() {
            self.metrics.skipped.inc();
        }
        kind.map(|kind| self.permit(kind))
    }

    /// A place for a miss of a crawler, or no place. Dropping the future leaves the queue.
    pub async fn crawl(self: &Arc<Self>) -> Result<Permit, Busy> {
        let (number, place, wait) = {
            let mut inner = self.inner.lock();
            if inner.waiting.is_empty() && inner.may_crawl() {
                inner.crawling += 1;
                drop(inner);
                return Ok(self.permit(Kind::Crawl));
            }
            if inner.waiting.len() >= inner.limits.queue as usize {
                let busy = inner.busy(Why::Full);
                drop(inner);
                self.metrics.full.inc();
                return Err(busy);
            }
            let (sender, place) = oneshot::channel();
            let number = inner.next_waiter;
            inner.next_waiter += 1;
            inner.waiting.push_back(Waiter {
                number,
                place: sender,
            });
            (number, place, inner.limits.wait)
        };
        self.metrics.waiting.inc();
        let in_queue = InQueue {
            budget: self,
            number,
        };
        let came = timeout(wait, place).await;
        drop(in_queue);
        if let Ok(Ok(permit)) = came {
            return Ok(permit);
        }
        self.metrics.late.inc();
        Err(self.inner.lock().busy(Why::Late))
    }

    /// What is under way and what waits now.
    pub fn counts(&self) -> Counts {
        let inner = self.inner.lock();
        Counts {
            renders: inner.limits.renders,
            people: inner.people,
            revalidating: inner.revalidating,
            crawling: inner.crawling,
            waiting: inner.waiting.len(),
        }
    }

    fn permit(self: &Arc<Self>, kind: Kind) -> Permit {
        self.metrics.of(kind).inc();
        Permit {
            budget: Arc::clone(self),
            kind,
            since: self.clock.now(),
        }
    }

    /// Gives places to those who wait, in their order.
    fn admit(self: &Arc<Self>) {
        loop {
            let mut inner = self.inner.lock();
            if !inner.may_crawl() {
                return;
            }
            let Some(waiter) = inner.waiting.pop_front() else {
                return;
            };
            inner.crawling += 1;
            // Whoever has left meanwhile gives the place back, which takes the lock.
            drop(inner);
            drop(waiter.place.send(self.permit(Kind::Crawl)));
        }
    }
}

impl Inner {
    /// Whether one more may be rendered that no person waits for.
    fn has_place(&self) -> bool {
        self.revalidating + self.crawling < self.limits.renders
    }

    fn may_crawl(&self) -> bool {
        self.crawling < self.limits.crawling()
            && self.people + self.revalidating + self.crawling < self.limits.renders
    }

    /// When the queue as it is will be through.
    fn busy(&self, why: Why) -> Busy {
        const LONGEST: u64 = 120;
        let ahead = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let rounds = ahead / self.limits.crawling() + 1;
        let span = self.held.saturating_mul(rounds);
        let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
        Busy {
            retry_after: Duration::from_secs(seconds.clamp(1, LONGEST)),
            why,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let budget = &self.budget;
        budget.metrics.of(self.kind).dec();
        let held = budget.clock.now().saturating_duration_since(self.since);
        let mut inner = budget.inner.lock();
        match self.kind {
            Kind::Person => inner.people -= 1,
            Kind::Revalidation => inner.revalidating -= 1,
            Kind::Crawl => {
                inner.crawling -= 1;
                inner.held = (inner.held * 7 + held) / 8;
            }
        }
        let somebody_waits = !inner.waiting.is_empty();
        drop(inner);
        if somebody_waits {
            budget.admit();
        }
    }
}

/// One who waits; leaves the queue however the waiting ends.
struct InQueue<'a> {
    budget: &'a Budget,
    number: u64,
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.budget.metrics.waiting.dec();
        let mut inner = self.budget.inner.lock();
        // Numbers grow along the queue.
        let found = inner
            .waiting
            .binary_search_by_key(&self.number, |waiter| waiter.number);
        if let Ok(at) = found {
            inner.waiting.remove(at);
        }
    }
}

#[cfg(test)]
mod tests;
