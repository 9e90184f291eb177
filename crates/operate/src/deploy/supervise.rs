//! Supervisor of one instance, where no systemd runs it: a process of its own, so that neither an
//! upgrade of the gateway nor the end of `edgeway deploy` touches the app.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use edgeway_base::{node_app, process_group::ProcessGroup};
use edgeway_proxy::edge::worker;
use edgeway_upstreams::ReleaseSettings;
use rustix::process::{Pid, Signal, geteuid, kill_process, setsid};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use super::{folder::ReleaseFolder, left_behind};
use crate::{Failure, out};

/// Time that an app has to end after SIGTERM, and the supervisor a little more.
const END: Duration = Duration::from_secs(10);
const SUPERVISOR_END: Duration = Duration::from_secs(15);

/// Interval of looks at what is ending.
const POLL: Duration = Duration::from_millis(50);

/// First and longest wait before an app that ended is started again.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Time after which an app counts as having run well.
const RAN_WELL: Duration = Duration::from_mins(1);

/// Size at which the log of an instance begins again, and interval of looks at it.
const MAX_LOG: u64 = 16 << 20;
const LOOK: Duration = Duration::from_mins(1);

#[derive(Debug, clap::Args)]
pub struct SuperviseOptions {
    /// The file that is locked while the supervisor runs, and has its process id
    #[arg(long)]
    lock: PathBuf,
    /// The folder of the release
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    address: String,
    #[arg(long)]
    release: String,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(super) fn log_path(folder: &ReleaseFolder, port: u16) -> PathBuf {
    folder.own(&format!("instance-{port}.log"))
}

fn lock_path(folder: &ReleaseFolder, port: u16) -> PathBuf {
    folder.own(&format!("instance-{port}.pid"))
}

/// Starts the supervisor of an instance.
pub(super) fn begin(
    settings: &ReleaseSettings,
    folder: &ReleaseFolder,
    release: &str,
    port: u16,
    command: &[String],
) -> Result<(), String> {
    let path = log_path(folder, port);
    let log = open_log(&path)
        .and_then(|log| Ok((log.try_clone()?, log)))
        .map_err(|error| format!("cannot write `{}`: {error}", path.display()))?;
    let failed = |error| format!("cannot start a supervisor: {error}");
    let mut supervisor = left_behind::command("supervise-instance").map_err(failed)?;
    supervisor
        .arg("--lock")
        .arg(lock_path(folder, port))
        .arg("--folder")
        .arg(folder.release(release))
        .args(["--port", &port.to_string()])
        .args(["--address", &settings.address.to_string()])
        .args(["--release", release])
        .arg("--")
        .args(command)
        .stdout(log.0)
        .stderr(log.1);
    // It is a session of its own, and init inherits it.
    left_behind::begin(&mut supervisor).map_err(failed)
}

fn open_log(path: &Path) -> std::io::Result<File> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    OpenOptions::new().create(true).append(true).open(path)
}

/// Empties a log that is too large, which its writers have open, and keeps a copy.
fn bound_log(path: &Path) {
    let emptied = fs::metadata(path).and_then(|about| {
        if about.len() > MAX_LOG {
            fs::copy(path, path.with_extension("log.old"))?;
            File::create(path)?;
        }
        Ok(())
    });
    if let Err(error) = emptied {
        out::note(&format!("edgeway: cannot bound the log: {error}"));
    }
}

/// Returns true if an instance has a supervisor.
pub(super) fn is_running(folder: &ReleaseFolder, port: u16) -> bool {
    let file = File::open(lock_path(folder, port));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Ends the supervisor of an instance, and with it the app. Nothing happens if none runs.
pub(super) async fn end(folder: &ReleaseFolder, port: u16) -> Result<(), String> {
    let path = lock_path(folder, port);
    let Ok(mut file) = File::open(&path) else {
        return Ok(());
    };
    let began = Instant::now();
    let mut is_asked = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error.to_string()),
            Err(TryLockError::WouldBlock) => {}
        }
        if !is_asked {
            let mut text = String::new();
            let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
            let id = text.trim().parse().ok().and_then(Pid::from_raw);
            if let (Ok(_), Some(id)) = (read, id) {
                // The lock shows that it is the process that wrote its id.
                is_asked = kill_process(id, Signal::TERM).is_ok();
            }
        }
        if began.elapsed() > SUPERVISOR_END {
            return Err(format!("the supervisor of port {port} does not end"));
        }
        sleep(POLL).await;
    }
}

pub fn run(options: &SuperviseOptions) -> Result<(), Failure> {
    // Signals of the terminal that the deploy was started in do not reach it. It fails only if the
    // process leads a session already.
    let _leads = setsid();
    Ok(worker::single()?.block_on(supervise(options))?)
}

