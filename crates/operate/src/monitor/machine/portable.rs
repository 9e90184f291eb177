//! Systems without `/proc`.

use std::{io, time::Instant};

use edgeway_base::system::NeedsLinux;

use super::Sample;

impl Sample {
    pub(in super::super) fn take(_at: Instant) -> io::Result<Self> {
        Err(io::Error::other(NeedsLinux("`edgeway monitor`".into())))
    }
}
