//! Live upstreams: named groups of backends, and which of them gets the next request.
//!
//! A configuration compiles to [`Upstream`]s. The proxy asks one for a place
//! ([`Upstream::acquire`]), connects to the lease's peer ([`Upstream::peer`]), and says
//! what came of it ([`Lease::finish`]). Balancers, health, ejection, retries and DNS are
//! inside; what they count outlives reloads in a zone.

mod backend;
mod balance;
mod compile;
mod dns;
mod eject;
mod handover;
mod health;
mod kept;
mod latency;
mod lease;
mod live;
mod members;
mod metrics;
mod operate;
mod peer;
mod queue;
mod retry;
mod scale;
mod snapshot;
mod supervise;
mod system;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod trust;
mod upgrade;
mod wire;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use pingora::{http::RequestHeader, upstreams::peer::HttpPeer};

pub use self::{
    backend::{Backend, BackendId, Origin},
    compile::zone,
    dns::{DnsError, Resolve, Resolved, SystemResolver},
    kept::Keeper,
    lease::{Lease, Outcome},
    operate::{Force, MemberError, NewMember},
    retry::{Failure, RetryPolicy, may_retry},
    scale::Scale,
    snapshot::{BackendSnapshot, ProbeSnapshot, UpstreamSnapshot},
    supervise::{supervise, supervise_with},
    system::authorities_file,
    target::Target,
    tls::is_alert,
    upgrade::{UpgradeGate, UpgradeSocket},
    wire::Protocol,
};
use self::{
    balance::{Balance, Choice, Members, Sticky},
    health::Probing,
    live::Shared,
    members::Sources,
    peer::Pool,
    queue::{Left, Patience},
    upgrade::UpgradeConnector,
    wire::Wire,
};
use crate::{
    base::http::begins_with,
    config::model::{App, TimeoutsConfig},
};

/// A named group of backends, compiled.
pub struct Upstream {
    pub name: Arc<str>,
    pub app: App,
    pub timeouts: Timeouts,
    wire: Wire,
    pub retry: RetryPolicy,
    /// How many may wait for a place, and for how long.
    queue_limit: u32,
    queue_wait: Duration,
    balance: Balance,
    sticky: Option<Sticky>,
    pool: Pool,
    probing: Probing,
    sources: Sources,
    scale: Option<Scale>,
    /// Swapped whole when DNS answers change, and when a backend is added or removed.
    members: ArcSwap<Members>,
    rebuilding: Mutex<()>,
    /// Some name was never looked up to the end: who finds no backend may wait for it.
    /// Turns false once, when the supervisor has tried all names.
    awaiting_dns: AtomicBool,
    shared: Arc<Shared>,
}

/// Bounds of each step towards a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the last byte sent to the head of the answer.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// Between two messages of a WebSocket or two events of an SSE feed.
    pub stream_idle: Duration,
    /// Of the whole request, tries included.
    pub total: Option<Duration>,
}

impl From<&TimeoutsConfig> for Timeouts {
    fn from(config: &TimeoutsConfig) -> Self {
        Self {
            connect: config.connect.0,
            first_byte: config.first_byte.0,
            idle: config.idle.0,
            stream_idle: config.stream_idle.0,
            total: config.total.map(|total| total.0),
        }
    }
}

/// What a request asks of its upstream.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub head: &'a RequestHeader,
    /// The client's address.
    pub client: IpAddr,
    /// When the try begins.
    pub at: Instant,
    /// The backends of earlier tries: chosen again only if no other is in rotation.
    pub tried: &'a [BackendId],
    /// It asks for a WebSocket, and may have one.
    pub is_upgrade: bool,
}

impl Ask<'_> {
    /// Whether the response, as far as the request tells, is a stream. Looked at only where
    /// a backend has as many as it may have.
    #[cold]
    fn is_for_stream(&self) -> bool {
        let begins = |name: HeaderName, text: &[u8]| {
            let value = self.head.headers.get(name);
            value.is_some_and(|value| begins_with(value.as_bytes(), text))
        };
        self.is_upgrade
            || begins(header::ACCEPT, b"text/event-stream")
            || begins(header::CONTENT_TYPE, b"application/grpc")
    }
}

