//! Certificates on disk: which pairs there are, and what became of them since the last look.
//!
//! A look asks for each file's stamp and reads what has a new one. What has changed is read
//! again at the next look: a file may have been written to within the same tick of the
//! file system's clock. A pair that is of no use then is complained about once, and what it
//! was before goes on answering.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::crypto::CryptoProvider;

use super::pair::{self, Certificate, Ocsp, PairError, PairPaths};

/// Where the certificates of a listener are kept, as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Pair(PairPaths),
    Folder(PathBuf),
}

/// What tells one state of a file from another without reading it; none if it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// The states of some files that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Stamp>);

/// When files are to be read.
#[derive(Debug, Default)]
pub(super) struct Turn {
    seen: Stamps,
    is_new: bool,
}

/// What is due after a look at the stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// They have changed since the last look.
    Changed,
    /// They changed before the last look and not since.
    Settled,
}

/// The certificates of a listener as they were found last.
#[derive(Debug)]
pub(super) struct Files {
    sources: Vec<Source>,
    provider: Arc<CryptoProvider>,
    pairs: BTreeMap<PairPaths, Pair>,
    folders: BTreeMap<PathBuf, Folder>,
}

#[derive(Debug, Default)]
struct Pair {
    turn: Turn,
    current: Option<Arc<Certificate>>,
    problem: Option<String>,
    is_missing: bool,
}

/// A folder's pairs, and what is wrong with the folder itself.
#[derive(Debug, Default)]
struct Folder {
    pairs: Vec<PairPaths>,
    /// Found at the last look, and told if it is found again.
    suspicion: Option<String>,
    problem: Option<String>,
}

/// What a look came to.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Every certificate there is, in the order of the configuration, if any has changed.
    pub(super) certificates: Option<Vec<Arc<Certificate>>>,
    pub(super) events: Vec<Event>,
    /// Whether everything on disk is what is served.
    pub(super) is_well: bool,
}

/// Something to tell the operator, once.
#[derive(Debug)]
pub(super) enum Event {
    /// A pair is served that was not before.
    Loaded(Arc<Certificate>, PairPaths),
    /// A pair is gone from its folder.
    Gone(PairPaths),
    /// What is on disk is of no use; what was there before goes on.
    Trouble { what: PathBuf, why: String },
}

/// What is wrong with a source.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble<'a> {
    Folder(&'a FolderError),
    Pair(&'a PairPaths, &'a PairError),
}

/// Why a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("cannot read the folder `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("no pair of certificate and key is in the folder `{}`", path.display())]
    Empty { path: PathBuf },
}

impl FolderError {
    /// What to do about it.
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
    pub(super) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        Self(paths.into_iter().map(stamp).collect())
    }
}

