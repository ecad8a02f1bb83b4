//! Generated events: NDJSON as the collector publishes it, with everything that goes wrong in the field.
//!
//! The same configuration gives the same bytes, on every machine. Lines stand in the order in which they reached
//! the collector, so event times are out of order by what each event was under way. Users and pages are skewed
//! (Zipf), a user comes and goes (several sessions), and [`Rates`] says how often each kind of trouble occurs:
//! repeated sends, copies that contradict their original, late events, clocks in the future, malformed lines.
//!
//! What is promised to tests: with [`Rates::within_horizon`] no event is further behind than the dedup horizon of one
//! hour, so nothing is unverified and every table is exact; with [`Rates::any_order`] no two lines of one id differ in
//! the client's own data either, so the tables (but for `server_time`) do not depend on which copy comes first.

mod broken;
mod draft;
mod resend;
mod skew;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::time::Duration;

use self::draft::{Draft, Layout, Tenant};
use self::resend::{Errand, Errands};
use self::skew::{Dice, Population};

const MINUTE: u64 = 60_000;
/// How far behind its arrival a late event is at least: past the watermark's two minutes.
const LATE_FROM: u64 = 150_000;
/// How far behind a late event is at most: with a repeated send and a shuffle of ten minutes still in the horizon.
const LATE_UNTIL: u64 = 40 * MINUTE;
/// A very late event is behind the horizon of one hour and the watermark's two minutes.
const VERY_LATE_FROM: u64 = 70 * MINUTE;
const VERY_LATE_UNTIL: u64 = 12 * 60 * MINUTE;
/// Most events arrive within this many milliseconds.
const UNDER_WAY: u64 = 8_000;
/// The gap that, to the millisecond, does not yet end a session.
const SESSION_GAP: u64 = 30 * MINUTE;
const FLUSH_AT: usize = 1 << 20;

/// How often something out of the ordinary happens, in events per million.
///
/// [`Rates::default`] is workload S: one repeated send in a hundred, one late event in two thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Exact repeats of an event, seconds to minutes later, with another `server_time` (10,000).
    pub duplicates: u32,
    /// Copies of an id with other content, always later in the file (100).
    pub conflicting: u32,
    /// The same id under another tenant, which is another event (50).
    pub other_tenant: u32,
    /// Between 2.5 and 40 minutes behind their arrival (500).
    pub late: u32,
    /// More than 70 minutes behind their arrival, beyond the dedup horizon (20).
    pub very_late: u32,
    /// A clock more than two hours ahead of the collector's (10).
    pub future: u32,
    /// Without `server_time` (200).
    pub no_server_time: u32,
    /// Users who return after exactly 30 minutes, or one millisecond more (50).
    pub session_edges: u32,
    /// Ids that are no UUID: other texts, escapes, as long as 200 bytes (500).
    pub odd_ids: u32,
    /// White space and another order of fields (500).
    pub odd_layout: u32,
    /// Lines that end in `\r\n` (200).
    pub crlf: u32,
    /// Lines of white space (50).
    pub blank: u32,
    /// Malformed lines, the kinds in turn (200).
    pub malformed: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Rates {
            duplicates: 10_000,
            conflicting: 100,
            other_tenant: 50,
            late: 500,
            very_late: 20,
            future: 10,
            no_server_time: 200,
            session_edges: 50,
            odd_ids: 500,
            odd_layout: 500,
            crlf: 200,
            blank: 50,
            malformed: 200,
        }
    }
}

impl Rates {
    /// Nothing out of the ordinary: well-formed distinct events, out of order by seconds.
    #[must_use]
    pub fn clean() -> Self {
        Rates {
            duplicates: 0,
            conflicting: 0,
            other_tenant: 0,
            late: 0,
            very_late: 0,
            future: 0,
            no_server_time: 0,
            session_edges: 0,
            odd_ids: 0,
            odd_layout: 0,
            crlf: 0,
            blank: 0,
            malformed: 0,
        }
    }

    /// The default without events beyond the dedup horizon: every table is exact.
    #[must_use]
    pub fn within_horizon() -> Self {
        Rates { very_late: 0, ..Rates::default() }
    }

    /// [`Rates::within_horizon`] without contradicting copies: the tables do not depend on the order of lines.
    #[must_use]
    pub fn any_order() -> Self {
        Rates { conflicting: 0, ..Rates::within_horizon() }
    }
}

/// What to generate; equal configurations give equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerateConfig {
    /// Distinct well-formed events (of tenant and id); repeats and malformed lines come on top.
    pub events: u64,
    /// Root of all randomness.
    pub seed: u64,
    /// When the first event reaches the collector, in milliseconds since 1970 (2026-03-01T00:00:00Z).
    pub start: i64,
    /// Event time from the first to the last arrival (3 h), whatever the number of events.
    pub span: Duration,
    /// Users that are about at one time; twice as many take turns. `None`: one for 150 events, 50 to 12,000.
    pub active_users: Option<u32>,
    /// Distinct pages (750).
    pub pages: u32,
    /// Lines of more than 1 MiB, spread evenly (0); they are malformed.
    pub oversized_lines: u32,
    /// How often something out of the ordinary happens.
    pub rates: Rates,
}

