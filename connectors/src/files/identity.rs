//! What is recorded of a file, and the partitions of a start: what each goes on in, and as what it is read.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::source::{PartitionBinding, SourceError};
use tidemill_log::PartitionStatus;
use xxhash_rust::xxh3::xxh3_128;

use crate::events::{Directives, Format, HashKey, Head, KNOWN_TO_ALL, LogReader, MAX_LINE_BYTES, Shape, UserKey};

use super::content::{Form, Stat};
use super::digest::RecordedDigest;
use super::given::{Given, look_up};
use super::matching::{Fate, Found, Known, Twin, assign, told_apart};
use super::notice::Notice;
use super::packing::Packing;
use super::partition::{Partition, Place, Resume};
use super::{FileFacts, FilesConfig};

/// What is recorded of a file with every binding.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Detail {
    pub(super) path: String,
    /// The name of its [`Form`].
    pub(super) packing: String,
    /// `None` while no line of it was a record: what it is read as is not bound to it before.
    format: Option<String>,
    /// From where on it holds: what was handed out before it was told was read as events.
    #[serde(default, skip_serializing_if = "is_start")]
    format_from: u64,
    /// The mark of the key behind a log's users.
    key: Option<String>,
    pub(super) stat: Stat,
    /// Of a W3C log: the directives in force where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    directives: Option<String>,
    /// `None` of files in which nothing stood, and where an earlier build wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) head: Option<Mark>,
    /// The format by which no line of it was a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tried: Option<String>,
    /// No line of it was a record, and its file is read again by another format as another partition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    given_up: bool,
    /// Its file is gone, and that was said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) gone: bool,
}

impl Detail {
    /// Whether no line of it was a record by now.
    pub(super) fn is_without_records(&self) -> bool {
        self.format.is_none()
    }

    /// The same of a log in which these directives are in force.
    pub(super) fn behind(self, directives: Option<&Directives>) -> Detail {
        Detail { directives: directives.map(Directives::text), ..self }
    }

    /// The same of a file of which no line was a record by this format.
    pub(super) fn tried(self, format: &str, given_up: bool) -> Detail {
        Detail { tried: Some(format.to_owned()), given_up, ..self }
    }

    /// Whether the file is read again from its beginning: no line of it was a record by another format than this one.
    fn gives_up(&self, wanted: &Format) -> bool {
        let tried_otherwise = self.tried.as_deref().is_some_and(|tried| tried != wanted.name());
        self.given_up || self.format.is_none() && tried_otherwise
    }

    pub(super) fn of(place: &Place, told: Option<(u64, &Format)>, key: &UserKey, gone: bool) -> Detail {
        let (from, format) = told.unzip();
        Detail {
            path: place.path.clone(),
            packing: place.form.name(),
            format: format.map(|format| format.name().to_owned()),
            format_from: from.unwrap_or_default(),
            key: format.is_some_and(|format| format.is_log()).then(|| key.known().mark()),
            stat: place.stat,
            directives: None,
            head: place.head.clone(),
            tried: None,
            given_up: false,
            gone,
        }
    }
}

/// Whether an offset is that of the first line.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_start(offset: &u64) -> bool {
    *offset == 0
}

/// By what a file's first bytes are known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) bytes: usize,
    xxh3: String,
}

impl Mark {
    fn of(head: &[u8]) -> Option<Mark> {
        (!head.is_empty()).then(|| Mark { bytes: head.len(), xxh3: format!("{:032x}", xxh3_128(head)) })
    }

    pub(super) fn is_longer_than(&self, head: &[u8]) -> bool {
        self.bytes > head.len()
    }

    /// Whether the content that starts with `head` starts with what the mark was made of.
    pub(super) fn fits(&self, head: &[u8]) -> bool {
        head.get(..self.bytes).and_then(Mark::of).as_ref() == Some(self)
    }
}

