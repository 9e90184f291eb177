//! Tests that replace certificate files in every way that operators do.

use tempfile::TempDir;

use super::*;
use crate::{policy, testkit};

/// A folder and the state of its watch.
struct WatchedDir {
    folder: TempDir,
    files: Files,
}

impl WatchedDir {
    fn new(sources: impl FnOnce(&Path) -> Vec<CertificateSource>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        testkit::write_pair(folder.path(), "a", &["a.test"]);
        let sources = sources(folder.path());
        let mut files = Files::new(sources, Arc::clone(policy::provider()));
        files.load(|_, trouble| panic!("{trouble:?}"));
        Self { folder, files }
    }

    fn pair() -> Self {
        Self::new(|folder| {
            vec![CertificateSource::Pair(PairPaths {
                cert: folder.join("a.pem"),
                key: folder.join("a.key"),
                ocsp: None,
            })]
        })
    }

    fn folder() -> Self {
        Self::new(|folder| vec![CertificateSource::Folder(folder.to_owned())])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The names served after a check, if anything changed, and the events.
    fn look(&mut self) -> (Option<Vec<String>>, Vec<String>) {
        let now = crate::expiry::seconds(crate::base::clock::Clock::machine().wall());
        let look = self.files.look(now);
        let names = look.certificates.map(|all| {
            let titles = all.iter().map(|certificate| certificate.title().to_owned());
            titles.collect()
        });
        let file = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let messages = look.events.iter().map(|event| match event {
            FilesEvent::Loaded(certificate, _) => format!("loaded {}", certificate.title()),
            FilesEvent::Gone(paths) => format!("gone {}", file(&paths.cert)),
            FilesEvent::Trouble { path, .. } => format!("trouble {}", file(path)),
        });
        (names, messages.collect())
    }

    /// Checks the files, and expects these names and events.
    #[track_caller]
    fn expect(&mut self, names: Option<&[&str]>, expected: &[&str]) {
        let (found, messages) = self.look();
        let names = names.map(|names| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            (found, &messages[..]),
            (
                names,
                &expected.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()[..]
            )
        );
    }

    /// Expects that further checks change nothing.
    #[track_caller]
    fn expect_quiet(&mut self) {
        for _ in 0..3 {
            self.expect(None, &[]);
        }
    }
}

#[test]
fn what_does_not_change_is_read_once_more_and_left_alone() {
    let mut watched = WatchedDir::pair();
    watched.expect_quiet();
    assert!(watched.files.is_well());
}

#[test]
fn a_pair_that_is_replaced_by_halves_makes_no_noise() {
    let mut watched = WatchedDir::pair();
    let (cert, key) = testkit::pair(&["new.test"]);
    watched.write("a.pem", &cert);
    watched.expect(None, &[]);
    assert!(watched.files.is_well());
    watched.write("a.key", &key);
    watched.expect(Some(&["new.test"]), &["loaded new.test"]);
    watched.expect_quiet();
}

#[test]
fn a_file_that_stays_invalid_is_reported_once_and_the_old_one_stays() {
    let mut watched = WatchedDir::pair();
    let (cert, key) = testkit::pair(&["new.test"]);
    watched.write("a.pem", &cert);
    watched.expect(None, &[]);
    watched.expect(None, &["trouble a.pem"]);
    watched.expect_quiet();
    assert!(!watched.files.is_well());
    assert_eq!(watched.files.certificates()[0].title(), "a.test");
    // Touched, and as bad as before: nothing new to report.
    watched.write("a.pem", &cert);
    watched.expect_quiet();
    fs::remove_file(watched.path("a.pem")).unwrap();
    watched.expect(None, &[]);
    watched.expect(None, &["trouble a.pem"]);
    watched.write("a.pem", &cert);
    watched.write("a.key", &key);
    watched.expect(Some(&["new.test"]), &["loaded new.test"]);
    assert!(watched.files.is_well());
}

#[test]
fn a_change_within_one_tick_of_the_clock_is_seen_at_the_next_look() {
    let mut watched = WatchedDir::pair();
    watched.expect_quiet();
    let (cert, key) = testkit::pair(&["new.test"]);
    watched.write("a.pem", &cert);
    watched.write("a.key", &key);
    // As if the new file had been checked already while it was the old one.
    let paths = watched.files.paths(|_| true).next().unwrap().clone();
    let pair = watched.files.pairs.get_mut(&paths).unwrap();
    pair.turn = ReadSchedule::after(paths.stamps());
    watched.expect(Some(&["new.test"]), &["loaded new.test"]);
}

#[test]
fn pairs_come_to_a_folder_and_leave_it() {
    let mut watched = WatchedDir::folder();
    let folder = watched.folder.path().to_owned();
    testkit::write_pair(&folder, "b", &["b.test"]);
    testkit::write_pair(&folder, ".draft", &["draft.test"]);
    watched.write("README", "not a certificate");
    watched.write("lonely.pem", "no key");
    watched.expect(Some(&["a.test", "b.test"]), &["loaded b.test"]);
    watched.expect_quiet();
    // Certbot's layout, and `.crt`.
    let (cert, key) = testkit::pair(&["bot.test"]);
    fs::create_dir(watched.path("bot")).unwrap();
    watched.write("bot/fullchain.pem", &cert);
    watched.write("bot/privkey.pem", &key);
    let (cert, key) = testkit::pair(&["crt.test"]);
    watched.write("c.crt", &cert);
    watched.write("c.key", &key);
    watched.expect(
        Some(&["a.test", "b.test", "bot.test", "crt.test"]),
        &["loaded bot.test", "loaded crt.test"],
    );
    // A pair that is missing for one check is being replaced.
    fs::remove_file(watched.path("b.pem")).unwrap();
    watched.expect(None, &[]);
    testkit::write_pair(&folder, "b", &["b2.test"]);
    watched.expect(
        Some(&["a.test", "b2.test", "bot.test", "crt.test"]),
        &["loaded b2.test"],
    );
    fs::remove_file(watched.path("b.pem")).unwrap();
    fs::remove_dir_all(watched.path("bot")).unwrap();
    watched.expect(None, &[]);
    watched.expect(
        Some(&["a.test", "crt.test"]),
        &["gone b.pem", "gone fullchain.pem"],
    );
    watched.expect_quiet();
    assert!(watched.files.is_well());
}

#[test]
fn a_folder_that_loses_everything_keeps_what_it_had() {
    let mut watched = WatchedDir::folder();
    fs::remove_file(watched.path("a.key")).unwrap();
    let name = watched.folder.path().file_name().unwrap();
    let trouble = format!("trouble {}", name.to_string_lossy());
    watched.expect(None, &[]);
    watched.expect(None, &[&trouble]);
    watched.expect_quiet();
    assert_eq!(watched.files.certificates().len(), 1);
    assert!(!watched.files.is_well());
    let folder = watched.folder.path().to_owned();
    testkit::write_pair(&folder, "a", &["back.test"]);
    watched.expect(Some(&["back.test"]), &["loaded back.test"]);
    assert!(watched.files.is_well());
}

#[test]
fn an_ocsp_response_may_come_later() {
    let mut watched = WatchedDir::folder();
    let ocsp = |last: u8| -> Vec<u8> { vec![0x30, 0x0a, 0x0a, 1, 0, 0xa0, 5, 0x30, 3, 2, 1, last] };
    assert_eq!(watched.files.certificates()[0].key.ocsp, None);
    fs::write(watched.path("a.ocsp"), ocsp(1)).unwrap();
    watched.expect(Some(&["a.test"]), &["loaded a.test"]);
    assert_eq!(watched.files.certificates()[0].key.ocsp, Some(ocsp(1)));
    // A truncated response is invalid.
    fs::write(watched.path("a.ocsp"), &ocsp(2)[..8]).unwrap();
    watched.expect(None, &[]);
    watched.expect(None, &["trouble a.pem"]);
    assert_eq!(watched.files.certificates()[0].key.ocsp, Some(ocsp(1)));
    fs::remove_file(watched.path("a.ocsp")).unwrap();
    watched.expect(Some(&["a.test"]), &["loaded a.test"]);
    assert_eq!(watched.files.certificates()[0].key.ocsp, None);
}

#[test]
fn each_mistake_is_named_with_the_file_to_blame() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (cert, key) = testkit::pair(&["a.test"]);
    let (other, other_key) = testkit::pair(&["b.test"]);
    fs::write(at("a.pem"), &cert).unwrap();
    fs::write(at("a.key"), &key).unwrap();
    fs::write(at("both.pem"), format!("{other}{cert}")).unwrap();
    fs::write(at("b.key"), &other_key).unwrap();
    fs::write(at("cut.pem"), &cert[..cert.len() / 2]).unwrap();
    fs::write(at("cut.key"), &key[..key.len() / 2]).unwrap();
    let legacy = key.replace(
        "PRIVATE KEY-----\n",
        "PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
    );
    fs::write(at("legacy.key"), legacy).unwrap();
    let junk = key.replace("-----END", "AAAA\n-----END");
    fs::write(at("junk.key"), junk).unwrap();
    for (cert, key, part, words) in [
        ("a.pem", "none.key", pair::PairFile::Key, "cannot read"),
        ("none.pem", "a.key", pair::PairFile::Cert, "cannot read"),
        (
            "both.pem",
            "a.key",
            pair::PairFile::Cert,
            "the key does not fit the first certificate",
        ),
        ("a.pem", "b.key", pair::PairFile::Key, "is not the key of"),
        (
            "cut.pem",
            "a.key",
            pair::PairFile::Cert,
            "is not a PEM file",
        ),
        ("a.pem", "cut.key", pair::PairFile::Key, "is not a PEM file"),
        ("a.pem", "legacy.key", pair::PairFile::Key, "is encrypted"),
        ("a.pem", "junk.key", pair::PairFile::Key, "cannot be used"),
        (
            "a.key",
            "a.key",
            pair::PairFile::Cert,
            "holds no certificate",
        ),
        (
            "a.pem",
            "a.pem",
            pair::PairFile::Key,
            "holds no private key",
        ),
    ] {
        let paths = PairPaths {
            cert: at(cert),
            key: at(key),
            ocsp: None,
        };
        let error = pair::load(&paths, policy::provider()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words), "{cert} {key}: {text}");
        assert_eq!(error.part, part, "{cert} {key}");
        assert!(!error.help().is_empty());
    }
    // The control: key and certificate even in one file.
    fs::write(at("one.pem"), format!("{key}{cert}")).unwrap();
    let paths = PairPaths {
        cert: at("one.pem"),
        key: at("one.pem"),
        ocsp: None,
    };
    let loaded = pair::load(&paths, policy::provider()).unwrap();
    assert_eq!(loaded.title(), "a.test");
}
