//! Which program this is: another build may do otherwise with the same epochs, so a seal says which one began the run.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::OnceLock;

use xxhash_rust::xxh3::Xxh3Default;

/// Bytes of the program that are read at once.
const CHUNK: usize = 1 << 20;

/// The version and a digest of the program that is running; the version alone where the program cannot be read.
pub(super) fn fingerprint() -> &'static str {
    static FINGERPRINT: OnceLock<String> = OnceLock::new();
    FINGERPRINT.get_or_init(|| {
        let version = env!("CARGO_PKG_VERSION");
        match digest() {
            Ok(digest) => format!("{version}+{digest:016x}"),
            Err(_) => version.to_owned(),
        }
    })
}

fn digest() -> io::Result<u64> {
    // The file that runs, where the system says so: its path may lead to another one by now.
    let running = PathBuf::from("/proc/self/exe");
    let mut program = File::open(if running.exists() { running } else { std::env::current_exe()? })?;
    let (mut hash, mut chunk) = (Xxh3Default::new(), vec![0; CHUNK]);
    loop {
        match program.read(&mut chunk)? {
            0 => return Ok(hash.digest()),
            read => hash.update(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_by_its_version_and_its_bytes() {
        let program = fingerprint();
        let (version, digest) = program.split_once('+').expect("a test can read the program that it is");
        assert_eq!((version, digest.len()), (env!("CARGO_PKG_VERSION"), 16));
        assert_eq!(super::digest().ok(), u64::from_str_radix(digest, 16).ok());
    }
}
