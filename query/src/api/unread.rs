//! The memory that answers take until whoever asked has read them.

use std::sync::Arc;

use tidemill_http::{Share, Shares};

use super::refusal::Refusal;

/// Bytes of answers that may wait to be read, all together.
const MOST: usize = 256 << 20;
/// An answer is counted in pieces of so many bytes.
const PIECE: usize = 1 << 10;

/// Answers that are not sent yet.
#[derive(Debug)]
pub(crate) struct Unread(Arc<Shares>);

impl Unread {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Shares::new(MOST / PIECE))
    }

    /// Room for an answer of so many bytes to a client, until what this gives is dropped.
    ///
    /// # Errors
    /// [`Refusal::Unread`] where there is none.
    pub(crate) fn hold(&self, bytes: usize, whose: u128) -> Result<Share, Refusal> {
        self.0.take_several(whose, bytes / PIECE + 1).ok_or(Refusal::Unread(MOST >> 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_no_answers_leaves_room_for_those_of_others() {
        let unread = Unread::new();
        let held: Vec<_> = std::iter::from_fn(|| unread.hold(64 << 20, 1).ok()).collect();
        assert_eq!(held.len(), 1, "two would be more than half");
        assert!(unread.hold(60 << 20, 1).is_ok() && unread.hold(64 << 20, 2).is_ok());
    }
}
