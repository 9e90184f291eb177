//! The local CA: its folder, its key, and the short-lived certificates that it signs.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Datelike, Utc};
use edgeway_base::{clock::Clock, private_file};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use ring::digest;
use rustix::fs::FlockOperation;
use x509_parser::pem::parse_x509_pem;

use super::names;

const KEY: &str = "root.key";
const CERTIFICATE: &str = "root.pem";

const DAY: Duration = Duration::from_hours(24);
/// Validity of the CA, and of a certificate. A stolen one of a site is useful for weeks, not years.
const CA_DAYS: u32 = 5 * 365;
const LEAF_DAYS: u32 = 30;
/// Remaining validity at which a certificate is replaced.
const RENEW_BEFORE: Duration = Duration::from_hours(10 * 24);

/// A CA of this user.
pub struct LocalCa {
    pub folder: PathBuf,
    key: KeyPair,
    params: CertificateParams,
    not_after: SystemTime,
    clock: Clock,
}

/// Files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Returns the folder of the CA, which need not exist.
pub(super) fn folder() -> Result<PathBuf, String> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    // XDG Base Directory Specification: a relative path is to be ignored.
    let absolute = |name: &str| var(name).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME");
    let data = data.or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    let none = "no folder for the CA: HOME is not set\nhelp: set HOME or XDG_DATA_HOME to a folder";
    data.map(|data| data.join("edgeway/ca"))
        .ok_or(none.to_owned())
}

impl LocalCa {
    /// Opens the CA of this user, or makes one.
    pub fn open_or_make() -> Result<Self, String> {
        Self::in_folder(folder()?, Clock::machine(), true).map(|ca| ca.expect("it is made"))
    }

    /// Opens the CA of this user, if there is one.
    pub fn open() -> Result<Option<Self>, String> {
        Self::in_folder(folder()?, Clock::machine(), false)
    }

    fn in_folder(folder: PathBuf, clock: Clock, make: bool) -> Result<Option<Self>, String> {
        let (key, certificate) = (folder.join(KEY), folder.join(CERTIFICATE));
        let cannot = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
            format!("cannot {what} `{}`: {error}", path.display())
        };
        if !make && !key.exists() {
            return Ok(None);
        }
        private_file::make_folder(&folder).map_err(|e| cannot("create", &folder, &e))?;
        // Two programs that start at the same time must not make two.
        let _lock = lock(&folder)?;
        if !key.exists() {
            if certificate.exists() {
                return Err(format!(
                    "the key of the local CA is missing: `{}`\n\
                     help: run `edgeway ca untrust`, remove `{}`, and run the command again",
                    key.display(),
                    folder.display()
                ));
            }
            let pair = KeyPair::generate().map_err(|e| cannot("make", &key, &e))?;
            private_file::write(&key, pair.serialize_pem().as_bytes())
                .map_err(|e| cannot("write", &key, &e))?;
        }
        let mode = fs::metadata(&key)
            .map_err(|e| cannot("read", &key, &e))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(format!(
                "others can read the key of the local CA, `{}` (mode {:o})\n\
                 help: if nobody else has used it, `chmod 600` it; otherwise run `edgeway ca \
                 untrust` and remove the folder",
                key.display(),
                mode & 0o777
            ));
        }
        let text = fs::read_to_string(&key).map_err(|e| cannot("read", &key, &e))?;
        let pair = KeyPair::from_pem(&text).map_err(|e| cannot("use", &key, &e))?;
        let params = params(&pair, &clock);
        if !certificate.exists() {
            let signed = params
                .self_signed(&pair)
                .map_err(|e| cannot("make", &certificate, &e))?;
            private_file::write(&certificate, signed.pem().as_bytes())
                .map_err(|e| cannot("write", &certificate, &e))?;
        }
        let Facts {
            not_after, public, ..
        } = facts(&certificate).map_err(|e| cannot("read", &certificate, &e))?;
        if public != pair.public_key_raw() {
            return Err(format!(
                "`{CERTIFICATE}` and `{KEY}` in `{}` do not belong together\n\
                 help: run `edgeway ca untrust`, remove the folder, and run the command again",
                folder.display()
            ));
        }
        if not_after <= clock.wall() + RENEW_BEFORE {
            return Err(format!(
                "the local CA in `{}` ends on {}\n\
                 help: run `edgeway ca untrust`, remove the folder, and `edgeway ca trust` for a \
                 new one",
                folder.display(),
                date(not_after)
            ));
        }
        Ok(Some(Self {
            folder,
            key: pair,
            params,
            not_after,
            clock,
        }))
    }

    /// Returns the path of the CA's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    /// Returns the name in stores, unique to the key.
    pub fn name(&self) -> String {
        name_of(&self.key)
    }

    pub fn expiry(&self) -> String {
        date(self.not_after)
    }

    /// Returns a certificate for these names that is valid for days, and makes one if need be.
    pub fn leaf(&self, names: &[String]) -> Result<LeafFiles, String> {
        for name in names {
            names::check(name)?;
        }
        let mut sorted = names.to_vec();
        sorted.sort();
        let hash = digest::digest(&digest::SHA256, sorted.join("\n").as_bytes());
        let folder = self
            .folder
            .join("certificates")
            .join(&hex::encode(hash)[..16]);
        let leaf = LeafFiles {
            certificate: folder.join("certificate.pem"),
            key: folder.join("certificate.key"),
        };
        // Of two programs, one would write the key and the other the certificate.
        let _lock = lock(&self.folder)?;
        if self.is_fresh(&leaf) {
            return Ok(leaf);
        }
        let issued = self
            .sign(names)
            .map_err(|error| format!("cannot make a certificate: {error}"))?;
        let cannot =
            |error: std::io::Error| format!("cannot write `{}`: {error}", folder.display());
        private_file::make_folder(&folder).map_err(cannot)?;
        private_file::write(&leaf.key, issued.1.as_bytes()).map_err(cannot)?;
        private_file::write(&leaf.certificate, issued.0.as_bytes()).map_err(cannot)?;
        Ok(leaf)
    }

    /// Returns true for a certificate of this CA that is valid for days, with its own key.
    fn is_fresh(&self, leaf: &LeafFiles) -> bool {
        let key = fs::read_to_string(&leaf.key).map(|key| KeyPair::from_pem(&key));
        let (Ok(Ok(key)), Ok(facts)) = (key, facts(&leaf.certificate)) else {
            return false;
        };
        facts.not_after > self.clock.wall() + RENEW_BEFORE
            && facts.public == key.public_key_raw()
            && facts.issuer == self.name()
    }

    /// Signs a certificate with a key of its own; returns both as PEM.
    fn sign(&self, names: &[String]) -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        let end = self.clock.wall() + DAY * LEAF_DAYS;
        set_validity(&mut params, self.clock.wall(), end.min(self.not_after));
        params.distinguished_name = DistinguishedName::new();
        let first = names.first().map_or("localhost", String::as_str);
        params.distinguished_name.push(DnType::CommonName, first);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_params(&self.params, &self.key);
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    }
}

