//! Threads that make images: as many at once as there are threads, with a bounded queue before
//! them, and each image once for all who wait for it.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
    thread,
};

use edgeway_base::system;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

/// Priority of the threads below that of others in this process: traffic comes first.
const NICE: i32 = 10;

/// No place is left in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many images are being made")]
pub struct QueueFull;

/// Threads that make values of `T` for keys of `K`.
pub struct Workers<K, T> {
    shared: Arc<SharedQueue<K, T>>,
    threads: usize,
    queue: usize,
}

struct SharedQueue<K, T> {
    state: Mutex<State<K, T>>,
    is_waiting: Condvar,
}

struct State<K, T> {
    jobs: VecDeque<Job<K, T>>,
    /// Values that are being made, or wait for a thread.
    in_flight: HashMap<K, watch::Receiver<Option<Arc<T>>>>,
    /// Threads that were started; they are, once there is work.
    started: usize,
    idle: usize,
    is_ending: bool,
}

struct Job<K, T> {
    key: K,
    make: Box<dyn FnOnce() -> T + Send>,
    result: watch::Sender<Option<Arc<T>>>,
}

impl<K: Clone + Eq + Hash + Send + 'static, T: Send + Sync + 'static> Workers<K, T> {
    /// Creates workers that use at most `threads` threads, and have at most `queue` jobs waiting.
    pub fn new(threads: usize, queue: usize) -> Self {
        Self {
            shared: Arc::new(SharedQueue {
                state: Mutex::new(State {
                    jobs: VecDeque::new(),
                    in_flight: HashMap::new(),
                    started: 0,
                    idle: 0,
                    is_ending: false,
                }),
                is_waiting: Condvar::new(),
            }),
            threads,
            queue,
        }
    }

    /// Returns the value for `key`, made by `make` unless it is being made already. `None` if it
    /// was not made: `make` has panicked.
    pub async fn get(
        &self,
        key: K,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<Arc<T>>, QueueFull> {
        let mut result = self.begin(key, make)?;
        let image = result.wait_for(Option::is_some).await;
        Ok(image.ok().and_then(|image| image.clone()))
    }

    /// Begins to make the value for `key`, unless that is in flight.
    pub(crate) fn begin(
        &self,
        key: K,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Result<watch::Receiver<Option<Arc<T>>>, QueueFull> {
        let mut state = self.shared.state.lock();
        if let Some(result) = state.in_flight.get(&key) {
            return Ok(result.clone());
        }
        if state.jobs.len() >= self.queue {
            return Err(QueueFull);
        }
        let (sender, receiver) = watch::channel(None);
        state.in_flight.insert(key.clone(), receiver.clone());
        state.jobs.push_back(Job {
            key,
            make: Box::new(make),
            result: sender,
        });
        if state.idle == 0 && state.started < self.threads {
            let shared = Arc::clone(&self.shared);
            let name = "image".to_owned();
            match thread::Builder::new()
                .name(name)
                .spawn(move || shared.work())
            {
                Ok(_) => state.started += 1,
                Err(error) => log::error!(error:%; "no thread for images"),
            }
        }
        if state.started == 0 {
            let job = state.jobs.pop_back();
            if let Some(job) = job {
                state.in_flight.remove(&job.key);
            }
            return Err(QueueFull);
        }
        self.shared.is_waiting.notify_one();
        Ok(receiver)
    }
}

impl<K, T> Drop for Workers<K, T> {
    fn drop(&mut self) {
        self.shared.state.lock().is_ending = true;
        self.shared.is_waiting.notify_all();
    }
}

impl<K: Eq + Hash, T> SharedQueue<K, T> {
    /// Works until the end of the workers.
    fn work(&self) {
        lower_priority();
        while let Some(job) = self.next() {
            // Nobody waits any more: the two receivers are those of the map and of this check.
            let is_wanted = job.result.receiver_count() > 1;
            let image = is_wanted
                .then(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(job.make)).ok())
                .flatten();
            self.state.lock().in_flight.remove(&job.key);
            job.result.send_replace(image.map(Arc::new));
        }
    }

    fn next(&self) -> Option<Job<K, T>> {
        let mut state = self.state.lock();
        loop {
            if state.is_ending {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            self.is_waiting.wait(&mut state);
            state.idle -= 1;
        }
    }
}

/// Lowers the priority of this thread.
fn lower_priority() {
    if let Some(thread) = system::this_thread()
        && let Err(error) = rustix::process::setpriority_process(Some(thread), NICE)
    {
        log::debug!(error:%; "priority of a thread for images not lowered");
    }
}
