//! Streams of events: the conditions under which they go on, and the pauses between their events.

use std::time::Duration;

use axum::response::sse::Event;
use edgeway_base::secret::Secret;

use super::{AdminState, PeerAddress, guard::Admission};

/// Time that a client may take to read what was sent to it.
const SLOWEST: Duration = Duration::from_secs(30);
/// Time after which a browser connects again.
const AGAIN: Duration = Duration::from_millis(500);

/// A stream that somebody reads.
pub(super) struct OpenStream {
    pub(super) served: AdminState,
    pub(super) admission: Admission,
    peer: PeerAddress,
    /// Token that was required when the stream began.
    token: Option<Secret>,
}

impl OpenStream {
    pub(super) fn new(served: AdminState, peer: PeerAddress, admission: Admission) -> Self {
        Self {
            token: served.actions.token(),
            served,
            admission,
            peer,
        }
    }

    /// The event that every stream begins with.
    pub(super) fn first() -> Event {
        Event::default().retry(AGAIN)
    }

    /// Gives the client time to read. Called only once it has read nearly everything before.
    pub(super) fn allow_reading(&self) {
        self.peer.life.allow(SLOWEST);
    }

    /// Returns true until the listener is closed, the token is another one, or the session has
    /// ended.
    pub(super) fn is_current(&self) -> bool {
        !self.is_closed() && self.is_admitted()
    }

    /// Returns true once the listener is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.peer.open.is_closed()
    }

    /// Returns true until the token is another one, or the session has ended.
    pub(super) fn is_admitted(&self) -> bool {
        let token = self.served.actions.token();
        let sessions = &self.served.sessions;
        token == self.token && self.admission.is_current(sessions, token.as_ref())
    }

    /// Waits for this time, or until the listener is closed.
    pub(super) async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.peer.open.closed() => {}
            () = tokio::time::sleep(time) => {}
        }
    }
}
