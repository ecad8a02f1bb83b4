//! Up to where a pipeline needs nothing of a partition any more, so that retention may go on.

use tidemill_log::{FOLDER, Location, LocationError, LogState, reader};

use thiserror::Error;

/// Why it is not known what a pipeline needs; then nothing should be deleted.
#[derive(Debug, Error)]
pub enum FloorError {
    /// The pipeline's place cannot be opened.
    #[error(transparent)]
    Place(#[from] LocationError),
    /// Its log cannot be read.
    #[error(transparent)]
    Log(#[from] tidemill_log::LogError),
}

/// The offset below which a pipeline needs nothing of a partition (`topic/partition`) any more, by its log: where the older
/// of its last two checkpoints stands, because the newer one may turn out damaged. 0 for as long as it may need all: before
/// its second checkpoint, and of a partition that it has not read by then.
#[must_use]
pub fn bound_floor(state: &LogState, partition_name: &str) -> u64 {
    if state.replayable_from_start() {
        return 0;
    }
    let older = state.checkpoints().first().and_then(|checkpoint| state.partitions_as_of(checkpoint.epoch));
    let binding = older.iter().flat_map(|partitions| partitions.values()).find(|p| p.name == partition_name);
    binding.map_or(0, |binding| binding.end)
}

/// What a pipeline needs, as of one look at its log.
#[derive(Clone, Debug)]
pub struct Floors {
    state: Option<LogState>,
}

impl Floors {
    /// Looks at the log of the pipeline whose state is in `place`, without writing anything there. A pipeline that never ran
    /// needs everything.
    ///
    /// # Errors
    /// If the place, or its log, cannot be read.
    pub fn read(place: &Location) -> Result<Floors, FloorError> {
        let store = place.open_for_reading()?.store;
        let state = match reader::is_initialized(std::sync::Arc::clone(&store), FOLDER)? {
            true => Some(reader::read(store, FOLDER)?),
            false => None,
        };
        Ok(Floors { state })
    }

    /// See [`bound_floor`].
    #[must_use]
    pub fn floor(&self, topic: &str, partition: u32) -> u64 {
        self.state.as_ref().map_or(0, |state| bound_floor(state, &format!("{topic}/{partition}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_log::{Entry, LogState};

    use super::*;

    fn entry(value: serde_json::Value) -> Entry {
        serde_json::from_value(value).unwrap()
    }

    fn partition(end: u64) -> serde_json::Value {
        json!([{ "partition": 0, "name": "events.click/0", "end": end, "lines": end, "digest": "00", "watermark": null,
                 "status": "active", "detail": {} }])
    }

    #[test]
    fn the_floor_is_where_the_older_of_two_checkpoints_stands() {
        let mut state = LogState::default();
        let mut number = 0;
        let mut apply = |to: &mut LogState, value| {
            number += 1;
            to.apply(number, entry(value)).unwrap();
        };
        let seal = json!({ "seal": { "run": 1, "format": 1, "plan": "", "build": "", "workers": 1, "processes": 1,
                                     "instance": "i", "checkpoint": null } });
        apply(&mut state, seal);
        for epoch in 1..=6_u64 {
            let checkpoint = epoch % 2 == 0;
            let bind = json!({ "bind": { "epoch": epoch, "watermark": null, "partitions": partition(epoch * 10),
                                         "last": false, "checkpoint": checkpoint } });
            apply(&mut state, bind);
            let commit = json!({ "commit": { "epoch": epoch, "watermark": null, "tables": [], "counts": {},
                                             "drained": false } });
            apply(&mut state, commit);
            if checkpoint {
                let name = format!("state/{epoch}");
                apply(&mut state, json!({ "checkpoint": { "epoch": epoch, "manifest": name, "checksum": "x" } }));
            }
            let expected = if epoch < 4 { 0 } else { (epoch / 2 * 2 - 2) * 10 };
            assert_eq!(bound_floor(&state, "events.click/0"), expected, "after epoch {epoch}");
            assert_eq!(bound_floor(&state, "events.click/1"), 0, "a partition that was not read is needed as a whole");
        }
    }

    #[test]
    fn a_pipeline_that_never_ran_needs_everything() {
        let folder = tempfile::tempdir().unwrap();
        let floors = Floors::read(&Location::from(folder.path())).unwrap();
        assert_eq!(floors.floor("events.click", 0), 0);
    }
}
