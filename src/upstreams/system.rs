//! The machine's certificates of authorities, and connectors that live without them.
//!
//! Pingora reads them when a connector is made and panics if one cannot be used: a machine
//! without them, or with a broken one, is to serve all that needs none.

use std::sync::OnceLock;

use pingora::{connectors::ConnectorOptions, server::configuration::ServerConf};
use rustls::RootCertStore;

/// Holds no certificate and can always be read.
const NONE: &str = "/dev/null";

/// How many there are, or why they cannot be used. Read once, as Pingora reads them.
pub(super) fn authorities() -> &'static Result<usize, String> {
    static FOUND: OnceLock<Result<usize, String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let list = rustls_native_certs::load_native_certs().map_err(|error| error.to_string())?;
        let mut store = RootCertStore::empty();
        for certificate in list {
            store.add(certificate).map_err(|error| error.to_string())?;
        }
        Ok(store.len())
    })
}

/// The file that connectors are to read instead of the system's, if those cannot be used.
pub fn authorities_file() -> Option<String> {
    match authorities() {
        Ok(_) => None,
        Err(error) => {
            log::warn!(
                error = error.as_str();
                "the system's certificates cannot be used: only upstreams with a `ca` are reached by TLS"
            );
            Some(NONE.to_owned())
        }
    }
}

/// For connectors of our own.
pub(super) fn connector_options() -> ConnectorOptions {
    ConnectorOptions::from_server_conf(&ServerConf {
        ca_file: authorities().is_err().then(|| NONE.to_owned()),
        ..ServerConf::default()
    })
}
