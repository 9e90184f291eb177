//! Requests that failed: by the gateway or a backend, and not by their clients.

/// Reasons of a 5xx that is the client's own doing, or what the configuration says.
const ASKED_FOR: [&str; 11] = [
    "bad_framing",
    "basic_auth_busy",
    "flood_in_flight",
    "forward_auth_busy",
    "in_flight_key",
    "maintenance",
    "only_if_cached",
    "rate_limit",
    "render_queue_full",
    "render_queue_timeout",
    "version",
];

/// Returns true if the gateway or a backend failed a request with this status and reason: by a 5xx
/// that neither the client nor the configuration asked for, or by a response that broke off, whatever
/// its status.
pub(super) fn is_failed(status: u16, reason: Option<&str>) -> bool {
    match reason {
        Some(reason) if ASKED_FOR.contains(&reason) => false,
        Some("internal" | "file_changed") => true,
        reason => status >= 500 || reason.is_some_and(|reason| reason.starts_with("upstream_")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_failed_if_it_was_broken_off_or_got_a_5xx_that_nobody_asked_for() {
        let failed =
            |status, reason: &str| is_failed(status, Some(reason).filter(|it| !it.is_empty()));
        for (status, reason) in [(500, ""), (503, "upstream_down"), (504, "internal")] {
            assert!(failed(status, reason), "{status} {reason}");
        }
        for reason in [
            "upstream_reset",
            "upstream_idle",
            "internal",
            "file_changed",
        ] {
            assert!(failed(200, reason), "{reason}");
        }
        for (status, reason) in [
            (200, ""),
            (499, "client_gone"),
            (404, "no_route"),
            (504, "only_if_cached"),
            (503, "maintenance"),
            (505, "version"),
            (501, "bad_framing"),
            (503, "in_flight_key"),
            (503, "flood_in_flight"),
            (503, "rate_limit"),
        ] {
            assert!(!failed(status, reason), "{status} {reason}");
        }
    }
}
