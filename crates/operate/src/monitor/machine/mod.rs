//! Counts of the machine at one moment.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

#[cfg(all(target_os = "linux", not(edgeway_portable)))]
mod linux;
#[cfg(not(all(target_os = "linux", not(edgeway_portable))))]
mod portable;

/// Counts at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) cpu: Cpu,
    pub(super) load: [f32; 3],
    pub(super) memory: Memory,
    pub(super) mounts: Vec<Mount>,
    pub(super) disks: BTreeMap<String, Disk>,
    pub(super) network: Network,
    /// Numbers of processes that run, and that wait for a disk.
    pub(super) running: u32,
    pub(super) blocked: u32,
    /// Processes by number and start, since the kernel uses numbers again.
    pub(super) processes: BTreeMap<(i32, u64), Process>,
}

/// CPU time in ticks, and the number of processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) total: u64,
    pub(super) idle: u64,
    pub(super) waiting: u64,
    pub(super) stolen: u64,
    pub(super) cores: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) available: u64,
    pub(super) swap_total: u64,
    pub(super) swap_free: u64,
}

/// Space of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) path: PathBuf,
    pub(super) total: u64,
    pub(super) used: u64,
    /// Without the blocks that only root may take.
    pub(super) free: u64,
    pub(super) inodes: u64,
    pub(super) free_inodes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) read: u64,
    pub(super) written: u64,
    pub(super) busy_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) errors: u64,
    pub(super) established: u64,
    pub(super) time_wait: u64,
    pub(super) retransmitted: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) name: String,
    pub(super) ticks: u64,
    pub(super) memory: u64,
    pub(super) threads: u64,
}
