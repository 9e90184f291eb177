//! Records the commit of a release build and its date, for `edgeway --version`.
//!
//! A debug build has neither, so that tests are not compiled again after each commit. The date is
//! that of the commit: building it twice gives the same program.
#![allow(
    clippy::print_stdout,
    reason = "a build script prints what cargo is to do"
)]

use std::{env, path::Path, process::Command};

/// Commit and time of its creation, in a tree that `git archive` made (`.gitattributes`).
const ARCHIVED: &str = "$Format:%H %ct$";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["EDGEWAY_VERSION", "EDGEWAY_COMMIT", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let version = given("EDGEWAY_VERSION").or_else(|| given("CARGO_PKG_VERSION"));
    let version = version.unwrap_or_default();
    let text = match commit() {
        None => version,
        Some((commit, seconds)) => {
            let commit: String = commit.chars().take(12).collect();
            format!("{version} ({commit} {})", date(seconds))
        }
    };
    println!("cargo::rustc-env=EDGEWAY_LONG_VERSION={text}");
    // Tests start the program thousands of times, and half of the CPU of loading it is relocation.
    // Installations are built with the profile `dist`, and keep their random addresses.
    if given("PROFILE").as_deref() == Some("debug")
        && given("CARGO_CFG_TARGET_ENV").as_deref() == Some("gnu")
    {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}

fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the commit, with its time in seconds since 1970.
fn commit() -> Option<(String, i64)> {
    let epoch = given("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok());
    let is_release = given("PROFILE").as_deref() == Some("release");
    let found = (is_release && !ARCHIVED.starts_with('$'))
        .then(|| ARCHIVED.to_owned())
        .or_else(|| if is_release { from_git() } else { None });
    let (found, time) = match &found {
        Some(line) => line.split_once(' ')?,
        None => ("", ""),
    };
    let commit = given("EDGEWAY_COMMIT").unwrap_or_else(|| found.to_owned());
    let seconds = epoch.or_else(|| time.trim().parse().ok());
    Some((commit, seconds?)).filter(|(commit, _)| !commit.is_empty())
}

/// Asks git, if this folder is the top of a repository: one that merely contains it is another's.
fn from_git() -> Option<String> {
    let folder = env::var("CARGO_MANIFEST_DIR").ok()?;
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-C", &folder])
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&folder).canonicalize().ok()? {
        return None;
    }
    // The log of `HEAD` changes with each commit and checkout. A path that does not exist would
    // run this script at every build.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        let path = Path::new(&folder).join(path);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(&["log", "-1", "--format=%H %ct"])
}

/// Formats a time as a date in UTC (Howard Hinnant, `civil_from_days`).
fn date(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
