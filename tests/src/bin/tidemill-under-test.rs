//! The `tidemill` command as the tests run it: nothing but a call into the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidemill::main()
}
