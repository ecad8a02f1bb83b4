//! Nexmark: the auction benchmark's queries 1, 2, 5, 8 and 11 as Tidemill pipelines over records of their own.
//!
//! After Tucker, Tufte, Papadimos, Maier: NEXMark, a benchmark for queries over data streams (2002), in the form that
//! today's engines run: bids, auctions and persons in one stream, windows of event time. Money is whole cents, and the
//! conversion of query 1 is exact in thousandths of a cent. [`LATE`] is no query of the benchmark: it judges late records.

mod generate;
mod late;

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};
use tidemill::Pipeline;
use tidemill::io::AnalyticsIo;
use tidemill::prelude::*;
use tidemill_tables::{ColumnSpec, Fold, TableSpec, time_type};

pub use generate::{IN_TIME, generate};
pub use late::{JUDGES, LATE};

/// Something that happens at the auction house.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happening {
    /// Someone registers.
    Person(Person),
    /// Something is offered.
    Auction(Auction),
    /// Someone bids.
    Bid(Bid),
}

/// A person, at registration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields carry the names of the benchmark; times are milliseconds since 1970")]
pub struct Person {
    pub id: i64,
    pub name: String,
    pub time: i64,
}

/// An auction, when it opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields carry the names of the benchmark; times are milliseconds since 1970")]
pub struct Auction {
    pub id: i64,
    pub seller: i64,
    pub category: i64,
    pub time: i64,
}

/// A bid.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields carry the names of the benchmark; times are milliseconds since 1970")]
pub struct Bid {
    pub auction: i64,
    pub bidder: i64,
    pub price_cents: i64,
    pub time: i64,
}

impl Happening {
    fn time(&self) -> EventTime {
        match self {
            Happening::Person(person) => EventTime(person.time),
            Happening::Auction(auction) => EventTime(auction.time),
            Happening::Bid(bid) => EventTime(bid.time),
        }
    }

    fn person(&self) -> Option<Person> {
        if let Happening::Person(person) = self { Some(person.clone()) } else { None }
    }

    fn auction(&self) -> Option<Auction> {
        if let Happening::Auction(auction) = self { Some(auction.clone()) } else { None }
    }

    fn bid(&self) -> Option<Bid> {
        if let Happening::Bid(bid) = self { Some(bid.clone()) } else { None }
    }
}

/// The house has one tenant.
const HOUSE: &str = "default";

/// The pipelines with their tables.
#[must_use]
pub fn pipelines() -> Vec<Pipeline> {
    let key = |name: &str, data_type: DataType| ColumnSpec::key(name, data_type);
    let tenant = || key("tenant", DataType::Utf8);
    let number = |name: &str| ColumnSpec::value(name, DataType::Int64);
    let bids = |name: &str, price: &str| {
        let columns = vec![tenant(), number("auction"), number("bidder"), number(price), key("time", time_type())];
        TableSpec::new(name, Fold::Append, "time", columns)
    };
    let hot =
        vec![tenant(), key("window_start", time_type()), number("auction"), number("bids"), ColumnSpec::sign("sign")];
    let new = vec![
        tenant(),
        key("window_start", time_type()),
        key("person", DataType::Int64),
        key("name", DataType::Utf8),
        ColumnSpec::sum("auctions"),
    ];
    let sessions = vec![
        tenant(),
        key("bidder", DataType::Utf8),
        ColumnSpec::value("first_bid", time_type()),
        ColumnSpec::value("last_bid", time_type()),
        number("bids"),
        ColumnSpec::sign("sign"),
    ];
    vec![
        Pipeline::new("q1", q1).tables([bids("bids_in_euro", "price_milli_euro_cents")]),
        Pipeline::new("q2", q2).tables([bids("selected_bids", "price_cents")]),
        Pipeline::new("q5", q5).tables([TableSpec::new("hot_items", Fold::Signed, "window_start", hot)]),
        Pipeline::new("q8", q8).tables([TableSpec::new("new_sellers", Fold::Deltas, "window_start", new)]),
        Pipeline::new("q11", q11).tables([TableSpec::new("bidder_sessions", Fold::Signed, "first_bid", sessions)]),
        late::pipeline(),
    ]
}

