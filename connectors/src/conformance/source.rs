//! The contract of a source, for any [`Source`].

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tidemill_dataflow::source::{
    BlockReader, Decode, Decoded, PartitionBinding, Position, Source, SourceError, as_the_connector_left_it,
};

use super::Broken;

/// How long a call may take at most, and how long data may be under way.
const LIMIT: Duration = Duration::from_secs(60);
/// How long is waited at once.
const NAP: Duration = Duration::from_millis(50);
/// Small enough that the content takes several blocks.
const SMALL: usize = 2_000;

/// Everything that was read of a partition.
#[derive(Clone, Debug, Default, PartialEq)]
struct Read {
    /// Records, in order, as the caller shows them.
    shown: Vec<String>,
    /// The lines of dead letters, in order.
    malformed: Vec<u64>,
    /// Offset and bytes of each block.
    blocks: Vec<(u64, Vec<u8>)>,
    /// Where the partition stood after each block, and how many records and dead letters had come by then.
    cuts: Vec<(usize, usize, Position)>,
}

impl Read {
    /// Whether this is what came before (`first`), and then `second`.
    fn is(&self, first: (&[String], &[u64]), second: (&[String], &[u64])) -> bool {
        self.shown == [first.0, second.0].concat() && self.malformed == [first.1, second.1].concat()
    }

    fn content(&self) -> (&[String], &[u64]) {
        (&self.shown, &self.malformed)
    }
}

/// A source under test with the way to show its records.
struct Reading<'a, S: Source, F> {
    reader: Box<dyn BlockReader>,
    decoder: S::Decoder,
    show: &'a F,
}

type Record<S> = <<S as Source>::Decoder as Decode>::Record;

impl<'a, S: Source, F: Fn(&Record<S>) -> String> Reading<'a, S, F> {
    fn open(source: &S, recorded: &[PartitionBinding], show: &'a F) -> Result<Self, Broken> {
        let reader = source.open(recorded).map_err(|error| format!("opening at a recorded place failed: {error}"))?;
        Ok(Reading { reader, decoder: source.decoder(), show })
    }

    /// Reads a partition until it is finished, or stands at `until`.
    fn all(&mut self, partition: u32, limit: usize, until: Option<u64>) -> Result<Read, Broken> {
        let mut read = Read::default();
        let mut silent = Duration::ZERO;
        loop {
            let at = self.reader.position(partition);
            if at.finished || until.is_some_and(|until| at.offset >= until) {
                return Ok(read);
            }
            let block = self.reader.read(partition, limit, until);
            let Some(block) = block.map_err(|error| format!("reading on from offset {} failed: {error}", at.offset))?
            else {
                if self.reader.position(partition).finished {
                    continue;
                }
                if silent > LIMIT {
                    return Err(format!("partition {partition} gives nothing at {at:?} and is not finished"));
                }
                self.reader.wait(NAP).map_err(|error| format!("waiting failed: {error}"))?;
                silent += NAP;
                continue;
            };
            silent = Duration::ZERO;
            if block.partition != partition || block.offset != at.offset {
                let (number, offset) = (block.partition, block.offset);
                return Err(format!("partition {partition} at {} gave a block of {number} at {offset}", at.offset));
            }
            let now = self.reader.position(partition);
            if now.offset <= at.offset || until.is_some_and(|until| now.offset > until) {
                return Err(format!("a block moved partition {partition} from {} to {}", at.offset, now.offset));
            }
            read.blocks.push((block.offset, block.bytes.clone()));
            let mut decoded = Decoded::default();
            self.decoder.decode(block, &mut decoded);
            read.shown.extend(decoded.records.iter().map(self.show));
            read.malformed.extend(decoded.malformed.iter().map(|letter| letter.line));
            read.cuts.push((read.shown.len(), read.malformed.len(), now));
        }
    }

    fn everything(&mut self, limit: usize) -> Result<Vec<Read>, Broken> {
        (0..self.count()).map(|partition| self.all(partition, limit, None)).collect()
    }

    fn count(&self) -> u32 {
        u32::try_from(self.reader.partitions().len()).unwrap_or(u32::MAX)
    }

    fn binding(&self, partition: u32, position: &Position) -> Result<PartitionBinding, Broken> {
        binding(&*self.reader, partition, position)
    }

