//! Transfer of stored responses from the predecessor and to the successor. A failure only means a
//! colder cache.

use std::{io, os::fd::OwnedFd, sync::Arc};

use edgeway_base::{system, units::millis};
use edgeway_cache::{
    Cache,
    purge::SuccessorPurge,
    store::EntryRules,
    succession::{self, InheritingStore, TransferTotals},
};
use edgeway_gateway::Gateway;
use edgeway_proxy::live::Live;
use log::{debug, info, warn};
use tokio::net::unix::pipe;

/// Capacity of the pipe, large enough that the reader has work while the writer pauses.
const PIPE: usize = 1 << 20;

/// The reading end, which the successor inherits, and the writing end.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = system::pipe()?;
    if let Err(error) = system::enlarge_pipe(&write, PIPE) {
        debug!(error:%; "cannot enlarge the pipe for the cache");
    }
    Ok((read, write))
}

/// Sends the whole cache to the successor.
pub(super) async fn give(cache: &Cache, pipe: OwnedFd, live: &Live) {
    let sender = match pipe::Sender::from_owned_fd(pipe) {
        Ok(pipe) => succession::give(cache.store(), &live.world.clock, pipe).await,
        Err(error) => Err(error),
    };
    match sender {
        Ok(TransferTotals {
            entries,
            bytes,
            took,
            ..
        }) => {
            let ms = millis(took);
            info!(entries, bytes, ms; "cache handed over to the successor");
        }
        // The successor may have no cache any more, for example, or a smaller one.
        Err(error) => info!(error:%; "successor takes no more of the cache"),
    }
}

/// The predecessor's cache.
pub(super) struct InheritedCache {
    pipe: OwnedFd,
    cache: Arc<Cache>,
    inheriting: InheritingStore,
}

impl InheritedCache {
    /// Prepares the transfer. Must be called before clients can reach this process.
    pub(super) fn prepare(pipe: Option<OwnedFd>, gateway: &Gateway) -> Option<Self> {
        let (pipe, cache) = (pipe?, gateway.cache.clone()?);
        let inheriting = InheritingStore::new(cache.store());
        Some(Self {
            pipe,
            cache,
            inheriting,
        })
    }

    /// Receives stored responses until the predecessor has sent all.
    pub(super) async fn take(self, live: Arc<Live>) {
        let cache = self.cache;
        let pipe = match pipe::Receiver::from_owned_fd(self.pipe) {
            Ok(pipe) => pipe,
            Err(error) => return warn!(error:%; "cannot take over the cache"),
        };
        let clock = live.world.clock.clone();
        let abouts = Arc::new(move |route: &str| about(&live.gateway(), &cache, route));
        let (moved, outcome) = self.inheriting.take(&clock, pipe, abouts).await;
        let (entries, bytes, left_out) = (moved.entries, moved.bytes, moved.left_out);
        let ms = millis(moved.took);
        match outcome {
            Ok(()) => {
                info!(entries, bytes, left_out, ms; "cache taken over");
            }
            Err(error) => warn!(
                entries, bytes, left_out, ms, error:%;
                "cache taken over in part"
            ),
        }
    }
}

/// The cache settings that the route of this name has now.
fn about(gateway: &Gateway, cache: &Cache, route: &str) -> Option<EntryRules> {
    let now = gateway.cache.as_ref()?;
    if !std::ptr::eq(now.store(), cache.store()) {
        return None;
    }
    let route = gateway.routes.iter().find(|it| *it.name == *route)?;
    Some(route.cache.as_ref()?.about())
}

/// Applies a removal that a predecessor made in its cache.
pub(super) fn heed(live: &Arc<Live>, note: SuccessorPurge) {
    let Some(cache) = live.gateway().cache.clone() else {
        return;
    };
    live.background.spawn("purge", async move {
        cache.heed(note).await;
    });
}
