//! Which of the given files is which recorded partition, and whether it is still what was read.
//!
//! A file is known by its canonical path, or else by the name under which it was first given. Where device, inode, size and both
//! times are as recorded, only the last piece of what was read is read again, and that when the file is next opened;
//! otherwise all of what was read is read again, at once.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::source::{PartitionBinding, SourceError};
use tidemill_log::PartitionStatus;

use crate::events::{Directives, Format, HashKey, Head, Shape};

use super::content::{Packing, Stat, Stream};
use super::digest::RecordedDigest;
use super::partition::{Partition, Resume};
use super::{FileFacts, FilesConfig};

/// What is recorded of a file with every binding.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Detail {
    path: String,
    packing: String,
    /// `None` while the file holds white space only.
    format: Option<String>,
    /// The mark of the key behind a log's users.
    key: Option<String>,
    stat: Stat,
    /// Of a W3C log: the directives in force where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    directives: Option<String>,
}

impl Detail {
    /// The same of a log in which these directives are in force.
    pub(super) fn behind(self, directives: Option<&Directives>) -> Detail {
        Detail { directives: directives.map(Directives::text), ..self }
    }

    pub(super) fn of(path: &str, packing: Packing, format: Option<&Format>, key: HashKey, stat: Stat) -> Detail {
        Detail {
            path: path.to_owned(),
            packing: packing.name().to_owned(),
            format: format.map(|format| format.name().to_owned()),
            key: format.is_some_and(Format::is_log).then(|| key.mark()),
            stat,
            directives: None,
        }
    }
}

/// A file as it was given.
struct Given {
    name: String,
    path: String,
}

/// The partitions of a start: the recorded ones in their order, then new files in the order given.
pub(super) fn resolve(config: &FilesConfig, recorded: &[PartitionBinding]) -> Result<Vec<Partition>, SourceError> {
    if config.paths.is_empty() {
        return Err(SourceError::Usage("no input file is given; name at least one".into()));
    }
    let mut given = look_up(&config.paths, recorded)?;
    let mut recorded: Vec<_> = recorded.iter().collect();
    recorded.sort_by_key(|binding| binding.partition);
    let mut partitions = Vec::with_capacity(recorded.len() + given.len());
    let mut matched = Vec::with_capacity(recorded.len());
    for binding in recorded {
        let detail: Detail = serde_json::from_value(binding.detail.clone())
            .map_err(|error| changed(&binding.name, &format!("its record cannot be read ({error})")))?;
        let place = given.iter().position(|file| file.path == detail.path);
        matched.push((binding, detail, place.map(|place| given.remove(place))));
    }
    for (binding, detail, by_path) in matched {
        let by_name = || given.iter().position(|file| file.name == binding.name).map(|place| given.remove(place));
        let file = by_path.or_else(by_name).ok_or_else(|| not_given(&binding.name, &detail))?;
        partitions.push(again(config, partitions.len(), file, binding, &detail)?);
    }
    for mut file in given {
        if partitions.iter().any(|partition: &Partition| partition.facts().name == file.name) {
            file.name.clone_from(&file.path);
        }
        partitions.push(first(config, partitions.len(), file)?);
    }
    Ok(partitions)
}

fn look_up(paths: &[PathBuf], recorded: &[PartitionBinding]) -> Result<Vec<Given>, SourceError> {
    let mut by_path: BTreeMap<String, String> = BTreeMap::new();
    let mut given = Vec::with_capacity(paths.len());
    for path in paths {
        let name = text(path)?;
        let canonical = match path.canonicalize() {
            Ok(canonical) => canonical,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let absolute = std::path::absolute(path).unwrap_or_default();
                let is_this = |binding: &PartitionBinding| {
                    binding.name == name || binding.detail.get("path").and_then(|p| p.as_str()) == absolute.to_str()
                };
                return Err(if recorded.iter().any(is_this) {
                    vanished(&name)
                } else {
                    SourceError::Usage(format!("input {name} does not exist; check the path"))
                });
            }
            Err(source) => return Err(SourceError::Io { partition: name, source }),
        };
        if !canonical.is_file() {
            return Err(SourceError::Usage(format!("input {name} is no regular file; name the files to read")));
        }
        let canonical = text(&canonical)?;
        if let Some(other) = by_path.insert(canonical.clone(), name.clone()) {
            return Err(SourceError::Usage(format!("input {name} is the same file as {other}; name it once")));
        }
        given.push(Given { name, path: canonical });
    }
    Ok(given)
}

fn text(path: &Path) -> Result<String, SourceError> {
    let problem = || SourceError::Usage(format!("the path {} is not UTF-8; rename the file", path.display()));
    path.to_str().map(str::to_owned).ok_or_else(problem)
}

