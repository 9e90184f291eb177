//! Runtimes: workers for connections, and the calling thread for everything else.

use std::{
    io,
    sync::mpsc,
    thread::{self, available_parallelism},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

/// Name of the threads of listeners and requests.
const NAME: &str = "edgeway-worker";

/// Threads of listeners and requests.
pub struct Workers {
    handle: Handle,
    kind: WorkerKind,
}

enum WorkerKind {
    /// A thread that shares its tasks with no other one, and so schedules them for less: some 2,000
    /// instructions for a request that comes alone.
    One {
        stop: oneshot::Sender<Duration>,
        ended: mpsc::Receiver<()>,
    },
    Several(Runtime),
}

impl Workers {
    /// Starts `threads`, by default one per core.
    pub fn start(threads: Option<usize>) -> io::Result<Self> {
        let cores = || available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or_else(cores);
        if threads > 1 {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads).thread_name(NAME);
            let runtime = builder.enable_all().build()?;
            return Ok(Self {
                handle: runtime.handle().clone(),
                kind: WorkerKind::Several(runtime),
            });
        }
        let runtime = single()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = mpsc::channel();
        thread::Builder::new().name(NAME.into()).spawn(move || {
            let time = runtime.block_on(stopped).unwrap_or_default();
            runtime.shutdown_timeout(time);
            drop(end);
        })?;
        let kind = WorkerKind::One { stop, ended };
        Ok(Self { handle, kind })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Drops all tasks, and waits at most for `time` for those that hold a thread.
    pub fn stop(self, time: Duration) {
        match self.kind {
            WorkerKind::One { stop, ended } => {
                if stop.send(time).is_ok() {
                    _ = ended.recv_timeout(time);
                }
            }
            WorkerKind::Several(runtime) => runtime.shutdown_timeout(time),
        }
    }
}

/// Creates a runtime on the thread that blocks on it, for work outside requests.
pub fn single() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use edgeway_base::clock::Clock;

    use super::*;

    #[test]
    fn workers_run_tasks_and_stop_though_one_is_held() {
        for threads in 1..3 {
            let workers = Workers::start(Some(threads)).unwrap();
            let name = async { thread::current().name().map(str::to_owned) };
            let name = workers.handle().block_on(workers.handle().spawn(name));
            assert_eq!(name.unwrap().as_deref(), Some(NAME));
            let (free, held) = mpsc::channel::<()>();
            let (hold, holds) = mpsc::channel();
            workers.handle().spawn(async move {
                hold.send(()).unwrap();
                held.recv()
            });
            holds.recv().unwrap();
            let began = Clock::default().now();
            workers.stop(Duration::from_millis(50));
            let took = Clock::default().now() - began;
            assert!(took < Duration::from_secs(5), "{threads}");
            drop(free);
        }
    }
}