/// Returns the contents of the CA's certificate. Its name depends on the key alone, so that a CA is
/// recognised by it.
fn params(key: &KeyPair, clock: &Clock) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Edgeway");
    params
        .distinguished_name
        .push(DnType::CommonName, name_of(key));
    set_validity(&mut params, clock.wall(), clock.wall() + DAY * CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(names::constraints());
    params
}

fn name_of(key: &KeyPair) -> String {
    let hash = digest::digest(&digest::SHA256, key.public_key_raw());
    format!("Edgeway local CA {}", &hex::encode(hash)[..8])
}

/// Locks the folder until the file is dropped.
fn lock(folder: &Path) -> Result<File, String> {
    let path = folder.join("lock");
    let cannot =
        |error: &dyn std::fmt::Display| format!("cannot lock `{}`: {error}", path.display());
    let file = File::create(&path).map_err(|error| cannot(&error))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|error| cannot(&error))?;
    Ok(file)
}

/// Contents of a certificate.
struct Facts {
    not_after: SystemTime,
    public: Vec<u8>,
    /// Name of the CA that signed it.
    issuer: String,
}

fn facts(path: &Path) -> Result<Facts, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let (_, pem) = parse_x509_pem(&text).map_err(|error| error.to_string())?;
    let certificate = pem.parse_x509().map_err(|error| error.to_string())?;
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    let issuer = certificate.issuer().iter_common_name().next();
    let issuer = issuer.and_then(|name| name.as_str().ok());
    Ok(Facts {
        not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(end),
        public: certificate.public_key().subject_public_key.data.to_vec(),
        issuer: issuer.unwrap_or_default().to_owned(),
    })
}

/// Sets whole days: from a day before `from`, since clocks differ, to the beginning of the last.
fn set_validity(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    let parts = |time: SystemTime| {
        let time = DateTime::<Utc>::from(time).date_naive();
        let small = |n: u32| u8::try_from(n).unwrap_or(1);
        (time.year(), small(time.month()), small(time.day()))
    };
    let (year, month, day) = parts(from - DAY);
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = parts(to);
    params.not_after = rcgen::date_time_ymd(year, month, day);
}

