//! Which of the given files holds what a recorded partition is: its content, wherever it lies by now.
//!
//! A file that nobody wrote to since is taken at its word. Others are known by their first bytes and the digest of all that
//! was read, so a file may be renamed, copied or packed. Of two files that hold the same, one is read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tidemill_dataflow::source::{PartitionBinding, SourceError};
use tidemill_log::PartitionStatus;

use super::content::{Form, Look, Stream};
use super::digest::{ContentDigest, RecordedDigest};
use super::encoding::Encoding;
use super::given::{Given, Relation, compare};
use super::identity::{Detail, changed, not_given, rotated, vanished};
use super::packing::unreadable;
use super::reader::OPEN_FILES;

/// How many files of a folder are looked at for one that is missed.
const LOOKED_AT: usize = 10_000;

/// A recorded partition.
pub(super) struct Known<'a> {
    /// Where reading goes on.
    pub(super) at: &'a PartitionBinding,
    /// How far it was read by all runs before, and its digest up to there.
    pub(super) bound: &'a PartitionBinding,
    pub(super) detail: Detail,
    pub(super) form: Form,
    digest: Option<RecordedDigest>,
}

impl<'a> Known<'a> {
    pub(super) fn new(at: &'a PartitionBinding, bound: &'a PartitionBinding) -> Result<Known<'a>, SourceError> {
        let detail: Detail = serde_json::from_value(bound.detail.clone())
            .map_err(|error| changed(&bound.name, &format!("its record cannot be read ({error})")))?;
        let form = Form::named(&detail.packing).ok_or_else(|| {
            changed(&bound.name, &format!("it is recorded as {:?}, which this build does not know", detail.packing))
        })?;
        let digest = RecordedDigest::parse(&bound.digest);
        if digest.is_none() && bound.end > 0 {
            return Err(changed(&bound.name, "the recorded digest cannot be read"));
        }
        Ok(Known { at, bound, detail, form, digest })
    }

    /// Whether nothing of it is to be read again.
    pub(super) fn is_bound_as_it_stands(&self) -> bool {
        self.bound.end > 0 && self.at.end == self.bound.end
    }

    /// Whether nothing of it is to be read again, and nothing was left when it was last looked at.
    fn is_read(&self) -> bool {
        self.at.end == self.bound.end && self.bound.status == PartitionStatus::Finished
    }

    /// Whether nothing that was read of it counts anywhere: whoever corrects such a file wants it read anew.
    pub(super) fn is_without_records(&self) -> bool {
        self.is_bound_as_it_stands() && self.detail.is_without_records()
    }

    /// Whether the file begins as this did, as far as first bytes tell.
    fn may_begin(&self, look: &Look) -> bool {
        self.detail.head.as_ref().is_none_or(|mark| mark.is_longer_than(&look.head) || mark.fits(&look.head))
    }

    /// Whether the file holds a part of it, and nothing else: an older copy. First bytes alone do not tell that, many exports
    /// begin alike, so it must also have a name of the same rotation.
    fn goes_beyond(&self, file: &Given) -> Result<bool, SourceError> {
        let path = &self.detail.path;
        if file.path == *path || rotation_of(&file.path) != rotation_of(path) {
            return Ok(false);
        }
        let mark = self.detail.head.as_ref();
        let look = file.look()?;
        Ok(mark.is_some_and(|mark| mark.fits(&look.head)) && file.is_shorter_than(self.bound.end)?)
    }

    /// Reads the file as far as this was read and compares. `Err` says what is different.
    fn held_by(&self, file: &Given) -> Result<Result<Found, String>, SourceError> {
        let (end, name) = (self.bound.end, &self.bound.name);
        let Some(recorded) = self.digest else { return Ok(Err(String::new())) };
        let look = file.look()?;
        // What was read without being decoded stays so.
        let raw = self.form.encoding == Encoding::Utf8;
        let encoding = if raw { self.form.encoding } else { look.form.encoding };
        let form = Form { encoding, ..look.form };
        if form.is_seekable() && file.stat.size < end {
            return Ok(Err(format!("{end} bytes of it were read and it has {} now", file.stat.size)));
        }
        let other = format!("its first {end} bytes are not what was read before");
        let mark = self.detail.head.as_ref().filter(|mark| form == look.form && mark.bytes as u64 <= end);
        if mark.is_some_and(|mark| !mark.fits(&look.head)) {
            return Ok(Err(other));
        }
        let mut digest = ContentDigest::default();
        let read = file.open(form).and_then(|mut stream| {
            let whole = stream.pass(end, |bytes| digest.update(bytes))?;
            Ok((stream, whole))
        });
        let (stream, whole) = read.map_err(|source| unreadable(name.clone(), source))?;
        Ok(if !whole {
            Err(format!("{end} bytes of it were read and it is shorter now"))
        } else if digest.record(recorded.last_line) != recorded {
            Err(other)
        } else {
            let stream = (!form.is_seekable()).then_some(stream);
            Ok(Found { given: 0, form, held: Some(Box::new(Held { digest, stream })) })
        })
    }
}

