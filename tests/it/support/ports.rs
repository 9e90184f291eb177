//! Ports for processes that must be told theirs.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

// Below the range from which the kernel takes ports for outgoing connections: a port that is
// free now is not taken by a client before its process has bound it.
const FIRST: u16 = 18_000;
const COUNT: u16 = 12_000;

/// A port that nobody listens on, and that no other test of this process was given.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test runs beside one another begin at different places.
    let start = (std::process::id().wrapping_mul(131) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start + step % COUNT) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
