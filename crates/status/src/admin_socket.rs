//! The admin socket: its default path and its permissions.
//!
//! A user who may open it controls the gateway, so it is for the gateway's own user and, if the
//! gateway runs in the group `edgeway` as the service does, for that group. A gateway that root
//! starts is for root alone: a user who opens its socket may have it run any program.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use edgeway_net::unix_socket::{self, SocketError};
use rustix::fs::{Access, access};

/// The runtime folder of the unit in `systemd/`, which root creates otherwise.
const RUN: &str = "/run/edgeway";
const NAME: &str = "admin.sock";
/// Number of gateways of one user that may leave the path out.
const BESIDE: u8 = 16;

/// The group whose users may open the socket.
pub const GROUP: &str = "edgeway";
const MODE: u32 = 0o600;
const MODE_WITH_GROUP: u32 = 0o660;

/// Default path of the socket of a gateway that this user runs.
///
/// systemd's `RuntimeDirectory=` sets its folder. Otherwise root uses `/run/edgeway`, as does a
/// user who may write there. Other users have a folder of their own.
pub fn usual() -> PathBuf {
    let may_write = access(RUN, Access::WRITE_OK).is_ok();
    let uid = rustix::process::geteuid().as_raw();
    folders(uid, |name| std::env::var_os(name))
        .into_iter()
        .find(|folder| folder != Path::new(RUN) || uid == 0 || may_write)
        .unwrap_or_default()
        .join(NAME)
}

/// Paths for the socket of a gateway beside the one that has the usual path.
pub fn beside() -> impl Iterator<Item = PathBuf> {
    let usual = usual();
    (2..=BESIDE).map(move |number| usual.with_file_name(format!("gateway-{number}.sock")))
}

/// Paths where a command looks for the socket, the likeliest first. None of them need exist.
pub fn likely() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let folders = folders(uid, |name| std::env::var_os(name)).into_iter();
    folders
        .filter(|folder| !is_somebody_elses(folder, uid))
        .map(|folder| folder.join(NAME))
        .collect()
}

fn folders(uid: u32, var: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if let Some(folders) = var("RUNTIME_DIRECTORY") {
        // systemd.exec(5): several are separated by colons.
        let text = folders.to_string_lossy();
        let first = PathBuf::from(text.split(':').next().unwrap_or_default());
        if first.is_absolute() {
            return vec![first];
        }
    }
    // XDG Base Directory Specification: a relative path is to be ignored.
    let runtime = var("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|folder| folder.is_absolute());
    let runtime = runtime.map_or_else(
        || PathBuf::from(format!("/tmp/edgeway-{uid}")),
        |folder| folder.join("edgeway"),
    );
    vec![PathBuf::from(RUN), runtime]
}

/// Listens at `path`. `is_usual`: its folder is created if need be.
///
/// # Errors
///
/// If the path is taken, or the folder is not writable for us.
pub fn open(path: &Path, is_usual: bool, backlog: i32) -> Result<UnixListener, SocketError> {
    let group = rustix::process::getegid().as_raw();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    if let (true, Some(folder)) = (is_usual, path.parent()) {
        make(folder)?;
    }
    open_for(path, shared_group(&groups, group), backlog)
}

/// Returns the group `edgeway`, if this gateway runs in it.
fn shared_group(groups: &str, of_process: u32) -> Option<u32> {
    id_of(groups, GROUP).filter(|group| *group == of_process)
}

/// Listens at `path` for the gateway's own user, and for a group that it runs in.
fn open_for(path: &Path, group: Option<u32>, backlog: i32) -> Result<UnixListener, SocketError> {
    let listener = unix_socket::bind(path, MODE, backlog)?;
    // Up to here only the owner can open it. The folder may give it another group.
    let is_of = |group| fs::symlink_metadata(path).is_ok_and(|data| data.gid() == group);
    if group.is_some_and(is_of) {
        fs::set_permissions(path, Permissions::from_mode(MODE_WITH_GROUP))?;
    }
    Ok(listener)
}

/// Creates a folder that others cannot write and the group may enter, or accepts an existing one.
fn make(folder: &Path) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    match DirBuilder::new().mode(0o750).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if is_somebody_elses(folder, uid) {
        let why = format!("{} can be changed by others", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

/// Returns true if users other than root and this one could have put something there. systemd's
/// folder belongs to the unit's user, and is accepted for any caller.
fn is_somebody_elses(folder: &Path, uid: u32) -> bool {
    let Ok(metadata) = fs::symlink_metadata(folder) else {
        return false;
    };
    let is_ours = folder == Path::new(RUN) || [0, uid].contains(&metadata.uid());
    // Only its owner and root may write there (S_IWOTH).
    !metadata.is_dir() || !is_ours || metadata.mode() & 0o002 != 0
}

/// Id of a group, from the text of `/etc/group`.
fn id_of(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        is_it.then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders_with(vars: &[(&str, &str)]) -> Vec<String> {
        let var = |name: &str| {
            let found = vars.iter().find(|(key, _)| *key == name)?;
            Some(OsString::from(found.1))
        };
        let folders = folders(1000, var).into_iter();
        folders.map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn systemd_comes_first_then_the_machines_folder_and_the_users() {
        let unit = ("RUNTIME_DIRECTORY", "/run/edge:/run/other");
        let user = ("XDG_RUNTIME_DIR", "/run/user/1000");
        assert_eq!(folders_with(&[unit, user]), ["/run/edge"]);
        assert_eq!(folders_with(&[user]), [RUN, "/run/user/1000/edgeway"]);
        assert_eq!(folders_with(&[]), [RUN, "/tmp/edgeway-1000"]);
        let relative = ("XDG_RUNTIME_DIR", "x");
        assert_eq!(folders_with(&[relative]), [RUN, "/tmp/edgeway-1000"]);
    }

    #[test]
    fn a_folder_that_others_can_change_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("edgeway");
        let path = own.join(NAME);
        let listener = open(&path, true, 8).unwrap();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&own) & 0o022, 0);
        assert_eq!(mode(&path) & 0o007, 0);
        drop(listener);
        fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
        let error = open(&path, true, 8).unwrap_err();
        assert!(error.to_string().contains("can be changed by others"));
        // A configured path is the operator's responsibility.
        assert!(open(&path, false, 8).is_ok());
    }

    /// The group controls the gateway of the service, and no other one of the machine.
    #[test]
    fn the_socket_is_for_the_group_that_the_gateway_runs_in() {
        let groups = "root:x:0:\nedgeway2:x:7:\nedgeway:x:990:ann,bob\n";
        assert_eq!(shared_group(groups, 990), Some(990));
        for (groups, own) in [
            // Root's own gateway, that of a member of the group, and a machine without the group.
            (groups, 0),
            (groups, 1000),
            ("root:x:0:\n", 0),
            ("edgeway:x\n", 0),
        ] {
            assert_eq!(shared_group(groups, own), None, "{groups} {own}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let own = rustix::process::getegid().as_raw();
        for (group, mode) in [(None, 0o600), (Some(own), 0o660), (Some(own + 4242), 0o600)] {
            let _listener = open_for(&path, group, 8).unwrap();
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!(
                (found.mode() & 0o777, found.gid()),
                (mode, own),
                "{group:?}"
            );
        }
    }
}
