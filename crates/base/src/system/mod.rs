//! System calls that Linux has and other systems lack, or have in another form. `linux` and
//! `portable` have the same items; the second is for macOS, and is built and tested on Linux with
//! `--cfg edgeway_portable`.

use std::borrow::Cow;

#[cfg(all(target_os = "linux", not(edgeway_portable)))]
mod linux;
#[cfg(not(all(target_os = "linux", not(edgeway_portable))))]
mod portable;

#[cfg(all(target_os = "linux", not(edgeway_portable)))]
pub use linux::*;
#[cfg(not(all(target_os = "linux", not(edgeway_portable))))]
pub use portable::*;

/// Counts of this process; those that the system does not tell are `None`.
#[derive(Debug, Default)]
pub(crate) struct ProcessCounts {
    pub(crate) open_files: Option<u64>,
    pub(crate) max_files: Option<u64>,
    pub(crate) resident: Option<u64>,
    pub(crate) virtual_memory: Option<u64>,
    pub(crate) threads: Option<u64>,
    /// Start in seconds since 1970.
    pub(crate) started: Option<u64>,
    pub(crate) cpu_seconds: Option<f64>,
}

/// Says that a command or a setting does not work in this build.
#[derive(Debug, thiserror::Error)]
#[error("{0} needs Linux")]
pub struct NeedsLinux(pub Cow<'static, str>);