/// The partitions of a start: the recorded ones in their order, then new files in the order given. `recorded` says where
/// reading goes on, `bound` how far all runs before have read.
pub(super) fn resolve(
    config: &FilesConfig,
    recorded: &[PartitionBinding],
    bound: &[PartitionBinding],
) -> Result<Vec<Partition>, SourceError> {
    if config.paths.is_empty() {
        return Err(SourceError::Usage("no input file is given; name at least one".into()));
    }
    let given = look_up(&config.paths, recorded, &config.notice)?;
    let mut in_order: Vec<_> = recorded.iter().collect();
    in_order.sort_by_key(|binding| binding.partition);
    let bound: BTreeMap<u32, &PartitionBinding> = bound.iter().map(|binding| (binding.partition, binding)).collect();
    let each = in_order.into_iter().map(|at| Known::new(at, bound.get(&at.partition).unwrap_or(&at)));
    let all = each.collect::<Result<Vec<_>, _>>()?;
    // What is bound and not yet part of a checkpoint is replayed first, as what it was read as.
    let gives_up = |known: &Known<'_>| known.is_bound_as_it_stands() && known.detail.gives_up(&config.format);
    let mut given_up = BTreeMap::new();
    let (mut before, mut order) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()));
    for (number, known) in all.into_iter().enumerate() {
        if gives_up(&known) {
            given_up.insert(number, known);
        } else {
            order.push(number);
            before.push(known);
        }
    }
    let mut fates = assign(&before, &given)?;
    let (new, twins) = told_apart(&before, &mut fates, &given)?;
    say_twins(&config.notice, &given, &twins);
    let mut partitions = BTreeMap::new();
    for (number, known) in &given_up {
        partitions.insert(*number, left(config, *number, known));
    }
    for ((number, known), fate) in order.into_iter().zip(&before).zip(fates) {
        let partition = match fate {
            Fate::Found(found) => again(config, number, &given[found.given], known, found)?,
            Fate::Corrected => left(config, number, known),
            Fate::Gone => gone(config, number, known)?,
        };
        partitions.insert(number, partition);
    }
    let mut partitions: Vec<Partition> = partitions.into_values().collect();
    for file in new.into_iter().map(|number| &given[number]) {
        let name = free_name(&partitions, &file.name);
        partitions.push(first(config, partitions.len(), name, file)?);
    }
    let is_log = |partition: &&Partition| partition.facts().format().is_some_and(Format::is_log);
    partitions.iter().filter(is_log).try_for_each(Partition::ask_for_key)?;
    Ok(partitions)
}

