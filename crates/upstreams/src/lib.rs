//! Live upstreams: named groups of backends, and the choice of a backend for each request.
//!
//! A configuration compiles to [`Upstream`]s. The proxy takes a place on one
//! ([`Upstream::acquire`]), connects to the lease's backend ([`Upstream::connect`], or
//! [`Upstream::open_stream`] over HTTP/2), and reports the outcome ([`Lease::finish`]). Balancers,
//! health, ejection, retries and DNS are inside; their counts outlive reloads in a zone.

mod backend;
mod backend_state;
mod balance;
mod canary;
mod client_tls;
mod compile;
mod connection;
mod dns;
mod eject;
mod handover;
mod health;
mod latency;
mod lease;
mod members;
mod metrics;
mod node;
mod operate;
mod operator_decisions;
mod pool;
mod queue;
mod releases;
mod restart_at;
mod retry;
mod scale;
mod selection;
mod silence;
mod socket;
mod status;
mod supervise;
mod system;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod trust;
mod upstream_zone;
mod wire;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use edgeway_base as base;
use edgeway_config as config;
use edgeway_core::{chain, zones};
use http::{HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use pingora::http::RequestHeader;

pub use self::{
    backend::{Backend, BackendId, BackendOrigin},
    canary::{
        ArmStatus, CanaryOutcome, CanaryReason, CanarySettings, CanaryStatus, CanaryVerdict,
        TrialRequest, trial_name, visitor_position,
    },
    compile::zone,
    connection::{BackendConnection, BackendStream},
    dns::{DnsError, EveryAddress, Resolve, Resolved, SystemResolver},
    lease::{Lease, Outcome},
    node::{NodeStatus, REPORT_HEADER as NODE_REPORT_HEADER},
    operate::{Force, MemberError, NewMember},
    operator_decisions::{DecisionStore, SAVED_AGAIN},
    releases::{ReleaseSettings, StartMethod, WARM_UP_TIME, is_release_name},
    restart_at::{MemoryExcess, RestartAt},
    retry::{AttemptFailure, may_retry},
    scale::Scale,
    silence::SilenceStatus,
    socket::BackendSocket,
    status::{BackendStatus, MemoryGrowth, ProbeStatus, UpstreamStatus, UpstreamTraffic},
    supervise::{supervise, supervise_beside, supervise_with},
    target::Target,
    tls::is_alert,
    wire::Protocol,
};
use self::{
    balance::{Balance, Members, Sticky},
    health::Probing,
    members::Sources,
    metrics::OptionalMetrics,
    pool::Pool,
    queue::{MaxWait, QueueExit},
    selection::Blocked,
    upstream_zone::Shared,
    wire::Wire,
};
use crate::{
    base::http::begins_with,
    config::model::{App, RetryConfig, TimeoutsConfig},
};

/// Compiled upstream: a named group of backends.
pub struct Upstream {
    pub name: Arc<str>,
    pub app: App,
    /// True if the gateway is not ready while no backend is in rotation.
    pub is_required: bool,
    optional_metrics: OptionalMetrics,
    pub timeouts: TimeoutsConfig,
    wire: Wire,
    pub retry: RetryConfig,
    /// Most requests that may wait for a place, and their longest wait.
    queue_limit: u32,
    queue_wait: Duration,
    balance: Balance,
    sticky: Option<Sticky>,
    pool: Pool,
    probing: Probing,
    sources: Sources,
    scale: Option<Scale>,
    releases: Option<ReleaseSettings>,
    restart_at: Option<RestartAt>,
    /// Swapped whole when DNS results change, and when a backend is added or removed.
    members: ArcSwap<Members>,
    rebuilding: Mutex<()>,
    /// True while no lookup of some name has ended: a request that finds no backend may wait for
    /// one. Turns false once, when the supervisor has tried all names.
    awaiting_dns: AtomicBool,
    shared: Arc<Shared>,
}

/// Requirements of a request for a lease.
#[derive(Clone, Copy)]
pub struct LeaseRequest<'a> {
    pub head: &'a RequestHeader,
    /// Address of the client.
    pub client: IpAddr,
    /// Start of the attempt.
    pub at: Instant,
    /// Backends of earlier attempts: chosen again only if no other is in rotation. If each of them
    /// refuses connections, others that are out come first.
    pub tried: &'a [BackendId],
    /// True if the request asks for a WebSocket and may have one.
    pub is_upgrade: bool,
    /// Release of the app that the request is for. Another one gets it only if no backend of this
    /// one is in rotation.
    pub release: Option<&'a str>,
}

impl LeaseRequest<'_> {
    /// Returns true if the response is likely a stream, judging by the request. Called only if a
    /// backend has as many streams as allowed.
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

/// Reason why a request got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// All places are taken and the queue is full.
    #[error("all backends are busy and the queue is full")]
    QueueFull,
    /// Longest wait exceeded.
    #[error("all backends are busy and none became free in time")]
    QueueTimeout,
    /// Request for a stream while every backend has as many as allowed.
    #[error("all backends have their maximum of streams")]
    StreamsFull,
    /// No address to connect to: DNS has returned none so far, or all are drained.
    #[error("no backend is available for requests")]
    NoBackend,
}

