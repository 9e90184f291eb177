//! CA certificates of the system, and connectors that work without them.
//!
//! Pingora reads them when a connector is created and panics if one is invalid: a machine without
//! them, or with an invalid one, must still serve what needs none.

use std::sync::{Arc, OnceLock};

use pingora::{connectors::ConnectorOptions, server::configuration::ServerConf};
use rustls::RootCertStore;

/// File that holds no certificate and can always be read.
const NONE: &str = "/dev/null";

/// Returns the CA certificates, or why they cannot be used. Read once, as Pingora reads them.
fn found() -> &'static Result<Arc<RootCertStore>, String> {
    static FOUND: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    FOUND.get_or_init(|| {
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
    match found() {
        Ok(store) => Ok(store.len()),
        Err(error) => Err(error),
    }
}

/// Returns the CA certificates, none if they cannot be used.
pub(super) fn roots() -> Arc<RootCertStore> {
    let none = |_: &String| Arc::new(RootCertStore::empty());
    found().as_ref().map_or_else(none, Arc::clone)
}

/// Returns the file that connectors read instead of the system's, if that one cannot be used.
pub fn ca_file() -> Option<String> {
    match ca_count() {
        Ok(_) => None,
        Err(error) => {
            log::warn!(
                error;
                "system CA certificates not loaded, TLS works only for upstreams with a `ca`"
            );
            Some(NONE.to_owned())
        }
    }
}

/// Returns the options of the gateway's own connectors.
pub(super) fn connector_options() -> ConnectorOptions {
    ConnectorOptions::from_server_conf(&ServerConf {
        ca_file: ca_count().is_err().then(|| NONE.to_owned()),
        ..ServerConf::default()
    })
}
