//! Checks of Next.js apps: the build folder, and the release against known advisories.

use std::{
    fs,
    path::{Path, PathBuf},
};

use edgeway_config::model::{App, File};
use semver::Version;
use serde::Deserialize;

use super::Findings;

const CHECK: &str = "next.js";

/// A published advisory, or a set that was published together.
struct Advisory {
    name: &'static str,
    about: &'static str,
    /// Releases that are affected: from the first, up to but without the second. A canary comes
    /// before its release.
    affected: &'static [(&'static str, &'static str)],
}

/// Advisories up to November 2026 that matter behind a gateway, the gravest first.
const ADVISORIES: &[Advisory] = &[
    Advisory {
        name: "CVE-2025-66478",
        about: "requests to React Server Components run code on the server",
        affected: &[
            ("14.3.0-canary.77", "15.0.5"),
            ("15.1.0", "15.1.9"),
            ("15.2.0", "15.2.6"),
            ("15.3.0", "15.3.6"),
            ("15.4.0", "15.4.8"),
            ("15.5.0", "15.5.7"),
            ("16.0.0", "16.0.7"),
        ],
    },
    Advisory {
        name: "CVE-2025-29927",
        about: "a header skips the middleware; this gateway removes that header",
        affected: &[
            ("11.1.4", "12.3.5"),
            ("13.0.0", "13.5.9"),
            ("14.0.0", "14.2.25"),
            ("15.0.0", "15.2.3"),
        ],
    },
    Advisory {
        name: "the release of May 2026",
        about: "13 advisories: requests past the middleware, to internal hosts, into the cache",
        affected: &[("13.0.0", "15.5.18"), ("16.0.0", "16.2.6")],
    },
    Advisory {
        name: "the release of July 2026",
        about: "9 advisories, among them requests past the middleware and responses of others",
        affected: &[("13.0.0", "15.5.21"), ("16.0.0", "16.2.11")],
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
        let build = match (&upstream.value.folder, &upstream.value.releases) {
            (Some(build), _) => Some(folder.join(&build.value)),
            (None, Some(releases)) => {
                let Some(build) = newest_build(&folder.join(&releases.value.folder.value)) else {
                    findings.skipped(CHECK, format!("`{name}` has no release yet"));
                    continue;
                };
                Some(build)
            }
            (None, None) => None,
        };
        let Some(build) = build else {
            if is_cached(file, name) {
                findings.warning(
                    CHECK,
                    format!("`{name}` is cached without `folder`: the paths that its middleware guards are unknown"),
                    format!("write `folder: /path/to/app/.next` at upstream `{name}`"),
                );
            }
            continue;
        };
        if let Some(served) = without_files(&build) {
            findings.warning(
                CHECK,
                format!(
                    "`{name}` serves pages without styles: {} has no `static`",
                    served.display()
                ),
                format!(
                    "`cp -r {}/static {}/`, and `public` if there is one",
                    build.display(),
                    served.display()
                ),
            );
        }
        match installed(&build) {
            Ok(release) => judge(findings, name, &release),
            Err(why) => findings.skipped(CHECK, format!("`{name}`: {why}")),
        }
    }
}

