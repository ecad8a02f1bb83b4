//! What becomes of a request's body, without server, clock and log: for tests that send anything.

use std::ops::Range;
use std::sync::Arc;

use tidemill_connectors::events::Bounds;

use crate::admission::{Admitted, admit, bytes_needed, server_members};
use crate::batch::{events_of, key_of};
use crate::body::{Packing, ReadBody, unpack};
use crate::budget::{Lease, MemoryBudget};
use crate::config::Limits;

/// A body of which the events were judged.
#[derive(Debug, PartialEq, Eq)]
pub struct Judged {
    /// The body, unpacked.
    pub body: Vec<u8>,
    /// For each event, in order: its line, or why it was rejected.
    pub events: Vec<Result<String, String>>,
}

/// What the server says of itself in every line.
#[must_use]
pub fn members() -> String {
    server_members(1_767_225_600_000, "hash", None, "shop")
}

/// Judges a body that came with this `Content-Encoding`, within the memory of the limits.
///
/// # Errors
/// Why the request is refused as a whole.
pub fn judge(encoding: &[u8], sent: Vec<u8>, limits: &Limits) -> Result<Judged, String> {
    let budget = MemoryBudget::new(limits.memory);
    let judged = judge_within(&budget, encoding, sent, limits);
    assert_eq!(budget.held(), 0, "what a request held is given back");
    assert!(budget.peak() <= limits.memory, "no request holds more than there is");
    judged
}

fn judge_within(budget: &Arc<MemoryBudget>, encoding: &[u8], sent: Vec<u8>, limits: &Limits) -> Result<Judged, String> {
    let packing = Packing::named(encoding).ok_or("the encoding is not known")?;
    let mut read = ReadBody { bytes: sent, lease: Lease::empty(budget, 1, Some(1)) };
    if read.bytes.len() > limits.body_bytes || !read.lease.grow(read.bytes.capacity()) {
        return Err("the body is too large".to_owned());
    }
    let unpacked = unpack(packing, read, limits.body_bytes);
    let ReadBody { bytes: body, mut lease } = unpacked.map_err(|error| format!("{error:?}"))?;
    // A beacon's key is looked for in whatever was sent.
    let _ = key_of(&body);
    let members = members();
    let events = events_of(&body, limits.events).map_err(|error| format!("{error:?}"))?;
    let needed = bytes_needed(&events, &members);
    if !lease.grow(needed) {
        return Err("there is no memory for it now".to_owned());
    }
    let Admitted { text, lines, verdicts } = admit(&events, &members, Bounds::default());
    assert!(2 * text.len() <= needed, "lines of {} bytes, and {needed} paid for", text.len());
    let line = |range: &Range<usize>| String::from_utf8(text[range.clone()].to_vec()).expect("a line is text");
    let mut taken = lines.iter();
    let judged = verdicts.into_iter().map(|verdict| match verdict.rejected {
        Some(reject) => Err(reject.reason),
        None => Ok(line(&taken.next().expect("an event that is taken has a line").value)),
    });
    let judged = Judged { events: judged.collect(), body: body.clone() };
    assert!(taken.next().is_none(), "every line is of an event that was taken");
    Ok(judged)
}
