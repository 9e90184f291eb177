//! Position in the log from which a gateway continues, if its storage is older than its process.

use super::{super::log::Position, PurgeLink};

impl PurgeLink {
    /// Returns the position up to which the log is applied to storage here. Persistent storage has
    /// to record a position taken before its content was written, for [`PurgeLink::resume`].
    pub fn position(&self) -> Option<Position> {
        self.state.lock().follower.position().cloned()
    }

    /// Continues from `position`, because storage was taken over from another process or from disk
    /// as it was then. Without this call, everything stored when the link is first established is
    /// dropped.
    ///
    /// May be called at any time: an entry applied twice does no harm, and no store skips an entry
    /// that was not applied to it.
    pub fn resume(&self, position: Position) {
        let mut state = self.state.lock();
        let now_at = state.resume.as_ref().or(state.follower.position());
        let is_behind = now_at.is_some_and(|now_at| now_at.id < position.id);
        if is_behind {
            state.then = Some(position);
        } else if let Some(later) = state.resume.replace(position) {
            state.then.get_or_insert(later);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Returns true if all entries of the log are applied to storage here, since the link was
    /// established or resumed.
    pub fn has_caught_up(&self) -> bool {
        let state = self.state.lock();
        state.has_caught_up && state.resume.is_none() && state.then.is_none()
    }

    /// Returns true if the log cannot be reached.
    pub fn is_unreachable(&self) -> bool {
        self.state.lock().last_error.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::{
        base::{clock::Clock, metrics::Metrics},
        purge::{Caches, Purge, WaitScope, log::Id},
    };

    struct Nothing;

    impl Caches for Nothing {
        fn apply<'a>(&'a self, purges: &'a [Purge]) -> BoxFuture<'a, Vec<u64>> {
            Box::pin(async move { vec![0; purges.len()] })
        }

        fn settle(&self, _awaited: WaitScope) -> BoxFuture<'_, bool> {
            Box::pin(async { true })
        }

        fn forget(&self) -> BoxFuture<'_, u64> {
            Box::pin(async { 0 })
        }
    }

    fn at(number: u64) -> Position {
        Position {
            id: Id(number, 0),
            drawn: number.to_string(),
        }
    }

    #[track_caller]
    fn assert_goes_on(positions: &[u64], first: u64, then: Option<u64>) {
        let link = PurgeLink::new("a", Arc::new(Nothing), &Clock::test(), &Metrics::default());
        for number in positions {
            link.resume(at(*number));
        }
        assert!(!link.has_caught_up());
        let state = link.state.lock();
        assert_eq!(state.resume, Some(at(first)), "{positions:?}");
        assert_eq!(state.then, then.map(at), "{positions:?}");
    }

    #[test]
    fn the_link_resumes_at_the_earliest_position() {
        assert_goes_on(&[5], 5, None);
        // Memory of another process, then a folder with a later position, and the other way round.
        assert_goes_on(&[5, 9], 5, Some(9));
        assert_goes_on(&[9, 5], 5, Some(9));
        assert_goes_on(&[5, 5], 5, Some(5));
        let link = PurgeLink::new("a", Arc::new(Nothing), &Clock::test(), &Metrics::default());
        link.state.lock().follower.resume(at(7));
        link.resume(at(9));
        assert_eq!(link.state.lock().resume, None);
        assert_eq!(link.state.lock().then, Some(at(9)));
        link.resume(at(3));
        assert_eq!(link.state.lock().resume, Some(at(3)));
    }
}
