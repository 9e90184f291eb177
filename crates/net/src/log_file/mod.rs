//! Log files that never block the caller: lines go to memory, and a thread writes them to stdout or
//! to a file that may rotate, be moved, or be full for a while.

mod archives;
mod journald;
mod output;
mod rotation;
mod stamp;
mod syslog;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{
    output::Target,
    rotation::RotationPolicy,
    stamp::{TimestampCache, put_thousandths},
    syslog::SyslogAddress,
    writer::{LogFailure, LogKind, LogMetrics, WriterHandle, failing, flush, reopen},
};