async fn supervise(options: &SuperviseOptions) -> Result<(), String> {
    let shown = options.lock.display();
    let failed = |error: std::io::Error| format!("cannot lock `{shown}`: {error}");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&options.lock);
    let mut file = file.map_err(failed)?;
    if file.try_lock().is_err() {
        return Err(format!("another supervisor has `{shown}`"));
    }
    let written = file
        .set_len(0)
        .and_then(|()| write!(file, "{}", std::process::id()));
    written.map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut wait = FIRST_WAIT;
    loop {
        let began = Instant::now();
        let ended = match start(options) {
            Ok((mut child, group)) => {
                let status = tokio::select! {
                    status = watched(&mut child, options) => Some(status),
                    _ = term.recv() => None,
                };
                // Of a program such as `npm`, the app itself may be left.
                end_group(&group, &mut child).await;
                match status {
                    Some(Ok(status)) => format!("the app ended: {status}"),
                    Some(Err(error)) => format!("the app was lost: {error}"),
                    None => return Ok(()),
                }
            }
            Err(why) if !options.folder.exists() => return Err(why),
            Err(why) => why,
        };
        if began.elapsed() > RAN_WELL {
            wait = FIRST_WAIT;
        }
        out::note(&format!(
            "edgeway: {ended}; started again in {} s",
            wait.as_secs()
        ));
        if timeout(wait, term.recv()).await.is_ok() {
            return Ok(());
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Waits until the app ends, and bounds its log meanwhile.
async fn watched(child: &mut Child, options: &SuperviseOptions) -> std::io::Result<ExitStatus> {
    loop {
        bound_log(&options.lock.with_extension("log"));
        if let Ok(status) = timeout(LOOK, child.wait()).await {
            return status;
        }
    }
}

fn start(options: &SuperviseOptions) -> Result<(Child, ProcessGroup), String> {
    let [program, arguments @ ..] = options.command.as_slice() else {
        return Err("there is no command".to_owned());
    };
    let set = std::env::var("NODE_OPTIONS").ok();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&options.folder)
        .env("PORT", options.port.to_string())
        .env("HOSTNAME", node_app::hostname(&options.address))
        .env("HOST", node_app::hostname(&options.address))
        .env("NODE_OPTIONS", node_app::options(set.as_deref()))
        .env("EDGEWAY_RELEASE", &options.release)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    if std::env::var_os("NODE_ENV").is_none() {
        command.env("NODE_ENV", "production");
    }
    if let Some((user, group)) = owner(&options.folder).filter(|(user, _)| *user != 0) {
        command.uid(user).gid(group).env_remove("HOME");
    }
    let spawned = command.spawn();
    let child = spawned.map_err(|error| format!("cannot run `{program}`: {error}"))?;
    let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let id = id.ok_or_else(|| format!("`{program}` has ended"))?;
    Ok((child, ProcessGroup::guard(id, END)))
}

/// Returns the user and group that own a folder, whose rights are enough for the app in it, if this
/// process has those of root.
fn owner(folder: &Path) -> Option<(u32, u32)> {
    let about = fs::metadata(folder).ok()?;
    geteuid().is_root().then(|| (about.uid(), about.gid()))
}

/// Returns true if the app in a folder would run as root.
pub(super) fn runs_as_root(folder: &Path) -> bool {
    owner(folder).is_some_and(|(user, _)| user == 0)
}

/// Ends the app with all of its processes: the first one may end before the others have.
async fn end_group(group: &ProcessGroup, child: &mut Child) {
    group.send(Signal::TERM);
    let gone = async {
        // One that has ended is in the group until it is waited for.
        while matches!(child.try_wait(), Ok(None)) || group.is_alive() {
            sleep(POLL).await;
        }
    };
    if timeout(END, gone).await.is_err() {
        group.send(Signal::KILL);
        drop(child.wait().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_app_runs_as_the_owner_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        // Only root can give a folder away.
        let user = geteuid().as_raw();
        let owner = if user == 0 { 65_534 } else { user };
        std::os::unix::fs::chown(folder.path(), Some(owner), None).unwrap();
        let command = ["sh", "-c", "id -u > owner"].map(str::to_owned);
        let options = SuperviseOptions {
            lock: folder.path().join("lock"),
            folder: folder.path().to_owned(),
            port: 4000,
            address: "127.0.0.1".to_owned(),
            release: "one".to_owned(),
            command: command.into(),
        };
        let (mut app, _group) = start(&options).unwrap();
        app.wait().await.unwrap();
        let runs_as = fs::read_to_string(folder.path().join("owner")).unwrap();
        assert_eq!(runs_as.trim(), owner.to_string());
    }

    #[test]
    fn a_log_that_is_too_large_begins_again_for_its_writers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instance-4000.log");
        let mut writer = open_log(&path).unwrap();
        write!(writer, "first").unwrap();
        bound_log(&path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        writer.set_len(MAX_LOG + 1).unwrap();
        bound_log(&path);
        write!(writer, "last").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "last");
        let old = fs::metadata(path.with_extension("log.old")).unwrap();
        assert_eq!(old.len(), MAX_LOG + 1);
    }
}
