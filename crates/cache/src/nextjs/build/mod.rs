//! Reader of a build's folder: the identity of the build, the paths that its middleware guards, and
//! the images that may be requested.
//!
//! The folder also holds the keys of draft mode and of server actions. The files made for them
//! (`prerender-manifest.json`, `server/preview-props.json`) are never opened. Next.js 15 also
//! writes them into `server/middleware-manifest.json`, beside the matchers: only fields named here
//! are kept from a file, or one digest of all files ([`identity`]), and no error quotes a file.

mod actions;
mod assets;
mod guards;
mod identity;
mod linked_rewrites;
mod other_paths;
mod rules;
mod watch;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use http::HeaderMap;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    InvalidImageRequest, image,
    image::ImageRules,
    optimizer::{ImageRequest, Optimizer},
    paths,
};
use crate::base::{
    named_file,
    spelling::{is_image, readings},
    target::Target,
};

use actions::{ActionManifest, Actions};
pub use assets::AssetKind;
use assets::Assets;
pub(super) use assets::list as list_files;
use guards::Guards;
pub(super) use identity::SERVER_FILES;
use other_paths::InnerRewrites;
pub(super) use rules::Decided;
use rules::{Deciders, Rules};
pub use watch::BuildWatch;
pub(super) use watch::every_second;

const BUILD_ID: &str = "BUILD_ID";
const ROUTES: &str = "routes-manifest.json";
pub(super) const IMAGES: &str = "images-manifest.json";
/// Manifest in which Next.js 16 lists what its `proxy.js` guards.
const FUNCTIONS: &str = "server/functions-config-manifest.json";
/// Manifest in which earlier versions list what `middleware.js` guards.
const MIDDLEWARE: &str = "server/middleware-manifest.json";

/// Files that each build rewrites; the last of them is written at its end.
const FILES: [&str; 7] = [
    BUILD_ID,
    ROUTES,
    IMAGES,
    FUNCTIONS,
    MIDDLEWARE,
    identity::SERVER_FILES,
    identity::TRACE,
];

/// Maximum size of a manifest; those of the largest apps have a few megabytes.
const MAX_FILE_SIZE: u64 = 32 * 1024 * 1024;

/// A build of an app, as described by its folder (`.next`).
#[derive(Debug, Default)]
pub struct Build {
    id: Option<Box<str>>,
    /// Digest that identifies this build; 0 if there is none.
    pub mark: u128,
    base_path: Box<str>,
    /// Path before that of files of the build, if it is not the base path (`assetPrefix`).
    asset_prefix: Option<Box<str>>,
    /// `deploymentId` of the app's configuration.
    deployment: Option<Box<str>>,
    guards: Guards,
    deciders: Deciders,
    rewrites: InnerRewrites,
    actions: Actions,
    images: Option<ImageRules>,
    /// Digest of the settings for images.
    pub(super) image_mark: u64,
    /// Settings of the image optimizer, if images may be made without the app.
    optimizer: Option<Arc<Optimizer>>,
    /// Files that the gateway serves itself, if it does.
    assets: Option<Assets>,
    stamp: BuildStamp,
}

