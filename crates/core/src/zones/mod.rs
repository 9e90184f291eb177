//! Named live state that outlives a reload: counts and learned state, never configuration.
//!
//! A slice gets its zone by name while it compiles. The same name and type give the same state to
//! the next configuration, so counters, health and queues continue. State handed over by a
//! predecessor goes into the zones as they are created.
//!
//! Compiling is a round: [`Zones::begin`], then the zones that slices get, then either
//! [`Zones::settle`], if the configuration serves from now on, or [`Zones::undo`]. A configuration
//! on trial serves beside the one before it, and both keep their state:
//! [`Zones::settle_on_trial`], then [`Zones::end_trial`] or the round of another configuration.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use serde_json::{Map, Value};

/// State that a zone may hold.
pub trait Zone: Any + Send + Sync {
    /// Exports the state for a successor; `None` if a successor can start without it.
    fn export(&self) -> Option<Value> {
        None
    }

    /// Imports the state of another process, which may be of another version: unreadable parts are
    /// ignored.
    fn import(&self, _exported: &Value) {}
}

/// All live state of one process, by name and type. A name belongs to one type.
#[derive(Default)]
pub struct Zones(Mutex<ZonesState>);

#[derive(Default)]
struct ZonesState {
    entries: HashMap<(TypeId, String), Entry>,
    /// State of a predecessor, by name, until the first configuration has settled.
    inherited: Map<String, Value>,
    round: u64,
    /// Round of the configuration on trial.
    trial: Option<u64>,
}

struct Entry {
    zone: Arc<dyn Zone>,
    /// Round in which the zone was created; `used` is the round of its last use.
    made: u64,
    used: u64,
}

/// Configuration that stays after a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialWinner {
    Candidate,
    Earlier,
}

/// Result of a round, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettleResult {
    pub retained: Vec<String>,
    pub added: Vec<String>,
    pub dropped: Vec<String>,
}

impl Zones {
    /// Returns the state of type `T` called `name`; creates it if there is none.
    ///
    /// `make` and the import run under the lock of all zones: they must be quick and must not
    /// access other zones.
    pub fn get_or_create<T: Zone>(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut inner = self.0.lock();
        let zones = &mut *inner;
        let round = zones.round;
        let entry = zones
            .entries
            .entry((TypeId::of::<T>(), name.to_owned()))
            .or_insert_with(|| {
                let state = Arc::new(make());
                if let Some(exported) = zones.inherited.get(name) {
                    state.import(exported);
                }
                Entry {
                    zone: state,
                    made: round,
                    used: round,
                }
            });
        entry.used = round;
        let state: Arc<dyn Any + Send + Sync> = Arc::clone(&entry.zone) as _;
        drop(inner);
        state
            .downcast()
            .unwrap_or_else(|_| unreachable!("the key holds the type's own id"))
    }

    /// Starts the compilation of a configuration.
    pub fn begin(&self) {
        self.0.lock().round += 1;
    }

    /// Ends the round of a configuration that serves from now on: drops the state that it did not
    /// get. Existing holders keep that state to their end; the next configuration that gets the
    /// name starts again.
    pub fn settle(&self) -> SettleResult {
        let mut inner = self.0.lock();
        let round = inner.round;
        let settled = inner.settled();
        inner.entries.retain(|_, entry| entry.used == round);
        inner.trial = None;
        settled
    }

    /// Ends the round of a configuration that serves on trial: the one before it keeps its state.
    pub fn settle_on_trial(&self) -> SettleResult {
        let mut inner = self.0.lock();
        inner.trial = Some(inner.round);
        SettleResult {
            dropped: Vec::new(),
            ..inner.settled()
        }
    }

    /// Ends a trial: drops the state that only the other configuration has.
    pub fn end_trial(&self, winner: TrialWinner) {
        let mut inner = self.0.lock();
        let Some(trial) = inner.trial.take() else {
            return;
        };
        inner.entries.retain(|_, entry| match winner {
            // A configuration that was refused meanwhile may have used it last.
            TrialWinner::Candidate => entry.used >= trial,
            TrialWinner::Earlier => entry.made < trial,
        });
    }

    /// Ends the round of a refused configuration: drops the state created for it alone.
    pub fn undo(&self) {
        let mut inner = self.0.lock();
        let round = inner.round;
        inner.entries.retain(|_, entry| entry.made != round);
    }

    /// Exports the state of all zones for a successor, by name.
    pub fn export(&self) -> Map<String, Value> {
        let zones: Vec<(String, Arc<dyn Zone>)> = {
            let inner = self.0.lock();
            let entries = inner.entries.iter();
            entries
                .map(|((_, name), entry)| (name.clone(), Arc::clone(&entry.zone)))
                .collect()
        };
        zones
            .into_iter()
            .filter_map(|(name, zone)| Some((name, zone.export()?)))
            .collect()
    }

    /// Stores a predecessor's state, for the zones that are created from now on.
    pub fn inherit(&self, exported: Map<String, Value>) {
        self.0.lock().inherited = exported;
    }

    /// Returns the names in use, sorted.
    pub fn names(&self) -> Vec<String> {
        let inner = self.0.lock();
        let mut names: Vec<String> = inner.entries.keys().map(|(_, name)| name.clone()).collect();
        drop(inner);
        names.sort();
        names
    }
}

impl ZonesState {
    /// Returns the state by what the configuration of this round does with it.
    fn settled(&mut self) -> SettleResult {
        // Zones that do not exist by now would only import outdated state.
        self.inherited = Map::new();
        let mut settled = SettleResult::default();
        for ((_, name), entry) in &self.entries {
            let list = if entry.used != self.round {
                &mut settled.dropped
            } else if entry.made == self.round {
                &mut settled.added
            } else {
                &mut settled.retained
            };
            list.push(name.clone());
        }
        settled.retained.sort();
        settled.added.sort();
        settled.dropped.sort();
        settled
    }
}

