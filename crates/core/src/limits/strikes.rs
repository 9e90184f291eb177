//! Refusals of clients, counted until they lead to a ban. Clients choose their addresses, so the
//! table is bounded.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use ahash::RandomState;
use parking_lot::Mutex;
use smart_default::SmartDefault;

use super::Address;
use crate::base::units::whole_millis;

/// Number of refusals within a time after which a client is banned, and the duration of the ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrikeRule {
    pub after: u16,
    pub within: Duration,
    pub lasts: Duration,
}

/// Number of parts that a rule's time is divided into: refusals expire one part at a time.
const PARTS: usize = 8;
const SHARDS: usize = 16;
/// Maximum of clients in one shard. Beyond it the client with the oldest refusals of a few
/// candidates is forgotten.
const MAX_CLIENTS: usize = 4096;
const EVICTION_CANDIDATES: usize = 8;
/// Minimum time between two scans of a full shard, in milliseconds.
const SCAN_INTERVAL_MILLIS: u64 = 1000;

/// The refusals of all clients.
#[derive(Debug, SmartDefault)]
pub(super) struct Strikes {
    #[default(RandomState::new())]
    hash: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    /// Invariant: the number of entries in all shards, changed under their locks.
    len: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<Address, ClientStrikes, RandomState>,
    /// Time of the next scan for free room, in milliseconds.
    next: u64,
}

/// The refusals of one client.
#[derive(Debug)]
struct ClientStrikes {
    /// Number of the newest part of time; `counts` holds the refusals of each part, the newest
    /// first.
    part: u64,
    counts: [u16; PARTS],
    /// Time at which all of them have expired, in milliseconds.
    until: u64,
}

impl ClientStrikes {
    /// Counts a refusal at `now` and returns their number within the rule's time.
    fn add(&mut self, now: u64, rule: &StrikeRule) -> u32 {
        let within = whole_millis(rule.within).max(PARTS as u64);
        let part = now / (within / PARTS as u64);
        // Another rule has other parts, and the clock may appear to go back.
        match part.checked_sub(self.part).map(usize::try_from) {
            Some(Ok(passed)) if passed < PARTS => {
                self.counts.rotate_right(passed);
                self.counts[..passed].fill(0);
            }
            _ => self.counts = [0; PARTS],
        }
        self.part = part;
        self.until = now + within;
        self.counts[0] = self.counts[0].saturating_add(1);
        self.counts.iter().copied().map(u32::from).sum()
    }
}

