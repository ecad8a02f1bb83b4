//! What the tests of live runs stand on: the processes of a run, the log that they read, and who looks on meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::Value;
use tidemill_embedded_log::{LogReader, Topic};
use tidemill_log::{FOLDER, Location, LogError, reader};
use tidemill_query::{Format, Lake};

use crate::rows::{RawEvent, Tables};

/// The topics of the collector, those of [`Totals`] first.
const TOPICS: [&str; 5] = ["events.page_view", "events.purchase", "events.error", "events.click", "events.other"];

/// The running processes that a process has started, by number. A supervisor's are its run.
#[must_use]
pub fn children(parent: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").expect("the kernel lists processes").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut children: Vec<u32> = pids.filter(|pid| state(*pid).is_some_and(|(_, of)| of == parent)).collect();
    children.sort_unstable();
    children
}

/// The processes of a supervised run, by their place in it.
#[must_use]
pub fn places(supervisor: u32) -> Vec<(u32, u32)> {
    let place = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0).skip_while(|word| *word != b"--process-index").skip(1);
        // One process alone has no number. Before it became the program, a child looks like its parent.
        let number = words.next().map_or(Some(0), |word| std::str::from_utf8(word).ok()?.parse().ok());
        number.map(|number| (number, pid))
    };
    let mut found: Vec<_> = children(supervisor).into_iter().filter_map(place).collect();
    found.sort_unstable();
    found
}

/// Sends a signal by name to any process; one that is gone does not mind.
///
/// # Panics
/// When there is no shell.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid} 2>/dev/null")]).status();
    sent.expect("a shell to send signals with");
}

/// Whether a process has ended, whoever has yet to take note of it.
#[must_use]
pub fn ended(pid: u32) -> bool {
    state(pid).is_none()
}

/// The state and the parent of a process that has not ended.
fn state(pid: u32) -> Option<(char, u32)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut words = line[line.rfind(')')? + 1..].split_whitespace();
    let state = words.next()?.chars().next()?;
    (!matches!(state, 'Z' | 'X')).then_some((state, words.next()?.parse().ok()?))
}

/// How many records the run in a folder has committed, with those that were malformed; none before its first start.
///
/// # Panics
/// When its log cannot be read.
#[must_use]
pub fn committed(data: &Path) -> u64 {
    counts(data).iter().filter(|(name, _)| name.ends_with("/read")).map(|(_, n)| n).sum()
}

/// What the run in a folder has counted, as `operator/counter`, by its last commit; nothing before its first start.
///
/// # Panics
/// When its log cannot be read.
#[must_use]
pub fn counts(data: &Path) -> BTreeMap<String, u64> {
    let Ok(place) = Location::from(data).open_for_reading() else { return BTreeMap::new() };
    match reader::read(Arc::clone(&place.store), FOLDER) {
        Ok(state) => state.counts().clone(),
        Err(LogError::NotInitialized { .. }) => BTreeMap::new(),
        Err(error) => panic!("{}: {error}", data.display()),
    }
}

/// An embedded log with the topics of the collector.
#[derive(Clone, Debug)]
pub struct EventLog {
    root: PathBuf,
}