/// Symlinks are followed: what counts is the file that will be read.
fn stamp(path: &Path) -> Stamp {
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

impl Turn {
    /// For files that were read right after `seen` was taken.
    pub(super) fn after(seen: Stamps) -> Self {
        Self { seen, is_new: true }
    }

    pub(super) fn due(&mut self, now: Stamps) -> Due {
        if now != self.seen {
            self.seen = now;
            self.is_new = true;
            Due::Changed
        } else if self.is_new {
            self.is_new = false;
            Due::Settled
        } else {
            Due::Nothing
        }
    }
}

impl PairPaths {
    fn stamps(&self) -> Stamps {
        let ocsp = self.ocsp.as_ref().map(Ocsp::path);
        Stamps::of([&*self.cert, &*self.key].into_iter().chain(ocsp))
    }
}

impl Files {
    pub(super) fn new(sources: Vec<Source>, provider: Arc<CryptoProvider>) -> Self {
        Self {
            sources,
            provider,
            pairs: BTreeMap::new(),
            folders: BTreeMap::new(),
        }
    }

    /// Reads everything for the first time: each certificate with the index of its source.
    /// `report` is told what is of no use, and in which source.
    pub(super) fn load(
        &mut self,
        mut report: impl FnMut(usize, Trouble<'_>),
    ) -> Vec<(usize, Arc<Certificate>)> {
        let mut loaded = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            let paths = match source {
                Source::Pair(paths) => vec![paths.clone()],
                Source::Folder(path) => {
                    let folder = self.folders.entry(path.clone()).or_default();
                    match pairs_in(path) {
                        Ok(found) => folder.pairs = found,
                        Err(error) => {
                            report(index, Trouble::Folder(&error));
                            folder.problem = Some(error.to_string());
                        }
                    }
                    folder.pairs.clone()
                }
            };
            for paths in paths {
                let mut pair = Pair {
                    turn: Turn::after(paths.stamps()),
                    ..Pair::default()
                };
                match pair::load(&paths, &self.provider) {
                    Ok(certificate) => {
                        let certificate = Arc::new(certificate);
                        loaded.push((index, Arc::clone(&certificate)));
                        pair.current = Some(certificate);
                    }
                    Err(error) => {
                        report(index, Trouble::Pair(&paths, &error));
                        pair.problem = Some(error.to_string());
                    }
                }
                self.pairs.insert(paths, pair);
            }
        }
        loaded
    }

    /// What is served now, in the order of the configuration.
    pub(super) fn certificates(&self) -> Vec<Arc<Certificate>> {
        self.paths()
            .filter_map(|paths| self.pairs.get(paths)?.current.clone())
            .collect()
    }

    fn paths(&self) -> impl Iterator<Item = &PairPaths> {
        self.sources.iter().flat_map(|source| match source {
            Source::Pair(paths) => std::slice::from_ref(paths),
            Source::Folder(path) => self
                .folders
                .get(path)
                .map_or(&[][..], |folder| &folder.pairs),
        })
    }

    /// Looks at all files, and reads those that have changed. Blocks.
    pub(super) fn look(&mut self) -> Look {
        let mut look = Look::default();
        let mut has_changed = self.look_at_folders(&mut look);
        let paths: Vec<PairPaths> = self
            .sources
            .iter()
            .flat_map(|source| match source {
                Source::Pair(paths) => std::slice::from_ref(paths),
                // Of a folder in trouble there is nothing more to say.
                Source::Folder(path) => match self.folders.get(path) {
                    Some(folder) if folder.suspicion.is_none() => &folder.pairs[..],
                    _ => &[],
                },
            })
            .cloned()
            .collect();
        for paths in paths {
            let pair = self.pairs.entry(paths.clone()).or_default();
            has_changed |= pair.look(&paths, &self.provider, &mut look.events);
        }
        if has_changed {
            look.certificates = Some(self.certificates());
        }
        look.is_well = self.is_well();
        look
    }

    /// Whether everything on disk is what is served.
    pub(super) fn is_well(&self) -> bool {
        self.pairs.values().all(|pair| pair.problem.is_none())
            && self.folders.values().all(|folder| folder.problem.is_none())
    }

    /// Finds out which pairs there are. A folder that is empty or gone keeps those it had:
    /// it is on its way to be replaced, or was not meant to go.
    fn look_at_folders(&mut self, look: &mut Look) -> bool {
        let mut has_changed = false;
        for (path, folder) in &mut self.folders {
            let found = match pairs_in(path) {
                Ok(found) => found,
                Err(error) => {
                    let why = error.to_string();
                    let is_settled = folder.suspicion.as_ref() == Some(&why);
                    folder.suspicion = Some(why.clone());
                    if is_settled && folder.problem.as_ref() != Some(&why) {
                        folder.problem = Some(why.clone());
                        let what = path.clone();
                        look.events.push(Event::Trouble { what, why });
                    }
                    continue;
                }
            };
            folder.suspicion = None;
            folder.problem = None;
            let mut kept = Vec::new();
            for paths in folder
                .pairs
                .drain(..)
                .filter(|paths| !found.contains(paths))
            {
                let Some(pair) = self.pairs.get_mut(&paths) else {
                    continue;
                };
                // A pair may be gone for as long as it takes to write the new one.
                if pair.is_missing {
                    self.pairs.remove(&paths);
                    has_changed = true;
                    look.events.push(Event::Gone(paths));
                } else {
                    pair.is_missing = true;
                    kept.push(paths);
                }
            }
            for paths in &found {
                if let Some(pair) = self.pairs.get_mut(paths) {
                    pair.is_missing = false;
                }
            }
            folder.pairs = found;
            folder.pairs.extend(kept);
            folder.pairs.sort();
        }
        has_changed
    }
}

impl Pair {
    /// Whether there is a new certificate.
    fn look(
        &mut self,
        paths: &PairPaths,
        provider: &CryptoProvider,
        events: &mut Vec<Event>,
    ) -> bool {
        if self.is_missing {
            return false;
        }
        let due = self.turn.due(paths.stamps());
        if due == Due::Nothing {
            return false;
        }
        match pair::load(paths, provider) {
            Ok(certificate) => {
                self.problem = None;
                let is_same = self.current.as_ref().is_some_and(|current| {
                    current.key.cert == certificate.key.cert
                        && current.key.ocsp == certificate.key.ocsp
                });
                if !is_same {
                    let certificate = Arc::new(certificate);
                    events.push(Event::Loaded(Arc::clone(&certificate), paths.clone()));
                    self.current = Some(certificate);
                }
                !is_same
            }
            Err(error) => {
                let why = error.to_string();
                // Halves of a pair do not come at the same moment: only what stays bad is told.
                if due == Due::Settled && self.problem.as_ref() != Some(&why) {
                    let what = paths.cert.clone();
                    events.push(Event::Trouble {
                        what,
                        why: why.clone(),
                    });
                    self.problem = Some(why);
                }
                false
            }
        }
    }
}

/// The pairs in a folder, by name: `NAME.pem` or `NAME.crt` with `NAME.key`, and folders as
/// certbot keeps them.
fn pairs_in(path: &Path) -> Result<Vec<PairPaths>, FolderError> {
    let unreadable = |source| FolderError::Read {
        path: path.to_owned(),
        source,
    };
    let mut pairs = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?.path();
        // Hidden ones are drafts, and the folders behind the symlinks of mounted secrets.
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
        return Err(FolderError::Empty {
            path: path.to_owned(),
        });
    }
    pairs.sort();
    Ok(pairs)
}

#[cfg(test)]
mod tests;
