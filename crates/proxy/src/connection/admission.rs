//! Connection limits: counts connections in total, by address and by network, until they end.
//!
//! A connection is counted when it is accepted, before a task is spawned for it, so a flood costs a
//! few atomics and a close. A drain can rely on the counts alone.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ahash::RandomState;
use arc_swap::ArcSwapOption;
use edgeway_base::net::{neighbourhood, subscriber};
use edgeway_config::model::LimitsConfig;
use parking_lot::Mutex;
use smart_default::SmartDefault;

/// Connections of the process, across all listeners.
#[derive(Debug, SmartDefault)]
pub struct ConnectionTotal {
    open: AtomicU32,
    #[default(AtomicU32::new(u32::MAX))]
    max: AtomicU32,
}

impl ConnectionTotal {
    /// Limits the connections of listeners without a limit of their own to three eighths of the
    /// files that the process may open. A request takes a socket on either side, and the rest is
    /// for logs, probes and the admin listener.
    pub fn allow_files(&self, files: u64) -> u32 {
        let max = u32::try_from(files / 8 * 3).unwrap_or(u32::MAX);
        self.max.store(max, Ordering::Relaxed);
        max
    }

    /// Connections that were accepted and have not ended.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Acquire)
    }
}

/// Counts of a listener. They survive a change of its limits.
#[derive(Debug)]
pub struct Admission {
    total: Arc<ConnectionTotal>,
    open: AtomicU32,
    /// [`UNBOUNDED`] if the listener has no limit of its own.
    max: AtomicU32,
    by_address: ArcSwapOption<ConnectionCounts>,
    by_network: ArcSwapOption<ConnectionCounts>,
}

const UNBOUNDED: u32 = u32::MAX;

edgeway_base::enum_table! {
    /// Limit that refused a connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum AdmissionRefusal => reason {
        Connections = "connections",
        Address = "connections_per_ip",
        Network = "connections_per_network",
    }
}

/// Guard of a counted connection. Dropping it decrements the counts.
#[derive(Debug)]
pub struct AdmissionGuard {
    admission: Option<Arc<Admission>>,
    /// The counts that include it. The limits may have changed since.
    address: Option<(Arc<ConnectionCounts>, IpAddr)>,
    network: Option<(Arc<ConnectionCounts>, IpAddr)>,
}

impl Admission {
    pub fn new(limits: &LimitsConfig, total: &Arc<ConnectionTotal>) -> Arc<Self> {
        let admission = Self {
            total: Arc::clone(total),
            open: AtomicU32::new(0),
            max: AtomicU32::new(UNBOUNDED),
            by_address: ArcSwapOption::empty(),
            by_network: ArcSwapOption::empty(),
        };
        admission.set_limits(limits);
        Arc::new(admission)
    }

    /// Sets the limits from the next connection on. A new count does not include connections that
    /// are already open.
    pub fn set_limits(&self, limits: &LimitsConfig) {
        let max = limits.connections.unwrap_or(UNBOUNDED);
        self.max.store(max, Ordering::Relaxed);
        for (counts, max) in [
            (&self.by_address, limits.connections_per_ip),
            (&self.by_network, limits.connections_per_network),
        ] {
            match (&*counts.load(), max) {
                (Some(counts), Some(max)) => counts.max.store(max, Ordering::Relaxed),
                (None, Some(max)) => counts.store(Some(Arc::new(ConnectionCounts::new(max)))),
                (_, None) => counts.store(None),
            }
        }
    }

    /// Counts a connection in the total and on this listener, independent of its address.
    pub fn enter(self: &Arc<Self>) -> Result<AdmissionGuard, AdmissionRefusal> {
        let in_all = self.total.open.fetch_add(1, Ordering::AcqRel);
        let here = self.open.fetch_add(1, Ordering::Relaxed);
        let guard = AdmissionGuard {
            admission: Some(Arc::clone(self)),
            address: None,
            network: None,
        };
        let is_full = match self.max.load(Ordering::Relaxed) {
            UNBOUNDED => in_all >= self.total.max.load(Ordering::Relaxed),
            most => here >= most,
        };
        if is_full {
            return Err(AdmissionRefusal::Connections);
        }
        Ok(guard)
    }
}

