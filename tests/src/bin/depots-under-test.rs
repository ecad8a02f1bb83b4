//! The program of docs/authoring.md, as it stands there.

use std::process::ExitCode;

use serde::Deserialize;
use tidemill::io::AnalyticsIo;
use tidemill::prelude::*;
use tidemill::{ColumnSpec, DataType, Fold, Pipeline, TableSpec, time_type};

/// A parcel was scanned.
#[derive(Clone, Debug, Deserialize)]
struct Scan {
    id: String,
    parcel: String,
    depot: String,
    at: i64,
    grams: i64,
}

fn identity(scan: &Scan) -> Identity {
    Identity { id: hash128(scan.id.as_bytes(), 0), fingerprint: 0 }
}

fn depots(flow: &Flow<'_>, io: &AnalyticsIo) {
    let scans = flow
        .source("scans", io.records::<Scan>())
        .malformed_to("dead_letters", io.dead_letters())
        .event_time(|scan| EventTime(scan.at), |_| None, Watermarks::out_of_order(minutes(2)))
        .dedup("unique_scans", identity, Horizon::event_time(hours(1)));
    scans
        .unique
        .key_by(|scan| key("default", scan.depot.as_str()))
        .window("scans_per_minute", Tumbling::of(minutes(1)).late(Late::Correct))
        .aggregate((count(), sum(|scan: &Scan| scan.grams), distinct(|scan: &Scan| hash64(scan.parcel.as_bytes()))))
        .sink("scans_by_minute", io.windows("scans_by_minute"));
    scans
        .unverified
        .map(|scan| ("default".to_owned(), EventTime(scan.at), scan.id.clone()))
        .sink("unverified_scans", io.rows("unverified_scans"));
}

fn main() -> ExitCode {
    let tenant = || ColumnSpec::key("tenant", DataType::Utf8);
    let by_minute = vec![
        tenant(),
        ColumnSpec::key("window_start", time_type()),
        ColumnSpec::key("depot", DataType::Utf8),
        ColumnSpec::sum("scans"),
        ColumnSpec::sum("grams"),
        ColumnSpec::union_count("parcels"),
    ];
    let unverified = vec![tenant(), ColumnSpec::key("at", time_type()), ColumnSpec::key("id", DataType::Utf8)];
    tidemill::main(vec![Pipeline::new("depots", depots).tables([
        TableSpec::new("scans_by_minute", Fold::Deltas, "window_start", by_minute),
        TableSpec::new("unverified_scans", Fold::Append, "at", unverified),
    ])])
}
