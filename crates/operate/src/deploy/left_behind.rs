//! Processes that a command leaves behind when it ends.

use std::{
    env, fs, io,
    os::fd::{BorrowedFd, RawFd},
    path::Path,
    process::{Command, Stdio},
};

use rustix::io::{FdFlags, fcntl_setfd};

/// Returns a command of our own program, also if another one has replaced its file meanwhile.
pub(super) fn command(name: &str) -> io::Result<Command> {
    let current = env::current_exe()?;
    let running = Path::new("/proc/self/exe");
    let mut command = Command::new(if current.exists() { &current } else { running });
    command.arg(name);
    Ok(command)
}

/// Starts a program of ours that outlives this one. Of the files that this one has inherited it gets
/// none: the lock of `flock FILE edgeway deploy …` would be held for as long as the app runs.
pub(super) fn begin(command: &mut Command) -> io::Result<()> {
    hide_files();
    command.stdin(Stdio::null()).spawn().map(drop)
}

/// Hides all files but the standard streams from programs that are started.
#[allow(unsafe_code, reason = "files are inherited by number")]
fn hide_files() {
    let all = fs::read_dir("/proc/self/fd").into_iter().flatten();
    let numbers = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for number in numbers.filter(|number: &RawFd| *number > 2) {
        // SAFETY: nothing but a flag is changed, which all files of our own have already.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        // It may have been closed meanwhile.
        let _closed = fcntl_setfd(file, FdFlags::CLOEXEC);
    }
}