/// Why a request got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// All places are taken and as many as may wait already do.
    #[error("all backends are busy and the queue is full")]
    QueueFull,
    /// It waited for as long as one may.
    #[error("all backends are busy and none came free in time")]
    QueueTimeout,
    /// It asks for a stream, and every backend has as many as it may have.
    #[error("all backends have as many streams as they may have")]
    StreamsFull,
    /// There is no address to connect to: DNS has given none so far, or all are drained.
    #[error("no backend is known that may get requests")]
    NoBackend,
}

impl Unavailable {
    /// The word for log, metric and status page.
    pub fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::StreamsFull => "streams_full",
            Self::NoBackend => "no_backend",
        }
    }
}

/// Why there is no place right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocked {
    Full,
    Streams,
    Empty,
}

impl Upstream {
    /// A place at a backend, at once if one is free: then without lock or allocation.
    /// Otherwise behind those who came before, for as long as `max_in_flight.wait`.
    ///
    /// # Errors
    /// When there is none: the request gets 503.
    pub async fn acquire(&self, ask: &Ask<'_>) -> Result<Lease, Unavailable> {
        let queue = &self.shared.live.queue;
        let now = self.shared.nanos(ask.at);
        if ask.tried.is_empty() {
            self.shared.live.budget.request(now);
        }
        // Nobody overtakes those who wait.
        if queue.len() == 0
            && let Some(found) = self.find(ask, now)
        {
            return found;
        }
        let find = || self.find(ask, self.shared.now());
        let patience = Patience {
            wait: self.queue_wait,
            answer: self.usual_answer(),
        };
        match queue.wait(self.queue_limit, patience, find).await {
            Ok(found) => found,
            Err(Left::Full) => Err(Unavailable::QueueFull),
            Err(Left::Timeout) if self.members.load().list.is_empty() => {
                Err(Unavailable::NoBackend)
            }
            Err(Left::Timeout) => Err(Unavailable::QueueTimeout),
        }
    }

    /// How long backends take to answer as a rule; `None` while none has answered.
    fn usual_answer(&self) -> Option<Duration> {
        let members = self.members.load();
        let known = || {
            members
                .list
                .iter()
                .filter_map(|member| member.state.latency.average())
        };
        let count = u32::try_from(known().count()).unwrap_or(u32::MAX);
        known().sum::<Duration>().checked_div(count)
    }

    /// A place, or that there can be none; `None` if it is worth waiting.
    fn find(&self, ask: &Ask<'_>, now: u64) -> Option<Result<Lease, Unavailable>> {
        match self.try_acquire(ask, now) {
            Ok(lease) => Some(Ok(lease)),
            Err(Blocked::Full) => None,
            // It would hold up those behind it for as long as streams last.
            Err(Blocked::Streams) => Some(Err(Unavailable::StreamsFull)),
            Err(Blocked::Empty) if self.awaiting_dns.load(Ordering::Relaxed) => None,
            Err(Blocked::Empty) => Some(Err(Unavailable::NoBackend)),
        }
    }

    /// Where the lease's request goes. Reads and writes have no bound of Pingora's.
    pub fn peer(&self, lease: &Lease) -> Box<HttpPeer> {
        lease.backend().peer(self.pool)
    }

    /// [`Upstream::peer`] for a request that asks for another protocol: a connection of its
    /// own, whose response is held back by `gate`.
    pub fn upgrade_peer(&self, lease: &Lease, gate: Arc<UpgradeGate>) -> Box<HttpPeer> {
        let mut peer = self.peer(lease);
        // A pool group of its own: what was refused goes to nobody else.
        peer.group_key = fastrand::u64(..);
        peer.options.idle_timeout = Some(Duration::from_millis(1));
        peer.options.custom_l4 = Some(Arc::new(UpgradeConnector { gate }));
        peer
    }

