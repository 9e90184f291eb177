//! Folders to watch for a configuration: those of its files, of the links that lead to them, and of
//! the patterns that may match more.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use edgeway_config::source::Sources;

/// Maximum number of links on the way to a file.
const LINKS: usize = 40;

/// The set of folders and names to watch. If it is equal, the watch continues unchanged.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WatchedFolders {
    pub(super) places: HashSet<WatchedFolder>,
    pub(super) names: WatchedNames,
}

/// A folder to watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WatchedFolder {
    pub(super) folder: PathBuf,
    /// True to watch everything below the folder.
    pub(super) is_deep: bool,
    /// Identity of the folder: a new folder at the same path differs.
    id: Option<(u64, u64)>,
}

/// The names that matter in those folders, in which other programs may write too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WatchedNames {
    exact: Arc<HashSet<OsString>>,
    patterns: Arc<[glob::Pattern]>,
}

impl WatchedNames {
    /// Returns true if any of these paths may belong to the configuration.
    pub(super) fn any(&self, paths: &[PathBuf]) -> bool {
        let is_one = |path: &PathBuf| {
            let Some(name) = path.file_name() else {
                return true;
            };
            self.exact.contains(name)
                || self
                    .patterns
                    .iter()
                    .any(|pattern| pattern.matches_path(Path::new(name)))
        };
        paths.is_empty() || paths.iter().any(is_one)
    }
}

#[derive(Default)]
struct FolderPlaces {
    folders: HashSet<(PathBuf, bool)>,
    names: HashSet<OsString>,
    patterns: Vec<glob::Pattern>,
}

impl WatchedFolders {
    /// Places of the configuration at `path`, of which `sources` were read.
    pub(super) fn new(path: &Path, sources: &Sources) -> Self {
        let mut folders = FolderPlaces::default();
        let files = sources.paths();
        for file in files.chain([path]).chain(sources.referenced.paths()) {
            folders.file(&absolute(file), LINKS);
        }
        for pattern in &sources.patterns {
            folders.pattern(&absolute(pattern));
        }
        let places = folders
            .folders
            .into_iter()
            .map(|(folder, is_deep)| WatchedFolder {
                id: fs::metadata(&folder).ok().map(|m| (m.dev(), m.ino())),
                folder,
                is_deep,
            });
        Self {
            places: places.collect(),
            names: WatchedNames {
                exact: Arc::new(folders.names),
                patterns: folders.patterns.into(),
            },
        }
    }
}

impl FolderPlaces {
    /// Follows a path: watches the folder of each link on the way, whose target may change, and the
    /// folder of the file at its end.
    fn file(&mut self, path: &Path, links: usize) {
        let mut at = PathBuf::new();
        let mut rest = path.components();
        while let Some(component) = rest.next() {
            let folder = at.clone();
            match component {
                Component::Normal(name) => {
                    at.push(name);
                    if let Ok(target) = fs::read_link(&at)
                        && links > 0
                    {
                        self.watch(&folder, name);
                        let resolved = folder.join(target).join(rest.as_path());
                        return self.file(&resolved, links - 1);
                    }
                    if rest.as_path().as_os_str().is_empty() {
                        self.watch(&folder, name);
                    } else if !at.is_dir() {
                        // The file may be created later.
                        return self.watch(&folder, name);
                    }
                }
                Component::ParentDir => {
                    at.pop();
                }
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => at.push(component),
            }
        }
    }

    fn watch(&mut self, folder: &Path, name: &std::ffi::OsStr) {
        self.folders.insert((folder.to_owned(), false));
        self.names.insert(name.to_owned());
    }

    /// Watches the folder where a pattern begins, and all below it if the pattern may match there.
    fn pattern(&mut self, pattern: &Path) {
        let is_plain = |part: &Component<'_>| {
            let text = part.as_os_str().to_string_lossy();
            !text.contains(['*', '?', '['])
        };
        let folder: PathBuf = pattern.components().take_while(is_plain).collect();
        let is_deep = pattern.components().count() > folder.components().count() + 1;
        let name = pattern.file_name().unwrap_or_default().to_string_lossy();
        self.file(&folder, LINKS);
        if folder.is_dir() {
            self.folders.insert((folder, is_deep));
        }
        // Any folder below it may come or go.
        let name = if is_deep { "*" } else { &*name };
        self.patterns.extend(glob::Pattern::new(name).ok());
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn places(root: &Path, main: &str, patterns: &[&str]) -> (Vec<String>, WatchedNames) {
        let sources = Sources {
            patterns: patterns.iter().map(|pattern| root.join(pattern)).collect(),
            ..Sources::default()
        };
        let WatchedFolders { places, names } = WatchedFolders::new(&root.join(main), &sources);
        let shown = places.iter().filter_map(|place| {
            let below = place.folder.strip_prefix(root).ok()?.display();
            Some(format!("{below}{}", if place.is_deep { "/**" } else { "" }))
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort();
        (shown, names)
    }

    #[test]
    fn folders_of_links_and_patterns_are_watched_for_their_names_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for made in ["conf/..1", "real", "conf/routes.d"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        // As Kubernetes mounts a ConfigMap.
        fs::write(root.join("conf/..1/edgeway.yaml"), "").unwrap();
        symlink("..1", root.join("conf/..data")).unwrap();
        symlink("..data/edgeway.yaml", root.join("conf/edgeway.yaml")).unwrap();
        symlink("conf", root.join("current")).unwrap();
        let (found, names) = places(&root, "conf/edgeway.yaml", &[]);
        assert_eq!(found, ["conf", "conf/..1"]);
        let is_one = |name: &str| names.any(&[root.join("conf").join(name)]);
        assert!(is_one("..data") && is_one("edgeway.yaml"));
        assert!(!is_one("access.log") && !is_one(".edgeway.yaml.swp"));
        let (found, _) = places(&root, "current/edgeway.yaml", &[]);
        assert_eq!(found, ["", "conf", "conf/..1"]);

        let (found, names) = places(&root, "real/e.yaml", &["conf/routes.d/*.yaml"]);
        assert_eq!(found, ["conf", "conf/routes.d", "real"]);
        assert!(names.any(&["x/new.yaml".into()]) && !names.any(&["x/new.log".into()]));
        let (found, _) = places(&root, "real/e.yaml", &["conf/**/x.yaml"]);
        assert_eq!(found, ["", "conf/**", "real"]);
        // A path that does not exist yet is noticed when it appears.
        let (found, _) = places(&root, "later/e.yaml", &[]);
        assert_eq!(found, [""]);
    }

    #[test]
    fn links_that_go_in_circles_end() {
        let folder = tempfile::tempdir().unwrap();
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (found, _) = places(&root, "a", &[]);
        assert_eq!(found, [""]);
    }
}
