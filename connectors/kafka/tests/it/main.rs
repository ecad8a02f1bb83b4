//! The Kafka connector against a real broker, at `KAFKA_BROKERS`; every test has topics of its own.
//!
//! The modules say `cfg(test)` so that the lints know the helpers in them for test code.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod group;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod refusing;
#[cfg(test)]
mod sink;
