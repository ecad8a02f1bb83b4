//! A pipeline whose keyed operator panics at some records, postings that move nothing, and half an hour after others, those
//! of a thousand cents, unless it is mended.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use tidemill::io::AnalyticsIo;
use tidemill::prelude::*;
use tidemill::{ColumnSpec, DataType, Fold, Pipeline, TableSpec, time_type};

/// Money comes to an account, or leaves it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Posting {
    account: String,
    at: i64,
    cents: i64,
}

/// Numbers the postings of an account, and adds them up.
struct Balances {
    mended: bool,
}

impl Process for Balances {
    type In = Posting;
    type State = (i64, i64);
    type Out = (String, EventTime, String, i64, i64);
    const STATE_VERSION: u32 = 1;

    fn on_record(
        &self,
        _: &OwnedKey,
        (number, balance): &mut (i64, i64),
        posting: Posting,
        ctx: &mut Context<'_, Self::Out>,
    ) {
        *number += 1;
        assert!(posting.cents != 0, "a posting moves nothing");
        *balance += posting.cents;
        if posting.cents == 1_000 {
            ctx.set_timer(ctx.time().plus(minutes(30)));
        }
        ctx.emit(("default".to_owned(), ctx.time(), posting.account, *number, *balance));
    }

    fn on_timer(&self, _: &OwnedKey, _: &mut (i64, i64), _: EventTime, _: &mut Context<'_, Self::Out>) {
        assert!(self.mended, "nobody has looked at a large posting");
    }
}

fn balances(flow: &Flow<'_>, io: &AnalyticsIo) {
    flow.source("postings", io.records::<Posting>())
        .malformed_to("dead_letters", io.dead_letters())
        .event_time(|posting| EventTime(posting.at), |_| None, Watermarks::out_of_order(minutes(2)))
        .key_by(|posting| key("default", posting.account.as_str()))
        .process("running_balances", Balances { mended: std::env::var_os("MENDED").is_some() })
        .sink("balances", io.rows("balances"));
}

fn main() -> ExitCode {
    let columns = vec![
        ColumnSpec::key("tenant", DataType::Utf8),
        ColumnSpec::key("at", time_type()),
        ColumnSpec::key("account", DataType::Utf8),
        ColumnSpec::key("number", DataType::Int64),
        ColumnSpec::key("balance", DataType::Int64),
    ];
    let table = TableSpec::new("balances", Fold::Append, "at", columns);
    tidemill::main(vec![Pipeline::new("balances", balances).tables([table])])
}
