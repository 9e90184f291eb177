//! The stream of sections that have changed, for pages with script.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::{ConnectInfo, Query, State},
    response::{
        IntoResponse as _, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;

use super::{PageView, csrf, view};
use crate::{
    base::secret::Secret,
    live::history::{Follower, RequestQuery},
    status::{
        actions::ActionError,
        http::{AdminState, PeerAddress, extract::UrlPart, guard::Admission},
    },
};

/// Interval of the sections, as of the records of recent traffic.
const INTERVAL: Duration = Duration::from_secs(2);
/// Interval of the requests that have ended.
const LOOK: Duration = Duration::from_millis(250);
/// Number of requests that are sent at once. Of more, nobody could read the others.
const MAX_REQUESTS: usize = 50;
/// Time that a client may take to read what was sent to it.
const SLOWEST: Duration = Duration::from_secs(30);
/// Time after which a browser connects again.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn follow(
    State(served): State<AdminState>,
    ConnectInfo(peer): ConnectInfo<PeerAddress>,
    Extension(admission): Extension<Admission>,
    UrlPart(Query(query)): UrlPart<Query<RequestQuery>>,
) -> Response {
    let Some(permit) = served.sessions.reader() else {
        let message = "there are too many readers of the page: close one of them";
        return ActionError::new(503, "too_many_readers", message).into_response();
    };
    let followed = FollowedPage {
        token: served.actions.token(),
        tail: served.source.history().follow(query, None),
        until_sections: Duration::ZERO,
        served,
        peer,
        admission,
        sent: HashMap::new(),
        is_first: true,
        _permit: permit,
    };
    let events = stream::unfold(followed, |mut followed| async move {
        let events = followed.next().await?;
        Some((
            stream::iter(events.into_iter().map(Ok::<_, Infallible>)),
            followed,
        ))
    });
    Sse::new(events.flatten()).into_response()
}

/// State of one stream.
struct FollowedPage {
    served: AdminState,
    peer: PeerAddress,
    admission: Admission,
    /// Token that was required when the stream began.
    token: Option<Secret>,
    /// The sections as they were sent last.
    sent: HashMap<&'static str, String>,
    /// Requests as they end, unless too many others follow them.
    tail: Option<Follower>,
    /// Time until the sections are rendered again.
    until_sections: Duration,
    is_first: bool,
    _permit: OwnedSemaphorePermit,
}

impl FollowedPage {
    /// Waits for the next events; returns `None` at the end of the stream.
    async fn next(&mut self) -> Option<Vec<Event>> {
        // Called only once the client has read nearly everything before.
        self.peer.life.allow(SLOWEST);
        loop {
            let mut events = Vec::new();
            if std::mem::take(&mut self.is_first) {
                events.push(Event::default().retry(AGAIN));
            } else {
                tokio::select! {
                    () = self.peer.open.closed() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            let token = self.served.actions.token();
            let is_current = self
                .admission
                .is_current(&self.served.sessions, token.as_ref());
            if self.peer.open.is_closed() || token != self.token || !is_current {
                return None;
            }
            self.until_sections = self.until_sections.saturating_sub(LOOK);
            if self.until_sections.is_zero() {
                self.until_sections = INTERVAL;
                events.extend(self.changed());
                if events.is_empty() {
                    events.push(Event::default().comment(""));
                }
            }
            events.extend(self.ended());
            if !events.is_empty() {
                return Some(events);
            }
        }
    }

    /// Returns the requests that have ended, if there are any.
    fn ended(&mut self) -> Option<Event> {
        let lines = self.tail.as_mut()?.take().lines;
        let left_out = lines.len().saturating_sub(MAX_REQUESTS);
        let lines = lines[left_out..].iter();
        // Escaped controls and U+FFFD make each line text without line ends.
        let lines: Vec<_> = lines
            .map(|line| String::from_utf8_lossy(line.json.trim_ascii_end()))
            .collect();
        let data = || {
            Event::default()
                .event("requests")
                .data(format!("[{}]", lines.join(",")))
        };
        (!lines.is_empty()).then(data)
    }

    /// Renders the sections, and returns an event for each that has changed.
    fn changed(&mut self) -> Vec<Event> {
        let snapshot = self.served.source.snapshot();
        let view = PageView {
            bans: self.served.source.bans(),
            csrf: csrf(&self.served, &self.admission),
            may_leave: self.admission.session().is_some(),
            snapshot: &snapshot,
        };
        let mut events = Vec::new();
        for (id, section) in view::sections(&view) {
            let html = section.into_string();
            if self.sent.get(id) == Some(&html) {
                continue;
            }
            // JSON has no line ends, which would end the event.
            let data = serde_json::json!({ "id": id, "html": html }).to_string();
            events.push(Event::default().event("section").data(data));
            self.sent.insert(id, html);
        }
        events
    }
}
