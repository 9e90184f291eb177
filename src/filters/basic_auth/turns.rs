//! Whose password is compared next: addresses take turns, however many requests each has.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// So many comparisons of one address may wait; the next one is told to come back.
pub(super) const SHARE: usize = 8;
/// So many addresses may wait.
const MAX_ADDRESSES: usize = 1024;

/// The comparisons that may run, and who waits for one.
#[derive(Debug)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Not in use. None is free while anybody waits.
    free: usize,
    waiting: HashMap<IpAddr, VecDeque<oneshot::Sender<Turn>>>,
    /// The addresses that wait, each once, the next one first.
    order: VecDeque<IpAddr>,
}

/// The right to compare one password; dropping it passes it on.
#[derive(Debug)]
pub(super) struct Turn(Option<Arc<Turns>>);

impl Turns {
    pub(super) fn new(free: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free,
            waiting: HashMap::new(),
            order: VecDeque::new(),
        })))
    }

    /// A turn for somebody at `address`, once it is its; `None` at once if too many of them
    /// wait already.
    pub(super) async fn next(self: &Arc<Self>, address: IpAddr) -> Option<Turn> {
        let waits = {
            let mut state = self.0.lock();
            if state.free > 0 {
                state.free -= 1;
                return Some(Turn(Some(Arc::clone(self))));
            }
            state.enter(address)?
        };
        waits.await.ok()
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.0.lock().free
    }
}

impl State {
    fn enter(&mut self, address: IpAddr) -> Option<oneshot::Receiver<Turn>> {
        if !self.waiting.contains_key(&address) && self.waiting.len() >= MAX_ADDRESSES {
            // Some may have left.
            self.waiting.retain(|_, line| {
                line.retain(|waits| !waits.is_closed());
                !line.is_empty()
            });
            let waiting = &self.waiting;
            self.order.retain(|address| waiting.contains_key(address));
            if self.waiting.len() >= MAX_ADDRESSES {
                return None;
            }
        }
        let line = self.waiting.entry(address).or_default();
        if line.is_empty() {
            self.order.push_back(address);
        }
        line.retain(|waits| !waits.is_closed());
        if line.len() >= SHARE {
            return None;
        }
        let (turn, waits) = oneshot::channel();
        line.push_back(turn);
        Some(waits)
    }

    /// Whoever is next and still there, to be given a turn.
    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some(address) = self.order.pop_front() {
            let Some(line) = self.waiting.get_mut(&address) else {
                continue;
            };
            line.retain(|waits| !waits.is_closed());
            let next = line.pop_front();
            if line.is_empty() {
                self.waiting.remove(&address);
            } else {
                self.order.push_back(address);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else {
            return;
        };
        let mut state = turns.0.lock();
        while let Some(next) = state.pop() {
            match next.send(Self(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // It has left in this moment, and this turn is still ours to give.
                Err(mut turn) => turn.0 = None,
            }
        }
        state.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[tokio::test]
    async fn addresses_take_turns() {
        let turns = Turns::new(1);
        let first = turns.next(address(1)).await.unwrap();
        let wait = |last| {
            let turns = Arc::clone(&turns);
            async move { turns.next(address(last)).await }
        };
        let mut flood: JoinSet<Option<Turn>> = (0..90).map(|_| wait(1)).collect();
        tokio::task::yield_now().await;
        let mut other = JoinSet::new();
        other.spawn(wait(2));
        tokio::task::yield_now().await;
        // One of the flood is next, and then the other: nobody waits for more than one of
        // each address.
        drop(first);
        tokio::task::yield_now().await;
        let (mut held, mut refused) = (Vec::new(), 0);
        while let Some(over) = flood.try_join_next() {
            match over.unwrap() {
                Some(turn) => held.push(turn),
                None => refused += 1,
            }
        }
        assert_eq!((held.len(), refused), (1, 90 - SHARE));
        drop(held);
        let turn = other.join_next();
        let turn = tokio::time::timeout(Duration::from_secs(5), turn).await;
        assert!(turn.unwrap().unwrap().unwrap().is_some());
    }

    #[tokio::test]
    async fn whoever_leaves_takes_no_turn_along() {
        let turns = Turns::new(1);
        let first = turns.next(address(1)).await;
        for last in 2..5 {
            let left = tokio::time::timeout(Duration::ZERO, turns.next(address(last)));
            assert!(left.await.is_err());
        }
        drop(first);
        assert_eq!(turns.free(), 1);
        assert!(turns.0.lock().waiting.is_empty());
    }
}
