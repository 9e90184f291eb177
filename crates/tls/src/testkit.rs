//! Certificates for tests inside the crate.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure here fails the test that uses it"
)]

use std::{fs, path::Path};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

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
