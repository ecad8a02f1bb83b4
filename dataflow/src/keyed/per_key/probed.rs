//! Closing an epoch without the rows at which a logic panics: each key is tried on copies of its state.

use std::iter;

use serde::de::DeserializeOwned;

use super::{KeyedLogic, NONE, PerKey};
use crate::key::OwnedKey;
use crate::keyed::in_order::encoded;
use crate::keyed::logic::{Chunk, Emit};
use crate::quarantine::{Probe, Sees};
use crate::time::EpochTime;

impl<L: KeyedLogic> PerKey<L> {
    /// Closes the epoch; what panics without a row is of no row.
    pub(super) fn probe(
        &mut self,
        time: EpochTime,
        input: Vec<Chunk<(OwnedKey, L::In)>>,
        out: &mut Emit<L::Out>,
        probe: &mut Probe<'_>,
    ) {
        let chunk_of: Vec<usize> =
            input.iter().enumerate().flat_map(|(at, chunk)| iter::repeat_n(at, chunk.rows.len())).collect();
        let (mut rows, touched) = self.chain(input);
        let fired = self.take_fired(time.after);
        self.naming_key(|shard, at_work| {
            for slot in touched {
                at_work.set(slot);
                let (mut at, mut records) = (shard.take_chain(slot), Vec::new());
                while at != NONE {
                    let row = &mut rows[at as usize];
                    records.extend(row.record.take().map(|record| (chunk_of[at as usize], record)));
                    at = row.next;
                }
                shard.call_probed(slot, records, time, out, probe);
            }
            shard.fire(fired, time, out, at_work);
        });
        self.sweep_timers();
    }

    /// Lets the logic close the epoch for one key without the rows at which it panics; rows come with their chunk's number.
    fn call_probed(
        &mut self,
        slot: u32,
        records: Vec<(usize, L::In)>,
        time: EpochTime,
        out: &mut Emit<L::Out>,
        probe: &mut Probe<'_>,
    ) {
        let logic = &self.logic;
        let entry = self.slots[slot as usize].as_mut().expect("a key that is called has a slot");
        let mut placed: Vec<_> =
            records.into_iter().map(|(chunk, record)| (chunk, logic.place(&record), record)).collect();
        placed.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
        let sees = if placed.iter().all(|(_, place, _)| place.is_some()) { Sees::InTurn } else { Sees::Together };
        // A record need not be `Clone`; as it travels it can be had again and again.
        let mut rows: Vec<_> = placed.into_iter().map(|(chunk, _, record)| (chunk, encoded(&record))).collect();
        let due = logic.deadline(&entry.state).is_some_and(|deadline| Some(deadline) <= time.after);
        let called = probe.without_panics(&mut rows, (sees, due), |some| {
            let mut read: Vec<L::In> = some.iter().map(|(_, bytes)| again(bytes)).collect();
            let (mut state, mut emit) = (entry.state.clone(), Emit::default());
            let keep = logic.on_epoch(&entry.key, &mut state, &mut read, time, &mut emit);
            (state, emit, keep)
        });
        // A key of which nothing is left is as it was.
        let Some((closed, given, keep)) = called else { return };
        let before = logic.heap_bytes(&entry.state);
        entry.state = closed;
        out.absorb(given);
        self.settle(slot, before, keep);
    }
}

/// A record that was encoded.
fn again<R: DeserializeOwned>(bytes: &[u8]) -> R {
    postcard::from_bytes(bytes).expect("what travels between workers is read as it was written")
}
