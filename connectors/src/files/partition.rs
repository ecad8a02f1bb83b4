//! One file while it is read: where it stands, and the next block.

use std::path::Path;
use std::sync::Arc;

use memchr::{memchr, memchr_iter, memrchr};
use serde::de::IgnoredAny;
use tidemill_dataflow::source::{Block, Decode, Decoded, PartitionBinding, PartitionInfo, Position, SourceError};
use tidemill_dataflow::time::EventTime;

use crate::events::{Format, HashKey, Head, LogDecoder, LogReader, MAX_LINE_BYTES, NdjsonDecoder, UserKey};

use super::content::{Form, Stat, Stream};
use super::digest::{ContentDigest, LastLine, RecordedDigest, last_piece};
use super::identity::{Detail, Mark, before_rotation, rotated};
use super::matching::Held;
use super::packing::unreadable;
use super::{FileFacts, FilesConfig};

/// The longest line that is handed out whole, terminator included: a longer one is over-long with any terminator.
const WHOLE_LINE: usize = MAX_LINE_BYTES + 2;
/// Bytes read at once where no block's size says how many.
const STEP: usize = 256 << 10;
/// The largest block, whatever is asked for: spans into it have 32 bits.
const MAX_BLOCK: usize = 256 << 20;
/// How many events the head is taken from, more than a burst of wrong clocks has, and within how many bytes they are looked for.
const HEAD_EVENTS: usize = 256;
const HEAD_BYTES: usize = 1 << 20;

/// Where a recorded file goes on.
pub(super) struct Resume {
    pub(super) offset: u64,
    pub(super) lines: u64,
    pub(super) digest: RecordedDigest,
    /// Known to be at its end.
    pub(super) finished: bool,
}

/// Where a file lies, and what it is known by.
pub(super) struct Place {
    pub(super) path: String,
    pub(super) form: Form,
    pub(super) stat: Stat,
    pub(super) head: Option<Mark>,
}

/// One file.
pub(super) struct Partition {
    number: u32,
    facts: Arc<FileFacts>,
    place: Place,
    key: UserKey,
    /// The format that it is to be read as, or was tried as.
    wanted: String,
    /// A line of it was a record, which binds its format.
    bound: bool,
    given_up: bool,
    /// A last line without newline is read, since nothing follows.
    drain: bool,
    /// Content before this was handed out (or skipped, of over-long lines), and is what `digest` holds.
    offset: u64,
    lines: u64,
    digest: ContentDigest,
    last_line: LastLine,
    /// What the content before `offset` must give, until it was checked; `digest` is not filled before.
    unchecked: Option<RecordedDigest>,
    /// The end of the content was met; what is written behind it later belongs to the next run.
    finished: bool,
    /// A last line without newline is left for the next run.
    torn: bool,
    /// All of it was read, and there is no file any more.
    gone: bool,
    stream: Option<Stream>,
    /// Content read ahead, from `offset` on.
    pending: Vec<u8>,
    /// The content ends behind `pending`.
    ended: bool,
    head: Option<Option<EventTime>>,
}

impl Partition {
    pub(super) fn new(number: u32, facts: Arc<FileFacts>, place: Place, config: &FilesConfig) -> Partition {
        Partition {
            number,
            facts,
            place,
            key: config.user_key.clone(),
            wanted: config.format.name().to_owned(),
            bound: config.format == Format::Records,
            given_up: false,
            drain: config.drain,
            offset: 0,
            lines: 0,
            digest: ContentDigest::default(),
            last_line: LastLine::Ended,
            unchecked: None,
            finished: false,
            torn: false,
            gone: false,
            stream: None,
            pending: Vec::new(),
            ended: false,
            head: None,
        }
    }

    pub(super) fn facts(&self) -> &Arc<FileFacts> {
        &self.facts
    }

    pub(super) fn info(&self) -> PartitionInfo {
        let format = self.facts.format().filter(|_| self.bound).map(|format| (self.facts.format_from(), format));
        let detail = Detail::of(&self.place, format, &self.key, self.gone);
        let detail = if self.bound || self.offset == 0 { detail } else { detail.tried(&self.wanted, self.given_up) };
        let detail = detail.behind(self.facts.directives_at(self.offset).as_deref());
        let detail = serde_json::to_value(detail).expect("texts and numbers can always be written as JSON");
        PartitionInfo { name: self.facts.name.clone(), size: self.place.stat.size, detail }
    }

