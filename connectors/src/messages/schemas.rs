//! Which Avro messages of a partition are read, waited for, or given up. No I/O and no clock: times are passed in.
//!
//! Promises:
//! - An id that the registry does not have is waited for, and asked for again; only after the stated time its messages are
//!   given up, and read again from the message on at which the registry has it.
//! - What was decided for a message is recorded with its epoch, and a replay decides the same (INV-5), whatever the registry
//!   says by then.
//! - A producer of garbage invents ids without end. Those that come one after another, each within the stated time of the one
//!   before, are waited for once, not one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

/// The pause before an id is asked for again; doubled each time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often an id that was given up is asked for.
const NOW_AND_THEN: Duration = Duration::from_secs(30);
/// So many ids that were given up are remembered.
const MOST: usize = 1_000;
/// The member of a partition's recorded detail.
const MEMBER: &str = "schemas";

/// The schema's id in a message of Confluent framing; `None` where it is too short for one.
#[must_use]
pub fn schema_id(framed: &[u8]) -> Option<i32> {
    match framed.first_chunk::<5>()? {
        [0, id @ ..] => Some(i32::from_be_bytes(*id)),
        _ => None,
    }
}

/// What is done with a message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It is read by its schema.
    Read,
    /// It is a dead letter: its schema was not to be had.
    Unread,
    /// It is waited with.
    Wait,
}

/// What the registry said when it was asked for a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is at hand.
    Known,
    /// There is none of that id.
    Unknown,
    /// There was no answer.
    None,
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The partition begins to wait.
    Waits,
    /// What was waited for is there.
    There,
    /// Messages of the id are dead letters from here on.
    GivenUp,
    /// They are read from here on.
    ReadAgain,
}

/// What was recorded of the messages of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Recorded {
    /// Nothing, by a version that did not.
    Unsaid,
    /// All were read.
    All,
    /// Those of these ids, from these offsets on.
    From(BTreeMap<i32, u64>),
}

struct Waiting {
    id: i32,
    since: Duration,
    asked: Duration,
    pause: Duration,
}

/// The schemas of one partition.
pub struct Schemas {
    /// How long an id that the registry does not have is waited for.
    patience: Duration,
    /// Where each id was read first.
    read: BTreeMap<i32, u64>,
    any: bool,
    any_unread: bool,
    /// The last id that was read, and needs no question.
    last: Option<i32>,
    waiting: Option<Waiting>,
    /// Ids that were given up, and when they were asked for.
    given_up: BTreeMap<i32, Duration>,
    /// When an id was last given up for the first time.
    gave_up: Option<Duration>,
    /// What an earlier run decided, up to this offset.
    recorded: Option<(u64, Recorded)>,
}

impl Schemas {
    /// Of a partition that waits so long for an id that the registry does not have.
    #[must_use]
    pub fn new(patience: Duration) -> Schemas {
        let (read, given_up) = (BTreeMap::new(), BTreeMap::new());
        let (last, waiting, gave_up, recorded) = (None, None, None, None);
        Schemas { patience, read, any: false, any_unread: false, last, waiting, given_up, gave_up, recorded }
    }

    /// What follows through `end` was decided before, as this detail says.
    pub fn recall(&mut self, end: u64, detail: &Value) {
        let recorded = match detail.get(MEMBER) {
            None => Recorded::Unsaid,
            Some(Value::Object(ids)) => {
                let pairs = ids.iter().filter_map(|(id, from)| Some((id.parse().ok()?, from.as_u64()?)));
                Recorded::From(pairs.collect())
            }
            Some(_) => Recorded::All,
        };
        self.recorded = Some((end, recorded));
        self.last = None;
    }

    /// Adds to a partition's detail what was decided of its messages.
    pub fn record(&self, detail: &mut Value) {
        if self.any {
            detail[MEMBER] = if self.any_unread {
                self.read
                    .iter()
                    .map(|(id, from)| (id.to_string(), json!(from)))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            } else {
                json!("all")
            };
        }
    }

    fn recorded(&self, offset: u64) -> Option<&Recorded> {
        self.recorded.as_ref().filter(|(end, _)| offset < *end).map(|(_, recorded)| recorded)
    }

