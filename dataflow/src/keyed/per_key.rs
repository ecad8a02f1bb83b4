//! Per-key state: a [`KeyedLogic`] sees one key, its state and an epoch's records of that key; [`PerKey`] does the rest.
//!
//! It finds the state of a key, keeps one event-time deadline per key, and tracks what changed since the last snapshot.
//! What a logic gives depends on (state, the epoch's records of the key, the two watermarks) only, so it is the same on
//! any number of workers (INV-2), and a section names keys, never workers (INV-7).
//!
//! A section is a sequence of `(tenant, name, state | tombstone)` in postcard; of two entries of a key the later counts.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use crate::key::{KeyPart, OwnedKey, key};
use crate::key_group::{KEY_GROUPS, KeyGroup, group_of};
use crate::keyed::logic::{Changes, Chunk, DecodeError, Emit, Exchanged, Section, ShardLogic, StateSize, no_migration};
use crate::quarantine::{Probe, key_in_hand};
use crate::time::{EpochTime, EventTime, Watermark};

mod probed;

/// Whether a key still has state after an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The state stays, in memory and in the next snapshot.
    Keep,
    /// The key is forgotten; if it comes again it starts from `State::default()`.
    Remove,
}

/// Pure logic over one key at a time.
pub trait KeyedLogic: 'static {
    /// A record of a key.
    type In: Exchanged;
    /// What is kept of a key. Its serialization must not fail (no maps or sequences of unknown length).
    type State: Default + Clone + Serialize + DeserializeOwned + Send + 'static;
    /// What it gives.
    type Out: Send + Sync + 'static;
    /// The version of `State`; raise it when the meaning of stored bytes changes.
    const STATE_VERSION: u32;
    /// The oldest version whose states [`upgrade`](Self::upgrade) reads. Older ones are refused before anything runs.
    const OLDEST_VERSION: u32 = Self::STATE_VERSION;

    /// Handles all records of `key` in one epoch, and whatever `time.after` makes due.
    ///
    /// Called once for a key that has records in the epoch or whose deadline `time.after` has reached (then `records`
    /// may be empty). Records come in the order of their chunks, which depends on the number of workers when they were
    /// combined before the exchange: a logic to which order matters sorts them. What it leaves in `records` is dropped.
    fn on_epoch(
        &self,
        key: &OwnedKey,
        state: &mut Self::State,
        records: &mut Vec<Self::In>,
        time: EpochTime,
        out: &mut Emit<Self::Out>,
    ) -> Keep;

    /// Where a record stands among those of its key and epoch, for a logic that sorts them: event time and bytes. Asked
    /// only when a record that panics is looked for, which is then the one that the logic had in hand.
    fn place(&self, record: &Self::In) -> Option<(EventTime, Vec<u8>)> {
        let _ = record;
        None
    }

    /// When the key wants to be called although nothing came for it: in the first epoch whose `W(e)` is at or past this
    /// time. A deadline that `on_epoch` leaves in the past is due again in the next epoch.
    fn deadline(&self, state: &Self::State) -> Option<EventTime>;

    /// Heap bytes that the state holds.
    fn heap_bytes(&self, state: &Self::State) -> usize;

    /// What a restored key gives once more; see [`ShardLogic::refeed`].
    fn refeed(&self, key: &OwnedKey, state: &Self::State, out: &mut Vec<Self::Out>) {
        let _ = (key, state, out);
    }

    /// Reads the state of a key that an older `version` (at least `OLDEST_VERSION`) stored: `stored.read::<Then>()` gives
    /// what was kept then, and a chain of `From` makes today's state of it.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill_dataflow::keyed::{DecodeError, StoredState};
    /// /// What version 1 kept.
    /// #[derive(Serialize, Deserialize)]
    /// struct Count(u32);
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct CountAndSum {
    ///     count: u64,
    ///     sum: i64,
    /// }
    ///
    /// impl From<Count> for CountAndSum {
    ///     fn from(then: Count) -> Self {
    ///         CountAndSum { count: then.0.into(), sum: 0 }
    ///     }
    /// }
    ///
    /// // const STATE_VERSION: u32 = 2;
    /// // const OLDEST_VERSION: u32 = 1;
    /// fn upgrade(version: u32, stored: StoredState<'_>) -> Result<CountAndSum, DecodeError> {
    ///     match version {
    ///         1 => stored.read::<Count>().map(CountAndSum::from),
    ///         _ => stored.read(),
    ///     }
    /// }
    /// # let bytes = [7];
    /// # assert_eq!(upgrade(1, StoredState::new(&bytes)).unwrap().count, 7);
    /// ```
    ///
    /// # Errors
    /// If the state is not one that `version` stored, or there is no migration from it.
    fn upgrade(version: u32, stored: StoredState<'_>) -> Result<Self::State, DecodeError> {
        let _ = stored;
        Err(no_migration(version, Self::STATE_VERSION))
    }
}