impl Upstream {
    /// Takes a place on a backend, at once if one is free: then without lock or allocation.
    /// Otherwise the request waits behind earlier ones, for up to `max_in_flight.wait`.
    ///
    /// # Errors
    /// When there is none: the request gets 503.
    pub async fn acquire(&self, ask: &LeaseRequest<'_>) -> Result<Lease, Unavailable> {
        let queue = &self.shared.live.queue;
        let now = self.shared.nanos(ask.at);
        if ask.tried.is_empty() {
            self.shared.live.budget.request(now);
        }
        // No request overtakes those that wait.
        if queue.len() == 0
            && let Some(lease) = self.find(ask, now)
        {
            return lease;
        }
        let find = || self.find(ask, self.shared.now());
        let patience = MaxWait {
            wait: self.queue_wait,
            response_time: self.usual_response_time(),
        };
        match queue.wait(self.queue_limit, patience, find).await {
            Ok(lease) => lease,
            Err(QueueExit::Full) => Err(Unavailable::QueueFull),
            Err(QueueExit::Timeout) if self.members.load().list.is_empty() => {
                Err(Unavailable::NoBackend)
            }
            Err(QueueExit::Timeout) => Err(Unavailable::QueueTimeout),
        }
    }

    /// Returns the average response time of the backends; `None` before the first response.
    fn usual_response_time(&self) -> Option<Duration> {
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

    /// Returns a place, or the reason why there can be none; `None` if it is worth waiting.
    fn find(&self, ask: &LeaseRequest<'_>, now: u64) -> Option<Result<Lease, Unavailable>> {
        match self.try_acquire(ask, now) {
            Ok(lease) => Some(Ok(lease)),
            Err(Blocked::Full) => None,
            // It would hold up the requests behind it for as long as streams last.
            Err(Blocked::Streams) => Some(Err(Unavailable::StreamsFull)),
            Err(Blocked::Empty) if self.awaiting_dns.load(Ordering::Relaxed) => None,
            Err(Blocked::Empty) => Some(Err(Unavailable::NoBackend)),
        }
    }

    /// Returns the protocol of the backends.
    pub fn protocol(&self) -> Protocol {
        self.wire.protocol
    }

    /// Returns true if the backends use HTTP/2.
    pub fn is_h2(&self) -> bool {
        self.protocol() == Protocol::H2
    }

    /// Returns the name that the backends' certificates are for, if the upstream uses TLS.
    pub fn tls_name(&self) -> Option<&str> {
        self.wire.tls.as_ref().map(|trust| trust.identity.name())
    }

    /// Returns true if a client has a backend of its own while it is in rotation.
    pub fn keeps_clients(&self) -> bool {
        self.sticky.is_some() || matches!(self.balance, Balance::Hash(_))
    }

    /// Returns the `Set-Cookie` that keeps the client on the lease's backend; `None` if the
    /// upstream is not sticky or the client has it already.
    pub fn sticky_cookie(&self, lease: &Lease) -> Option<HeaderValue> {
        if lease.by_cookie {
            return None;
        }
        let cookie = lease.backend.cookie.as_ref()?;
        Some(cookie.set_cookie.clone())
    }

    /// Returns the present backends; DNS may change them.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.members.load().list.to_vec()
    }

    /// Returns true if all backends are out of rotation, so that all are used.
    pub fn is_all_down(&self) -> bool {
        self.shared.live.in_panic()
    }

    /// Returns true if at least one backend is in rotation. With active checks, a backend that has
    /// not passed one yet does not count: it takes requests, but nobody should be sent here for it.
    pub fn is_ready(&self) -> bool {
        let now = self.shared.now();
        let needs_check = matches!(self.probing, Probing::Active { .. });
        let members = self.members.load();
        members.list.iter().any(|backend| {
            backend.state.is_in_rotation(now)
                && (!needs_check || backend.state.probes.lock().has_passed)
        })
    }

    /// Returns the balancing method, as written in the configuration.
    pub fn balance_name(&self) -> String {
        self.balance.to_string()
    }

    /// Returns the time for which idle connections are kept if neither the configuration nor the
    /// backend sets one.
    pub fn pool_default(&self) -> Duration {
        self.pool.default
    }

    /// Ends waits for DNS after all names were tried once: no address will come soon.
    fn stop_awaiting_dns(&self) {
        if self.awaiting_dns.swap(false, Ordering::Relaxed) {
            self.shared.live.queue.wake();
        }
    }

    /// Updates the panic mode and wakes the queue: backends may be back.
    fn look_round(&self) {
        let members = self.members.load();
        self.judge_panic(&members, self.shared.now());
        self.shared.live.queue.wake();
    }
}

edgeway_base::opaque_debug!(Upstream, name, balance);