    pub(super) fn position(&self) -> Position {
        let digest = self.unchecked.unwrap_or_else(|| self.digest.record(self.last_line));
        let (digest, finished) = (digest.text(), self.finished);
        Position { offset: self.offset, lines: self.lines, digest, finished, caught_up: finished }
    }

    /// Takes the place where an earlier run stood; what was read is checked before more is.
    pub(super) fn stand_at(&mut self, resume: &Resume) {
        self.offset = resume.offset;
        self.lines = resume.lines;
        self.last_line = resume.digest.last_line;
        self.unchecked = Some(resume.digest);
        let left = self.place.form.is_seekable() && self.place.stat.size > resume.offset;
        // The end of time being declared, a last line that was left is read.
        self.finished = resume.finished && !(self.drain && self.place.form.grows());
        self.torn = self.finished && left;
    }

    /// Takes over what was read to find the file, up to where the partition stands.
    pub(super) fn hold(&mut self, held: Held) {
        self.digest = held.digest;
        self.unchecked = None;
        self.stream = held.stream;
    }

    /// Is read as this, whatever else is wanted.
    pub(super) fn tries(&mut self, format: &Format) {
        format.name().clone_into(&mut self.wanted);
    }

    /// A line of it was a record before.
    pub(super) fn bind_format(&mut self) {
        self.bound = true;
    }

    /// Stays where no line of it was a record by the format that was tried.
    pub(super) fn is_given_up(&mut self, bound: &PartitionBinding, tried: Option<&str>) {
        self.is_gone(bound);
        (self.gone, self.given_up) = (false, true);
        self.wanted = tried.unwrap_or_default().to_owned();
    }

    /// Stays where it was when its file was there.
    pub(super) fn is_gone(&mut self, bound: &PartitionBinding) {
        self.offset = bound.end;
        self.lines = bound.lines;
        self.unchecked = RecordedDigest::parse(&bound.digest);
        self.finished = true;
        self.gone = true;
    }

    /// Whether it is at its end.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Its name, if a last line without newline was left.
    pub(super) fn left_torn(&self) -> Option<&str> {
        self.torn.then_some(self.facts.name.as_str())
    }

    /// Whether the file can be closed and opened again at little cost.
    pub(super) fn can_close(&self) -> bool {
        self.place.form.is_seekable() || self.offset == 0
    }

    /// Closes the file; it is opened again where it stood when it is next needed.
    pub(super) fn close(&mut self) {
        self.stream = None;
        self.pending = Vec::new();
        self.ended = false;
    }

    /// The smallest time of the first events that were not read yet.
    pub(super) fn head(&mut self) -> Result<Option<EventTime>, SourceError> {
        if self.finished {
            return Ok(None);
        }
        if let Some(head) = self.head {
            return Ok(head);
        }
        let mut window = 32 << 10;
        let head = loop {
            self.read_ahead(window)?;
            let shown = &self.pending[..window.min(self.pending.len())];
            let all = self.ended && shown.len() == self.pending.len();
            let whole = if all && !self.is_torn(shown) { shown.len() } else { after_last_newline(shown) };
            let times = self.times(&shown[..whole]);
            if times.len() == HEAD_EVENTS || all || window == HEAD_BYTES {
                break times.into_iter().min();
            }
            window = HEAD_BYTES.min(window * 4);
        };
        self.head = Some(head);
        Ok(head)
    }

    /// The times of the first events in some lines.
    fn times(&self, lines: &[u8]) -> Vec<EventTime> {
        let block =
            Block { partition: self.number, offset: self.offset, first_line: 1, bytes: lines.to_vec(), skipped: 0 };
        let mut decoded = Decoded::default();
        match self.facts.format_at(self.offset).cloned().or_else(|| self.told_by(lines)) {
            Some(Format::Log(reader)) => {
                let directives = self.facts.directives_at(self.offset);
                // Of users nothing is asked here.
                LogDecoder::new("", HashKey::default(), reader)
                    .within(self.facts.bounds)
                    .behind(directives)
                    .decode(block, &mut decoded);
            }
            _ => NdjsonDecoder::within(self.facts.bounds).decode(block, &mut decoded),
        }
        decoded.records.iter().take(HEAD_EVENTS).map(|event| event.timestamp()).collect()
    }

