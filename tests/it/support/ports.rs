//! Ports for processes that need a fixed one.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

// Below the range from which the kernel takes ports for outgoing connections: no client takes a
// port that is free now before its process has bound it.
const FIRST: u16 = 18_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Returns the first of `count` consecutive free ports that no other test of this process was
/// given.
pub(crate) fn free_ports(count: u16) -> u16 {
    let start = (std::process::id().wrapping_mul(131) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT / count {
        let step = NEXT.fetch_add(count, Ordering::Relaxed);
        let first = (start + step % COUNT) % COUNT;
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if first + count < COUNT && (0..count).all(|more| is_free(FIRST + first + more)) {
            return FIRST + first;
        }
    }
    panic!(
        "no {count} free ports between {FIRST} and {}",
        FIRST + COUNT
    );
}

/// Returns a free port that no other test of this process was given.
pub(crate) fn free_port() -> u16 {
    // Concurrent test runs begin at different places.
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
