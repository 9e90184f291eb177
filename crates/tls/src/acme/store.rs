//! Account and certificates on disk: `accounts/DIRECTORY.json`, and for each name
//! `certificates/NAME/` with `fullchain.pem`, `privkey.pem` and `state.json`.
//!
//! Folders and files are private, and a file is complete or absent ([`private_file`]). Everything
//! here blocks.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::certificate::{Certificate, CertificateError};
use crate::{base::private_file, files::Stamps};

const CHAIN: &str = "fullchain.pem";
const KEY: &str = "privkey.pem";
const STATE: &str = "state.json";
const LOCK: &str = "lock";

/// The folder from the configuration.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub(super) folder: PathBuf,
}

/// State of a name that is stored beside its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct NameState {
    /// The ACME directory of the CA that signed the certificate.
    pub(super) directory: String,
    /// When the certificate was obtained, in seconds since 1970.
    pub(super) obtained: u64,
    /// The ACME directory of the CA that the failed attempts asked.
    pub(super) failing: String,
    /// Failed attempts since then.
    pub(super) failures: u32,
    /// When to retry, in seconds since 1970. 0 if the last attempt did not fail.
    pub(super) next_try: u64,
    /// True if the CA itself requested the delay.
    pub(super) was_asked_to_wait: bool,
    /// Why the last attempt failed.
    pub(super) problem: Option<String>,
}

/// A stored account.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredAccount {
    pub(super) directory: String,
    pub(super) email: Option<String>,
    /// Credentials as `instant-acme` writes them, including the private key.
    pub(super) credentials: serde_json::Value,
}

/// Certificate chain and key as received.
pub(super) struct Pem {
    pub(super) chain: String,
    pub(super) key: String,
}

/// The certificate of a name and its state.
#[derive(Debug)]
pub(super) struct StoredCertificate {
    pub(super) certificate: Certificate,
    pub(super) state: NameState,
}

/// Failed operation on the folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
    #[error("cannot use {0}")]
    Certificate(PathBuf, #[source] CertificateError),
}

impl Store {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The certificate of `name`, if there is a usable one.
    pub(super) fn load(&self, name: &str) -> Result<Option<StoredCertificate>, StoreError> {
        let folder = self.of_name(name);
        let (Some(chain), Some(key)) = (
            read_if_there(&folder.join(CHAIN))?,
            read_if_there(&folder.join(KEY))?,
        ) else {
            return Ok(None);
        };
        let certificate = Certificate::read(name, &chain, &key)
            .map_err(|error| StoreError::Certificate(folder, error))?;
        let state = self.state(name);
        Ok(Some(StoredCertificate { certificate, state }))
    }

    /// State of `name`, or the default if it cannot be read: the worst consequence is an attempt
    /// that comes too early.
    pub(super) fn state(&self, name: &str) -> NameState {
        read_json(&self.of_name(name).join(STATE)).unwrap_or_default()
    }

    pub(super) fn save_state(&self, name: &str, state: &NameState) -> Result<(), StoreError> {
        let folder = self.of_name(name);
        make_folder(&folder)?;
        write(&folder.join(STATE), &to_json(state))
    }

    /// Stores a certificate. The key is written first: a new key with the old chain is rejected
    /// when it is read, and the certificate is ordered again.
    pub(super) fn save(&self, name: &str, pem: &Pem, state: &NameState) -> Result<(), StoreError> {
        let folder = self.of_name(name);
        make_folder(&folder)?;
        write(&folder.join(KEY), pem.key.as_bytes())?;
        write(&folder.join(CHAIN), pem.chain.as_bytes())?;
        self.save_state(name, state)
    }

    /// The account with the CA of `directory`.
    pub(super) fn account(&self, directory: &str) -> Option<StoredAccount> {
        let stored: StoredAccount = read_json(&self.of_account(directory))?;
        (stored.directory == directory).then_some(stored)
    }

    pub(super) fn save_account(&self, account: &StoredAccount) -> Result<(), StoreError> {
        let path = self.of_account(&account.directory);
        make_folder(&self.folder.join("accounts"))?;
        write(&path, &to_json(account))
    }

    pub(super) fn stamps(&self, name: &str) -> Stamps {
        let folder = self.of_name(name);
        Stamps::read([&*folder.join(CHAIN), &*folder.join(KEY)])
    }

