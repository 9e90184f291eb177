//! Stores of trusted CAs: the system's, and those that browsers keep for themselves.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::local_ca::LocalCa;

/// A system's folder for CAs of its administrator, and the program that reads it.
struct SystemStore {
    folder: &'static str,
    extension: &'static str,
    update: &'static [&'static str],
}

const SYSTEMS: [SystemStore; 4] = [
    // Debian, Ubuntu, Alpine.
    SystemStore {
        folder: "/usr/local/share/ca-certificates",
        extension: "crt",
        update: &["update-ca-certificates"],
    },
    // Fedora, RHEL.
    SystemStore {
        folder: "/etc/pki/ca-trust/source/anchors",
        extension: "pem",
        update: &["update-ca-trust", "extract"],
    },
    // openSUSE.
    SystemStore {
        folder: "/etc/pki/trust/anchors",
        extension: "pem",
        update: &["update-ca-certificates"],
    },
    // Arch.
    SystemStore {
        folder: "/etc/ca-certificates/trust-source/anchors",
        extension: "crt",
        update: &["trust", "extract-compat"],
    },
];

/// The tool for the stores of Chrome, Chromium and Firefox.
const CERTUTIL: &str = "certutil";

impl SystemStore {
    /// Returns the store of this system.
    fn here() -> Option<&'static Self> {
        SYSTEMS
            .iter()
            .find(|store| Path::new(store.folder).is_dir())
    }

    fn file(&self, authority: &LocalCa) -> PathBuf {
        let name = authority.name().to_lowercase().replace(' ', "-");
        Path::new(self.folder).join(format!("{name}.{}", self.extension))
    }
}

/// Adds the CA to the system's store and to those of browsers. Returns what was done.
pub(super) fn trust(authority: &LocalCa) -> Result<Vec<String>, String> {
    let mut done = vec![trust_by_system(authority)?];
    if !is_there(CERTUTIL) {
        done.push(
            "Chrome and Firefox have stores of their own, which need `certutil`: install \
             libnss3-tools (Debian), nss-tools (Fedora) or nss (Arch) and run this again"
                .to_owned(),
        );
        return Ok(done);
    }
    for database in databases(true) {
        let (name, file) = (authority.name(), authority.certificate());
        let file = file.display().to_string();
        certutil(&database, &["-A", "-t", "C,,", "-n", &name, "-i", &file])?;
        let database = database.display();
        done.push(format!("trusted by browsers that use {database}"));
    }
    Ok(done)
}

/// Removes the CA from every store. Returns what was done.
pub(super) fn untrust(authority: &LocalCa) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    if let Some(store) = SystemStore::here() {
        let file = store.file(authority);
        if file.exists() {
            as_root(&["rm", "-f", &file.display().to_string()])?;
            as_root(store.update)?;
            done.push(format!(
                "no longer trusted by the system: removed {}",
                file.display()
            ));
        }
    }
    for database in databases(false) {
        if knows(&database, authority) {
            certutil(&database, &["-D", "-n", &authority.name()])?;
            done.push(format!("removed from {}", database.display()));
        }
    }
    if done.is_empty() {
        done.push("no store of this machine has it".to_owned());
    }
    Ok(done)
}

/// Returns the stores that have the CA.
pub(super) fn trusting(authority: &LocalCa) -> Vec<String> {
    let system = SystemStore::here().filter(|store| store.file(authority).exists());
    let system = system.map(|_| "the system".to_owned());
    let databases = databases(false).into_iter();
    let databases = databases.filter(|at| knows(at, authority));
    let databases = databases.map(|database| database.display().to_string());
    system.into_iter().chain(databases).collect()
}

fn trust_by_system(authority: &LocalCa) -> Result<String, String> {
    let Some(store) = SystemStore::here() else {
        return Err(format!(
            "this system's store of CAs is not known here\n\
             help: add `{}` to it by hand",
            authority.certificate().display()
        ));
    };
    let (from, to) = (authority.certificate(), store.file(authority));
    let (from, to) = (from.display().to_string(), to.display().to_string());
    as_root(&["install", "-m", "644", &from, &to])?;
    as_root(store.update)?;
    Ok(format!("trusted by the system: {to}"))
}

/// Runs a program as root, through sudo if need be, which may ask for a password.
fn as_root(command: &[&str]) -> Result<(), String> {
    let is_root = rustix::process::geteuid().is_root();
    let sudo: &[&str] = if is_root { &[] } else { &["sudo", "--"] };
    let words = [sudo, command].concat();
    let shown = words.join(" ");
    let [program, arguments @ ..] = words.as_slice() else {
        return Ok(());
    };
    let ran = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .status();
    match ran {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "`{shown}` failed: {status}\nhelp: run it as root by hand"
        )),
        Err(error) => Err(format!(
            "cannot run `{shown}`: {error}\nhelp: run `{}` as root by hand",
            command.join(" ")
        )),
    }
}

/// Returns the databases of browsers. `make`: Chromium's is made if it has none yet, since it
/// would make one at its first start.
fn databases(make: bool) -> Vec<PathBuf> {
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from) else {
        return Vec::new();
    };
    let shared = home.join(".pki/nssdb");
    if make && !shared.join("cert9.db").exists() {
        let created = fs::create_dir_all(&shared)
            .and_then(|()| fs::set_permissions(&shared, fs::Permissions::from_mode(0o700)));
        if created.is_ok() {
            // If it fails, the database is left out below.
            let _made = certutil(&shared, &["-N", "--empty-password"]);
        }
    }
    let mut folders = vec![shared, home.join("snap/chromium/current/.pki/nssdb")];
    for profiles in [".mozilla/firefox", "snap/firefox/common/.mozilla/firefox"] {
        let profiles = fs::read_dir(home.join(profiles)).into_iter().flatten();
        folders.extend(profiles.flatten().map(|profile| profile.path()));
    }
    folders.retain(|folder| folder.join("cert9.db").exists());
    folders
}

fn knows(database: &Path, authority: &LocalCa) -> bool {
    certutil(database, &["-L", "-n", &authority.name()]).is_ok()
}

fn certutil(database: &Path, arguments: &[&str]) -> Result<(), String> {
    let ran = Command::new(CERTUTIL)
        .arg("-d")
        .arg(format!("sql:{}", database.display()))
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    match ran {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{CERTUTIL} cannot change {}: {}",
            database.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("cannot run {CERTUTIL}: {error}")),
    }
}

/// Returns true if `PATH` has this program.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