/// The state of a key as an older version stored it.
#[derive(Clone, Copy, Debug)]
pub struct StoredState<'a>(&'a [u8]);

impl<'a> StoredState<'a> {
    /// What these bytes hold.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        StoredState(bytes)
    }

    /// Reads it as the type that was stored then.
    ///
    /// # Errors
    /// If it is not one.
    pub fn read<S: DeserializeOwned>(self) -> Result<S, DecodeError> {
        decode(self.0)
    }
}

/// "No row": the end of a chain of rows.
const NONE: u32 = u32::MAX;

/// A key that has state, and the rows of the epoch being closed that belong to it (a chain through [`Row::next`]).
struct Slot<S> {
    key: OwnedKey,
    state: S,
    /// The earliest timer of this slot in the heap; others of the slot are stale.
    armed: Option<EventTime>,
    first_row: u32,
    last_row: u32,
    /// Whether a section that was handed out knows the key, so that forgetting it takes a tombstone.
    stored: bool,
}

/// A record of the epoch being closed.
struct Row<R> {
    record: Option<R>,
    next: u32,
}

/// A [`KeyedLogic`] over all keys of one worker.
pub struct PerKey<L: KeyedLogic> {
    logic: L,
    /// The keys; a slot number stays the same as long as the key has state.
    slots: Vec<Option<Slot<L::State>>>,
    /// Slot numbers without a key.
    free: Vec<u32>,
    /// Key hash -> slot number.
    index: HashTable<u32>,
    /// Timers that may be stale: a slot's deadline that moved later is looked at when its timer fires.
    timers: BinaryHeap<Reverse<(EventTime, u32)>>,
    /// Slots that changed since the last snapshot, each once; `is_dirty` has a flag for every slot number.
    dirty: Vec<u32>,
    is_dirty: Vec<bool>,
    /// Stored keys that were forgotten since the last snapshot.
    tombstones: Vec<OwnedKey>,
    /// Heap bytes of all keys and states.
    heap_bytes: usize,
}

impl<L: KeyedLogic> PerKey<L> {
    /// The logic without any key.
    #[must_use]
    pub fn new(logic: L) -> Self {
        PerKey {
            logic,
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            timers: BinaryHeap::new(),
            dirty: Vec::new(),
            is_dirty: Vec::new(),
            tombstones: Vec::new(),
            heap_bytes: 0,
        }
    }

    /// The slot of a key, a new one if it has none.
    fn slot_of(&mut self, key: OwnedKey) -> u32 {
        let slots = &self.slots;
        let found =
            self.index.entry(key.hash(), |&slot| occupied(slots, slot).key == key, |&slot| hash_of(slots, slot));
        match found {
            Entry::Occupied(found) => *found.get(),
            Entry::Vacant(vacant) => {
                let state = L::State::default();
                self.heap_bytes += key.heap_bytes() + self.logic.heap_bytes(&state);
                let new = Some(Slot { key, state, armed: None, first_row: NONE, last_row: NONE, stored: false });
                let slot = if let Some(slot) = self.free.pop() {
                    self.slots[slot as usize] = new;
                    slot
                } else {
                    self.slots.push(new);
                    self.is_dirty.push(false);
                    index32(self.slots.len() - 1)
                };
                vacant.insert(slot);
                slot
            }
        }
    }

