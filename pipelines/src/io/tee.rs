//! One sink, several places: every epoch goes to all of them side by side, and counts as held when all hold it.

use std::thread;

use arrow::array::RecordBatch;
use tidemill_dataflow::sink::{DataFile, SinkError, SinkStart, TableWriter};
use tidemill_dataflow::time::Epoch;

/// A writer to all of `writers`.
pub(super) fn tee(mut writers: Vec<Box<dyn TableWriter>>) -> Box<dyn TableWriter> {
    match writers.pop() {
        Some(only) if writers.is_empty() => only,
        Some(last) => {
            writers.push(last);
            Box::new(Tee { writers })
        }
        None => Box::new(Tee { writers }),
    }
}

struct Tee {
    writers: Vec<Box<dyn TableWriter>>,
}

impl Tee {
    /// Calls all writers at once, so that the slowest place sets the pace and not the sum of them.
    fn all<R: Send>(
        &mut self,
        call: impl Fn(&mut dyn TableWriter) -> Result<R, SinkError> + Sync,
    ) -> Result<Vec<R>, SinkError> {
        let call = &call;
        thread::scope(|scope| {
            let begun = self.writers.iter_mut().map(|writer| scope.spawn(move || call(&mut **writer)));
            let begun: Vec<_> = begun.collect();
            begun.into_iter().map(|one| one.join().expect("a panic ends the process")).collect()
        })
    }
}

impl TableWriter for Tee {
    fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        self.all(|writer| writer.open(start)).map(drop)
    }

    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        let files = self.all(|writer| writer.write_epoch(epoch, shard, rows.clone()))?;
        Ok(files.into_iter().flatten().collect())
    }
}
