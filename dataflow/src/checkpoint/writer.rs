//! The threads that encode, store and fold pieces, so that a worker's stall at a checkpoint is one channel send.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use tidemill_log::Store;
use timely::scheduling::SyncActivator;

use super::piece::{self, Piece};
use super::pieces::{FoldPlan, PieceRef};
use super::restore::{LoadError, read};
use crate::key_group::{KEY_GROUPS, KeyGroup};
use crate::keyed::{Changes, DecodeError, Section, ShardLogic};
use crate::runtime::RunError;
use crate::shared::Requests;
use crate::time::{Epoch, Watermark};

/// Folds successive sections of one key group: `ShardLogic::fold` of an operator.
pub(crate) type FoldFn = fn(&[&[u8]], Watermark, bool) -> Result<Vec<u8>, DecodeError>;

/// Writes a section of an older version as today's: `ShardLogic::migrate` of an operator.
pub(crate) type MigrateFn = fn(u32, KeyGroup, &[u8]) -> Result<Vec<u8>, DecodeError>;

/// What can be done with an operator's stored sections without the operator.
#[derive(Clone, Copy)]
pub(crate) struct Codec {
    pub(crate) version: u32,
    fold: FoldFn,
    migrate: MigrateFn,
}

impl Codec {
    pub(crate) fn of<L: ShardLogic>() -> Codec {
        Codec { version: L::STATE_VERSION, fold: L::fold, migrate: L::migrate }
    }

    /// A section in the form of this version.
    pub(crate) fn current<'a>(
        &self,
        version: u32,
        group: KeyGroup,
        section: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, DecodeError> {
        if version == self.version {
            return Ok(Cow::Borrowed(section));
        }
        (self.migrate)(version, group, section).map(Cow::Owned)
    }
}

/// An answer to the operator whose changes were stored.
pub(crate) struct Stored {
    pub(crate) epoch: Epoch,
    pub(crate) piece: PieceRef,
}

pub(crate) enum Request {
    Write {
        operator: &'static str,
        version: u32,
        worker: u32,
        epoch: Epoch,
        changes: Changes,
        reply: Sender<Stored>,
        wake: SyncActivator,
    },
    Fold {
        operator: String,
        plan: FoldPlan,
        codec: Codec,
        watermark: Watermark,
    },
}

/// While one piece is synced, another one is encoded.
const THREADS: usize = 2;

/// Starts the threads; they end when all senders are gone.
pub(crate) fn start(
    store: &Arc<dyn Store>,
    run: u64,
    requests: &Requests,
) -> std::io::Result<(Sender<Request>, Vec<JoinHandle<()>>)> {
    let (sender, receiver) = channel();
    let todo = Arc::new(Todo { receiver: Mutex::new(receiver), folds: AtomicU64::new(0), run });
    let mut threads = Vec::new();
    for number in 0..THREADS {
        let (todo, store, requests) = (Arc::clone(&todo), Arc::clone(store), requests.clone());
        let work = move || {
            while let Some(request) = todo.next() {
                if let Err(error) = todo.serve(&*store, request, &requests) {
                    requests.fail(error);
                }
            }
        };
        threads.push(thread::Builder::new().name(format!("checkpoints {number}")).spawn(work)?);
    }
    Ok((sender, threads))
}

/// What the threads share.
struct Todo {
    receiver: Mutex<Receiver<Request>>,
    /// Folds begun, which name what they write.
    folds: AtomicU64,
    run: u64,
}

impl Todo {
    fn next(&self) -> Option<Request> {
        self.receiver.lock().expect("no panic while it is held").recv().ok()
    }

    fn serve(&self, store: &dyn Store, request: Request, requests: &Requests) -> Result<(), RunError> {
        let run = self.run;
        match request {
            Request::Write { operator, version, worker, epoch, changes, reply, wake } => {
                let path = format!("_tidemill/state/{operator}/{epoch:012}-{run:06}-{worker:04}");
                let sections = (changes.encode)();
                let bytes = piece::encode(&sections);
                drop(sections);
                store.put(&path, &bytes)?;
                let (bytes, expires) = (bytes.len() as u64, changes.expires);
                let piece = PieceRef { path, bytes, first: epoch, last: epoch, expires, version: Some(version) };
                // Both fail only when the worker is gone, and then the run is over anyway.
                let _ = reply.send(Stored { epoch, piece });
                let _ = wake.activate();
            }
            Request::Fold { operator, plan, codec, watermark } => {
                let number = self.folds.fetch_add(1, Ordering::Relaxed) + 1;
                let path = format!("_tidemill/state/{operator}/fold-{run:06}-{number:08}");
                let piece = fold_pieces(store, path, &plan, codec, watermark)?;
                requests.folded(operator, piece);
            }
        }
        Ok(())
    }
}

