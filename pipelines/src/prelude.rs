//! What a pipeline's author needs: `use tidemill::prelude::*`.

pub use tidemill_dataflow::flow::Flow;
pub use tidemill_dataflow::hash::{hash64, hash128};
pub use tidemill_dataflow::key::{HashedText, OwnedKey, key};
pub use tidemill_dataflow::stream::{KeyedStream, Stream, TimedStream};
pub use tidemill_dataflow::time::{EventTime, hours, minutes, seconds};
pub use tidemill_dataflow::watermark::Watermarks;
pub use tidemill_operators::aggregate::{
    approx_distinct, count, distinct, first, last, max, mean, min, quantiles, quantiles_float, sum, sum_decimal,
    sum_float,
};
pub use tidemill_operators::emission::WindowVersion;
pub use tidemill_operators::incremental::{Change, IncrementalOps, KeyedRows, Ranked, Retain, Rows, StepRows};
pub use tidemill_operators::join::{JoinOps, Joined, Within};
pub use tidemill_operators::process::{Context, Process, ProcessOps};
pub use tidemill_operators::stream::{Deduplicated, Horizon, Identity, KeyedStreamOps, StreamOps, session_summary};
pub use tidemill_operators::window::hopping::Hopping;
pub use tidemill_operators::window::session::{Session, SessionChange};
pub use tidemill_operators::window::top_k::RankChange;
pub use tidemill_operators::window::tumbling::{Late, Tumbling, WindowRow};
