//! What a handshake has proven of a client.

use http::HeaderValue;

/// A client's certificate that was verified, as filters and origins are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's distinguished name (RFC 4514), in ASCII.
    pub subject: HeaderValue,
    /// SHA-256 of the certificate in DER, in lower-case hex.
    pub fingerprint: HeaderValue,
}
