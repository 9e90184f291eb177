//! Limit of open files.

use log::{info, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Value for no limit: more files than any machine opens.
const ENDLESS: u64 = 1 << 30;

/// Raises the soft limit to the hard limit, and returns the result. Each client costs a file, and
/// another one for its backend connection.
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
            info!(before = soft, files = hard; "open files limit raised");
            hard
        }
        Err(error) => {
            warn!(files = soft, error:%; "open files limit not raised");
            soft
        }
    }
}