fn fold_pieces(
    store: &dyn Store,
    path: String,
    plan: &FoldPlan,
    codec: Codec,
    watermark: Watermark,
) -> Result<Option<PieceRef>, RunError> {
    let mut pieces = Vec::with_capacity(plan.pieces.len());
    for reference in &plan.pieces {
        pieces.push((reference.version.unwrap_or(codec.version), read_piece(store, reference)?));
    }
    let unfit = |error: DecodeError| RunError::State(format!("cannot fold {path}: {error}"));
    let mut by_group: Vec<Vec<Cow<'_, [u8]>>> = vec![Vec::new(); KEY_GROUPS as usize];
    for (version, piece) in &pieces {
        for (group, bytes) in piece.sections() {
            by_group[group as usize].push(codec.current(*version, group, bytes).map_err(unfit)?);
        }
    }
    let mut sections = Vec::new();
    for (group, bytes) in (0..=u8::MAX).zip(&by_group) {
        if bytes.is_empty() {
            continue;
        }
        let bytes: Vec<&[u8]> = bytes.iter().map(|section| &**section).collect();
        let folded = (codec.fold)(&bytes, watermark, plan.oldest).map_err(unfit)?;
        if !folded.is_empty() {
            sections.push(Section { group, bytes: folded });
        }
    }
    let epochs = (plan.pieces.iter().map(|p| p.first).min(), plan.pieces.iter().map(|p| p.last).max());
    let (Some(first), Some(last)) = epochs else { return Ok(None) };
    if sections.is_empty() {
        return Ok(None);
    }
    let bytes = piece::encode(&sections);
    store.put(&path, &bytes)?;
    // It matters as long as any of its parts does.
    let expires = plan.pieces.iter().map(|p| p.expires).max_by_key(|e| e.map_or((1, None), |time| (0, Some(time))));
    let (bytes, expires, version) = (bytes.len() as u64, expires.flatten(), Some(codec.version));
    Ok(Some(PieceRef { path, bytes, first, last, expires, version }))
}

/// Reads and verifies one piece.
pub(crate) fn read_piece(store: &dyn Store, reference: &PieceRef) -> Result<Piece, LoadError> {
    let damaged = |problem: String| LoadError::Damaged(format!("{}: {problem}", reference.path));
    let bytes = read(store, &reference.path)?.ok_or_else(|| damaged("it is gone".into()))?;
    if bytes.len() as u64 != reference.bytes {
        return Err(damaged(format!("it has {} bytes instead of {}", bytes.len(), reference.bytes)));
    }
    Piece::decode(bytes).map_err(|corrupt| damaged(corrupt.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_log::testing::MemoryStore;

    /// Version 2 writes every byte twice; folding takes the latest section.
    fn twice(version: u32, _: KeyGroup, section: &[u8]) -> Result<Vec<u8>, DecodeError> {
        assert_eq!(version, 1, "what is of today's version is never migrated");
        Ok(section.iter().flat_map(|byte| [*byte; 2]).collect())
    }

    fn all(sections: &[&[u8]], _: Watermark, _: bool) -> Result<Vec<u8>, DecodeError> {
        Ok(sections.concat())
    }

    #[test]
    fn folding_brings_pieces_of_every_version_to_todays() {
        let store = MemoryStore::default();
        let stored = |path: &str, version, bytes: &[u8]| {
            let bytes = piece::encode(&[Section { group: 3, bytes: bytes.to_vec() }]);
            store.put(path, &bytes).unwrap();
            let (path, bytes) = (path.to_owned(), bytes.len() as u64);
            PieceRef { path, bytes, first: 1, last: 1, expires: None, version }
        };
        let pieces = vec![stored("a", Some(1), b"x"), stored("b", Some(2), b"yy"), stored("c", None, b"zz")];
        let plan = FoldPlan { pieces, oldest: true };
        let codec = Codec { version: 2, fold: all, migrate: twice };
        let folded = fold_pieces(&store, "d".into(), &plan, codec, None).unwrap().unwrap();
        assert_eq!(folded.version, Some(2));
        let read = read_piece(&store, &folded).unwrap();
        assert_eq!(read.sections().collect::<Vec<_>>(), [(3, b"xxyyzz".as_slice())]);
    }
}
