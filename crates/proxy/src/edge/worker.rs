//! Runtimes: workers for connections, and the calling thread for everything else.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// Creates the runtime of listeners and requests.
///
/// `threads` defaults to one per core.
pub fn runtime(threads: Option<usize>) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.thread_name("edgeway-worker").enable_all().build()
}

/// Creates a runtime on the thread that blocks on it, for work outside requests.
pub fn single() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
