//! Package managers: which one a project uses, and its command for a script.

use std::path::{Path, PathBuf};

use edgeway_base::shell::shown;

use super::package::Package;

/// Lock files and whose they are. Where a folder has several, the first one counts: npm's own may
/// be left from the beginning.
const LOCK_FILES: [(&str, PackageManager); 6] = [
    ("pnpm-lock.yaml", PackageManager::Pnpm),
    ("yarn.lock", PackageManager::Yarn),
    ("bun.lock", PackageManager::Bun),
    ("bun.lockb", PackageManager::Bun),
    ("package-lock.json", PackageManager::Npm),
    ("npm-shrinkwrap.json", PackageManager::Npm),
];

edgeway_base::enum_table! {
    /// Program that installs the packages of a project and runs its scripts.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum PackageManager => name {
        Npm = "npm",
        Pnpm = "pnpm",
        Yarn = "yarn",
        Bun = "bun",
    }
}

impl PackageManager {
    /// Returns the package manager whose lock file a project has, in its folder or in that of the
    /// workspace around it; else the one that package.json names; else npm.
    pub(super) fn detect(folder: &Path, package: Option<&Package>) -> Self {
        by_lock_file(folder)
            .map(|(_, manager)| manager)
            .or_else(|| by_name(package?.manager()?))
            .unwrap_or(Self::Npm)
    }

    /// Returns the command line that runs a script; `folder` is the project's, unless it is the
    /// current one.
    pub fn run(self, folder: Option<&Path>, script: &str) -> String {
        let option = match self {
            Self::Npm => "--prefix",
            Self::Pnpm => "--dir",
            Self::Yarn | Self::Bun => "--cwd",
        };
        let folder = folder.map(|folder| folder.display().to_string());
        let place = folder.map(|folder| [option.to_owned(), folder]);
        let place = place.as_ref().map_or(&[][..], |place| place);
        let run = ["run".to_owned(), script.to_owned()];
        // The option of bun belongs to `run`.
        let words = match self {
            Self::Bun => [&run[..1], place, &run[1..]].concat(),
            Self::Npm | Self::Pnpm | Self::Yarn => [place, &run].concat(),
        };
        format!("{} {}", self.name(), shown(&words))
    }
}

/// Returns the folder of a project within the workspace around it; empty if there is none.
pub(super) fn within_workspace(folder: &Path) -> PathBuf {
    let Ok(folder) = std::path::absolute(folder) else {
        return PathBuf::new();
    };
    let root = by_lock_file(&folder).map(|(root, _)| root);
    let within = root.and_then(|root| folder.strip_prefix(root).ok().map(Path::to_owned));
    within.unwrap_or_default()
}

/// Returns the folder with the lock file of a project, and whose it is.
fn by_lock_file(folder: &Path) -> Option<(PathBuf, PackageManager)> {
    let folder: PathBuf = std::path::absolute(folder).ok()?;
    for (level, place) in folder.ancestors().enumerate() {
        let has = |name: &str| place.join(name).is_file();
        // A lock file without a project beside it is a stray one.
        let is_project = level == 0 || has("package.json") || has("pnpm-workspace.yaml");
        let lock_file = LOCK_FILES.iter().find(|(name, _)| has(name));
        if let Some((_, manager)) = lock_file
            && is_project
        {
            return Some((place.to_owned(), *manager));
        }
        if place.join(".git").exists() {
            break;
        }
    }
    None
}

fn by_name(name: &str) -> Option<PackageManager> {
    let name = name.split('@').next().unwrap_or_default();
    let known = LOCK_FILES.iter().map(|(_, manager)| *manager);
    let mut known = known.filter(|manager| manager.name() == name);
    known.next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lock_file_names_its_package_manager() {
        for (files, field, expected) in [
            (
                &["app/package-lock.json"][..],
                "pnpm@10",
                PackageManager::Npm,
            ),
            (&["app/pnpm-lock.yaml"], "", PackageManager::Pnpm),
            (
                &["app/yarn.lock", "app/package-lock.json"],
                "",
                PackageManager::Yarn,
            ),
            (&["app/bun.lock"], "", PackageManager::Bun),
            (&["app/bun.lockb"], "", PackageManager::Bun),
            (&[], "yarn@4.5.0+sha224.x", PackageManager::Yarn),
            (&[], "other@1", PackageManager::Npm),
            // A workspace has one lock file, at its root.
            (
                &["pnpm-lock.yaml", "package.json"],
                "",
                PackageManager::Pnpm,
            ),
            (
                &["pnpm-lock.yaml", "pnpm-workspace.yaml"],
                "",
                PackageManager::Pnpm,
            ),
            (&["pnpm-lock.yaml"], "", PackageManager::Npm),
            (
                &["yarn.lock", "package.json", "app/.git"],
                "",
                PackageManager::Npm,
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let app = folder.path().join("app");
            std::fs::create_dir(&app).unwrap();
            for file in files {
                std::fs::write(folder.path().join(file), "").unwrap();
            }
            let package = Package::from_value(json!({ "packageManager": field }));
            let found = PackageManager::detect(&app, Some(&package));
            assert_eq!(found, expected, "{files:?} {field}");
        }
    }

    #[test]
    fn a_script_of_another_folder_is_run_there() {
        let folder = Some(Path::new("my app"));
        for (manager, here, there) in [
            (
                PackageManager::Npm,
                "npm run a",
                "npm --prefix 'my app' run a",
            ),
            (
                PackageManager::Pnpm,
                "pnpm run a",
                "pnpm --dir 'my app' run a",
            ),
            (
                PackageManager::Yarn,
                "yarn run a",
                "yarn --cwd 'my app' run a",
            ),
            (PackageManager::Bun, "bun run a", "bun run --cwd 'my app' a"),
        ] {
            assert_eq!(manager.run(None, "a"), here);
            assert_eq!(manager.run(folder, "a"), there);
        }
    }
}
