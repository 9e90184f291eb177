//! The stream of sections that have changed, for pages with script.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::{ConnectInfo, State},
    response::{
        IntoResponse,
        sse::{Event, Sse},
    },
};
use edgeway_proxy::live::history::{FollowedRequests, Follower, RequestQuery};
use futures_util::{StreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;

use super::{csrf, rendered};
use crate::{
    actions::ActionError,
    http::{
        AdminState, PeerAddress, extract::QueryPart, guard::Admission, off_thread,
        stream::OpenStream,
    },
};

/// Interval at which a stream looks for what is new.
const LOOK: Duration = Duration::from_millis(250);
/// Number of requests that are sent at once. Of more, nobody could read the others.
const MAX_REQUESTS: usize = 50;

pub(super) async fn follow(
    State(served): State<AdminState>,
    ConnectInfo(peer): ConnectInfo<PeerAddress>,
    Extension(admission): Extension<Admission>,
    QueryPart(query): QueryPart<RequestQuery>,
) -> Result<impl IntoResponse, ActionError> {
    let Some(permit) = served.sessions.reader() else {
        let message = "there are too many readers of the page: close one of them";
        return Err(ActionError::new(503, "too_many_readers", message));
    };
    let follower = served.source.history().follow(query, None);
    let followed = FollowedPage {
        tail: Tail::begin(follower).await?,
        open: OpenStream::new(served, peer, admission),
        sent: HashMap::new(),
        interval: None,
        _permit: permit,
    };
    let events = stream::unfold(followed, |mut followed| async move {
        let events = followed.next().await?;
        Some((
            stream::iter(events.into_iter().map(Ok::<_, Infallible>)),
            followed,
        ))
    });
    Ok(Sse::new(events.flatten()))
}

/// State of one stream.
struct FollowedPage {
    open: OpenStream,
    /// The sections as they were sent last.
    sent: HashMap<&'static str, String>,
    tail: Tail,
    /// Interval of the sections that were sent last; `None` at the beginning.
    interval: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

impl FollowedPage {
    /// Waits for the next events; returns `None` at the end of the stream.
    async fn next(&mut self) -> Option<Vec<Event>> {
        self.open.allow_reading();
        loop {
            let mut events = Vec::new();
            let is_first = self.interval.is_none();
            if is_first {
                events.push(OpenStream::first());
                events.extend(self.tail.problem());
            } else {
                self.open.pause(LOOK).await;
            }
            if !self.open.is_current() {
                return None;
            }
            let served = &self.open.served;
            let interval = served.sections.interval();
            if self.interval != Some(interval) {
                // Sections that are older than the page would show it another state again.
                let sections = if is_first {
                    rendered::render(&served.source).await
                } else {
                    served.sections.sections_for(interval, &served.source).await
                };
                self.interval = Some(interval);
                let sections = sections.ok()?;
                events.extend(self.changed(&sections));
                events.extend(events.is_empty().then(|| Event::default().comment("")));
            }
            events.extend(self.tail.ended());
            if !events.is_empty() {
                return Some(events);
            }
        }
    }

    /// Returns an event for each section that has changed.
    fn changed(&mut self, sections: &rendered::Sections) -> Vec<Event> {
        let csrf = csrf(&self.open.served, &self.open.admission);
        let mut events = Vec::new();
        for (id, section) in sections {
            let html = rendered::filled(section, csrf.as_deref());
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

/// Requests as they end.
struct Tail {
    /// `None` if too many others follow them.
    follower: Option<Follower>,
    /// The requests that ended before the stream began.
    before: FollowedRequests,
}

impl Tail {
    /// Reads the requests that have ended, which may be many.
    async fn begin(follower: Option<Follower>) -> Result<Self, ActionError> {
        off_thread(move || {
            let mut follower = follower;
            let before = follower.as_mut().map(Follower::take).unwrap_or_default();
            Self { follower, before }
        })
        .await
    }

    /// Returns the reason why no requests will come.
    fn problem(&self) -> Option<Event> {
        let text = "without new requests: too many other readers";
        let event = || Event::default().event("unfollowed").data(text);
        self.follower.is_none().then(event)
    }

    /// Returns the requests that have ended, if there are any.
    fn ended(&mut self) -> Option<Event> {
        let mut lines = std::mem::take(&mut self.before).lines;
        lines.extend(self.follower.as_mut()?.take().lines);
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
}
