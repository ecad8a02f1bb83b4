//! Every target on its corpus, and then on whatever comes of it, for a short time: `FUZZ_SECONDS` each.

use std::process::Command;

#[test]
fn whatever_strangers_send_breaks_no_promise() {
    let seconds = std::env::var("FUZZ_SECONDS").unwrap_or_else(|_| "2".to_owned());
    let mut fuzz = Command::new(env!("CARGO_BIN_EXE_fuzz"));
    fuzz.args(["all", "--seconds", &seconds, "--found", concat!(env!("CARGO_TARGET_TMPDIR"), "/fuzz")]);
    assert!(fuzz.status().unwrap().success(), "what is printed above says how to see it again");
}