fn happenings<'s>(flow: &Flow<'s>, io: &AnalyticsIo) -> TimedStream<'s, Happening> {
    flow.source("happenings", io.records::<Happening>()).malformed_to("dead_letters", io.dead_letters()).event_time(
        Happening::time,
        |_| None,
        Watermarks::out_of_order(seconds(2)),
    )
}

fn bids<'s>(flow: &Flow<'s>, io: &AnalyticsIo) -> TimedStream<'s, Bid> {
    only_bids(happenings(flow, io).untimed())
}

fn only_bids(happenings: Stream<'_, Happening>) -> TimedStream<'_, Bid> {
    happenings.filter_map(Happening::bid).with_event_time(|bid| EventTime(bid.time))
}

fn only_auctions(happenings: Stream<'_, Happening>) -> TimedStream<'_, Auction> {
    happenings.filter_map(Happening::auction).with_event_time(|auction| EventTime(auction.time))
}

/// A bid as a row, with its price as `price` says.
fn row(bid: &Bid, price: i64) -> (String, i64, i64, i64, EventTime) {
    (HOUSE.to_owned(), bid.auction, bid.bidder, price, EventTime(bid.time))
}

/// Currency conversion: what each bid is in euros, at 0.908 a dollar.
fn q1(flow: &Flow<'_>, io: &AnalyticsIo) {
    bids(flow, io).map(|bid| row(bid, bid.price_cents * 908)).sink("bids_in_euro", io.rows("bids_in_euro"));
}

/// Selection: the bids on some auctions.
fn q2(flow: &Flow<'_>, io: &AnalyticsIo) {
    bids(flow, io)
        .filter(|bid| bid.auction % 123 == 0)
        .map(|bid| row(bid, bid.price_cents))
        .sink("selected_bids", io.rows("selected_bids"));
}

/// Hot items: the auctions with the most bids in the last ten seconds, every two.
fn q5(flow: &Flow<'_>, io: &AnalyticsIo) {
    bids(flow, io)
        .key_by(|bid| key(HOUSE, bid.auction))
        .window("bids_by_auction", Hopping::of(seconds(10)).every(seconds(2)))
        .aggregate(count())
        .with_event_time(|row| row.start)
        .key_by(|row| row.key.as_ref())
        .incremental(
            "hottest",
            Retain::at_least(seconds(90)),
            |row| Change::by(row.value, (row.start, row.key.number().unwrap_or_default())),
            |bids| {
                // An auction counts as often as it has bids.
                bids.reduce(|_window, auctions, hottest| {
                    let most = auctions.iter().map(|(_, n)| *n).max().unwrap_or(0);
                    let of_most = auctions.iter().filter(|(_, n)| *n == most);
                    hottest.extend(of_most.map(|(auction, n)| ((**auction, *n as i64), 1)));
                })
                .map(|(window, (auction, bids))| (HOUSE.to_owned(), window, auction, bids))
            },
        )
        .frozen_after(|(_, window, ..)| *window, seconds(70))
        .sink("hot_items", io.changes("hot_items"));
}

/// New users: persons who registered and opened auctions in the same ten seconds.
fn q8(flow: &Flow<'_>, io: &AnalyticsIo) {
    let happenings = happenings(flow, io).untimed();
    let persons = happenings.clone().filter_map(Happening::person).with_event_time(|person| EventTime(person.time));
    let auctions = only_auctions(happenings);
    persons
        .key_by(|person| key(HOUSE, person.id))
        .join_window("new_sellers", auctions.key_by(|auction| key(HOUSE, auction.seller)), Tumbling::of(seconds(10)))
        .inner(|person, _| {
            (HOUSE.to_owned(), EventTime(person.time).window_start(10_000), person.id, person.name.clone(), 1_i64)
        })
        .rows
        .sink("new_sellers_table", io.rows("new_sellers"));
}

/// User sessions: how many bids a person makes without a pause of ten seconds.
fn q11(flow: &Flow<'_>, io: &AnalyticsIo) {
    bids(flow, io)
        .key_by(|bid| key(HOUSE, bid.bidder))
        .window("bidder_sessions", Session::with_gap(seconds(10)))
        .aggregate(session_summary())
        .sink("bidder_sessions_table", io.sessions("bidder_sessions"));
}
