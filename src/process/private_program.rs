//! Whether a program can be changed by root and us alone: not itself, and not the way to it.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Component, Path},
};

use rustix::process::geteuid;

/// True if nobody but root and our own user can put another file at this path, or other
/// content into the one that is there.
pub(super) fn is_private(path: &Path) -> bool {
    let is_plain = path.is_absolute() && path.components().all(|c| c != Component::ParentDir);
    // A link belongs to the way, and so does the way behind it.
    let ways = [Some(path.to_owned()), path.canonicalize().ok()];
    is_plain
        && ways.into_iter().all(|way| {
            way.is_some_and(|way| {
                way.ancestors()
                    .all(|step| step.symlink_metadata().is_ok_and(|step| is_ours(&step)))
            })
        })
}

fn is_ours(found: &Metadata) -> bool {
    const WRITABLE: u32 = 0o022;
    const STICKY: u32 = 0o1000;

    let is_ours = found.uid() == 0 || found.uid() == geteuid().as_raw();
    // In `/tmp` anybody makes files, and nobody moves those of others.
    let is_kept = found.mode() & WRITABLE == 0
        || found.is_symlink()
        || (found.is_dir() && found.mode() & STICKY != 0);
    is_ours && is_kept
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn a_program_that_others_may_change_is_told_from_one_that_they_may_not() {
        let folder = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let program = folder.path().join("program");
        fs::write(&program, "").unwrap();
        set(&program, 0o755);
        assert!(is_private(&program));
        assert!(!is_private(&folder.path().join("missing")));
        assert!(!is_private(Path::new("program")));
        assert!(!is_private(&folder.path().join("x/../program")));

        // By way of a folder of others, by a link or not.
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        set(&open, 0o777);
        symlink(&program, open.join("link")).unwrap();
        assert!(!is_private(&open.join("link")));
        symlink(&open, folder.path().join("way")).unwrap();
        fs::write(open.join("other"), "").unwrap();
        assert!(!is_private(&folder.path().join("way/other")));

        set(&program, 0o775);
        assert!(!is_private(&program));
    }
}
