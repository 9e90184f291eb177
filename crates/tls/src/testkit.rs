//! Certificates for tests inside the crate.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure here fails the test that uses it"
)]

// The same generator as in the end-to-end tests.
#[path = "../../../tests/it/support/mmdb.rs"]
mod mmdb;

use std::{fs, os::unix::fs::symlink, path::Path};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tempfile::TempDir;

use crate::config::model::File;

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

/// The user `alice` with the password `wonderland`, with a hash that is cheap to verify.
const USERS: &str = "alice:$2y$04$abcdefghijklmnopqrstuujZkTwHUiJ9XdZPwKfcfDo7dMp5DjlTu\n";

/// Creates a folder with every file that the TLS of `file` needs.
pub fn files_of(file: &File) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &Path, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // Used by the examples of filters.
    put(Path::new("users.htpasswd"), USERS);
    let city = folder.path().join("GeoLite2-City.mmdb");
    fs::write(city, mmdb::loopback_in_munich()).unwrap();
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    symlink(plugins, folder.path().join("plugins")).unwrap();
    for tls in file.listeners.iter().filter_map(|l| l.value.tls.as_ref()) {
        for certificate in &tls.value.certificates.0 {
            let certificate = &certificate.value;
            if let (Some(cert), Some(key)) = (&certificate.cert, &certificate.key) {
                let (cert_text, key_text) = pair(&["example.com"]);
                put(&cert.value, &cert_text);
                put(&key.value, &key_text);
            }
            if let Some(dir) = &certificate.dir {
                write_pair(
                    &folder.path().join(&dir.value),
                    "shop",
                    &["shop.example.com"],
                );
            }
        }
        if let Some(path) = &tls.value.client_ca {
            put(&path.value, &pair(&["authority"]).0);
        }
    }
    folder
}
