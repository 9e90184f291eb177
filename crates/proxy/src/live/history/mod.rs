//! The requests that ended last, for the operators of the running gateway.
//!
//! They are kept apart by kind, so that neither traffic nor refusals push errors out, and by
//! thread, so that requests do not wait for one another. A request is written once, without its
//! secrets. Readers turn records into lines; they cost requests nothing, and one that is slow
//! misses those that were overwritten meanwhile.

mod query;
mod ring;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use edgeway_base::lanes::Lanes;
use edgeway_core::chain::{LoggedRequest, Text};
use edgeway_core_filters::access_log::{Line, Redactor};
use edgeway_net::log_file::TimestampCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use self::query::RequestQuery;
use self::ring::Ring;

/// Number of requests of each kind that are kept by all threads together, if one thread for each
/// core writes.
const KEPT: usize = 4000;
/// Bounds of the number for one thread.
const MOST_OF_A_LANE: usize = 1000;
const LEAST_OF_A_LANE: usize = 64;

/// Age of the errors that say which is the most frequent one.
const RECENT_ERRORS: Duration = Duration::from_secs(10);

/// Maximum number of followers.
const FOLLOWERS: usize = 16;
/// Maximum number of requests that a follower reads while requests wait for the lane.
const BATCH: u64 = 500;

/// Redactor of records, which have no secrets.
static NOTHING: LazyLock<Redactor> = LazyLock::new(Redactor::none);

/// The requests that ended last.
pub struct RequestHistory {
    lanes: Lanes<Lane>,
    followers: Arc<Semaphore>,
}

/// The rings of the threads that write here.
struct Lane([Ring; Kind::ALL.len()]);

/// Kind of a request. Each has its own ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Neither of the others.
    Plain,
    /// The request was refused, or something else was out of the ordinary.
    WithReason,
    /// The request was served, but degraded.
    Degraded,
    /// The gateway or a backend failed it.
    Failed,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Plain, Self::WithReason, Self::Degraded, Self::Failed];

    fn classify(request: &LoggedRequest<'_>) -> Self {
        if request.fixed.is_failed() {
            Self::Failed
        } else if request.fixed.is_degraded {
            Self::Degraded
        } else if request.fixed.reason.is_some() {
            Self::WithReason
        } else {
            Self::Plain
        }
    }
}

impl Default for RequestHistory {
    fn default() -> Self {
        // There are two lanes for each core.
        let share = 2 * KEPT / Lanes::<Lane>::usual_number();
        Self::with_capacity(share.clamp(LEAST_OF_A_LANE, MOST_OF_A_LANE))
    }
}

impl RequestHistory {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            lanes: Lanes::new(|| Lane(std::array::from_fn(|_| Ring::new(capacity)))),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        }
    }

    /// Adds a request that is over.
    pub fn push(&self, request: &LoggedRequest<'_>, redact: &Redactor) {
        let kind = Kind::classify(request);
        self.lanes.enter().0[kind as usize].push(request, redact);
    }

    /// Returns the latest requests that match, one JSON line each, the oldest first.
    pub fn latest(&self, query: &RequestQuery) -> Vec<u8> {
        let number = query.number();
        let mut lines = Vec::new();
        for lane in self.lanes.iter() {
            let lane = lane.lock();
            for (_, ring) in lane.rings(query) {
                let stored = ring.numbers().rev().map(|number| ring.get(number));
                let matching = stored.filter(|request| query.matches(request));
                lines.extend(
                    matching
                        .take(number)
                        .map(|request| HistoryLine::new(&request)),
                );
            }
        }
        HistoryLine::sort(&mut lines, number);
        lines.into_iter().flat_map(|line| line.json).collect()
    }

    /// Returns by route the most frequent error of the last seconds: its status, reason and backend.
    pub fn most_errors(&self, now: SystemTime) -> HashMap<String, String> {
        let mut counts: HashMap<(String, String), u32> = HashMap::new();
        for lane in self.lanes.iter() {
            let lane = lane.lock();
            let ring = &lane.0[Kind::Failed as usize];
            for number in ring.numbers().rev() {
                let request = ring.get(number);
                let ago = now.duration_since(request.fixed.ended).unwrap_or_default();
                if ago > RECENT_ERRORS {
                    break;
                }
                let route = request.plain(Text::Route);
                let route = String::from_utf8_lossy(route).into_owned();
                *counts.entry((route, error_of(&request))).or_default() += 1;
            }
        }
        let mut routes: HashMap<String, (u32, String)> = HashMap::new();
        for ((route, error), count) in counts {
            let worst = routes.entry(route).or_default();
            *worst = mem::take(worst).max((count, error));
        }
        let words = |(route, (_, error))| (route, error);
        routes.into_iter().map(words).collect()
    }

    /// Begins to follow the requests that match, after those that ended before or at `after`, or
    /// else after as many as the query names. Returns `None` if there are too many followers.
    pub fn follow(self: &Arc<Self>, query: RequestQuery, after: Option<u64>) -> Option<Follower> {
        let permit = Arc::clone(&self.followers).try_acquire_owned().ok()?;
        let before = match after {
            Some(_) => usize::MAX,
            None => query.number_before(),
        };
        let mut missed = 0;
        let cursors = self.lanes.iter().map(|lane| {
            let lane = lane.lock();
            Kind::ALL.map(|kind| {
                let ring = &lane.0[kind as usize];
                let numbers = ring.numbers();
                if before == 0 {
                    return numbers.end;
                }
                let is_lost = after.is_some_and(|known| {
                    if !query.may_match(kind) {
                        return false;
                    }
                    let overwritten = ring.overwritten;
                    overwritten.is_some_and(|ended| micros(ended) > known)
                });
                missed += u64::from(is_lost);
                numbers.start
            })
        });
        let cursors = cursors.collect();
        Some(Follower {
            missed,
            cursors,
            history: Arc::clone(self),
            before: (before > 0).then_some(before),
            after: after.unwrap_or(0),
            query,
            _permit: permit,
        })
    }
}

