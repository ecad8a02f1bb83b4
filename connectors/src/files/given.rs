//! The files as they were given: found, and looked into where that is needed.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, glob_with};
use tidemill_dataflow::source::{PartitionBinding, SourceError};

use super::content::{Form, Look, Stat, Stream};
use super::identity::vanished;
use super::notice::Notice;
use super::packing::{is_cut_short, repeated, unreadable};

/// Bytes compared at once.
const STEP: usize = 256 << 10;

/// A file that was given.
pub(super) struct Given {
    /// As it was given.
    pub(super) name: String,
    /// The canonical path.
    pub(super) path: String,
    pub(super) stat: Stat,
    look: OnceCell<Look>,
}

impl Given {
    pub(super) fn at(name: String, path: String) -> Result<Given, SourceError> {
        match Path::new(&path).metadata() {
            Ok(metadata) => Ok(Given { name, path, stat: Stat::of(&metadata), look: OnceCell::new() }),
            Err(source) => Err(SourceError::Io { partition: name, source }),
        }
    }

    /// What it starts with; read once.
    pub(super) fn look(&self) -> Result<&Look, SourceError> {
        if let Some(look) = self.look.get() {
            return Ok(look);
        }
        let look = Look::at(Path::new(&self.path), &self.name).map_err(|source| self.io(source))?;
        Ok(self.look.get_or_init(|| look))
    }

    pub(super) fn open(&self, form: Form) -> io::Result<Stream> {
        Stream::open(Path::new(&self.path), form).map(|(stream, _)| stream)
    }

    pub(super) fn io(&self, source: io::Error) -> SourceError {
        unreadable(self.name.clone(), source)
    }

    /// What can be read of it, if anything can: a file of another kind, or damaged in its head, is refused by its true name.
    pub(super) fn readable(&self) -> Result<&Look, SourceError> {
        let look = self.look()?;
        if let Some(problem) = &look.refusal {
            return Err(SourceError::Refused { partition: self.name.clone(), problem: problem.clone() });
        }
        match &look.broken {
            Some(error) => Err(self.io(repeated(error))),
            None => Ok(look),
        }
    }

    /// Whether there are fewer than `count` bytes of content.
    pub(super) fn is_shorter_than(&self, count: u64) -> Result<bool, SourceError> {
        let form = self.look()?.form;
        if form.is_seekable() {
            return Ok(self.stat.size < count);
        }
        let there = self.open(form).and_then(|mut stream| stream.pass(count, |_| ()));
        Ok(!there.or_else(whole_before).map_err(|source| self.io(source))?)
    }
}

/// A packed file that is still being written ends where it ends.
fn whole_before(error: io::Error) -> io::Result<bool> {
    if is_cut_short(&error) { Ok(false) } else { Err(error) }
}

/// How the contents of two files lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Same,
    /// The first is the beginning of the second.
    Begins,
    /// The second is the beginning of the first.
    Continues,
    Differs,
}

/// Compares two contents: by their heads, and only where these are alike by all of them.
pub(super) fn compare(one: &Given, other: &Given) -> Result<Relation, SourceError> {
    if one.stat.is_same_file(&other.stat) {
        return Ok(Relation::Same);
    }
    let (a, b) = (one.look()?, other.look()?);
    let common = a.head.len().min(b.head.len());
    // Files in which nothing stands have nothing in common.
    if common == 0 || a.head[..common] != b.head[..common] {
        return Ok(Relation::Differs);
    }
    if a.is_whole() || b.is_whole() {
        return Ok(by_length(a.head.len(), b.head.len()));
    }
    let open = |file: &Given, form| file.open(form).map_err(|source| file.io(source));
    let (mut first, mut second) = (open(one, a.form)?, open(other, b.form)?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        let next = |file: &Given, stream: &mut Stream, bytes: &mut Vec<u8>| {
            bytes.clear();
            let filled = stream.fill(bytes, STEP).map(|()| true).or_else(whole_before);
            filled.map_err(|source| file.io(source))
        };
        next(one, &mut first, &mut left)?;
        next(other, &mut second, &mut right)?;
        let both = left.len().min(right.len());
        if left[..both] != right[..both] {
            return Ok(Relation::Differs);
        }
        if left.len() < STEP || right.len() < STEP {
            return Ok(by_length(left.len(), right.len()));
        }
    }
}