    /// Locks the ordering of a certificate for `name` until the file is closed. Returns `None` while
    /// another process holds the lock, such as a predecessor that is being replaced, or another
    /// gateway with the same folder.
    pub(super) fn lock(&self, name: &str) -> Result<Option<File>, StoreError> {
        let folder = self.of_name(name);
        make_folder(&folder)?;
        let path = folder.join(LOCK);
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let failed = |error| StoreError::Write(path.clone(), error);
        let file = opened.map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A file system without locks: by documentation, only one gateway writes there.
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOLCK) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Checks that the folder can be written, or can be created.
    pub(super) fn is_writable(&self) -> io::Result<()> {
        let mut path = self.folder.as_path();
        loop {
            match fs::metadata(path) {
                Ok(file) if !file.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
                Ok(_) => {
                    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
                    return Ok(rustix::fs::access(path, access)?);
                }
                // The folder will be created below the nearest one that exists.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    path = match path.parent() {
                        Some(parent) if !parent.as_os_str().is_empty() => parent,
                        _ => Path::new("."),
                    };
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn of_name(&self, name: &str) -> PathBuf {
        self.folder.join("certificates").join(name)
    }

    /// Path of an account. Each CA has its own file, so test and production directories stay apart.
    fn of_account(&self, directory: &str) -> PathBuf {
        let plain: String = directory
            .trim_start_matches("https://")
            .chars()
            .map(|c| match c {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => c,
                _ => '_',
            })
            .take(200)
            .collect();
        self.folder.join("accounts").join(format!("{plain}.json"))
    }
}

impl NameState {
    pub(super) fn obtained(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.obtained)
    }

    pub(super) fn next_try(&self) -> Option<SystemTime> {
        (self.next_try > 0).then(|| UNIX_EPOCH + Duration::from_secs(self.next_try))
    }
}

/// Seconds since 1970, as stored in the files.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    private_file::if_there(fs::read(path)).map_err(|error| StoreError::Read(path.to_owned(), error))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = match read_if_there(path) {
        Ok(bytes) => bytes?,
        Err(error) => {
            log::warn!(error:% = crate::base::error::chain(&error); "cannot read an ACME file");
            return None;
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            log::warn!(path:?, error:%; "ACME file corrupt, continuing without it");
            None
        }
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("plain data")
}

fn make_folder(path: &Path) -> Result<(), StoreError> {
    private_file::make_folder(path).map_err(|error| StoreError::Write(path.to_owned(), error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    private_file::write(path, bytes).map_err(|error| StoreError::Write(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn issued(name: &str) -> Pem {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        Pem {
            chain: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn stored_files_are_readable_by_us_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("acme"));
        assert!(store.load("a.example").unwrap().is_none());
        let state = NameState {
            directory: "https://authority.example/".into(),
            obtained: 1_800_000_000,
            ..NameState::default()
        };
        store
            .save("a.example", &issued("a.example"), &state)
            .unwrap();
        let before = store.stamps("a.example");
        store
            .save("a.example", &issued("a.example"), &state)
            .unwrap();
        assert_ne!(store.stamps("a.example"), before);

        let stored = store.load("a.example").unwrap().unwrap();
        assert_eq!(stored.state, state);
        let of_name = folder.path().join("acme/certificates/a.example");
        assert_eq!(mode(&folder.path().join("acme")), 0o700);
        assert_eq!(mode(&of_name), 0o700);
        let mut files: Vec<_> = fs::read_dir(&of_name)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let names: Vec<_> = files.iter().map(|f| f.file_name().unwrap()).collect();
        assert_eq!(names, ["fullchain.pem", "privkey.pem", "state.json"]);
        for file in files {
            assert_eq!(mode(&file), 0o600, "{file:?}");
        }
    }

    #[test]
    fn half_a_pair_is_no_pair() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        let state = NameState::default();
        store
            .save("a.example", &issued("a.example"), &state)
            .unwrap();
        let chain = folder.path().join("certificates/a.example/fullchain.pem");
        fs::write(&chain, issued("a.example").chain).unwrap();
        let error = store.load("a.example").unwrap_err();
        assert!(matches!(error, StoreError::Certificate(..)), "{error:?}");
        fs::remove_file(&chain).unwrap();
        assert!(store.load("a.example").unwrap().is_none());
    }

    #[test]
    fn each_directory_has_its_account() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        let account = |directory: &str| StoredAccount {
            directory: directory.to_owned(),
            email: None,
            credentials: serde_json::json!({ "id": directory }),
        };
        for directory in ["https://a.example/dir", "https://b.example/dir?x=../../y"] {
            assert!(store.account(directory).is_none());
            store.save_account(&account(directory)).unwrap();
            let found = store.account(directory).unwrap();
            assert_eq!(found.credentials["id"], directory);
        }
        let path = folder.path().join("accounts/a.example_dir.json");
        assert_eq!(mode(&path), 0o600);
        fs::write(path, "{").unwrap();
        assert!(store.account("https://a.example/dir").is_none());
    }

    #[test]
    fn one_at_a_time_orders_for_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        let first = store.lock("a.example").unwrap();
        assert!(first.is_some());
        assert!(store.lock("a.example").unwrap().is_none());
        assert!(store.lock("b.example").unwrap().is_some());
        drop(first);
        assert!(store.lock("a.example").unwrap().is_some());
    }

    #[test]
    fn a_folder_that_is_a_file_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| Store::new(folder.path().join(path)).is_writable();
        assert!(at("not/there/yet").is_ok());
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(at("file").is_err());
        assert!(at("file/below").is_err());
    }
}
