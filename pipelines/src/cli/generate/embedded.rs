//! Made-up events straight into an embedded log, in the topics and partitions where the collector would put them.

use std::io::{self, Write};

use tidemill_collect::{Environment, EventLog, Host, LogFailure, OpenLog, Topic, TopicLogs};
use tidemill_connectors::events::{Event, NdjsonDecoder};
use tidemill_connectors::generate::{self, GenerateConfig, Summary};
use tidemill_dataflow::hash::hash64;
use tidemill_dataflow::source::{Block, Decode, Decoded};
use tidemill_embedded_log::{LogOptions, LogPlace, Record};

use crate::cli::Failure;

pub(super) fn to_log(config: &GenerateConfig, address: &str) -> Result<Summary, Failure> {
    let place = LogPlace::sink(address).map_err(|error| Failure::usage(format!("--to {address}: {error}")))?;
    let mut logs = TopicLogs::new(place.root, place.partitions, LogOptions::default(), Vec::new());
    let log = logs.open().map_err(Failure::refused)?;
    let mut out = LogLines { log, partitions: place.partitions, time: Host::new(), waiting: Vec::new() };
    let made = generate::generate(config, &mut out).map_err(Failure::failed)?;
    out.flush().map_err(Failure::failed)?;
    Ok(made)
}

/// Collects text and stores its whole lines.
struct LogLines {
    log: Box<dyn EventLog>,
    partitions: u32,
    time: Host,
    waiting: Vec<u8>,
}

impl LogLines {
    fn store(&mut self, text: &[u8]) -> Result<(), LogFailure> {
        let mut decoded = Decoded::default();
        let block = Block { partition: 0, offset: 0, first_line: 1, bytes: text.to_vec(), skipped: 0 };
        NdjsonDecoder::default().decode(block, &mut decoded);
        let mut events = decoded.records.iter();
        let mut malformed = decoded.malformed.iter().peekable();
        let time_ms = self.time.now_ms();
        let partitions = u64::from(self.partitions);
        let mut batches: Vec<Vec<Record<'_>>> = vec![Vec::new(); Topic::ALL.len() * self.partitions as usize];
        for (row, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            // What is no event is stored all the same: readers have to cope with it.
            let event: Option<&Event> = match malformed.next_if(|letter| letter.line == row) {
                Some(_) => None,
                None => Some(events.next().expect("a line that is not blank is an event or malformed")),
            };
            let topic = event.map_or(Topic::Other, |event| Topic::of(event.kind(), event.event_type()));
            let (hash, key) = event.map_or((hash64(line), ""), |event| (event.user().hash, event.user().text));
            let partition = usize::try_from(hash % partitions).expect("below the number of partitions");
            let record = Record { key: key.as_bytes(), value: line, time_ms };
            batches[topic.number() * self.partitions as usize + partition].push(record);
        }
        for (number, batch) in (0..).zip(&batches) {
            if !batch.is_empty() {
                let topic = Topic::ALL[(number / self.partitions) as usize];
                self.log.append(topic, number % self.partitions, batch)?;
            }
        }
        self.log.sync()
    }
}

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        let end = self.waiting.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.waiting.drain(..end).collect();
        if !whole.is_empty() {
            self.store(&whole).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.waiting);
        if rest.is_empty() { Ok(()) } else { self.store(&rest).map_err(io::Error::other) }
    }
}
