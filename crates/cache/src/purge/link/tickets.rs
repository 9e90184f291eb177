//! Purges that a caller waits for, or that are not over yet.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    super::{
        Purge,
        log::{Lease, LogResponse, Position, PublishResponse},
        receipt::{DEFAULT_WAIT, PeerStates, PeerView, Peers, Progress, Receipt, Waiting},
    },
    UnsentPurges,
    outgoing::is_written,
};

/// Time for which a purge is checked to be still in the log, with or without a waiting caller:
/// longer than a failover takes.
const TICKET_TTL: Duration = Duration::from_mins(1);
/// Number of purges that are kept after they are over.
const MAX_OVER: usize = 128;

/// A purge on its way to the other gateways.
pub(super) struct Ticket {
    inner: Mutex<TicketState>,
    over: Notify,
    began: Instant,
}

struct TicketState {
    drawn: String,
    purges: Arc<[Purge]>,
    /// `None` until the purge is in the log.
    waiting: Option<Waiting>,
    is_over: bool,
}

impl Ticket {
    /// Waits until the purge is over.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }

    /// Writes the state at the other gateways into the receipt.
    pub(super) fn tell(&self, receipt: &mut Receipt) {
        let inner = self.inner.lock();
        match &inner.waiting {
            Some(waiting) => waiting.tell(receipt, inner.is_over),
            None => receipt.others = PeerStates::Unreached,
        }
    }
}

#[derive(Default)]
pub(super) struct Tickets {
    open: Vec<Arc<Ticket>>,
    /// The last purges of operators that are over, with the time of each.
    over: VecDeque<(Instant, UnsentPurges)>,
}

impl Tickets {
    pub(super) fn open(&mut self, drawn: &str, purges: &Arc<[Purge]>, now: Instant) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket {
            inner: Mutex::new(TicketState {
                drawn: drawn.to_owned(),
                purges: Arc::clone(purges),
                waiting: None,
                is_over: false,
            }),
            over: Notify::new(),
            began: now,
        });
        self.open.push(Arc::clone(&ticket));
        ticket
    }

    /// Replaces every purge that is not in the log yet by this one.
    pub(super) fn replace(&mut self, drawn: &str, purges: &Arc<[Purge]>) {
        for ticket in &self.open {
            let mut inner = ticket.inner.lock();
            if inner.waiting.is_none() {
                drawn.clone_into(&mut inner.drawn);
                inner.purges = Arc::clone(purges);
            }
        }
    }

    /// Returns true if a caller may be waiting for a purge now.
    pub(super) fn are_waited_for(&self, now: Instant) -> bool {
        self.open
            .iter()
            .any(|ticket| now < ticket.began + DEFAULT_WAIT)
    }

    pub(super) fn published(
        &mut self,
        me: &str,
        published: &PublishResponse,
        peers: &Peers,
        now: Instant,
    ) {
        for ticket in &self.open {
            let mut inner = ticket.inner.lock();
            if inner.drawn == published.position.drawn {
                match &mut inner.waiting {
                    Some(waiting) => waiting.again(published, peers, now),
                    none => *none = Some(Waiting::new(me, published, peers)),
                }
            }
        }
    }

    /// Returns the positions of purges that are in the log and not over. Drops tickets that are too
    /// old to be checked.
    pub(super) fn expected(&mut self, now: Instant) -> Vec<Position> {
        self.open.retain(|ticket| now < ticket.began + TICKET_TTL);
        let places = self.open.iter().filter_map(|ticket| {
            let inner = ticket.inner.lock();
            let waiting = inner.waiting.as_ref();
            waiting.map(|waiting| waiting.position.clone())
        });
        places.collect()
    }

    /// Returns the purges that the log has lost and that have to be published again.
    pub(super) fn observe(
        &mut self,
        expected: &[Position],
        reply: &LogResponse,
        leases: &[Lease],
        peers: &Peers,
        doubt_until: Option<Instant>,
        now: Instant,
    ) -> Vec<UnsentPurges> {
        let mut lost = Vec::new();
        self.open.retain(|ticket| {
            let mut guard = ticket.inner.lock();
            let inner = &mut *guard;
            let Some(waiting) = &mut inner.waiting else {
                return true;
            };
            let place = expected.iter().position(|p| *p == waiting.position);
            // Published after the query was sent.
            let Some(is_there) = place.and_then(|at| reply.is_there.get(at)) else {
                return true;
            };
            let view = PeerView {
                generation: reply.generation.clone(),
                leases: leases.to_vec(),
                is_there: *is_there,
            };
            let unsent = || UnsentPurges {
                drawn: inner.drawn.clone(),
                purges: Arc::clone(&inner.purges),
            };
            match waiting.observe(&view, peers, doubt_until, now) {
                Progress::Waiting => true,
                Progress::Lost => {
                    lost.push(unsent());
                    true
                }
                Progress::Over => {
                    if !inner.purges.iter().all(is_written) {
                        self.over.push_back((now, unsent()));
                    }
                    inner.is_over = true;
                    ticket.over.notify_one();
                    false
                }
            }
        });
        let surplus = self.over.len().saturating_sub(MAX_OVER);
        self.over.drain(..surplus);
        lost
    }

    /// Returns the purges that were over within the last minute, to be published again: Redis may
    /// have lost them, and a gateway that followed another master meanwhile never had them.
    pub(super) fn take_recent(&mut self, now: Instant) -> impl Iterator<Item = UnsentPurges> {
        let over = std::mem::take(&mut self.over).into_iter();
        let recent = over.filter(move |(at, _)| now.saturating_duration_since(*at) < TICKET_TTL);
        recent.map(|(_, purges)| purges)
    }
}
