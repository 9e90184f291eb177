//! What went wrong with TLS to a backend, in words that say what to look at.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use pingora::{Error, ErrorType};

use super::{backend::Backend, eject::nanos};

/// A backend whose certificate is bad fails with each request; one line in this time.
const SAY_EACH: Duration = Duration::from_secs(10);

/// What rustls says → what to say. The first that is found counts.
const WORDS: [(&str, &str); 13] = [
    ("UnknownIssuer", "unknown issuer"),
    ("not valid for name", "name mismatch"),
    ("NotValidForName", "name mismatch"),
    ("certificate expired", "expired certificate"),
    ("certificate not valid yet", "certificate not valid yet"),
    (
        "CaUsedAsEndEntity",
        "certificate of an authority, not of a server",
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
        "the backend does not know our certificate's issuer",
    ),
    ("received fatal alert", "refused by the backend"),
    ("peer is incompatible", "no version or cipher in common"),
];

/// Why a handshake with a backend failed, if that is what `error` tells.
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
    let known = WORDS.iter().find(|(said, _)| text.contains(said));
    Some(known.map_or("no TLS handshake", |(_, word)| word))
}

/// Whether the backend ended TLS by an alert: with TLS 1.3 it looks at our certificate after
/// the handshake, and says what it thinks of it where an answer is expected.
pub fn is_alert(error: &Error) -> bool {
    error.to_string().contains("received fatal alert")
}

/// What was said of a backend's TLS, and when.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Nanoseconds of the upstream's epoch; 0 for never.
    at: AtomicU64,
    /// Failures since then.
    unsaid: AtomicU32,
}

impl Said {
    /// Whether to speak now, and of how many failures besides this one.
    fn may_speak(&self, now: u64) -> Option<u32> {
        let at = self.at.load(Ordering::Relaxed);
        let is_due = at == 0 || now.saturating_sub(at) >= nanos(SAY_EACH);
        // Of several at once one speaks.
        let speaks = is_due
            && self
                .at
                .compare_exchange(at, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if speaks {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Backend {
    /// TLS with this backend failed: tells operators why, though not for each request.
    pub fn report_tls(&self, error: &Error) {
        let now = self.shared.now();
        let Some(unsaid) = self.state.tls_said.may_speak(now) else {
            return;
        };
        log::error!(
            upstream = &*self.shared.name,
            backend = &**self.address(),
            name = self.peer.tls_name(),
            why = why(error).unwrap_or("no TLS handshake"),
            failures_since_last_line = unsaid,
            error:%;
            "TLS with a backend failed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_in_ten_seconds_is_told_with_the_count_of_the_others() {
        const SECOND: u64 = 1_000_000_000;
        let said = Said::default();
        assert_eq!(said.may_speak(SECOND), Some(0));
        for _ in 0..7 {
            assert_eq!(said.may_speak(5 * SECOND), None);
        }
        assert_eq!(said.may_speak(11 * SECOND), Some(7));
        assert_eq!(said.may_speak(12 * SECOND), None);
    }

    #[test]
    fn only_what_is_of_tls_is_told_so() {
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
