//! The `edgeway` program: arguments in, exit status out.

use std::process::ExitCode;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: edgeway::base::alloc::Allocator = edgeway::base::alloc::Allocator;

fn main() -> ExitCode {
    edgeway::cli::main()
}
