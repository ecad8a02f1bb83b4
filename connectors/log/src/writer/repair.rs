//! What a crash left behind a partition's published end: kept as far as it is whole, cut from there on.
//!
//! Nothing behind the published end was acknowledged, but all of it that is intact may stay. It is written once more,
//! because after an fsync that failed the system may hold it in memory and believe it stored.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tracing::warn;

use crate::batch::Header;
use crate::disk::Disk;
use crate::error::{At, LogError};
use crate::index;
use crate::published::End;
use crate::segment::{self, Segment};

/// How much is written again at once.
const CHUNK: u64 = 1 << 20;

/// A partition that ends with an intact batch.
#[derive(Debug, Default)]
pub(super) struct Mended {
    /// The segments, in order.
    pub(super) bases: Vec<u64>,
    pub(super) end: End,
    /// The last record's time; the smallest of all if that is not known.
    pub(super) last_time: i64,
    /// The last batch's note.
    pub(super) last_note: Vec<u8>,
}

/// Checks the published part of the segment that holds the published end, and mends what follows.
pub(super) fn mend(disk: &dyn Disk, folder: &Path, published: End) -> Result<Mended, LogError> {
    let bases = segment::list(folder)?;
    let known = bases.partition_point(|base| *base <= published.segment);
    let (known, later) = bases.split_at(known);
    let mut mended = Mended { bases: known.to_vec(), end: published, last_time: i64::MIN, last_note: Vec::new() };
    if known.last() != Some(&published.segment) && published.position > 0 {
        let path = segment::path(folder, published.segment);
        return Err(LogError::damaged(&path, 0, "the file is missing"));
    }
    for base in bases.iter().filter(|base| **base >= published.segment) {
        // It may speak of batches that are cut.
        let path = index::path(folder, *base);
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(LogError::io(&path, "delete", error)),
            _ => {}
        }
    }
    let mut changed = false;
    let mut torn = false;
    if known.last() == Some(&published.segment) {
        check(&mut mended, folder, published)?;
        torn = keep(disk, &mut mended, folder, published.segment, published.position, &mut changed)?;
    }
    for base in later {
        if !torn && *base == mended.end.offset {
            mended.bases.push(*base);
            mended.end = End { segment: *base, position: 0, ..mended.end };
            torn = keep(disk, &mut mended, folder, *base, 0, &mut changed)?;
            continue;
        }
        torn = true;
        changed = true;
        let path = segment::path(folder, *base);
        warn!("{}: it lies behind a torn end and was never acknowledged; it is deleted", path.display());
        disk.remove(&path).at(&path, "delete")?;
    }
    if changed {
        disk.sync_folder(folder).at(folder, "sync")?;
    }
    // A segment that was begun and holds nothing yet leaves the times and the note to the one before.
    if mended.end.position == 0
        && let Some(before) = mended.bases.iter().rev().copied().find(|base| *base < mended.end.segment)
        && let Some(mut sealed) = Segment::open(folder, before)?
    {
        let length = sealed.length()?;
        let (time, note) = (&mut mended.last_time, &mut mended.last_note);
        sealed.walk(0, before, length, |_, header, batch| remember(time, note, header, batch))?;
    }
    Ok(mended)
}

fn remember(last_time: &mut i64, last_note: &mut Vec<u8>, header: &Header, batch: &[u8]) {
    *last_time = header.last_time;
    last_note.clear();
    last_note.extend_from_slice(header.note(batch));
}

/// Refuses a segment whose published part is not what was written.
fn check(mended: &mut Mended, folder: &Path, published: End) -> Result<(), LogError> {
    let missing = || LogError::damaged(&segment::path(folder, published.segment), 0, "the file is missing");
    let mut segment = Segment::open(folder, published.segment)?.ok_or_else(missing)?;
    let (time, note) = (&mut mended.last_time, &mut mended.last_note);
    let see = |_, header: &Header, batch: &[u8]| remember(time, note, header, batch);
    let walked = segment.walk(0, published.segment, published.position, see)?;
    if let Some(problem) = walked.problem {
        return Err(LogError::damaged(&segment.path, walked.position, problem));
    }
    if walked.offset != published.offset {
        let problem = format!("offset {} was published there and {} is found", published.offset, walked.offset);
        return Err(LogError::damaged(&segment.path, walked.position, problem));
    }
    Ok(())
}

/// Keeps what is intact of a segment from `position` on, and cuts the rest; says whether there was a rest.
fn keep(
    disk: &dyn Disk,
    mended: &mut Mended,
    folder: &Path,
    base: u64,
    position: u64,
    changed: &mut bool,
) -> Result<bool, LogError> {
    let Some(mut segment) = Segment::open(folder, base)? else { return Ok(false) };
    let length = segment.length()?;
    let (time, note) = (&mut mended.last_time, &mut mended.last_note);
    let see = |_, header: &Header, batch: &[u8]| remember(time, note, header, batch);
    let walked = segment.walk(position, mended.end.offset, length, see)?;
    let (kept, cut) = (walked.position - position, length - walked.position);
    mended.end = End { offset: walked.offset, segment: base, position: walked.position };
    if kept == 0 && cut == 0 {
        return Ok(false);
    }
    *changed = true;
    let path = &segment.path;
    warn!(
        "{}: its writer stopped before it published everything; {kept} bytes are whole and stay, {cut} are torn and cut",
        path.display()
    );
    let (content, file) = (File::open(path).at(path, "open")?, disk.open(path).at(path, "open")?);
    if cut > 0 {
        file.set_length(walked.position).at(path, "cut")?;
    }
    let mut from = position;
    while from < walked.position {
        let chunk = usize::try_from(CHUNK.min(walked.position - from)).expect("a chunk fits an address");
        let mut bytes = vec![0; chunk];
        content.read_exact_at(&mut bytes, from).at(path, "read")?;
        file.write_at(&bytes, from).at(path, "write")?;
        from += chunk as u64;
    }
    file.sync().at(path, "sync")?;
    Ok(cut > 0)
}
