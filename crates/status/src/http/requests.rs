//! The requests that ended last, as lines and as a stream of events.

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::{ConnectInfo, State},
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use edgeway_proxy::live::history::{FollowedRequests, Follower, RequestQuery};
use futures_util::{StreamExt as _, stream};

use super::{
    AdminState, PeerAddress, Route, extract::QueryPart, guard::Admission, off_thread,
    stream::OpenStream,
};
use crate::actions::ActionError;

const JSON_LINES: &str = "application/x-ndjson";

/// Interval at which a follower looks for requests that ended.
const LOOK: Duration = Duration::from_millis(100);
/// Time without a request after which a comment shows that the stream lives.
const QUIET: Duration = Duration::from_secs(5);

pub(super) fn routes() -> Vec<Route> {
    routes! {
        GET "/v1/requests" => latest,
        GET "/v1/requests/stream" => follow,
    }
}

async fn latest(
    State(served): State<AdminState>,
    QueryPart(query): QueryPart<RequestQuery>,
) -> Result<impl IntoResponse, ActionError> {
    let history = served.source.history();
    let lines = off_thread(move || history.latest(&query)).await?;
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], lines))
}

async fn follow(
    State(served): State<AdminState>,
    ConnectInfo(peer): ConnectInfo<PeerAddress>,
    Extension(admission): Extension<Admission>,
    headers: HeaderMap,
    QueryPart(query): QueryPart<RequestQuery>,
) -> Result<Response, ActionError> {
    let after = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let Some(mut follower) = served.source.history().follow(query, after) else {
        let message = "there are too many readers of the stream: end one of them";
        return Err(ActionError::new(503, "too_many_readers", message));
    };
    // The first ones may be many.
    let taken = off_thread(move || {
        let before = follower.take();
        (follower, before)
    });
    let (follower, before) = taken.await?;
    let followed = FollowedStream {
        open: OpenStream::new(served, peer, admission),
        follower,
        before: Some(before),
        is_first: true,
        is_over: false,
        quiet: Duration::ZERO,
    };
    let events = stream::unfold(followed, |mut followed| async move {
        let events = followed.next().await?;
        Some((stream::iter(events), followed))
    });
    Ok(Sse::new(events.flatten()).into_response())
}

/// State of one stream.
struct FollowedStream {
    open: OpenStream,
    follower: Follower,
    /// The requests that ended before the stream began, until they are sent.
    before: Option<FollowedRequests>,
    is_first: bool,
    /// True once the listener is closed. What ended until then is still sent.
    is_over: bool,
    /// Time since the last event.
    quiet: Duration,
}

impl FollowedStream {
    /// Waits for the next events; returns `None` at the end of the stream.
    async fn next(&mut self) -> Option<Vec<Result<Event, Infallible>>> {
        self.open.allow_reading();
        while !self.is_over {
            if !self.open.is_admitted() {
                return None;
            }
            self.is_over = self.open.is_closed();
            let mut events = self.take();
            if std::mem::take(&mut self.is_first) {
                events.insert(0, OpenStream::first());
            } else if self.quiet >= QUIET {
                events.push(Event::default().comment(""));
            }
            if !events.is_empty() {
                self.quiet = Duration::ZERO;
                return Some(events.into_iter().map(Ok).collect());
            }
            self.open.pause(LOOK).await;
            self.quiet += LOOK;
        }
        None
    }

    fn take(&mut self) -> Vec<Event> {
        let requests = self.before.take();
        let requests = requests.unwrap_or_else(|| self.follower.take());
        let mut events = Vec::new();
        if requests.missed > 0 {
            let missed = serde_json::json!({ "missed": requests.missed }).to_string();
            events.push(Event::default().event("missed").data(missed));
        }
        events.extend(requests.lines.iter().map(|line| {
            // Escaped controls and U+FFFD make each line text without line ends.
            let json = String::from_utf8_lossy(line.json.trim_ascii_end());
            Event::default().id(line.id().to_string()).data(json)
        }));
        events
    }
}
