//! Panics that do not end a process: those of other people's decoders, which damage can cause, and of whoever is waited for.
//!
//! A panic hook that ends the process asks [`is_contained`] first.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is heard of by who waits for its work: then a panic hook need not end the process.
#[must_use]
pub fn is_contained() -> bool {
    CONTAINED.get()
}

/// From here on somebody hears of this thread's panics.
pub fn contain_thread() {
    CONTAINED.set(true);
}

/// Does `work`, which may leave nothing half done that is used later.
///
/// # Errors
/// What a panic said.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = CONTAINED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(before);
    done.map_err(|panic| message(&*panic))
}

/// What a panic said, on one line.
#[must_use]
pub fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it did not say why").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_that_is_contained_is_what_it_said() {
        assert_eq!(contained(|| (7, is_contained())), Ok((7, true)));
        assert_eq!(contained(|| panic!("a\n  {}", "b")), Err::<(), _>("a b".to_owned()));
        assert!(!is_contained());
    }
}
