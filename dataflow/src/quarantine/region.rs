//! Which view a panic was of: differential dataflow calls the closures of a view, so no guard of ours is held.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::panic::{set_hook, take_hook};
use std::rc::Rc;
use std::sync::Once;

use timely::scheduling::current::operator_id;

use crate::flow::Flow;
use crate::time::Epoch;
use tidemill_log::panics::is_contained;

/// The operators of a view on this worker.
struct Region {
    operators: Range<usize>,
    id: &'static str,
    /// The first epoch for which the view is not known to be done.
    open: Rc<Cell<Epoch>>,
}

thread_local! {
    static REGIONS: RefCell<Vec<Region>> = const { RefCell::new(Vec::new()) };
    static PANICKED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Builds the inside of a region; a panic of an operator there is said to be of `id`.
pub fn within_region<T>(flow: &Flow<'_>, id: &'static str, build: impl FnOnce() -> T) -> T {
    let worker = flow.scope.worker();
    let first = worker.peek_identifier();
    let built = build();
    let region = Region { operators: first..worker.peek_identifier(), id, open: Rc::default() };
    REGIONS.with_borrow_mut(|regions| regions.push(region));
    built
}

/// Where the exit of a view says how far it is.
pub(crate) fn open_epoch(id: &'static str) -> Rc<Cell<Epoch>> {
    REGIONS.with_borrow(|regions| {
        regions.iter().rfind(|region| region.id == id).map(|region| Rc::clone(&region.open)).unwrap_or_default()
    })
}

/// From now on it is noted of a panic which operator was at work. Timely knows that until the panic unwinds.
pub(super) fn note_operators() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = take_hook();
        set_hook(Box::new(move |panic| {
            if is_contained() {
                PANICKED.set(operator_id());
            }
            report(panic);
        }));
    });
}

/// The view in which this thread panicked last, and the first epoch for which it was not done.
pub(super) fn panicked() -> Option<(&'static str, Epoch)> {
    let operator = PANICKED.take()?;
    REGIONS.with_borrow(|regions| {
        let found = regions.iter().find(|region| region.operators.contains(&operator));
        found.map(|region| (region.id, region.open.get()))
    })
}
