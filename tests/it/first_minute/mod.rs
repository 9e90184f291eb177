//! Commands of the first minute: a developer with a running app and no configuration.
#![allow(
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests, whose failures are failures of a test"
)]

mod ca;
mod demo;
mod dev;
mod init;
mod newest;
mod proxy;
mod quick_start;
mod scripts;
mod status;

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::support::{
    files::tail,
    ports::free_port,
    wait::{until, wait_for},
};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// Address of the admin listener if nothing else is said.
const ADMIN: &str = "127.0.0.1:9900";

/// Order of the tests: one whose gateways have [`ADMIN`] is alone; while others start theirs, it is
/// taken.
static ORDER: RwLock<()> = RwLock::new(());
/// Turn that the others share.
static TAKEN: Mutex<Weak<Turn>> = Mutex::new(Weak::new());

/// Lock on the usual addresses of a machine, against other runs of the tests.
struct Turn {
    /// The admin listener of another program.
    _taken: Option<TcpListener>,
    _lock: File,
}

impl Turn {
    fn wait(is_taken: bool) -> Arc<Self> {
        let lock = File::create("/tmp/edgeway-first-minute.lock").expect("the folder takes files");
        flock(&lock, FlockOperation::LockExclusive).expect("a file can be locked");
        // Another program of this machine may have it already.
        let taken = is_taken.then(|| TcpListener::bind(ADMIN).ok()).flatten();
        Arc::new(Self {
            _taken: taken,
            _lock: lock,
        })
    }
}

/// The usual addresses are this test's.
struct Alone {
    _turn: Arc<Turn>,
    _order: RwLockWriteGuard<'static, ()>,
}

/// The usual addresses are taken.
struct Beside {
    _turn: Arc<Turn>,
    _order: RwLockReadGuard<'static, ()>,
}

/// Folders of a user whose home is empty; every command of the test runs as that user.
pub(crate) struct Home {
    dir: TempDir,
    alone: Option<Alone>,
}

impl Home {
    /// Returns the home of a user on a machine where another program has [`ADMIN`] whenever a
    /// command starts.
    fn new() -> Self {
        Self::with(None)
    }

    /// Returns the home of a user whose gateways have the usual addresses.
    fn alone() -> Self {
        let order = ORDER.write();
        let turn = Turn::wait(false);
        let free = TcpListener::bind(ADMIN);
        assert!(
            free.is_ok(),
            "{ADMIN} is taken: end the program that listens there, commands find a gateway at it"
        );
        Self::with(Some(Alone {
            _turn: turn,
            _order: order,
        }))
    }

    fn with(alone: Option<Alone>) -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test can be made");
        for name in ["project", "tmp"] {
            fs::create_dir(dir.path().join(name)).expect("the folder takes folders");
        }
        Self { dir, alone }
    }

    /// Keeps [`ADMIN`] taken, unless the test is alone.
    fn beside(&self) -> Option<Beside> {
        if self.alone.is_some() {
            return None;
        }
        let order = ORDER.read();
        let mut taken = TAKEN.lock();
        let turn = taken.upgrade().unwrap_or_else(|| Turn::wait(true));
        *taken = Arc::downgrade(&turn);
        Some(Beside {
            _turn: turn,
            _order: order,
        })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The folder in which commands run.
    fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in [
            "EDGEWAY_CONFIG",
            "EDGEWAY_ADMIN",
            "EDGEWAY_ADMIN_SOCKET",
            "STATE_DIRECTORY",
            "XDG_DATA_HOME",
        ] {
            command.env_remove(name);
        }
        command
            .env("HOME", self.path())
            // What a killed command leaves behind goes with the home.
            .env("TMPDIR", self.path().join("tmp"))
            .env("RUNTIME_DIRECTORY", self.path().join("run"))
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("NEXT_TELEMETRY_DISABLED", "1")
            // npm would ask its registry about itself, and end only then.
            .env("npm_config_update_notifier", "false")
            .current_dir(self.project())
            .stdin(Stdio::null());
        command
    }

    fn edgeway(&self, arguments: &[&str]) -> Command {
        // Under `nohup`, the tests ignore SIGHUP, and so would their children.
        let mut command = self.command("env");
        command
            .args(["--default-signal=HUP", env!("CARGO_BIN_EXE_edgeway")])
            .args(arguments);
        command
    }

    /// Runs a command of the program to its end.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let _beside = self.beside();
        output(&mut self.edgeway(arguments))
    }

    /// Starts a gateway in the foreground, and waits until it serves.
    async fn start(&self, arguments: &[&str]) -> Foreground {
        self.start_in(&self.project(), arguments).await
    }

    async fn start_with(&self, arguments: &[&str], environment: &[(&str, &Path)]) -> Foreground {
        self.start_command(self.edgeway(arguments).envs(environment.iter().copied()))
            .await
    }

    async fn start_in(&self, folder: &Path, arguments: &[&str]) -> Foreground {
        self.start_command(self.edgeway(arguments).current_dir(folder))
            .await
    }

    async fn start_command(&self, command: &mut Command) -> Foreground {
        let _beside = self.beside();
        let name = format!("out-{}", free_port());
        let ready_file = self.path().join(format!("{name}.json"));
        let stderr = self.path().join(&name);
        let file = File::create(&stderr).expect("the folder takes files");
        let child = command
            .env("EDGEWAY_READY_FILE", &ready_file)
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .expect("the gateway's binary starts");
        let mut started = Foreground { child, stderr };
        let ready = until(READY_WITHIN, &mut async || {
            (ready_file.exists() || started.ended().is_some()).then_some(())
        })
        .await;
        assert!(
            ready.is_some() && ready_file.exists(),
            "{command:?}\n{}",
            started.text()
        );
        started
    }
}

/// Running gateway of a terminal; killed when dropped.
struct Foreground {
    child: Child,
    stderr: PathBuf,
}

impl Foreground {
    /// Returns everything that it printed.
    fn text(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    async fn prints(&self, words: &str) {
        wait_for(&format!("it prints `{words}`"), READY_WITHIN, async || {
            self.text().contains(words).then_some(())
        })
        .await;
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("a child of ours can be waited for")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the gateway runs");
    }

    async fn ends(&mut self, within: Duration) -> ExitStatus {
        wait_for("the gateway has ended", within, async || self.ended()).await
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).ok();
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- it printed:\n{}", tail(&self.stderr));
        }
    }
}

fn output(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Writes files into a folder.
fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("folders can be made");
        fs::write(path, text).expect("the folder takes files");
    }
}