    /// Forgets the key of a slot.
    fn remove(&mut self, slot: u32) -> Slot<L::State> {
        let slots = &self.slots;
        let hash = hash_of(slots, slot);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == slot) {
            found.remove();
        }
        let removed = self.slots[slot as usize].take().expect("the slot of an indexed key holds it");
        self.free.push(slot);
        self.heap_bytes -= removed.key.heap_bytes() + self.logic.heap_bytes(&removed.state);
        removed
    }

    /// Chains the rows of each key, in input order; gives the slots that have some.
    fn chain(&mut self, input: Vec<Chunk<(OwnedKey, L::In)>>) -> (Vec<Row<L::In>>, Vec<u32>) {
        let mut rows = Vec::with_capacity(input.iter().map(|chunk| chunk.rows.len()).sum());
        let mut touched = Vec::new();
        for (key, record) in input.into_iter().flat_map(|chunk| chunk.rows) {
            let slot = self.slot_of(key);
            let row = index32(rows.len());
            rows.push(Row { record: Some(record), next: NONE });
            let entry = self.slots[slot as usize].as_mut().expect("a slot that was just looked up holds its key");
            if entry.first_row == NONE {
                entry.first_row = row;
                touched.push(slot);
            } else {
                rows[entry.last_row as usize].next = row;
            }
            entry.last_row = row;
        }
        (rows, touched)
    }

    /// The first row of a key that has some.
    fn take_chain(&mut self, slot: u32) -> u32 {
        let entry = self.slots[slot as usize].as_mut().expect("a key with rows has a slot");
        std::mem::replace(&mut entry.first_row, NONE)
    }

    /// Closes the epoch for keys without rows whose timer fired, if their deadline is still due.
    fn fire(&mut self, fired: Vec<u32>, time: EpochTime, out: &mut Emit<L::Out>, at_work: &Cell<u32>) {
        for slot in fired {
            at_work.set(slot);
            let Some(entry) = &self.slots[slot as usize] else { continue };
            if entry.armed.is_some() {
                continue;
            }
            if self.logic.deadline(&entry.state).is_some_and(|deadline| Some(deadline) <= time.after) {
                self.call(slot, &mut Vec::new(), time, out);
            } else {
                self.arm(slot);
            }
        }
    }

    /// Lets the logic close the epoch for one key.
    fn call(&mut self, slot: u32, records: &mut Vec<L::In>, time: EpochTime, out: &mut Emit<L::Out>) {
        let entry = self.slots[slot as usize].as_mut().expect("a key that is called has a slot");
        let before = self.logic.heap_bytes(&entry.state);
        let keep = self.logic.on_epoch(&entry.key, &mut entry.state, records, time, out);
        records.clear();
        self.settle(slot, before, keep);
    }

    /// A key's epoch is closed; its state held so many bytes before.
    fn settle(&mut self, slot: u32, before: usize, keep: Keep) {
        let entry = self.slots[slot as usize].as_ref().expect("a key that was called has a slot");
        self.heap_bytes = self.heap_bytes - before + self.logic.heap_bytes(&entry.state);
        match keep {
            Keep::Keep => {
                if !self.is_dirty[slot as usize] {
                    self.is_dirty[slot as usize] = true;
                    self.dirty.push(slot);
                }
                self.arm(slot);
            }
            Keep::Remove => {
                let removed = self.remove(slot);
                if removed.stored {
                    self.tombstones.push(removed.key);
                }
            }
        }
    }

    /// Does `work`, which says at which slot it is: if it panics, that is said to be of its key. So it costs nothing before.
    fn naming_key(&mut self, work: impl FnOnce(&mut Self, &Cell<u32>)) {
        let at_work = Cell::new(NONE);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(self, &at_work))) {
            if let Some(Some(entry)) = self.slots.get(at_work.get() as usize) {
                key_in_hand(&entry.key);
            }
            resume_unwind(panic);
        }
    }

    /// Makes sure that a timer fires at or before the slot's deadline.
    fn arm(&mut self, slot: u32) {
        let entry = self.slots[slot as usize].as_mut().expect("a key with a timer has a slot");
        if let Some(deadline) = self.logic.deadline(&entry.state)
            && entry.armed.is_none_or(|armed| deadline < armed)
        {
            entry.armed = Some(deadline);
            self.timers.push(Reverse((deadline, slot)));
        }
    }

    /// The slots whose timer fires at `after`; their deadline may have moved since.
    fn take_fired(&mut self, after: Watermark) -> Vec<u32> {
        let mut fired = Vec::new();
        while let (Some(after), Some(&Reverse((at, slot)))) = (after, self.timers.peek())
            && at <= after
        {
            self.timers.pop();
            if let Some(entry) = &mut self.slots[slot as usize]
                && entry.armed == Some(at)
            {
                entry.armed = None;
                fired.push(slot);
            }
        }
        fired
    }

    /// Drops stale timers once they are the larger part.
    fn sweep_timers(&mut self) {
        if self.timers.len() > 2 * self.index.len() + 1024 {
            self.timers.clear();
            for (slot, entry) in self.slots.iter().enumerate() {
                if let Some(at) = entry.as_ref().and_then(|entry| entry.armed) {
                    self.timers.push(Reverse((at, index32(slot))));
                }
            }
        }
    }
}

