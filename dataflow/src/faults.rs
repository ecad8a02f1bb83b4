//! Documented fault hooks, for tests of what happens when things go wrong. None is on unless asked for.

use std::time::Duration;

use crate::time::Epoch;

/// A sink that hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HangSink {
    /// The table it writes.
    pub table: String,
    /// From this epoch on, once.
    pub epoch: Epoch,
    /// For this long.
    pub span: Duration,
}

/// Faults to act out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// `hang_sink:TABLE@EPOCH=SECONDSs`: the sink's next write at or after the epoch hangs that long, once.
    pub hang_sink: Option<HangSink>,
    /// `forget_unsynced`: the local store loses what was not synced when the process dies.
    pub forget_unsynced: bool,
}

impl Faults {
    /// Reads a list such as `hang_sink:page_views_by_minute@3=30s,forget_unsynced`.
    ///
    /// # Errors
    /// A sentence that names the part that is not understood.
    pub fn parse(text: &str) -> Result<Faults, String> {
        let mut faults = Faults::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let unknown = || format!("`{part}` is no fault; there are forget_unsynced and hang_sink:TABLE@EPOCH=30s");
            if part == "forget_unsynced" {
                faults.forget_unsynced = true;
                continue;
            }
            let rest = part.strip_prefix("hang_sink:").ok_or_else(unknown)?;
            let (table, when) = rest.split_once('@').ok_or_else(unknown)?;
            let (epoch, length) = when.split_once('=').ok_or_else(unknown)?;
            let epoch = epoch.parse().map_err(|_| unknown())?;
            let seconds = length.strip_suffix('s').unwrap_or(length).parse().map_err(|_| unknown())?;
            let span = Duration::from_secs(seconds);
            faults.hang_sink = Some(HangSink { table: table.to_owned(), epoch, span });
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_a_wrong_one_is_named() {
        let faults = Faults::parse("forget_unsynced, hang_sink:t@3=30s").unwrap();
        let hang = HangSink { table: "t".into(), epoch: 3, span: Duration::from_secs(30) };
        assert_eq!(faults, Faults { hang_sink: Some(hang), forget_unsynced: true });
        assert!(Faults::parse("hang_sink:t").unwrap_err().contains("hang_sink:t"));
    }
}