    /// The next block, as [`BlockReader::read`](tidemill_dataflow::source::BlockReader::read) describes it.
    pub(super) fn read(&mut self, limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        if until.is_some_and(|until| until <= self.offset) || until.is_none() && self.finished {
            return Ok(None);
        }
        self.head = None;
        self.skip_terminator()?;
        // Where the format was told in an earlier run, a block began: lines before it are read otherwise.
        let untold = self.facts.format_from().checked_sub(self.offset).filter(|left| *left > 0);
        let limit = limit.min(untold.map_or(MAX_BLOCK, narrow)).clamp(1, MAX_BLOCK);
        // One byte more tells whether the content ends here; nothing beyond a recorded end is asked for.
        let (window, wanted) = match until.map(|until| until - self.offset) {
            Some(0) => return Ok(None),
            Some(left) if left <= limit as u64 => (narrow(left), narrow(left)),
            _ => (limit, limit + 1),
        };
        self.read_ahead(wanted)?;
        if self.pending.is_empty() {
            return self.end(until);
        }
        let window = window.min(self.pending.len());
        let at_end = match until {
            Some(until) if until == self.offset + window as u64 => true,
            Some(_) => self.ended && window == self.pending.len(),
            None => self.ended && window == self.pending.len() && !self.is_torn(&self.pending),
        };
        let whole = if at_end { window } else { after_last_newline(&self.pending[..window]) };
        let block = match before_over_long(&self.pending[..whole]) {
            0 => self.one_line(until)?,
            length => Some(self.hand_out(length)?),
        };
        self.finished |= self.ended && self.pending.is_empty();
        if until.is_none() && self.ended && after_last_newline(&self.pending) == 0 && self.is_torn(&self.pending) {
            self.leave_torn();
        } else if self.finished {
            self.stream = None;
        }
        Ok(block)
    }

    /// Whether content that ends here ends with a line that is not whole: without newline, in a file that may grow, and no
    /// JSON object or array that is complete, to which nothing can be added.
    fn is_torn(&self, content: &[u8]) -> bool {
        let line = &content[after_last_newline(content)..];
        self.place.form.grows() && !self.drain && !line.is_empty() && !is_complete(line)
    }

    /// Leaves the last line, which has no newline yet, for the next run.
    fn leave_torn(&mut self) {
        self.torn = true;
        self.finished = true;
        self.stream = None;
        self.pending = Vec::new();
    }

    /// At the end of the content, which a recorded end must not be behind.
    fn end(&mut self, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        if let Some(until) = until {
            return Err(self.changed(&format!("{until} bytes of it were read and it ends at {} now", self.offset)));
        }
        self.finished = true;
        self.stream = None;
        Ok(None)
    }

    /// A newline right behind a last line without one is that line's.
    fn skip_terminator(&mut self) -> Result<(), SourceError> {
        if self.last_line == LastLine::Ended {
            return Ok(());
        }
        self.read_ahead(1)?;
        match self.pending.first() {
            Some(b'\n') => {
                self.digest.update(b"\n");
                self.pending.drain(..1);
                self.offset += 1;
                self.last_line = LastLine::Ended;
            }
            Some(_) => self.last_line = LastLine::Ended,
            None => {}
        }
        Ok(())
    }

    /// Hands out the first `length` bytes of what was read ahead: whole lines.
    fn hand_out(&mut self, length: usize) -> Result<Block, SourceError> {
        let bytes = if length < self.pending.len() / 2 {
            self.pending.drain(..length).collect()
        } else {
            let rest = self.pending[length..].to_vec();
            let mut bytes = std::mem::replace(&mut self.pending, rest);
            bytes.truncate(length);
            // What is in flight is counted by length, so a short block must not hold a long block's memory.
            if bytes.capacity() / 2 > length {
                bytes.shrink_to_fit();
            }
            bytes
        };
        let block =
            Block { partition: self.number, offset: self.offset, first_line: self.lines + 1, bytes, skipped: 0 };
        self.learn(&block.bytes)?;
        self.digest.update(&block.bytes);
        self.offset += block.bytes.len() as u64;
        self.last_line = if block.bytes.ends_with(b"\n") { LastLine::Ended } else { LastLine::Open };
        self.lines += memchr_iter(b'\n', &block.bytes).count() as u64 + u64::from(self.last_line == LastLine::Open);
        Ok(block)
    }

    /// Hands out one line that is longer than what was asked for, or over-long.
    fn one_line(&mut self, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        let start = self.offset;
        let mut searched = 0;
        loop {
            let left = until.map_or(usize::MAX, |until| narrow(until - start));
            let known = self.pending.len().min(left);
            let newline = memchr(b'\n', &self.pending[searched..known]).map(|found| searched + found + 1);
            let ends = newline.or((known == left || self.ended).then_some(known));
            match ends {
                Some(_) if newline.is_none() && until.is_none() && self.is_torn(&self.pending) => {
                    self.leave_torn();
                    return Ok(None);
                }
                Some(length) if length <= WHOLE_LINE => return Ok(Some(self.hand_out(length)?)),
                _ if known > WHOLE_LINE => return self.over_long(until),
                _ => {}
            }
            searched = known;
            self.read_ahead(left.min(self.pending.len() + STEP))?;
        }
    }