impl AdmissionGuard {
    /// Counts the connection for the client's address and its network.
    pub fn count(&mut self, client: IpAddr) -> Result<(), AdmissionRefusal> {
        let Some(admission) = &self.admission else {
            return Ok(());
        };
        if let Some(counts) = admission.by_address.load_full() {
            let key = subscriber(client);
            counts.enter(key).ok_or(AdmissionRefusal::Address)?;
            self.address = Some((counts, key));
        }
        if let Some(counts) = admission.by_network.load_full() {
            let key = neighbourhood(client);
            counts.enter(key).ok_or(AdmissionRefusal::Network)?;
            self.network = Some((counts, key));
        }
        Ok(())
    }
}

impl Drop for AdmissionGuard {
    fn drop(&mut self) {
        let Some(admission) = &self.admission else {
            return;
        };
        for (counts, key) in self.address.iter().chain(&self.network) {
            counts.leave(*key);
        }
        admission.open.fetch_sub(1, Ordering::Relaxed);
        admission.total.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Connections by key. Keys without a connection are removed, so there are at most as many keys as
/// connections.
#[derive(Debug)]
struct ConnectionCounts {
    max: AtomicU32,
    hash: RandomState,
    shards: [Mutex<HashMap<IpAddr, u32, RandomState>>; SHARDS],
}

/// Number of shards, so that workers which accept and close rarely contend.
const SHARDS: usize = 16;
/// A shard's table shrinks only above this size.
const SMALL: usize = 256;

impl ConnectionCounts {
    fn new(max: u32) -> Self {
        Self {
            max: AtomicU32::new(max),
            hash: RandomState::new(),
            shards: Default::default(),
        }
    }

    fn shard(&self, key: IpAddr) -> &Mutex<HashMap<IpAddr, u32, RandomState>> {
        let hash = self.hash.hash_one(key);
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)]
    }

    /// Counts a connection, or returns `None` if the limit is reached.
    fn enter(&self, key: IpAddr) -> Option<()> {
        let mut shard = self.shard(key).lock();
        let count = shard.entry(key).or_insert(0);
        if *count >= self.max.load(Ordering::Relaxed) {
            if *count == 0 {
                shard.remove(&key);
            }
            return None;
        }
        *count += 1;
        Some(())
    }

