//! The `tidemill` command as the tests run it: nothing but a call into the library, with the command's allocator.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidemill::main(tidemill::built_in())
}
