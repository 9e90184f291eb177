//! The runtimes: workers for connections, and the calling thread for all else.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// The runtime of listeners and requests.
///
/// `threads` is one for each core if absent.
pub fn runtime(threads: Option<usize>) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.max(1));
    }
    builder.thread_name("edgeway-worker").enable_all().build()
}

/// A runtime on the thread that blocks on it, for what is not a request's.
pub fn single() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
