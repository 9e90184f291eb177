//! A backend as Pingora connects to it, and how long its connections are kept.

use std::time::Duration;

use pingora::{protocols::l4::ext::TcpKeepalive, upstreams::peer::HttpPeer};

use super::{
    Timeouts,
    backend::{Backend, KeepAlive},
    target::Target,
    wire::Wire,
};

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
pub(super) struct PeerTemplate(HttpPeer);

impl PeerTemplate {
    /// `None` if a unix socket's path is longer than the system takes.
    /// `upstream` keeps pools of upstreams apart that share an address: their idle times differ.
    pub(super) fn new(
        target: &Target,
        wire: &Wire,
        timeouts: &Timeouts,
        upstream: &str,
    ) -> Option<Self> {
        let mut peer = wire.peer(target, upstream)?;
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        // Reads and writes have none here: Pingora's one bound for both head and body is
        // not ours. `runtime::deadline` watches over connections, `proxy` over streams.
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_mins(1),
            interval: Duration::from_secs(10),
            count: 3,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::ZERO,
        });
        Some(Self(peer))
    }

    /// The name that the backend's certificate is for; empty without TLS.
    pub(super) fn tls_name(&self) -> &str {
        &self.0.sni
    }

    pub(super) fn is_h2(&self) -> bool {
        self.0.options.alpn.get_min_http_version() == 2
    }

    /// For checks, which set their own times.
    pub(super) fn bare(&self) -> HttpPeer {
        self.0.clone()
    }
}

impl Backend {
    pub(super) fn peer(&self, pool: Pool) -> Box<HttpPeer> {
        let mut peer = Box::new(self.peer.0.clone());
        peer.options.idle_timeout = Some(pool.idle(self.state.keep_alive()));
        peer
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
