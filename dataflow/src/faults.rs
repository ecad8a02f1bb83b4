//! Documented fault hooks, for tests of what happens when things go wrong. None is on unless asked for.

use std::path::PathBuf;
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

/// Where a record is when it panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its block is being decoded.
    Decode,
    /// It passes through the operators.
    Pass,
    /// It is encoded for a sink.
    Encode,
}

/// A record that panics whoever handles it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PanicOn {
    /// Its id.
    pub id: String,
    /// Where.
    pub stage: Stage,
}

/// Faults to act out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// `hang_sink:TABLE@EPOCH=SECONDSs`: the sink's next write at or after the epoch hangs that long, once.
    pub hang_sink: Option<HangSink>,
    /// `forget_unsynced`: the local store loses what was not synced when the process dies.
    pub forget_unsynced: bool,
    /// `no_room_while:FILE`: the local store has no room for anything new as long as the file exists.
    pub no_room_while: Option<PathBuf>,
    /// `panic_on:ID@STAGE` (`decode`, `pass` or `encode`): the record with the id panics there. May be given several times.
    pub panic_on: Vec<PanicOn>,
    /// `days_ahead:N`: the clock by which commits are dated is so far ahead.
    pub days_ahead: i64,
}

impl Faults {
    /// Reads a list such as `hang_sink:page_views_by_minute@3=30s,forget_unsynced`.
    ///
    /// # Errors
    /// A sentence that names the part that is not understood.
    pub fn parse(text: &str) -> Result<Faults, String> {
        let mut faults = Faults::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let unknown = || {
                format!(
                    "`{part}` is no fault; there are forget_unsynced, no_room_while:FILE, hang_sink:TABLE@EPOCH=30s, \
                     days_ahead:N and panic_on:ID@decode, @pass or @encode"
                )
            };
            match part.split_once(':') {
                None if part == "forget_unsynced" => faults.forget_unsynced = true,
                Some(("no_room_while", file)) => faults.no_room_while = Some(file.into()),
                Some(("days_ahead", days)) => faults.days_ahead = days.parse().map_err(|_| unknown())?,
                Some(("hang_sink", what)) => faults.hang_sink = Some(hang(what).ok_or_else(unknown)?),
                Some(("panic_on", what)) => faults.panic_on.push(panic_on(what).ok_or_else(unknown)?),
                _ => return Err(unknown()),
            }
        }
        Ok(faults)
    }

    /// Those that a local store acts out.
    #[must_use]
    pub fn of_the_store(&self) -> tidemill_log::Faults {
        match &self.no_room_while {
            Some(marker) => tidemill_log::Faults::NoRoomWhile(marker.clone()),
            None if self.forget_unsynced => tidemill_log::Faults::ForgetUnsynced,
            None => tidemill_log::Faults::None,
        }
    }
}

fn hang(what: &str) -> Option<HangSink> {
    let (table, when) = what.split_once('@')?;
    let (epoch, length) = when.split_once('=')?;
    let seconds = length.strip_suffix('s').unwrap_or(length).parse().ok()?;
    Some(HangSink { table: table.to_owned(), epoch: epoch.parse().ok()?, span: Duration::from_secs(seconds) })
}

fn panic_on(what: &str) -> Option<PanicOn> {
    let (id, stage) = what.rsplit_once('@')?;
    let stage = match stage {
        "decode" => Stage::Decode,
        "pass" => Stage::Pass,
        "encode" => Stage::Encode,
        _ => return None,
    };
    Some(PanicOn { id: id.to_owned(), stage })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_a_wrong_one_is_named() {
        let faults =
            Faults::parse("forget_unsynced, hang_sink:t@3=30s,panic_on:a@b@pass,no_room_while:/x,days_ahead:9")
                .unwrap();
        let hang = HangSink { table: "t".into(), epoch: 3, span: Duration::from_secs(30) };
        let poison = PanicOn { id: "a@b".into(), stage: Stage::Pass };
        let expected = Faults {
            hang_sink: Some(hang),
            forget_unsynced: true,
            no_room_while: Some("/x".into()),
            panic_on: vec![poison],
            days_ahead: 9,
        };
        assert_eq!(faults, expected);
        assert!(Faults::parse("hang_sink:t").unwrap_err().contains("hang_sink:t"));
        assert!(Faults::parse("panic_on:t@nowhere").unwrap_err().contains("panic_on:t@nowhere"));
    }
}