/// A path without what a rotation puts behind it: `.1`, `.gz`. A date stays, each is another content.
fn rotation_of(path: &str) -> &str {
    let mut base = path;
    while let Some((before, suffix)) = base.rsplit_once('.') {
        let is_number = (1..=3).contains(&suffix.len()) && suffix.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number && !matches!(suffix, "gz" | "zst" | "xz" | "bz2") {
            break;
        }
        base = before;
    }
    base
}

/// The file in which a recorded partition goes on.
pub(super) struct Found {
    /// Its place among those given.
    pub(super) given: usize,
    pub(super) form: Form,
    /// What was read of it to know it, up to where the partition was bound.
    pub(super) held: Option<Box<Held>>,
}

pub(super) struct Held {
    pub(super) digest: ContentDigest,
    /// Worth keeping where it cannot be gone to at once, and of some files only: each is an open file.
    pub(super) stream: Option<Stream>,
}

/// What became of a recorded partition.
pub(super) enum Fate {
    Found(Found),
    /// All of it was read, and its file was deleted or truncated since.
    Gone,
    /// No line of it was a record, and its file holds something else now.
    Corrected,
}

/// Finds each recorded partition among the given files.
pub(super) fn assign(recorded: &[Known<'_>], given: &[Given]) -> Result<Vec<Fate>, SourceError> {
    let mut places: Vec<Option<Found>> = recorded.iter().map(|_| None).collect();
    let mut taken = BTreeSet::new();
    let by_path: BTreeMap<&str, usize> =
        given.iter().zip(0..).map(|(file, number)| (file.path.as_str(), number)).collect();
    let mut by_file: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
    for (number, file) in given.iter().enumerate() {
        by_file.entry(file.stat.file()).or_default().push(number);
    }
    let untouched = |known: &Known<'_>| {
        by_path.get(known.detail.path.as_str()).copied().filter(|number| given[*number].stat == known.detail.stat)
    };
    let same_file = |known: &Known<'_>, but: &BTreeSet<usize>, rule: &dyn Fn(&Given) -> bool| {
        let files = by_file.get(&known.detail.stat.file()).into_iter().flatten().copied();
        files.into_iter().find(|number| !but.contains(number) && rule(&given[*number]))
    };
    for (place, known) in places.iter_mut().zip(recorded) {
        if let Some(number) = untouched(known).filter(|number| taken.insert(*number)) {
            *place = Some(Found { given: number, form: known.form, held: None });
        }
    }
    for (place, known) in places.iter_mut().zip(recorded).filter(|(place, _)| place.is_none()) {
        // It was renamed at most.
        if let Some(number) = same_file(known, &taken, &|file| file.stat.is_unwritten(&known.detail.stat)) {
            taken.insert(number);
            *place = Some(Found { given: number, form: known.form, held: None });
        }
    }
    let mut open = 0;
    let mut problems: Vec<Option<Problem>> = recorded.iter().map(|_| None).collect();
    for (number, known) in recorded.iter().enumerate().filter(|(_, known)| known.bound.end > 0) {
        if places[number].is_none() {
            let mut found = by_content(known, given, &taken, &mut problems[number])?;
            taken.extend(found.iter().map(|found| found.given));
            if let Some(held) = found.iter_mut().find_map(|found| found.held.as_mut()) {
                held.stream = held.stream.take().filter(|_| open < OPEN_FILES);
                open += usize::from(held.stream.is_some());
            }
            places[number] = found;
        }
    }
    // Of those in which nothing was read, the content cannot tell.
    for (place, known) in places.iter_mut().zip(recorded).filter(|(place, _)| place.is_none()) {
        let at_its_path = || by_path.get(known.detail.path.as_str()).copied().filter(|number| !taken.contains(number));
        let number = same_file(known, &taken, &|_| true).or_else(at_its_path).filter(|_| known.bound.end == 0);
        if let Some(number) = number {
            taken.insert(number);
            *place = Some(Found { given: number, form: known.form, held: None });
        }
    }
    let lost = Lost { recorded, given, places: &places, taken: &taken };
    let of_lost = |(number, problem)| match lost.places[number] {
        Some(_) => Ok(None),
        None => lost.fate_of(&recorded[number], problem).map(Some),
    };
    let fates: Vec<_> = problems.into_iter().enumerate().map(of_lost).collect::<Result<_, SourceError>>()?;
    let fate = |(place, fate): (Option<Found>, Option<Fate>)| place.map(Fate::Found).or(fate).unwrap_or(Fate::Gone);
    Ok(places.into_iter().zip(fates).map(fate).collect())
}