/// Values that configurations share by their settings, each kept for as long as one of them has it.
pub struct InUse<T>(Mutex<Vec<Weak<T>>>);

impl<T: Send + Sync + 'static> Zone for InUse<T> {}

impl<T> Default for InUse<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> InUse<T> {
    pub fn get_or_create(&self, is_same: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.lock();
        all.retain(|one| one.strong_count() > 0);
        let mut known = all.iter().filter_map(Weak::upgrade);
        if let Some(same) = known.find(|one| is_same(one)) {
            return same;
        }
        let new = Arc::new(make());
        all.push(Arc::downgrade(&new));
        new
    }
}

impl fmt::Debug for Zones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use serde_json::json;

    use super::*;

    #[test]
    fn values_in_use_are_shared() {
        let all = InUse::<u8>::default();
        let get = |value: u8| all.get_or_create(|one| *one == value, || value);
        let first = get(1);
        assert!(Arc::ptr_eq(&first, &get(1)));
        assert!(!Arc::ptr_eq(&first, &get(2)));
        assert!(Arc::ptr_eq(&first, &get(1)));
        assert_eq!(all.0.lock().len(), 1, "what nothing uses is dropped");
    }

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Count {
        fn get(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn set(&self, to: u64) {
            self.0.store(to, Ordering::Relaxed);
        }
    }

    impl Zone for Count {
        fn export(&self) -> Option<Value> {
            (self.get() > 0).then(|| json!(self.get()))
        }

        fn import(&self, exported: &Value) {
            self.set(exported.as_u64().unwrap_or_default());
        }
    }

    struct Other;

    impl Zone for Other {}

    fn count(zones: &Zones, name: &str) -> Arc<Count> {
        zones.get_or_create(name, Count::default)
    }

    #[test]
    fn the_same_name_and_type_is_the_same_state() {
        let zones = Zones::default();
        count(&zones, "web").set(7);
        assert_eq!(count(&zones, "web").get(), 7);
        zones.get_or_create("other", || Other);
        assert_eq!(count(&zones, "api").get(), 0);
        assert_eq!(zones.names(), ["api", "other", "web"]);
    }

    #[test]
    fn a_zone_that_a_configuration_does_not_name_starts_again_while_holders_keep_theirs() {
        let zones = Zones::default();
        let old = count(&zones, "web");
        old.set(5);
        count(&zones, "api").set(5);
        zones.begin();
        count(&zones, "api");
        count(&zones, "new");
        let settled = zones.settle();
        assert_eq!(settled.retained, ["api"]);
        assert_eq!(settled.added, ["new"]);
        assert_eq!(settled.dropped, ["web"]);
        zones.begin();
        assert_eq!(count(&zones, "web").get(), 0);
        assert_eq!(count(&zones, "api").get(), 5);
        assert_eq!(old.get(), 5);
    }

    #[test]
    fn a_refused_configuration_leaves_nothing_and_takes_nothing() {
        let zones = Zones::default();
        count(&zones, "web").set(5);
        zones.begin();
        count(&zones, "new");
        zones.undo();
        assert_eq!(zones.names(), ["web"]);
        zones.begin();
        assert_eq!(count(&zones, "web").get(), 5);
        assert_eq!(zones.settle().dropped, [""; 0]);
    }

    /// Compiles a configuration with `web` alone beside one with `api` alone, which is on trial. Both
    /// have `both`.
    fn on_trial() -> Zones {
        let zones = Zones::default();
        count(&zones, "web").set(5);
        count(&zones, "both").set(6);
        zones.begin();
        count(&zones, "api").set(7);
        count(&zones, "both");
        let settled = zones.settle_on_trial();
        assert_eq!(settled.added, ["api"]);
        assert_eq!(settled.retained, ["both"]);
        assert_eq!(settled.dropped, [""; 0]);
        assert_eq!(zones.names(), ["api", "both", "web"]);
        // What is refused during the trial takes nothing from either.
        zones.begin();
        for name in ["web", "both", "refused"] {
            count(&zones, name);
        }
        zones.undo();
        zones
    }

    #[test]
    fn each_configuration_has_its_state_until_the_end_of_a_trial() {
        let zones = on_trial();
        zones.end_trial(TrialWinner::Earlier);
        assert_eq!(zones.names(), ["both", "web"]);
        assert_eq!(count(&zones, "web").get(), 5);
        let zones = on_trial();
        zones.end_trial(TrialWinner::Candidate);
        assert_eq!(count(&zones, "api").get(), 7);
        assert_eq!(count(&zones, "both").get(), 6);
        let zones = on_trial();
        zones.begin();
        count(&zones, "both");
        assert_eq!(zones.settle().dropped, ["api", "web"]);
        zones.end_trial(TrialWinner::Earlier);
        assert_eq!(zones.names(), ["both"]);
    }

    #[test]
    fn a_successor_goes_on_where_its_predecessor_was() {
        let old = Zones::default();
        count(&old, "web").set(3);
        count(&old, "idle");
        old.get_or_create("other", || Other);
        let exported = old.export();
        assert_eq!(Value::Object(exported.clone()), json!({ "web": 3 }));
        let new = Zones::default();
        new.inherit(exported);
        new.begin();
        assert_eq!(count(&new, "web").get(), 3);
        new.settle();
        // Only once: later configurations start without it, as always.
        new.begin();
        new.settle();
        new.begin();
        assert_eq!(count(&new, "web").get(), 0);
    }
}
