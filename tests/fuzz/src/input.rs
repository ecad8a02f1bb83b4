//! An input as decisions and pieces. What is not there any more is zero, or empty: every input means something.

/// Bytes that are taken from the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// A number of so many bytes, eight at most.
    pub(crate) fn number(&mut self, bytes: usize) -> u64 {
        self.take(bytes).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// At most so many bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// A piece of a length that the input says, 64 KiB at most.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = self.number(2);
        self.take(usize::try_from(length).unwrap_or_default())
    }

    /// What stands before the next NUL; the rest where there is none.
    pub(crate) fn until_nul(&mut self) -> &'a [u8] {
        let at = self.0.iter().position(|byte| *byte == 0);
        let piece = self.take(at.unwrap_or(self.0.len()));
        self.take(1);
        piece
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A piece as [`Input::piece`] takes it.
pub(crate) fn piece(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_le_bytes()[..], bytes].concat()
}
