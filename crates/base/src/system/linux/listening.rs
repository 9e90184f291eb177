//! Processes of this machine that listen on TCP ports, if this user may see them.

use std::collections::HashMap;

use procfs::{
    net::{TcpState, tcp, tcp6},
    process::{FDTarget, Process, all_processes},
};

/// Process that listens on a port. Its number alone may be given to another process later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListeningProcess {
    pub pid: i32,
    started: u64,
}

impl ListeningProcess {
    /// Name of its program, if it still runs.
    pub fn name(&self) -> Option<String> {
        Some(self.stat()?.comm)
    }

    /// Resident memory in bytes, if it still runs.
    pub fn resident_memory(&self) -> Option<u64> {
        Some(self.stat()?.rss.saturating_mul(procfs::page_size()))
    }

    fn stat(&self) -> Option<procfs::process::Stat> {
        let stat = Process::new(self.pid).ok()?.stat().ok()?;
        (stat.starttime == self.started).then_some(stat)
    }
}

/// Returns the processes that listen on one of `ports`, by port. Reads the open files of all
/// processes, which takes milliseconds.
pub fn processes(ports: &[u16]) -> HashMap<u16, Vec<ListeningProcess>> {
    let sockets = [tcp(), tcp6()].into_iter().flatten().flatten();
    let sockets = sockets.filter(|socket| socket.state == TcpState::Listen);
    let sockets = sockets.map(|socket| (socket.inode, socket.local_address.port()));
    let sockets: HashMap<u64, u16> = sockets.filter(|(_, port)| ports.contains(port)).collect();
    let mut listening: HashMap<u16, Vec<ListeningProcess>> = HashMap::new();
    if sockets.is_empty() {
        return listening;
    }
    for process in all_processes().into_iter().flatten().flatten() {
        let (Ok(files), Ok(stat)) = (process.fd(), process.stat()) else {
            continue;
        };
        let process = ListeningProcess {
            pid: process.pid(),
            started: stat.starttime,
        };
        for file in files.flatten() {
            if let FDTarget::Socket(inode) = file.target
                && let Some(port) = sockets.get(&inode)
            {
                let processes = listening.entry(*port).or_default();
                if !processes.contains(&process) {
                    processes.push(process);
                }
            }
        }
    }
    listening
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_process_at_a_port_is_found_with_its_memory() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let listening = processes(&[port, 1]);
        let process = listening[&port][0];
        assert_eq!(process.pid.unsigned_abs(), std::process::id());
        assert!(process.resident_memory().unwrap() > 1 << 20);
        let another = ListeningProcess {
            started: 1,
            ..process
        };
        assert_eq!(
            another.resident_memory(),
            None,
            "its number is another's now"
        );
        drop(listener);
        assert!(processes(&[port]).is_empty());
    }
}
