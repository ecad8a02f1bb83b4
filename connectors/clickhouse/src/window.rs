//! How many tokens the tables remember, against how many writes may come again.
//!
//! A table remembers one token for each partition of an insert, the newest ones only. If the epochs in flight held more, the
//! oldest would be forgotten while they can still be repeated, and count twice. The window is checked when the writer
//! starts; an epoch that needs more (rows spread over thousands of days) has it widened first.

use std::collections::VecDeque;

use tidemill_dataflow::sink::SinkError;
use tidemill_tables::TableSpec;
use tracing::info;

use crate::check::{Found, FoundObject, window_statement};
use crate::chunks::Chunk;
use crate::client::Client;
use crate::ddl;
use crate::error::ClickHouseError;
use crate::retry::{Fence, answer};

/// The tokens of one sink's tables.
pub(crate) struct Window {
    tables: Vec<String>,
    /// The smallest of the tables' windows.
    tokens: u64,
    in_flight: u64,
    shards: u64,
    /// Tokens of the newest epochs, by epoch.
    recent: VecDeque<(u64, u64)>,
}

impl Window {
    pub(crate) fn of(found: &Found, spec: &TableSpec, in_flight: u64, shards: u64) -> Self {
        let tables = ddl::storages(spec);
        let tokens = tables.iter().map(|table| found.get(table).map_or(0, FoundObject::window)).min().unwrap_or(0);
        Self { tables, tokens, in_flight, shards, recent: VecDeque::new() }
    }

    /// Fails when one full insert of each epoch in flight would be too many.
    pub(crate) fn require(&self, client: &Client, partitions: u64) -> Result<(), ClickHouseError> {
        let needed = self.in_flight.saturating_mul(self.shards).saturating_mul(partitions);
        if self.tokens >= needed {
            return Ok(());
        }
        let target = client.target();
        let statements: Vec<String> =
            self.tables.iter().map(|table| window_statement(table, needed.max(ddl::DEDUP_WINDOW))).collect();
        Err(ClickHouseError::Window {
            at: target.at(),
            database: target.database().to_owned(),
            tokens: self.tokens,
            needed,
            statements: statements.join("; "),
        })
    }

    /// Makes room for the tokens of an epoch before it is written.
    pub(crate) fn admit(
        &mut self,
        client: &Client,
        fence: &Fence,
        epoch: u64,
        chunks: &[Chunk],
    ) -> Result<(), SinkError> {
        let tokens: usize = chunks.iter().map(|chunk| chunk.partitions).sum();
        let needed = self.count(epoch, tokens as u64);
        if needed <= self.tokens {
            return Ok(());
        }
        let wider = needed.saturating_mul(2);
        for table in &self.tables {
            let statement = window_statement(table, wider);
            answer(client, fence, &format!("run {statement:?}, which this epoch needs"), || {
                client.execute(&statement)
            })?;
        }
        info!(
            "tables {} remember {wider} tokens from now on: the epochs in flight have {needed}",
            self.tables.join(", ")
        );
        self.tokens = wider;
        Ok(())
    }

    /// Tokens that may come again once `epoch` is written.
    fn count(&mut self, epoch: u64, tokens: u64) -> u64 {
        self.recent.retain(|(at, _)| *at != epoch && at + self.in_flight > epoch);
        self.recent.push_back((epoch, tokens));
        self.recent.iter().map(|(_, of_epoch)| of_epoch).sum::<u64>().saturating_mul(self.shards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokens_of_the_epochs_in_flight_are_counted() {
        let mut window = Window { tables: Vec::new(), tokens: 100, in_flight: 3, shards: 2, recent: VecDeque::new() };
        assert_eq!(window.count(1, 10), 20);
        assert_eq!(window.count(2, 5), 30);
        assert_eq!(window.count(2, 5), 30);
        assert_eq!(window.count(3, 1), 32);
        assert_eq!(window.count(4, 1), 14);
        assert_eq!(window.count(40, 1), 2);
    }
}
