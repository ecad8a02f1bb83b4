//! How long the rows of tables stay.

use crate::spec::Fold;

/// How long rows stay, in days; 0 means for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Days for events and rejected rows.
    pub raw_days: u32,
    /// Days for tables by minute and by day.
    pub rollup_days: u32,
}

impl Default for Retention {
    /// 90 days of events, two years of rollups.
    fn default() -> Self {
        Self { raw_days: 90, rollup_days: 730 }
    }
}

impl Retention {
    /// Everything stays.
    pub const FOREVER: Self = Self { raw_days: 0, rollup_days: 0 };

    /// The days of tables with this fold; `None` means for ever. Signed rows stay: a later one may take one back, and must
    /// find it.
    #[must_use]
    pub fn days(self, fold: Fold) -> Option<u32> {
        let days = match fold {
            Fold::Append => self.raw_days,
            Fold::Deltas => self.rollup_days,
            Fold::Signed => 0,
        };
        (days > 0).then_some(days)
    }
}
