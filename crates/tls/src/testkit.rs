//! Certificates for tests inside the crate.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure here fails the test that uses it"
)]

use std::{fs, path::Path, sync::Arc};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

use crate::{
    pair::{Certificate, PairPaths, load},
    policy,
};

/// Creates a self-signed certificate and its key, in PEM.
pub(super) fn pair(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    (cert.pem(), KeyPair::serialize_pem(&signing_key))
}

/// Writes a pair for `names` as `NAME.pem` and `NAME.key`.
pub(super) fn write_pair(folder: &Path, name: &str, names: &[&str]) {
    let (cert, key) = pair(names);
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(format!("{name}.pem")), cert).unwrap();
    fs::write(folder.join(format!("{name}.key")), key).unwrap();
}

/// Creates a certificate for these names that counts as valid until `not_after`, in seconds since
/// 1970, regardless of its own dates.
pub(super) fn certificate(names: &[&str], not_after: i64) -> Arc<Certificate> {
    let folder = tempfile::tempdir().unwrap();
    write_pair(folder.path(), "a", names);
    let paths = PairPaths {
        cert: folder.path().join("a.pem"),
        key: folder.path().join("a.key"),
        ocsp: None,
    };
    let certificate = load(&paths, policy::provider()).unwrap();
    Arc::new(Certificate {
        not_after,
        ..certificate
    })
}