impl GenerateConfig {
    /// Workload S in small or large: `events` distinct events over three hours of event time.
    #[must_use]
    pub fn new(events: u64, seed: u64) -> Self {
        GenerateConfig {
            events,
            seed,
            start: 1_772_323_200_000,
            span: Duration::from_secs(3 * 3_600),
            active_users: None,
            pages: 750,
            oversized_lines: 0,
            rates: Rates::default(),
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Physical lines, blank ones included.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
    /// Distinct well-formed events.
    pub events: u64,
    /// Exact repeats.
    pub duplicates: u64,
    /// Copies of an id with other content.
    pub conflicting: u64,
    /// Among the events: 2.5 to 40 minutes behind.
    pub late: u64,
    /// Among the events: beyond the dedup horizon (at the very start of the input they may still be accepted).
    pub very_late: u64,
    /// Among the events: a clock far ahead.
    pub future: u64,
    /// Malformed lines, oversized ones included.
    pub malformed: u64,
    /// Lines of white space.
    pub blank: u64,
}

/// Why nothing more was generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The output refused bytes.
    #[error("writing generated events failed; check the space and permissions of the output")]
    Write(#[from] io::Error),
    /// The configuration contradicts itself.
    #[error("cannot generate events: {0}")]
    Config(&'static str),
}

/// Writes the events of `config` to `out`, in large pieces.
///
/// # Errors
/// [`GenerateError::Config`] for no pages, no span or a start outside 1971-9000; [`GenerateError::Write`] from `out`.
pub fn generate(config: &GenerateConfig, out: impl Write) -> Result<Summary, GenerateError> {
    if config.pages == 0 || config.active_users == Some(0) {
        return Err(GenerateError::Config("at least one page and one user are needed"));
    }
    if config.span < Duration::from_millis(1) || config.span > Duration::from_secs(3_660 * 86_400) {
        return Err(GenerateError::Config("the span must be between a millisecond and ten years"));
    }
    if !(31_536_000_000..221_845_392_000_000).contains(&config.start) {
        return Err(GenerateError::Config("the start must lie between the years 1971 and 9000"));
    }
    Generator::new(config, out).run()
}

struct Generator<W> {
    config: GenerateConfig,
    span: u64,
    dice: Dice,
    population: Population,
    draft: Draft,
    errands: Errands,
    edges: u64,
    broken: u64,
    line: Vec<u8>,
    buffer: Vec<u8>,
    summary: Summary,
    out: W,
}

impl<W: Write> Generator<W> {
    fn new(config: &GenerateConfig, out: W) -> Self {
        let active = config
            .active_users
            .unwrap_or_else(|| u32::try_from((config.events / 150).clamp(50, 12_000)).expect("clamped to 12,000"));
        Generator {
            config: *config,
            span: u64::try_from(config.span.as_millis()).expect("checked to be at most ten years"),
            dice: Dice::new(config.seed),
            population: Population::new(active, config.pages),
            draft: Draft::default(),
            errands: Errands::default(),
            edges: 0,
            broken: 0,
            line: Vec::with_capacity(4_096),
            buffer: Vec::with_capacity(FLUSH_AT + 65_536),
            summary: Summary::default(),
            out,
        }
    }

    fn run(mut self) -> Result<Summary, GenerateError> {
        let mut oversized = 0;
        while self.summary.events < self.config.events {
            let arrival = self.arrival();
            while let Some(errand) = self.errands.due(arrival) {
                self.carry_out(errand, arrival)?;
            }
            if self.summary.events == self.config.events {
                break;
            }
            self.disturb(arrival, &mut oversized)?;
            self.fresh_event(arrival)?;
        }
        let end = self.arrival();
        while let Some(errand) = self.errands.due(u64::MAX) {
            self.carry_out(errand, end)?;
        }
        self.flush()?;
        self.out.flush()?;
        Ok(self.summary)
    }

    /// When the next event reaches the collector: arrivals are spread evenly over the span.
    fn arrival(&self) -> u64 {
        let done = u128::from(self.span) * u128::from(self.summary.events) / u128::from(self.config.events.max(1));
        self.config.start.unsigned_abs() + u64::try_from(done).expect("at most the span")
    }

    /// Lines between events: blank, malformed, oversized.
    fn disturb(&mut self, arrival: u64, oversized: &mut u64) -> Result<(), GenerateError> {
        let rates = self.config.rates;
        if self.dice.chance(rates.blank) {
            self.line.extend_from_slice([&b""[..], b"   ", b"\t", b"\r"][self.dice.index(4)]);
            self.summary.blank += 1;
            self.end_line()?;
        }
        if self.dice.chance(rates.malformed) {
            self.draft.fresh(&mut self.dice, &self.population, arrival);
            broken::write(&mut self.line, &mut self.draft, &mut self.dice, arrival, self.broken);
            self.broken += 1;
            self.summary.malformed += 1;
            self.end_line()?;
        }
        let wanted = u64::from(self.config.oversized_lines);
        if *oversized < wanted && self.summary.events * wanted >= self.config.events * *oversized {
            *oversized += 1;
            self.draft.fresh(&mut self.dice, &self.population, arrival);
            broken::oversized(&mut self.line, &mut self.draft, &mut self.dice, arrival);
            self.summary.malformed += 1;
            self.end_line()?;
        }
        Ok(())
    }

    /// One new event, and what will follow from it.
    fn fresh_event(&mut self, arrival: u64) -> Result<(), GenerateError> {
        let rates = self.config.rates;
        let (mut timestamp, mut clock_is_wrong) = (arrival - self.dice.small(UNDER_WAY), false);
        if self.dice.chance(rates.late) {
            timestamp = arrival - self.dice.between(LATE_FROM, LATE_UNTIL);
            self.summary.late += 1;
        } else if self.dice.chance(rates.very_late) {
            timestamp = arrival - self.dice.between(VERY_LATE_FROM, VERY_LATE_UNTIL);
            self.summary.very_late += 1;
        } else if self.dice.chance(rates.future) {
            timestamp = arrival + self.dice.between(2 * 60 * MINUTE, 30 * 24 * 60 * MINUTE);
            clock_is_wrong = true;
            self.summary.future += 1;
        }
        self.draft.fresh(&mut self.dice, &self.population, timestamp);
        if self.dice.chance(rates.odd_ids) {
            self.draft.odd_id(&mut self.dice);
        }
        if self.dice.chance(rates.session_edges) && !clock_is_wrong {
            self.edges += 1;
            self.draft.edge_user(self.edges);
            let back = timestamp + SESSION_GAP + (self.edges & 1);
            self.errands.send(back, Errand::Return { edge: self.edges, timestamp: back, tenant: self.draft.tenant });
        }
        // A future clock always shows beside the collector's own, or it could not be told from a jump in time.
        let server_time =
            (clock_is_wrong || !self.dice.chance(rates.no_server_time)).then(|| arrival + self.dice.below(40));
        self.write_draft(server_time)?;
        self.summary.events += 1;
        self.schedule_copies(arrival);
        Ok(())
    }

    /// Decides which copies of the event just written will follow.
    fn schedule_copies(&mut self, arrival: u64) {
        let rates = self.config.rates;
        if self.dice.chance(rates.duplicates) {
            let due = arrival + self.dice.between(500, 180_000);
            self.errands.send(due, Errand::Repeat { draft: Box::new(self.draft.clone()) });
        }
        if self.dice.chance(rates.conflicting) {
            let due = arrival + self.dice.between(0, 120_000);
            self.errands.send(due, Errand::Contradict { id: self.draft.id.clone(), tenant: self.draft.tenant });
        }
        if self.dice.chance(rates.other_tenant) {
            let due = arrival + self.dice.between(0, 60_000);
            let mut draft = Box::new(self.draft.clone());
            draft.tenant = draft.tenant.other();
            self.errands.send(due, Errand::OtherTenant { draft });
        }
    }

    fn carry_out(&mut self, errand: Errand, arrival: u64) -> Result<(), GenerateError> {
        let server_time = Some(arrival + self.dice.below(40));
        let complete = self.summary.events == self.config.events;
        match errand {
            Errand::Repeat { draft } => {
                self.draft = *draft;
                self.summary.duplicates += 1;
            }
            Errand::Contradict { id, tenant } => {
                let timestamp = arrival - self.dice.small(UNDER_WAY);
                self.draft.fresh(&mut self.dice, &self.population, timestamp);
                self.draft.id = id;
                self.draft.tenant = tenant;
                self.summary.conflicting += 1;
            }
            // These are events of their own: past the wanted number they stay away.
            Errand::OtherTenant { .. } | Errand::Return { .. } if complete => return Ok(()),
            Errand::OtherTenant { draft } => {
                self.draft = *draft;
                self.summary.events += 1;
            }
            Errand::Return { edge, timestamp, tenant } => {
                self.draft.fresh(&mut self.dice, &self.population, timestamp);
                self.draft.edge_user(edge);
                self.draft.tenant = tenant;
                self.summary.events += 1;
            }
        }
        self.write_draft(server_time)
    }

    fn write_draft(&mut self, server_time: Option<u64>) -> Result<(), GenerateError> {
        let odd = self.dice.chance(self.config.rates.odd_layout);
        self.draft.render(&mut self.line, server_time, if odd { Layout::Odd } else { Layout::Usual });
        if self.dice.chance(self.config.rates.crlf) {
            self.line.push(b'\r');
        }
        self.end_line()
    }

    fn end_line(&mut self) -> Result<(), GenerateError> {
        self.line.push(b'\n');
        self.summary.lines += 1;
        self.summary.bytes += self.line.len() as u64;
        self.buffer.append(&mut self.line);
        if self.buffer.len() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), GenerateError> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Tenant {
    /// The tenant that this one's ids are repeated under.
    fn other(self) -> Tenant {
        if self == Tenant::Acme { Tenant::Named } else { Tenant::Acme }
    }
}