/// Why the file at a partition's path is not it.
enum Problem {
    Differs(String),
    Unreadable(SourceError),
}

/// The first file that holds what was read: the same file first, then the one of the same path, then any.
fn by_content(
    known: &Known<'_>,
    given: &[Given],
    taken: &BTreeSet<usize>,
    problem: &mut Option<Problem>,
) -> Result<Option<Found>, SourceError> {
    let is_own = |file: &Given| file.stat.is_same_file(&known.detail.stat);
    let at_its_path = |file: &Given| file.path == known.detail.path;
    let mut candidates: Vec<_> = (0..given.len()).filter(|number| !taken.contains(number)).collect();
    candidates.sort_by_key(|number| (!is_own(&given[*number]), !at_its_path(&given[*number])));
    for number in candidates {
        let file = &given[number];
        match known.held_by(file) {
            // A copy does not stand for a file that is there and was left out.
            Ok(Ok(_)) if !at_its_path(file) && is_left_out(known, given) => {
                return Err(not_given(&known.bound.name, &known.detail.path, &known.detail.path));
            }
            Ok(Ok(found)) => return Ok(Some(Found { given: number, ..found })),
            Ok(Err(difference)) if at_its_path(file) => *problem = Some(Problem::Differs(difference)),
            Err(error) if at_its_path(file) => *problem = Some(Problem::Unreadable(error)),
            // What cannot be read is refused by its own name, if it is to be read at all.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Ok(None)
}

/// Decides about partitions that no given file holds.
struct Lost<'a> {
    recorded: &'a [Known<'a>],
    given: &'a [Given],
    places: &'a [Option<Found>],
    taken: &'a BTreeSet<usize>,
}

