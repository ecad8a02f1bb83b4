//! The hot rules, each alone: decoding, the dedup check, and the combiners before the exchange, per event of workload S.

use std::hint::black_box;
use std::rc::Rc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidemill_connectors::events::{Event, EventKind, NdjsonDecoder};
use tidemill_connectors::generate::{GenerateConfig, generate};
use tidemill_dataflow::key::key;
use tidemill_dataflow::source::{Block, Decode, Decoded};
use tidemill_dataflow::time::{hours, minutes};
use tidemill_operators::aggregate::{count, distinct};
use tidemill_operators::dedup::{DedupTable, IdRow};
use tidemill_operators::window::session::{Session, SessionCombiner};
use tidemill_operators::window::tumbling::{Tumbling, WindowCombiner};

const EVENTS: u64 = 50_000;

fn input() -> Vec<u8> {
    let mut bytes = Vec::new();
    generate(&GenerateConfig::new(EVENTS, 1), &mut bytes).expect("a vector takes all that is written");
    bytes
}

fn decode(bytes: Vec<u8>) -> Vec<Event> {
    let mut decoded = Decoded::default();
    NdjsonDecoder::default().decode(Block { partition: 0, offset: 0, first_line: 1, bytes, skipped: 0 }, &mut decoded);
    decoded.records
}

fn rules(criterion: &mut Criterion) {
    let bytes = input();
    let events = decode(bytes.clone());
    let mut group = criterion.benchmark_group("rules");
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("decode", |bench| bench.iter_batched(|| bytes.clone(), decode, BatchSize::LargeInput));

    let ids: Vec<IdRow> =
        (0..).zip(&events).map(|(row, e)| IdRow::new(e.id(), e.timestamp(), e.fingerprint(), row)).collect();
    group.bench_function("dedup_check", |bench| {
        let empty = || {
            let mut table = DedupTable::new(hours(24));
            table.advance(Some(events[0].timestamp()));
            table
        };
        let fill = |mut table: DedupTable| {
            table.check(&ids, |_, _| {});
            black_box(table.len());
            table
        };
        bench.iter_batched(empty, fill, BatchSize::LargeInput);
    });

    group.bench_function("window_combiner_add", |bench| {
        let windows = Tumbling::of(minutes(1));
        let aggregate = || (count(), distinct(|e: &Event| e.user().hash));
        let combine = |mut combiner: WindowCombiner<Event, _>| {
            for event in events.iter().filter(|event| event.kind() == EventKind::PageView) {
                let page = event.page().expect("a page view has a page");
                combiner.add(key(event.tenant(), page), event.timestamp(), event);
            }
            combiner
        };
        let fresh = || WindowCombiner::new(&windows, Rc::new(aggregate()));
        bench.iter_batched(fresh, combine, BatchSize::LargeInput);
    });

    group.bench_function("session_combiner_add", |bench| {
        let sessions = Session::with_gap(minutes(30));
        let combine = |mut combiner: SessionCombiner| {
            events.iter().for_each(|event| combiner.add(key(event.tenant(), event.user()), event.timestamp()));
            combiner
        };
        bench.iter_batched(|| SessionCombiner::new(&sessions), combine, BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(benches, rules);
criterion_main!(benches);
