//! Records whose epoch is still open, by epoch.

use std::collections::BTreeMap;

use timely::progress::frontier::MutableAntichain;

use crate::time::Epoch;

/// What arrived for epochs that are not closed yet, beside the capabilities `C` to answer them.
///
/// An ordered map, so closed epochs come out in order and an activation looks at the oldest one only.
#[derive(Debug)]
pub(crate) struct PendingByTime<C, D> {
    epochs: BTreeMap<Epoch, (C, D)>,
}

impl<C, D: Default> PendingByTime<C, D> {
    pub(crate) fn new() -> Self {
        PendingByTime { epochs: BTreeMap::new() }
    }

    /// The entry of an epoch; `capabilities` makes one when the epoch is new.
    pub(crate) fn at(&mut self, epoch: Epoch, capabilities: impl FnOnce() -> C) -> &mut D {
        &mut self.epochs.entry(epoch).or_insert_with(|| (capabilities(), D::default())).1
    }

    /// Takes the oldest epoch out if no frontier can bring more of it.
    pub(crate) fn take_closed(&mut self, frontiers: &[&MutableAntichain<Epoch>]) -> Option<(Epoch, C, D)> {
        let entry = self.epochs.first_entry()?;
        if frontiers.iter().any(|frontier| frontier.less_equal(entry.key())) {
            return None;
        }
        let epoch = *entry.key();
        let (capabilities, data) = entry.remove();
        Some((epoch, capabilities, data))
    }
}
