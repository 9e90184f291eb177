//! Memory of apps on this machine, as the processes that listen at their addresses have it, where
//! this user may read it: so a leak shows without a report of the app.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use edgeway_base::listening::{self, ListeningProcess};
use edgeway_upstreams::{MemoryGrowth, UpstreamStatus};
use parking_lot::Mutex;

/// Shortest time between two searches for processes, which take milliseconds: after one has ended,
/// and while some are not found.
const SEARCH_GONE: Duration = Duration::from_secs(10);
const SEARCH_UNKNOWN: Duration = Duration::from_mins(1);

/// Duration of a step, and number of steps: a process whose least memory grows from each to the next
/// leaks.
const STEP: Duration = Duration::from_secs(100);
const STEPS: usize = 6;
/// Least growth in each step, as a part of the memory before, and of all steps together.
const GROWTH_OF_STEP: u64 = 100;
const GROWTH: u64 = 64 << 20;

/// Processes found last.
#[derive(Debug, Default)]
pub(super) struct AppProcesses(Mutex<FoundProcesses>);

#[derive(Debug, Default)]
struct FoundProcesses {
    at: Option<Instant>,
    by_port: HashMap<u16, Vec<ListeningProcess>>,
    history: HashMap<u16, MemoryHistory>,
}

/// Least memory at a port in each step, with its begin, the oldest first. The last step lasts.
#[derive(Debug, Default)]
struct MemoryHistory(VecDeque<(Instant, u64)>);

impl AppProcesses {
    /// Adds the memory of their processes to the backends of this machine.
    pub(super) fn add_memory(&self, upstreams: &mut [UpstreamStatus], now: Instant) {
        let backends = upstreams.iter_mut().flat_map(|one| &mut one.backends);
        let mut backends: Vec<_> = backends
            .filter_map(|backend| Some((local_port(&backend.address)?, backend)))
            .collect();
        let ports: Vec<u16> = backends.iter().map(|(port, _)| *port).collect();
        let mut processes = self.0.lock();
        processes.search(&ports, now);
        for (port, backend) in &mut backends {
            let Some(memory) = processes.memory(*port) else {
                continue;
            };
            backend.process_rss_bytes = Some(memory);
            let history = processes.history.entry(*port).or_default();
            history.add(memory, now);
            backend.memory_growth = history.growth();
        }
    }
}

impl FoundProcesses {
    fn search(&mut self, ports: &[u16], now: Instant) {
        let has_gone = |port: &u16| self.by_port.contains_key(port) && self.memory(*port).is_none();
        let wait = if ports.iter().any(has_gone) {
            SEARCH_GONE
        } else if ports.iter().all(|port| self.by_port.contains_key(port)) {
            return;
        } else {
            SEARCH_UNKNOWN
        };
        if self.at.is_none_or(|at| now.duration_since(at) >= wait) {
            self.at = Some(now);
            self.by_port = listening::processes(ports);
            self.history.retain(|port, _| ports.contains(port));
        }
    }

    /// Returns the memory of the largest process at a port: workers share the socket of their
    /// parent.
    fn memory(&self, port: u16) -> Option<u64> {
        let processes = self.by_port.get(&port)?.iter();
        processes
            .filter_map(ListeningProcess::resident_memory)
            .max()
    }
}

impl MemoryHistory {
    fn add(&mut self, memory: u64, now: Instant) {
        if let Some((time, least)) = self.0.back_mut()
            && now.duration_since(*time) < STEP
        {
            *least = memory.min(*least);
            return;
        }
        let least = |(_, least): &(Instant, u64)| *least;
        let [last, before] = [1, 2].map(|back| self.0.iter().nth_back(back - 1).map(least));
        if let (Some(last), Some(before)) = (last, before)
            && last < before + before / GROWTH_OF_STEP
        {
            // It does not grow, or is another process.
            self.0.drain(..self.0.len() - 1);
        }
        self.0.push_back((now, memory));
        if self.0.len() > STEPS + 1 {
            self.0.pop_front();
        }
    }

    /// Returns the growth of a process that has grown for long enough.
    fn growth(&self) -> Option<MemoryGrowth> {
        let ((began, from), (ended, _)) = (*self.0.front()?, *self.0.back()?);
        let (_, to) = *self.0.iter().nth_back(1)?;
        let is_leak = self.0.len() > STEPS && to >= from + GROWTH;
        is_leak.then(|| MemoryGrowth {
            from_bytes: from,
            to_bytes: to,
            seconds: ended.duration_since(began).as_secs(),
        })
    }
}

/// Returns the port of an address of this machine.
fn local_port(address: &str) -> Option<u16> {
    let address: SocketAddr = address.parse().ok()?;
    address.ip().is_loopback().then(|| address.port())
}

#[cfg(test)]
mod tests {
    use edgeway_base::clock::Clock;
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Returns the growth that is found at each moment, ten seconds apart.
    fn growths(memory: impl Iterator<Item = u64>) -> Vec<Option<MemoryGrowth>> {
        let mut history = MemoryHistory::default();
        let start = Clock::test().now();
        let moments = (0..).map(|step| start + Duration::from_secs(10 * step));
        let growth = memory.zip(moments).map(|(memory, now)| {
            history.add(memory, now);
            history.growth()
        });
        growth.collect()
    }

    #[test]
    fn steady_growth_is_found_after_ten_minutes_and_ends_with_the_process() {
        let leak = (0..70).map(|step| (180 + 3 * step) * MIB);
        let seen = growths(leak.chain([40 * MIB; 20]));
        assert_eq!(seen.iter().position(Option::is_some), Some(60));
        let growth = seen[60].as_ref().unwrap();
        assert_eq!((growth.from_bytes, growth.to_bytes), (180 * MIB, 330 * MIB));
        assert_eq!(growth.seconds, 600);
        assert_eq!(seen.last(), Some(&None));
    }

    proptest! {
        /// Invariant: memory that falls back within minutes is no leak.
        #[test]
        fn an_app_whose_collector_runs_now_and_then_is_no_leak(
            base in 50..500_u64, saw in 1..50_u64, slope in 0..20_u64,
        ) {
            let memory = (0..300).map(|step| (base + slope * (step % saw)) * MIB);
            prop_assert!(growths(memory).iter().all(Option::is_none));
        }
    }
}