/// Returns the words for an error: `502 refused of web/127.0.0.1:3000`.
fn error_of(request: &LoggedRequest<'_>) -> String {
    let mut words = request.fixed.status.to_string();
    if let Some(reason) = request.fixed.reason {
        words.push(' ');
        words.push_str(reason);
    }
    if let (Some(upstream), Some(backend)) =
        (request.text(Text::Upstream), request.text(Text::Backend))
    {
        let [upstream, backend] = [upstream, backend].map(String::from_utf8_lossy);
        words = format!("{words} of {upstream}/{backend}");
    }
    words
}

impl Lane {
    /// Returns the rings with requests that may match, each with its index.
    fn rings(&self, query: &RequestQuery) -> impl Iterator<Item = (usize, &Ring)> {
        let kinds = Kind::ALL.into_iter().filter(|kind| query.may_match(*kind));
        kinds.map(|kind| (kind as usize, &self.0[kind as usize]))
    }
}

/// A request as a line.
pub struct HistoryLine {
    ended: SystemTime,
    /// The fields of the access log, and a line end.
    pub json: Vec<u8>,
}

impl HistoryLine {
    fn new(request: &LoggedRequest<'_>) -> Self {
        let mut json = Vec::new();
        let line = Line {
            request,
            redact: &NOTHING,
        };
        line.put_json(&mut json, &mut TimestampCache::default());
        Self {
            ended: request.fixed.ended,
            json,
        }
    }

    /// Returns the end of the request in microseconds since 1970, by which a follower that lost its
    /// connection continues.
    pub fn id(&self) -> u64 {
        micros(self.ended)
    }

    /// Sorts by the end of the requests, and keeps the last ones.
    fn sort(lines: &mut Vec<Self>, keep: usize) {
        lines.sort_by_key(|line| line.ended);
        lines.drain(..lines.len().saturating_sub(keep));
    }
}

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A reader that takes requests as they end.
pub struct Follower {
    history: Arc<RequestHistory>,
    query: RequestQuery,
    /// Number of the next record to read, for each ring of each lane.
    cursors: Vec<[u64; Kind::ALL.len()]>,
    /// Number of requests that were overwritten before the follower began, at least.
    missed: u64,
    /// Maximum number of requests to take the first time.
    before: Option<usize>,
    /// Requests that ended before or at this time, in microseconds since 1970, are known.
    after: u64,
    _permit: OwnedSemaphorePermit,
}

/// Requests that ended since a follower looked last.
#[derive(Default)]
pub struct FollowedRequests {
    pub lines: Vec<HistoryLine>,
    /// Number of requests, matching or not, that were overwritten before they could be read, at
    /// least.
    pub missed: u64,
}

impl Follower {
    /// Takes the requests that ended since the last call: all of them, since a reader that comes
    /// back continues after the latest one that it knows, whichever ring that was in.
    pub fn take(&mut self) -> FollowedRequests {
        let before = self.before.take();
        let mut followed = FollowedRequests {
            lines: Vec::new(),
            missed: mem::take(&mut self.missed),
        };
        let ends = self.history.lanes.iter().map(|lane| {
            let lane = lane.lock();
            lane.0.each_ref().map(|ring| ring.numbers().end)
        });
        let ends: Vec<_> = ends.collect();
        let kinds = Kind::ALL.map(|kind| self.query.may_match(kind).then_some(kind as usize));
        for index in kinds.into_iter().flatten() {
            let cursors = self.cursors.iter_mut().zip(&ends);
            for (lane, (cursors, ends)) in self.history.lanes.iter().zip(cursors) {
                let (cursor, end) = (&mut cursors[index], ends[index]);
                while *cursor < end {
                    let lane = lane.lock();
                    let ring = &lane.0[index];
                    let stored = ring.numbers();
                    if *cursor < stored.start {
                        followed.missed += stored.start - *cursor;
                        *cursor = stored.start;
                    }
                    for number in *cursor..end.min(*cursor + BATCH) {
                        let request = ring.get(number);
                        if micros(request.fixed.ended) > self.after && self.query.matches(&request)
                        {
                            followed.lines.push(HistoryLine::new(&request));
                        }
                        *cursor = number + 1;
                    }
                }
            }
        }
        HistoryLine::sort(&mut followed.lines, before.unwrap_or(usize::MAX));
        if before.is_some() {
            // Only those that were there at the beginning may be known.
            self.after = 0;
        }
        followed
    }
}