    /// Hands out the start of an over-long line and streams past the rest, up to its end; `None` if that is not there yet.
    fn over_long(&mut self, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        let kept = self.pending[..WHOLE_LINE].to_vec();
        let (offset, digest) = (self.offset, self.digest.clone());
        let mut last_byte = 0;
        self.last_line = LastLine::Open;
        while self.last_line == LastLine::Open && until.is_none_or(|until| self.offset < until) {
            let left = until.map_or(usize::MAX, |until| narrow(until - self.offset));
            self.read_ahead(left.min(STEP))?;
            let known = &self.pending[..self.pending.len().min(left)];
            if known.is_empty() {
                break;
            }
            let length = match memchr(b'\n', known) {
                Some(found) => {
                    self.last_line = LastLine::Ended;
                    found + 1
                }
                None => known.len(),
            };
            let content = &known[..length - usize::from(self.last_line == LastLine::Ended)];
            last_byte = content.last().copied().unwrap_or(last_byte);
            self.digest.update(&known[..length]);
            self.pending.drain(..length);
            self.offset += length as u64;
        }
        let ended = self.last_line == LastLine::Ended;
        // Of JSON that is too long for a line, the last byte tells whether it is all there.
        let is_json = kept.trim_ascii_start().starts_with(b"{") || kept.trim_ascii_start().starts_with(b"[");
        let is_whole = ended || is_json && matches!(last_byte, b'}' | b']');
        if !is_whole && until.is_none() && self.place.form.grows() && !self.drain {
            (self.offset, self.digest, self.last_line) = (offset, digest, LastLine::Ended);
            self.leave_torn();
            return Ok(None);
        }
        let terminator = u64::from(ended) + u64::from(ended && last_byte == b'\r');
        let skipped = (self.offset - offset - terminator).saturating_sub(WHOLE_LINE as u64);
        self.learn(&kept)?;
        self.lines += 1;
        Ok(Some(Block { partition: self.number, offset, first_line: self.lines, bytes: kept, skipped }))
    }

    /// The first block in which a line is a record tells the format, if nothing told it before, and binds it; directives tell
    /// what the lines behind them mean.
    fn learn(&mut self, lines: &[u8]) -> Result<(), SourceError> {
        if self.facts.format().is_none()
            && let Some(format) = self.told_by(lines)
        {
            if format.is_log() {
                self.ask_for_key()?;
            }
            // Only this thread sets it, so it is still unset.
            self.bound = self.facts.told.set((self.offset, format)).is_ok();
        }
        self.bound = self.bound || self.facts.format().is_some() && self.has_record(lines);
        if self.facts.format().is_none_or(|format| *format == Format::Log(LogReader::W3c)) {
            let before = self.facts.directives_at(self.offset);
            // Within the block the decoder follows them by itself.
            if let Some(directives) = before.unwrap_or_default().behind(lines) {
                self.facts.add_directives(self.offset + lines.len() as u64, directives);
            }
        }
        Ok(())
    }

    /// Sees to it that there is a key when users of a log are named.
    pub(super) fn ask_for_key(&self) -> Result<(), SourceError> {
        let refused = |problem| SourceError::Refused { partition: self.facts.name.clone(), problem };
        self.key.get().map(|_| ()).map_err(refused)
    }

    /// The format that whole lines tell: the one by which the most of all of them are records.
    fn told_by(&self, lines: &[u8]) -> Option<Format> {
        let directives = self.facts.directives_at(self.offset);
        let guess = Head::all_of(lines).guess_within(self.facts.bounds, directives.as_ref())?;
        Some(guess.format)
    }

    /// Whether a line is a record of the format. Most often one of the first is, so ever more of them are looked at.
    fn has_record(&self, lines: &[u8]) -> bool {
        let mut size = STEP / 16;
        while size < lines.len() {
            if !self.times(&lines[..after_last_newline(&lines[..size])]).is_empty() {
                return true;
            }
            size = size.saturating_mul(16);
        }
        !self.times(lines).is_empty()
    }

