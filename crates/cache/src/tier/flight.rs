//! Collapsed lookups: one lookup at a time for the same thing; concurrent callers wait for the end
//! of that lookup.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Lookups in flight.
#[derive(Debug, Default)]
pub(super) struct LookupsInFlight(Mutex<HashMap<u128, Arc<Semaphore>>>);

/// A lookup in flight. Waiting callers continue when the lookup is dropped, whatever its outcome.
#[derive(Debug)]
pub(super) struct LookupInFlight<'a> {
    all: &'a LookupsInFlight,
    key: u128,
    over: Arc<Semaphore>,
}

impl LookupsInFlight {
    /// Returns the right to do a lookup; or `None`, after the lookup of another caller has ended.
    pub(super) async fn lead(&self, key: u128) -> Option<LookupInFlight<'_>> {
        let over = {
            let mut all = self.0.lock();
            let Some(over) = all.get(&key) else {
                let over = Arc::new(Semaphore::new(0));
                all.insert(key, Arc::clone(&over));
                let all = self;
                return Some(LookupInFlight { all, key, over });
            };
            Arc::clone(over)
        };
        // The semaphore never has a permit: it is closed at the end.
        let _closed = over.acquire().await;
        None
    }
}

impl Drop for LookupInFlight<'_> {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.key);
        self.over.close();
    }
}
