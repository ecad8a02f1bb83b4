//! A pipeline whose tables tell which records came too late: windows and joins that set them aside or leave them out.
//!
//! What is late is judged by the watermark of the epoch before, so every table here depends on how epochs were cut.

use arrow::datatypes::DataType;
use tidemill::Pipeline;
use tidemill::io::AnalyticsIo;
use tidemill::prelude::*;
use tidemill_tables::{ColumnSpec, Fold, TableSpec, time_type};

use super::{Auction, Bid, HOUSE, happenings, only_auctions, only_bids};

/// The pipeline's name.
pub const LATE: &str = "late_bids";

/// Its operators that judge, each with the table of the records that it sets aside; none where it leaves them out.
pub const JUDGES: [(&str, Option<&str>); 6] = [
    ("counted", Some("late_for_counts")),
    ("hopping", None),
    ("closed", Some("late_for_totals")),
    ("held", None),
    ("paired", Some("late_for_pairs")),
    ("answered", None),
];

/// The pipeline with its tables.
pub(super) fn pipeline() -> Pipeline {
    let key = |name: &str, data_type: DataType| ColumnSpec::key(name, data_type);
    let number = |name: &str| ColumnSpec::value(name, DataType::Int64);
    let window = || vec![key("tenant", DataType::Utf8), key("window_start", time_type()), key("of", DataType::Utf8)];
    let record = || vec![key("tenant", DataType::Utf8), key("time", time_type()), key("auction", DataType::Int64)];
    let windows = |name: &str, fold, values| TableSpec::new(name, fold, "window_start", [window(), values].concat());
    let records = |name: &str, values| TableSpec::new(name, Fold::Append, "time", [record(), values].concat());
    Pipeline::new(LATE, late_bids).tables([
        windows("counts", Fold::Deltas, vec![ColumnSpec::sum("bids")]),
        windows("recent", Fold::Deltas, vec![ColumnSpec::sum("bids")]),
        windows("totals", Fold::Append, vec![number("bids"), number("price_cents")]),
        windows("versions", Fold::Append, vec![number("bids"), number("version")]),
        records("pairs", vec![number("bidder")]),
        records("answers", vec![number("bidder")]),
        records("late_for_counts", vec![number("bidder")]),
        records("late_for_totals", vec![number("bidder")]),
        records("late_for_pairs", vec![number("bidder")]),
    ])
}

/// A record as a row; 0 for a bidder that there is none of.
fn row(time: i64, auction: i64, bidder: i64) -> (String, EventTime, i64, i64) {
    (HOUSE.to_owned(), EventTime(time), auction, bidder)
}

fn of_bid(bid: &Bid) -> (String, EventTime, i64, i64) {
    row(bid.time, bid.auction, bid.bidder)
}

fn late_bids(flow: &Flow<'_>, io: &AnalyticsIo) {
    let happenings = happenings(flow, io).untimed();
    let bids = only_bids(happenings.clone());
    let by_bidder = || bids.clone().key_by(|bid| key(HOUSE, bid.bidder));
    let by_auction = || bids.clone().key_by(|bid| key(HOUSE, bid.auction));
    let auctions = || only_auctions(happenings.clone()).key_by(|auction| key(HOUSE, auction.id));
    let tumbling = Tumbling::of(seconds(10));

    let (counts, late_for_counts) =
        by_bidder().window("counted", tumbling.late(Late::Side)).aggregate_and_late(count());
    counts.sink("counts", io.windows("counts"));
    late_for_counts.map(of_bid).sink("late_for_counts", io.rows("late_for_counts"));

    by_bidder()
        .window("hopping", Hopping::of(seconds(10)).every(seconds(2)).late(Late::Drop))
        .aggregate(count())
        .sink("recent", io.windows("recent"));

    let (totals, late_for_totals) = by_bidder()
        .window("closed", tumbling.late(Late::Side))
        .once_closed()
        .correctable_for(seconds(5))
        .aggregate_and_late((count(), sum(|bid: &Bid| bid.price_cents)));
    totals.sink("totals", io.windows("totals"));
    late_for_totals.map(of_bid).sink("late_for_totals", io.rows("late_for_totals"));

    by_bidder()
        .window("held", tumbling.late(Late::Drop))
        .upserts(seconds(5))
        .aggregate(count())
        .map(|of| {
            (HOUSE.to_owned(), of.row.start, of.row.key.texts().1.into_owned(), of.row.value, of.version.cast_signed())
        })
        .sink("versions", io.rows("versions"));

    let pairs = auctions()
        .join_window("paired", by_auction(), tumbling.late(Late::Side))
        .inner(|auction: &Auction, bid| row(bid.time, auction.id, bid.bidder));
    pairs.rows.sink("pairs", io.rows("pairs"));
    let late_auctions = pairs.late_left.map(|auction| row(auction.time, auction.id, 0));
    late_auctions.union(pairs.late_right.map(of_bid)).sink("late_for_pairs", io.rows("late_for_pairs"));

    auctions()
        .join_interval("answered", by_auction(), Within::around(seconds(10)))
        .late(Late::Drop)
        .left_outer(|auction, bid| row(auction.time, auction.id, bid.map_or(0, |bid| bid.bidder)))
        .rows
        .sink("answers", io.rows("answers"));
}
