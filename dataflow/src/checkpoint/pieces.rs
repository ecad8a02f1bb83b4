//! Which pieces make up an operator's state, in the order in which they were written, and when some are folded.
//!
//! Every checkpoint adds what changed since the last one. To keep restores short the youngest pieces are folded together
//! as soon as there are [`FOLDED_AT_ONCE`] of about one weight, so every byte is rewritten a logarithmic number of times
//! and there are never more than a few dozen pieces. A piece whose records have all expired is dropped whole.

use serde::{Deserialize, Serialize};

use crate::time::{Epoch, EventTime, Watermark};

/// A stored piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceRef {
    /// Where it is stored.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// The first epoch whose changes it holds.
    pub first: Epoch,
    /// The last one.
    pub last: Epoch,
    /// Once the watermark is here, nothing in it matters.
    pub expires: Option<EventTime>,
    /// The version of the state codec that wrote it; `None` in checkpoints that are older than the field: the operator's.
    #[serde(default)]
    pub version: Option<u32>,
}

/// How many pieces of about one weight are left side by side; one more, and they are folded.
const FOLDED_AT_ONCE: usize = 4;

/// Pieces lighter than this are folded with their neighbours whatever those weigh.
const LIGHT: u64 = 256 * 1024;

/// The pieces of one operator, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pieces {
    pieces: Vec<PieceRef>,
    /// How many were handed out for folding and are not replaced yet.
    folding: Option<(usize, usize)>,
}

/// Pieces to fold into one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoldPlan {
    pub(crate) pieces: Vec<PieceRef>,
    /// Nothing older exists: tombstones can go.
    pub(crate) oldest: bool,
}

impl Pieces {
    pub(crate) fn restored(pieces: Vec<PieceRef>) -> Self {
        Pieces { pieces, folding: None }
    }

    pub(crate) fn list(&self) -> &[PieceRef] {
        &self.pieces
    }

    pub(crate) fn add(&mut self, piece: PieceRef) {
        self.pieces.push(piece);
    }

    /// Drops the pieces in which nothing matters any more at this watermark.
    pub(crate) fn expire(&mut self, watermark: Watermark) {
        if self.folding.is_some() {
            // Positions handed out must stay; the next checkpoint expires them.
            return;
        }
        let Some(now) = watermark else { return };
        self.pieces.retain(|piece| piece.expires.is_none_or(|expires| expires > now));
    }

    /// Hands out the pieces to fold next, if it is time. It is as soon as one is of another version than this: then that
    /// one and all younger ones are, so that migrations need not be kept for ever.
    pub(crate) fn plan_fold(&mut self, version: u32) -> Option<FoldPlan> {
        if self.folding.is_some() {
            return None;
        }
        if let Some(from) = self.pieces.iter().position(|piece| piece.version.is_some_and(|other| other != version)) {
            return Some(self.hand_out(from));
        }
        if self.pieces.len() < FOLDED_AT_ONCE {
            return None;
        }
        let mut from = self.pieces.len() - 1;
        let mut weight = self.pieces[from].bytes;
        while from > 0 && (self.pieces[from - 1].bytes <= weight.saturating_mul(2) || weight < LIGHT) {
            if weight < LIGHT && self.pieces[from - 1].bytes > LIGHT * 4 && self.pieces.len() - from < 8 {
                break;
            }
            from -= 1;
            weight += self.pieces[from].bytes;
        }
        if self.pieces.len() - from < FOLDED_AT_ONCE {
            return None;
        }
        Some(self.hand_out(from))
    }

    fn hand_out(&mut self, from: usize) -> FoldPlan {
        self.folding = Some((from, self.pieces.len()));
        FoldPlan { pieces: self.pieces[from..].to_vec(), oldest: from == 0 }
    }

    /// Puts the folded piece in the place of those that were handed out; `None` if nothing was left of them.
    pub(crate) fn folded(&mut self, piece: Option<PieceRef>) {
        let (from, to) = self.folding.take().expect("a fold is answered once");
        self.pieces.splice(from..to, piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(epoch: Epoch, bytes: u64) -> PieceRef {
        PieceRef { path: format!("p{epoch}"), bytes, first: epoch, last: epoch, expires: None, version: Some(1) }
    }

    #[test]
    fn a_byte_is_rewritten_a_logarithmic_number_of_times_and_pieces_stay_few() {
        const ADDED: u64 = 1 << 20;
        let (mut pieces, mut rewritten) = (Pieces::default(), 0);
        for epoch in 1..=4_096 {
            pieces.add(piece(epoch, ADDED));
            while let Some(plan) = pieces.plan_fold(1) {
                let bytes = plan.pieces.iter().map(|p| p.bytes).sum();
                rewritten += bytes;
                pieces.folded(Some(piece(epoch, bytes)));
            }
            assert!(pieces.list().len() <= 36, "{} pieces at {epoch}", pieces.list().len());
        }
        assert!(rewritten < 4_096 * ADDED * 14, "rewritten {} times", rewritten / (4_096 * ADDED));
    }

    #[test]
    fn light_pieces_are_not_folded_into_a_heavy_one_each_time() {
        let mut pieces = Pieces::default();
        pieces.add(piece(1, 100 << 20));
        pieces.add(piece(2, 100));
        assert_eq!(pieces.plan_fold(1), None);
    }

    #[test]
    fn pieces_of_an_older_version_are_folded_at_once_with_all_that_follow() {
        let mut pieces = Pieces::default();
        pieces.add(PieceRef { version: Some(2), ..piece(1, 100 << 20) });
        pieces.add(piece(2, 100 << 20));
        pieces.add(PieceRef { version: Some(2), ..piece(3, 10) });
        let plan = pieces.plan_fold(2).unwrap();
        assert_eq!((plan.pieces.len(), plan.oldest), (2, false));
        pieces.folded(Some(PieceRef { version: Some(2), ..piece(3, 100 << 20) }));
        assert_eq!(pieces.plan_fold(2), None);
    }

    #[test]
    fn an_expired_piece_is_dropped_whole() {
        let mut pieces = Pieces::default();
        pieces.add(PieceRef { expires: Some(EventTime(5)), ..piece(1, 10) });
        pieces.add(PieceRef { expires: Some(EventTime(6)), ..piece(2, 10) });
        pieces.expire(Some(EventTime(5)));
        assert_eq!(pieces.list().len(), 1);
    }
}
