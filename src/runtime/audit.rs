//! The record of what operators did: who asked for what, and what came of it.

use std::{fmt, net::SocketAddr};

/// Who asked for an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever may send signals to the process.
    Signal,
    /// The configuration's files changed.
    Watch,
    /// A client of the admin listener's TCP address.
    Peer(SocketAddr),
    /// A client of the admin socket, as the kernel knows it.
    Unix { uid: Option<u32>, pid: Option<i32> },
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal => f.write_str("signal"),
            Self::Watch => f.write_str("watch"),
            Self::Peer(address) => write!(f, "{address}"),
            Self::Unix { .. } => f.write_str("unix"),
        }
    }
}
