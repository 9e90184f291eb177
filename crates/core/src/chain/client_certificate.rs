//! Facts about a client that the TLS handshake has proven.

use http::HeaderValue;

/// A verified client certificate, as filters and origins see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Distinguished name of the subject (RFC 4514), in ASCII.
    pub subject: HeaderValue,
    /// SHA-256 of the certificate in DER, in lower-case hex.
    pub fingerprint: HeaderValue,
    /// Digest of the CAs that the listener trusts: others may give the same subject to somebody else.
    pub cas: u64,
}
