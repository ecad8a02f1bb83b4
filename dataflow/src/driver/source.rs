//! The source operator: takes blocks from the queue, decodes them, reports what they said about time.

use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::Stream as TimelyStream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Concat;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::binder;
use super::feed::Feed;
use crate::batch::{Batch, Order};
use crate::bind::{BlockReport, Report};
use crate::flow::Flow;
use crate::quarantine::{Origin, Parcel, Passing, Phase, pass};
use crate::queue::Item;
use crate::source::{Block, Decode, Decoded, Source};
use crate::status::gauge::{Gauge, Role};
use crate::stream::{RecordOf, Rejected};
use crate::time::{Epoch, EventTime, Watermark};
use crate::watermark::{BlockClock, Watermarks};

type Batches<'s, D> = TimelyStream<'s, Epoch, Batch<D>>;
type Reports<'s> = TimelyStream<'s, Epoch, Vec<Report>>;

/// Builds the source and its binder; gives the records and what could not become one.
pub(crate) fn build<'s, S: Source>(
    flow: &Flow<'s>,
    (id, node): (&'static str, usize),
    source: S,
    times: impl Fn(&RecordOf<S>) -> (EventTime, Watermark) + 'static,
    rule: Watermarks,
) -> (Batches<'s, RecordOf<S>>, Batches<'s, Rejected>) {
    let (decoder, vouches) = (source.decoder(), source.vouches());
    register(flow, source, rule);
    let gauge = flow.gauge(node, Role::Source);
    let worker = BlockDecoder { id, decoder, times, vouches, rule, gauge };
    let (records, reports) =
        if flow.env.processes > 1 { spread(flow, id, worker) } else { decode_where_taken(flow, id, worker) };
    (records, binder::build(flow, id, reports, rule))
}

/// One operator takes blocks and decodes them.
fn decode_where_taken<'s, C: Decode, F: Fn(&C::Record) -> (EventTime, Watermark) + 'static>(
    flow: &Flow<'s>,
    id: &'static str,
    mut worker: BlockDecoder<C, F>,
) -> (Batches<'s, C::Record>, Reports<'s>) {
    let mut builder = OperatorBuilder::new(id.into(), flow.scope);
    let (records_out, records) = builder.new_output();
    let (reports_out, reports) = builder.new_output();
    let mut records_out = OutputBuilder::<_, NoopBuilder<Batch<C::Record>>>::from(records_out);
    let mut reports_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Report>>>::from(reports_out);
    let address = builder.operator_info().address;
    let again = flow.scope.activator_for(Rc::clone(&address));
    let queue = Arc::clone(&flow.env.queue);
    queue.register(flow.scope.worker().sync_activator_for(address.to_vec()));
    let first = flow.env.restored.epoch + 1;
    builder.build(move |capabilities| {
        let mut feed = Feed::new(queue, capabilities, first, Arc::clone(&worker.gauge));
        move |_frontiers| {
            let more = feed.take(|held, item| match item {
                Item::Block(epoch, parcel) => {
                    let report = worker.decode(epoch, parcel, |batch| {
                        records_out.activate().session_with_builder(&held.data).give_container(batch);
                    });
                    reports_out.activate().session(&held.reports).give(report);
                }
                Item::Cut(cut) => reports_out.activate().session(&held.reports).give(Report::Cut(cut)),
            });
            if more {
                again.activate();
            }
        }
    });
    (records, reports)
}

/// A block on its way to the worker that decodes it, perhaps in another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Routed {
    to: u32,
    parcel: Parcel,
}

/// The workers of process 0 take blocks and deal them among all workers, who decode them.
fn spread<'s, C: Decode, F: Fn(&C::Record) -> (EventTime, Watermark) + 'static>(
    flow: &Flow<'s>,
    id: &'static str,
    mut worker: BlockDecoder<C, F>,
) -> (Batches<'s, C::Record>, Reports<'s>) {
    let mut builder = OperatorBuilder::new(format!("{id}/take"), flow.scope);
    let (blocks_out, blocks) = builder.new_output();
    let (cuts_out, cuts) = builder.new_output();
    let mut blocks_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Routed>>>::from(blocks_out);
    let mut cuts_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Report>>>::from(cuts_out);
    let address = builder.operator_info().address;
    let again = flow.scope.activator_for(Rc::clone(&address));
    let queue = Arc::clone(&flow.env.queue);
    queue.register(flow.scope.worker().sync_activator_for(address.to_vec()));
    let first = flow.env.restored.epoch + 1;
    let (me, workers, travels) = (flow.worker(), flow.workers(), worker.decoder.travels());
    let gauge = Arc::clone(&worker.gauge);
    builder.build(move |capabilities| {
        let mut feed = Feed::new(queue, capabilities, first, gauge);
        let mut next = me;
        move |_frontiers| {
            let more = feed.take(|held, item| match item {
                Item::Block(_, parcel) => {
                    let to = if travels { next % workers } else { me };
                    next = to + 1;
                    blocks_out.activate().session(&held.data).give(Routed { to, parcel });
                }
                Item::Cut(cut) => cuts_out.activate().session(&held.reports).give(Report::Cut(cut)),
            });
            if more {
                again.activate();
            }
        }
    });

    let mut builder = OperatorBuilder::new(id.into(), flow.scope);
    let mut input = builder.new_input(blocks, Exchange::new(|routed: &Routed| u64::from(routed.to)));
    let (records_out, records) = builder.new_output();
    let (reports_out, reports) = builder.new_output();
    let mut records_out = OutputBuilder::<_, NoopBuilder<Batch<C::Record>>>::from(records_out);
    let mut reports_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Report>>>::from(reports_out);
    builder.build(move |_| {
        move |_frontiers| {
            input.for_each(|capability, routed| {
                let Some(&epoch) = capability.least() else { return };
                let (data, said) = (capability.delayed(&epoch, 0), capability.delayed(&epoch, 1));
                for Routed { parcel, .. } in routed.drain(..) {
                    let report = worker.decode(epoch, parcel, |batch| {
                        records_out.activate().session_with_builder(&data).give_container(batch);
                    });
                    reports_out.activate().session(&said).give(report);
                }
            });
        }
    });
    (records, cuts.concat(reports))
}