fn by_length(one: usize, other: usize) -> Relation {
    match one.cmp(&other) {
        std::cmp::Ordering::Less => Relation::Begins,
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Greater => Relation::Continues,
    }
}

/// Finds the files: each path once, patterns that no shell expanded as a shell would.
pub(super) fn look_up(
    paths: &[PathBuf],
    recorded: &[PartitionBinding],
    notice: &Notice,
) -> Result<Vec<Given>, SourceError> {
    let mut by_path: BTreeMap<String, String> = BTreeMap::new();
    let mut given = Vec::with_capacity(paths.len());
    for path in expanded(paths)? {
        let name = text(&path)?;
        if name == "-" {
            return Err(no_file(&name));
        }
        let canonical = match path.canonicalize() {
            Ok(canonical) => canonical,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(&path, &name, recorded)),
            Err(source) => return Err(SourceError::Io { partition: name, source }),
        };
        if !canonical.is_file() {
            return Err(if canonical.is_dir() {
                SourceError::Usage(format!("input {name} is a folder; name the files to read, such as '{name}/*.log'"))
            } else {
                no_file(&name)
            });
        }
        let canonical = text(&canonical)?;
        if let Some(other) = by_path.insert(canonical.clone(), name.clone()) {
            notice.say(&if name == other {
                format!("{name} is given twice; it is read once")
            } else {
                format!("{name} is the same file as {other}; it is read once")
            });
            by_path.insert(canonical, other);
            continue;
        }
        given.push(Given::at(name, canonical)?);
    }
    Ok(given)
}

fn missing(path: &Path, name: &str, recorded: &[PartitionBinding]) -> SourceError {
    let absolute = std::path::absolute(path).unwrap_or_default();
    let is_this = |binding: &PartitionBinding| {
        binding.name == name || binding.detail.get("path").and_then(|p| p.as_str()) == absolute.to_str()
    };
    if recorded.iter().any(is_this) {
        vanished(name)
    } else if path.exists() {
        // A pipe has no canonical path.
        no_file(name)
    } else if name.contains("://") {
        SourceError::Usage(format!("input {name} is an address, and --input takes files; fetch it and give the file"))
    } else {
        SourceError::Usage(format!("input {name} does not exist; check the path"))
    }
}

/// Input that cannot be read twice: a run that goes on after a failure could not check what it read.
fn no_file(name: &str) -> SourceError {
    SourceError::Usage(format!("input {name} is no regular file; write what it gives into a file and name that"))
}

/// The paths, with patterns replaced by the files that they match, sorted.
fn expanded(paths: &[PathBuf]) -> Result<Vec<PathBuf>, SourceError> {
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        let pattern = path.to_string_lossy();
        if path.exists() || !pattern.contains(['*', '?', '[']) {
            found.push(path.clone());
            continue;
        }
        let as_a_shell =
            MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
        let matches = glob_with(&pattern, as_a_shell)
            .map_err(|error| SourceError::Usage(format!("input {pattern} is no pattern ({error})")))?;
        let mut files: Vec<_> = matches.filter_map(Result::ok).filter(|file| file.is_file()).collect();
        if files.is_empty() {
            return Err(SourceError::Usage(format!("input {pattern} matches no file; check the path")));
        }
        files.sort();
        found.append(&mut files);
    }
    Ok(found)
}

fn text(path: &Path) -> Result<String, SourceError> {
    let problem = || SourceError::Usage(format!("the path {} is not UTF-8; rename the file", path.display()));
    path.to_str().map(str::to_owned).ok_or_else(problem)
}