    /// What is known of a message without asking; `None`: the registry is to be asked, now.
    #[must_use]
    pub fn known(&mut self, id: i32, offset: u64, now: Duration) -> Option<Reading> {
        if self.last == Some(id) {
            return Some(Reading::Read);
        }
        if let Some(Recorded::From(ids)) = self.recorded(offset)
            && ids.get(&id).is_none_or(|from| *from > offset)
        {
            return Some(self.unread());
        }
        let waits = self.waiting.as_ref().filter(|waiting| waiting.id == id);
        if waits.is_some_and(|waiting| now.saturating_sub(waiting.asked) < waiting.pause) {
            return Some(Reading::Wait);
        }
        let given_up = self.given_up.get(&id).filter(|_| self.recorded(offset).is_none());
        if given_up.is_some_and(|asked| now.saturating_sub(*asked) < NOW_AND_THEN) {
            return Some(self.unread());
        }
        None
    }

    /// What follows from the registry's answer.
    pub fn answered(&mut self, (id, offset): (i32, u64), answer: Answer, now: Duration) -> (Reading, Option<Told>) {
        match (answer, self.recorded(offset)) {
            (Answer::Known, _) | (Answer::Unknown, Some(Recorded::Unsaid)) => {
                let waited = self.waiting.take_if(|waiting| waiting.id == id).map(|_| Told::There);
                let told = if self.given_up.remove(&id).is_some() { Some(Told::ReadAgain) } else { waited };
                if answer == Answer::Known {
                    self.last = Some(id);
                    self.any = true;
                    self.read.entry(id).or_insert(offset);
                }
                (Reading::Read, told)
            }
            // What was read before must be read again, however long that takes.
            (Answer::Unknown, Some(_)) | (Answer::None, _) => self.wait(id, now),
            (Answer::Unknown, None) => {
                let known_to_be_missing = self.given_up.contains_key(&id);
                let again = self.gave_up.is_some_and(|last| now.saturating_sub(last) < self.patience);
                let since =
                    self.waiting.as_ref().filter(|waiting| waiting.id == id).map_or(now, |waiting| waiting.since);
                let enough = now.saturating_sub(since) >= self.patience || id <= 0;
                if !(known_to_be_missing || again || enough) {
                    return self.wait(id, now);
                }
                self.waiting = None;
                if self.given_up.len() >= MOST {
                    self.given_up.pop_first();
                }
                self.given_up.insert(id, now);
                if id > 0 && !known_to_be_missing {
                    self.gave_up = Some(now);
                }
                (self.unread(), (!known_to_be_missing).then_some(Told::GivenUp))
            }
        }
    }

    fn unread(&mut self) -> Reading {
        self.any = true;
        self.any_unread = true;
        Reading::Unread
    }