impl EventLog {
    /// The log in a folder.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> EventLog {
        EventLog { root: root.into() }
    }

    /// Its address on a command line.
    #[must_use]
    pub fn address(&self) -> String {
        format!("log://{}", self.root.display())
    }

    /// How many records readers see.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.readers().into_iter().map(|(_, mut reader)| reader.end().expect("a partition has an end")).sum()
    }

    /// Shows every record to `see`, with its partition's name among the inputs of a run and its offset, one partition
    /// after the other.
    ///
    /// # Panics
    /// When one cannot be read.
    pub fn for_each(&self, mut see: impl FnMut(&str, u64, &[u8])) {
        for topic in TOPICS {
            for (partition, mut reader) in self.readers_of(topic).into_iter().enumerate() {
                let name = format!("{topic}/{partition}");
                while let Some((offset, record)) = reader.next().expect("what was published can be read") {
                    see(&name, offset, record.value);
                }
            }
        }
    }

    /// All records as lines, each partition from its first to its last, in an order in which a run that wrote `tables`
    /// may have read them: of different events in different partitions under one id, either may have come first.
    ///
    /// # Panics
    /// When one cannot be read.
    #[must_use]
    pub fn lines_as_read(&self, tables: &Tables) -> Vec<u8> {
        let row = |row: &RawEvent| (row.event_id.clone(), (row.user_id.clone(), row.timestamp.0));
        let kept: BTreeMap<_, _> = tables.raw_events.iter().map(row).collect();
        let (mut first, mut then) = (Vec::new(), Vec::new());
        for (_, mut reader) in self.readers() {
            while let Some((_, record)) = reader.next().expect("what was published can be read") {
                let was_kept = serde_json::from_slice::<Copy>(record.value)
                    .is_ok_and(|copy| kept.get(&copy.event_id) == Some(&(copy.user_id, copy.timestamp)));
                let lines = if was_kept { &mut first } else { &mut then };
                lines.extend_from_slice(record.value);
                lines.push(b'\n');
            }
        }
        first.append(&mut then);
        first
    }

    /// A reader at the start of each partition, with its topic's place in [`TOPICS`].
    fn readers(&self) -> Vec<(usize, LogReader)> {
        let of_topic = |(at, name)| self.readers_of(name).into_iter().map(move |reader| (at, reader));
        TOPICS.into_iter().enumerate().flat_map(of_topic).collect()
    }

    /// A reader at the start of each partition of a topic; none of one that is not there.
    fn readers_of(&self, name: &str) -> Vec<LogReader> {
        let Some(topic) = Topic::find(&self.root, name).expect("a topic that can be read") else { return Vec::new() };
        let open = |partition| LogReader::open(&self.root, name, partition).expect("the topic is there");
        (0..topic.partitions).map(open).collect()
    }
}

/// What readers count: views, orders, errors, events in sessions.
pub type Totals = [u64; 4];

/// All of them at one commit.
const WATCHED: &str = "SELECT (SELECT sum(views) FROM page_views_by_minute) AS views, \
                       (SELECT sum(orders) FROM revenue_by_minute) AS orders, \
                       (SELECT sum(errors) FROM errors_by_version_by_minute) AS errors, \
                       (SELECT sum(event_count) FROM sessions) AS events";
const NAMES: [&str; 4] = ["views", "orders", "errors", "events"];

/// Different events that the log holds, by topic, read as they come.
struct Stored {
    readers: Vec<(usize, LogReader)>,
    ids: [BTreeSet<String>; TOPICS.len()],
}

/// What tells the copies of an event from another one under its id.
#[derive(Deserialize)]
struct Copy {
    event_id: String,
    user_id: String,
    timestamp: i64,
}

impl Stored {
    fn new(log: &EventLog) -> Stored {
        Stored { readers: log.readers(), ids: Default::default() }
    }

    /// The most that may be visible now.
    fn limit(&mut self) -> Totals {
        for (topic, reader) in &mut self.readers {
            while let Some((_, record)) = reader.next().expect("what was published can be read") {
                let event: Copy = serde_json::from_slice(record.value).expect("the collector stores events");
                self.ids[*topic].insert(event.event_id);
            }
        }
        let [views, orders, errors, ..] = [0, 1, 2].map(|topic| self.ids[topic].len() as u64);
        [views, orders, errors, self.ids.iter().map(|ids| ids.len() as u64).sum()]
    }
}

/// Reads the tables in `data` until it is told to stop; gives how many times it could, and the last totals.
///
/// # Panics
/// When something shrank, is more than the log holds, or cannot be read any more.
#[must_use]
pub fn watch(data: &Path, log: &EventLog, stop: &Receiver<()>) -> (u64, Totals) {
    const TICK: Duration = Duration::from_millis(100);
    let (mut stored, mut before, mut looks) = (Stored::new(log), Totals::default(), 0);
    while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        let now = match totals(data) {
            Ok(now) => now,
            // Before the first commit there is nothing to read.
            Err(_) if looks == 0 => continue,
            Err(reason) => panic!("what could be read cannot be read any more: {reason}"),
        };
        let limit = stored.limit();
        for (at, name) in NAMES.into_iter().enumerate() {
            assert!(now[at] >= before[at], "{name}: {} were visible, now {}", before[at], now[at]);
            assert!(now[at] <= limit[at], "{name}: {} are visible, only {} were sent", now[at], limit[at]);
        }
        (before, looks) = (now, looks + 1);
    }
    (looks, before)
}

