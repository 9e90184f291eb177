//! Description of the course of an image request, as far as it is known without asking anybody.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use edgeway_cache::{nextjs::Build, store::LogMark};
use edgeway_images::Kind;
use http::HeaderMap;

use super::{AppImages, made::format_of};

impl AppImages {
    /// Says whether a request for an image is made here, or why not; `None` if it is for something
    /// else. `release` is the one that the request goes to, and whether that runs.
    pub fn explain(
        &self,
        (path, query): (&[u8], Option<&[u8]>),
        headers: &HeaderMap,
        release: Option<(&str, bool)>,
    ) -> Option<&'static str> {
        let name = release.map(|(name, _)| name);
        let is_image = |build: &Build| build.is_image_path(path);
        self.files.with_build(name, is_image).filter(|it| *it)?;
        let Some(wanted) = self.wanted(path, query, headers, name, LogMark::default()) else {
            return Some(
                "left to the app: the app refuses the request, or the source is on another server \
                 (without `images: { at: edge, remote: true }`), or the app's configuration has \
                 rules for the path",
            );
        };
        if wanted.request.remote.is_some() {
            return Some(
                "made at the edge if the other server's address is allowed and it sends a JPEG, \
                 PNG or WebP; otherwise left to the app",
            );
        }
        let source = wanted.request.path().as_bytes();
        if self.files.is_guarded(source) {
            return Some("left to the app (`source`): the source is in `guarded`");
        }
        let file = self.files.find(source, release);
        let file = file.filter(|_| !wanted.request.has_query());
        let Some((files, below)) = file else {
            return Some(if release.is_none_or(|(_, is_up)| is_up) {
                "made at the edge if the app sends a JPEG, PNG or WebP as its source; otherwise \
                 left to the app"
            } else {
                "left to the app (`source`): the source is no file of this build"
            });
        };
        let path = Path::new(OsStr::from_bytes(&below));
        let path = path.strip_prefix("/").unwrap_or(path);
        let beginning = beginning(&files.root().join(path), wanted.optimizer.max_source);
        let Ok(Some(beginning)) = beginning else {
            return Some("left to the app (`source`): the source is empty, too large or missing");
        };
        let kind = Kind::detect(&beginning);
        let is_made = kind.is_some_and(|kind| format_of(&wanted, kind).is_some());
        Some(match kind {
            Some(Kind::Jpeg | Kind::Png | Kind::WebP) if is_made => "made at the edge",
            Some(Kind::Gif | Kind::Png | Kind::WebP) => {
                "left to the app (`format`); animations are sent as they are"
            }
            Some(Kind::Jpeg) => "left to the app (`format`): the client gets AVIF",
            _ => "left to the app (`format`): the source is no JPEG, PNG or WebP",
        })
    }
}

/// Returns the first bytes of a file; `None` if it is empty or has more than `max` bytes.
fn beginning(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = vec![0; 64];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    Ok((1..=max).contains(&size).then_some(bytes))
}
