//! The log as the engine sees it: source and sink.
//!
//! The modules say `cfg(test)` so that the lints know the helpers in them for test code.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod log;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod refusing;
#[cfg(test)]
mod table;
#[cfg(test)]
mod waiting;