impl<L: KeyedLogic> ShardLogic for PerKey<L> {
    type In = (OwnedKey, L::In);
    type Out = L::Out;
    const STATE_VERSION: u32 = L::STATE_VERSION;
    const OLDEST_VERSION: u32 = L::OLDEST_VERSION;
    const STATEFUL: bool = true;

    fn close_epoch(&mut self, time: EpochTime, input: Vec<Chunk<Self::In>>, out: &mut Emit<L::Out>) {
        // 1. Chain the rows of each key, in input order, without moving or sorting them.
        let (mut rows, touched) = self.chain(input);
        let fired = self.take_fired(time.after);
        self.naming_key(|shard, at_work| {
            // 2. Close the epoch for the keys that have rows.
            let mut records = Vec::new();
            for slot in touched {
                at_work.set(slot);
                let mut at = shard.take_chain(slot);
                while at != NONE {
                    let row = &mut rows[at as usize];
                    records.extend(row.record.take());
                    at = row.next;
                }
                shard.call(slot, &mut records, time, out);
            }
            // 3. Then for those without rows whose deadline is due. A key with rows armed a new timer in step 2 already.
            shard.fire(fired, time, out, at_work);
        });
        self.sweep_timers();
    }

    fn close_probed(
        &mut self,
        time: EpochTime,
        input: Vec<Chunk<Self::In>>,
        out: &mut Emit<L::Out>,
        probe: &mut Probe<'_>,
    ) {
        self.probe(time, input, out, probe);
    }

    fn changes(&mut self) -> Option<Changes> {
        let mut changed: Vec<_> = self.tombstones.drain(..).map(|key| (key, None)).collect();
        changed.reserve(self.dirty.len());
        for slot in self.dirty.drain(..) {
            self.is_dirty[slot as usize] = false;
            if let Some(entry) = &mut self.slots[slot as usize] {
                entry.stored = true;
                changed.push((entry.key.clone(), Some(entry.state.clone())));
            }
        }
        if changed.is_empty() {
            return None;
        }
        Some(Changes { encode: Box::new(move || encode(&changed)), expires: None })
    }

    fn restore(&mut self, group: KeyGroup, section: &[u8]) -> Result<(), DecodeError> {
        let mut rest = section;
        while !rest.is_empty() {
            let ((tenant, name), state) = take_entry(&mut rest)?;
            let owned = key(Part(tenant), Part(name)).to_owned();
            if group_of(owned.hash()) != group {
                return Err(DecodeError(format!("it holds a key that is not of group {group}")));
            }
            let slot = self.slot_of(owned);
            let Some(state) = state else {
                self.remove(slot);
                continue;
            };
            let state = decode::<L::State>(state)?;
            let entry = self.slots[slot as usize].as_mut().expect("a slot that was just looked up holds its key");
            self.heap_bytes -= self.logic.heap_bytes(&entry.state);
            self.heap_bytes += self.logic.heap_bytes(&state);
            entry.state = state;
            entry.stored = true;
        }
        Ok(())
    }

    fn migrate(version: u32, _group: KeyGroup, section: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let (mut rest, mut migrated) = (section, Vec::with_capacity(section.len()));
        while !rest.is_empty() {
            let ((tenant, name), stored) = take_entry(&mut rest)?;
            let state = stored.map(|stored| L::upgrade(version, StoredState(stored))).transpose()?;
            let bytes = state.map(|state| stored_bytes(&state, Vec::new()));
            put_entry(&mut migrated, tenant, name, bytes.as_deref());
        }
        Ok(migrated)
    }

