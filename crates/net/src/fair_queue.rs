//! Fair turns at a scarce resource during a flood: neighbourhoods of clients take turns, and within
//! each its subscribers, however many requests each has.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use edgeway_base::net::{neighbourhood, subscriber};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Requests of one subscriber that may wait; further ones are refused.
pub const SHARE: usize = 8;
/// Subscribers of one neighbourhood that may wait: a /48 contains 65,536 of them.
const MAX_SUBSCRIBERS: usize = 8;
/// Neighbourhoods that may wait.
const MAX_NEIGHBOURHOODS: usize = 1024;

/// The free turns, and the queue of clients that wait for one.
#[derive(Debug)]
pub struct FairQueue(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Turns not in use; always zero while a client waits.
    free: usize,
    waiting: HashMap<IpAddr, PrefixQueue>,
    /// Queue of waiting neighbourhoods, each once, the next one first.
    order: VecDeque<IpAddr>,
}

/// Queue of its waiting subscribers, the next one first. Each line has an entry, whose client may
/// have left.
#[derive(Debug, Default)]
struct PrefixQueue(VecDeque<SubscriberQueue>);

/// Waiting requests of one subscriber, in order of arrival.
#[derive(Debug)]
struct SubscriberQueue {
    subscriber: IpAddr,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// Permission to use the resource once; dropping it passes it on.
#[derive(Debug)]
pub struct Permit(Option<Arc<FairQueue>>);

impl FairQueue {
    pub fn new(free: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free,
            waiting: HashMap::new(),
            order: VecDeque::new(),
        })))
    }

    /// Waits for a turn of this client; returns `None` at once if too many requests of its
    /// subscriber, or of its neighbourhood, already wait.
    pub async fn next(self: &Arc<Self>, client: IpAddr) -> Option<Permit> {
        let waits = {
            let mut state = self.0.lock();
            if state.free > 0 {
                state.free -= 1;
                return Some(Permit(Some(Arc::clone(self))));
            }
            state.enter(client)?
        };
        waits.await.ok()
    }

    #[doc(hidden)]
    pub fn free(&self) -> usize {
        self.0.lock().free
    }
}

impl State {
    fn enter(&mut self, client: IpAddr) -> Option<oneshot::Receiver<Permit>> {
        let around = neighbourhood(client);
        if !self.waiting.contains_key(&around) {
            self.make_room()?;
            self.order.push_back(around);
        }
        self.waiting
            .entry(around)
            .or_default()
            .enter(subscriber(client))
    }

    /// Makes room for one more neighbourhood.
    fn make_room(&mut self) -> Option<()> {
        if self.waiting.len() >= MAX_NEIGHBOURHOODS {
            // Drop neighbourhoods whose clients have all left.
            self.waiting.retain(|_, around| {
                around.forget_who_left();
                !around.0.is_empty()
            });
            let waiting = &self.waiting;
            self.order.retain(|around| waiting.contains_key(around));
        }
        (self.waiting.len() < MAX_NEIGHBOURHOODS).then_some(())
    }

