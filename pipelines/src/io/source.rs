//! Where events come from, behind one type: a pipeline is the same over files, over topics and over its own archive.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tidemill_connectors::events::{Bounds, Event, JsonDecoder, NdjsonDecoder};
use tidemill_connectors::files::{FileDecoder, FileSource, FilesConfig};
use tidemill_connectors::messages::MessageDecoder;
use tidemill_connectors::parquet_source::ParquetSource;
use tidemill_dataflow::source::{
    Block, BlockReader, DeadLetter, Decode, Decoded, PartitionBinding, Source, SourceError,
};
use tidemill_embedded_log::LogSource;
use tidemill_kafka::{KafkaConfig, KafkaSource};

/// A source of events.
#[derive(Clone)]
pub struct EventSource {
    kind: Kind,
    bounds: Bounds,
    /// Events that panic when they are decoded, by id; none but in tests of what follows from that.
    poison: Arc<[String]>,
}

#[derive(Clone)]
enum Kind {
    Files(FileSource),
    Kafka(KafkaSource),
    Archive(ParquetSource),
    Log(LogSource),
}

impl EventSource {
    /// Files of events or web server logs.
    #[must_use]
    pub fn files(files: FilesConfig) -> Self {
        EventSource { bounds: files.bounds, ..EventSource::of(Kind::Files(FileSource::new(files))) }
    }

    /// Topics.
    #[must_use]
    pub fn topics(source: KafkaSource) -> Self {
        EventSource::of(Kind::Kafka(source))
    }

    /// The raw events of a lake.
    #[must_use]
    pub fn archive(source: ParquetSource) -> Self {
        EventSource::of(Kind::Archive(source))
    }

    /// Topics of an embedded log.
    #[must_use]
    pub fn log(source: LogSource) -> Self {
        EventSource::of(Kind::Log(source))
    }

    /// The same topics, of which events are taken that these bounds hold.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> Self {
        EventSource { bounds, ..self }
    }

    /// The same source, where the events with these ids panic when they are decoded.
    pub(super) fn poisoned(self, poison: Arc<[String]>) -> Self {
        EventSource { poison, ..self }
    }

    fn of(kind: Kind) -> Self {
        EventSource { kind, bounds: Bounds::default(), poison: Arc::default() }
    }

    /// The cluster that is read, if one is.
    pub(super) fn kafka(&self) -> Option<&KafkaConfig> {
        match &self.kind {
            Kind::Kafka(source) => Some(source.config()),
            Kind::Files(_) | Kind::Archive(_) | Kind::Log(_) => None,
        }
    }
}

impl Source for EventSource {
    type Decoder = EventDecoder;

    fn decoder(&self) -> EventDecoder {
        let kind = match &self.kind {
            Kind::Files(source) => DecoderKind::Files(source.decoder()),
            Kind::Kafka(source) => DecoderKind::Messages(source.decoder().within(self.bounds)),
            Kind::Archive(source) => DecoderKind::Archive(source.decoder()),
            Kind::Log(source) => DecoderKind::Messages(source.decoder().within(self.bounds)),
        };
        EventDecoder { kind, poison: Arc::clone(&self.poison) }
    }

    fn setting(&self) -> Option<String> {
        self.bounds.setting()
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        match &self.kind {
            Kind::Files(source) => source.open(recorded),
            Kind::Kafka(source) => source.open(recorded),
            Kind::Archive(source) => source.open(recorded),
            Kind::Log(source) => source.open(recorded),
        }
    }

    fn open_behind(
        &self,
        recorded: &[PartitionBinding],
        bound: &[PartitionBinding],
    ) -> Result<Box<dyn BlockReader>, SourceError> {
        match &self.kind {
            Kind::Files(source) => source.open_behind(recorded, bound),
            Kind::Kafka(_) | Kind::Archive(_) | Kind::Log(_) => self.open(recorded),
        }
    }
}

/// The decoder of an [`EventSource`].
#[derive(Clone)]
pub struct EventDecoder {
    kind: DecoderKind,
    poison: Arc<[String]>,
}

#[derive(Clone)]
enum DecoderKind {
    Files(FileDecoder),
    Messages(MessageDecoder),
    /// Offsets count rows, of which lines show no trace: a block cannot be taken apart.
    Archive(NdjsonDecoder),
}

impl Decode for EventDecoder {
    type Record = Event;

