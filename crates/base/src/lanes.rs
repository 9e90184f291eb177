//! A value for each thread that writes, so that writers do not wait for one another, and all of
//! them for one reader.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use parking_lot::{Mutex, MutexGuard};

/// Maximum number of lanes.
const MAX_LANES: usize = 64;

/// Values of one kind, twice as many as there are cores.
pub struct Lanes<T>(Box<[Lane<T>]>);

/// A value on its own cache lines.
#[repr(align(128))]
struct Lane<T>(Mutex<T>);

impl<T> Lanes<T> {
    /// Returns how many lanes a process on this machine has.
    pub fn usual_number() -> usize {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        (2 * cores).next_power_of_two().min(MAX_LANES)
    }

    pub fn new(mut make: impl FnMut() -> T) -> Self {
        let lanes = (0..Self::usual_number()).map(|_| Lane(Mutex::new(make())));
        Self(lanes.collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Locks this thread's own lane, or the next free one. With twice as many lanes as cores one is
    /// practically always free; otherwise it waits for its own.
    pub fn enter(&self) -> MutexGuard<'_, T> {
        let first = lane_of_this_thread();
        // The number of lanes is a power of two.
        let lane = |step: usize| &self.0[first.wrapping_add(step) & (self.0.len() - 1)].0;
        (0..self.0.len())
            .find_map(|step| lane(step).try_lock())
            .unwrap_or_else(|| lane(0).lock())
    }

    /// Locks this thread's own lane, and waits for it if it is taken: what one thread writes stays in
    /// order.
    pub fn own(&self) -> MutexGuard<'_, T> {
        // The number of lanes is a power of two.
        self.0[lane_of_this_thread() & (self.0.len() - 1)].0.lock()
    }

    /// Returns all lanes, for a reader that locks one after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Mutex<T>> {
        self.0.iter().map(|lane| &lane.0)
    }
}

/// Returns this thread's lane. Threads take lanes in turn, in the order in which they first write.
fn lane_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        own.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_takes_another_lane_while_a_reader_has_its_own() {
        let lanes = Lanes::new(|| 0);
        *lanes.enter() += 1;
        let own = lanes.iter().position(|lane| *lane.lock() == 1).unwrap();
        let reading = lanes.iter().nth(own).unwrap().lock();
        *lanes.enter() += 1;
        assert_eq!(*reading, 1);
        drop(reading);
        assert_eq!(lanes.iter().map(|lane| *lane.lock()).sum::<i32>(), 2);
    }

    #[test]
    fn a_writer_that_keeps_its_lane_waits_for_the_reader() {
        let lanes = Lanes::new(Vec::new);
        thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|number| lanes.own().push(number)));
            let mut read = Vec::new();
            while read.len() < 20_000 {
                for lane in lanes.iter() {
                    read.append(&mut lane.lock());
                }
            }
            assert!(read.is_sorted(), "lines changed places");
        });
    }

    #[test]
    fn nothing_is_lost_with_more_threads_than_lanes() {
        let lanes = Lanes::new(|| 0u64);
        thread::scope(|scope| {
            for _ in 0..2 * lanes.len() {
                scope.spawn(|| (0..1000).for_each(|_| *lanes.enter() += 1));
            }
        });
        let all: u64 = lanes.iter().map(|lane| *lane.lock()).sum();
        assert_eq!(all, 2000 * lanes.len() as u64);
    }
}
