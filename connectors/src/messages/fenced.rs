//! A topic that another run of the pipeline writes to now.

use thiserror::Error;
use tidemill_dataflow::sink::SinkError;

/// This run may not write any more: a later one has begun. Leads to exit code 4.
#[derive(Debug, Error)]
#[error(
    "{topic}: this run is fenced; a later run of the pipeline writes there now, so let it, and start none beside it"
)]
pub struct Fenced {
    /// The topic that it would have written to.
    pub topic: String,
    /// How the later run showed.
    #[source]
    pub cause: Option<SinkError>,
}
