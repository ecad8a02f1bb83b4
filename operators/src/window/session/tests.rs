//! Sessions against the plain rule: sort everything, cut at the gaps.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_dataflow::key::key;
use tidemill_dataflow::keyed::{PerKey, ShardLogic};
use tidemill_dataflow::time::minutes;

use super::*;
use crate::oracle;
use crate::shards::Shards;

const GAP: i64 = 30;

fn session(correctable: i64) -> Session {
    let span = |millis: i64| Duration::from_millis(millis.unsigned_abs());
    Session::with_gap(span(GAP)).correctable_for(span(correctable))
}

/// What a table makes of signed rows: sessions by (user, first, last, count), with the sum of their signs.
type Folded = BTreeMap<(String, Interval), i64>;

struct Workers {
    sessions: Session,
    shards: Shards<PerKey<SessionLogic>>,
    folded: Folded,
}

impl Workers {
    fn new(count: u32, sessions: Session) -> Self {
        let shards = Shards::new(count, || PerKey::new(SessionLogic::new(sessions)));
        Workers { sessions, shards, folded: Folded::new() }
    }

    /// One epoch; event `n` is read by worker `n % workers`. Gives its rows, sorted.
    fn epoch(&mut self, events: &[(u8, i64)], after: Watermark) -> Vec<SessionChange> {
        let count = self.shards.workers();
        let mut chunks = Vec::new();
        for reader in 0..count {
            let mut combiner = SessionCombiner::new(&self.sessions);
            for &(user, time) in events.iter().skip(reader as usize).step_by(count as usize) {
                combiner.add(key("t", format!("u{user}").as_str()), EventTime(time));
            }
            chunks.extend(combiner.drain(reader, count));
        }
        let mut rows = self.shards.close_chunks(chunks, after).records;
        let mut once = BTreeMap::new();
        for row in &rows {
            let interval = Interval { first: row.first, last: row.last, count: row.count };
            assert_eq!(once.insert((row.key.clone(), interval), row.sign), None, "a row comes once in an epoch");
            *self.folded.entry((row.key.texts().1.into_owned(), interval)).or_default() += i64::from(row.sign);
        }
        self.folded.retain(|_, sign| *sign != 0);
        rows.sort();
        rows
    }

    /// The same state on other workers.
    fn moved(self, count: u32, fold: bool) -> Self {
        let sessions = self.sessions;
        Workers { shards: self.shards.moved(count, || PerKey::new(SessionLogic::new(sessions)), fold), ..self }
    }
}

fn expected(events: impl IntoIterator<Item = (u8, i64)>) -> Folded {
    let mut users: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
    events.into_iter().for_each(|(user, time)| users.entry(user).or_default().push(time));
    let of_user =
        |(user, times)| oracle::sessions(times, GAP).into_iter().map(move |session| ((format!("u{user}"), session), 1));
    users.into_iter().flat_map(of_user).collect()
}

proptest! {
    #[test]
    fn any_order_and_any_cut_into_epochs_gives_the_sessions_of_all_events(
        epochs in prop::collection::vec(prop::collection::vec((0u8..3, 0i64..600), 0..12), 1..12), workers in 1u32..4,
    ) {
        let mut run = Workers::new(workers, session(1_000));
        for events in &epochs {
            run.epoch(events, None);
        }
        prop_assert_eq!(run.folded, expected(epochs.into_iter().flatten()));
    }

    #[test]
    fn sessions_that_left_state_are_as_right_as_those_in_it(
        steps in prop::collection::vec((0i64..80, prop::collection::vec((0u8..3, -100i64..150), 0..10)), 1..40),
        workers in prop::collection::vec(1u32..4, 40),
    ) {
        // Events are at most the correctable span behind W(e-1), so none is late; worker counts change on the way.
        let sessions = session(100);
        let (mut run, mut straight) = (Workers::new(workers[0], sessions), Workers::new(1, sessions));
        let (mut before, mut all) = (None, Vec::new());
        for (at, (moves, offsets)) in steps.iter().enumerate() {
            let base = before.map_or(1_000, |EventTime(before)| before);
            let mut events: Vec<_> = offsets.iter().map(|&(user, offset)| (user, base + offset)).collect();
            prop_assert!(events.iter().all(|&(_, time)| !sessions.is_late(EventTime(time), before)));
            let after = Some(EventTime(base + moves));
            let rows = straight.epoch(&events, after);
            events.reverse();
            prop_assert_eq!(rows, run.epoch(&events, after), "epoch {}", at);
            all.extend(events);
            before = after;
            if at % 5 == 4 {
                run = run.moved(workers[at], at % 2 == 0);
            }
        }
        prop_assert_eq!(&run.folded, &expected(all));
        // In the end everything leaves state, and what was shown stays.
        run.epoch(&[], Some(EventTime::MAX));
        prop_assert_eq!(run.shards.entries(), 0);
    }
}

#[test]
fn exactly_the_gap_is_one_session_and_a_millisecond_more_is_two() {
    let gap = 30 * 60_000;
    for (distance, sessions) in [(gap, 1), (gap + 1, 2)] {
        for times in [[0, distance], [distance, 0]] {
            let mut intervals = Vec::new();
            times.iter().for_each(|&time| insert(&mut intervals, Interval::at(EventTime(time)), gap));
            assert_eq!(intervals.len(), sessions, "{times:?}");
        }
    }
    assert_eq!(Session::with_gap(minutes(30)).gap(), gap);
}

#[test]
fn an_event_between_two_sessions_makes_them_one() {
    let mut run = Workers::new(1, session(1_000));
    run.epoch(&[(1, 0), (1, 50)], None);
    assert_eq!(run.folded.len(), 2);
    run.epoch(&[(1, 25)], None);
    let bridged = Interval { first: EventTime(0), last: EventTime(50), count: 3 };
    assert_eq!(run.folded, Folded::from([(("u1".to_owned(), bridged), 1)]));
}

#[test]
fn an_epoch_without_events_of_a_key_gives_nothing_for_it() {
    let mut logic = PerKey::new(SessionLogic::new(session(1_000)));
    let mut combiner = SessionCombiner::new(&session(1_000));
    combiner.add(key("t", "u"), EventTime(0));
    let clocks = |after| EpochTime { epoch: 1, before: None, after };
    logic.close_epoch(clocks(None), combiner.drain(0, 1), &mut Emit::default());
    for after in [None, Some(EventTime(GAP + 1_000)), Some(EventTime(GAP + 1_001))] {
        let mut out = Emit::default();
        assert_eq!(logic.size().entries, 1, "still correctable");
        logic.close_epoch(clocks(after), vec![], &mut out);
        assert!(out.records.is_empty());
    }
    assert_eq!(logic.size().entries, 0);
}

#[test]
fn a_gap_of_zero_is_refused() {
    let error = Session::with_gap(Duration::ZERO).validate().unwrap_err();
    assert_eq!(error.what, "the gap of a session");
}