    fn bindings(&self) -> Result<Vec<PartitionBinding>, Broken> {
        bindings(&*self.reader)
    }
}

/// What the engine would record at this position of a partition.
///
/// # Errors
/// A position that cannot be recorded.
pub fn binding(reader: &dyn BlockReader, partition: u32, position: &Position) -> Result<PartitionBinding, Broken> {
    let info = reader.partitions().swap_remove(partition as usize);
    let status = if position.finished { "finished" } else { "active" };
    let recorded = json!({
        "partition": partition, "name": info.name, "end": position.offset, "lines": position.lines,
        "digest": position.digest, "watermark": null, "status": status, "detail": { "source": info.detail },
    });
    let recorded = serde_json::from_value(recorded).map_err(|error| format!("a binding cannot be written: {error}"))?;
    Ok(as_the_connector_left_it(recorded))
}

/// What the engine would record now.
///
/// # Errors
/// See [`binding`].
pub fn bindings(reader: &dyn BlockReader) -> Result<Vec<PartitionBinding>, Broken> {
    let count = u32::try_from(reader.partitions().len()).unwrap_or(u32::MAX);
    (0..count).map(|partition| binding(reader, partition, &reader.position(partition))).collect()
}

/// From every cut: what was bound is read again with the same content and digest, and what follows is read once.
///
/// `source` makes a bounded source of content that is larger than some kilobytes; `show` makes records comparable.
///
/// # Errors
/// The broken promise.
pub fn replays_from_any_bound_offset<S: Source>(
    source: impl Fn() -> S,
    show: impl Fn(&Record<S>) -> String,
) -> Result<(), Broken> {
    let mut first = Reading::open(&source(), &[], &show)?;
    let whole = first.everything(SMALL)?;
    if whole.iter().all(|read| read.cuts.len() < 2) {
        return Err(format!("the content is too small to be cut: {} partitions", whole.len()));
    }
    for (partition, read) in (0..).zip(&whole) {
        let ends: Vec<PartitionBinding> = first.bindings()?;
        // Not every cut of a large partition: the first, the last, and some between.
        let step = read.cuts.len().div_ceil(5).max(1);
        for (shown, malformed, cut) in read.cuts.iter().step_by(step) {
            let mut again = Reading::open(&source(), &[], &show)?;
            let before = again.all(partition, SMALL / 3, Some(cut.offset))?;
            let replayed = again.reader.position(partition);
            if before.content() != (&read.shown[..*shown], &read.malformed[..*malformed]) {
                return Err(format!("partition {partition}: up to offset {} other records were read", cut.offset));
            }
            if (replayed.offset, replayed.lines, &replayed.digest) != (cut.offset, cut.lines, &cut.digest) {
                return Err(format!(
                    "partition {partition}: a replay ended at {replayed:?}, the first time at {cut:?}"
                ));
            }
            let mut recorded = ends.clone();
            recorded[partition as usize] = first.binding(partition, cut)?;
            let mut on = Reading::open(&source(), &recorded, &show)?;
            let after = on.all(partition, SMALL, None)?;
            if !read.is(before.content(), after.content()) {
                let (found, wanted) = (after.shown.len(), read.shown.len() - shown);
                let at = cut.offset;
                return Err(format!("partition {partition} from {at}: {found} records or others, not the {wanted}"));
            }
            if on.bindings()? != ends {
                return Err(format!("partition {partition}: another end or digest after going on at {}", cut.offset));
            }
        }
    }
    Ok(())
}

/// The same limits give the same blocks each time, and other limits the same records.
///
/// # Errors
/// The broken promise.
pub fn blocks_depend_on_content_and_limits_alone<S: Source>(
    source: impl Fn() -> S,
    show: impl Fn(&Record<S>) -> String,
) -> Result<(), Broken> {
    let read = |limit| Reading::open(&source(), &[], &show)?.everything(limit);
    let first = read(SMALL)?;
    if read(SMALL)? != first {
        return Err("the same limits gave other blocks the second time".into());
    }
    for limit in [1, SMALL / 2, SMALL * 100] {
        let other = read(limit)?;
        let differs = |(one, two): (&Read, &Read)| one.content() != two.content();
        if other.len() != first.len() || other.iter().zip(&first).any(differs) {
            return Err(format!("blocks of {limit} bytes held other records than those of {SMALL}"));
        }
    }
    Ok(())
}

