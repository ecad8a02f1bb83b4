//! What a process has used, by the kernel's own books, and the one clock of the benchmarks.

use std::fs;
use std::time::Instant;

/// Starts measuring elapsed time.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures the wall clock")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Seconds of processor time of this process so far, all threads, user and system.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name may hold spaces; behind its closing parenthesis fields are counted from the third.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // A tick is a hundredth of a second on every Linux that this runs on.
    (ticks(14) + ticks(15)) / 100.0
}

/// The largest resident memory of this process so far, in bytes.
#[must_use]
pub fn peak_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1_024
}
