//! Which rows a table refuses, found without writing to it.
//!
//! The server keeps what an insert wrote to one table before another one, or a view, refused it. So a chunk that was
//! refused is never written in parts. Its rows go into copies of the tables instead, which have the same columns and
//! constraints, keep nothing (`ENGINE = Null`), and have no views. What the copies refuse is looked for by halving.

use std::ops::Range;

use clickhouse::error::Error;
use tidemill_dataflow::sink::SinkError;

use crate::check::Found;
use crate::client::Client;
use crate::ddl::Insert;
use crate::rejected::Refused;
use crate::retry::{Ended, Fence, Verdict, answer, chain, until_answered};
use crate::row_binary::Encoder;

/// Copies of the tables of one sink.
pub(crate) struct Dry<'a> {
    client: &'a Client,
    fence: &'a Fence,
    inserts: &'a [Insert],
    buffer: Vec<u8>,
}

/// Copies remember no tokens; a server that computes rows itself asks for one.
const TOKEN: &str = "dry";
/// What is asked of the copies.
const TRY: &str = "try rows on a copy of its tables";

fn copy(table: &str) -> String {
    format!("{table}_dry")
}

impl<'a> Dry<'a> {
    /// Copies as the tables are now.
    pub(crate) fn new(client: &'a Client, fence: &'a Fence, inserts: &'a [Insert]) -> Result<Self, SinkError> {
        for Insert { table, .. } in inserts {
            let statement = format!("CREATE OR REPLACE TABLE {} AS {table} ENGINE = Null", copy(table));
            answer(client, fence, &statement, || client.execute(&statement))?;
        }
        Ok(Self { client, fence, inserts, buffer: Vec::new() })
    }

    /// The rows of a range that a table refuses.
    pub(crate) fn refused(&mut self, encoder: &Encoder, rows: Range<usize>) -> Result<Vec<Refused>, SinkError> {
        let mut refused = Vec::new();
        self.halve(encoder, rows, usize::MAX, &mut refused)?;
        Ok(refused)
    }

    /// The first row for which a view of a user fails, if a copy of that view fails too.
    ///
    /// It only serves a message, so whatever stands in its way is none of its business.
    pub(crate) fn fails_a_view(
        &mut self,
        encoder: &Encoder,
        rows: Range<usize>,
        found: &Found,
    ) -> Result<Option<Refused>, SinkError> {
        let mut views = Vec::new();
        for Insert { table, .. } in self.inserts {
            for (at, reader) in found.readers(table).enumerate() {
                let view = format!("{}_view_{at}", copy(table));
                if self.copy_view(reader, table, &view).is_ok() {
                    views.push(view);
                }
            }
        }
        let mut refused = Vec::new();
        let looked = self.halve(encoder, rows, 1, &mut refused);
        for view in views {
            let _ = self.client.execute(&format!("DROP VIEW IF EXISTS {view} SYNC"));
        }
        match looked {
            Err(error) if (self.fence)().is_err() => Err(error),
            _ => Ok(refused.pop()),
        }
    }

    fn copy_view(&self, reader: &str, table: &str, name: &str) -> Result<(), Error> {
        let database = self.client.target().database();
        let (of, view) = reader.split_once('.').unwrap_or((database, reader));
        let sql = format!(
            "SELECT as_select FROM system.tables WHERE database = {} AND name = {}",
            crate::client::quote(of),
            crate::client::quote(view)
        );
        let rows = self.client.rows(&sql)?;
        let select = rows.first().and_then(|row| row.first()?.as_str()).unwrap_or_default();
        let select = reading(select, &format!("{database}.{table}"), &format!("{database}.{}", copy(table)));
        self.client.execute(&format!("DROP VIEW IF EXISTS {name} SYNC"))?;
        self.client.execute(&format!("CREATE MATERIALIZED VIEW {name} ENGINE = Null AS {select}"))
    }

    fn halve(
        &mut self,
        encoder: &Encoder,
        rows: Range<usize>,
        most: usize,
        refused: &mut Vec<Refused>,
    ) -> Result<(), SinkError> {
        if refused.len() >= most || rows.is_empty() {
            return Ok(());
        }
        let Some(reason) = self.refuses(encoder, rows.clone())? else { return Ok(()) };
        if rows.len() == 1 {
            refused.push(Refused { row: rows.start, reason });
            return Ok(());
        }
        let middle = rows.start + rows.len() / 2;
        self.halve(encoder, rows.start..middle, most, refused)?;
        self.halve(encoder, middle..rows.end, most, refused)
    }

    /// Why a copy refuses some of these rows; `None` where all copies take all of them.
    fn refuses(&mut self, encoder: &Encoder, rows: Range<usize>) -> Result<Option<String>, SinkError> {
        let Self { client, fence, inserts, buffer } = self;
        encoder.write(rows, buffer);
        for insert in *inserts {
            let copy = copy(&insert.table);
            let statement = insert.into(&copy);
            match until_answered(client, fence, || client.insert(&statement, Some(TOKEN), buffer)) {
                Ok(()) => {}
                Err(Ended::Fenced(error)) => return Err(error),
                Err(Ended::Refused(error, Verdict::Rejected)) => {
                    return Ok(Some(chain(&error).replace(&copy, &insert.table)));
                }
                Err(Ended::Refused(error, _)) => return Err(client.failed(TRY, error).judged()),
            }
        }
        Ok(None)
    }
}

/// A view's query with another table in the place of `table`, wherever that is named in full.
fn reading(select: &str, table: &str, other: &str) -> String {
    let mut out = String::new();
    let mut rest = select;
    while let Some(at) = rest.find(table) {
        let (before, from) = rest.split_at(at);
        let behind = &from[table.len()..];
        let is_whole = |next: Option<char>| next.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == '.'));
        let whole = is_whole(before.chars().next_back().or(out.chars().next_back())) && is_whole(behind.chars().next());
        out.push_str(before);
        out.push_str(if whole { other } else { table });
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_views_copy_reads_the_copy_of_its_table_and_nothing_else() {
        for (select, copied) in [
            ("SELECT a FROM w.t", "SELECT a FROM w.u"),
            ("SELECT a FROM w.t AS x, w.t_2, v.w.t, w.t", "SELECT a FROM w.u AS x, w.t_2, v.w.t, w.u"),
            ("SELECT 1", "SELECT 1"),
        ] {
            assert_eq!(reading(select, "w.t", "w.u"), copied);
        }
    }
}
