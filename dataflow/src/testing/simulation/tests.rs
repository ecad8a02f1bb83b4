//! What the kit promises to authors, of pipelines that are right and of some that are not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::time::{EventTime, minutes, seconds};
use crate::watermark::Watermarks;

type Word = (EventTime, String);

fn words(epochs: usize) -> Script<String> {
    let step = |n: usize| (0..3).map(move |i| (EventTime((n * 1_000 + i) as i64), format!("w{}", (n + i) % 5)));
    Script::new().partition((0..epochs).map(step)).partition((0..epochs / 2).map(step))
}

fn counting(flow: &Flow<'_>, ends: &Ends<String>) {
    flow.source("words", ends.source())
        .event_time(|(time, _)| *time, |_| None, Watermarks::out_of_order(seconds(5)))
        .sink("words_table", ends.sums("words", |(_, word): &Word| (word.clone(), 1)));
}

#[test]
fn each_step_is_an_epoch_of_its_own() {
    let outcome = Simulation::new().crashes(0).run(1, &words(4), counting);
    assert_eq!(outcome.written["words"].len(), 6);
    assert_eq!(outcome.tables.rows("words").values().sum::<i64>(), 18);
}

#[test]
fn crashes_restarts_and_other_workers_change_nothing() {
    let simulation = Simulation::new().seeds(0..12);
    simulation.repeats_itself(&words(9), counting);
    simulation.disorder(seconds(3)).agrees_with_a_batch(&words(9), counting);
    let starts = (0..12).map(|seed| Simulation::new().run(seed, &words(9), counting).starts);
    assert!(starts.max() > Some(1), "no seed crashed");
}

#[test]
fn several_processes_change_nothing() {
    Simulation::new().seeds(0..4).crashes(2).workers(2).processes(3).repeats_itself(&words(6), counting);
}

#[test]
fn a_live_script_is_read_to_its_end_through_crashes_and_stops() {
    let simulation = Simulation::new().seeds(0..6).live(Duration::from_millis(20));
    simulation.repeats_itself(&words(9), counting);
    simulation.disorder(seconds(3)).agrees_with_a_batch(&words(9), counting);
}

#[test]
fn a_live_partition_that_is_silent_holds_the_watermark_until_it_is_idle() {
    let tick = |time| (EventTime(time), "w".to_owned());
    let ticks = |n: i64| [tick(n * 1_000), tick(n * 1_000), tick(n * 1_000)];
    let script = Script::new().partition([ticks(1)]).partition((2..9).map(ticks));
    let latest = |idle_after: Duration, settled: u64| {
        let pipeline = move |flow: &Flow<'_>, ends: &Ends<String>| {
            let rule = Watermarks::out_of_order(Duration::ZERO).idle_after(idle_after);
            flow.source("words", ends.source())
                .event_time(|(time, _)| *time, |_| None, rule)
                .sink("words_table", ends.sums("words", |(_, word): &Word| (word.clone(), 1)));
        };
        let simulation = Simulation::new().crashes(0).live(Duration::from_millis(settled));
        *simulation.run(3, &script, pipeline).watermarks.values().last().expect("there are epochs")
    };
    assert_eq!(latest(minutes(10), 50), Some(EventTime(1_000)));
    // When all of them are silent, time goes on by the clock.
    assert!(latest(Duration::from_millis(20), 500) >= Some(EventTime(8_000)));
}

#[test]
#[should_panic(expected = "to repeat it: TIDEMILL_SEED=")]
fn a_pipeline_that_depends_on_its_epochs_is_told_with_the_seed() {
    let batches = Arc::new(AtomicU64::new(0));
    let pipeline = move |flow: &Flow<'_>, ends: &Ends<String>| {
        let batches = Arc::clone(&batches);
        flow.source("words", ends.source())
            .event_time(|(time, _)| *time, |_| None, Watermarks::out_of_order(seconds(5)))
            .map(move |_| batches.fetch_add(1, Ordering::Relaxed))
            .sink("words_table", ends.sums("words", |n: &u64| (n.to_string(), 1)));
    };
    Simulation::new().seeds(0..20).repeats_itself(&words(9), pipeline);
}

/// What a simulation says when it fails.
fn said(simulation: impl FnOnce()) -> String {
    told(&*catch_unwind(AssertUnwindSafe(simulation)).expect_err("it fails"))
}

#[test]
fn a_run_that_fails_by_itself_is_told_with_the_seed_too() {
    // A window of the dry build that is wrong, and a panic in the author's function.
    let unused = |flow: &Flow<'_>, ends: &Ends<String>| {
        let rule = Watermarks::out_of_order(seconds(5));
        let _nowhere = flow.source("words", ends.source()).event_time(|(time, _)| *time, |_| None, rule);
    };
    let broken = |_: &Flow<'_>, _: &Ends<String>| panic!("my mistake");
    let simulation = Simulation::new().seeds(5..6).crashes(0);
    let of_the_plan = said(|| simulation.repeats_itself(&words(2), unused));
    assert!(of_the_plan.contains("never used") && of_the_plan.contains("TIDEMILL_SEED=5 cargo test"), "{of_the_plan}");
    let of_a_panic = said(|| simulation.agrees_with_a_batch(&words(2), broken));
    assert!(of_a_panic.contains("my mistake") && of_a_panic.contains("TIDEMILL_SEED=5 cargo test"), "{of_a_panic}");
}

#[test]
fn a_simulation_that_compares_nothing_fails() {
    let nothing = |flow: &Flow<'_>, ends: &Ends<String>| {
        flow.source("words", ends.source())
            .event_time(|(time, _)| *time, |_| None, Watermarks::out_of_order(seconds(5)))
            .filter(|_| false)
            .sink("words_table", ends.sums("words", |(_, word): &Word| (word.clone(), 1)));
    };
    let simulation = Simulation::new().seeds(0..2);
    assert!(said(|| simulation.repeats_itself(&words(3), nothing)).contains("no run wrote a row"));
}