/// The name of a new content: its file's, with a number where another content has that.
fn free_name(partitions: &[Partition], name: &str) -> String {
    let is_free = |wanted: &String| partitions.iter().all(|partition| partition.facts().name != *wanted);
    let numbered = (2_u64..).map(|number| format!("{name}#{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(is_free).expect("there are more numbers than partitions")
}

fn say_twins(notice: &Notice, given: &[Given], twins: &[Twin]) {
    const SAID: usize = 3;
    let said = twins.iter().take(SAID).map(|twin| format!("{} with {}", given[twin.given].name, twin.of));
    let more = twins.len().checked_sub(SAID + 1).map(|more| format!("and {} more", more + 1));
    let all: Vec<_> = said.chain(more).collect();
    if !all.is_empty() {
        notice.say(&format!("the same content is counted once: {}", all.join(", ")));
    }
}

/// A file that was not read before.
fn first(config: &FilesConfig, number: usize, name: String, file: &Given) -> Result<Partition, SourceError> {
    let form = file.readable()?.form;
    let facts = match &config.format {
        Format::Guess => guessed(config, name, file, form)?,
        format => facts(config, name, Some((0, format.clone()))),
    };
    Ok(Partition::new(narrow(number), facts, place(file, form)?, config))
}

/// Where a file lies and what it is known by.
fn place(file: &Given, form: Form) -> Result<Place, SourceError> {
    let look = file.look()?;
    // The mark is one of content as it is looked at.
    let head = if look.form.encoding == form.encoding { Mark::of(&look.head) } else { None };
    Ok(Place { path: file.path.clone(), form, stat: file.stat, head })
}

/// A file that was read up to a recorded place.
fn again(
    config: &FilesConfig,
    number: usize,
    file: &Given,
    known: &Known<'_>,
    found: Found,
) -> Result<Partition, SourceError> {
    let (at, detail, name) = (known.at, &known.detail, known.bound.name.clone());
    if known.bound.end == 0 {
        return first(config, number, name, file);
    }
    // Epochs that wait to be replayed are read as they were, whatever is wanted now.
    let tried = detail.tried.as_ref().and_then(|tried| tried.parse().ok());
    let wanted = tried.unwrap_or_else(|| config.format.clone());
    let facts = match &detail.format {
        Some(recorded) => {
            let told = (detail.format_from, same_format(&config.format, recorded, &name)?);
            // Before the format was told, what the file seems to be is why a line is no event.
            let shape = if told.0 > at.end { shape(file, found.form)? } else { Shape::Text };
            Arc::new(FileFacts::new(config, name.clone(), Some(told), (None, shape)))
        }
        None if wanted == Format::Guess => guessed(config, name.clone(), file, found.form)?,
        None => facts(config, name.clone(), Some((0, wanted.clone()))),
    };
    if let Some(mark) = &detail.key {
        same_key(config, &name, mark)?;
    }
    let untouched = file.stat.is_unwritten(&detail.stat);
    let place = match &detail.head {
        Some(mark) if untouched => {
            Place { path: file.path.clone(), form: found.form, stat: file.stat, head: Some(mark.clone()) }
        }
        _ => place(file, found.form)?,
    };
    // Those of the place where reading goes on, not of the one up to which it was done.
    let directives = at.detail.get("directives").and_then(|text| text.as_str()).filter(|_| at.end > 0);
    if let Some(directives) = directives {
        facts.add_directives(0, Directives::of(directives));
    } else if at.end > 0 && matches!(facts.format(), Some(Format::Log(LogReader::W3c))) {
        // An earlier build recorded none of a file with no more than a header.
        facts.add_directives(0, directives_before(file, found.form, at.end)?);
    }
    let mut partition = Partition::new(narrow(number), facts, place, config);
    match detail.format {
        Some(_) => partition.bind_format(),
        None => partition.tries(&wanted),
    }
    if at.end > 0 {
        let digest =
            RecordedDigest::parse(&at.digest).ok_or_else(|| changed(&name, "the recorded digest cannot be read"))?;
        let at_its_end = at.end == known.bound.end;
        let finished = untouched && at_its_end && at.status == PartitionStatus::Finished;
        partition.stand_at(&Resume { offset: at.end, lines: at.lines, digest, finished });
        if let Some(held) = found.held.filter(|_| at_its_end) {
            partition.hold(*held);
        }
    }
    Ok(partition)
}

/// Whether the users of a log are named by the key whose mark was recorded.
fn same_key(config: &FilesConfig, name: &str, mark: &str) -> Result<(), SourceError> {
    let key = config.user_key.get();
    let key = key.map_err(|problem| SourceError::Refused { partition: name.to_owned(), problem })?;
    if *mark == key.mark() {
        return Ok(());
    }
    let wanted = if *mark == HashKey::default().mark() {
        format!("none was set when its users were named; set it to `{KNOWN_TO_ALL}`, as was taken then")
    } else {
        "it is not the one by which its users were named; set that one".to_owned()
    };
    Err(changed(name, &format!("TIDEMILL_HASH_KEY: {wanted}")))
}

/// A partition of which no line was a record: it stays as it is, and its file is read by another format.
fn left(config: &FilesConfig, number: usize, known: &Known<'_>) -> Partition {
    let (bound, detail) = (known.bound, &known.detail);
    if let Some(tried) = detail.tried.as_deref().filter(|_| !detail.given_up) {
        let name = &bound.name;
        let by = if tried == Format::Guess.name() { String::new() } else { format!(" when it was read as {tried}") };
        config.notice.say(&format!("{name}: no line of it was a record{by}; it is read anew"));
    }
    let place = Place { path: detail.path.clone(), form: known.form, stat: detail.stat, head: detail.head.clone() };
    let mut partition = Partition::new(narrow(number), facts(config, bound.name.clone(), None), place, config);
    partition.is_given_up(bound, detail.tried.as_deref());
    partition
}

/// A partition of which all was read, and whose file is gone.
fn gone(config: &FilesConfig, number: usize, known: &Known<'_>) -> Result<Partition, SourceError> {
    let (bound, detail) = (known.bound, &known.detail);
    let format = match &detail.format {
        Some(recorded) => Some((detail.format_from, same_format(&config.format, recorded, &bound.name)?)),
        None => None,
    };
    if bound.end > 0 && !detail.gone {
        let torn = known.form.is_seekable() && detail.stat.size > bound.end;
        let torn = if torn { ", but its last line, which had no newline" } else { "" };
        config.notice.say(&format!(
            "{}: its file is gone; all of it was read before{torn}, and what was counted of it stays",
            bound.name
        ));
    }
    let place = Place { path: detail.path.clone(), form: known.form, stat: detail.stat, head: detail.head.clone() };
    let bound_format = format.is_some();
    let mut partition = Partition::new(narrow(number), facts(config, bound.name.clone(), format), place, config);
    if bound_format {
        partition.bind_format();
    }
    partition.is_gone(bound);
    Ok(partition)
}

fn same_format(wanted: &Format, recorded: &str, name: &str) -> Result<Format, SourceError> {
    let format: Format =
        recorded.parse().map_err(|_| changed(name, &format!("its recorded format {recorded:?} is unknown")))?;
    if *wanted == Format::Records {
        return Ok(Format::Records);
    }
    if *wanted != Format::Guess && *wanted != format {
        let problem = format!(
            "{name} was read as {recorded} before, and {} is asked for; leave --format or --log-format away to go on so, or \
             start in a new output folder to read it anew",
            wanted.name()
        );
        return Err(SourceError::Usage(problem));
    }
    Ok(format)
}

/// What a file holds as far as its first lines show it; nothing if none of them is a record.
fn guessed(config: &FilesConfig, name: String, file: &Given, form: Form) -> Result<Arc<FileFacts>, SourceError> {
    let head = head_of(file, form).map_err(|source| file.io(source))?;
    let guess = head.guess();
    let shape = head.shape(guess.as_ref().map_or(0, |guess| guess.records));
    if let Some(problem) = shape.refusal(&file.name, form.packing != Packing::Plain) {
        return Err(SourceError::Refused { partition: file.name.clone(), problem });
    }
    let format = guess.as_ref().map(|guess| (0, guess.format.clone()));
    Ok(Arc::new(FileFacts::new(config, name, format, (guess, shape))))
}

/// The directives of a W3C log that are in force at an offset.
fn directives_before(file: &Given, form: Form, end: u64) -> Result<Directives, SourceError> {
    let (mut directives, mut line) = (Directives::default(), Vec::new());
    let take = |bytes: &[u8]| {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Of a line that is too long, enough to see that it is.
            let room = (MAX_LINE_BYTES + 3).saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                directives = directives.behind(&line).unwrap_or_else(|| directives.clone());
                line.clear();
            }
        }
    };
    let passed = file.open(form).and_then(|mut stream| stream.pass(end, take));
    passed.map_err(|source| file.io(source))?;
    Ok(directives)
}

