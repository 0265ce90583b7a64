//! The binary: parse, run, exit. Everything else is in the library.

use std::process::ExitCode;

/// A request's small allocations are made on one thread and freed on another, which the system's allocator answers with
/// locks and, at 64 readers, with a tenth of the server's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    quorate::cli::run(std::env::args_os())
}
