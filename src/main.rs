//! The `edgeway` program: arguments in, exit status out.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: edgeway::base::alloc::Allocator = edgeway::base::alloc::Allocator;

/// jemalloc's settings, read before `main`.
///
/// Pingora reads each answer into 64 KiB that come and go with the request: they stay in the
/// thread's own cache (`tcache_max`, 32 KiB by default), and that cache is not gone through
/// for what nobody used with every single one of them (`tcache_gc_incr_bytes`, 64 KiB by
/// default). Together 3 % of a request's instructions. What a burst of clients took goes back
/// to the system within seconds, by a thread of jemalloc's own (`background_thread`, and
/// `dirty_decay_ms`, 10 s by default and only when somebody asks for memory).
#[cfg(feature = "jemalloc")]
#[allow(unsafe_code, reason = "the name is where jemalloc looks")]
// SAFETY: nothing else has this name, and it is the pointer to a C string that jemalloc wants.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &std::ffi::c_char = {
    const TEXT: &std::ffi::CStr = c"tcache_max:131072,tcache_gc_incr_bytes:4194304,\
        background_thread:true,dirty_decay_ms:5000,muzzy_decay_ms:0";
    // SAFETY: a C string is never empty: its NUL is there at least.
    unsafe { &*TEXT.as_ptr() }
};

fn main() -> ExitCode {
    edgeway::cli::main()
}
