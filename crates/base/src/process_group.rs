//! Groups of processes that end together: with the process that started the first of them, also
//! where that one is killed.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

/// Ends the group when standard input closes without a line: the process that started it was killed.
const GUARD: &str = "read -r line || { kill -TERM -\"$0\"; sleep \"$1\"; kill -KILL -\"$0\"; }";

/// A group of processes that this one has started.
pub struct ProcessGroup {
    id: Pid,
    guard: Option<Child>,
}

impl ProcessGroup {
    /// Guards the group of its first process. If this process is killed, the group has `end` from
    /// SIGTERM to SIGKILL.
    pub fn guard(first: Pid, end: Duration) -> Self {
        let guard = Command::new("sh")
            .args(["-c", GUARD, &first.to_string(), &end.as_secs().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        Self {
            id: first,
            // A container may have no shell.
            guard: guard.ok(),
        }
    }

    pub fn send(&self, signal: Signal) {
        // It may be gone already.
        let _sent = kill_process_group(self.id, signal);
    }

    pub fn is_alive(&self) -> bool {
        test_kill_process_group(self.id).is_ok()
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let Some(mut guard) = self.guard.take() else {
            return;
        };
        if let Some(input) = &mut guard.stdin {
            // Without this line the guard would signal a group that is gone.
            let _written = input.write_all(b"done\n");
        }
        let _ended = guard.wait();
    }
}
