//! Thread on which every configuration is compiled.
//!
//! The allocator has several arenas, and keeps memory that was freed for the threads of its arena
//! for some seconds. If each reload ran on whatever thread is free, each would take new memory, and
//! many quick reloads as many times that of one configuration. On a single thread, a configuration
//! takes the place of the last but one.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
};

use tokio::{runtime::Handle, sync::oneshot};

type Job = Box<dyn FnOnce() + Send>;

/// The thread, which ends when this is dropped.
#[derive(Clone, Debug)]
pub(super) struct CompileThread(mpsc::Sender<Job>);

/// Error of work that panicked.
#[derive(Debug, thiserror::Error)]
#[error("it panicked")]
pub struct Panicked;

impl CompileThread {
    /// Starts the thread. Work on it belongs to the `runtime`.
    pub(super) fn start(runtime: Handle) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || {
            let _belongs = runtime.enter();
            for job in queue {
                job();
            }
        };
        let name = "configuration".to_owned();
        thread::Builder::new().name(name).spawn(work)?;
        Ok(Self(jobs))
    }

    /// Does work that may block, after all work that was given before.
    pub(super) async fn run<T>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked>
    where
        T: Send + 'static,
    {
        let (give, result) = oneshot::channel();
        let job = move || {
            // The thread must survive it. Whatever the work has touched is dropped with it.
            if let Ok(done) = catch_unwind(AssertUnwindSafe(work)) {
                // Nobody may wait for it any more: a process that stops.
                drop(give.send(done));
            }
        };
        // Without a thread the result is an error as well.
        drop(self.0.send(Box::new(job)));
        result.await.map_err(|_| Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_runs_on_one_thread_and_survives_a_panic() {
        let compiling = CompileThread::start(Handle::current()).unwrap();
        let own = || (thread::current().id(), Handle::try_current().is_ok());
        let first = compiling.run(own).await.unwrap();
        assert!(first.1, "it belongs to the runtime");
        assert_ne!(first.0, thread::current().id());
        let broken = compiling.run(|| panic!("a bug")).await;
        assert!(broken.is_err_and(|error: Panicked| error.to_string() == "it panicked"));
        assert_eq!(compiling.run(own).await.unwrap(), first);
    }
}
