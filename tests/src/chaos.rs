//! What is done to a running pipeline and to the services around it, by a seed, and what readers may see meanwhile.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::oracle::Oracle;
use crate::services::{Database, Producer};
use crate::topics::Topics;

/// Who is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// `kill -9` of the pipeline, which is started again.
    KillRun,
    /// SIGSTOP of the pipeline; another one is started, and when that has got on, the first one wakes up.
    SleepRun,
    /// `kill -9` of a service, which is started again.
    KillService(&'static str),
    /// A view behind a table fails until the pipeline has stopped; then it is dropped.
    FailView(&'static str),
    /// ClickHouse comes back with another password for the pipeline, and then with the one that it has.
    ChangePassword,
    /// A message comes whose schema the registry does not have yet.
    LateSchema,
    /// The pipeline is killed, and a table of its own is emptied before the next start, which must refuse.
    EmptyTable(&'static str),
}

/// Tables beneath those that readers see.
const STORAGES: [&str; 4] = ["page_views_by_minute_data", "page_views_by_day_data", "sessions_data", "raw_events_data"];

/// What the network does meanwhile, on the way to one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    Fair,
    /// Answers are late by so many milliseconds.
    Delay(u32),
    /// Connections end late by so many milliseconds.
    SlowClose(u32),
    /// Connections break off after so many bytes of an answer.
    ShortAnswers(u32),
    /// Connections break off after so many bytes of a request.
    ShortRequests(u32),
    /// There is no way.
    Cut,
}

impl Weather {
    /// Whether nothing large gets through: a start would wait until it is over.
    #[must_use]
    pub fn is_blocking(self) -> bool {
        matches!(self, Weather::ShortAnswers(_) | Weather::ShortRequests(_) | Weather::Cut)
    }
}

/// One step of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Peace before it.
    pub before: Duration,
    /// What the network does, to ClickHouse (or else to S3).
    pub weather: Weather,
    /// Whether the weather is on the way to ClickHouse.
    pub at_clickhouse: bool,
    /// How long it lasts before the blow.
    pub lasts: Duration,
    /// The blow.
    pub blow: Blow,
    /// How long a killed service is away.
    pub away: Duration,
    /// Workers of the pipeline that is started, if one is.
    pub workers: usize,
}

/// So many steps by a seed. Each kind of blow comes once in ten.
#[must_use]
pub fn schedule(seed: u64, kills: u64) -> Vec<Step> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut blows = Vec::new();
    let step = |_| {
        if blows.is_empty() {
            let service = Blow::KillService;
            blows = vec![Blow::KillRun, Blow::KillRun, Blow::SleepRun];
            blows.extend([service("kafka"), service("clickhouse"), service("s3")]);
            let mut table = || STORAGES[dice.random_range(0..STORAGES.len())];
            blows.extend([Blow::FailView(table()), Blow::EmptyTable(table()), Blow::ChangePassword, Blow::LateSchema]);
            blows.shuffle(&mut dice);
        }
        Step {
            before: span(&mut dice, 200, 2_000),
            weather: match dice.random_range(0..7) {
                0 => Weather::Delay(dice.random_range(20..400)),
                1 => Weather::SlowClose(dice.random_range(50..1_000)),
                2 => Weather::ShortAnswers(dice.random_range(0..20_000)),
                3 => Weather::ShortRequests(dice.random_range(0..50_000)),
                4 => Weather::Cut,
                _ => Weather::Fair,
            },
            at_clickhouse: dice.random_range(0..3) > 0,
            lasts: span(&mut dice, 100, 1_500),
            blow: blows.pop().expect("it was filled"),
            away: span(&mut dice, 0, 2_500),
            workers: dice.random_range(1..=3),
        }
    };
    (0..kills).map(step).collect()
}

/// Between two numbers of milliseconds.
fn span(dice: &mut ChaCha8Rng, from: u64, until: u64) -> Duration {
    Duration::from_millis(dice.random_range(from..until))
}

/// What readers count: views, orders, errors, events in sessions, events.
pub type Seen = [u64; 5];

