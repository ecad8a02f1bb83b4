//! From messages to blocks: where blocks end, what the position is, when a partition is finished. No I/O.
//!
//! Promises:
//! - Position and digest count what was handed out, and nothing that is only held (INV-5).
//! - The digest is chained message by message, so it does not depend on where blocks were cut.
//! - A bounded partition's blocks are a function of content, offset and limits: what is there is kept until the block is
//!   full or its end is known (INV-2).
//!
//! Offsets may have gaps, so an end is known to be reached only when a message at or behind it was seen, or when the
//! broker said that there is none.

use tidemill_dataflow::source::{Block, PartitionBinding, Position, SourceError};

use super::framing::{Frame, Message, open};
use super::schemas::Reading;

/// What a look into the queue gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// A message, which was passed on.
    Message,
    /// The broker said that nothing committed stands behind what was fetched.
    End,
    /// Nothing now.
    Nothing,
}

/// Where messages come from; never waits.
pub trait Feed {
    /// Looks for the next message and passes offset and payload on.
    ///
    /// # Errors
    /// If the partition cannot be read.
    fn poll(&mut self, take: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<Polled, SourceError>;

    /// What is done with an Avro message, whose turn it is. Asked again for one that is waited with.
    fn reading(&mut self, offset: u64, framed: &[u8]) -> Reading {
        let _ = (offset, framed);
        Reading::Read
    }
}

/// How blocks are cut from what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cutting {
    /// What is there is handed out.
    AsItComes,
    /// Up to this end; only full blocks, and the last one.
    Until(u64),
}

/// Whether the partitions of a source end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// They do, where they ended when they were opened.
    UntilEnd,
    /// They stop where they were told to, and go on in a later run.
    UntilOffsets,
    /// They go on.
    Live,
}

impl Extent {
    /// How blocks of a partition are cut whose end, if it has one, is `end`.
    #[must_use]
    pub fn cutting(self, end: u64) -> Cutting {
        match self {
            Extent::UntilEnd | Extent::UntilOffsets => Cutting::Until(end),
            Extent::Live => Cutting::AsItComes,
        }
    }

    /// Whether partitions end in this run: `BlockReader::bounded`.
    #[must_use]
    pub fn bounded(self) -> bool {
        self != Extent::Live
    }

    /// Whether a partition that has ended is over: `BlockReader::over_when_finished`.
    #[must_use]
    pub fn over_when_finished(self) -> bool {
        self != Extent::UntilOffsets
    }
}

/// How far something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The next offset.
    pub offset: u64,
    /// Messages before it.
    pub lines: u64,
    /// The digest chained over them.
    pub digest: u64,
}

impl Progress {
    /// At an offset before which nothing was read.
    #[must_use]
    pub fn beginning(offset: u64) -> Progress {
        Progress { offset, lines: 0, digest: 0 }
    }

    /// Where a partition stands that was bound; one that was bound only after the checkpoint is read again from where it
    /// began. Gives that beginning too.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if another source bound it.
    pub fn recorded(binding: &PartitionBinding) -> Result<(u64, Progress), SourceError> {
        let start = binding.detail.get("start").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if binding.digest.is_empty() {
            return Ok((start, Progress::beginning(start)));
        }
        let Ok(digest) = u64::from_str_radix(&binding.digest, 16) else {
            let problem = "its recorded digest is not one of this source; use the same --from as before";
            return Err(SourceError::Changed { partition: binding.name.clone(), problem: problem.to_owned() });
        };
        Ok((start, Progress { offset: binding.end, lines: binding.lines, digest }))
    }
}

/// Why no more messages go into a block now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Halt {
    /// The next one does not fit.
    Full,
    /// The next one stands at or behind the end that was asked for.
    Reached,
    /// There is no next one, says the broker.
    End,
    /// There is none now.
    Waiting,
}

/// A message that was fetched and did not go into the block.
#[derive(Debug)]
struct Held {
    offset: u64,
    payload: Option<Vec<u8>>,
}