fn judge(findings: &mut Findings, name: &str, release: &Version) {
    let version = |text: &str| Version::parse(text).expect("a test reads each");
    let affects = |advisory: &&Advisory| {
        let mut ranges = advisory.affected.iter();
        ranges.any(|(first, fixed)| (version(first)..version(fixed)).contains(release))
    };
    let advisories: Vec<&Advisory> = ADVISORIES.iter().filter(affects).collect();
    for advisory in &advisories {
        findings.error(
            CHECK,
            format!(
                "`{name}` runs Next.js {release}, affected by {}: {}",
                advisory.name, advisory.about
            ),
            REMEDY,
        );
    }
    if advisories.is_empty() {
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

/// Finds the build of the release that was put into this folder last.
fn newest_build(releases: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(releases).ok()?.flatten();
    let builds = entries.filter(|entry| entry.path().join(".next").is_dir());
    let newest =
        builds.max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok())?;
    Some(newest.path().join(".next"))
}

/// Finds the copy of the build in its `standalone` folder, if that lacks the files for browsers.
fn without_files(build: &Path) -> Option<PathBuf> {
    // Below it is the path of the app in its workspace, which no file says.
    let build = std::path::absolute(build).ok()?;
    let nested = build.ancestors().skip(1);
    let nested = nested.filter_map(|root| build.strip_prefix(root).ok());
    let mut copies = nested.map(|path| build.join("standalone").join(path));
    let copy = copies.find(|copy| copy.join("BUILD_ID").is_file())?;
    (!copy.join("static").is_dir()).then_some(copy)
}

/// Finds the release of Next.js that serves a build: in the app's folder, one above it, or the
/// build's own `standalone` folder.
fn installed(build: &Path) -> Result<Version, String> {
    #[derive(Deserialize)]
    struct Package {
        version: Version,
    }
    // A relative path has no folders above that of this process.
    let build = std::path::absolute(build).map_err(|error| error.to_string())?;
    let standalone = build.join("standalone");
    let folders = std::iter::once(standalone.as_path()).chain(build.ancestors().skip(1));
    let manifest = folders
        .map(|folder| folder.join("node_modules/next/package.json"))
        .find_map(|path| Some((fs::read(&path).ok()?, path)));
    let (text, path) = manifest.ok_or_else(|| {
        format!(
            "no node_modules/next/package.json above {}",
            build.display()
        )
    })?;
    let package = serde_json::from_slice(&text);
    let package: Package = package.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(package.version)
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn found(version: &str) -> (Level, usize) {
        let mut findings = Findings::default();
        judge(&mut findings, "web", &Version::parse(version).unwrap());
        (findings.worst(), findings.0.len())
    }

    #[test]
    fn a_release_is_judged_by_the_ranges_of_the_advisories() {
        assert_eq!(found("14.2.24"), (Level::Error, 3));
        assert_eq!(found("14.2.35"), (Level::Error, 2));
        assert_eq!(found("15.1.0"), (Level::Error, 4));
        assert_eq!(found("15.5.18"), (Level::Error, 1));
        // A canary of before the mend.
        assert_eq!(found("16.0.7-canary.1"), (Level::Error, 3));
        assert_eq!(found("14.3.0-canary.80"), (Level::Error, 3));
        for sound in ["15.5.21", "16.2.11", "16.4.6", "17.0.0-canary.3"] {
            assert_eq!(found(sound), (Level::Ok, 1), "{sound}");
        }
    }

    #[test]
    fn the_newest_build_of_releases_is_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest_build(folder.path()), None);
        fs::create_dir_all(folder.path().join("1/.next")).unwrap();
        fs::create_dir_all(folder.path().join(".state")).unwrap();
        let first = folder.path().join("1/.next");
        assert_eq!(newest_build(folder.path()), Some(first));
        fs::create_dir_all(folder.path().join("0/.next")).unwrap();
        let older = fs::File::open(folder.path().join("1")).unwrap();
        older.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(
            newest_build(folder.path()),
            Some(folder.path().join("0/.next"))
        );
    }

    #[test]
    fn a_standalone_build_needs_its_static_files() {
        let folder = tempfile::tempdir().unwrap();
        let build = folder.path().join("apps/web/.next");
        for path in [".next", "apps/web/.next"] {
            let copy = build.join("standalone").join(path);
            fs::create_dir_all(&copy).unwrap();
            assert_eq!(without_files(&build), None);
            fs::write(copy.join("BUILD_ID"), "1").unwrap();
            assert_eq!(without_files(&build).as_ref(), Some(&copy));
            fs::create_dir(copy.join("static")).unwrap();
            assert_eq!(without_files(&build), None);
            fs::remove_dir_all(copy).unwrap();
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
            let release = installed(&folder.path().join(build));
            assert_eq!(release, Ok(Version::new(16, 4, 6)));
        }
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("node_modules/next");
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("package.json"), "{ \"version\": \"latest\" }").unwrap();
        let why = installed(&folder.path().join(".next")).unwrap_err();
        assert!(why.contains("next/package.json: "), "{why}");
    }
}
