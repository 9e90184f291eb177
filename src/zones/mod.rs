//! Named live state that outlives a reload: what is counted and learned, never what is configured.
//!
//! A slice asks for its zone by name while it compiles. The same name and type give the
//! same state to the next configuration, so counters, health and queues go on.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::Arc,
};

use parking_lot::Mutex;

/// All live state of one process, by name and type.
#[derive(Default)]
pub struct Zones {
    states: Mutex<HashMap<(TypeId, String), Arc<dyn Any + Send + Sync>>>,
}

impl Zones {
    /// The state of type `T` called `name`; made now if there is none.
    ///
    /// `make` runs under the lock of all zones: it must be quick and ask for no zone.
    pub fn get_or_create<T: Any + Send + Sync>(
        &self,
        name: &str,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut states = self.states.lock();
        let state = states
            .entry((TypeId::of::<T>(), name.to_owned()))
            .or_insert_with(|| Arc::new(make()))
            .clone();
        drop(states);
        state
            .downcast()
            .unwrap_or_else(|_| unreachable!("the key holds the type's own id"))
    }

    /// Drops the state of every name that `keep` refuses. Whoever still holds it keeps it
    /// to the end; the next configuration that asks starts anew.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.states.lock().retain(|(_, name), _| keep(name));
    }

    /// The names in use, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .states
            .lock()
            .keys()
            .map(|(_, name)| name.clone())
            .collect();
        names.sort();
        names
    }
}

impl fmt::Debug for Zones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_same_name_and_type_is_the_same_state() {
        let zones = Zones::default();
        let first = zones.get_or_create("web", || AtomicU32::new(1));
        first.store(7, Ordering::Relaxed);
        let again = zones.get_or_create("web", || AtomicU32::new(1));
        assert_eq!(again.load(Ordering::Relaxed), 7);
        let other_type = zones.get_or_create("web", || String::from("own"));
        assert_eq!(*other_type, "own");
        let other_name = zones.get_or_create("api", || AtomicU32::new(1));
        assert_eq!(other_name.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_not_retained_starts_anew_while_holders_keep_theirs() {
        let zones = Zones::default();
        let old = zones.get_or_create("web", || AtomicU32::new(5));
        let _kept = zones.get_or_create("api", || AtomicU32::new(5));
        zones.retain(|name| name == "api");
        assert_eq!(zones.names(), ["api"]);
        let new = zones.get_or_create("web", || AtomicU32::new(0));
        assert_eq!(old.load(Ordering::Relaxed), 5);
        assert_eq!(new.load(Ordering::Relaxed), 0);
    }
}
