//! What measurements of live runs stand on: events that are cheap to make, a schedule to send them by, and how long it
//! took until they were seen.

use std::time::SystemTime;

use tidemill_connectors::generate::Rates;

use crate::corpus;

/// Milliseconds between two scheduled bursts.
pub const TICK: i64 = 10;

/// Distinct lines; each is sent many times, with an id and a time of its own.
const LINES: u64 = 50_000;

/// Milliseconds since 1970.
///
/// # Panics
/// When the clock of the machine is before 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the time between sending and seeing is what is measured")]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_millis()).expect("milliseconds of this millennium")
}

/// A generated line, and where its id and its times stand.
#[derive(Clone, Debug)]
pub struct Line {
    text: Vec<u8>,
    id: usize,
    times: Vec<usize>,
}

impl Line {
    /// Hexadecimal digits of an id that are an event's number.
    pub const DIGITS: usize = 8;
    const ID: &[u8] = b"\"event_id\":\"";
    const TIMES: [&[u8]; 2] = [b"\"timestamp\":", b"\"server_time\":"];

    fn new(text: Vec<u8>) -> Line {
        let id = after(&text, Line::ID).expect("every clean event has an id");
        let times = Line::TIMES.iter().filter_map(|name| after(&text, name)).collect();
        Line { text, id, times }
    }

    /// Appends the line as the event of this number at this time (thirteen digits).
    pub fn write(&self, out: &mut Vec<u8>, number: u64, time: &[u8]) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let start = out.len();
        out.extend_from_slice(&self.text);
        for (place, digit) in out[start + self.id..][..Line::DIGITS].iter_mut().enumerate() {
            let value = (number >> (4 * (Line::DIGITS - 1 - place))) & 15;
            *digit = HEX[usize::try_from(value).expect("it is below 16")];
        }
        for at in &self.times {
            out[start + at..][..time.len()].copy_from_slice(time);
        }
    }

    /// The number of an event that was written so, from any JSON that has its id as it was sent.
    #[must_use]
    pub fn number(event: &[u8]) -> Option<u64> {
        let digits = event.get(after(event, Line::ID)?..)?.get(..Line::DIGITS)?;
        u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }
}

/// Where the text behind `name` begins.
fn after(text: &[u8], name: &[u8]) -> Option<usize> {
    text.windows(name.len()).position(|window| window == name).map(|at| at + name.len())
}

/// Events without oddities, as a collector stores them.
#[must_use]
pub fn stored_lines() -> Vec<Line> {
    let bytes = corpus::events(LINES, 1, Rates::clean());
    // The generator adds a line that is too long for any event.
    corpus::lines(&bytes).into_iter().filter(|line| line.len() < 4_096).map(|line| Line::new(line.to_owned())).collect()
}

/// The same as a browser sends them: without the fields that the collector adds, which come last.
#[must_use]
pub fn sent_lines() -> Vec<Line> {
    let mut lines = stored_lines();
    for line in &mut lines {
        let ours = after(&line.text, b",\"server_time\":").map(|end| end - b",\"server_time\":".len());
        line.text.truncate(ours.expect("the generator writes a server time"));
        line.text.push(b'}');
        *line = Line::new(std::mem::take(&mut line.text));
    }
    lines
}

/// The events of a schedule: so many a tick, from `start` on.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// The first tick, in milliseconds since 1970.
    pub start: i64,
    /// Events a second.
    pub rate: u64,
}

impl Schedule {
    /// How many are due before a tick.
    #[must_use]
    pub fn due(&self, tick: u64) -> u64 {
        tick * self.rate * TICK.unsigned_abs() / 1_000
    }

    /// When event `number` is due, in milliseconds since 1970.
    ///
    /// # Panics
    /// When the number is astronomic.
    #[must_use]
    pub fn time(&self, number: u64) -> i64 {
        let tick = ((number + 1) * 1_000).div_ceil(self.rate * TICK.unsigned_abs()) - 1;
        self.start + i64::try_from(tick).expect("few ticks") * TICK
    }
}

/// What was seen: how many events took how many milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Adds events that took so many milliseconds; fewer than none count as none.
    pub fn add(&mut self, millis: i64, events: u64) {
        let at = usize::try_from(millis).unwrap_or(0);
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += events;
        self.total += events;
    }

    /// How many were added.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The least number of milliseconds within which this share, in thousandths, was seen.
    #[must_use]
    pub fn within(&self, thousandths: u64) -> usize {
        let wanted = (self.total * thousandths).div_ceil(1_000);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        reached.unwrap_or(0)
    }

    /// The most milliseconds.
    #[must_use]
    pub fn most(&self) -> usize {
        self.counts.len().saturating_sub(1)
    }

    /// A line for every quarter of a second.
    #[must_use]
    pub fn bars(&self) -> String {
        const WIDTH: usize = 250;
        let mut text = String::new();
        for (at, counts) in self.counts.chunks(WIDTH).enumerate() {
            let events = counts.iter().sum::<u64>();
            let share = events as f64 / self.total.max(1) as f64;
            let bar = "#".repeat(usize::try_from(events * 60 / self.total.max(1)).unwrap_or(0));
            text.push_str(&format!("{:>5} to {:>5} ms {:>5.1} % {bar}\n", at * WIDTH, (at + 1) * WIDTH, share * 100.0));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_the_schedule_is_due_in_the_tick_that_sends_it() {
        for rate in [7, 100, 999, 53_000] {
            let schedule = Schedule { start: 1_000, rate };
            for tick in 0..300 {
                for number in schedule.due(tick)..schedule.due(tick + 1) {
                    assert_eq!(schedule.time(number), 1_000 + i64::try_from(tick).unwrap() * TICK, "{rate}: {number}");
                }
            }
        }
    }

    #[test]
    fn a_line_says_its_number_and_its_time() {
        let mut event = Vec::new();
        for line in &sent_lines()[..100] {
            event.clear();
            line.write(&mut event, 0xbeef, b"1800000000123");
            let value: serde_json::Value = serde_json::from_slice(&event).unwrap();
            assert_eq!(value["timestamp"], 1_800_000_000_123_i64);
            assert!(value.get("server_time").is_none() && value.get("ip").is_none(), "{value}");
            assert_eq!(Line::number(&event), Some(0xbeef));
        }
    }

    #[test]
    fn shares_of_a_histogram_are_read_from_below() {
        let mut histogram = Histogram::default();
        for millis in 1..=1_000 {
            histogram.add(millis, 1);
        }
        histogram.add(-5, 0);
        assert_eq!([500, 900, 990, 1_000].map(|share| histogram.within(share)), [500, 900, 990, 1_000]);
        assert_eq!((histogram.total(), histogram.most()), (1_000, 1_000));
    }
}
