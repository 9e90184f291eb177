//! Idle timeout of connections to backends, and the peers that Pingora's connectors check.

use std::time::Duration;

use pingora::{protocols::l4::ext::TcpKeepalive, upstreams::peer::HttpPeer};

use super::{Timeouts, backend::KeepAlive, target::Target, wire::Wire};

/// Idle timeout of connections to an upstream's backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    /// Configured timeout, which always wins.
    pub(super) fixed: Option<Duration>,
    /// Timeout if none is configured and the backend declares none.
    pub(super) default: Duration,
}

/// Idle timeout until a backend's first response, which may have `Keep-Alive: timeout`. Short, so
/// that the first connections are not kept for longer than the app keeps them.
const INITIAL_IDLE: Duration = Duration::from_secs(1);
/// Probes of connections on which nothing happens.
pub(super) const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_mins(1),
    interval: Duration::from_secs(10),
    count: 3,
    user_timeout: Duration::ZERO,
};
/// Time by which the gateway closes before the app, which must not close during a request.
const MARGIN: Duration = Duration::from_secs(1);

impl Pool {
    pub(super) fn idle(self, keep_alive: KeepAlive) -> Duration {
        match (self.fixed, keep_alive) {
            (Some(fixed), _) => fixed,
            (None, KeepAlive::Unknown) => self.default.min(INITIAL_IDLE),
            (None, KeepAlive::Unannounced) => self.default,
            (None, KeepAlive::Announced(timeout)) => timeout
                .checked_sub(MARGIN)
                .unwrap_or_default()
                .max(timeout.min(MARGIN) / 2),
        }
    }
}

/// Peer that is copied for each check: no parsing and no name resolution.
#[derive(Clone, Debug)]
pub(super) struct PeerTemplate(HttpPeer);

impl PeerTemplate {
    /// Creates a template; `None` if a unix socket's path is longer than the system allows.
    /// `upstream` separates the pools of upstreams that share an address: their idle timeouts
    /// differ.
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
        // No timeouts for reads and writes here: a check has one for all of it.
        options.tcp_keepalive = Some(TCP_KEEPALIVE);
        Some(Self(peer))
    }

    /// Returns the name that the backend's certificate is for; empty without TLS.
    pub(super) fn tls_name(&self) -> &str {
        &self.0.sni
    }

    pub(super) fn is_h2(&self) -> bool {
        self.0.options.alpn.get_min_http_version() == 2
    }

    /// Returns the peer for checks, which set timeouts of their own.
    pub(super) fn bare(&self) -> HttpPeer {
        self.0.clone()
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
        for (keep_alive, idle) in [
            (KeepAlive::Unknown, secs(1)),
            (KeepAlive::Unannounced, secs(60)),
            (KeepAlive::Announced(secs(5)), secs(4)),
            (KeepAlive::Announced(secs(72)), secs(71)),
            (KeepAlive::Announced(secs(1)), Duration::from_millis(500)),
            (KeepAlive::Announced(secs(0)), Duration::ZERO),
        ] {
            assert_eq!(pool.idle(keep_alive), idle, "{keep_alive:?}");
        }
    }

    #[test]
    fn a_configured_idle_time_is_not_learned_away() {
        let pool = Pool {
            fixed: Some(secs(60)),
            default: secs(4),
        };
        for keep_alive in [
            KeepAlive::Unknown,
            KeepAlive::Unannounced,
            KeepAlive::Announced(secs(5)),
        ] {
            assert_eq!(pool.idle(keep_alive), secs(60));
        }
    }
}
