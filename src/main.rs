//! The `edgeway` program: arguments in, exit status out.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings, read before `main`.
///
/// The buffers of each request should not trigger a collection of unused entries in the thread's own
/// cache each time (`tcache_gc_incr_bytes`, 64 KiB by default). Memory of a burst of clients returns
/// to the system within seconds, by jemalloc's background thread (`background_thread`, and
/// `dirty_decay_ms`, by default 10 s and only when memory is allocated).
#[cfg(feature = "jemalloc")]
#[allow(unsafe_code, reason = "the name is where jemalloc looks")]
// SAFETY: no other symbol has this name, and it is the pointer to a C string that jemalloc expects.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &std::ffi::c_char = {
    const TEXT: &std::ffi::CStr = c"tcache_gc_incr_bytes:4194304,background_thread:true,\
        dirty_decay_ms:5000,muzzy_decay_ms:0";
    // SAFETY: a C string is never empty: it has at least its NUL.
    unsafe { &*TEXT.as_ptr() }
};

fn main() -> ExitCode {
    edgeway::main()
}
