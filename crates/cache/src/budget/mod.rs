//! Limit on the pages that one upstream renders at once for the cache and for crawlers, so that
//! people never wait for either.
//!
//! There are three kinds of work at the origin. Each holds a [`RenderPermit`] while it lasts:
//!
//! - A *revalidation* in the background, which no client waits for. It starts at once or not at
//!   all: the stale response stays in use, and a later request tries again.
//! - A *miss of a crawler*. It waits in a queue that is bounded in length and time and served in
//!   order of arrival. After that it is refused.
//! - A *miss of a person*. It always starts at once, and counts.
//!
//! With a budget of `renders`, half of which (at least one) is for crawlers:
//!
//! - Revalidations and crawlers' misses together never exceed `renders`.
//! - The work that crawlers cause, their misses and the revalidations of what they request, never
//!   exceeds half of it, so that revalidations for people find permits.
//! - No work that crawlers cause starts while people's misses and all other work fill the budget.
//!
//! Requests served from the store take no lock.

mod counts;
mod crawlers;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use smart_default::SmartDefault;
use tokio::{sync::oneshot, time::timeout};

pub use counts::BudgetCounts;
pub use crawlers::Crawlers;

use crate::{
    base::{clock::Clock, metrics::Metrics},
    zones::Zone,
};
use counts::BudgetMetrics;

/// The kind of client that something is rendered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    Person,
    Crawler,
}

/// Limits on renders in flight and on the queue for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, SmartDefault)]
pub struct RenderLimits {
    /// Renders in flight at once; at least 1.
    #[default(4)]
    pub renders: u32,
    /// Maximum of crawlers' misses in the queue.
    #[default(64)]
    pub queue: u32,
    /// Maximum wait of each of them.
    #[default(Duration::from_secs(5))]
    pub wait: Duration,
}

impl RenderLimits {
    /// Returns the share of crawlers.
    fn crawling(self) -> u32 {
        (self.renders / 2).max(1)
    }
}

/// Refusal of a crawler's miss: status 503 with this `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderQueueFull {
    /// Time until a retry: whole seconds, at least one.
    pub retry_after: Duration,
    why: QueueRefusal,
}

edgeway_base::enum_table! {
    /// Reason for log, metric and status page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum QueueRefusal => reason {
        Full = "render_queue_full",
        Late = "render_queue_timeout",
    }
}

impl RenderQueueFull {
    /// Returns the reason for log, metric and status page.
    pub fn reason(self) -> &'static str {
        self.why.reason()
    }
}

/// The budget of one upstream. It outlives a reload: renders in flight then still count.
#[derive(Debug)]
pub struct RenderBudget {
    clock: Clock,
    metrics: BudgetMetrics,
    inner: Mutex<BudgetState>,
}

impl Zone for RenderBudget {}

#[derive(Debug, Default)]
struct BudgetState {
    limits: RenderLimits,
    /// Counts of work in flight: people's misses, revalidations for people, and all work that
    /// crawlers cause.
    people: u32,
    revalidating: u32,
    crawling: u32,
    waiting: VecDeque<Waiter>,
    next_waiter: u64,
    /// Moving average of how long crawlers hold a permit.
    held: Duration,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    place: oneshot::Sender<RenderPermit>,
}

/// Permit for one render at the origin, returned on drop: once the whole response has arrived.
#[derive(Debug)]
pub struct RenderPermit {
    budget: Arc<RenderBudget>,
    kind: RenderKind,
    since: Instant,
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum RenderKind => label {
        Person = "person",
        Revalidation = "revalidation",
        Crawl = "crawler",
    }
}

impl RenderPermit {
    /// Returns true if the permit is for a miss of a person.
    pub fn is_persons(&self) -> bool {
        self.kind == RenderKind::Person
    }
}

impl RenderBudget {
    pub fn new(upstream: &str, limits: RenderLimits, clock: Clock, metrics: &Metrics) -> Self {
        Self {
            clock,
            metrics: BudgetMetrics::new(metrics, upstream),
            inner: Mutex::new(BudgetState {
                limits,
                ..BudgetState::default()
            }),
        }
    }

    /// Sets the limits of a new configuration. Work in flight beyond them runs to its end.
    pub fn set(self: &Arc<Self>, limits: RenderLimits) {
        self.inner.lock().limits = limits;
        self.admit();
    }

