//! Background tasks with a name, an owner and an end.

use std::{future::Future, sync::Arc};

use log::{debug, warn};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};

/// The tasks of one owner; dropping the last handle, or [`Tasks::stop`], ends them.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Starts `work` under `name`, which appears in logs.
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

    /// Waits until every task has ended, including tasks that these start meanwhile. Aborts the
    /// tasks it waits for if it is dropped.
    pub async fn join(&self) {
        loop {
            let mut tasks = std::mem::take(&mut *self.0.lock());
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    /// Aborts every task of this owner at its next await.
    pub fn stop(&self) {
        self.0.lock().abort_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn tasks_started_by_a_task_are_awaited_too() {
        let (tasks, is_done) = (Tasks::default(), Arc::new(AtomicBool::new(false)));
        let (inner, done) = (tasks.clone(), Arc::clone(&is_done));
        tasks.spawn("outer", async move {
            // Yields, so that `join` has taken the existing tasks first.
            tokio::task::yield_now().await;
            inner.spawn("inner", async move {
                tokio::task::yield_now().await;
                done.store(true, Ordering::Relaxed);
            });
        });
        tasks.join().await;
        assert!(is_done.load(Ordering::Relaxed));
    }
}
