//! Removal of releases that nobody needs any more.
//!
//! Invariant: nothing is removed that no deploy has copied, such as a folder that was there before, and
//! what a link leads to.

use std::{fs, io, path::Path};

use edgeway_upstreams::ReleaseSettings;

use super::folder::{Kind, ReleaseFolder, ReleaseState, now, remove};

/// Files of a build that are kept for browsers which still have its pages, and to tell which build
/// they are of.
const KEPT: [&str; 5] = [
    "static",
    "BUILD_ID",
    "routes-manifest.json",
    "required-server-files.json",
    "images-manifest.json",
];

/// Folder of the commands with what was taken out of the releases.
const REMOVED: &str = "removed";

impl ReleaseFolder {
    /// Reduces and removes releases that nobody needs any more, but for those that no deploy copied.
    /// `running` are those with instances, and the current one. Returns true if
    /// [`Self::empty_removed`] has something to do.
    pub(super) fn prune(
        &self,
        settings: &ReleaseSettings,
        running: &[String],
    ) -> Result<bool, String> {
        let state = self.state()?;
        let of = |name: &str| state.releases.get(name).copied().unwrap_or_default();
        let mut names = self.names();
        let is_copy = |own: &ReleaseState| !own.is_in_place;
        names.retain(|name| state.releases.get(name).is_some_and(is_copy));
        names.sort_by_key(|name| std::cmp::Reverse(of(name).since));
        let is_whole = |name: &&String| self.kind(name) == Some(Kind::Whole);
        let spare = names.iter().filter(is_whole).skip(settings.keep as usize);
        for name in spare.filter(|name| !running.contains(name)) {
            self.reduce(name)
                .map_err(|error| format!("cannot reduce release `{name}`: {error}"))?;
        }
        let (now, mut size) = (now(), 0);
        for name in &names {
            if self.kind(name) != Some(Kind::Files) || running.contains(name) {
                continue;
            }
            size += size_of(&self.release(name));
            let is_old = of(name)
                .until
                .is_none_or(|until| until + settings.vault < now);
            if is_old || size > settings.vault_size {
                self.take_out(&self.release(name))
                    .map_err(|error| format!("cannot remove release `{name}`: {error}"))?;
            }
        }
        // One whose folder was removed still has to end in its time.
        let left = [&self.names()[..], running].concat();
        self.change(|state| state.releases.retain(|name, _| left.contains(name)))?;
        Ok(self.own(REMOVED).exists())
    }

    /// Takes a file or a folder out of the releases. To remove it may take longer than a command waits
    /// for another one.
    fn take_out(&self, path: &Path) -> io::Result<()> {
        let removed = self.own(REMOVED);
        self.make(&format!(".state/{REMOVED}"))?;
        let number = fs::read_dir(&removed)?.count();
        fs::rename(path, removed.join(format!("{}-{number}", now())))
    }

    /// Removes what was taken out of the releases.
    pub(super) fn empty_removed(&self) -> Result<(), String> {
        let removed = self.own(REMOVED);
        remove(&removed).map_err(|error| format!("cannot remove `{}`: {error}", removed.display()))
    }

    /// Leaves of a release only the files for browsers.
    fn reduce(&self, name: &str) -> io::Result<()> {
        let folder = self.release(name);
        let build = folder.join(".next");
        // What a link leads to was not copied.
        if folder.is_symlink() || build.is_symlink() {
            return self.take_out(&folder);
        }
        for entry in fs::read_dir(&build)?.flatten() {
            if !KEPT.iter().any(|kept| entry.file_name() == *kept) {
                self.take_out(&entry.path())?;
            }
        }
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.file_name() != ".next" {
                self.take_out(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Returns the bytes of all files in a folder.
fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => size_of(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use edgeway_config::model::ReleaseOverlap;
    use edgeway_upstreams::{CanarySettings, StartMethod};

    use super::*;

    fn settings(folder: &Path) -> ReleaseSettings {
        ReleaseSettings {
            folder: folder.to_owned(),
            first_port: 1,
            last_port: 2,
            address: [127, 0, 0, 1].into(),
            start: StartMethod::Command(Vec::new()),
            instances: 1,
            overlap: ReleaseOverlap::All,
            warm: 0,
            linger: 0,
            keep: 1,
            vault: 0,
            vault_size: 0,
            canary: CanarySettings::default(),
        }
    }

    /// Makes an app with a build.
    fn app(folder: &Path) {
        fs::create_dir_all(folder.join(".next/server")).unwrap();
        fs::create_dir_all(folder.join(".next/static")).unwrap();
        for file in ["package.json", ".next/BUILD_ID", ".next/server/page.js"] {
            fs::write(folder.join(file), file).unwrap();
        }
    }

    #[track_caller]
    fn assert_whole(folder: &Path) {
        for file in ["package.json", ".next/BUILD_ID", ".next/server/page.js"] {
            assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), file);
        }
    }

    #[test]
    fn nothing_is_removed_that_no_deploy_has_copied() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let settings = settings(&path("releases"));
        let folder = ReleaseFolder::new(&settings);
        let deploy = |from: &Path, name: &str| {
            let is_copy = folder.put(from, name).unwrap();
            folder.switched(name, None, Duration::ZERO).unwrap();
            is_copy
        };
        for name in ["project", "linked", "earlier", "latest", "releases/place"] {
            app(&path(name));
        }
        symlink(path("project"), path("releases/link")).unwrap();
        assert!(!deploy(&path("releases/link"), "link"));
        assert!(!deploy(&path("releases/place"), "place"));
        // The build of an app is a link.
        fs::rename(path("linked/.next"), path("build")).unwrap();
        symlink(path("build"), path("linked/.next")).unwrap();
        assert!(deploy(&path("linked"), "copy"));
        assert!(!path("releases/copy/.next").is_symlink());
        // It was copied as a link once, or an operator has moved it.
        assert!(deploy(&path("earlier"), "moved"));
        fs::rename(path("releases/moved/.next"), path("moved")).unwrap();
        symlink(path("moved"), path("releases/moved/.next")).unwrap();
        assert!(deploy(&path("latest"), "latest"));
        // Going back to one does not make it a copy.
        folder.switched("place", None, Duration::ZERO).unwrap();
        folder.switched("latest", None, Duration::ZERO).unwrap();

        // Control: a record goes with its folder, once nothing runs.
        assert!(deploy(&path("latest"), "removed"));
        fs::remove_dir_all(path("releases/removed")).unwrap();
        let is_known = || folder.state().unwrap().releases.contains_key("removed");
        folder.prune(&settings, &["removed".to_owned()]).unwrap();
        assert!(is_known());
        folder.prune(&settings, &[]).unwrap();
        assert!(!is_known());

        folder.empty_removed().unwrap();
        assert_whole(&path("project"));
        assert_whole(&path("releases/link"));
        assert_whole(&path("releases/place"));
        assert_whole(&path("releases/latest"));
        assert!(path("build/server/page.js").exists());
        assert!(path("moved/server/page.js").exists());
        assert!(!path("releases/moved").exists());
        // Control: what was copied goes.
        assert!(!path("releases/copy/package.json").exists());
        assert!(!folder.prune(&settings, &[]).unwrap());
    }
}