    /// What is spoken to the backends.
    pub fn protocol(&self) -> Protocol {
        self.wire.protocol
    }

    /// HTTP/2 is spoken to the backends.
    pub fn is_h2(&self) -> bool {
        self.protocol() == Protocol::H2
    }

    /// The name that the backends' certificates are for, if TLS is spoken to them.
    pub fn tls_name(&self) -> Option<&str> {
        self.wire.tls.as_ref().map(|trust| trust.name.as_str())
    }

    /// The `Set-Cookie` that keeps the client at the lease's backend; `None` if the
    /// upstream is not sticky or the client has it already.
    pub fn sticky_cookie(&self, lease: &Lease) -> Option<HeaderValue> {
        if lease.came_by_cookie() {
            return None;
        }
        let cookie = lease.backend().cookie.as_ref()?;
        Some(cookie.set_cookie.clone())
    }

    /// Whether the budget has room for one more retry, and takes it if so.
    pub fn retry_allowed(&self) -> bool {
        let budget = &self.shared.live.budget;
        let allowed = budget.take(self.retry.budget, self.shared.now());
        if allowed {
            self.shared.metrics.retries.inc();
        }
        allowed
    }

    /// Whether a request may be tried again: by its policy and by the budget, of which
    /// it then takes its part. `tries` is how many were made. `replayable` says that all
    /// of the body that was read is still there.
    ///
    /// A refused connection takes nothing of the budget: the backend was sent nothing,
    /// the try cost no more than the attempt, and it is out after three of them.
    pub fn retry(
        &self,
        tries: u32,
        failure: Failure,
        is_idempotent: bool,
        replayable: bool,
    ) -> bool {
        if !may_retry(&self.retry, tries, failure, is_idempotent, replayable) {
            return false;
        }
        if failure == Failure::Connect {
            self.shared.metrics.retries.inc();
            return true;
        }
        self.retry_allowed()
    }

