//! `scripts/install` and `scripts/setup-host`: a second run changes nothing, and a third one
//! repairs what was changed in between.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Identity of each entry below a folder: kind and mode, inode, size, time of the last change.
fn entries(root: &Path) -> BTreeMap<PathBuf, (u32, u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("it can be read").path();
            let data = fs::symlink_metadata(&path).expect("it is there");
            let state = (
                data.mode(),
                data.ino(),
                data.size(),
                data.mtime(),
                data.mtime_nsec(),
            );
            if data.is_dir() {
                folders.push(path.clone());
            }
            let path = path.strip_prefix(root).expect("it is below").to_owned();
            found.insert(path, state);
        }
    }
    found
}

/// Runs the script in the folder that has `root`, which it gets by its name alone.
fn set_up(root: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/setup-host");
    let ran = Command::new(script)
        .arg(env!("CARGO_BIN_EXE_edgeway"))
        .current_dir(root.parent().expect("it is in a folder"))
        .env("DESTDIR", root.file_name().expect("it has a name"))
        .output()
        .expect("the script runs");
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{stderr}");
    String::from_utf8(ran.stdout).expect("it prints UTF-8")
}

#[test]
fn a_second_setup_of_a_host_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let root = &folder.path().join("root");
    let first = set_up(root);
    assert!(first.contains("next: edit"), "{first}");
    let before = entries(root);
    let units = Path::new("etc/systemd/system");
    for file in [
        "usr/local/bin/edgeway",
        "etc/edgeway/healthcheck.env",
        "etc/sysctl.d/60-edgeway.conf",
        "etc/systemd/system/edgeway-healthcheck.timer",
        "etc/systemd/system/edgeway-scale@.service",
    ] {
        assert!(before.contains_key(Path::new(file)), "{file}: {before:#?}");
    }

    let links = [
        "multi-user.target.wants/edgeway.service",
        "timers.target.wants/edgeway-healthcheck.timer",
        "timers.target.wants/edgeway-monitor.timer",
    ];
    let has_systemd = Command::new("systemctl").arg("--version").output().is_ok();
    for link in links {
        let is_there = before.contains_key(&units.join(link));
        assert_eq!(is_there, has_systemd, "{link}: {before:#?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let second = set_up(root);
    assert!(second.ends_with("nothing to change\n"), "{second}");
    assert_eq!(entries(root), before);

    // A unit that somebody changed and one that was removed; a file of the user's.
    let (changed, removed) = (
        units.join("edgeway.service"),
        units.join("edgeway-monitor.service"),
    );
    fs::write(root.join(&changed), "[Unit]\n").unwrap();
    fs::remove_file(root.join(&removed)).unwrap();
    let own = Path::new("etc/edgeway/healthcheck.env");
    fs::write(root.join(own), "PROBES=--tcp a=127.0.0.1:1\n").unwrap();
    let third = set_up(root);
    let repaired: Vec<&str> = third
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    let path = |file: &Path| root.join(file).display().to_string();
    assert_eq!(repaired, [path(&changed), path(&removed)]);
    let text = fs::read_to_string(root.join(own)).unwrap();
    assert_eq!(text, "PROBES=--tcp a=127.0.0.1:1\n");

    if has_systemd {
        // A timer that somebody disabled stays so.
        let wanted = root.join(units.join(links[1]));
        fs::remove_file(&wanted).expect("it was enabled");
        let fourth = set_up(root);
        assert!(fourth.ends_with("nothing to change\n"), "{fourth}");
        assert!(!wanted.exists());
    }
}

/// `docs/leaving.md` tells a user who uninstalls to follow the table of `systemd/README.md`.
#[test]
fn each_installed_file_is_listed_and_units_name_pages_that_are_there() {
    let folder = tempfile::tempdir().expect("a folder for the test can be made");
    let root = &folder.path().join("root");
    set_up(root);
    let pages = [
        include_str!("../../systemd/README.md"),
        include_str!("../../docs/leaving.md"),
    ];
    let rows = pages.iter().flat_map(|page| page.lines());
    let rows = rows.filter(|row| row.starts_with("| `/") || row.starts_with("- `/"));
    let listed: Vec<&str> = rows
        .flat_map(|row| row.split('`').skip(1).step_by(2))
        .collect();
    let has = |path: &Path| {
        let is_it = |one: &&str| match one.split_once('*') {
            Some((begin, end)) => {
                let path = path.to_string_lossy();
                path.starts_with(begin) && path.ends_with(end)
            }
            None => path.starts_with(one),
        };
        listed.iter().any(is_it)
    };
    let installed = entries(root).into_keys();
    for file in installed.filter(|file| root.join(file).is_file()) {
        let path = Path::new("/").join(&file);
        // `name.timer` and its service share a row.
        let timer = path.with_extension("timer");
        assert!(
            has(&path) || has(&timer),
            "{} is not listed",
            path.display()
        );
        let text = fs::read_to_string(root.join(&file)).unwrap_or_default();
        let named = text
            .lines()
            .filter_map(|line| line.strip_prefix("Documentation=file:/"));
        for page in named {
            assert!(root.join(page).exists(), "{} names /{page}", path.display());
        }
    }
}