/// One partition's position, and the messages on their way into its next block.
#[derive(Debug)]
pub struct Cutter {
    number: u32,
    cutting: Cutting,
    /// The partition is known to have been at least this long.
    known_end: u64,
    /// What was handed out.
    done: Progress,
    /// What was handed out, and what `frame` holds.
    ahead: Progress,
    frame: Frame,
    held: Option<Held>,
    /// Why nothing follows what was gathered; said once that is handed out.
    broken: Option<SourceError>,
    /// The broker said that nothing follows, and nothing came since.
    at_end: bool,
    usual: usize,
}

impl Cutter {
    /// A partition at `start`, known to have been at least as long as `known_end`.
    #[must_use]
    pub fn new(number: u32, cutting: Cutting, start: Progress, known_end: u64) -> Cutter {
        let frame = Frame::default();
        let (held, broken) = (None, None);
        Cutter { number, cutting, known_end, done: start, ahead: start, frame, held, broken, at_end: false, usual: 0 }
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            offset: self.done.offset,
            lines: self.done.lines,
            digest: format!("{:016x}", self.done.digest),
            finished: self.finished(),
            caught_up: self.caught_up(),
        }
    }

    /// Whether the broker said that nothing follows, nothing came since, and all of it was handed out.
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.at_end && self.held.is_none() && self.frame.is_empty()
    }

    /// How many messages wait beyond the position: up to the end of the run, or where there is none, up to `end`, behind the
    /// last message that is known to be there. What stands in gaps between offsets counts as messages.
    #[must_use]
    pub fn lag(&self, end: Option<u64>) -> Option<u64> {
        let end = match self.cutting {
            Cutting::Until(stop) => Some(stop),
            Cutting::AsItComes => end,
        };
        end.map(|end| end.saturating_sub(self.done.offset))
    }

    fn finished(&self) -> bool {
        matches!(self.cutting, Cutting::Until(end) if self.done.offset >= end)
    }

    /// The next block, as [`BlockReader::read`](tidemill_dataflow::source::BlockReader::read) describes it.
    ///
    /// # Errors
    /// If the partition ends before `until`, or cannot be read.
    pub fn read(&mut self, feed: &mut impl Feed, limit: usize, until: Option<u64>) -> Result<Option<Block>, Shorter> {
        let stop = match (until, self.cutting) {
            (Some(until), _) => until,
            (None, Cutting::Until(end)) => end,
            (None, Cutting::AsItComes) => u64::MAX,
        };
        if self.done.offset >= stop {
            return Ok(None);
        }
        if !self.frame.is_empty() && (self.frame.cost() > limit || self.ahead.offset > stop) {
            return Ok(self.front(limit, stop));
        }
        let halt = self.fill(feed, limit, stop)?;
        let whole = halt != Halt::Waiting || (self.cutting == Cutting::AsItComes && until.is_none());
        let block = if self.frame.is_empty() || !whole { None } else { Some(self.hand_out()) };
        let to_the_end = halt == Halt::End && stop != u64::MAX;
        if self.frame.is_empty() && (halt == Halt::Reached || to_the_end && stop <= self.known_end) {
            // Only markers and messages that nobody may read stand before the end.
            self.done.offset = stop;
            self.ahead.offset = stop;
        } else if to_the_end && block.is_none() {
            return Err(Shorter::At(self.done.offset));
        }
        Ok(block)
    }

    /// Takes messages until something stops it.
    fn fill(&mut self, feed: &mut impl Feed, limit: usize, stop: u64) -> Result<Halt, SourceError> {
        loop {
            if self.ahead.offset >= stop {
                return Ok(Halt::Reached);
            }
            if let Some(Held { offset, payload }) = self.held.take() {
                let mut message = Message::of(payload.as_deref());
                // Not before its turn: what was recorded of an epoch is told before the epoch is read again.
                if let Message::Avro(framed) = message
                    && offset < stop
                {
                    match feed.reading(offset, framed) {
                        Reading::Read => {}
                        Reading::Unread => message = Message::Unread(framed),
                        Reading::Wait => {
                            self.held = Some(Held { offset, payload });
                            return Ok(Halt::Waiting);
                        }
                    }
                }
                if let Some(halt) = self.offer(offset, message, limit, stop) {
                    self.held = Some(Held { offset, payload });
                    return Ok(halt);
                }
                continue;
            }
            if let Some(error) = self.broken.take_if(|_| self.frame.is_empty()) {
                return Err(error);
            }
            let (mut halt, mut held) = (None, None);
            let polled = feed.poll(&mut |offset, payload| {
                let message = Message::of(payload);
                let later = matches!(message, Message::Avro(_));
                if !later {
                    halt = self.offer(offset, message, limit, stop);
                }
                if later || halt.is_some() {
                    held = Some(Held { offset, payload: payload.map(<[u8]>::to_vec) });
                }
            });
            let polled = match polled {
                // Only what is handed out as it comes: a block that has to be full never is.
                Err(error) if !self.frame.is_empty() && stop == u64::MAX => {
                    self.broken = Some(error);
                    return Ok(Halt::Waiting);
                }
                polled => polled?,
            };
            self.held = held;
            match polled {
                Polled::Message => self.at_end = false,
                Polled::End => self.at_end = true,
                Polled::Nothing => {}
            }
            match (halt, polled) {
                (Some(halt), _) => return Ok(halt),
                (None, Polled::Message) => {}
                (None, _) => return Ok(if self.at_end { Halt::End } else { Halt::Waiting }),
            }
        }
    }

    /// Takes a message into the block, or says why not.
    fn offer(&mut self, offset: u64, message: Message<'_>, limit: usize, stop: u64) -> Option<Halt> {
        if offset >= stop {
            return Some(Halt::Reached);
        }
        if !self.frame.is_empty() && self.frame.cost() + message.cost() > limit {
            return Some(Halt::Full);
        }
        if self.frame.is_empty() {
            self.frame = Frame::with_capacity(self.usual.min(limit));
        }
        self.ahead = passed(self.ahead, offset, self.frame.push(offset, message, self.ahead.digest));
        None
    }

    fn hand_out(&mut self) -> Block {
        let frame = std::mem::take(&mut self.frame);
        let (offset, first_line) = (frame.first(), self.done.lines + 1);
        let mut bytes = frame.close();
        // Events keep their block's memory for as long as they live.
        if bytes.capacity() > 2 * bytes.len() {
            bytes.shrink_to_fit();
        }
        self.usual = bytes.len();
        self.done = self.ahead;
        Block { partition: self.number, offset, first_line, bytes, skipped: 0 }
    }

    /// Hands out only the front of what was gathered, for a limit or an end that is smaller than it was.
    #[cold]
    fn front(&mut self, limit: usize, stop: u64) -> Option<Block> {
        let gathered = std::mem::take(&mut self.frame);
        let first = gathered.first();
        let (mut front, mut rest) = (Frame::default(), Frame::default());
        let (mut at_front, mut at_rest) = (self.done, self.done);
        open(gathered.close(), first).for_each(|offset, message| {
            let fits = front.is_empty() || front.cost() + message.cost() <= limit;
            if rest.is_empty() && fits && offset < stop {
                at_front = passed(at_front, offset, front.push(offset, message, at_front.digest));
                at_rest = at_front;
            } else {
                at_rest = passed(at_rest, offset, rest.push(offset, message, at_rest.digest));
            }
        });
        if front.is_empty() {
            // The gathered messages all stand behind the end that is asked for now.
            self.done.offset = stop;
            self.frame = rest;
            return None;
        }
        self.frame = front;
        self.ahead = at_front;
        let block = self.hand_out();
        self.frame = rest;
        self.ahead = at_rest;
        Some(block)
    }
}

fn passed(before: Progress, offset: u64, digest: u64) -> Progress {
    Progress { offset: offset + 1, lines: before.lines + 1, digest }
}

/// Why no block could be read.
#[derive(Debug)]
pub enum Shorter {
    /// The partition ends at this offset, before the end that was asked for.
    At(u64),
    /// Anything else.
    Failed(SourceError),
}

impl From<SourceError> for Shorter {
    fn from(error: SourceError) -> Self {
        Shorter::Failed(error)
    }
}

#[cfg(test)]
mod tests;
