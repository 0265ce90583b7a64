//! The binary: parse, run, exit. Everything else is in the library.

use std::process::ExitCode;

/// A request's small allocations are made on one thread and freed on another, which the system's allocator answers with
/// locks and, at 64 readers, with a tenth of the server's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The allocator asks for pages of 2 MiB. sled writes through buffers of 8 MiB that it takes anew for each segment, and messages
/// come and go: most of what such a page brings in goes back unused, after all of it was cleared. So none are given.
fn take_small_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn main() -> ExitCode {
    take_small_pages();
    quorate::cli::run(std::env::args_os())
}
