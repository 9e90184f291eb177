//! Certificates on disk: finds the pairs and tracks their changes.
//!
//! A check compares each file's stamp and reads the files whose stamp is new. A changed file is
//! read again at the next check, because it may be written twice within the same tick of the file
//! system's clock. A pair that is still unusable then is reported once, and its previous
//! certificate stays in use.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::crypto::CryptoProvider;

use super::pair::{self, Certificate, Ocsp, PairError, PairPaths};

/// Configured location of certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CertificateSource {
    Pair(PairPaths),
    Folder(PathBuf),
}

/// Stamp that identifies a state of a file without reading it. `None` if the file does not exist.
type FileStamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// The stamps of files that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(Vec<FileStamp>);

/// Decides when files are to be read.
#[derive(Debug, Default)]
pub(super) struct ReadSchedule {
    seen: Stamps,
    is_new: bool,
}

/// Result of comparing the stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadDecision {
    Nothing,
    /// The files have changed since the last check.
    Changed,
    /// The files changed before the last check and not since.
    Settled,
}

/// The certificates of a listener as last found.
#[derive(Debug)]
pub(super) struct Files {
    sources: Vec<CertificateSource>,
    provider: Arc<CryptoProvider>,
    pairs: BTreeMap<PairPaths, Pair>,
    folders: BTreeMap<PathBuf, Folder>,
}

#[derive(Debug, Default)]
struct Pair {
    turn: ReadSchedule,
    current: Option<Arc<Certificate>>,
    problem: Option<String>,
    is_missing: bool,
}

/// A folder's pairs, and problems of the folder itself.
#[derive(Debug, Default)]
struct Folder {
    pairs: Vec<PairPaths>,
    /// Problem found at the last check, reported if it is found again.
    suspicion: Option<String>,
    problem: Option<String>,
}

/// Result of a check.
#[derive(Debug, Default)]
pub(super) struct FilesCheck {
    /// All certificates, in the order of the configuration, if any has changed.
    pub(super) certificates: Option<Vec<Arc<Certificate>>>,
    pub(super) events: Vec<FilesEvent>,
    /// True if everything on disk is what is served.
    pub(super) is_well: bool,
}

/// Event to report to the operator, once.
#[derive(Debug)]
pub(super) enum FilesEvent {
    /// A pair is newly served.
    Loaded(Arc<Certificate>, PairPaths),
    /// A pair has disappeared from its folder.
    Gone(PairPaths),
    /// The files cannot be used, and the previous certificate stays in use.
    Trouble { path: PathBuf, why: String },
}

/// Problem with a source.
#[derive(Clone, Copy, Debug)]
pub(super) enum SourceProblem<'a> {
    Folder(&'a FolderError),
    Pair(&'a PairError),
}

/// Why a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("cannot read the folder `{}`: {}", .0.display(), .1)]
    Read(PathBuf, #[source] io::Error),
    #[error("no pair of certificate and key in the folder `{}`", .0.display())]
    Empty(PathBuf),
}

impl FolderError {
    /// Advice on how to fix the problem.
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::Read { .. } => "it must be a folder that the gateway's user may read",
            Self::Empty { .. } => {
                "put pairs `NAME.pem` (or `.crt`) and `NAME.key` there, or folders with `fullchain.pem` and `privkey.pem`"
            }
        }
    }
}

impl Stamps {
    pub(super) fn read<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        Self(paths.into_iter().map(stamp).collect())
    }
}

