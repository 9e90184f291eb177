//! Trust in the gateway's certificate.

use std::{path::Path, sync::Arc};

use edgeway_net::fetch::{self, Trust};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Creates a TLS client that trusts the CA certificates in `ca`, the system's, or any certificate.
pub(crate) fn tls(ca: Option<&Path>, is_insecure: bool) -> Result<ClientConfig, String> {
    let trust = match ca {
        Some(ca) => {
            let roots = fetch::roots(ca);
            let roots = roots.map_err(|why| format!("cannot use `{}`: {why}", ca.display()))?;
            Trust::Roots(Arc::new(roots))
        }
        // The verifier is replaced, so the system's CA certificates need not exist.
        None if is_insecure => Trust::Plain,
        None => Trust::System,
    };
    let mut config = fetch::tls(&trust)
        .map_err(|error| format!("cannot load the system's CA certificates: {error}"))?;
    if is_insecure {
        let algorithms = config.crypto_provider().signature_verification_algorithms;
        let verifier = Arc::new(AcceptAnyCertificate(algorithms));
        config.dangerous().set_certificate_verifier(verifier);
    }
    Ok(config)
}

/// Accepts any certificate, as with `curl --insecure`. The server must still prove that it has the
/// key.
#[derive(Debug)]
struct AcceptAnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
