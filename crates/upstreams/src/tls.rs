//! Causes of TLS failures with a backend, as messages that tell where to look.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use pingora::{Error, ErrorType};

use super::{backend::Backend, eject::nanos};

/// Interval between log lines: a backend with an invalid certificate fails with each request.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Messages of rustls and the texts reported for them. The first match counts.
const MESSAGES: [(&str, &str); 13] = [
    ("UnknownIssuer", "unknown issuer"),
    ("not valid for name", "name mismatch"),
    ("NotValidForName", "name mismatch"),
    ("certificate expired", "expired certificate"),
    ("certificate not valid yet", "certificate not valid yet"),
    (
        "CaUsedAsEndEntity",
        "CA certificate, not a server certificate",
    ),
    ("BadSignature", "bad signature"),
    ("Revoked", "revoked certificate"),
    ("invalid peer certificate", "bad certificate"),
    (
        "CertificateRequired",
        "the backend asks for a client certificate",
    ),
    (
        "UnknownCA",
        "the backend does not trust our certificate's issuer",
    ),
    ("received fatal alert", "refused by the backend"),
    ("peer is incompatible", "no TLS version or cipher in common"),
];

/// Returns why a handshake with a backend failed, if `error` is such a failure.
pub(super) fn why(error: &Error) -> Option<&'static str> {
    use ErrorType as E;
    let is_handshake = matches!(
        error.etype(),
        E::TLSHandshakeFailure | E::HandshakeError | E::InvalidCert
    );
    if !is_handshake && !is_alert(error) {
        return None;
    }
    let text = error.to_string();
    let known = MESSAGES.iter().find(|(message, _)| text.contains(message));
    Some(known.map_or("no TLS handshake", |(_, word)| word))
}

/// Returns true if the backend ended TLS by an alert: with TLS 1.3 it verifies the client
/// certificate after the handshake, and sends the alert where a response is expected.
pub fn is_alert(error: &Error) -> bool {
    error.to_string().contains("received fatal alert")
}

/// Last log line on a backend's TLS.
#[derive(Debug, Default)]
pub(super) struct LastTlsLine {
    /// Nanoseconds of the upstream's epoch; 0 for never.
    at: AtomicU64,
    /// Failures since then.
    suppressed: AtomicU32,
}

impl LastTlsLine {
    /// Returns the number of unlogged failures if a line may be logged now.
    fn may_speak(&self, now: u64) -> Option<u32> {
        let last = self.at.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= nanos(LOG_INTERVAL);
        // Of concurrent callers only one logs.
        let speaks = is_due
            && self
                .at
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if speaks {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Backend {
    /// Logs a TLS failure with this backend, though not for each request.
    pub fn report_tls(&self, error: &Error) {
        let now = self.shared.now();
        let Some(suppressed) = self.state.last_tls_line.may_speak(now) else {
            return;
        };
        log::error!(
            upstream = &*self.shared.name,
            backend = &**self.address(),
            name = self.tls_name().unwrap_or_default(),
            why = why(error).unwrap_or("no TLS handshake"),
            failures_since_last_line = suppressed,
            error:%;
            "TLS handshake with a backend failed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_in_ten_seconds_is_logged_with_the_count_of_the_others() {
        const SECOND: u64 = 1_000_000_000;
        let line = LastTlsLine::default();
        assert_eq!(line.may_speak(SECOND), Some(0));
        for _ in 0..7 {
            assert_eq!(line.may_speak(5 * SECOND), None);
        }
        assert_eq!(line.may_speak(11 * SECOND), Some(7));
        assert_eq!(line.may_speak(12 * SECOND), None);
    }

    #[test]
    fn only_tls_failures_are_reported_as_such() {
        let because = |etype, text: &str| *Error::explain(etype, text.to_owned());
        let refused = because(ErrorType::ConnectRefused, "invalid peer certificate");
        assert_eq!(why(&refused), None);
        for (text, word) in [
            ("invalid peer certificate: UnknownIssuer", "unknown issuer"),
            (
                "invalid peer certificate: certificate not valid for name \"a\"",
                "name mismatch",
            ),
            ("received corrupt message", "no TLS handshake"),
        ] {
            let failed = because(ErrorType::TLSHandshakeFailure, text);
            assert_eq!(why(&failed), Some(word));
        }
        let alert = because(
            ErrorType::ReadError,
            "received fatal alert: CertificateRequired",
        );
        assert_eq!(
            why(&alert),
            Some("the backend asks for a client certificate")
        );
    }
}