/// Returns the stamp of a file. Symlinks are followed, so it is that of the file that will be read.
fn stamp(path: &Path) -> FileStamp {
    let meta = fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

impl ReadSchedule {
    /// Creates the state for files that were read right after `seen` was taken.
    pub(super) fn after(seen: Stamps) -> Self {
        Self { seen, is_new: true }
    }

    pub(super) fn due(&mut self, now: Stamps) -> ReadDecision {
        if now != self.seen {
            self.seen = now;
            self.is_new = true;
            ReadDecision::Changed
        } else if self.is_new {
            self.is_new = false;
            ReadDecision::Settled
        } else {
            ReadDecision::Nothing
        }
    }
}

impl PairPaths {
    fn stamps(&self) -> Stamps {
        let ocsp = self.ocsp.as_ref().map(Ocsp::path);
        Stamps::read([&*self.cert, &*self.key].into_iter().chain(ocsp))
    }
}

impl Files {
    pub(super) fn new(sources: Vec<CertificateSource>, provider: Arc<CryptoProvider>) -> Self {
        Self {
            sources,
            provider,
            pairs: BTreeMap::new(),
            folders: BTreeMap::new(),
        }
    }

    /// Reads everything for the first time, and returns each certificate with the index of its
    /// source. `report` receives each problem with the index of its source.
    pub(super) fn load(
        &mut self,
        mut report: impl FnMut(usize, SourceProblem<'_>),
    ) -> Vec<(usize, Arc<Certificate>)> {
        let mut loaded = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            let paths = match source {
                CertificateSource::Pair(paths) => vec![paths.clone()],
                CertificateSource::Folder(path) => {
                    let folder = self.folders.entry(path.clone()).or_default();
                    match pairs_in(path) {
                        Ok(pairs) => folder.pairs = pairs,
                        Err(error) => {
                            report(index, SourceProblem::Folder(&error));
                            folder.problem = Some(error.to_string());
                        }
                    }
                    folder.pairs.clone()
                }
            };
            for paths in paths {
                let mut pair = Pair {
                    turn: ReadSchedule::after(paths.stamps()),
                    ..Pair::default()
                };
                match pair::load(&paths, &self.provider) {
                    Ok(certificate) => {
                        let certificate = Arc::new(certificate);
                        loaded.push((index, Arc::clone(&certificate)));
                        pair.current = Some(certificate);
                    }
                    Err(error) => {
                        report(index, SourceProblem::Pair(&error));
                        pair.problem = Some(error.to_string());
                    }
                }
                self.pairs.insert(paths, pair);
            }
        }
        loaded
    }

    /// The certificates served now, in the order of the configuration.
    pub(super) fn certificates(&self) -> Vec<Arc<Certificate>> {
        self.paths(|_| true)
            .filter_map(|paths| self.pairs.get(paths)?.current.clone())
            .collect()
    }

    /// Returns the pairs of all sources, except those in folders that `takes` refuses.
    fn paths(&self, takes: impl Fn(&Folder) -> bool) -> impl Iterator<Item = &PairPaths> {
        self.sources.iter().flat_map(move |source| match source {
            CertificateSource::Pair(paths) => std::slice::from_ref(paths),
            CertificateSource::Folder(path) => match self.folders.get(path) {
                Some(folder) if takes(folder) => &folder.pairs[..],
                _ => &[],
            },
        })
    }

    /// Checks all files at `now`, and reads those that have changed. Blocks.
    pub(super) fn look(&mut self, now: i64) -> FilesCheck {
        let mut look = FilesCheck::default();
        let mut has_changed = self.look_at_folders(&mut look);
        // A problem of a folder is all there is to report of it.
        let paths = self.paths(|folder| folder.suspicion.is_none());
        let paths: Vec<PairPaths> = paths.cloned().collect();
        for paths in paths {
            let pair = self.pairs.entry(paths.clone()).or_default();
            has_changed |= pair.look((&paths, now), &self.provider, &mut look.events);
        }
        if has_changed {
            look.certificates = Some(self.certificates());
        }
        look.is_well = self.is_well();
        look
    }

    /// Returns true if everything on disk is what is served.
    pub(super) fn is_well(&self) -> bool {
        self.pairs.values().all(|pair| pair.problem.is_none())
            && self.folders.values().all(|folder| folder.problem.is_none())
    }

    /// Finds the pairs in each folder. A folder that is empty or gone keeps the pairs it had: it is
    /// being replaced, or was removed by mistake.
    fn look_at_folders(&mut self, look: &mut FilesCheck) -> bool {
        let mut has_changed = false;
        for (path, folder) in &mut self.folders {
            let pairs = match pairs_in(path) {
                Ok(pairs) => pairs,
                Err(error) => {
                    let why = error.to_string();
                    let is_settled = folder.suspicion.as_ref() == Some(&why);
                    folder.suspicion = Some(why.clone());
                    if is_settled && folder.problem.as_ref() != Some(&why) {
                        folder.problem = Some(why.clone());
                        let path = path.clone();
                        look.events.push(FilesEvent::Trouble { path, why });
                    }
                    continue;
                }
            };
            folder.suspicion = None;
            folder.problem = None;
            let mut retained = Vec::new();
            for paths in folder
                .pairs
                .drain(..)
                .filter(|paths| !pairs.contains(paths))
            {
                let Some(pair) = self.pairs.get_mut(&paths) else {
                    continue;
                };
                // A pair may be missing while the new one is being written.
                if pair.is_missing {
                    self.pairs.remove(&paths);
                    has_changed = true;
                    look.events.push(FilesEvent::Gone(paths));
                } else {
                    pair.is_missing = true;
                    retained.push(paths);
                }
            }
            for paths in &pairs {
                if let Some(pair) = self.pairs.get_mut(paths) {
                    pair.is_missing = false;
                }
            }
            folder.pairs = pairs;
            folder.pairs.extend(retained);
            folder.pairs.sort();
        }
        has_changed
    }
}

impl Pair {
    /// Checks the pair, and returns true if there is a new certificate.
    fn look(
        &mut self,
        (paths, now): (&PairPaths, i64),
        provider: &CryptoProvider,
        events: &mut Vec<FilesEvent>,
    ) -> bool {
        if self.is_missing {
            return false;
        }
        let due = self.turn.due(paths.stamps());
        // What failed may have been the reading: no stamp changes when files can be opened again.
        if due == ReadDecision::Nothing && self.problem.is_none() {
            return false;
        }
        let loaded = pair::load(paths, provider).map_err(|error| error.to_string());
        match loaded.and_then(|new| self.accept(new, now)) {
            Ok(certificate) => {
                self.problem = None;
                let is_same = self.current.as_ref().is_some_and(|current| {
                    current.key.cert == certificate.key.cert
                        && current.key.ocsp == certificate.key.ocsp
                });
                if !is_same {
                    let certificate = Arc::new(certificate);
                    events.push(FilesEvent::Loaded(Arc::clone(&certificate), paths.clone()));
                    self.current = Some(certificate);
                }
                !is_same
            }
            Err(why) => {
                // The halves of a pair arrive one after the other, so only a lasting problem is
                // reported.
                if due != ReadDecision::Changed && self.problem.as_ref() != Some(&why) {
                    let path = paths.cert.clone();
                    events.push(FilesEvent::Trouble {
                        path,
                        why: why.clone(),
                    });
                    self.problem = Some(why);
                }
                false
            }
        }
    }

    /// Returns `new`, unless clients refuse it and accept the current one.
    fn accept(&self, new: Certificate, now: i64) -> Result<Certificate, String> {
        let is_kept = self.current.as_ref().is_some_and(|it| it.is_valid(now));
        let worry = new.worry(now).filter(|_| is_kept && !new.is_valid(now));
        worry.map_or(Ok(new), |worry| Err(format!("the certificate {worry}")))
    }
}

/// The pairs in a folder, by name: `NAME.pem` or `NAME.crt` with `NAME.key`, and folders in
/// certbot's layout.
fn pairs_in(path: &Path) -> Result<Vec<PairPaths>, FolderError> {
    let unreadable = |error| FolderError::Read(path.to_owned(), error);
    let mut pairs = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?.path();
        // Hidden entries are drafts, or the folders behind the symlinks of mounted secrets.
        if entry
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
        {
            continue;
        }
        let with_ocsp = |cert: PathBuf, key: PathBuf, ocsp: PathBuf| PairPaths {
            cert,
            key,
            ocsp: Some(Ocsp::IfThere(ocsp)),
        };
        if entry.extension().is_some_and(|ending| ending == "key") {
            let certs = ["pem", "crt"].map(|ending| entry.with_extension(ending));
            if let Some(cert) = certs.into_iter().find(|cert| cert.is_file()) {
                let ocsp = entry.with_extension("ocsp");
                pairs.push(with_ocsp(cert, entry, ocsp));
            }
            continue;
        }
        let cert = entry.join("fullchain.pem");
        if cert.is_file() {
            let key = entry.join("privkey.pem");
            pairs.push(with_ocsp(cert, key, entry.join("ocsp.der")));
        }
    }
    if pairs.is_empty() {
        return Err(FolderError::Empty(path.to_owned()));
    }
    pairs.sort();
    Ok(pairs)
}

#[cfg(test)]
mod tests;
