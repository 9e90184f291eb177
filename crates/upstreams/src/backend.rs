//! Address that requests go to: its live state, and its settings in one configuration.
//!
//! [`BackendState`] lives as long as any configuration or lease holds it, so counts, health and
//! what was learned of the app survive reloads and DNS changes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;

use super::{
    backend_state::{BackendState, KeepAlive},
    client_tls::BackendTls,
    metrics::{BackendFirstByte, BackendMetrics, NodeMetrics},
    node::NodeReport,
    target::Target,
    upstream_zone::Shared,
};

/// ID of a backend: a hash of its address, the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u64);

/// Backend of one upstream, as one configuration has it.
pub struct Backend {
    pub(super) state: Arc<BackendState>,
    pub(super) target: Target,
    /// `Host` of checks: the address, or the name and port that DNS resolved.
    pub(super) authority: String,
    /// Weight, at least 1.
    pub(super) weight: u16,
    /// True if it gets requests only while no other backend can take them.
    pub(super) is_backup: bool,
    pub(super) origin: BackendOrigin,
    /// Release of the app that runs here, if it was deployed as one.
    pub(super) release: Option<Arc<str>>,
    /// TLS settings for the connections of requests; `None` without TLS.
    pub(super) tls: Option<BackendTls>,
    /// Cookie that keeps a browser on this backend, if the upstream is sticky.
    pub(super) cookie: Option<StickyValue>,
    pub(super) metrics: BackendMetrics,
    /// Time to first byte, if the configuration asks for it.
    pub(super) first_byte: Option<BackendFirstByte>,
    /// Load that a Node app reports.
    pub(super) node_metrics: NodeMetrics,
    pub(super) shared: Arc<Shared>,
}

edgeway_base::enum_table! {
    /// Source through which a backend became part of its upstream.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum BackendOrigin => as_str {
        /// Written in the configuration.
        File = "file",
        /// Resolved by DNS.
        Dns = "dns",
        /// Added at run time by an operator.
        Added = "added",
    }
}

/// Value of a sticky cookie, and the whole `Set-Cookie` that sets it.
#[derive(Clone, Debug)]
pub(super) struct StickyValue {
    pub(super) value: u64,
    pub(super) set_cookie: HeaderValue,
}

impl Backend {
    /// Address as `IP:PORT` or `unix:PATH`: its name in metrics, logs and status.
    pub fn address(&self) -> &Arc<str> {
        &self.state.address
    }

    pub fn id(&self) -> BackendId {
        self.state.id
    }

    /// Name that the certificate is for; `None` without TLS.
    pub(super) fn tls_name(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.identity.name())
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the release of the app that runs here.
    pub fn release(&self) -> Option<&Arc<str>> {
        self.release.as_ref()
    }

    /// Number of requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight()
    }

    /// Returns true while the backend gets no new requests; those in flight go on.
    pub fn is_drained(&self) -> bool {
        self.state.is_drained()
    }

    /// Closes idle connections: the app accepts no new ones, or says that it is stopping, and may
    /// wait for the end of each. Those in use are closed when their requests are over.
    pub fn close_idle(&self) {
        self.state.idle.close(self.shared.now());
        self.state.http2.close();
    }

    /// Records a response's `Keep-Alive` header, or its absence. To be called with the headers of
    /// each response: the pool's idle timeout follows from it.
    pub fn learn_keep_alive(&self, header: Option<&HeaderValue>) {
        self.state
            .learn_keep_alive(match header.and_then(keep_alive_timeout) {
                Some(seconds) => KeepAlive::Announced(Duration::from_secs(seconds)),
                None => KeepAlive::Unannounced,
            });
    }

    /// Records the report of an app that uses `edgeway-node`, or its absence. To be called with the
    /// headers of each final response. An invalid value is ignored: it says nothing, and the
    /// response is as good as without it.
    pub fn learn_node_report(&self, header: Option<&HeaderValue>, time: Instant) {
        let node = &self.state.node;
        if let Some(header) = header {
            if let Some(report) = NodeReport::parse(header.as_bytes()) {
                node.observe(&report, self.shared.nanos(time));
            }
        } else if node.reports() {
            node.responded_without_report(self.shared.nanos(time));
        }
    }
}

edgeway_base::opaque_debug!(Backend, target, weight);

/// Parses `timeout` of `Keep-Alive: timeout=5, max=100`. No RFC defines it; Node.js, nginx and
/// Apache send it like this.
fn keep_alive_timeout(header: &HeaderValue) -> Option<u64> {
    header
        .to_str()
        .ok()?
        .split(',')
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_timeouts_are_read_as_apps_send_them() {
        for (header, seconds) in [
            ("timeout=5", Some(5)),
            ("timeout=5, max=100", Some(5)),
            ("max=100,timeout=72", Some(72)),
            ("Timeout = 15", Some(15)),
            ("max=100", None),
            ("timeout=soon", None),
            ("", None),
        ] {
            let value = HeaderValue::from_static(header);
            assert_eq!(keep_alive_timeout(&value), seconds, "{header}");
        }
    }
}
