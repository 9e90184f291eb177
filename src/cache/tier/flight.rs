//! One question at a time for one thing: whoever wants the same waits for its answer.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// What is being asked for.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<u128, Arc<Semaphore>>>);

/// One question; those who wait go on when it is dropped, whatever became of it.
#[derive(Debug)]
pub(super) struct Flight<'a> {
    all: &'a Flights,
    what: u128,
    over: Arc<Semaphore>,
}

impl Flights {
    /// The right to ask; or, after somebody else has asked, `None`.
    pub(super) async fn lead(&self, what: u128) -> Option<Flight<'_>> {
        let over = {
            let mut all = self.0.lock();
            let Some(over) = all.get(&what) else {
                let over = Arc::new(Semaphore::new(0));
                all.insert(what, Arc::clone(&over));
                let all = self;
                return Some(Flight { all, what, over });
            };
            Arc::clone(over)
        };
        // It never has a permit: it is closed.
        let _closed = over.acquire().await;
        None
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.what);
        self.over.close();
    }
}
