//! Checks of Next.js apps: the build folder, and the release against known advisories.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::Findings;
use crate::config::model::{App, File};

const CHECK: &str = "next.js";

/// A release of Next.js; a pre-release counts as its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32, u32);

impl Release {
    fn parse(text: &str) -> Option<Self> {
        let plain = text.split(['-', '+']).next()?;
        let mut numbers = plain.split('.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next()??))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A published advisory, or a set that was published together.
struct Advisory {
    name: &'static str,
    about: &'static str,
    /// Releases that are affected: from the first, up to but without the second.
    affected: &'static [(Release, Release)],
}

/// Advisories up to November 2026 that matter behind a gateway, the gravest first.
const ADVISORIES: &[Advisory] = &[
    Advisory {
        name: "CVE-2025-66478",
        about: "requests to React Server Components run code on the server",
        affected: &[
            (Release(15, 0, 0), Release(15, 0, 5)),
            (Release(15, 1, 0), Release(15, 1, 9)),
            (Release(15, 2, 0), Release(15, 2, 6)),
            (Release(15, 3, 0), Release(15, 3, 6)),
            (Release(15, 4, 0), Release(15, 4, 8)),
            (Release(15, 5, 0), Release(15, 5, 7)),
            (Release(16, 0, 0), Release(16, 0, 7)),
        ],
    },
    Advisory {
        name: "CVE-2025-29927",
        about: "a header skips the middleware; this gateway removes that header",
        affected: &[
            (Release(11, 1, 4), Release(12, 3, 5)),
            (Release(13, 0, 0), Release(13, 5, 9)),
            (Release(14, 0, 0), Release(14, 2, 25)),
            (Release(15, 0, 0), Release(15, 2, 3)),
        ],
    },
    Advisory {
        name: "the release of May 2026",
        about: "13 advisories: requests past the middleware, to internal hosts, into the cache",
        affected: &[
            (Release(13, 0, 0), Release(15, 5, 18)),
            (Release(16, 0, 0), Release(16, 2, 6)),
        ],
    },
    Advisory {
        name: "the release of July 2026",
        about: "9 advisories, among them requests past the middleware and responses of others",
        affected: &[
            (Release(13, 0, 0), Release(15, 5, 21)),
            (Release(16, 0, 0), Release(16, 2, 11)),
        ],
    },
];

const REMEDY: &str = "upgrade the app to Next.js 15.5.21, 16.2.11 or later, and purge the cache";

pub(super) fn check(findings: &mut Findings, path: &Path, file: &File) {
    let folder = path.parent().unwrap_or(Path::new(""));
    for (name, upstream) in &file.upstreams {
        if upstream.value.app != App::Nextjs {
            continue;
        }
        let name = &name.name;
        let Some(build) = &upstream.value.folder else {
            if is_cached(file, name) {
                findings.warning(
                    CHECK,
                    format!("`{name}` is cached without `folder`: the paths that its middleware guards are unknown"),
                    format!("write `folder: /path/to/app/.next` at upstream `{name}`"),
                );
            }
            continue;
        };
        let build = folder.join(&build.value);
        match installed(&build) {
            Some((_, release)) => judge(findings, name, release),
            None => findings.skipped(
                CHECK,
                format!(
                    "`{name}`: no node_modules/next/package.json above {}",
                    build.display()
                ),
            ),
        }
    }
}

fn judge(findings: &mut Findings, name: &str, release: Release) {
    let affects = |advisory: &&Advisory| {
        let mut ranges = advisory.affected.iter();
        ranges.any(|(first, fixed)| (*first..*fixed).contains(&release))
    };
    let found: Vec<&Advisory> = ADVISORIES.iter().filter(affects).collect();
    for advisory in &found {
        findings.error(
            CHECK,
            format!(
                "`{name}` runs Next.js {release}, affected by {}: {}",
                advisory.name, advisory.about
            ),
            REMEDY,
        );
    }
    if found.is_empty() {
        findings.ok(
            CHECK,
            format!("`{name}` runs Next.js {release}, no advisory known"),
        );
    }
}

/// Returns true if a route to this upstream has a cache, by itself or by `defaults`.
fn is_cached(file: &File, upstream: &str) -> bool {
    let by_default = file.defaults.iter().any(|(key, _)| key.name == "cache");
    file.routes.iter().any(|route| {
        let target = route.config.upstream.as_ref();
        target.is_some_and(|target| target.value == upstream)
            && (by_default || route.filters.iter().any(|(key, _)| key.name == "cache"))
    })
}

/// Finds the package of Next.js that serves a build: in the app's folder, one above it, or the
/// build's own `standalone` folder.
fn installed(build: &Path) -> Option<(PathBuf, Release)> {
    #[derive(Deserialize)]
    struct Package {
        version: String,
    }
    let standalone = build.join("standalone");
    let folders = std::iter::once(standalone.as_path()).chain(build.ancestors().skip(1));
    folders
        .map(|folder| folder.join("node_modules/next/package.json"))
        .find_map(|path| {
            let package: Package = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            Some((path, Release::parse(&package.version)?))
        })
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn found(version: &str) -> (Level, usize) {
        let mut findings = Findings::default();
        judge(&mut findings, "web", Release::parse(version).unwrap());
        (findings.worst(), findings.0.len())
    }

    #[test]
    fn a_release_is_judged_by_the_ranges_of_the_advisories() {
        assert_eq!(found("14.2.24"), (Level::Error, 3));
        assert_eq!(found("14.2.35"), (Level::Error, 2));
        assert_eq!(found("15.1.0"), (Level::Error, 4));
        assert_eq!(found("15.5.18"), (Level::Error, 1));
        for sound in ["15.5.21", "16.2.11", "16.4.6", "17.0.0-canary.3"] {
            assert_eq!(found(sound), (Level::Ok, 1), "{sound}");
        }
    }

    #[test]
    fn the_package_is_found_in_the_layouts_of_apps() {
        let package = r#"{ "name": "next", "version": "16.4.6" }"#;
        for (build, modules) in [
            (".next", ""),
            ("apps/web/.next", ""),
            (".next", ".next/standalone"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let modules = folder.path().join(modules).join("node_modules/next");
            fs::create_dir_all(&modules).unwrap();
            fs::write(modules.join("package.json"), package).unwrap();
            let (_, release) = installed(&folder.path().join(build)).unwrap();
            assert_eq!(release, Release(16, 4, 6));
        }
        assert!(Release::parse("latest").is_none());
    }
}
