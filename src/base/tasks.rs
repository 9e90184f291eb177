//! Background work with a name, an owner and an end.

use std::{future::Future, sync::Arc};

use log::{debug, warn};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};

/// The tasks of one owner; dropping the last handle, or [`Tasks::stop`], ends them.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Starts `work` under `name`; the name is what logs call it by.
    pub fn spawn<F>(&self, name: impl Into<String>, work: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let mut set = self.0.lock();
        while let Some(ended) = set.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                warn!(error:%; "a background task panicked");
            }
        }
        set.spawn(async move {
            debug!(task = name.as_str(); "task started");
            work.await;
            debug!(task = name.as_str(); "task ended");
        })
    }

    /// Waits until every task that was started so far has ended. Ends them if it is dropped.
    pub async fn join(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock());
        while tasks.join_next().await.is_some() {}
    }

    /// Ends every task of this owner at its next await.
    pub fn stop(&self) {
        self.0.lock().abort_all();
    }
}
