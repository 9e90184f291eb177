//! The requests that ended last, as lines and as a stream of events.

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
};
use futures_util::{StreamExt as _, stream};

use super::{AdminState, PeerAddress, Route, extract::UrlPart, guard::Admission};
use crate::{
    base::secret::Secret,
    live::history::{Follower, RequestQuery},
    status::actions::ActionError,
};

const JSON_LINES: &str = "application/x-ndjson";

/// Interval at which a follower looks for requests that ended.
const LOOK: Duration = Duration::from_millis(100);
/// Time without a request after which a comment shows that the stream lives.
const QUIET: Duration = Duration::from_secs(5);
/// Time that a client may take to read what was sent to it.
const SLOWEST: Duration = Duration::from_secs(30);
/// Time after which a browser connects again.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) fn routes() -> Vec<Route> {
    vec![
        (&["GET"], "/v1/requests", get(latest)),
        (&["GET"], "/v1/requests/stream", get(follow)),
    ]
}

async fn latest(
    State(served): State<AdminState>,
    UrlPart(Query(query)): UrlPart<Query<RequestQuery>>,
) -> Response {
    let lines = served.source.history().latest(&query);
    ([(header::CONTENT_TYPE, JSON_LINES)], lines).into_response()
}

async fn follow(
    State(served): State<AdminState>,
    ConnectInfo(peer): ConnectInfo<PeerAddress>,
    Extension(admission): Extension<Admission>,
    headers: HeaderMap,
    UrlPart(Query(query)): UrlPart<Query<RequestQuery>>,
) -> Response {
    let after = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let Some(follower) = served.source.history().follow(query, after) else {
        let message = "there are too many readers of the stream: end one of them";
        return ActionError::new(503, "too_many_readers", message).into_response();
    };
    let followed = FollowedStream {
        token: served.actions.token(),
        follower,
        served,
        peer,
        admission,
        is_first: true,
        is_over: false,
        quiet: Duration::ZERO,
    };
    let events = stream::unfold(followed, |mut followed| async move {
        let events = followed.next().await?;
        Some((stream::iter(events), followed))
    });
    Sse::new(events.flatten()).into_response()
}

/// State of one stream.
struct FollowedStream {
    follower: Follower,
    served: AdminState,
    peer: PeerAddress,
    admission: Admission,
    /// Token that was required when the stream began.
    token: Option<Secret>,
    is_first: bool,
    /// True once the listener is closed, or the token is another one.
    is_over: bool,
    /// Time since the last event.
    quiet: Duration,
}

impl FollowedStream {
    /// Waits for the next events; returns `None` at the end of the stream.
    async fn next(&mut self) -> Option<Vec<Result<Event, Infallible>>> {
        // Called only once the client has read nearly everything before.
        self.peer.life.allow(SLOWEST);
        while !self.is_over {
            let token = self.served.actions.token();
            self.is_over = self.peer.open.is_closed()
                || self.token != token
                || !self
                    .admission
                    .is_current(&self.served.sessions, token.as_ref());
            let mut events = self.take();
            if std::mem::take(&mut self.is_first) {
                events.insert(0, Event::default().retry(AGAIN));
            } else if self.quiet >= QUIET {
                events.push(Event::default().comment(""));
            }
            if !events.is_empty() {
                self.quiet = Duration::ZERO;
                return Some(events.into_iter().map(Ok).collect());
            }
            tokio::select! {
                () = self.peer.open.closed() => {}
                () = tokio::time::sleep(LOOK) => self.quiet += LOOK,
            }
        }
        None
    }

    fn take(&mut self) -> Vec<Event> {
        let taken = self.follower.take();
        let mut events = Vec::new();
        if taken.missed > 0 {
            let missed = serde_json::json!({ "missed": taken.missed }).to_string();
            events.push(Event::default().event("missed").data(missed));
        }
        events.extend(taken.lines.iter().map(|line| {
            // Escaped controls and U+FFFD make each line text without line ends.
            let json = String::from_utf8_lossy(line.json.trim_ascii_end());
            Event::default().id(line.id().to_string()).data(json)
        }));
        events
    }
}