const WATCHED: [&str; 5] = [
    "SELECT toUInt64(sum(views)) FROM page_views_by_minute",
    "SELECT toUInt64(sum(orders)) FROM revenue_by_minute",
    "SELECT toUInt64(sum(errors)) FROM errors_by_version_by_minute",
    "SELECT toUInt64(sum(event_count)) FROM sessions",
    "SELECT count() FROM raw_events",
];

/// What may be visible at most after each number of lines was sent.
#[must_use]
pub fn limits(topics: &Topics<'_>) -> Vec<Seen> {
    let mut ids = BTreeSet::new();
    let mut total = Seen::default();
    let mut limits = vec![total];
    for line in topics.lines() {
        let tables = Oracle::of([line]).answer().0;
        if let Some(event) = tables.raw_events.first()
            && ids.insert((event.tenant.clone(), event.event_id.clone()))
        {
            let one = |there: bool| u64::from(there);
            let errors = one(!tables.errors.is_empty());
            let this = [one(!tables.page_views.is_empty()), one(!tables.revenue.is_empty()), errors, 1, 1];
            total.iter_mut().zip(this).for_each(|(sum, n)| *sum += n);
        }
        limits.push(total);
    }
    limits
}

/// Sends lines at a steady rate until it is told to stop, or there are no more; gives how many it sent. `sent` is never
/// less than what a reader can have seen.
#[must_use]
pub fn produce(
    topics: &Topics<'_>,
    brokers: &str,
    per_second: usize,
    sent: &AtomicUsize,
    stop: &Receiver<()>,
) -> usize {
    const TICK: Duration = Duration::from_millis(20);
    let producer = Producer::new(brokers);
    let mut at = 0;
    while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        let next = (at + per_second / 50).min(topics.len());
        sent.store(next, Ordering::SeqCst);
        topics.send(&producer, at, next);
        at = next;
    }
    producer.flush();
    at
}

/// Reads what is visible until it is told to stop; gives how many times it could. `emptied` is counted up before a table is
/// emptied, and again when it is filled: what was not committed is in neither, until the next run writes it again.
///
/// # Panics
/// When something shrank that was not emptied, or is more than was sent.
#[must_use]
pub fn watch(
    database: &Database,
    limits: &[Seen],
    (sent, emptied): (&AtomicUsize, &AtomicUsize),
    stop: &Receiver<()>,
) -> u64 {
    const TICK: Duration = Duration::from_millis(100);
    let mut before = Seen::default();
    let mut looks = 0;
    while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        for (at, sql) in WATCHED.iter().enumerate() {
            // A server that was killed cannot be asked; what it shows afterwards counts.
            let Ok(row) = database.try_numbers(sql) else { continue };
            let limit = limits[sent.load(Ordering::SeqCst)][at];
            if emptied.load(Ordering::SeqCst) % 2 == 1 {
                before = Seen::default();
                continue;
            }
            assert!(row[0] >= before[at], "{sql}: {} were visible, now {}", before[at], row[0]);
            assert!(row[0] <= limit, "{sql}: {} are visible, only {limit} were sent", row[0]);
            before[at] = row[0];
            looks += 1;
        }
    }
    looks
}

#[cfg(test)]
mod tests {
    use tidemill_connectors::generate::Rates;

    use super::*;
    use crate::corpus;

    #[test]
    fn a_schedule_depends_on_its_seed_alone_and_hits_everyone() {
        let steps = schedule(7, 20);
        assert_eq!(steps, schedule(7, 20));
        assert_ne!(steps, schedule(8, 20));
        for service in ["kafka", "clickhouse", "s3"] {
            assert_eq!(steps.iter().filter(|step| step.blow == Blow::KillService(service)).count(), 2, "{service}");
        }
    }

    #[test]
    fn the_last_limit_is_the_oracles_answer() {
        let bytes = corpus::events(3_000, 3, Rates::within_horizon());
        let topics = Topics::deal(vec![("t".into(), 2)], &bytes);
        let (tables, books) = topics.oracle().answer();
        let views = tables.page_views.iter().map(|row| row.views).sum::<i64>();
        let limits = limits(&topics);
        assert_eq!(limits.len(), topics.len() + 1);
        let last = limits[topics.len()];
        assert_eq!((last[0], last[4]), (views.unsigned_abs(), books.accepted));
    }
}