    fn travels(&self) -> bool {
        match &self.kind {
            DecoderKind::Files(decoder) => decoder.travels(),
            DecoderKind::Messages(decoder) => decoder.travels(),
            DecoderKind::Archive(decoder) => decoder.travels(),
        }
    }

    fn decode(&mut self, block: Block, out: &mut Decoded<Event>) {
        match &mut self.kind {
            DecoderKind::Files(decoder) => decoder.decode(block, out),
            DecoderKind::Messages(decoder) => decoder.decode(block, out),
            DecoderKind::Archive(decoder) => decoder.decode(block, out),
        }
        if !self.poison.is_empty() {
            out.records.iter().for_each(|event| act_out(&self.poison, event));
        }
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        match &self.kind {
            DecoderKind::Files(decoder) => decoder.apart(block),
            DecoderKind::Messages(decoder) => decoder.apart(block),
            DecoderKind::Archive(_) => Err(block),
        }
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        match &self.kind {
            DecoderKind::Files(decoder) => decoder.letter(block, reason),
            DecoderKind::Messages(decoder) => decoder.letter(block, reason),
            DecoderKind::Archive(decoder) => decoder.letter(block, reason),
        }
    }
}

/// Panics if the event is one that is asked to.
///
/// # Panics
/// That is what it is for.
pub(super) fn act_out(poison: &[String], event: &Event) {
    assert!(!poison.iter().any(|id| id == event.event_id()), "event {} is asked to panic", event.event_id());
}

/// The same places as an [`EventSource`], each line or message of JSON a `T`.
pub struct RecordSource<T> {
    places: EventSource,
    records: PhantomData<fn() -> T>,
}

impl<T> RecordSource<T> {
    /// Reads what `places` would read as events.
    pub(super) fn new(places: EventSource) -> Self {
        let kind = match places.kind {
            Kind::Files(files) => Kind::Files(files.of_records()),
            other => other,
        };
        RecordSource { places: EventSource { kind, ..places }, records: PhantomData }
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Source for RecordSource<T> {
    type Decoder = RecordDecoder<T>;

    fn decoder(&self) -> RecordDecoder<T> {
        match self.places.decoder().kind {
            DecoderKind::Messages(decoder) => RecordDecoder::Messages(decoder.with_lines(JsonDecoder::new())),
            DecoderKind::Files(_) => RecordDecoder::Lines(JsonDecoder::new()),
            DecoderKind::Archive(_) => RecordDecoder::Archive(JsonDecoder::new()),
        }
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        self.places.open(recorded)
    }

    fn open_behind(
        &self,
        recorded: &[PartitionBinding],
        bound: &[PartitionBinding],
    ) -> Result<Box<dyn BlockReader>, SourceError> {
        self.places.open_behind(recorded, bound)
    }
}

/// The decoder of a [`RecordSource`].
pub enum RecordDecoder<T> {
    /// Messages of topics.
    Messages(MessageDecoder<JsonDecoder<T>>),
    /// Lines of files.
    Lines(JsonDecoder<T>),
    /// Rows of an archive.
    Archive(JsonDecoder<T>),
}

impl<T> Clone for RecordDecoder<T> {
    fn clone(&self) -> Self {
        match self {
            RecordDecoder::Messages(decoder) => RecordDecoder::Messages(decoder.clone()),
            RecordDecoder::Lines(decoder) => RecordDecoder::Lines(decoder.clone()),
            RecordDecoder::Archive(decoder) => RecordDecoder::Archive(decoder.clone()),
        }
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Decode for RecordDecoder<T> {
    type Record = T;

    fn travels(&self) -> bool {
        match self {
            RecordDecoder::Messages(decoder) => decoder.travels(),
            RecordDecoder::Lines(decoder) | RecordDecoder::Archive(decoder) => decoder.travels(),
        }
    }

    fn decode(&mut self, block: Block, out: &mut Decoded<T>) {
        match self {
            RecordDecoder::Messages(decoder) => decoder.decode(block, out),
            RecordDecoder::Lines(decoder) | RecordDecoder::Archive(decoder) => decoder.decode(block, out),
        }
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        match self {
            RecordDecoder::Messages(decoder) => decoder.apart(block),
            RecordDecoder::Lines(decoder) => decoder.apart(block),
            RecordDecoder::Archive(_) => Err(block),
        }
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        match self {
            RecordDecoder::Messages(decoder) => decoder.letter(block, reason),
            RecordDecoder::Lines(decoder) | RecordDecoder::Archive(decoder) => decoder.letter(block, reason),
        }
    }
}
