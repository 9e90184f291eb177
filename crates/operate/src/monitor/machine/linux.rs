//! The counts as the kernel has them in `/proc`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use procfs::{
    Current, CurrentSI, DiskStat, DiskStats, KernelStats, LoadAverage, Meminfo,
    net::{InterfaceDeviceStatus, Snmp},
    process::{Process as ProcProcess, all_processes},
};
use rustix::fs::statvfs;

use super::{Cpu, Disk, Memory, Mount, Network, Process, Sample};

/// Bytes of a sector in `/proc/diskstats`, whatever the disk has.
const SECTOR: u64 = 512;

/// Folder with an entry for each disk, but none for a partition.
const DISKS: &str = "/sys/block";

/// File systems that are never written.
const IMAGES: [&str; 3] = ["squashfs", "erofs", "iso9660"];

impl Sample {
    /// Reads the counts.
    ///
    /// # Errors
    ///
    /// If there is no `/proc`, as on a system that is not Linux.
    pub(in super::super) fn take(now: Instant) -> io::Result<Self> {
        let stat = KernelStats::current().map_err(io::Error::other)?;
        let load = LoadAverage::current().map_err(io::Error::other)?;
        let memory = Meminfo::current().map_err(io::Error::other)?;
        Ok(Self {
            at: now,
            cpu: Cpu::new(&stat),
            load: [load.one, load.five, load.fifteen],
            memory: Memory {
                total: memory.mem_total,
                available: memory.mem_available.unwrap_or(memory.mem_free),
                swap_total: memory.swap_total,
                swap_free: memory.swap_free,
            },
            mounts: mounts(),
            // A container may show no disks and no network.
            disks: disks(DiskStats::current().map_or_else(|_| Vec::new(), |disks| disks.0)),
            network: Network::current(),
            running: stat.procs_running.unwrap_or(0),
            blocked: stat.procs_blocked.unwrap_or(0),
            processes: processes().map_err(io::Error::other)?,
        })
    }
}

impl Cpu {
    fn new(stat: &KernelStats) -> Self {
        let time = &stat.total;
        let waiting = time.iowait.unwrap_or(0);
        let stolen = time.steal.unwrap_or(0);
        let idle = time.idle + waiting;
        let irq = time.irq.unwrap_or(0) + time.softirq.unwrap_or(0);
        Self {
            // The time of guests is part of `user` and `nice`.
            total: time.user + time.nice + time.system + idle + irq + stolen,
            idle,
            waiting,
            stolen,
            cores: stat.cpu_time.len() as u64,
        }
    }
}

impl Network {
    fn current() -> Self {
        let interfaces = InterfaceDeviceStatus::current().map(|all| all.0);
        let mut network = Self::default();
        let interfaces = interfaces.unwrap_or_default().into_values();
        for interface in interfaces.filter(|interface| interface.name != "lo") {
            network.received += interface.recv_bytes;
            network.sent += interface.sent_bytes;
            network.errors += interface.recv_errs + interface.sent_errs;
        }
        if let Ok(tcp) = Snmp::current() {
            network.established = tcp.tcp_curr_estab;
            network.retransmitted = tcp.tcp_retrans_segs;
        }
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        network.time_wait = time_wait(&sockets).unwrap_or(0);
        network
    }
}

/// Reads the number of connections in TIME-WAIT: `TCP: inuse 9 orphan 0 tw 11 alloc 12 mem 1`.
fn time_wait(sockstat: &str) -> Option<u64> {
    let tcp = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = tcp.split_whitespace();
    words.find(|word| *word == "tw")?;
    words.next()?.parse().ok()
}

/// Returns the disks, without their partitions and without those that are made of other disks.
fn disks(all: Vec<DiskStat>) -> BTreeMap<String, Disk> {
    // A device in a folder has slashes in its name, which the kernel writes as `!` there.
    let is_whole = |name: &str| Path::new(DISKS).join(name.replace('/', "!")).exists();
    real_disks(all, is_whole)
}

fn real_disks(all: Vec<DiskStat>, is_whole: impl Fn(&str) -> bool) -> BTreeMap<String, Disk> {
    let kinds = ["loop", "ram", "zram", "dm-", "md", "sr", "fd"];
    let is_real = |name: &str| !kinds.iter().any(|kind| name.starts_with(kind)) && is_whole(name);
    let real = all.into_iter().filter(|disk| is_real(&disk.name));
    let counts = real.map(|disk| {
        let counts = Disk {
            read: disk.sectors_read * SECTOR,
            written: disk.sectors_written * SECTOR,
            busy_ms: disk.time_in_progress,
        };
        (disk.name, counts)
    });
    counts.collect()
}