/// What a file seems to be.
fn shape(file: &Given, form: Form) -> Result<Shape, SourceError> {
    let head = head_of(file, form).map_err(|source| file.io(source))?;
    Ok(head.shape(head.guess().map_or(0, |guess| guess.records)))
}

/// A file's first lines.
fn head_of(file: &Given, form: Form) -> io::Result<Head> {
    const STEP: usize = 64 << 10;
    let mut stream = file.open(form)?;
    let (mut head, mut piece) = (Head::default(), Vec::new());
    loop {
        piece.clear();
        stream.fill(&mut piece, STEP)?;
        let more = head.take(&piece);
        if piece.len() < STEP {
            head.end();
        }
        if !more || piece.len() < STEP {
            return Ok(head);
        }
    }
}

fn facts(config: &FilesConfig, name: String, told: Option<(u64, Format)>) -> Arc<FileFacts> {
    Arc::new(FileFacts::new(config, name, told, (None, Shape::Text)))
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("nobody names four billion files")
}

/// The refusal of a file that holds what was read, and is not given.
pub(super) fn not_given(name: &str, path: &str, lies_in: &str) -> SourceError {
    if path == lies_in {
        changed(name, "it was read before and is not among the files given now")
    } else {
        let problem = format!("what was read of it lies in {lies_in} now, which is not given");
        rotated(name, path, &problem)
    }
}

pub(super) fn vanished(name: &str) -> SourceError {
    changed(name, "it was read before and does not exist any more")
}

/// The refusal of a file that is not what was read, with the way out.
pub(super) fn changed(name: &str, problem: &str) -> SourceError {
    let problem = format!("{problem}; bring back what was read, or start in a new output folder");
    SourceError::Changed { partition: name.to_owned(), problem }
}

/// The same, where it may have been rotated.
pub(super) fn rotated(name: &str, path: &str, problem: &str) -> SourceError {
    let problem = format!(
        "{problem}; if it was rotated, give the rotated file too: --input '{}*'; otherwise bring back what was read, or \
         start in a new output folder",
        before_rotation(path)
    );
    SourceError::Changed { partition: name.to_owned(), problem }
}

/// The path without what rotation adds to it: `access.log` of `access.log.2.gz` and of `access.log-20261130`.
pub(super) fn before_rotation(path: &str) -> &str {
    let packed = [".gz", ".zst", ".bz2", ".xz"].iter().find_map(|ending| path.strip_suffix(ending)).unwrap_or(path);
    let bare = packed.trim_end_matches(|c: char| c.is_ascii_digit());
    match bare.strip_suffix(['.', '-']) {
        Some(live) if bare.len() < packed.len() => live,
        _ => packed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_before_rotation_is_told() {
        for (path, live) in [
            ("/l/access.log", "/l/access.log"),
            ("/l/access.log.1", "/l/access.log"),
            ("/l/access.log.12.gz", "/l/access.log"),
            ("/l/access.log-20261130", "/l/access.log"),
            ("/l/access.log-20261130.zst", "/l/access.log"),
            ("/l/access", "/l/access"),
            ("/l/access2", "/l/access2"),
        ] {
            assert_eq!(before_rotation(path), live);
        }
    }
}
