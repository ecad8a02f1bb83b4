//! How slow each route of a web service was, minute by minute, from its request log; with the whole command line.

use tidemill::prelude::*;
use tidemill::{AnalyticsIo, ColumnSpec, DataType, Pipeline, TableSpec};

/// A line of the request log.
#[derive(serde::Deserialize)]
struct Request {
    time: i64,
    route: String,
    millis: i64,
}

fn slow_pages(flow: &Flow<'_>, io: &AnalyticsIo) {
    flow.source("requests", io.records::<Request>())
        .malformed_to("dead_letters", io.dead_letters())
        .event_time(|r| EventTime(r.time), |_| None, Watermarks::out_of_order(minutes(1)))
        .key_by(|r| key("default", r.route.as_str()))
        .window("by_minute", Tumbling::of(minutes(1)).late(Late::Correct))
        .aggregate((count(), sum(|r: &Request| r.millis)))
        .sink("requests_by_minute", io.windows("requests_by_minute"));
}

fn main() -> std::process::ExitCode {
    let columns = [ColumnSpec::key("route", DataType::Utf8), ColumnSpec::sum("requests"), ColumnSpec::sum("millis")];
    let table = TableSpec::windowed("requests_by_minute", columns);
    tidemill::main(vec![Pipeline::new("slow_pages", slow_pages).tables([table])])
}
