//! The Kafka connector against a real broker, at `KAFKA_BROKERS`; every test has topics of its own.

mod cluster;
mod group;
mod outage;
mod reading;
mod refusing;
mod sink;