    fn leave(&self, key: IpAddr) {
        let mut shard = self.shard(key).lock();
        let Some(count) = shard.get_mut(&key) else {
            debug_assert!(false, "counted out without having been counted in");
            return;
        };
        *count -= 1;
        if *count == 0 {
            shard.remove(&key);
            // A flood is over, so its memory is released.
            if shard.capacity() > SMALL && shard.len() < shard.capacity() / 8 {
                let room = shard.len() * 2;
                shard.shrink_to(room);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl AdmissionGuard {
        /// Creates a guard that is not counted.
        pub fn uncounted() -> Self {
            Self {
                admission: None,
                address: None,
                network: None,
            }
        }
    }

    impl ConnectionCounts {
        fn keys(&self) -> usize {
            self.shards.iter().map(|shard| shard.lock().len()).sum()
        }
    }

    fn admission(limits: &LimitsConfig) -> Arc<Admission> {
        Admission::new(limits, &Arc::default())
    }

    fn enter(admission: &Arc<Admission>, client: &str) -> Result<AdmissionGuard, AdmissionRefusal> {
        let mut guard = admission.enter()?;
        guard.count(client.parse().unwrap())?;
        Ok(guard)
    }

    #[track_caller]
    fn check_pair(
        limits: &LimitsConfig,
        first: &str,
        second: &str,
        expected: Option<AdmissionRefusal>,
    ) {
        let admission = admission(limits);
        let _first = enter(&admission, first).unwrap();
        assert_eq!(enter(&admission, second).err(), expected, "{second}");
    }

    #[test]
    fn addresses_are_counted_by_what_one_client_has() {
        let limits = LimitsConfig {
            connections_per_ip: Some(1),
            ..LimitsConfig::default()
        };
        let full = Some(AdmissionRefusal::Address);
        check_pair(&limits, "192.0.2.1", "192.0.2.1", full);
        check_pair(&limits, "192.0.2.1", "::ffff:192.0.2.1", full);
        check_pair(&limits, "192.0.2.1", "192.0.2.2", None);
        check_pair(&limits, "2001:db8::1", "2001:db8::ffff:0:0:2", full);
        check_pair(&limits, "2001:db8::1", "2001:db8:0:1::1", None);
    }

    #[test]
    fn networks_are_counted_beside_addresses() {
        let limits = LimitsConfig {
            connections_per_ip: Some(5),
            connections_per_network: Some(1),
            ..LimitsConfig::default()
        };
        let full = Some(AdmissionRefusal::Network);
        check_pair(&limits, "192.0.2.1", "192.0.2.200", full);
        check_pair(&limits, "192.0.2.1", "192.0.3.1", None);
        check_pair(&limits, "2001:db8:1:1::1", "2001:db8:1:2::1", full);
        check_pair(&limits, "2001:db8:1::1", "2001:db8:2::1", None);
    }

    #[test]
    fn a_permit_returns_with_its_connection_and_no_entry_stays() {
        let admission = admission(&LimitsConfig {
            connections: Some(3),
            connections_per_ip: Some(2),
            connections_per_network: Some(2),
            ..LimitsConfig::default()
        });
        let mut inside = vec![
            enter(&admission, "192.0.2.1").unwrap(),
            enter(&admission, "192.0.2.1").unwrap(),
        ];
        assert_eq!(
            enter(&admission, "192.0.2.1").err(),
            Some(AdmissionRefusal::Address)
        );
        assert_eq!(
            enter(&admission, "192.0.2.2").err(),
            Some(AdmissionRefusal::Network)
        );
        // Refused connections are not counted.
        inside.push(enter(&admission, "198.51.100.1").unwrap());
        let fourth = enter(&admission, "203.0.113.1").err();
        assert_eq!(fourth, Some(AdmissionRefusal::Connections));
        assert_eq!(admission.total.open(), 3);
        inside.remove(0);
        inside.push(enter(&admission, "192.0.2.2").unwrap());
        inside.clear();
        assert_eq!(admission.total.open(), 0);
        assert_eq!(admission.open.load(Ordering::Relaxed), 0);
        for counts in [&admission.by_address, &admission.by_network] {
            assert_eq!(counts.load().as_ref().unwrap().keys(), 0);
        }
    }

    #[test]
    fn counts_go_on_under_other_limits() {
        let limits = |connections_per_ip, connections| LimitsConfig {
            connections,
            connections_per_ip,
            ..LimitsConfig::default()
        };
        let admission = Admission::new(&limits(Some(2), None), &Arc::default());
        let mut inside = vec![
            enter(&admission, "192.0.2.1").unwrap(),
            enter(&admission, "192.0.2.1").unwrap(),
        ];
        admission.set_limits(&limits(Some(3), None));
        inside.push(enter(&admission, "192.0.2.1").unwrap());
        assert_eq!(
            enter(&admission, "192.0.2.1").err(),
            Some(AdmissionRefusal::Address)
        );
        admission.set_limits(&limits(None, Some(4)));
        inside.push(enter(&admission, "192.0.2.1").unwrap());
        let fifth = enter(&admission, "192.0.2.1").err();
        assert_eq!(fifth, Some(AdmissionRefusal::Connections));
        // Earlier connections leave the count that they are in, and not the new one.
        admission.set_limits(&limits(Some(1), None));
        inside.clear();
        let _one = enter(&admission, "192.0.2.1").unwrap();
        assert_eq!(
            enter(&admission, "192.0.2.1").err(),
            Some(AdmissionRefusal::Address)
        );
    }

    #[test]
    fn a_flood_leaves_no_memory_behind() {
        let counts = ConnectionCounts::new(1);
        for bits in 0..50_000 {
            counts
                .enter(IpAddr::from(std::net::Ipv4Addr::from_bits(bits)))
                .unwrap();
        }
        for bits in 0..50_000 {
            counts.leave(IpAddr::from(std::net::Ipv4Addr::from_bits(bits)));
        }
        assert_eq!(counts.keys(), 0);
        let room: usize = counts.shards.iter().map(|s| s.lock().capacity()).sum();
        assert!(room <= SHARDS * 2 * SMALL, "{room}");
    }

    #[test]
    fn listeners_without_a_bound_share_three_eighths_of_the_files() {
        let total = Arc::new(ConnectionTotal::default());
        assert_eq!(total.allow_files(16), 6);
        let limits = LimitsConfig::default();
        let one = Admission::new(&limits, &total);
        let other = Admission::new(&limits, &total);
        let mut inside: Vec<_> = (0..3).map(|_| one.enter().unwrap()).collect();
        inside.extend((0..3).map(|_| other.enter().unwrap()));
        assert_eq!(one.enter().err(), Some(AdmissionRefusal::Connections));
        // A listener with a limit of its own uses only that.
        let own = LimitsConfig {
            connections: Some(1),
            ..LimitsConfig::default()
        };
        let own = Admission::new(&own, &total);
        inside.push(own.enter().unwrap());
        assert_eq!(own.enter().err(), Some(AdmissionRefusal::Connections));
        inside.clear();
        assert!(one.enter().is_ok());
    }
}
