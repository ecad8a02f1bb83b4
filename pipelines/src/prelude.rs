//! What a pipeline's author needs: `use tidemill::prelude::*`.

pub use tidemill_dataflow::flow::Flow;
pub use tidemill_dataflow::key::{HashedText, key};
pub use tidemill_dataflow::stream::{KeyedStream, Stream, TimedStream};
pub use tidemill_dataflow::time::{EventTime, hours, minutes, seconds};
pub use tidemill_dataflow::watermark::Watermarks;
pub use tidemill_operators::aggregate::{count, distinct, first, last, max, min, sum, sum_decimal};
pub use tidemill_operators::incremental::{Change, IncrementalOps, KeyedRows, Retain, StepRows};
pub use tidemill_operators::stream::{Deduplicated, Horizon, Identity, KeyedStreamOps, StreamOps, session_summary};
pub use tidemill_operators::window::session::Session;
pub use tidemill_operators::window::tumbling::{Late, Tumbling, WindowRow};
