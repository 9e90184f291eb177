//! Files of an app that need no app: the output of the build and `public/`.
//!
//! Next.js decides about such a file in this order: headers and redirects of its configuration, the
//! middleware, rewrites before files, and then the file. If anything before the file could match,
//! the request is the app's. Conditions on headers and cookies are ignored, as for guarded paths.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    super::paths,
    rules::{Rewrites, Rules},
};
use crate::base::expression::Expression;

/// Folder of a build's output below the build's folder.
const STATIC: &str = "static";

/// Files of `public/` that are known; an app with more serves the others itself.
const MAX_FILES: usize = 100_000;

/// Kind of a file, which decides how long browsers keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssetKind {
    /// Output of the build, named by its content.
    Static,
    Public,
}

/// Files of one build, and the rules of its configuration that come before them.
#[derive(Debug, Default)]
pub(super) struct Assets {
    rules: Vec<Expression>,
    /// True if a rule cannot be read, so that it could match any path.
    has_unknown_rule: bool,
    /// True if paths of files may begin with a language; that of the image optimizer does not.
    pub(super) has_languages: bool,
    /// Files below `public/` when the build was read, as Next.js lists them when it starts.
    public: HashSet<Box<[u8]>>,
}

/// Returns the path in `assetPrefix` of a configuration, as Next.js normalises it; `None` for none,
/// and for another server.
pub(super) fn prefix(written: &str) -> Option<Box<str>> {
    let path = written.trim_matches('/');
    let is_path = !path.is_empty() && !path.contains(':');
    is_path.then(|| format!("/{path}").into())
}

/// Returns the folder of `kind` for the build in `folder`.
pub(super) fn folder_of(folder: &Path, kind: AssetKind) -> PathBuf {
    match kind {
        AssetKind::Static => folder.join(STATIC),
        // Beside the folder's own name, which may be a link to a build.
        AssetKind::Public => folder.parent().unwrap_or(folder).join("public"),
    }
}

impl Assets {
    /// Lists the files of the build in `folder`. `prefix` is the path before those of its output, if
    /// it is not the app's base path.
    pub(super) fn list(folder: &Path, rules: &Rules, prefix: Option<&str>) -> Self {
        let mut assets = Self {
            has_languages: rules.i18n.is_some(),
            ..Self::default()
        };
        let before_files = match &rules.rewrites {
            Some(Rewrites::ByPhase { before_files, .. }) => &before_files[..],
            Some(Rewrites::List(_)) | None => &[],
        };
        let lists = [
            &rules.headers[..],
            &rules.on_match_headers,
            &rules.redirects,
            before_files,
        ];
        let rules = lists.into_iter().flatten();
        // The rule that Next.js itself has for the prefix.
        let of_prefix = prefix.map(|prefix| format!("{prefix}/_next/:path+"));
        let is_own = |source: &String| of_prefix.as_ref() == Some(source);
        for rule in rules.filter(|rule| !rule.is_for_router() && !is_own(&rule.source)) {
            match rule.paths() {
                Some(regex) => assets.rules.push(regex),
                None => assets.has_unknown_rule = true,
            }
        }
        let public = folder_of(folder, AssetKind::Public);
        list(&public, &mut Vec::new(), &mut assets.public);
        assets
    }

    /// Returns the kind of the file at this raw path below the base path, and its path in the
    /// folder of that kind. Output of the build may be missing.
    pub(super) fn find<'p>(&self, below: &'p [u8]) -> Option<(AssetKind, &'p [u8])> {
        if let Some(rest) = below.strip_prefix(paths::STATIC) {
            // Service workers have headers of their own.
            let is_worker = rest.starts_with(b"service-worker/");
            return (!is_worker).then(|| (AssetKind::Static, &below[paths::STATIC.len() - 1..]));
        }
        let name = below.strip_prefix(b"/")?;
        let is_known = self.public.contains(&*paths::decoded(name));
        is_known.then_some((AssetKind::Public, below))
    }

    /// Returns true if a rule of the configuration could match this raw path.
    pub(super) fn has_rule_for(&self, path: &[u8]) -> bool {
        if self.has_unknown_rule {
            return true;
        }
        if self.rules.is_empty() {
            return false;
        }
        let matches = |path: &[u8]| {
            let Ok(path) = std::str::from_utf8(path) else {
                return true;
            };
            let mut rules = self.rules.iter();
            rules.any(|rule| rule.is_match(path).unwrap_or(true))
        };
        if matches(path) {
            return true;
        }
        let decoded = paths::decoded(path);
        *decoded != *path && matches(&decoded)
    }
}

/// Lists the files in `folder`, whose own path is `above`, without links to other folders.
pub(in super::super) fn list(folder: &Path, above: &mut Vec<u8>, files: &mut HashSet<Box<[u8]>>) {
    use std::os::unix::ffi::OsStrExt;

    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if files.len() >= MAX_FILES {
            return;
        }
        let length = above.len();
        above.extend_from_slice(entry.file_name().as_bytes());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                above.push(b'/');
                list(&entry.path(), above, files);
            }
            Ok(kind) if kind.is_file() || kind.is_symlink() => {
                files.insert(above.as_slice().into());
            }
            _ => {}
        }
        above.truncate(length);
    }
}
