//! Tells work that only watches traffic that there is some. While no client sends anything, such
//! work waits, so that a gateway that nobody uses causes no wake-ups.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// Signs of life of the clients of a process.
///
/// A sign costs one load, unless it is the first since the task that checks deadlines has looked.
#[derive(Debug, Default)]
pub struct Activity {
    /// True if there was a sign since [`Activity::take`].
    is_touched: AtomicBool,
    /// True while no request is in flight, and there was no sign for a while.
    is_quiet: AtomicBool,
    /// Number of signs that woke somebody.
    signs: AtomicU64,
    wake: Notify,
}

/// Moment at which a process was quiet.
#[derive(Clone, Copy, Debug)]
pub struct QuietMoment(u64);

impl Activity {
    /// Records that a client connected or sent something.
    #[inline]
    pub fn touch(&self) {
        if !self.is_touched.load(Ordering::Relaxed) {
            self.tell();
        }
    }

    #[cold]
    fn tell(&self) {
        self.is_touched.store(true, Ordering::SeqCst);
        self.signs.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_waiters();
    }

    /// Returns true if there was a sign since the last call.
    pub(super) fn take(&self) -> bool {
        self.is_touched.swap(false, Ordering::SeqCst)
    }

    /// Sets whether the process is quiet.
    pub fn set_quiet(&self, is_quiet: bool) {
        self.is_quiet.store(is_quiet, Ordering::SeqCst);
    }

    /// Waits for a sign after the last [`Activity::take`].
    pub(super) async fn touched(&self) {
        self.wait_while(|| !self.is_touched.load(Ordering::SeqCst))
            .await;
    }

    /// Returns this moment if the process is quiet.
    pub fn quiet(&self) -> Option<QuietMoment> {
        let moment = QuietMoment(self.signs.load(Ordering::SeqCst));
        let is_quiet =
            self.is_quiet.load(Ordering::SeqCst) && !self.is_touched.load(Ordering::SeqCst);
        is_quiet.then_some(moment)
    }

    /// Waits for the first sign after a quiet moment.
    pub async fn sign_after(&self, moment: QuietMoment) {
        self.wait_while(|| self.signs.load(Ordering::SeqCst) == moment.0)
            .await;
    }

    async fn wait_while(&self, is_silent: impl Fn() -> bool) {
        loop {
            let mut woken = pin!(self.wake.notified());
            // Registered before the look: a sign after the look wakes it.
            woken.as_mut().enable();
            if !is_silent() {
                return;
            }
            woken.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_wait_ends_with_the_next_sign_and_not_before() {
        let activity = Activity::default();
        assert!(activity.quiet().is_none(), "nobody has called it quiet");
        activity.set_quiet(true);
        let quiet = activity.quiet().unwrap();
        let waits = || async { tokio::join!(activity.touched(), activity.sign_after(quiet)) };
        assert!(tokio::time::timeout(SHORT, waits()).await.is_err());
        let sign = async {
            tokio::time::sleep(SHORT).await;
            activity.touch();
        };
        tokio::join!(waits(), sign);
        assert!(activity.quiet().is_none());
        // It is news until it is taken.
        activity.touched().await;
        assert!(activity.take() && !activity.take());
        assert!(
            tokio::time::timeout(SHORT, activity.touched())
                .await
                .is_err()
        );
        // A sign since the moment counts, even if it was taken.
        activity.sign_after(quiet).await;
    }

    #[test]
    fn no_sign_is_lost_between_threads() {
        let activity = Arc::<Activity>::default();
        activity.set_quiet(true);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let theirs = Arc::clone(&activity);
        let clients = std::thread::spawn(move || {
            for () in asked {
                theirs.touch();
            }
        });
        runtime.block_on(async {
            for _ in 0..10_000 {
                activity.take();
                let quiet = activity.quiet().expect("the last sign is taken");
                ask.send(()).unwrap();
                let both = async { tokio::join!(activity.touched(), activity.sign_after(quiet)) };
                let woken = tokio::time::timeout(Duration::from_secs(30), both).await;
                woken.expect("the sign wakes them");
            }
        });
        drop(ask);
        clients.join().unwrap();
    }
}