fn date(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).format("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn open(folder: &Path, clock: &Clock) -> Result<LocalCa, String> {
        let found = LocalCa::in_folder(folder.to_owned(), clock.clone(), true);
        found.map(|found| found.expect("it is made"))
    }

    #[test]
    fn a_ca_is_made_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("a/ca");
        let none = LocalCa::in_folder(folder.clone(), Clock::machine(), false);
        assert!(none.unwrap().is_none());
        assert!(!folder.exists());
        let first = open(&folder, &Clock::machine()).unwrap();
        let again = open(&folder, &Clock::machine()).unwrap();
        assert_eq!(first.name(), again.name());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(KEY))), (0o700, 0o600));
        let leaf = first.leaf(&names(&["localhost"])).unwrap();
        assert_eq!(mode(&leaf.key), 0o600);

        fs::set_permissions(folder.join(KEY), fs::Permissions::from_mode(0o640)).unwrap();
        let refused = open(&folder, &Clock::machine()).err().unwrap();
        assert!(refused.contains("chmod 600"), "{refused}");
        fs::remove_file(folder.join(KEY)).unwrap();
        let refused = open(&folder, &Clock::machine()).err().unwrap();
        assert!(refused.contains("is missing"), "{refused}");
        fs::write(
            folder.join(KEY),
            KeyPair::generate().unwrap().serialize_pem(),
        )
        .unwrap();
        fs::set_permissions(folder.join(KEY), fs::Permissions::from_mode(0o600)).unwrap();
        let refused = open(&folder, &Clock::machine()).err().unwrap();
        assert!(refused.contains("do not belong together"), "{refused}");
    }

    /// Invariant: a certificate that `leaf` returns is valid for at least ten more days.
    #[test]
    fn a_certificate_is_kept_while_it_is_fresh_and_replaced_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::test();
        let authority = open(folder.path(), &clock).unwrap();
        let text = |leaf: &LeafFiles| fs::read_to_string(&leaf.certificate).unwrap();
        let wanted = names(&["localhost", "127.0.0.1"]);
        let first = authority.leaf(&wanted).unwrap();
        let before = text(&first);
        assert_eq!(
            authority.leaf(&names(&["127.0.0.1", "localhost"])).unwrap(),
            first
        );
        assert_ne!(authority.leaf(&names(&["localhost"])).unwrap(), first);
        let mut changes = 0;
        for _ in 0..90 {
            clock.advance(DAY);
            let seen = text(&first);
            let leaf = authority.leaf(&wanted).unwrap();
            assert!(facts(&leaf.certificate).unwrap().not_after > clock.wall() + RENEW_BEFORE);
            changes += usize::from(text(&leaf) != seen);
        }
        assert_ne!(text(&first), before);
        assert!((3..=6).contains(&changes), "{changes}");
        clock.advance(DAY * CA_DAYS);
        let refused = open(folder.path(), &clock).err().unwrap();
        assert!(refused.contains("edgeway ca trust"), "{refused}");
    }

    /// Invariant: a certificate that `leaf` returns has its own key, and this CA signed it.
    #[test]
    fn a_certificate_without_its_key_or_of_another_ca_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = names(&["localhost"]);
        let authority = open(folder.path(), &Clock::machine()).unwrap();
        let leaf = authority.leaf(&wanted).unwrap();
        let kept = fs::read(&leaf.certificate).unwrap();
        assert_eq!(authority.leaf(&wanted).unwrap(), leaf);
        assert_eq!(fs::read(&leaf.certificate).unwrap(), kept);
        let other = KeyPair::generate().unwrap();
        fs::write(&leaf.key, other.serialize_pem()).unwrap();
        authority.leaf(&wanted).unwrap();
        let key = KeyPair::from_pem(&fs::read_to_string(&leaf.key).unwrap()).unwrap();
        let found = facts(&leaf.certificate).unwrap();
        assert_eq!(found.public, key.public_key_raw());

        fs::remove_file(folder.path().join(KEY)).unwrap();
        fs::remove_file(folder.path().join(CERTIFICATE)).unwrap();
        let next = open(folder.path(), &Clock::machine()).unwrap();
        assert_ne!(next.name(), authority.name());
        let leaf = next.leaf(&wanted).unwrap();
        assert_eq!(facts(&leaf.certificate).unwrap().issuer, next.name());
    }

    #[test]
    fn a_public_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let authority = open(folder.path(), &Clock::machine()).unwrap();
        assert!(
            authority
                .leaf(&names(&["localhost", "example.com"]))
                .is_err()
        );
    }
}
