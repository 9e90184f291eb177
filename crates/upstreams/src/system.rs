//! CA certificates of the system. A machine without them, or with an invalid one, still serves what
//! needs none.

use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;

/// Returns the CA certificates, or why they cannot be used. Read once.
fn system_roots() -> &'static Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let list = rustls_native_certs::load_native_certs().map_err(|error| error.to_string())?;
        let mut store = RootCertStore::empty();
        for certificate in list {
            store.add(certificate).map_err(|error| error.to_string())?;
        }
        Ok(Arc::new(store))
    })
}

/// Returns the number of CA certificates, or why they cannot be used.
pub(super) fn ca_count() -> Result<usize, &'static str> {
    match system_roots() {
        Ok(store) => Ok(store.len()),
        Err(error) => Err(error),
    }
}

/// Returns the CA certificates, none if they cannot be used.
pub(super) fn roots() -> Arc<RootCertStore> {
    let none = |_: &String| Arc::new(RootCertStore::empty());
    system_roots().as_ref().map_or_else(none, Arc::clone)
}
