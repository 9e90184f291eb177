//! Metrics of the disk, and the names of its faults.

use std::io;

use super::super::metrics::LookupOutcome;

/// Buckets around the deadline, to show whether it is met.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
];

edgeway_base::enum_table! {
    /// Outcome of writing an entry to the disk.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum WriteOutcome => name {
        Stored = "stored",
        /// A purge since its request affects the entry.
        Purged = "purged",
        /// The entry was requested before this folder was opened: purges since then may be unknown.
        Early = "early",
        QueueFull = "queue_full",
        Error = "error",
    }
}

edgeway_base::enum_table! {
    /// Reasons why a file was removed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum RemovalReason => name {
        /// Removed to make room.
        Evicted = "evicted",
        Purged = "purged",
        /// Past any use.
        Expired = "expired",
        /// Truncated, changed, of another version or of another key.
        Damaged = "damaged",
    }
}

edgeway_base::enum_table! {
    /// Faults of a folder.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum FolderFault => name {
        Full = "full",
        ReadOnly = "read_only",
        /// The folder, or something that must be in it, does not exist.
        Missing = "missing",
        Permission = "permission",
        /// A deadline passed.
        Slow = "slow",
        Io = "io",
    }
}

impl FolderFault {
    pub(super) fn classify(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::Full,
            Kind::ReadOnlyFilesystem => Self::ReadOnly,
            Kind::NotFound | Kind::NotADirectory => Self::Missing,
            Kind::PermissionDenied => Self::Permission,
            Kind::TimedOut => Self::Slow,
            _ => Self::Io,
        }
    }

    /// Returns true if existing entries can still be read.
    pub(super) fn allows_reading(self) -> bool {
        matches!(self, Self::Full | Self::ReadOnly)
    }
}

edgeway_base::metric_handles! {
    /// Metrics of the disk of a process.
    #[derive(Debug)]
    pub(super) struct DiskMetrics() {
        pub(super) waits: [Histogram in BUCKETS; result: LookupOutcome::name] =
            "edgeway_cache_disk_lookup_duration_seconds",
            "Time that requests waited for cache entries on disk, by outcome: `hit`, `miss` or \
             `error`.";
        pub(super) writes: [IntCounter; outcome: WriteOutcome::name] = "edgeway_cache_disk_writes_total",
            "Entries to be written to disk: `stored`; `purged` meanwhile; requested before the \
             folder was opened (`early`); not written because the queue was full (`queue_full`) \
             or the disk failed (`error`).";
        dropped: [IntCounter; why: RemovalReason::name] = "edgeway_cache_disk_dropped_total",
            "Entries removed from disk: `evicted` to make room, `purged`, `expired`, or \
             `damaged`: truncated, changed, of another version or of another key.";
        pub(super) errors: [IntCounter; kind: FolderFault::name] = "edgeway_cache_disk_errors_total",
            "Disk faults: it is `full` or `read_only`, something in the folder is `missing`, \
             access is denied (`permission`), it was too `slow`, or anything else (`io`).";
        pub(super) bytes_read { direction: "read" },
        pub(super) bytes_written { direction: "written" }:
            IntCounter = "edgeway_cache_disk_bytes_total",
            "Bytes of entries that were `read` from disk and `written` to it.";
        pub(super) up: IntGauge = "edgeway_cache_disk_up",
            "1 while entries are read from disk and written to it; 0 while another process uses \
             it, it waits for purges, or it fails.";
        pub(super) bytes: IntGauge = "edgeway_cache_disk_bytes",
            "Bytes of the entry files, each rounded up to 4 KiB.";
        pub(super) budget: IntGauge = "edgeway_cache_disk_budget_bytes",
            "Maximum size of the entry files: `cache.disk.size`, or less where the file system \
             would have no room for others.";
        pub(super) objects: IntGauge = "edgeway_cache_disk_objects", "Entries on disk.";
    }
}

impl DiskMetrics {
    pub(super) fn dropped_all(&self, all: &[RemovalReason]) {
        for why in all {
            self.dropped[*why].inc();
        }
    }
}