/// Reason why a folder cannot be read as a build. Never quotes the content of a file.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read `{}`", .file.display())]
    Read {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` has no build: the file `BUILD_ID` is missing", .folder.display())]
    NoBuild { folder: PathBuf },
    #[error("invalid Next.js manifest `{}`: line {line}, column {column}", .file.display())]
    Parse {
        file: PathBuf,
        line: usize,
        column: usize,
    },
    #[error("`{}` has an unsupported matcher: `{matcher}`", .file.display())]
    Matcher {
        file: PathBuf,
        matcher: String,
        #[source]
        source: Box<fancy_regex::Error>,
    },
    #[error("`{}` is larger than 32 MiB", .file.display())]
    Large { file: PathBuf },
}

/// State of a folder, compared without reading its manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildStamp {
    id: Option<Box<[u8]>>,
    files: [Option<(SystemTime, u64, u64)>; FILES.len()],
}

impl BuildStamp {
    /// Reads `BUILD_ID`, and the modification time of each manifest.
    pub fn read(folder: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;

        let seen = |name: &str| {
            let about = fs::metadata(folder.join(name)).ok()?;
            Some((about.modified().ok()?, about.len(), about.ino()))
        };
        Self {
            // A file may be written twice within one tick of its modification time.
            id: read(&folder.join(BUILD_ID)).ok().flatten().map(Into::into),
            files: FILES.map(seen),
        }
    }

    /// Returns the time at which `BUILD_ID` was written.
    fn since(&self) -> SystemTime {
        self.files[0].map_or(SystemTime::UNIX_EPOCH, |(modified, ..)| modified)
    }

    pub fn has_build(&self) -> bool {
        self.id.is_some()
    }
}

impl Build {
    /// Reads the folder; every file but `BUILD_ID` may be missing. The files that need no app are
    /// read if `has_assets`.
    pub fn read(folder: &Path, has_assets: bool) -> Result<Self, BuildError> {
        let stamp = BuildStamp::read(folder);
        let Some(id) = read(&folder.join(BUILD_ID))? else {
            let folder = folder.to_path_buf();
            return Err(BuildError::NoBuild { folder });
        };
        let id = String::from_utf8_lossy(id.trim_ascii()).into_owned();
        let rules: Option<Rules> = manifest(folder, ROUTES)?;
        let images: Option<ImagesManifest<image::ManifestImages>> = manifest(folder, IMAGES)?;
        let functions: Option<guards::Functions> = manifest(folder, FUNCTIONS)?;
        let functions = functions.map(guards::Functions::matchers);
        let middleware: Option<guards::Middleware> = manifest(folder, MIDDLEWARE)?;
        let middleware = middleware.map(guards::Middleware::matchers);
        let mut guards = Guards::default();
        for (name, matchers) in [(FUNCTIONS, functions), (MIDDLEWARE, middleware)] {
            guards.add(&folder.join(name), matchers.unwrap_or_default())?;
        }
        // Most builds need neither, and a file that cannot be read has neither.
        let server: Result<Option<ServerFiles<Config>>, _> =
            manifest(folder, identity::SERVER_FILES);
        let config = server.ok().flatten().and_then(|server| server.config);
        let config = config.unwrap_or_default();
        let has_rules = rules.is_some();
        let rules = rules.unwrap_or_default();
        let base_path = rules.base_path.clone();
        let actions: Option<ActionManifest> = manifest(folder, actions::MANIFEST)?;
        let asset_prefix = config.asset_prefix.as_deref().and_then(assets::prefix);
        let asset_prefix = asset_prefix.filter(|prefix| **prefix != *base_path);
        let unread = |source| BuildError::Read {
            file: folder.to_path_buf(),
            source,
        };
        let mut build = Self {
            mark: identity::digest(folder).map_err(unread)?,
            image_mark: identity::of_image_settings(folder).map_err(unread)?,
            id: Some(id.into()),
            actions: Actions::new(actions.unwrap_or_default(), &base_path),
            base_path,
            deployment: config.deployment_id.filter(|id| !id.is_empty()),
            guards,
            deciders: Deciders::new(&rules),
            rewrites: InnerRewrites::new(&rules),
            images: images.and_then(|manifest| ImageRules::from_manifest(manifest.images)),
            asset_prefix,
            stamp,
            ..Self::default()
        };
        if has_assets {
            build.optimizer = Optimizer::read(folder)?.map(Arc::new);
            let prefix = build.asset_prefix.as_deref();
            build.assets = has_rules.then(|| Assets::list(folder, &rules, prefix));
        }
        build.guards.languages = rules.i18n;
        Ok(build)
    }

    /// Stands for a folder without a build: its guarded paths are unknown, so every path is
    /// guarded.
    pub fn unknown() -> Self {
        Self {
            guards: Guards::everything(),
            ..Self::default()
        }
    }

    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns the time at which the build was put into place.
    pub(super) fn since(&self) -> SystemTime {
        self.stamp.since()
    }

    /// Returns the part of a raw path below the app's base path, or, for files of the build, below
    /// their own.
    pub(super) fn below<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let of_file = self.asset_prefix.as_ref().and_then(|prefix| {
            let below = path.strip_prefix(prefix.as_bytes())?;
            below.starts_with(paths::STATIC).then_some(below)
        });
        of_file.or_else(|| path.strip_prefix(self.base_path.as_bytes()))
    }

    /// Returns true if the build lists its server actions.
    pub(super) fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Returns paths of the pages that have the server action with this id; `None` if none is known.
    pub fn pages_of_action(&self, id: &[u8]) -> Option<&[Box<[u8]>]> {
        self.actions.pages(id)
    }

    /// Returns true if requests may have other paths ([`Self::other_paths`]).
    pub fn may_have_other_paths(&self) -> bool {
        let images = self.images.as_ref();
        self.guards.languages.is_some()
            || !self.rewrites.0.is_empty()
            || images.is_some_and(|images| !is_image(images.path.as_bytes()))
    }

    /// Returns other paths of what the app runs for this request: of the page with or without a
    /// language, of pages that rewrites lead to, of layouts around a page that the app shows within
    /// another one, and of the image optimizer at its own path. `None` if there are too many.
    pub fn other_paths(&self, target: &Target<'_>, headers: &HeaderMap) -> Option<Vec<String>> {
        let base = &self.base_path;
        let languages = self.guards.languages.as_ref();
        let other = |path: &String| languages?.other_path(path, target.host, base);
        let both = |path: String| other(&path).into_iter().chain([path]);
        let path = String::from_utf8_lossy(target.path).into_owned();
        let mut others: Vec<String> = other(&path).into_iter().collect();
        if !self.rewrites.0.is_empty() {
            // An address of data is that of its page.
            let read = readings(target.path).into_iter();
            let read = read.map(|own| String::from_utf8_lossy(own.path()).into_owned());
            let all: BTreeSet<String> = read.chain([path]).flat_map(both).collect();
            let targets = self.rewrites.targets(&all, (target, headers))?;
            others.extend(targets.into_iter().flat_map(both));
            others.sort();
            others.dedup();
        }
        // Rewrites ignore case.
        let images = self.images.as_ref();
        let is_optimizer =
            images.is_some_and(|own| own.path.as_bytes().eq_ignore_ascii_case(target.path));
        others.extend(is_optimizer.then(|| format!("{base}{}", paths::IMAGE)));
        Some(others)
    }

    pub fn deployment(&self) -> Option<&str> {
        self.deployment.as_deref()
    }

    /// Returns true for the raw path of the image optimizer, if the build has one.
    pub fn is_image_path(&self, path: &[u8]) -> bool {
        let images = self.images.as_ref();
        images.is_some_and(|images| path == images.path.as_bytes())
    }

    /// Returns true for the raw path of the image optimizer, or where it usually is if the build
    /// does not tell.
    pub(super) fn is_image(&self, path: &[u8]) -> bool {
        match &self.images {
            Some(_) => self.is_image_path(path),
            None => self.below(path) == Some(paths::IMAGE.as_bytes()),
        }
    }

    /// Returns true if the app's middleware runs for this raw path. Conditions of a matcher on
    /// headers or cookies are ignored: they decide when it runs, and not for whom.
    pub fn is_guarded(&self, path: &[u8]) -> bool {
        self.guards.have(path, &self.base_path)
    }

    /// Returns what of a request decides about this raw path beside the app's code: conditions of its
    /// redirects, rewrites and headers, and the visitor's language.
    pub(super) fn decided(&self, path: &[u8], headers: &HeaderMap, is_file: bool) -> Decided {
        let base = &self.base_path;
        self.deciders.decide(path, base, headers, is_file)
    }

    /// Returns the kind of the file that this raw path names, and its path in the folder of that
    /// kind, if the app would serve it without any other code of the app.
    pub fn asset<'p>(&self, path: &'p [u8]) -> Option<(AssetKind, &'p [u8])> {
        let assets = self.assets.as_ref()?;
        let below = self.below(path)?;
        let asset = assets.find(below)?;
        let is_apps = assets.has_languages
            || paths::may_be_another(path)
            || self.is_guarded(path)
            || assets.has_rule_for(path);
        (!is_apps).then_some(asset)
    }

    /// Returns the path of a file of the build's output, whatever the app's configuration has for
    /// it.
    pub fn output<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let below = self.below(path)?;
        match self.assets.as_ref()?.find(below)? {
            (AssetKind::Static, below) if !paths::may_be_another(path) => Some(below),
            _ => None,
        }
    }

    /// Returns what the optimizer would make of an image request, if that needs no code of the app.
    /// `accept` are the values of the header.
    pub fn image<'a>(
        &self,
        path: &[u8],
        query: Option<&[u8]>,
        accept: impl Iterator<Item = &'a [u8]>,
    ) -> Option<(ImageRequest, Arc<Optimizer>)> {
        let images = self.images.as_ref()?;
        let optimizer = self.optimizer_for(path)?;
        let query = query.unwrap_or_default();
        let size = images.allow(query).ok()?;
        let request = optimizer.request(query, size, accept, &self.base_path)?;
        Some((request, Arc::clone(optimizer)))
    }

    /// Returns the path of the optimizer of images.
    pub fn image_path(&self) -> Option<&str> {
        Some(&*self.images.as_ref()?.path)
    }

    /// Returns the optimizer, if nothing but itself decides about requests for this path: no headers
    /// or redirects of the app's configuration.
    fn optimizer_for(&self, path: &[u8]) -> Option<&Arc<Optimizer>> {
        let optimizer = self.optimizer.as_ref()?;
        let has_rule = self.assets.as_ref()?.has_rule_for(path);
        (!has_rule).then_some(optimizer)
    }

    /// Number of matchers of the middleware, for humans to read.
    pub fn matchers(&self) -> usize {
        self.guards.len()
    }

    /// Checks that a request to the image optimizer has an allowed width and quality. The app would
    /// refuse it with 400 and the same text. Returns the query by which all requests for the image
    /// are stored; `None` if that is the query as it is.
    pub fn image_query(
        &self,
        path: &[u8],
        query: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, InvalidImageRequest> {
        let Some(images) = &self.images else {
            return Ok(None);
        };
        let query = query.unwrap_or_default();
        let size = images.allow(query)?;
        let canonical = || image::canonical(query, size, self.deployment());
        Ok(self.optimizer_for(path).map(|_| canonical()))
    }
}

/// Content of `required-server-files.json`.
#[derive(Deserialize)]
pub(super) struct ServerFiles<Config> {
    pub(super) config: Option<Config>,
}

/// Content of `images-manifest.json`.
#[derive(Deserialize)]
pub(super) struct ImagesManifest<Images> {
    pub(super) images: Images,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    deployment_id: Option<Box<str>>,
    asset_prefix: Option<Box<str>>,
}

/// Reads a file; `None` if it does not exist.
fn read(file: &Path) -> Result<Option<Vec<u8>>, BuildError> {
    let is_large = fs::metadata(file).is_ok_and(|about| about.len() > MAX_FILE_SIZE);
    let file = file.to_path_buf();
    if is_large {
        return Err(BuildError::Large { file });
    }
    match named_file::read(&file, MAX_FILE_SIZE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BuildError::Read { file, source }),
    }
}

pub(super) fn manifest<T: DeserializeOwned>(
    folder: &Path,
    name: &str,
) -> Result<Option<T>, BuildError> {
    let file = folder.join(name);
    let Some(bytes) = read(&file)? else {
        return Ok(None);
    };
    // The error's own text may quote the file.
    let parsed = serde_json::from_slice(&bytes).map_err(|error| BuildError::Parse {
        file,
        line: error.line(),
        column: error.column(),
    })?;
    Ok(Some(parsed))
}

#[cfg(test)]
mod tests;