/// A file that was not read before.
fn first(config: &FilesConfig, number: usize, file: Given) -> Result<Partition, SourceError> {
    let (stat, packing) = examine(&file)?;
    let facts = match &config.format {
        Format::Guess => guessed(&file, packing)?,
        format => facts(file.name.clone(), Some(format.clone())),
    };
    Ok(Partition::new(narrow(number), facts, file.path.into(), packing, stat, config.hash_key))
}

/// A file that was read up to a recorded place.
fn again(
    config: &FilesConfig,
    number: usize,
    file: Given,
    binding: &PartitionBinding,
    detail: &Detail,
) -> Result<Partition, SourceError> {
    let name = &binding.name;
    let (stat, packing) = examine(&file)?;
    if binding.end == 0 {
        return first(config, number, Given { name: name.clone(), path: file.path });
    }
    if packing.name() != detail.packing {
        return Err(changed(name, &format!("it was a {} file and is {} now", detail.packing, packing.name())));
    }
    let facts = match &detail.format {
        Some(recorded) => facts(name.clone(), Some(same_format(&config.format, recorded, name)?)),
        None if config.format == Format::Guess => {
            guessed(&Given { name: name.clone(), path: file.path.clone() }, packing)?
        }
        None => facts(name.clone(), Some(config.format.clone())),
    };
    if detail.key.as_ref().is_some_and(|mark| *mark != config.hash_key.mark()) {
        let problem = "TIDEMILL_HASH_KEY is not the one by which its users were named; set that one";
        return Err(changed(name, problem));
    }
    let digest =
        RecordedDigest::parse(&binding.digest).ok_or_else(|| changed(name, "the recorded digest cannot be read"))?;
    if packing == Packing::Plain && stat.size < binding.end {
        return Err(changed(name, &format!("{} bytes of it were read and it has {} now", binding.end, stat.size)));
    }
    if let Some(directives) = &detail.directives {
        facts.add_directives(0, Directives::of(directives));
    }
    let mut partition = Partition::new(narrow(number), facts, file.path.into(), packing, stat, config.hash_key);
    let untouched = stat == detail.stat;
    partition.stand_at(&Resume {
        offset: binding.end,
        lines: binding.lines,
        digest,
        finished: untouched && binding.status == PartitionStatus::Finished,
    });
    if !untouched {
        partition.check_all()?;
    }
    Ok(partition)
}

fn same_format(wanted: &Format, recorded: &str, name: &str) -> Result<Format, SourceError> {
    let format: Format =
        recorded.parse().map_err(|_| changed(name, &format!("its recorded format {recorded:?} is unknown")))?;
    if *wanted != Format::Guess && *wanted != format {
        let problem = format!("{name} was read as {recorded} before; leave --format {} away", wanted.name());
        return Err(SourceError::Usage(problem));
    }
    Ok(format)
}

fn examine(file: &Given) -> Result<(Stat, Packing), SourceError> {
    let found = Path::new(&file.path)
        .metadata()
        .and_then(|metadata| Ok((Stat::of(&metadata), Packing::of_file(Path::new(&file.path))?)));
    found.map_err(|source| SourceError::Io { partition: file.name.clone(), source })
}

/// What a file holds as far as its first lines show it; nothing if none of them is a record.
fn guessed(file: &Given, packing: Packing) -> Result<Arc<FileFacts>, SourceError> {
    let head = head_of(file, packing).map_err(|source| SourceError::Io { partition: file.name.clone(), source })?;
    let guess = head.guess();
    let shape = head.shape(guess.as_ref().map_or(0, |guess| guess.records));
    if let Some(problem) = shape.refusal(&file.name, packing != Packing::Plain) {
        return Err(SourceError::Changed { partition: file.name.clone(), problem });
    }
    let format = guess.as_ref().map(|guess| guess.format.clone());
    Ok(Arc::new(FileFacts::new(file.name.clone(), format, (guess, shape))))
}

/// A file's first lines.
fn head_of(file: &Given, packing: Packing) -> io::Result<Head> {
    const STEP: usize = 64 << 10;
    let (mut stream, _) = Stream::open(Path::new(&file.path), packing)?;
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

fn facts(name: String, format: Option<Format>) -> Arc<FileFacts> {
    Arc::new(FileFacts::new(name, format, (None, Shape::Text)))
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("nobody names four billion files")
}

fn not_given(name: &str, detail: &Detail) -> SourceError {
    if Path::new(&detail.path).exists() {
        changed(name, "it was read before and is not among the files given now")
    } else {
        vanished(name)
    }
}

fn vanished(name: &str) -> SourceError {
    changed(name, "it was read before and does not exist any more")
}

/// The refusal of a file that is not what was read, with the way out.
pub(super) fn changed(name: &str, problem: &str) -> SourceError {
    let problem = format!("{problem}; bring back what was read, or start in a new output folder");
    SourceError::Changed { partition: name.to_owned(), problem }
}
