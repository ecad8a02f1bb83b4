//! What operators cost per event of workload S, each alone: aggregates in tumbling windows, overlapping windows, windows
//! that are held in state, rankings.

use std::hint::black_box;
use std::rc::Rc;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use tidemill_connectors::events::{Event, NdjsonDecoder};
use tidemill_connectors::generate::{GenerateConfig, generate};
use tidemill_dataflow::key::{KeyRef, key};
use tidemill_dataflow::keyed::{Emit, KeyedLogic, PerKey, ShardLogic};
use tidemill_dataflow::source::{Block, Decode, Decoded};
use tidemill_dataflow::time::{EpochTime, EventTime, hours, minutes};
use tidemill_operators::aggregate::{
    Aggregate, approx_distinct, count, distinct, first, last, max, mean, min, quantiles, quantiles_float, sum,
    sum_decimal, sum_float,
};
use tidemill_operators::emission::{Held, OnceLogic, UpsertLogic};
use tidemill_operators::window::assigner::Assigner;
use tidemill_operators::window::hopping::Hopping;
use tidemill_operators::window::top_k::{CountItems, TopKLogic};
use tidemill_operators::window::tumbling::{Late, MergeLogic, Tumbling, WindowCombiner};

const EVENTS: u64 = 50_000;

/// An epoch of the bench: what is read of it depends on no watermark.
const CLOCKS: EpochTime = EpochTime { epoch: 1, before: None, after: None };

fn events() -> Vec<Event> {
    let mut bytes = Vec::new();
    generate(&GenerateConfig::new(EVENTS, 1), &mut bytes).expect("a vector takes all that is written");
    let mut decoded = Decoded::default();
    NdjsonDecoder::default().decode(Block { partition: 0, offset: 0, first_line: 1, bytes, skipped: 0 }, &mut decoded);
    decoded.records
}

fn user(event: &Event) -> &[u8] {
    event.user().text.as_bytes()
}

fn timed(event: &Event) -> (EventTime, &[u8]) {
    (event.timestamp(), user(event))
}

fn by_kind(event: &Event) -> KeyRef<'_> {
    let name = match event.page() {
        Some(page) => page.text,
        None => "other",
    };
    key(event.tenant(), name)
}

/// The events of an epoch in a combiner.
fn combined<A: Aggregate<Event>, W: Assigner>(
    events: &[Event],
    windows: &W,
    aggregate: &Rc<A>,
) -> WindowCombiner<Event, A, W> {
    let mut combiner = WindowCombiner::new(windows, Rc::clone(aggregate));
    events.iter().for_each(|event| combiner.add(by_kind(event), event.timestamp(), event));
    combiner
}

/// An epoch of deltas, through the merge.
fn deltas<A: Aggregate<Event>, W: Assigner>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    events: &[Event],
    windows: &W,
    aggregate: A,
) {
    let aggregate = Rc::new(aggregate);
    group.bench_function(name, |bench| {
        bench.iter(|| {
            let mut out = Emit::default();
            let chunks = combined(events, windows, &aggregate).drain(0, 1);
            MergeLogic::new(windows, Rc::clone(&aggregate)).close_epoch(CLOCKS, chunks, &mut out);
            black_box(out.records.len())
        });
    });
}

/// A second epoch on the state that the first one left.
fn held<A: Aggregate<Event>, L: KeyedLogic<In = A::Partial>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    events: &[Event],
    windows: &Tumbling,
    (aggregate, logic): (&Rc<A>, impl Fn() -> L),
) {
    let (first, second) = events.split_at(events.len() / 2);
    let epoch = |keys: &mut PerKey<L>, of: &[Event]| {
        let mut out = Emit::default();
        let chunks = combined(of, windows, aggregate).drain_windows(0, 1, None);
        keys.close_epoch(CLOCKS, chunks, &mut out);
        out.records.len()
    };
    group.throughput(Throughput::Elements(second.len() as u64));
    group.bench_function(name, |bench| {
        let warm = || {
            let mut keys = PerKey::new(logic());
            epoch(&mut keys, first);
            keys
        };
        let close = |mut keys: PerKey<L>| {
            black_box(epoch(&mut keys, second));
            keys
        };
        bench.iter_batched(warm, close, BatchSize::LargeInput);
    });
}

fn operators(criterion: &mut Criterion) {
    let events = events();
    let minute = Tumbling::of(minutes(1)).late(Late::Drop);
    let number = |event: &Event| event.timestamp().0 % 10_007;
    let float = move |event: &Event| number(event) as f64 * 0.01;
    let hash = |event: &Event| event.user().hash;

    let mut group = criterion.benchmark_group("aggregates");
    group.throughput(Throughput::Elements(events.len() as u64));
    deltas(&mut group, "count", &events, &minute, count());
    deltas(&mut group, "sum", &events, &minute, sum(number));
    deltas(&mut group, "min", &events, &minute, min(number));
    deltas(&mut group, "max", &events, &minute, max(number));
    deltas(&mut group, "first", &events, &minute, first(timed));
    deltas(&mut group, "last", &events, &minute, last(timed));
    deltas(&mut group, "sum_decimal", &events, &minute, sum_decimal(move |event| i128::from(number(event))));
    deltas(&mut group, "sum_float", &events, &minute, sum_float(float));
    deltas(&mut group, "mean", &events, &minute, mean(number));
    deltas(&mut group, "distinct", &events, &minute, distinct(hash));
    deltas(&mut group, "approx_distinct", &events, &minute, approx_distinct(hash));
    deltas(&mut group, "quantiles", &events, &minute, quantiles(number, 0.01));
    deltas(&mut group, "quantiles_float", &events, &minute, quantiles_float(float, 0.01));
    group.finish();

    let mut windows = criterion.benchmark_group("windows");
    windows.throughput(Throughput::Elements(events.len() as u64));
    deltas(&mut windows, "tumbling", &events, &minute, (count(), sum(number)));
    for steps in [2, 10, 60] {
        let hopping = Hopping::of(minutes(steps)).every(minutes(1));
        deltas(&mut windows, &format!("hopping_{steps}_steps"), &events, &hopping, (count(), sum(number)));
    }
    windows.finish();

    let mut in_state = criterion.benchmark_group("held");
    let counts = Rc::new((count(), sum(number)));
    let of = || Held::new(minute, hours(1));
    let upserts = || UpsertLogic::<Event, _, _>::new(of(), Rc::clone(&counts));
    held(&mut in_state, "upserts", &events, &minute, (&counts, upserts));
    let once = || OnceLogic::<Event, _, _>::new(of(), Rc::clone(&counts));
    held(&mut in_state, "once_closed", &events, &minute, (&counts, once));
    let users = Rc::new(CountItems::new(user, 10));
    held(&mut in_state, "top_10", &events, &minute, (&users, || TopKLogic::new(of(), 10)));
    in_state.finish();
}

criterion_group!(benches, operators);
criterion_main!(benches);