    fn wait(&mut self, id: i32, now: Duration) -> (Reading, Option<Told>) {
        match &mut self.waiting {
            Some(waiting) if waiting.id == id => {
                waiting.asked = now;
                waiting.pause = (waiting.pause * 2).min(LONGEST_PAUSE);
                (Reading::Wait, None)
            }
            other => {
                *other = Some(Waiting { id, since: now, asked: now, pause: FIRST_PAUSE });
                (Reading::Wait, Some(Told::Waits))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn detail(schemas: &Schemas) -> Value {
        let mut detail = json!({});
        schemas.record(&mut detail);
        detail
    }

    #[test]
    fn an_id_that_is_registered_late_is_waited_for_and_read() {
        let mut schemas = Schemas::new(PATIENCE);
        assert_eq!(schemas.known(7, 10, at(0)), None);
        assert_eq!(schemas.answered((7, 10), Answer::Unknown, at(0)), (Reading::Wait, Some(Told::Waits)));
        assert_eq!(schemas.known(7, 10, at(0)), Some(Reading::Wait));
        assert_eq!(schemas.known(7, 10, at(1)), None, "it is asked for again");
        assert_eq!(schemas.answered((7, 10), Answer::Unknown, at(1)), (Reading::Wait, None));
        assert_eq!(schemas.answered((7, 10), Answer::Known, at(2)), (Reading::Read, Some(Told::There)));
        assert_eq!(schemas.known(7, 11, at(2)), Some(Reading::Read));
        assert_eq!(detail(&schemas), json!({"schemas": "all"}));
    }

    #[test]
    fn an_id_that_never_comes_is_given_up_after_the_stated_time_and_read_once_it_is_there() {
        let mut schemas = Schemas::new(PATIENCE);
        schemas.answered((7, 10), Answer::Unknown, at(0));
        assert_eq!(schemas.answered((7, 10), Answer::None, at(400)), (Reading::Wait, None), "an outage is no answer");
        assert_eq!(schemas.answered((7, 10), Answer::Unknown, at(401)), (Reading::Unread, Some(Told::GivenUp)));
        assert_eq!(schemas.known(7, 11, at(410)), Some(Reading::Unread));
        assert_eq!(schemas.known(7, 12, at(440)), None, "it is asked for now and then");
        let late = schemas.answered((8, 12), Answer::Unknown, at(710)).0;
        assert_eq!(late, Reading::Wait, "what has been missing for long takes no time from others");
        assert_eq!(schemas.answered((7, 12), Answer::Unknown, at(440)), (Reading::Unread, None));
        assert_eq!(schemas.answered((7, 13), Answer::Known, at(480)), (Reading::Read, Some(Told::ReadAgain)));
        assert_eq!(detail(&schemas), json!({"schemas": {"7": 13}}));
    }

    #[test]
    fn invented_ids_are_waited_for_once_and_not_one_by_one() {
        let mut schemas = Schemas::new(PATIENCE);
        schemas.answered((1, 0), Answer::Unknown, at(0));
        schemas.answered((1, 0), Answer::Unknown, at(300));
        for id in 2..2_000_i32 {
            let now = at(300 + u64::try_from(id).unwrap());
            assert_eq!(schemas.answered((id, 1), Answer::Unknown, now).0, Reading::Unread);
        }
        assert_eq!(schemas.given_up.len(), MOST);
        assert_eq!(schemas.answered((9_999, 1), Answer::Unknown, at(9_999)).0, Reading::Wait, "a long time after");
        assert_eq!(schemas.answered((-4, 1), Answer::Unknown, at(9_999)).0, Reading::Unread, "no registry has that");
    }

    #[test]
    fn a_replay_decides_as_the_run_did_whatever_the_registry_has_by_then() {
        let mut schemas = Schemas::new(PATIENCE);
        schemas.recall(20, &json!({"schemas": {"7": 13}}));
        assert_eq!(schemas.known(7, 12, at(0)), Some(Reading::Unread));
        assert_eq!(schemas.known(7, 13, at(0)), None);
        assert_eq!(schemas.answered((7, 13), Answer::Unknown, at(0)).0, Reading::Wait);
        assert_eq!(schemas.answered((7, 13), Answer::Unknown, at(4_000)).0, Reading::Wait, "it was read before");
        assert_eq!(schemas.answered((7, 13), Answer::Known, at(4_001)).0, Reading::Read);
        schemas.recall(30, &json!({"schemas": "all"}));
        assert_eq!(schemas.known(8, 21, at(4_001)), None);
        assert_eq!(schemas.answered((8, 21), Answer::Known, at(4_001)).0, Reading::Read);
        schemas.recall(40, &json!({"schemas": {"7": 35}}));
        assert_eq!(schemas.known(7, 31, at(4_001)), Some(Reading::Unread), "although it is at hand");
        assert_eq!(schemas.known(7, 40, at(4_001)), None, "what follows is new");
    }

    #[test]
    fn what_an_older_version_bound_is_not_waited_for() {
        let mut schemas = Schemas::new(PATIENCE);
        schemas.recall(20, &json!({"start": 0}));
        assert_eq!(schemas.answered((7, 12), Answer::Unknown, at(0)).0, Reading::Read, "the decoder says what it is");
        assert_eq!(schemas.answered((7, 12), Answer::None, at(0)).0, Reading::Wait);
        assert_eq!(detail(&schemas), json!({}));
    }
}
