//! How many files the process may open.

use log::{info, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What stands for no limit at all: more than any machine opens.
const ENDLESS: u64 = 1 << 30;

/// Raises the limit to what the process may give itself, and says what it is then. Each
/// client costs a file, and another one for the way to its backend.
pub(super) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let soft = current.unwrap_or(ENDLESS);
    let hard = maximum.unwrap_or(ENDLESS);
    if soft >= hard {
        return soft;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => {
            info!(before = soft, files = hard; "the process may open more files now");
            hard
        }
        Err(error) => {
            warn!(files = soft, error:%; "the limit of open files could not be raised");
            soft
        }
    }
}
