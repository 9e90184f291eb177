//! Tests of who gets a permit, waits or is refused; and of a crawl in simulated time.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::{
    task::{JoinSet, LocalSet, yield_now},
    time::{Instant as Tick, sleep},
};

use super::*;

fn budget(renders: u32, queue: u32) -> Arc<RenderBudget> {
    let limits = RenderLimits {
        renders,
        queue,
        wait: Duration::from_secs(5),
    };
    let budget = RenderBudget::new("web", limits, Clock::test(), &Metrics::default());
    Arc::new(budget)
}

#[test]
fn revalidations_start_at_once_or_not_at_all() {
    let budget = budget(4, 8);
    let people: Vec<_> = (0..6)
        .map(|_| budget.revalidate(ClientKind::Person))
        .collect();
    assert_eq!(people.iter().flatten().count(), 4);
    assert!(budget.revalidate(ClientKind::Crawler).is_none());
    drop(people);
    // Crawlers have half of the budget, and people find the rest.
    let crawlers: Vec<_> = (0..6)
        .map(|_| budget.revalidate(ClientKind::Crawler))
        .collect();
    assert_eq!(crawlers.iter().flatten().count(), 2);
    let people: Vec<_> = (0..6)
        .map(|_| budget.revalidate(ClientKind::Person))
        .collect();
    assert_eq!(people.iter().flatten().count(), 2);
    assert_eq!(budget.metrics.skipped.get(), 2 + 1 + 4 + 4);
}

#[test]
fn one_permit_is_enough_for_all_in_turn() {
    let budget = budget(1, 8);
    let crawler = budget.revalidate(ClientKind::Crawler);
    assert!(crawler.is_some() && budget.revalidate(ClientKind::Person).is_none());
    drop(crawler);
    let person = budget.revalidate(ClientKind::Person);
    assert!(person.is_some() && budget.revalidate(ClientKind::Crawler).is_none());
}

#[test]
fn people_never_wait_and_crawlers_get_the_remaining_permits() {
    let budget = budget(4, 8);
    let people: Vec<_> = (0..100).map(|_| budget.person()).collect();
    assert!(budget.revalidate(ClientKind::Crawler).is_none());
    // Stale pages are still revalidated for people.
    assert!(budget.revalidate(ClientKind::Person).is_some());
    drop(people);
    assert!(budget.revalidate(ClientKind::Crawler).is_some());
    let idle = BudgetCounts {
        renders: 4,
        people: 0,
        revalidating: 0,
        crawling: 0,
        waiting: 0,
    };
    assert_eq!(budget.counts(), idle);
}