fn register<S: Source>(flow: &Flow<'_>, source: S, rule: Watermarks) {
    let mut registry = flow.env.registry.lock().expect("no panic while it is held");
    registry.rule = Some(rule);
    registry.open = Some(Box::new(move |recorded, bound| source.open_behind(recorded, bound)));
}

struct BlockDecoder<C, F> {
    id: &'static str,
    decoder: C,
    times: F,
    /// See [`Source::vouches`].
    vouches: bool,
    rule: Watermarks,
    gauge: Arc<Gauge>,
}

impl<C: Decode, F: Fn(&C::Record) -> (EventTime, Watermark)> BlockDecoder<C, F> {
    /// Decodes a block as one batch, or record by record if it must be handled with care; says what it held.
    fn decode(&mut self, epoch: Epoch, parcel: Parcel, mut give: impl FnMut(&mut Batch<C::Record>)) -> Report {
        let gauge = Arc::clone(&self.gauge);
        let at_work = gauge.working(epoch);
        let Parcel { block, origin, care } = parcel;
        let mut report = BlockReport::new(order_of(&block));
        // The clock sees the records of a block together, taken apart or not.
        let mut clock = BlockClock::new(&self.rule);
        let (care, pieces) = match care {
            None => (None, Err(block)),
            Some(care) => (Some(care), self.decoder.apart(block)),
        };
        match pieces {
            Ok(pieces) => {
                let ends: Vec<u64> = pieces.iter().skip(1).map(|next| next.offset).chain([origin.end]).collect();
                for (piece, end) in pieces.into_iter().zip(ends) {
                    let aside = care.as_ref().and_then(|care| care.at(piece.offset));
                    if let Some(record) = aside {
                        report.quarantined.push(self.decoder.letter(&piece, record.reason.clone()));
                        if record.unreadable {
                            continue;
                        }
                    }
                    let origin = Origin { start: piece.offset, end, single: true, ..origin.clone() };
                    let Some(mut batch) = self.read_one((epoch, piece), origin, &mut clock, &mut report) else {
                        continue;
                    };
                    match aside {
                        // It counted for the clock when its epoch was bound, and does so ever after.
                        Some(_) => report.records -= batch.len() as u64,
                        None => give(&mut batch),
                    }
                }
            }
            Err(block) => {
                let passing = Passing::new(Some(&origin), Phase::Decode, (self.id, Some(epoch)));
                let order = order_of(&block);
                let decoded = self.see(block, |time, server_time| clock.see(time, server_time));
                drop(passing);
                give(&mut report.took(order, decoded, origin));
            }
        }
        report.times = clock.finish();
        gauge.gave(usize::try_from(report.records).unwrap_or(usize::MAX));
        let report = Report::Block(report);
        gauge.took(report.lines());
        drop(at_work);
        report
    }

    /// Decodes a block of one record, unless that panics. The clock then sees nothing of it, as when it is set aside because
    /// of that.
    fn read_one(
        &mut self,
        (epoch, block): (Epoch, Block),
        origin: Origin,
        clock: &mut BlockClock,
        report: &mut BlockReport,
    ) -> Option<Batch<C::Record>> {
        let order = order_of(&block);
        let (decoded, times) = pass(Some(&origin), Phase::Decode, (self.id, epoch), || {
            let mut times = Vec::new();
            (self.see(block.clone(), |time, server_time| times.push((time, server_time))), times)
        })?;
        times.into_iter().for_each(|(time, server_time)| clock.see(time, server_time));
        Some(report.took(order, decoded, origin))
    }

    /// Decodes a block, and says the times of its records.
    fn see(&mut self, block: Block, mut said: impl FnMut(EventTime, Watermark)) -> Decoded<C::Record> {
        let mut decoded = Decoded::default();
        self.decoder.decode(block, &mut decoded);
        for record in &decoded.records {
            let (time, server_time) = (self.times)(record);
            said(time, if self.vouches { server_time.or(Some(time)) } else { server_time });
        }
        decoded
    }
}

fn order_of(block: &Block) -> Order {
    Order { partition: block.partition, offset: block.offset }
}

impl BlockReport {
    /// Counts what a block held; gives its records.
    fn took<R>(&mut self, order: Order, mut decoded: Decoded<R>, origin: Origin) -> Batch<R> {
        self.records += decoded.records.len() as u64;
        self.malformed.append(&mut decoded.malformed);
        Batch::read(order, decoded.records, Arc::new(origin))
    }
}
