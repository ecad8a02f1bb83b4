//! Which rows a table refuses, found without writing to it.
//!
//! The server keeps what an insert wrote to one table before another one, or a view, refused it. So a chunk that was
//! refused is never written in parts. Its rows go into copies of the tables instead, which have the same columns and
//! constraints, keep nothing (`ENGINE = Null`), and have no views. What the copies refuse is looked for by halving. Copies are
//! called by the run that made them, and dropped after use; what a run that was killed left is dropped by the next one.

use std::ops::Range;

use clickhouse::error::Error;
use tidemill_dataflow::sink::SinkError;

use crate::check::Found;
use crate::client::{Client, quote};
use crate::ddl::Insert;
use crate::rejected::Refused;
use crate::retry::{Ended, Fence, Verdict, answer, chain, until_answered};
use crate::row_binary::Encoder;

/// Copies of the tables of one sink; dropped with this.
pub(crate) struct Dry<'a> {
    client: &'a Client,
    fence: &'a Fence,
    inserts: &'a [Insert],
    /// What is behind the names of the copies.
    suffix: String,
    buffer: Vec<u8>,
}

/// Copies remember no tokens; a server that computes rows itself asks for one.
const TOKEN: &str = "dry";
/// What is asked of the copies.
const TRY: &str = "try rows on a copy of its tables";
/// How copies are told from tables of users.
const COMMENT: &str = "tidemill tries rows here";

impl<'a> Dry<'a> {
    /// Copies as the tables are now, for `run`.
    pub(crate) fn new(
        client: &'a Client,
        fence: &'a Fence,
        inserts: &'a [Insert],
        run: u64,
    ) -> Result<Self, SinkError> {
        Self::called(client, fence, inserts, format!("_dry_{run}"))
    }

    fn called(client: &'a Client, fence: &'a Fence, inserts: &'a [Insert], suffix: String) -> Result<Self, SinkError> {
        let dry = Self { client, fence, inserts, suffix, buffer: Vec::new() };
        for Insert { table, .. } in inserts {
            let copy = dry.copy(table);
            let statement = format!("CREATE OR REPLACE TABLE {copy} AS {table} ENGINE = Null COMMENT '{COMMENT}'");
            answer(client, fence, &statement, || client.execute(&statement))?;
        }
        Ok(dry)
    }

    fn copy(&self, table: &str) -> String {
        format!("{table}{}", self.suffix)
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
        client: &'a Client,
        fence: &'a Fence,
        insert: &'a Insert,
        run: u64,
        (encoder, rows): (&Encoder, Range<usize>),
        found: &Found,
    ) -> Result<Option<Refused>, SinkError> {
        // A copy of its own: behind the others no view must stand.
        let mut dry = Self::called(client, fence, std::slice::from_ref(insert), format!("_dry_{run}_read"))?;
        let mut views = Vec::new();
        for (at, reader) in found.readers(&insert.table).enumerate() {
            let view = format!("{}_view_{at}", dry.copy(&insert.table));
            if dry.copy_view(reader, &insert.table, &view).is_ok() {
                views.push(view);
            }
        }
        let mut refused = Vec::new();
        let looked = dry.halve(encoder, rows, 1, &mut refused);
        for view in views {
            let _ = client.execute(&format!("DROP VIEW IF EXISTS {view} SYNC"));
        }
        match looked {
            Err(error) if fence().is_err() => Err(error),
            _ => Ok(refused.pop()),
        }
    }

    fn copy_view(&self, reader: &str, table: &str, name: &str) -> Result<(), Error> {
        let database = self.client.target().database();
        let (of, view) = reader.split_once('.').unwrap_or((database, reader));
        let sql =
            format!("SELECT as_select FROM system.tables WHERE database = {} AND name = {}", quote(of), quote(view));
        let rows = self.client.rows(&sql)?;
        let select = rows.first().and_then(|row| row.first()?.as_str()).unwrap_or_default();
        let select = reading(select, &format!("{database}.{table}"), &format!("{database}.{}", self.copy(table)));
        let statement = format!("CREATE MATERIALIZED VIEW {name} ENGINE = Null AS {select} COMMENT '{COMMENT}'");
        self.client.execute(&statement)
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
        let Self { client, fence, inserts, suffix, buffer } = self;
        encoder.write(rows, buffer);
        for insert in *inserts {
            let copy = format!("{}{suffix}", insert.table);
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

impl Drop for Dry<'_> {
    fn drop(&mut self) {
        for Insert { table, .. } in self.inserts {
            // One that stays is dropped by the next run.
            let _ = self.client.execute(&format!("DROP TABLE IF EXISTS {} SYNC", self.copy(table)));
        }
    }
}

/// Drops the copies that runs before `run` left.
pub(crate) fn drop_left(client: &Client, fence: &Fence, inserts: &[Insert], run: u64) -> Result<(), SinkError> {
    for Insert { table, .. } in inserts {
        let prefix = format!("{table}_dry_");
        let sql = format!(
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND comment = {} AND startsWith(name, {}) \
             ORDER BY length(name) DESC",
            quote(COMMENT),
            quote(&prefix)
        );
        for row in answer(client, fence, "list copies of its tables", || client.rows(&sql))? {
            let Some(name) = row.first().and_then(|name| name.as_str()) else { continue };
            let made_by = name[prefix.len()..].split('_').next().and_then(|number| number.parse::<u64>().ok());
            if made_by.is_some_and(|made_by| made_by < run) {
                let statement = format!("DROP TABLE IF EXISTS {name} SYNC");
                answer(client, fence, &statement, || client.execute(&statement))?;
            }
        }
    }
    Ok(())
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
