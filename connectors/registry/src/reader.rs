//! Reads Avro's primitive types from a message, and says what is wrong with one that is cut short.

use std::borrow::Cow;

/// What is wrong with a message, and where. It quotes nothing of the message: reasons are shown in clear.
#[derive(Debug)]
pub(crate) struct Fault<'s> {
    /// The members that lead to the place, the innermost first.
    path: Vec<&'s str>,
    reason: Cow<'static, str>,
}

impl<'s> Fault<'s> {
    pub(crate) fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { path: Vec::new(), reason: reason.into() }
    }

    /// The same, inside a member.
    pub(crate) fn inside(mut self, member: &'s str) -> Self {
        self.path.push(member);
        self
    }

    pub(crate) fn into_reason(mut self) -> String {
        if self.path.is_empty() {
            return self.reason.into_owned();
        }
        self.path.reverse();
        format!("{}: {}", self.path.join("."), self.reason)
    }
}

/// What is left of a message.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take<'s>(&mut self, count: usize) -> Result<&'a [u8], Fault<'s>> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| Fault::new("the message ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<'s, const N: usize>(&mut self) -> Result<[u8; N], Fault<'s>> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(|| Fault::new("the message ends early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A zigzag integer of variable length.
    pub(crate) fn long<'s>(&mut self) -> Result<i64, Fault<'s>> {
        let mut raw = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            raw |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
            }
        }
        Err(Fault::new("an integer has more than 64 bits"))
    }

    pub(crate) fn int<'s>(&mut self) -> Result<i32, Fault<'s>> {
        i32::try_from(self.long()?).map_err(|_| Fault::new("an integer has more than 32 bits"))
    }

    /// An index into `choices`.
    pub(crate) fn choice<'s, T>(&mut self, choices: &'s [T]) -> Result<&'s T, Fault<'s>> {
        let index = self.long()?;
        let found = usize::try_from(index).ok().and_then(|index| choices.get(index));
        found.ok_or_else(|| Fault::new(format!("there is no choice {index}, only {}", choices.len())))
    }

    /// Bytes that stand after their count.
    pub(crate) fn counted<'s>(&mut self) -> Result<&'a [u8], Fault<'s>> {
        let count = self.long()?;
        self.take(usize::try_from(count).map_err(|_| Fault::new("a length is negative"))?)
    }

    pub(crate) fn text<'s>(&mut self) -> Result<&'a str, Fault<'s>> {
        str::from_utf8(self.counted()?).map_err(|_| Fault::new("a text is not UTF-8"))
    }

    /// The number of items in the next block of an array or a map; 0 ends it.
    pub(crate) fn block<'s>(&mut self) -> Result<u64, Fault<'s>> {
        let count = self.long()?;
        if count < 0 {
            // A negative count is followed by the block's length in bytes, for readers that skip it.
            self.long()?;
        }
        Ok(count.unsigned_abs())
    }
}