#[tokio::test(start_paused = true)]
async fn crawlers_wait_in_their_order() {
    let budget = budget(4, 8);
    let first = budget.crawl().await.unwrap();
    let second = budget.crawl().await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks = LocalSet::new();
    for crawler in 0..3 {
        let (budget, order) = (Arc::clone(&budget), Arc::clone(&order));
        tasks.spawn_local(async move {
            let permit = budget.crawl().await.unwrap();
            order.lock().push(crawler);
            sleep(Duration::from_millis(10)).await;
            drop(permit);
        });
    }
    tasks.run_until(yield_now()).await;
    assert_eq!(budget.counts().waiting, 3);
    // No crawler gets ahead of the queue.
    assert!(budget.revalidate(ClientKind::Crawler).is_none());
    drop(first);
    assert!(budget.revalidate(ClientKind::Crawler).is_none());
    tasks.await;
    assert_eq!(*order.lock(), [0, 1, 2]);
    drop(second);
    assert_eq!(budget.counts().crawling, 0);
    assert_eq!(budget.metrics.waiting.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn refusals_of_a_full_or_slow_queue_have_a_retry_after() {
    let budget = budget(2, 1);
    let held = budget.crawl().await.unwrap();
    let waits = async { budget.crawl().await.unwrap_err() };
    let is_full = async {
        yield_now().await;
        budget.crawl().await.unwrap_err()
    };
    let start = Tick::now();
    let (refusal, full) = tokio::join!(waits, is_full);
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_eq!(refusal.reason(), "render_queue_timeout");
    assert_eq!(full.reason(), "render_queue_full");
    assert_eq!(full.retry_after, Duration::from_secs(1));
    assert_eq!(budget.counts().waiting, 0);

    // Renders of 80 s lead to a multiple of their average, but never to an hour.
    budget.clock.advance(Duration::from_secs(80));
    drop(held);
    let held = budget.crawl().await.unwrap();
    let refusal = budget.crawl().await.unwrap_err();
    assert_eq!(refusal.retry_after, Duration::from_secs(10));
    budget.clock.advance(Duration::from_hours(10));
    drop(held);
    let _held = budget.crawl().await.unwrap();
    let refusal = budget.crawl().await.unwrap_err();
    assert_eq!(refusal.retry_after, Duration::from_mins(2));
}

#[tokio::test(start_paused = true)]
async fn a_crawler_that_leaves_takes_no_place() {
    let budget = budget(2, 8);
    let held = budget.crawl().await.unwrap();
    {
        let mut cancelled = Box::pin(budget.crawl());
        let polled = timeout(Duration::from_millis(1), &mut cancelled).await;
        assert!(polled.is_err());
        assert_eq!(budget.counts().waiting, 1);
        // The waiter gets a permit but leaves before it looks.
        drop(held);
        assert_eq!(budget.counts().crawling, 1);
    }
    assert_eq!(budget.counts().crawling, 0);
    let held = budget.crawl().await.unwrap();
    {
        let mut cancelled = Box::pin(budget.crawl());
        assert!(
            timeout(Duration::from_millis(1), &mut cancelled)
                .await
                .is_err()
        );
    }
    assert_eq!(budget.counts().waiting, 0);
    drop(held);
    assert!(budget.crawl().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_reload_with_more_permits_admits_waiters_and_with_fewer_ends_nothing() {
    let budget = budget(2, 8);
    let first = budget.crawl().await.unwrap();
    let more = async {
        yield_now().await;
        budget.set(RenderLimits {
            renders: 8,
            ..RenderLimits::default()
        });
    };
    let (second, ()) = tokio::join!(budget.crawl(), more);
    let second = second.unwrap();
    budget.set(RenderLimits {
        renders: 1,
        ..RenderLimits::default()
    });
    assert_eq!(budget.counts().crawling, 2);
    drop(first);
    assert!(budget.revalidate(ClientKind::Person).is_none());
    drop(second);
    assert!(budget.revalidate(ClientKind::Person).is_some());
}

/// Origin with N cores: more renders at once take longer.
struct Origin {
    cores: u32,
    in_flight: AtomicU32,
    most: AtomicU32,
}

impl Origin {
    const RENDER: Duration = Duration::from_millis(50);

    fn new(cores: u32) -> Arc<Self> {
        Arc::new(Self {
            cores,
            in_flight: AtomicU32::new(0),
            most: AtomicU32::new(0),
        })
    }

    /// Renders in slices; each takes longer the more renders are in flight at that moment.
    async fn render(&self) {
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        for _ in 0..10 {
            let crowd = self.in_flight.load(Ordering::Relaxed).max(self.cores);
            sleep(Self::RENDER / 10 * crowd / self.cores).await;
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the p90 of people's misses, one every 100 ms, while a crawler requests `pages` pages,
/// and the number of refused misses.
async fn people_beside(
    origin: Arc<Origin>,
    budget: Option<Arc<RenderBudget>>,
    pages: u32,
) -> (Duration, u32) {
    let refused = Arc::new(AtomicU32::new(0));
    let mut crowd = JoinSet::new();
    for page in 0..pages {
        let (origin, budget) = (Arc::clone(&origin), budget.clone());
        let refused = Arc::clone(&refused);
        crowd.spawn(async move {
            match budget {
                // Every second page is stale within its window, the others are misses.
                Some(budget) if page % 2 == 0 => {
                    if let Some(_permit) = budget.revalidate(ClientKind::Crawler) {
                        origin.render().await;
                    }
                }
                Some(budget) => match budget.crawl().await {
                    Ok(_permit) => origin.render().await,
                    Err(_) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                },
                None => origin.render().await,
            }
        });
    }
    let mut people = JoinSet::new();
    for _ in 0..50 {
        let (origin, budget) = (Arc::clone(&origin), budget.clone());
        people.spawn(async move {
            let start = Tick::now();
            let _permit = budget.as_ref().map(RenderBudget::person);
            origin.render().await;
            start.elapsed()
        });
        sleep(Duration::from_millis(100)).await;
    }
    let mut took = people.join_all().await;
    while crowd.join_next().await.is_some() {}
    took.sort_unstable();
    (took[took.len() * 9 / 10], refused.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn a_crawler_of_1500_pages_leaves_people_as_they_were() {
    let quiet = people_beside(Origin::new(4), None, 0).await.0;
    let origin = Origin::new(4);
    let budget = budget(4, 64);
    let (beside, refused) = people_beside(Arc::clone(&origin), Some(budget), 1500).await;
    assert!(beside <= quiet.mul_f64(1.2), "{beside:?} after {quiet:?}");
    // The budget is never exceeded, even with the one person.
    let most = origin.most.load(Ordering::Relaxed);
    assert!(most <= 4, "{most} at once");
    assert!(refused >= 1500 / 2 - 2 - 64, "{refused} were refused");

    // The control: without a budget people wait for the crawler.
    let (beside, _) = people_beside(Origin::new(4), None, 1500).await;
    assert!(beside > quiet * 5, "{beside:?} after {quiet:?}");
}
