//! Which panics count.

use std::panic::PanicHookInfo;

/// Whether a panic breaks a promise: all do, also those that are caught on their way, but those of the decoder of Parquet
/// and of the Arrow schema in its files, which damage can cause. Who reads Parquet here makes errors of them; one that does not
/// ends the target, and that counts.
#[must_use]
pub fn counts(panic: &PanicHookInfo<'_>) -> bool {
    let of_decoder = |file: &str| ["/parquet-", "/arrow-"].iter().any(|name| file.contains(name));
    !panic.location().is_some_and(|location| of_decoder(location.file()))
}
