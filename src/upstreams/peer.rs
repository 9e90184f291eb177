//! A backend as Pingora connects to it, with every timeout set: its own all default to none.

use std::time::Duration;

use pingora::{
    protocols::l4::ext::TcpKeepalive,
    upstreams::peer::{H1UpgradePolicy, HttpPeer},
};

use super::{
    Timeouts,
    backend::{Backend, KeepAlive},
    target::Target,
};

/// What a request may turn into, which decides how long it may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Question and answer.
    Plain,
    /// An answer that trickles, such as an SSE feed.
    Stream,
    /// A WebSocket: silent for as long as a stream, and the only kind whose upgrade
    /// reaches the backend.
    WebSocket,
}

/// How long idle connections to an upstream's backends are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    /// As configured: always this.
    pub(super) fixed: Option<Duration>,
    /// Where nothing is configured and the backend says nothing.
    pub(super) default: Duration,
}

/// Until a backend's first answer: Pingora fixes the idle time of a connection when its
/// request starts, before the answer that says `Keep-Alive: timeout`. Short, so that the
/// first connections are not kept for longer than the app keeps them.
const UNTIL_LEARNED: Duration = Duration::from_secs(1);
/// How much earlier than the app we close: it must not close under a request of ours.
const MARGIN: Duration = Duration::from_secs(1);

impl Pool {
    pub(super) fn idle(self, keep_alive: KeepAlive) -> Duration {
        match (self.fixed, keep_alive) {
            (Some(fixed), _) => fixed,
            (None, KeepAlive::Unknown) => self.default.min(UNTIL_LEARNED),
            (None, KeepAlive::Unsaid) => self.default,
            (None, KeepAlive::Said(timeout)) => timeout
                .checked_sub(MARGIN)
                .unwrap_or_default()
                .max(timeout.min(MARGIN) / 2),
        }
    }
}

/// A peer ready to be copied: no parsing and no name resolution per request.
#[derive(Clone, Debug)]
pub(super) struct PeerTemplate {
    peer: HttpPeer,
    stream_idle: Duration,
}

impl PeerTemplate {
    /// `None` if a unix socket's path is longer than the system takes.
    /// `group` keeps pools of upstreams apart that share an address: their idle times differ.
    pub(super) fn new(target: &Target, timeouts: &Timeouts, group: u64) -> Option<Self> {
        let mut peer = match target {
            Target::Inet(address) => HttpPeer::new(*address, false, String::new()),
            Target::Unix(path) => HttpPeer::new_uds(path.to_str()?, false, String::new()).ok()?,
        };
        peer.group_key = group;
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        // Pingora has one bound for each read, the head's as well as the body's. The
        // longer of both here: the head's own is watched over by the proxy.
        options.read_timeout = Some(timeouts.first_byte.max(timeouts.idle));
        options.write_timeout = Some(timeouts.idle);
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_mins(1),
            interval: Duration::from_secs(10),
            count: 3,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::ZERO,
        });
        options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Deny;
        Some(Self {
            peer,
            stream_idle: timeouts.stream_idle.max(timeouts.first_byte),
        })
    }

    fn make(&self, kind: Kind, idle: Duration) -> Box<HttpPeer> {
        let mut peer = Box::new(self.peer.clone());
        peer.options.idle_timeout = Some(idle);
        match kind {
            Kind::Plain => {}
            Kind::Stream => peer.options.read_timeout = Some(self.stream_idle),
            Kind::WebSocket => {
                peer.options.read_timeout = Some(self.stream_idle);
                peer.options.http_upstream_request_policy.h1_upgrade =
                    H1UpgradePolicy::WebSocketOnly;
            }
        }
        peer
    }
}

impl Backend {
    pub(super) fn peer(&self, kind: Kind, pool: Pool) -> Box<HttpPeer> {
        self.peer.make(kind, pool.idle(self.state.keep_alive()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_pool_closes_a_second_before_the_app_does() {
        let pool = Pool {
            fixed: None,
            default: secs(60),
        };
        for (said, idle) in [
            (KeepAlive::Unknown, secs(1)),
            (KeepAlive::Unsaid, secs(60)),
            (KeepAlive::Said(secs(5)), secs(4)),
            (KeepAlive::Said(secs(72)), secs(71)),
            (KeepAlive::Said(secs(1)), Duration::from_millis(500)),
            (KeepAlive::Said(secs(0)), Duration::ZERO),
        ] {
            assert_eq!(pool.idle(said), idle, "{said:?}");
        }
    }

    #[test]
    fn a_configured_idle_time_is_not_learned_away() {
        let pool = Pool {
            fixed: Some(secs(60)),
            default: secs(4),
        };
        for said in [
            KeepAlive::Unknown,
            KeepAlive::Unsaid,
            KeepAlive::Said(secs(5)),
        ] {
            assert_eq!(pool.idle(said), secs(60));
        }
    }
}