/// Read to the end and opened again after `append` added records: exactly those come, and known partitions keep their
/// numbers.
///
/// # Errors
/// The broken promise.
pub fn goes_on_after_a_restart<S: Source>(
    source: impl Fn() -> S,
    show: impl Fn(&Record<S>) -> String,
    append: impl FnOnce(),
) -> Result<(), Broken> {
    let mut first = Reading::open(&source(), &[], &show)?;
    let before = first.everything(SMALL)?;
    let recorded = first.bindings()?;
    let mut idle = Reading::open(&source(), &recorded, &show)?;
    if idle.everything(SMALL)?.iter().any(|read| !read.blocks.is_empty()) {
        return Err("a restart without news read something".into());
    }
    drop((first, idle));
    append();
    let mut again = Reading::open(&source(), &recorded, &show)?;
    let names: Vec<String> = again.reader.partitions().into_iter().map(|info| info.name).collect();
    if recorded.iter().zip(&names).any(|(known, name)| known.name != *name) {
        return Err(format!("after a restart the partitions are {names:?}"));
    }
    let after = again.everything(SMALL)?;
    let mut whole = Reading::open(&source(), &[], &show)?;
    let all = whole.everything(SMALL)?;
    let nothing = Read::default();
    let mut added = 0;
    for (number, read) in all.iter().enumerate() {
        let (old, new) = (before.get(number).unwrap_or(&nothing), after.get(number).unwrap_or(&nothing));
        if !read.is(old.content(), new.content()) {
            return Err(format!("partition {number}: what came before and after a restart is not what there is"));
        }
        added += new.shown.len();
    }
    if added == 0 { Err("what was appended was not read".into()) } else { Ok(()) }
}

/// Read to the end and opened again after `change` altered or removed what was read: refused with
/// [`SourceError::Changed`] or, where its beginning is gone, [`SourceError::Missing`], when it is opened or when it is read.
///
/// # Errors
/// The broken promise.
pub fn refuses_changed_content<S: Source>(source: impl Fn() -> S, change: impl FnOnce()) -> Result<(), Broken> {
    let show = |_: &Record<S>| String::new();
    let mut first = Reading::open(&source(), &[], &show)?;
    first.everything(SMALL)?;
    let recorded = first.bindings()?;
    drop(first);
    change();
    let mut reader = match source().open(&recorded) {
        Err(SourceError::Changed { partition, .. }) => return named(&partition, &recorded),
        Err(SourceError::Missing { loss, .. }) => return named(&loss.partition, &recorded),
        Err(error) => return Err(format!("changed content is refused as something else: {error}")),
        Ok(reader) => reader,
    };
    for partition in 0..u32::try_from(recorded.len()).unwrap_or(u32::MAX) {
        if let Err(SourceError::Changed { partition: name, .. }) = reader.read(partition, SMALL, None) {
            return named(&name, &recorded);
        }
    }
    Err("content that was read and then changed is taken for unchanged".into())
}

fn named(partition: &str, recorded: &[PartitionBinding]) -> Result<(), Broken> {
    match recorded.iter().any(|known| known.name == partition) {
        true => Ok(()),
        false => Err(format!("the refusal names {partition}, which is none of the partitions")),
    }
}

/// A live source, or one at its end, says that nothing is there instead of waiting for it; waiting ends by itself.
///
/// # Errors
/// The broken promise.
pub fn never_waits_in_read<S: Source>(source: S) -> Result<(), Broken> {
    let (done, ended) = channel();
    let look = move || {
        let show = |_: &Record<S>| String::new();
        let mut reading = Reading::open(&source, &[], &show)?;
        for partition in 0..reading.count() {
            // What is there is read first.
            let mut none = 0;
            while none < 3 {
                let read = reading.reader.read(partition, SMALL, None);
                none = if read.map_err(|error| error.to_string())?.is_some() { 0 } else { none + 1 };
                reading.reader.wait(NAP).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    };
    // Left alone if it hangs: there is no way to end it.
    thread::spawn(move || done.send(look()).ok());
    ended.recv_timeout(LIMIT).unwrap_or_else(|_| Err("`read` or `wait` did not return within a minute".into()))
}
