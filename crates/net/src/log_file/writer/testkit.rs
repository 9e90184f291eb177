//! Functions of a log's writer that only tests call.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use edgeway_base::clock::Clock;

use super::{WRITERS, WriterHandle};
use crate::log_file::output::Target;

impl WriterHandle {
    pub fn is_asleep(&self) -> bool {
        self.shared.is_asleep.load(Ordering::Relaxed)
    }

    pub fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub fn flush(&self, deadline: Duration) -> bool {
        let end = Clock::machine().now() + deadline;
        let wanted = self.shared.ask_flush();
        self.shared.wait_flushed(wanted, end)
    }
}

pub(in crate::log_file) fn is_open(path: &Path) -> bool {
    WRITERS
        .lock()
        .keys()
        .any(|(_, target)| *target == Target::File(path.to_owned()))
}
