//! Large configurations, in the shapes of well-known ones: each is imported in three seconds of CPU,
//! the result is checked, and every directive is in the report.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde::Deserialize;

use super::{conf, play};
use crate::support::certificates::Ca;

/// The CPU time of an import, after which the kernel ends it.
const MOST_CPU: &str = "--cpu=3";

/// Entries of a report, of which only the place matters here.
#[derive(Deserialize)]
struct Report {
    carried: Vec<Place>,
    changed: Vec<Place>,
    not_carried: Vec<Place>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    line: usize,
    directive: String,
}

#[test]
fn large_configurations_are_imported_at_once_and_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/import_nginx/large");
    let ca = Ca::new();
    for name in ["static-defaults", "community", "groupware"] {
        let text = fs::read_to_string(folder.join(format!("{name}.conf"))).expect("it is there");
        let lines = text.lines().count();
        assert!(lines > 300, "{name} has {lines} lines");
        let dir = tempfile::tempdir().expect("a folder");
        let at = |folder: &str| dir.path().join(folder).display().to_string();
        let written = text
            .replace("/var/www/", &at("www/"))
            .replace("/etc/letsencrypt/live/", &at("certs/"))
            .replace("old-md5.htpasswd", &at("old-md5.htpasswd"));
        let file = dir.path().join("nginx.conf");
        fs::write(&file, &written).expect("the folder takes files");
        let files = [("nginx.conf".to_owned(), text.clone())].into();
        let tree = conf::read(&files);
        play::prepare(dir.path(), &tree, &ca);
        let yaml = dir.path().join("edgeway.yaml");
        // CPU seconds, which other tests do not make more.
        let imported = Command::new("prlimit")
            .args([MOST_CPU, env!("CARGO_BIN_EXE_edgeway")])
            .args(["import", "nginx", "--report", "json", "--out"])
            .args([&yaml, &file])
            .output()
            .expect("it runs");
        let shown = String::from_utf8_lossy(&imported.stderr);
        assert!(
            imported.status.success(),
            "{name}: {}: {shown}",
            imported.status
        );
        let report: Report = serde_json::from_slice(&imported.stdout).expect("it is JSON");
        let counts = [&report.carried, &report.changed, &report.not_carried].map(Vec::len);
        println!("{name}: {lines} lines, {counts:?}");
        let all = report.carried.iter().chain(&report.changed);
        let all: BTreeSet<(usize, &str)> = all
            .chain(&report.not_carried)
            .map(|place| (place.line, &*place.directive))
            .collect();
        tree.walk(&mut Vec::new(), &mut |directive, around| {
            if around.is_empty() {
                return;
            }
            let place = directive.place();
            let line = place.rsplit(':').next().and_then(|line| line.parse().ok());
            let entry = (line.expect("a line"), directive.name());
            assert!(
                all.contains(&entry),
                "{name}: {entry:?} is not in the report"
            );
        });
        let checked = Command::new(env!("CARGO_BIN_EXE_edgeway"))
            .args(["check", "-c"])
            .arg(&yaml)
            .output()
            .expect("it runs");
        let shown = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{name}: {shown}");
    }
}