    /// Removes the next client that still waits, to be given a turn.
    fn pop(&mut self) -> Option<oneshot::Sender<Permit>> {
        while let Some(around) = self.order.pop_front() {
            let Some(lines) = self.waiting.get_mut(&around) else {
                continue;
            };
            let next = lines.pop();
            if lines.0.is_empty() {
                self.waiting.remove(&around);
            } else {
                self.order.push_back(around);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

impl PrefixQueue {
    fn enter(&mut self, subscriber: IpAddr) -> Option<oneshot::Receiver<Permit>> {
        let mut lines = self.0.iter();
        let place = if let Some(place) = lines.position(|line| line.subscriber == subscriber) {
            place
        } else {
            if self.0.len() >= MAX_SUBSCRIBERS {
                self.forget_who_left();
            }
            if self.0.len() >= MAX_SUBSCRIBERS {
                return None;
            }
            self.0.push_back(SubscriberQueue {
                subscriber,
                waiting: VecDeque::new(),
            });
            self.0.len() - 1
        };
        let line = self.0.get_mut(place)?;
        line.waiting.retain(|waits| !waits.is_closed());
        if line.waiting.len() >= SHARE {
            return None;
        }
        let (turn, waits) = oneshot::channel();
        line.waiting.push_back(turn);
        Some(waits)
    }

    fn forget_who_left(&mut self) {
        self.0.retain_mut(|line| {
            line.waiting.retain(|waits| !waits.is_closed());
            !line.waiting.is_empty()
        });
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Permit>> {
        while let Some(mut line) = self.0.pop_front() {
            line.waiting.retain(|waits| !waits.is_closed());
            let next = line.waiting.pop_front();
            if !line.waiting.is_empty() {
                self.0.push_back(line);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else {
            return;
        };
        let mut state = turns.0.lock();
        while let Some(next) = state.pop() {
            match next.send(Self(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // The client left at this moment; the turn passes to the next.
                Err(mut turn) => turn.0 = None,
            }
        }
        state.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv6Addr, time::Duration};

    use tokio::task::JoinSet;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Returns a subscriber of the /48 with this number.
    fn v6(site: u16, network: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 7).into()
    }

    /// Waits for a turn of a client.
    fn wait(
        turns: &Arc<FairQueue>,
        client: IpAddr,
    ) -> impl Future<Output = Option<Permit>> + Send + use<> {
        let turns = Arc::clone(turns);
        async move { turns.next(client).await }
    }

    /// Yields until every task waits.
    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    /// Takes the turns and refusals that have arrived so far.
    fn over(clients: &mut JoinSet<Option<Permit>>) -> (Vec<Permit>, usize) {
        let (mut held, mut refused) = (Vec::new(), 0);
        while let Some(over) = clients.try_join_next() {
            match over.unwrap() {
                Some(turn) => held.push(turn),
                None => refused += 1,
            }
        }
        (held, refused)
    }

    #[tokio::test]
    async fn addresses_take_turns() {
        let turns = FairQueue::new(1);
        let first = turns.next(address(1)).await.unwrap();
        let mut flood: JoinSet<_> = (0..90).map(|_| wait(&turns, address(1))).collect();
        settle().await;
        let mut other = JoinSet::new();
        other.spawn(wait(&turns, address(2)));
        settle().await;
        // A client of the flood is next, and then the other: no client waits for more than one
        // request of each address.
        drop(first);
        settle().await;
        let (held, refused) = over(&mut flood);
        assert_eq!((held.len(), refused), (1, 90 - SHARE));
        drop(held);
        let turn = other.join_next();
        let turn = tokio::time::timeout(Duration::from_secs(5), turn).await;
        assert!(turn.unwrap().unwrap().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_site_with_many_networks_is_one_neighbour() {
        let turns = FairQueue::new(1);
        let first = turns.next(v6(1, 0)).await.unwrap();
        let mut flood: JoinSet<_> = (0..1100).map(|net| wait(&turns, v6(1, net))).collect();
        settle().await;
        let (held, refused) = over(&mut flood);
        assert_eq!((held.len(), refused), (0, 1100 - MAX_SUBSCRIBERS));
        // Other clients enter the queue, and are next but one.
        let mut others: JoinSet<_> = [v6(2, 0), address(1)]
            .map(|client| wait(&turns, client))
            .into_iter()
            .collect();
        settle().await;
        let mut turn = first;
        for (of_flood, of_others) in [(1, 0), (0, 1), (0, 1), (1, 0), (1, 0)] {
            drop(turn);
            settle().await;
            let (mut flood, _) = over(&mut flood);
            let (mut others, _) = over(&mut others);
            assert_eq!((flood.len(), others.len()), (of_flood, of_others));
            turn = flood.pop().or(others.pop()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_takes_no_turn_along() {
        let turns = FairQueue::new(1);
        let first = turns.next(address(1)).await;
        for last in 2..5 {
            let left = tokio::time::timeout(Duration::ZERO, turns.next(address(last)));
            assert!(left.await.is_err());
        }
        drop(first);
        assert_eq!(turns.free(), 1);
        assert!(turns.0.lock().waiting.is_empty());
    }

    proptest::proptest! {
        /// However clients come and leave, each turn is held by one client or free, and in the end
        /// all are free.
        #[test]
        fn no_turn_is_lost_and_none_is_held_twice(
            steps in proptest::collection::vec((0u8..20, 0u16..4, 0u16..12), 1..400),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(churn(steps));
        }
    }

    async fn churn(steps: Vec<(u8, u16, u16)>) {
        let turns = FairQueue::new(3);
        let (mut waiting, mut held) = (JoinSet::new(), Vec::new());
        for (step, site, network) in steps {
            match step {
                0..10 => {
                    waiting.spawn(wait(&turns, v6(site, network)));
                }
                10..19 if !held.is_empty() => {
                    held.swap_remove(usize::from(network) % held.len());
                }
                19 => waiting.abort_all(),
                _ => {}
            }
            settle().await;
            while let Some(over) = waiting.try_join_next() {
                held.extend(over.ok().flatten());
            }
            assert!(held.len() + turns.free() <= 3);
        }
        waiting.shutdown().await;
        held.clear();
        assert_eq!(turns.free(), 3);
        assert!(turns.0.lock().waiting.is_empty());
    }
}