    /// Returns a permit for a miss of a person.
    pub fn person(self: &Arc<Self>) -> RenderPermit {
        self.inner.lock().people += 1;
        self.permit(RenderKind::Person)
    }

    /// Returns a permit for a revalidation in the background; `None` if none is free.
    pub fn revalidate(self: &Arc<Self>, by: ClientKind) -> Option<RenderPermit> {
        let mut inner = self.inner.lock();
        let kind = match by {
            ClientKind::Person if inner.has_place() => {
                inner.revalidating += 1;
                Some(RenderKind::Revalidation)
            }
            // Those in the queue came first.
            ClientKind::Crawler if inner.may_crawl() && inner.waiting.is_empty() => {
                inner.crawling += 1;
                Some(RenderKind::Crawl)
            }
            ClientKind::Person | ClientKind::Crawler => None,
        };
        drop(inner);
        if kind.is_none() {
            self.metrics.skipped.inc();
        }
        kind.map(|kind| self.permit(kind))
    }

    /// Waits for a permit for a miss of a crawler. Dropping the future leaves the queue.
    pub async fn crawl(self: &Arc<Self>) -> Result<RenderPermit, RenderQueueFull> {
        let (number, place, wait) = {
            let mut inner = self.inner.lock();
            if inner.waiting.is_empty() && inner.may_crawl() {
                inner.crawling += 1;
                drop(inner);
                return Ok(self.permit(RenderKind::Crawl));
            }
            if inner.waiting.len() >= inner.limits.queue as usize {
                let busy = inner.busy(QueueRefusal::Full);
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
        let in_queue = QueuePlace {
            budget: self,
            number,
        };
        let came = timeout(wait, place).await;
        drop(in_queue);
        if let Ok(Ok(permit)) = came {
            return Ok(permit);
        }
        self.metrics.timed_out.inc();
        Err(self.inner.lock().busy(QueueRefusal::Late))
    }

    /// Returns the number of renders in flight and of waiting misses.
    pub fn counts(&self) -> BudgetCounts {
        let inner = self.inner.lock();
        BudgetCounts {
            renders: inner.limits.renders,
            people: inner.people,
            revalidating: inner.revalidating,
            crawling: inner.crawling,
            waiting: inner.waiting.len(),
        }
    }

    fn permit(self: &Arc<Self>, kind: RenderKind) -> RenderPermit {
        self.metrics.in_flight[kind].inc();
        RenderPermit {
            budget: Arc::clone(self),
            kind,
            since: self.clock.now(),
        }
    }

    /// Gives permits to waiting misses, in their order.
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
            // A waiter that has left drops the permit, which takes the lock.
            drop(inner);
            drop(waiter.place.send(self.permit(RenderKind::Crawl)));
        }
    }
}

impl BudgetState {
    /// Returns true if one more render that no person waits for may start.
    fn has_place(&self) -> bool {
        self.revalidating + self.crawling < self.limits.renders
    }

    fn may_crawl(&self) -> bool {
        self.crawling < self.limits.crawling()
            && self.people + self.revalidating + self.crawling < self.limits.renders
    }

    /// Builds a refusal that estimates when the present queue will be empty.
    fn busy(&self, why: QueueRefusal) -> RenderQueueFull {
        const MAX_RETRY_AFTER: u64 = 120;
        let ahead = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let rounds = ahead / self.limits.crawling() + 1;
        let span = self.held.saturating_mul(rounds);
        let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
        RenderQueueFull {
            retry_after: Duration::from_secs(seconds.clamp(1, MAX_RETRY_AFTER)),
            why,
        }
    }
}

impl Drop for RenderPermit {
    fn drop(&mut self) {
        let budget = &self.budget;
        budget.metrics.in_flight[self.kind].dec();
        let held = budget.clock.now().saturating_duration_since(self.since);
        let mut inner = budget.inner.lock();
        match self.kind {
            RenderKind::Person => inner.people -= 1,
            RenderKind::Revalidation => inner.revalidating -= 1,
            RenderKind::Crawl => {
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

/// A place in the queue, given up on drop.
struct QueuePlace<'a> {
    budget: &'a RenderBudget,
    number: u64,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.budget.metrics.waiting.dec();
        let mut inner = self.budget.inner.lock();
        // Numbers grow along the queue.
        let position = inner
            .waiting
            .binary_search_by_key(&self.number, |waiter| waiter.number);
        if let Ok(index) = position {
            inner.waiting.remove(index);
        }
    }
}

#[cfg(test)]
mod tests;
