//! Work that may wait for a disk, on threads that may block.

use tokio::{sync::Semaphore, task::spawn_blocking};

/// Threads that may wait for disks at once. A disk that hangs then delays files alone, and not all
/// other work of the process that needs such threads.
static TURNS: Semaphore = Semaphore::const_new(64);

/// Runs `work` on a thread that may block. `None` if it could not run, because the process ends.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let turn = TURNS.acquire().await.ok()?;
    let done = spawn_blocking(move || {
        // Held by the thread: the request may be gone long before the disk responds.
        let _turn = turn;
        work()
    });
    done.await.ok()
}
