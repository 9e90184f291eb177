//! Idle timeout of connections to backends.

use std::time::Duration;

use pingora::protocols::l4::ext::TcpKeepalive;

use super::backend_state::KeepAlive;

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
