//! Checks of the file systems that a gateway writes to: space and files that are free.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use edgeway_config::{
    model::File,
    tree::{Node, Value},
};
use rustix::fs::{StatVfs, statvfs};

use super::Findings;

/// Free space below which a disk is full soon, in bytes and as a part of the disk, and below which
/// writes fail soon.
const LITTLE: u64 = 1 << 30;
const LITTLE_PART: u64 = 20;
const NOTHING: u64 = 64 << 20;
/// Free files below which a file system is full soon.
const FEW_FILES: u64 = 1000;

/// Looks at the disks of the configuration's folder, of logs and of the cache.
pub(super) fn check(findings: &mut Findings, path: &Path, file: &File) {
    let folder = path.parent().unwrap_or(Path::new(""));
    let log = file.access_log.as_ref().map(|(_, node)| node);
    let log = log.and_then(|node| text(node).or_else(|| text(node.get("file")?)));
    let is_path =
        |name: &&str| !["stdout", "journald"].contains(name) && !name.starts_with("syslog");
    let log = log.filter(is_path).map(Path::new);
    let audit = file.audit_log.as_ref();
    let audit = audit.map(|audit| audit.file.value.as_path());
    let cache = file
        .cache
        .as_ref()
        .and_then(|cache| cache.value.disk.as_ref());
    let cache = cache.map(|disk| Path::new(disk.value.folder.value.as_str()));
    let all = [
        ("configuration", Some(path)),
        ("access log", log),
        ("audit log", audit),
        ("cache", cache),
    ];
    let mut disks = BTreeMap::<u64, (PathBuf, StatVfs, Vec<&str>)>::new();
    for (what, place) in all {
        let Some(place) = place.map(|place| folder.join(place)) else {
            continue;
        };
        // What is not there yet is made in the folder above.
        let Some(place) = place.ancestors().find(|one| one.is_dir()) else {
            continue;
        };
        if let Ok(space) = statvfs(place) {
            let disk = disks.entry(space.f_fsid);
            let (_, _, uses) = disk.or_insert_with(|| (place.to_owned(), space, Vec::new()));
            uses.push(what);
        }
    }
    for (place, space, uses) in disks.values() {
        judge(
            findings,
            &format!("{} ({})", place.display(), uses.join(", ")),
            space,
        );
    }
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn judge(findings: &mut Findings, place: &str, space: &StatVfs) {
    const CHECK: &str = "disk";
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let all = space.f_blocks.saturating_mul(space.f_frsize);
    let message = format!("{place}: {} of {} MiB are free", free >> 20, all >> 20);
    // Some file systems do not count files.
    let files = Some(space.f_favail).filter(|_| space.f_files > 0);
    let remedy = "find what fills it with `du -xh / | sort -h | tail`; without space, log lines are \
                  dropped and the cache on disk is off";
    match files {
        _ if free < NOTHING => findings.error(CHECK, message, remedy),
        Some(files) if files < FEW_FILES => {
            let message = format!("{place}: {files} more files fit");
            findings.warning(
                CHECK,
                message,
                "find the folder with many small files: `df -i`",
            );
        }
        _ if free < LITTLE && free < all / LITTLE_PART => findings.warning(CHECK, message, remedy),
        _ => findings.ok(CHECK, message),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::StatVfsMountFlags;

    use super::{super::Level, *};

    #[test]
    fn a_disk_is_judged_by_its_space_and_its_files() {
        let gib = |gib: u64| gib << 18;
        for (free, all, files, level) in [
            (gib(50), gib(100), 1 << 20, Level::Ok),
            (gib(1) / 2, gib(100), 1 << 20, Level::Warning),
            (gib(1) / 2, gib(1), 1 << 20, Level::Ok),
            (100, gib(100), 1 << 20, Level::Error),
            (gib(50), gib(100), 10, Level::Warning),
        ] {
            let space = StatVfs {
                f_bsize: 4096,
                f_frsize: 4096,
                f_blocks: all,
                f_bfree: free,
                f_bavail: free,
                f_files: 1 << 20,
                f_ffree: files,
                f_favail: files,
                f_fsid: 0,
                f_flag: StatVfsMountFlags::empty(),
                f_namemax: 255,
            };
            let mut findings = Findings::default();
            judge(&mut findings, "/var/log", &space);
            assert_eq!(findings.worst(), level, "{:?}", findings.0);
        }
    }
}
