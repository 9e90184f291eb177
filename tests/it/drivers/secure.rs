//! TLS of an origin.

use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::support::certificates::Ca;

const NAME: &str = "app.test";

/// Certificate of origins, and the CA that signed it.
pub(super) struct Secure {
    acceptor: TlsAcceptor,
    folder: TempDir,
}

impl Secure {
    pub(super) fn new() -> Self {
        let ca = Ca::new();
        let folder = tempfile::tempdir().expect("there is room for a folder");
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).expect("the folder is ours");
        Self {
            acceptor: ca.site(&[NAME]).acceptor(&[], None),
            folder,
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Returns the option of an upstream that trusts the origin.
    pub(super) fn option(&self) -> String {
        let ca = self.folder.path().join("ca.pem");
        format!("tls: {{ name: {NAME}, ca: '{}' }}", ca.display())
    }
}
