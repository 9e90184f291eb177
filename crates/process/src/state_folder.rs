//! Folder for state that survives a crash: small files of one gateway.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The folder of the gateway that serves the file `config`, or `None` if none is known.
///
/// systemd sets it by `StateDirectory=`. Elsewhere it is in the user's folder for state, with a
/// folder per configuration, because a user may run several gateways. It need not exist: the first
/// writer creates it.
pub fn state_folder(config: &Path) -> Option<PathBuf> {
    in_environment(config, |name| std::env::var_os(name))
}

fn in_environment(config: &Path, var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| {
        let folder = PathBuf::from(var(name)?);
        // XDG Base Directory Specification: a relative path is to be ignored.
        folder.is_absolute().then_some(folder)
    };
    if let Some(folders) = var("STATE_DIRECTORY") {
        // systemd.exec(5): several are separated by colons.
        let text = folders.to_string_lossy();
        let first = text.split(':').next().map(PathBuf::from);
        return first.filter(|folder| folder.is_absolute());
    }
    let base = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(base.join("edgeway").join(own_name(config)))
}

/// Returns the same path for every way to name the file. A link in place of the file itself is not
/// resolved, because its target changes (Kubernetes).
pub(super) fn own_path(config: &Path) -> PathBuf {
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path,
    }
}

/// The file's path as a single name, unique per file.
fn own_name(config: &Path) -> String {
    let mut name = String::new();
    for c in own_path(config)
        .to_string_lossy()
        .trim_start_matches('/')
        .chars()
    {
        match c {
            '/' => name.push('-'),
            // Escaped as `systemd-escape --path` does, so that `a/b` and `a-b` differ.
            '-' => name.push_str("\\x2d"),
            c => name.push(c),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn folder(vars: &[(&str, &str)]) -> Option<String> {
        let var = |name: &str| {
            let found = vars.iter().find(|(key, _)| *key == name)?;
            Some(OsString::from(found.1))
        };
        let found = in_environment(Path::new("/etc/my-edge/edgeway.yaml"), var)?;
        Some(found.to_str().unwrap().to_owned())
    }

    #[test]
    fn systemd_comes_first_then_the_users_folder() {
        let own = r"edgeway/etc-my\x2dedge-edgeway.yaml";
        let home = ("HOME", "/home/ann");
        let state = ("XDG_STATE_HOME", "/state");
        let unit = ("STATE_DIRECTORY", "/var/lib/edgeway:/var/lib/other");
        assert_eq!(folder(&[home, state, unit]).unwrap(), "/var/lib/edgeway");
        assert_eq!(folder(&[home, state]).unwrap(), format!("/state/{own}"));
        let fallback = format!("/home/ann/.local/state/{own}");
        assert_eq!(folder(&[home]).unwrap(), fallback);
        let relative = ("XDG_STATE_HOME", "state");
        assert_eq!(folder(&[home, relative]).unwrap(), fallback);
        assert_eq!(folder(&[]), None);
    }
}
