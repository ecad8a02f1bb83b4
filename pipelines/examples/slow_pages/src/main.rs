//! How slow each route of a web service was, minute by minute, from its request log; with the whole command line.

use tidemill::prelude::*;
use tidemill::{AnalyticsIo, ColumnSpec, DataType, Pipeline, TableSpec};

/// A line of the request log.
#[derive(serde::Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Request {
    time: i64,
    route: String,
    millis: i64,
}

fn by_minute<'s>(requests: TimedStream<'s, Request>) -> Stream<'s, WindowRow<(i64, i128)>> {
    requests
        .key_by(|r| key("default", r.route.as_str()))
        .window("by_minute", Tumbling::of(minutes(1)).late(Late::Correct))
        .aggregate((count(), sum(|r: &Request| r.millis)))
}

fn slow_pages(flow: &Flow<'_>, io: &AnalyticsIo) {
    let requests = flow
        .source("requests", io.records::<Request>())
        .malformed_to("dead_letters", io.dead_letters())
        .event_time(|r| EventTime(r.time), |_| None, Watermarks::out_of_order(minutes(1)));
    by_minute(requests).sink("requests_by_minute", io.windows("requests_by_minute"));
}

fn main() -> std::process::ExitCode {
    let columns = [ColumnSpec::key("route", DataType::Utf8), ColumnSpec::sum("requests"), ColumnSpec::sum("millis")];
    let table = TableSpec::windowed("requests_by_minute", columns);
    tidemill::main(vec![Pipeline::new("slow_pages", slow_pages).tables([table])])
}

#[cfg(test)]
mod tests {
    use tidemill::testing::{Ends, Script, Simulation};

    use super::*;

    #[test]
    fn every_minute_has_its_requests_whatever_crashes_and_however_late_they_come() {
        let request = |time: i64| (EventTime(time), Request { time, route: "/".into(), millis: time % 7 });
        let script = Script::new()
            .partition((0..6).map(|step| (0..5).map(move |n| request(step * 40_000 + n * 900))))
            .partition((0..3).map(|step| [request(step * 75_000)]));
        let pipeline = |flow: &Flow<'_>, ends: &Ends<Request>| {
            let rule = Watermarks::out_of_order(minutes(1));
            let requests = flow.source("requests", ends.records()).event_time(|r| EventTime(r.time), |_| None, rule);
            let count = |row: &WindowRow<(i64, i128)>| (format!("{} requests", row.start.0), row.value.0);
            by_minute(requests).sink("requests_by_minute", ends.sums("requests", count));
        };
        let simulation = Simulation::new().disorder(minutes(3));
        simulation.agrees_with_a_batch(&script, pipeline);
        assert_eq!(simulation.batch(&script, pipeline).tables.rows("requests").values().sum::<i64>(), 33);
    }
}
