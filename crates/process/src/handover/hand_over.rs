//! The giving side: starts a successor with everything that it inherits, and waits until it serves.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use edgeway_base::system::{self, NeedsLinux, ProcessHandle};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{FdFlags, fcntl_setfd},
    process::{Pid, Signal, getpid},
};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{HandoverManifest, InheritedState, ManifestSocket, SuccessorReport, VARIABLE};

/// Variables hidden from a successor: they are ours, or name processes and files that are not its.
const NOT_INHERITED: [&str; 5] = [
    VARIABLE,
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
];
/// Size limit of a successor's report.
const MAX_REPORT_LEN: u64 = 1 << 20;
/// Time limit for a successor that has refused to exit by itself.
const LEAVE: Duration = Duration::from_secs(2);

/// Command line of this process, so that a successor can be started in the same way.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: PathBuf,
    arguments: Vec<OsString>,
}

impl Launch {
    /// Must be called early. Later the file may have been replaced, which is the point of an
    /// upgrade, and Linux then reports a path that no longer exists.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let named = arguments.next();
        let own = std::env::current_exe()?;
        let search = std::env::var_os("PATH").unwrap_or_default();
        let program = program(named.as_deref(), &own, &std::env::current_dir()?, &search);
        Ok(Self {
            program,
            arguments: arguments.collect(),
        })
    }
}

