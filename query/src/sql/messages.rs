//! What a server and its workers say to each other: a line of JSON each, and after an answer its bytes.

use serde::{Deserialize, Serialize};

use crate::visible::Visible;

/// A statement to be answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    /// What there is to be seen, where that is another than the last time.
    pub(super) visible: Option<Visible>,
    pub(super) statement: String,
    /// Rows of an answer at most.
    pub(super) rows: usize,
    pub(super) csv: bool,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// It can be asked.
    Ready,
    /// It cannot work.
    Unfit {
        reason: String,
    },
    /// So many bytes follow, the answer.
    Answer {
        bytes: usize,
    },
    Refused {
        status: u16,
        message: String,
    },
    /// A file that was to be seen is not there any more.
    FileGone {
        message: String,
    },
}