    fn restored(&mut self, _watermark: Watermark) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                self.arm(index32(slot));
            }
        }
    }

    fn refeed(&mut self) -> Vec<L::Out> {
        let mut out = Vec::new();
        for slot in self.slots.iter().flatten() {
            self.logic.refeed(&slot.key, &slot.state, &mut out);
        }
        out
    }

    fn fold(sections: &[&[u8]], _low: Watermark, oldest: bool) -> Result<Vec<u8>, DecodeError> {
        let mut latest = BTreeMap::new();
        for section in sections {
            let mut rest = *section;
            while !rest.is_empty() {
                let (key, state) = take_entry(&mut rest)?;
                latest.insert(key, state);
            }
        }
        let mut folded = Vec::with_capacity(sections.iter().map(|section| section.len()).sum());
        for ((tenant, name), state) in latest {
            if state.is_some() || !oldest {
                put_entry(&mut folded, tenant, name, state);
            }
        }
        Ok(folded)
    }

    fn size(&self) -> StateSize {
        let bytes = self.heap_bytes
            + self.slots.capacity() * (size_of::<Option<Slot<L::State>>>() + size_of::<bool>())
            + self.index.allocation_size()
            + self.timers.capacity() * size_of::<Reverse<(EventTime, u32)>>();
        StateSize { entries: self.index.len() as u64, bytes: bytes as u64 }
    }
}

fn index32(index: usize) -> u32 {
    u32::try_from(index).ok().filter(|&index| index < NONE).expect("a worker holds fewer than 2^32 - 1 keys and rows")
}

fn occupied<S>(slots: &[Option<Slot<S>>], slot: u32) -> &Slot<S> {
    slots[slot as usize].as_ref().expect("an indexed slot holds a key")
}

fn hash_of<S>(slots: &[Option<Slot<S>>], slot: u32) -> u64 {
    occupied(slots, slot).key.hash()
}

/// Bytes that serialize as one run, not one by one.
struct Run<'a>(&'a [u8]);

impl Serialize for Run<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// A part of a key that was read back.
struct Part<'a>(&'a [u8]);

impl<'a> KeyPart<'a> for Part<'a> {
    fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// Tenant and name of an entry, and its state unless it is a tombstone.
type StoredEntry<'a> = ((&'a [u8], &'a [u8]), Option<&'a [u8]>);

fn put_entry(section: &mut Vec<u8>, tenant: &[u8], name: &[u8], state: Option<&[u8]>) {
    let entry = (Run(tenant), Run(name), state.map(Run));
    *section = postcard::to_extend(&entry, std::mem::take(section))
        .expect("byte strings always serialize into a growing vector");
}

fn take_entry<'a>(rest: &mut &'a [u8]) -> Result<StoredEntry<'a>, DecodeError> {
    let ((tenant, name, state), after) =
        postcard::take_from_bytes(rest).map_err(|error| DecodeError(format!("an entry is cut or torn: {error}")))?;
    *rest = after;
    Ok(((tenant, name), state))
}

fn decode<S: DeserializeOwned>(state: &[u8]) -> Result<S, DecodeError> {
    match postcard::take_from_bytes(state) {
        Ok((state, [])) => Ok(state),
        Ok((_, rest)) => Err(DecodeError(format!("a state has {} bytes too many", rest.len()))),
        Err(error) => Err(DecodeError(format!("a state does not decode: {error}"))),
    }
}

fn stored_bytes<S: Serialize>(state: &S, emptied: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(state, emptied).expect("a keyed state is made of what always serializes")
}

/// The sections of changed keys, ascending by group; runs on a background thread.
fn encode<S: Serialize>(changed: &[(OwnedKey, Option<S>)]) -> Vec<Section> {
    let mut groups = vec![Vec::new(); KEY_GROUPS as usize];
    let mut bytes = Vec::new();
    for (key, state) in changed {
        let (tenant, name) = key.parts();
        bytes.clear();
        if let Some(state) = state {
            bytes = stored_bytes(state, bytes);
        }
        put_entry(&mut groups[usize::from(group_of(key.hash()))], tenant, name, state.is_some().then_some(&bytes));
    }
    (0..=u8::MAX)
        .zip(groups)
        .filter(|(_, section)| !section.is_empty())
        .map(|(group, section)| Section { group, bytes: section })
        .collect()
}

#[cfg(test)]
mod tests;
