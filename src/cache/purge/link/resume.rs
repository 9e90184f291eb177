//! Where in the log a gateway goes on from, if it keeps what was kept before it began.

use super::{super::log::Position, Link};

impl Link {
    /// How far the log is applied to what is kept here. Whatever is kept beyond this process
    /// is to be kept with a position from before it was written, for [`Link::resume`].
    pub fn position(&self) -> Option<Position> {
        self.state.lock().follower.position().cloned()
    }

    /// What is kept here comes from another process, or from disk, as it was at `position`.
    /// Without this, what is there when the link is first made is dropped.
    ///
    /// It may be asked for at any time: what is applied again does no harm, and nothing that
    /// is kept already is taken past what it has not seen.
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

    /// Whether everything that the log held is applied to what is kept here, since the link was
    /// made or was told to resume.
    pub fn has_caught_up(&self) -> bool {
        let state = self.state.lock();
        state.has_caught_up && state.resume.is_none() && state.then.is_none()
    }

    /// Whether the log cannot be reached.
    pub fn is_cut_off(&self) -> bool {
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
        cache::purge::{Awaited, Caches, Purge, log::Id},
    };

    struct Nothing;

    impl Caches for Nothing {
        fn apply<'a>(&'a self, purges: &'a [Purge]) -> BoxFuture<'a, Vec<u64>> {
            Box::pin(async move { vec![0; purges.len()] })
        }

        fn settle(&self, _awaited: Awaited) -> BoxFuture<'_, bool> {
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
    fn assert_goes_on(asked: &[u64], first: u64, then: Option<u64>) {
        let link = Link::new("a", Arc::new(Nothing), &Clock::test(), &Metrics::default());
        for number in asked {
            link.resume(at(*number));
        }
        assert!(!link.has_caught_up());
        let state = link.state.lock();
        assert_eq!(state.resume, Some(at(first)), "{asked:?}");
        assert_eq!(state.then, then.map(at), "{asked:?}");
    }

    #[test]
    fn nothing_that_is_kept_is_taken_past_what_it_has_not_seen() {
        assert_goes_on(&[5], 5, None);
        // Memory of another process, then a folder that is further on, and the other way.
        assert_goes_on(&[5, 9], 5, Some(9));
        assert_goes_on(&[9, 5], 5, Some(9));
        assert_goes_on(&[5, 5], 5, Some(5));
        let link = Link::new("a", Arc::new(Nothing), &Clock::test(), &Metrics::default());
        link.state.lock().follower.resume(at(7));
        link.resume(at(9));
        assert_eq!(link.state.lock().resume, None);
        assert_eq!(link.state.lock().then, Some(at(9)));
        link.resume(at(3));
        assert_eq!(link.state.lock().resume, Some(at(3)));
    }
}