/// The path that we were called by, if it leads to our program. A link on the way
/// (`current/edgeway`) may lead to a newer build when a successor is started.
fn program(named: Option<&OsStr>, running: &Path, folder: &Path, search: &OsStr) -> PathBuf {
    let is_own = |candidate: &PathBuf| match (candidate.metadata(), running.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    let program = named.and_then(|named| {
        if named.as_encoded_bytes().contains(&b'/') {
            return Some(folder.join(named)).filter(is_own);
        }
        std::env::split_paths(search)
            .map(|place| folder.join(place).join(named))
            .find(is_own)
    });
    program.unwrap_or_else(|| running.to_owned())
}

/// Why no successor took over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error(transparent)]
    System(#[from] NeedsLinux),
    #[error("cannot start `{}`", .0.display())]
    Start(PathBuf, #[source] io::Error),
    #[error("cannot prepare what `{}` inherits", .0.display())]
    Prepare(PathBuf, #[source] io::Error),
    #[error("`{}` does not serve: {}", .0.display(), .1)]
    Refused(PathBuf, String),
    #[error("`{}` ended before it was ready; its last log lines say why", .0.display())]
    Ended(PathBuf),
    #[error("`{}` was not ready within {} s, and was ended", .0.display(), .1.as_secs())]
    Late(PathBuf, Duration),
    #[error("unexpected message from `{}`: {:?}", .0.display(), .1)]
    Unclear(PathBuf, String),
    #[error("`{}` did not serve yet when the gateway was stopped", .0.display())]
    Stopped(PathBuf),
}

/// A process that is to replace this one. It is killed if this is dropped before it serves.
#[derive(Debug)]
pub struct Successor {
    program: PathBuf,
    pid: Pid,
    /// `None` if the process was gone before the handle was opened.
    handle: Option<ProcessHandle>,
    report_reader: File,
    serves: bool,
}

impl Successor {
    /// Starts `binary`, or our own program, with our arguments, folder and environment.
    ///
    /// The successor is no child of ours. Only then does systemd accept a process reported by
    /// `MAINPID=` as its own, and wait for it on a stop.
    pub fn start(
        launch: &Launch,
        binary: Option<&Path>,
        estate: &InheritedState,
    ) -> Result<Self, HandoverError> {
        system::requires_linux("an upgrade of the running gateway")?;
        let program = binary.unwrap_or(&launch.program).to_owned();
        let parcel = match InheritedFiles::pack(estate) {
            Ok(parcel) => parcel,
            Err(error) => return Err(HandoverError::Prepare(program, error)),
        };
        match parcel.send(&program, &launch.arguments) {
            Ok((pid, report_reader)) => Ok(Self {
                pid,
                handle: handle_of(pid, &report_reader),
                report_reader,
                program,
                serves: false,
            }),
            Err(error) => Err(HandoverError::Start(program, error)),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Waits until the successor serves, and returns its version.
    pub async fn serves(&mut self, within: Duration) -> Result<String, HandoverError> {
        let program = || self.program.clone();
        let heard = tokio::time::timeout(within, self.hear()).await;
        // Dropping `self` kills it.
        let heard = heard.map_err(|_| HandoverError::Late(program(), within))?;
        let message = heard.map_err(|error| HandoverError::Prepare(program(), error))?;
        if message.is_empty() {
            return Err(HandoverError::Ended(program()));
        }
        match serde_json::from_str(&message) {
            Ok(SuccessorReport::Ready {
                ready: true,
                version,
            }) => {
                self.serves = true;
                Ok(version)
            }
            Ok(SuccessorReport::Refused { error }) => {
                // Dropping `self` kills it if it has not exited by itself.
                drop(tokio::time::timeout(LEAVE, self.hear()).await);
                Err(HandoverError::Refused(program(), error))
            }
            Ok(SuccessorReport::Ready { .. }) | Err(_) => {
                Err(HandoverError::Unclear(program(), message))
            }
        }
    }

    /// Stops the successor along with this process. One that does not serve yet exits at once. One
    /// that is about to serve continues, since connections may already be its own; it has taken
    /// over, exits by itself, and its version is returned.
    pub async fn stops(&mut self, within: Duration) -> Result<String, HandoverError> {
        self.signal(Signal::TERM);
        let served = self.serves(within).await;
        served.map_err(|_| HandoverError::Stopped(self.program.clone()))
    }

    /// Sends the successor a signal. If it has exited, no other process receives it.
    pub fn signal(&self, signal: Signal) {
        if let Some(handle) = &self.handle
            && let Err(error) = handle.signal(signal)
            && error != rustix::io::Errno::SRCH
        {
            log::warn!(pid = self.pid(), signal:? = signal, error:%; "cannot signal a successor");
        }
    }

    /// Reads one line, or everything before the end of the pipe.
    async fn hear(&self) -> io::Result<String> {
        let pipe = pipe::Receiver::from_file(self.report_reader.try_clone()?)?;
        let mut bytes = Vec::new();
        let mut pipe = pipe.take(MAX_REPORT_LEN);
        let mut buffer = [0; 4096];
        while !bytes.ends_with(b"\n") {
            let read = pipe.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(&buffer[..read]);
        }
        Ok(String::from_utf8_lossy(bytes.trim_ascii()).into_owned())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.serves {
            self.signal(Signal::KILL);
        }
    }
}

/// Opens a handle that identifies this process for ever, even if its number is reused.
///
/// The process keeps its number while it holds the pipe open. If the pipe is still open after the
/// handle was made, the handle is that of the process.
fn handle_of(pid: Pid, report_reader: &File) -> Option<ProcessHandle> {
    let handle = ProcessHandle::open(pid).ok()?;
    let mut polled = [PollFd::new(report_reader, PollFlags::IN)];
    let now = Timespec::default();
    poll(&mut polled, Some(&now)).ok()?;
    let has_left = polled[0].revents().contains(PollFlags::HUP);
    (!has_left).then_some(handle)
}

/// Inherited files, with the letter that lists them.
struct InheritedFiles<'a> {
    letter: HandoverManifest,
    /// Kept open until the successor has its own copies.
    state: OwnedFd,
    report_reader: OwnedFd,
    report_writer: OwnedFd,
    others: Vec<BorrowedFd<'a>>,
}

impl<'a> InheritedFiles<'a> {
    fn pack(estate: &'a InheritedState) -> io::Result<Self> {
        let mut file = system::memory_file("edgeway-state")?;
        file.write_all(&serde_json::to_vec(&estate.state)?)?;
        let (report_reader, report_writer) = system::pipe()?;
        let mut others: Vec<BorrowedFd<'a>> = Vec::new();
        let mut list = |fd: &'a OwnedFd| {
            others.push(fd.as_fd());
            fd.as_raw_fd()
        };
        let letter = HandoverManifest {
            ready: report_writer.as_raw_fd(),
            state: file.as_raw_fd(),
            predecessors: estate.predecessors.iter().map(&mut list).collect(),
            init: estate.init.as_ref().map(&mut list),
            cache: estate.cache.as_ref().map(&mut list),
            upgrades: estate.upgrades,
            sockets: estate
                .sockets
                .iter()
                .map(|(place, fd)| ManifestSocket {
                    place: place.clone(),
                    fd: list(fd),
                })
                .collect(),
        };
        Ok(Self {
            letter,
            state: file.into(),
            report_reader,
            report_writer,
            others,
        })
    }

    /// Starts the successor. Returns its process and the pipe for its report.
    fn send(self, program: &Path, arguments: &[OsString]) -> io::Result<(Pid, File)> {
        let mut command = Command::new(program);
        command.args(arguments);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command.env(VARIABLE, serde_json::to_string(&self.letter)?);
        let report_writer = self.report_writer.as_raw_fd();
        let mut passed: Vec<RawFd> = self.others.iter().map(AsRawFd::as_raw_fd).collect();
        passed.extend([self.state.as_raw_fd(), report_writer]);
        start_twice(&mut command, passed, report_writer);
        let mut between = command.spawn()?;
        between.wait()?;
        // Without our own copy, the pipe closes with the successor.
        drop(self.report_writer);
        let mut report_reader = File::from(self.report_reader);
        let mut pid = [0; 4];
        report_reader.read_exact(&mut pid)?;
        let pid = Pid::from_raw(i32::from_ne_bytes(pid)).ok_or(io::ErrorKind::InvalidData)?;
        Ok((pid, report_reader))
    }
}

/// Makes the program start in a grandchild whose parent exits at once, with `passed` open, and its
/// process id written to `report_writer`.
#[allow(unsafe_code, reason = "there is no other way to fork twice")]
fn start_twice(command: &mut Command, passed: Vec<RawFd>, report_writer: RawFd) {
    let prepare = move || {
        // SAFETY: this is the child's only thread. Until it runs the program it makes system calls
        // only, and does not otherwise use the copy of the parent's memory.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            // SAFETY: ends the child without running any code of the parent.
            _ => unsafe { libc::_exit(0) },
        }
        for fd in &passed {
            // SAFETY: the parent holds them open until `spawn` has returned.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        let pid_bytes = getpid().as_raw_nonzero().get().to_ne_bytes();
        // SAFETY: as above.
        let report_writer = unsafe { BorrowedFd::borrow_raw(report_writer) };
        rustix::io::write(report_writer, &pid_bytes)?;
        Ok(())
    };
    // SAFETY: `prepare` makes system calls only. It takes no lock and allocates no memory.
    unsafe { command.pre_exec(prepare) };
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// Launches a shell script as the successor. `$R` is the pipe for its report.
    fn shell(script: &str) -> Launch {
        let script = format!(
            "R=$(echo \"$EDGEWAY_HANDOVER\" | sed 's/.*\"ready\":\\([0-9]*\\).*/\\1/'); {script}"
        );
        Launch {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
        }
    }

    fn estate() -> InheritedState {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        InheritedState {
            sockets: vec![("127.0.0.1:0".to_owned(), socket.into())],
            ..InheritedState::default()
        }
    }

    async fn outcome(script: &str, within: Duration) -> Result<String, String> {
        let mut successor = Successor::start(&shell(script), None, &estate()).unwrap();
        successor.serves(within).await.map_err(|e| e.to_string())
    }

    fn is_alive(pid: u32) -> bool {
        // A zombie has ended, but was not reaped yet.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn a_successor_that_serves_reports_its_version() {
        let version = outcome(
            r#"echo '{"ready":true,"version":"9.9"}' >/proc/$$/fd/$R"#,
            SOON,
        )
        .await;
        assert_eq!(version.unwrap(), "9.9");
    }

    #[tokio::test]
    async fn the_refusal_of_a_successor_is_reported() {
        let error = outcome(
            r#"echo '{"error":"line 3: no"}' >/proc/$$/fd/$R; exit 78"#,
            SOON,
        )
        .await;
        assert_eq!(error.unwrap_err(), "`/bin/sh` does not serve: line 3: no");
        let error = outcome("echo hello >/proc/$$/fd/$R", SOON)
            .await
            .unwrap_err();
        assert!(error.contains("unexpected message from"), "{error}");
        let error = outcome("exit 1", SOON).await.unwrap_err();
        assert!(error.contains("ended before it was ready"), "{error}");
    }

    #[tokio::test]
    async fn a_successor_that_hangs_is_ended() {
        let mut hung = Successor::start(&shell("exec sleep 600"), None, &estate()).unwrap();
        let pid = hung.pid();
        assert!(is_alive(pid));
        let error = hung.serves(Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(error, HandoverError::Late(..)), "{error}");
        let handle = hung.handle.as_ref().unwrap().as_fd();
        let handle = handle.try_clone_to_owned().unwrap();
        drop(hung);
        // A handle becomes readable once its process has ended.
        let mut polled = [PollFd::new(&handle, PollFlags::IN)];
        let long = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut polled, Some(&long)), Ok(1));
        assert!(!is_alive(pid));
    }

    #[tokio::test]
    async fn a_successor_asked_to_stop_leaves_or_serves_all_the_same() {
        for (script, expected) in [
            ("exec sleep 600", None),
            (
                r#"trap 'echo "{\"ready\":true,\"version\":\"9.9\"}" >/proc/$$/fd/$R; exit' TERM; echo > $SEEN; while :; do sleep 0.01; done"#,
                Some("9.9"),
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let seen = folder.path().join("seen");
            let script = script.replace("$SEEN", &seen.to_string_lossy());
            let mut successor = Successor::start(&shell(&script), None, &estate()).unwrap();
            while expected.is_some() && !seen.exists() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let stops = successor.stops(SOON).await;
            match expected {
                Some(version) => assert_eq!(stops.unwrap(), version),
                None => assert!(matches!(stops, Err(HandoverError::Stopped(_)))),
            }
        }
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_started_is_reported_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        std::fs::write(&text, "not a program").unwrap();
        for (binary, kind) in [
            (folder.path().join("missing"), io::ErrorKind::NotFound),
            (text, io::ErrorKind::PermissionDenied),
        ] {
            match Successor::start(&shell(""), Some(&binary), &estate()) {
                Err(HandoverError::Start(_, error)) => assert_eq!(error.kind(), kind),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_successor_is_no_child_of_ours_and_has_the_sockets_and_the_state() {
        let mut estate = estate();
        estate.state.insert("zone".into(), 7.into());
        let fd = estate.sockets[0].1.as_raw_fd();
        let socket = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("seen");
        let script = format!(
            "S=$(echo \"$EDGEWAY_HANDOVER\" | sed 's/.*\"state\":\\([0-9]*\\).*/\\1/'); \
             {{ echo $PPID; readlink /proc/$$/fd/{fd}; cat /proc/$$/fd/$S; echo; \
             echo \"${{WATCHDOG_PID-none}} ${{LISTEN_FDS-none}}\"; }} > {}; \
             echo '{{\"ready\":true,\"version\":\"\"}}' >/proc/$$/fd/$R",
            seen.display()
        );
        let mut successor = Successor::start(&shell(&script), None, &estate).unwrap();
        successor.serves(SOON).await.unwrap();
        let seen = std::fs::read_to_string(seen).unwrap();
        let lines: Vec<&str> = seen.lines().collect();
        assert_ne!(lines[0], std::process::id().to_string());
        assert_eq!(lines[1], socket.to_string_lossy());
        assert_eq!(lines[2], r#"{"zone":7}"#);
        assert_eq!(lines[3], "none none");
    }

    #[test]
    fn a_program_is_found_again_by_the_name_that_it_was_called_by() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("edgeway-1");
        std::fs::write(&own, "").unwrap();
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
        let link = folder.path().join("edgeway");
        symlink(&own, &link).unwrap();
        let other = folder.path().join("other");
        std::fs::write(&other, "").unwrap();
        let find = |named: &str| {
            program(
                Some(OsStr::new(named)),
                &own,
                folder.path(),
                folder.path().as_os_str(),
            )
        };
        assert_eq!(find("./edgeway"), folder.path().join("./edgeway"));
        assert_eq!(find("edgeway"), link);
        assert_eq!(find(&link.to_string_lossy()), link);
        assert_eq!(find("./other"), own);
        assert_eq!(find("missing"), own);
        assert_eq!(program(None, &own, folder.path(), OsStr::new("")), own);
    }
}
