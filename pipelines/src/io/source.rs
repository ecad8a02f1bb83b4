//! Where events come from, behind one type: a pipeline is the same over files, over topics and over its own archive.

use tidemill_connectors::events::{Event, NdjsonDecoder};
use tidemill_connectors::files::{FileDecoder, FileSource, FilesConfig};
use tidemill_connectors::messages::MessageDecoder;
use tidemill_connectors::parquet_source::ParquetSource;
use tidemill_dataflow::source::{Block, BlockReader, Decode, Decoded, PartitionBinding, Source, SourceError};
use tidemill_embedded_log::LogSource;
use tidemill_kafka::{KafkaConfig, KafkaSource};

/// A source of events.
#[derive(Clone)]
pub struct EventSource(Kind);

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
        EventSource(Kind::Files(FileSource::new(files)))
    }

    /// Topics.
    #[must_use]
    pub fn topics(source: KafkaSource) -> Self {
        EventSource(Kind::Kafka(source))
    }

    /// The raw events of a lake.
    #[must_use]
    pub fn archive(source: ParquetSource) -> Self {
        EventSource(Kind::Archive(source))
    }

    /// Topics of an embedded log.
    #[must_use]
    pub fn log(source: LogSource) -> Self {
        EventSource(Kind::Log(source))
    }

    /// The cluster that is read, if one is.
    pub(super) fn kafka(&self) -> Option<&KafkaConfig> {
        match &self.0 {
            Kind::Kafka(source) => Some(source.config()),
            Kind::Files(_) | Kind::Archive(_) | Kind::Log(_) => None,
        }
    }
}

impl Source for EventSource {
    type Decoder = EventDecoder;

    fn decoder(&self) -> EventDecoder {
        match &self.0 {
            Kind::Files(source) => EventDecoder(DecoderKind::Files(source.decoder())),
            Kind::Kafka(source) => EventDecoder(DecoderKind::Messages(source.decoder())),
            Kind::Archive(source) => EventDecoder(DecoderKind::Lines(source.decoder())),
            Kind::Log(source) => EventDecoder(DecoderKind::Messages(source.decoder())),
        }
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        match &self.0 {
            Kind::Files(source) => source.open(recorded),
            Kind::Kafka(source) => source.open(recorded),
            Kind::Archive(source) => source.open(recorded),
            Kind::Log(source) => source.open(recorded),
        }
    }
}

/// The decoder of an [`EventSource`].
#[derive(Clone)]
pub struct EventDecoder(DecoderKind);

#[derive(Clone)]
enum DecoderKind {
    Files(FileDecoder),
    Messages(MessageDecoder),
    Lines(NdjsonDecoder),
}

impl Decode for EventDecoder {
    type Record = Event;

    fn travels(&self) -> bool {
        match &self.0 {
            DecoderKind::Files(decoder) => decoder.travels(),
            DecoderKind::Messages(decoder) => decoder.travels(),
            DecoderKind::Lines(decoder) => decoder.travels(),
        }
    }

    fn decode(&mut self, block: Block, out: &mut Decoded<Event>) {
        match &mut self.0 {
            DecoderKind::Files(decoder) => decoder.decode(block, out),
            DecoderKind::Messages(decoder) => decoder.decode(block, out),
            DecoderKind::Lines(decoder) => decoder.decode(block, out),
        }
    }
}
