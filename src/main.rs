//! The binary: the command line, which runs everything else.

use std::process::ExitCode;

/// Many small allocations of many threads are what a gate does all day.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main(std::env::args_os())
}
