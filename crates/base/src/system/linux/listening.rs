//! Processes of this machine that listen on TCP ports, if this user may see them.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader},
};

use procfs::process::{FDTarget, Process, all_processes};

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
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter();
    let sockets: HashMap<u64, u16> = tables
        .flat_map(listening_sockets)
        .filter(|(_, port)| ports.contains(port))
        .collect();
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

/// Returns the inode and port of each socket that listens. The table has them before all others, of
/// which a busy machine has very many.
fn listening_sockets(table: &str) -> Vec<(u64, u16)> {
    let Ok(table) = File::open(table) else {
        return Vec::new();
    };
    let rows = BufReader::new(table).lines().map_while(Result::ok).skip(1);
    rows.map_while(|row| listening_socket(&row)).collect()
}

/// Reads a row such as `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0
/// 4242`, with the state `0A`.
fn listening_socket(row: &str) -> Option<(u64, u16)> {
    let mut columns = row.split_ascii_whitespace().skip(1);
    let (_, port) = columns.next()?.split_once(':')?;
    (columns.nth(1)? == "0A").then_some(())?;
    let inode = columns.nth(5)?.parse().ok()?;
    Some((inode, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_process_at_a_port_is_found_with_its_memory() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connected = TcpStream::connect(("127.0.0.1", port)).unwrap();
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
        drop((listener, connected));
        assert!(processes(&[port]).is_empty());
    }
}