    /// The backends as they are now; DNS may change them.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.members.load().list.to_vec()
    }

    /// Whether all backends are out of rotation, so that all are used.
    pub fn is_all_down(&self) -> bool {
        self.shared.live.in_panic()
    }

    /// How the upstream spreads its requests, as written in the configuration.
    pub fn balance_name(&self) -> String {
        self.balance.name()
    }

    /// How long idle connections are kept where nothing is configured and a backend says
    /// nothing of its own.
    pub fn pool_default(&self) -> Duration {
        self.pool.default
    }

    /// All names were looked up once: who still waits for an address waits in vain.
    fn stop_awaiting_dns(&self) {
        if self.awaiting_dns.swap(false, Ordering::Relaxed) {
            self.shared.live.queue.wake();
        }
    }

    /// Backends may have come back: takes note, and lets those who wait look.
    fn look_round(&self) {
        let members = self.members.load();
        self.judge_panic(&members, self.shared.now());
        self.shared.live.queue.wake();
    }

    fn try_acquire(&self, ask: &Ask<'_>, now: u64) -> Result<Lease, Blocked> {
        let members = self.members.load();
        if members.list.is_empty() {
            return Err(Blocked::Empty);
        }
        if !self.shared.live.in_panic() {
            let terms = Terms {
                tried: ask.tried,
                in_panic: false,
                by_share: true,
            };
            if let Some(lease) = self.offer(&members, ask, now, terms) {
                return Ok(lease);
            }
        }
        self.look_again(&members, ask, now)
    }

    /// The strict terms found nobody: looks why, and gives up what may be given up.
    #[cold]
    fn look_again(&self, members: &Members, ask: &Ask<'_>, now: u64) -> Result<Lease, Blocked> {
        let in_panic = self.judge_panic(members, now);
        if members.list.iter().all(|backend| backend.is_drained()) {
            return Err(Blocked::Empty);
        }
        let is_usable = |backend: &Arc<Backend>| {
            !backend.is_drained() && (in_panic || backend.state.is_up(now))
        };
        let is_untried = |backend: &Arc<Backend>| !ask.tried.contains(&backend.id());
        let some_untried = members
            .list
            .iter()
            .any(|backend| is_usable(backend) && is_untried(backend));
        let terms = Terms {
            tried: if some_untried { ask.tried } else { &[] },
            in_panic,
            by_share: false,
        };
        let offered = self.offer(members, ask, now, terms);
        offered.ok_or_else(|| {
            let max_streams = self.shared.max_streams;
            let mut usable = members.list.iter().filter(|b| is_usable(b)).peekable();
            let is_full = usable.peek().is_some()
                && usable.all(|backend| !backend.state.has_room_for_stream(max_streams));
            if is_full && ask.is_for_stream() {
                Blocked::Streams
            } else {
                Blocked::Full
            }
        })
    }

    /// Whether all backends are out, so that all are to be used: all but those that are
    /// drained, which is no failure but somebody's will.
    fn judge_panic(&self, members: &Members, now: u64) -> bool {
        let mut offered = members.list.iter().filter(|b| !b.is_drained()).peekable();
        let in_panic = offered.peek().is_some() && !offered.any(|backend| backend.state.is_up(now));
        if self.shared.live.set_panic(in_panic) {
            self.shared.metrics.panic.set(in_panic.into());
            let upstream = &*self.name;
            if in_panic {
                log::error!(upstream; "all backends are out of rotation: all are used");
            } else {
                log::warn!(upstream; "a backend is in rotation again: only such are used");
            }
        }
        in_panic
    }

    fn offer(&self, members: &Members, ask: &Ask<'_>, now: u64, terms: Terms<'_>) -> Option<Lease> {
        let max = self.shared.max_in_flight;
        let max_streams = self.shared.max_streams;
        let slow_start = self.shared.slow_start;
        let admits = |backend: &Backend| {
            (terms.in_panic || backend.state.is_up(now))
                && backend.state.has_place(max)
                && (backend.state.has_room_for_stream(max_streams) || !ask.is_for_stream())
                && !terms.tried.contains(&backend.id())
                && (!terms.by_share || takes_its_share(backend, slow_start, now))
        };
        if let Some(backend) = self.by_cookie(members, ask, &admits)
            && backend.state.reserve(max)
        {
            return Some(Lease::new(backend.clone(), now, true));
        }
        let choice = Choice {
            head: ask.head,
            client: ask.client,
            now,
        };
        // Others may take the last place between the choice and the reservation. As many
        // rounds as that can go wrong for, without keeping anyone here for long.
        for _ in 0..=members.list.len().min(8) {
            let backend =
                members.choose(&self.balance, &self.shared.live.cursor, &choice, admits)?;
            if backend.state.reserve(max) {
                return Some(Lease::new(backend.clone(), now, false));
            }
        }
        None
    }

    /// The backend that the client's cookie names, if it may be chosen.
    fn by_cookie<'m>(
        &self,
        members: &'m Members,
        ask: &Ask<'_>,
        admits: &impl Fn(&Backend) -> bool,
    ) -> Option<&'m Arc<Backend>> {
        let sent = self.sticky.as_ref()?.sent(ask.head)?;
        members.list.iter().find(|backend| {
            backend.cookie.as_ref().is_some_and(|own| own.value == sent) && admits(backend)
        })
    }
}

/// Who may be chosen.
#[derive(Clone, Copy)]
struct Terms<'a> {
    /// These not.
    tried: &'a [BackendId],
    /// Also those that are out of rotation.
    in_panic: bool,
    /// Those that just came back only for their share.
    by_share: bool,
}

/// A backend in its slow start lets pass a part of what it is offered.
fn takes_its_share(backend: &Backend, slow_start: Duration, now: u64) -> bool {
    let share = backend.state.share(slow_start, now);
    share >= 1.0 || fastrand::f64() < share
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("name", &self.name)
            .field("balance", &self.balance)
            .field("members", &self.members.load().list)
            .finish_non_exhaustive()
    }
}