impl Strikes {
    fn shard(&self, client: Address) -> &Mutex<Shard> {
        let hash = self.hash.hash_one(client);
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)]
    }

    /// Counts a refusal at `now`, in milliseconds. If that reaches the number of the rule, returns
    /// the number and forgets the client.
    pub(super) fn add(&self, client: Address, now: u64, rule: &StrikeRule) -> Option<u32> {
        let mut shard = self.shard(client).lock();
        let before = shard.clients.len();
        if before >= MAX_CLIENTS && !shard.clients.contains_key(&client) {
            shard.make_room(now);
        }
        let struck = shard
            .clients
            .entry(client)
            .or_insert_with(|| ClientStrikes {
                part: 0,
                counts: [0; PARTS],
                until: now,
            });
        let count = struck.add(now, rule);
        let is_enough = count >= u32::from(rule.after);
        if is_enough {
            shard.clients.remove(&client);
        }
        self.changed(before, shard.clients.len());
        is_enough.then_some(count)
    }

    pub(super) fn forget(&self, client: Address) {
        let mut shard = self.shard(client).lock();
        let before = shard.clients.len();
        shard.clients.remove(&client);
        self.changed(before, shard.clients.len());
    }

    /// Forgets refusals that have expired.
    pub(super) fn tidy(&self, now: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let before = shard.clients.len();
            shard.forget_expired(now);
            let room = shard.clients.len() * 2;
            shard.clients.shrink_to(room);
            self.changed(before, shard.clients.len());
        }
    }

    /// Returns the number of clients with recent refusals.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Updates the total; `before` and `after` belong to one shard, whose lock is held.
    fn changed(&self, before: usize, after: usize) {
        if after >= before {
            self.len.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.len.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

impl Shard {
    fn forget_expired(&mut self, now: u64) {
        self.clients.retain(|_, struck| struck.until > now);
    }

    /// Makes room for one more client. In a distributed flood each refusal gets here.
    fn make_room(&mut self, now: u64) {
        if now >= self.next {
            self.next = now + SCAN_INTERVAL_MILLIS;
            self.forget_expired(now);
            if self.clients.len() < MAX_CLIENTS {
                return;
            }
        }
        let some = self.clients.iter().take(EVICTION_CANDIDATES);
        if let Some((oldest, _)) = some.min_by_key(|(_, struck)| struck.until) {
            let oldest = *oldest;
            self.clients.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const RULE: StrikeRule = StrikeRule {
        after: 3,
        within: Duration::from_secs(8),
        lasts: Duration::from_secs(1),
    };

    fn client(number: u32) -> Address {
        std::net::IpAddr::from(Ipv4Addr::from_bits(number)).into()
    }

    #[test]
    fn so_many_within_the_time_are_enough() {
        let strikes = Strikes::default();
        assert_eq!(strikes.add(client(1), 0, &RULE), None);
        assert_eq!(strikes.add(client(1), 3_000, &RULE), None);
        assert_eq!(strikes.add(client(2), 3_000, &RULE), None);
        assert_eq!(strikes.len(), 2);
        assert_eq!(strikes.add(client(1), 6_900, &RULE), Some(3));
        // They count once.
        assert_eq!(strikes.len(), 1);
        assert_eq!(strikes.add(client(1), 6_900, &RULE), None);
    }

    #[test]
    fn old_ones_are_forgotten() {
        let strikes = Strikes::default();
        for now in [0, 4_000, 8_000, 12_000, 20_000, 1_000_000] {
            assert_eq!(strikes.add(client(1), now, &RULE), None, "{now}");
        }
        strikes.add(client(2), 1_000_000, &RULE);
        strikes.tidy(1_007_999);
        assert_eq!(strikes.len(), 2);
        strikes.tidy(1_008_000);
        assert_eq!(strikes.len(), 0);
    }

    #[test]
    fn an_attack_from_everywhere_is_bounded() {
        let strikes = Strikes::default();
        for number in 0..200_000 {
            strikes.add(client(number), u64::from(number), &RULE);
        }
        assert!(strikes.len() <= SHARDS * MAX_CLIENTS, "{}", strikes.len());
        let room: usize = strikes.shards.iter().map(|s| s.lock().clients.len()).sum();
        assert_eq!(room, strikes.len());
        // Expired entries make room for all others.
        strikes.add(client(0), 1_000_000, &RULE);
        assert!(
            strikes.len() <= (SHARDS - 1) * MAX_CLIENTS + 1,
            "{}",
            strikes.len()
        );
    }

    proptest! {
        /// Comparison with the exact rule: old refusals never lead to a ban, and enough refusals
        /// within seven eighths of the time always do.
        #[test]
        fn a_ban_is_never_for_old_refusals_and_never_missed(
            gaps in prop::collection::vec(0_u64..5_000, 1..60), after in 1_u16..6,
        ) {
            let rule = StrikeRule { after, ..RULE };
            let strikes = Strikes::default();
            let (mut now, mut times) = (0, Vec::<u64>::new());
            for gap in gaps {
                now += gap;
                times.push(now);
                let within = |span: u64| times.iter().filter(|at| now - **at < span).count();
                let (at_most, at_least) = (within(8_000), within(7_000));
                let is_banned = strikes.add(client(1), now, &rule).is_some();
                prop_assert!(!is_banned || at_most >= usize::from(after));
                prop_assert!(is_banned || at_least < usize::from(after));
                if is_banned {
                    times.clear();
                }
            }
        }
    }
}