    /// Reads on until `count` bytes from `offset` on are known, or the content ends.
    fn read_ahead(&mut self, count: usize) -> Result<(), SourceError> {
        if self.ended || self.pending.len() >= count {
            return Ok(());
        }
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open_in_place()?,
        };
        let missing = count - self.pending.len();
        // A block goes to a worker as it is, so its room is made to measure.
        self.pending.reserve_exact(missing);
        stream.fill(&mut self.pending, missing).map_err(|source| self.io(source))?;
        if self.pending.len() < count {
            self.ended = true;
            let reached = self.offset + self.pending.len() as u64;
            if stream.plain_size().map_err(|source| self.io(source))?.is_some_and(|size| size < reached) {
                return Err(self.interrupted("it was cut short while it was read"));
            }
        }
        self.stream = Some(stream);
        Ok(())
    }

    /// Opens the file behind what is pending, and checks what was read before if that is still to be done.
    fn open_in_place(&mut self) -> Result<Stream, SourceError> {
        let mut stream = self.open()?;
        match self.unchecked {
            Some(recorded) if self.place.form.is_seekable() => {
                let (from, digest) = (last_piece(self.offset), ContentDigest::from_fold(recorded.fold));
                self.check(&mut stream, recorded, from, digest)?;
            }
            Some(recorded) => self.check(&mut stream, recorded, 0, ContentDigest::default())?,
            None => {
                let target = self.offset + self.pending.len() as u64;
                if !stream.skip_to(target).map_err(|source| self.io(source))? {
                    return Err(self.interrupted("it was cut short while it was read"));
                }
            }
        }
        Ok(stream)
    }

    fn open(&self) -> Result<Stream, SourceError> {
        let (stream, stat) = match Stream::open(Path::new(&self.place.path), self.place.form) {
            Ok(opened) => opened,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(self.interrupted("it vanished while it was read"));
            }
            Err(source) => return Err(self.io(source)),
        };
        if stat.is_same_file(&self.place.stat) {
            Ok(stream)
        } else {
            Err(self.interrupted("it was replaced while it was read"))
        }
    }

    /// Reads content from `from` (what is before is in `digest`) up to where the partition stands and compares.
    fn check(
        &mut self,
        stream: &mut Stream,
        recorded: RecordedDigest,
        from: u64,
        mut digest: ContentDigest,
    ) -> Result<(), SourceError> {
        let count = self.offset - from;
        let there =
            stream.skip_to(from).and_then(|there| Ok(there && stream.pass(count, |bytes| digest.update(bytes))?));
        if !there.map_err(|source| self.io(source))? {
            return Err(self.changed(&format!("{} bytes of it were read and it is shorter now", self.offset)));
        }
        if digest.record(recorded.last_line) != recorded {
            return Err(self.changed(&format!("its first {} bytes are not what was read before", self.offset)));
        }
        self.digest = digest;
        self.unchecked = None;
        Ok(())
    }

    fn changed(&self, problem: &str) -> SourceError {
        rotated(&self.facts.name, &self.place.path, problem)
    }

    /// What happens to a file while it is read is sorted out by the next start.
    fn interrupted(&self, problem: &str) -> SourceError {
        let problem = format!(
            "{problem}; start the same command again: it goes on from there, if all that was rotated is given \
             (--input '{}*')",
            before_rotation(&self.place.path)
        );
        SourceError::Changed { partition: self.facts.name.clone(), problem }
    }

    fn io(&self, source: std::io::Error) -> SourceError {
        unreadable(self.facts.name.clone(), source)
    }
}

/// How many bytes of some whole lines stand before the first over-long one.
fn before_over_long(lines: &[u8]) -> usize {
    let mut start = 0;
    while lines.len() - start > WHOLE_LINE {
        match memrchr(b'\n', &lines[start..start + WHOLE_LINE]) {
            Some(found) => start += found + 1,
            None => return start,
        }
    }
    lines.len()
}

/// Where the last line without newline starts.
fn after_last_newline(content: &[u8]) -> usize {
    memrchr(b'\n', content).map_or(0, |found| found + 1)
}

/// Whether a line without newline is whole all the same: a JSON object or array, or the end of one over several lines.
fn is_complete(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let is_json = line.starts_with(b"{") || line.starts_with(b"[");
    let ends_one = !line.is_empty() && line.iter().all(|byte| matches!(byte, b'}' | b']'));
    ends_one || is_json && line.len() <= MAX_LINE_BYTES && serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

/// A length of content that a buffer takes; what is longer than memory is taken in steps.
fn narrow(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