fn totals(data: &Path) -> Result<Totals, String> {
    let answer = Lake::open(data, tidemill_tables::web_analytics::all())
        .and_then(|lake| lake.sql(WATCHED))
        .map_err(|error| error.to_string())?;
    let mut line = Vec::new();
    Format::Ndjson.write(&answer, &mut line).map_err(|error| error.to_string())?;
    let row: Value = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
    Ok(NAMES.map(|name| row[name].as_u64().unwrap_or(0)))
}

/// Who is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The collector.
    Collector,
    /// A process of the run, whichever comes at this place when they are counted round.
    Worker(usize),
    /// What watches over the run.
    Supervisor,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// `kill -9`; who died is started again.
    Kill(Who),
    /// SIGSTOP for so long.
    Sleep(Who, Duration),
    /// The run is asked to end and started with other numbers.
    Rescale,
}

/// One step of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Peace before it.
    pub before: Duration,
    /// What happens.
    pub blow: Blow,
    /// Processes, and workers of each, of the run that is started, if one is.
    pub shape: (u32, usize),
}

/// The numbers of processes and of workers of each that a run is started with.
pub const SHAPES: [(u32, usize); 4] = [(1, 1), (1, 3), (2, 1), (2, 2)];

/// So many steps by a seed, none asleep for longer than `longest`. Each kind of blow comes at least once in nine.
#[must_use]
pub fn schedule(seed: u64, steps: u64, longest: Duration) -> Vec<Step> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut blows = Vec::new();
    let step = |_| {
        if blows.is_empty() {
            let mut asleep = |who| Blow::Sleep(who, longest.mul_f64(dice.random_range(0.15..1.0)));
            blows = vec![asleep(Who::Collector), asleep(Who::Worker(0)), asleep(Who::Supervisor), Blow::Rescale];
            blows.extend([Who::Worker(0), Who::Worker(0), Who::Supervisor, Who::Supervisor].map(Blow::Kill));
            blows.push(Blow::Kill(Who::Collector));
            for blow in &mut blows {
                if let Blow::Kill(Who::Worker(place)) | Blow::Sleep(Who::Worker(place), _) = blow {
                    *place = dice.random_range(0..12);
                }
            }
            blows.shuffle(&mut dice);
        }
        Step {
            before: Duration::from_millis(dice.random_range(300..1_500)),
            blow: blows.pop().expect("it was filled"),
            shape: SHAPES[dice.random_range(0..SHAPES.len())],
        }
    };
    (0..steps).map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_depends_on_its_seed_alone_and_hits_everyone() {
        let longest = Duration::from_secs(6);
        let steps = schedule(7, 18, longest);
        assert_eq!(steps, schedule(7, 18, longest));
        assert_ne!(steps, schedule(8, 18, longest));
        let count = |wanted: fn(&Blow) -> bool| steps.iter().filter(|step| wanted(&step.blow)).count();
        assert_eq!(count(|blow| matches!(blow, Blow::Kill(Who::Collector))), 2);
        assert_eq!(count(|blow| matches!(blow, Blow::Kill(Who::Worker(_)))), 4);
        assert_eq!(count(|blow| matches!(blow, Blow::Kill(Who::Supervisor))), 4);
        assert_eq!(count(|blow| matches!(blow, Blow::Sleep(_, span) if *span <= Duration::from_secs(6))), 6);
    }

    #[test]
    fn a_child_is_found_and_its_end_seen() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        assert!(!ended(child.id()));
        signal(child.id(), "KILL");
        child.wait().unwrap();
        assert!(ended(child.id()));
    }
}
