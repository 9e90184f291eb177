//! Counts of handshakes, by version and outcome.

use std::sync::{Arc, OnceLock};

use rustls::{HandshakeKind, ServerConnection};

use super::{HandshakeError, accept::version};
use crate::base::metrics::{IntCounter, Metrics};

pub(super) const NAME: &str = "edgeway_tls_handshakes_total";

edgeway_base::enum_table! {
    /// Outcome of a handshake, and its label.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum HandshakeOutcome => label {
        /// Complete, with a key exchange and the certificate.
        Full = "full",
        /// Complete, on an earlier session's ticket.
        Resumed = "resumed",
        Failed = "failed",
        ClientCertificate = "client_certificate",
        PlainHttp = "plain_http",
        UnknownName = "unknown_name",
        Timeout = "timeout",
    }
}

/// Versions as labels; `none` if the handshake ended before there was one.
const VERSIONS: [&str; 3] = ["TLSv1.3", "TLSv1.2", "none"];

/// Counters of one listener. Each is created when first counted.
#[derive(Debug)]
pub(super) struct Handshakes {
    metrics: Metrics,
    listener: Arc<str>,
    counters: [[OnceLock<IntCounter>; HandshakeOutcome::ALL.len()]; VERSIONS.len()],
}

impl Handshakes {
    pub(super) fn new(metrics: &Metrics, listener: &Arc<str>) -> Self {
        let handshakes = Self {
            metrics: metrics.clone(),
            listener: Arc::clone(listener),
            counters: [const { [const { OnceLock::new() }; HandshakeOutcome::ALL.len()] };
                VERSIONS.len()],
        };
        // From the start, so that a rate has a first value.
        for version in ["TLSv1.3", "TLSv1.2"] {
            handshakes.counter(version, HandshakeOutcome::Full);
        }
        handshakes
    }

    /// Counts a complete handshake.
    pub(super) fn complete(&self, connection: &ServerConnection) {
        let outcome = match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => HandshakeOutcome::Resumed,
            _ => HandshakeOutcome::Full,
        };
        self.counter(version(connection), outcome).inc();
    }

    /// Counts a handshake that failed; `None` stands for one that took too long.
    pub(super) fn failed(&self, error: Option<&HandshakeError>) {
        let outcome = match error {
            None => HandshakeOutcome::Timeout,
            Some(HandshakeError::Handshake(_)) => HandshakeOutcome::Failed,
            Some(HandshakeError::ClientCertificate) => HandshakeOutcome::ClientCertificate,
            Some(HandshakeError::PlainHttp) => HandshakeOutcome::PlainHttp,
            Some(HandshakeError::UnknownName) => HandshakeOutcome::UnknownName,
        };
        self.counter("", outcome).inc();
    }

    fn counter(&self, version: &str, outcome: HandshakeOutcome) -> &IntCounter {
        let none = VERSIONS.len() - 1;
        let row = VERSIONS.iter().position(|own| *own == version);
        let (row, column) = (row.unwrap_or(none), outcome as usize);
        self.counters[row][column].get_or_init(|| {
            self.metrics.counter(
                NAME,
                "TLS handshakes of clients by version and outcome: `full`, `resumed`, or why they failed.",
                &[
                    ("listener", &self.listener),
                    ("version", VERSIONS[row]),
                    ("outcome", outcome.label()),
                ],
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_fail_has_its_own_series() {
        let metrics = Metrics::default();
        let handshakes = Handshakes::new(&metrics, &"web".into());
        let io = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        for error in [
            None,
            Some(HandshakeError::Handshake(io())),
            Some(HandshakeError::ClientCertificate),
            Some(HandshakeError::PlainHttp),
            Some(HandshakeError::UnknownName),
        ] {
            handshakes.failed(error.as_ref());
        }
        let text = String::from_utf8(metrics.text()).unwrap();
        for outcome in &HandshakeOutcome::ALL[2..] {
            let outcome = outcome.label();
            let line =
                format!("{NAME}{{listener=\"web\",outcome=\"{outcome}\",version=\"none\"}} 1\n");
            assert!(text.contains(&line), "{line}: {text}");
        }
        let none = format!("{NAME}{{listener=\"web\",outcome=\"full\",version=\"TLSv1.3\"}} 0\n");
        assert!(text.contains(&none), "{text}");
    }
}
