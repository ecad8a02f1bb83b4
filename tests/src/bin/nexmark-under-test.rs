//! The Nexmark queries behind the command line of a binary of one's own, and a generator beside it.
//!
//! `nexmark-under-test generate NUMBER SEED` writes happenings to stdout; everything else is as in `tidemill`.

use std::io::Write;
use std::process::ExitCode;

use tidemill_tests::nexmark::{IN_TIME, generate, pipelines};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, command, number, seed] = &*arguments else { return tidemill::main(pipelines()) };
    if command != "generate" {
        return tidemill::main(pipelines());
    }
    let (Ok(number), Ok(seed)) = (number.parse(), seed.parse()) else {
        eprintln!("give a number of happenings and a seed");
        return ExitCode::from(2);
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for happening in generate(number, seed, IN_TIME) {
        let written = serde_json::to_writer(&mut out, &happening).map_err(std::io::Error::from);
        if written.and_then(|()| out.write_all(b"\n")).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
