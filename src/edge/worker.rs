//! The runtime that connections run on: one multi-threaded tokio runtime.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// The runtime of listeners, requests and background work.
///
/// `threads` is one for each core if absent.
pub fn runtime(threads: Option<usize>) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.max(1));
    }
    builder.thread_name("edgeway-worker").enable_all().build()
}