impl Lost<'_> {
    /// Refuses a partition of which something may be left to read, or that was changed.
    fn fate_of(&self, known: &Known<'_>, problem: Option<Problem>) -> Result<Fate, SourceError> {
        let name = &known.bound.name;
        if known.bound.end == 0 || known.detail.gone && known.is_read() {
            return Ok(Fate::Gone);
        }
        if let Some(Problem::Unreadable(error)) = problem {
            return Err(error);
        }
        let own = self.given.iter().position(|file| file.path == known.detail.path);
        if own.is_some_and(|own| known.is_read() && self.moved_into(own)) {
            return Ok(Fate::Gone);
        }
        if let Some(path) = self.elsewhere(known) {
            return Err(not_given(name, &known.detail.path, &path));
        }
        let Some(own) = own else {
            return if known.is_read() { Ok(Fate::Gone) } else { Err(vanished(name)) };
        };
        let is_truncated = self.given[own].stat.size == 0 && self.given[own].stat.is_same_file(&known.detail.stat);
        if known.is_read() && (is_truncated || self.was_rotated(known) || self.left_a_part(known, own)?) {
            return Ok(Fate::Gone);
        }
        if known.is_read() && known.is_without_records() {
            return Ok(Fate::Corrected);
        }
        let Some(Problem::Differs(difference)) = problem else {
            return Err(rotated(name, &known.detail.path, "other lines stand in its place now"));
        };
        Err(rotated(name, &known.detail.path, &difference))
    }

    /// Whether the file holds a recorded partition that lay elsewhere before.
    fn moved_into(&self, file: usize) -> bool {
        let holds = |(known, place): (&Known<'_>, &Option<Found>)| {
            place.as_ref().is_some_and(|found| found.given == file) && known.detail.path != self.given[file].path
        };
        self.recorded.iter().zip(self.places).any(holds)
    }

    /// Whether a partition of the same folder that was written to no earlier was found under another name: then so much was
    /// rotated that this one may have been deleted.
    fn was_rotated(&self, lost: &Known<'_>) -> bool {
        let folder = |known: &Known<'_>| Path::new(&known.detail.path).parent().map(Path::to_owned);
        let time = |known: &Known<'_>| (known.detail.stat.mtime, known.detail.stat.mtime_ns);
        self.recorded.iter().zip(self.places).any(|(known, place)| {
            let moved = place.as_ref().is_some_and(|found| self.given[found.given].path != known.detail.path);
            moved && folder(known) == folder(lost) && time(known) >= time(lost)
        })
    }

    /// Whether a file that is given holds the beginning of it: a copy that was made before the rest was read.
    fn left_a_part(&self, lost: &Known<'_>, own: usize) -> Result<bool, SourceError> {
        for (number, file) in self.given.iter().enumerate() {
            if number != own && !self.taken.contains(&number) && lost.goes_beyond(file)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A file that holds it and lies where it lay, but is not given.
    fn elsewhere(&self, known: &Known<'_>) -> Option<String> {
        let folder = Path::new(&known.detail.path).parent()?;
        let files = folder.read_dir().ok()?.take(LOOKED_AT).filter_map(Result::ok);
        let paths = files.map(|entry| entry.path()).filter(|path| path.is_file());
        paths.filter_map(|path| path.to_str().map(str::to_owned)).find(|path| {
            let is_given = self.given.iter().any(|file| file.path == *path);
            !is_given && Given::at(path.clone(), path.clone()).is_ok_and(|file| is_held(known, &file))
        })
    }
}

/// Whether the file at its path still holds it, and is not given.
fn is_left_out(known: &Known<'_>, given: &[Given]) -> bool {
    let path = &known.detail.path;
    given.iter().all(|file| file.path != *path)
        && Given::at(path.clone(), path.clone()).is_ok_and(|file| is_held(known, &file))
}

/// Whether a file that is not given holds it.
fn is_held(known: &Known<'_>, file: &Given) -> bool {
    // Without first bytes to compare, all files would have to be read.
    let alike = || known.detail.head.is_some() && file.look().is_ok_and(|look| known.may_begin(look));
    let same = file.stat.is_same_file(&known.detail.stat);
    file.stat.is_unwritten(&known.detail.stat) || (same || alike()) && matches!(known.held_by(file), Ok(Ok(_)))
}

/// A file that is not read, since another holds all that it does.
pub(super) struct Twin {
    pub(super) given: usize,
    /// The name of the other.
    pub(super) of: String,
}

/// Of two files with the same content one is read, and of one that continues another only the longer. Gives the new files
/// that are left, in their order, and which file is counted with which.
pub(super) fn told_apart(
    recorded: &[Known<'_>],
    fates: &mut [Fate],
    given: &[Given],
) -> Result<(Vec<usize>, Vec<Twin>), SourceError> {
    let place = |fate: &Fate| if let Fate::Found(found) = fate { Some(found.given) } else { None };
    let taken: BTreeSet<usize> = fates.iter().filter_map(place).collect();
    let (mut kept, mut twins): (Vec<usize>, Vec<Twin>) = (Vec::new(), Vec::new());
    'files: for number in (0..given.len()).filter(|number| !taken.contains(number)) {
        let file = &given[number];
        let look = file.look()?;
        for (known, fate) in recorded.iter().zip(&mut *fates) {
            match fate {
                Fate::Gone if known.goes_beyond(file)? => {
                    twins.push(Twin { given: number, of: known.bound.name.clone() });
                    continue 'files;
                }
                Fate::Found(found) if known.may_begin(look) => match compare(file, &given[found.given])? {
                    Relation::Same | Relation::Begins => {
                        twins.push(Twin { given: number, of: given[found.given].name.clone() });
                        continue 'files;
                    }
                    Relation::Continues if given[found.given].look()?.form.encoding == known.form.encoding => {
                        twins.push(Twin { given: found.given, of: file.name.clone() });
                        *found = Found { given: number, form: look.form, held: None };
                        continue 'files;
                    }
                    Relation::Continues | Relation::Differs => {}
                },
                Fate::Gone | Fate::Corrected | Fate::Found(_) => {}
            }
        }
        for at in 0..kept.len() {
            let other = kept[at];
            match compare(file, &given[other])? {
                Relation::Same | Relation::Begins => {
                    twins.push(Twin { given: number, of: given[other].name.clone() });
                    continue 'files;
                }
                Relation::Continues => {
                    twins.push(Twin { given: other, of: file.name.clone() });
                    kept.remove(at);
                    break;
                }
                Relation::Differs => {}
            }
        }
        kept.push(number);
    }
    Ok((kept, twins))
}