/// Returns true for a device of this machine. `//server/share` is none: while its server is gone, a
/// request for its size does not return.
fn is_local(source: &str) -> bool {
    source.starts_with('/') && !source.starts_with("//")
}

/// Returns each file system on a disk, and the root, at its first place.
fn mounts() -> Vec<Mount> {
    let table = ProcProcess::myself().and_then(|process| process.mountinfo());
    let Ok(table) = table else {
        return Vec::new();
    };
    let table: Vec<_> = table.into_iter().collect();
    // A mount hides an earlier one in the same place.
    let last: BTreeMap<PathBuf, i32> = table
        .iter()
        .map(|entry| (entry.mount_point.clone(), entry.mnt_id))
        .collect();
    let mut seen = BTreeSet::new();
    let mut mounts = Vec::new();
    for entry in table {
        if last.get(&entry.mount_point) != Some(&entry.mnt_id) {
            continue;
        }
        let source = entry.mount_source.unwrap_or_default();
        let is_disk = is_local(&source) || entry.mount_point == Path::new("/");
        if !is_disk || seen.contains(&entry.majmin) {
            continue;
        }
        let Ok(space) = statvfs(&entry.mount_point) else {
            continue;
        };
        // An image of a program, such as a snap, is always full.
        if space.f_blocks == 0 || IMAGES.contains(&entry.fs_type.as_str()) {
            continue;
        }
        seen.insert(entry.majmin);
        mounts.push(Mount {
            path: entry.mount_point,
            total: space.f_blocks * space.f_frsize,
            used: space.f_blocks.saturating_sub(space.f_bfree) * space.f_frsize,
            free: space.f_bavail * space.f_frsize,
            inodes: space.f_files,
            free_inodes: space.f_ffree,
        });
    }
    mounts
}

fn processes() -> procfs::ProcResult<BTreeMap<(i32, u64), Process>> {
    let page = procfs::page_size();
    // Processes that ended meanwhile are left out.
    let stats = all_processes()?.filter_map(|process| process.ok()?.stat().ok());
    let each = stats.map(|stat| {
        let process = Process {
            ticks: stat.utime + stat.stime,
            memory: stat.rss * page,
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            name: stat.comm,
        };
        ((stat.pid, stat.starttime), process)
    });
    Ok(each.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_in_time_wait_are_read() {
        let text = "sockets: used 205\nTCP: inuse 9 orphan 0 tw 11 alloc 12 mem 1\nUDP: inuse 4\n";
        assert_eq!(time_wait(text), Some(11));
        assert_eq!(time_wait("TCP: inuse 9 tw\n"), None);
        assert_eq!(time_wait(""), None);
    }

    #[test]
    fn shares_of_other_machines_are_no_disks() {
        for (source, expected) in [
            ("/dev/sda1", true),
            ("//files.example/share", false),
            ("files.example:/share", false),
            ("tmpfs", false),
        ] {
            assert_eq!(is_local(source), expected, "{source}");
        }
    }

    #[test]
    fn partitions_and_disks_made_of_disks_are_left_out() {
        let lines = [
            "   7       0 loop0 1 0 8 0 0 0 0 0 0 0 0",
            " 259       0 nvme0n1 10 0 100 0 5 0 40 0 0 70 0",
            " 259       1 nvme0n1p1 9 0 90 0 5 0 40 0 0 60 0",
            "   8       0 sda 1 0 2 0 3 0 4 0 0 5 0",
            "   8      16 sdaa 1 0 2 0 3 0 4 0 0 5 0",
            " 253       0 dm-0 1 0 2 0 3 0 4 0 0 5 0",
        ];
        let all = lines.map(|line| DiskStat::from_line(line).unwrap());
        // The kernel has an entry for each whole disk; one name may begin with another.
        let found = real_disks(all.into(), |name| !name.contains("n1p"));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["nvme0n1", "sda", "sdaa"]);
        let expected = Disk {
            read: 51_200,
            written: 20_480,
            busy_ms: 70,
        };
        assert_eq!(found["nvme0n1"], expected);
    }
}
