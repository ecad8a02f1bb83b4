//! A broker that is away is waited for. The brokers here are librdkafka's own stand-ins, which can be switched off.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemill_dataflow::sink::{SinkNotes, SinkStart, TableWriter};
use tidemill_kafka::{Credentials, KafkaConfig, KafkaSource, KafkaTable};
use tidemill_tables::web_analytics;

use crate::cluster::*;

#[test]
fn a_live_source_waits_through_an_outage_and_is_not_caught_up_meanwhile() {
    let brokers = MockCluster::new(1).unwrap();
    brokers.create_topic("events.x", 1, 1).unwrap();
    let servers = brokers.bootstrap_servers();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
    let send = |id: u64| {
        let event = event(id);
        let record = BaseRecord::<(), str>::to("events.x").payload(&event);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    };
    send(0);
    producer.flush(PATIENCE).unwrap();
    let servers = servers.split(',').next().unwrap();
    let config = KafkaConfig::source(&format!("kafka://{servers}"), &Credentials::default()).unwrap();
    let mut reading = opened(&KafkaSource::new(config), &[]);
    let read = reading.until(0, (1 << 20, None), |r, seen| !seen.ids.is_empty() && r.reader.position(0).caught_up);
    assert_eq!(read.unwrap().ids, ["e0"]);

    brokers.broker_down(1).unwrap();
    reading.until(0, (1 << 20, None), |r, _| !r.reader.position(0).caught_up).unwrap();
    assert_eq!(reading.reader.lag(0), None, "nobody knows what comes meanwhile");
    send(1);
    for _ in 0..5 {
        reading.reader.discover().unwrap();
        assert!(reading.reader.read(0, 1 << 20, None).unwrap().is_none());
        reading.reader.wait(Duration::from_millis(50)).unwrap();
        assert_eq!(reading.reader.position(0).offset, 1);
    }
    brokers.broker_up(1).unwrap();
    let after = reading.until(0, (1 << 20, None), |r, seen| !seen.ids.is_empty() && r.reader.position(0).caught_up);
    assert_eq!(after.unwrap().ids, ["e1"]);
}

#[test]
fn a_sink_waits_through_an_outage_and_goes_on() {
    let brokers = MockCluster::new(1).unwrap();
    brokers.create_topic("out.revenue_by_minute", 1, 1).unwrap();
    let servers = brokers.bootstrap_servers();
    let servers = servers.split(',').next().unwrap();
    let config = KafkaConfig::sink(&format!("kafka://{servers}/out."), &Credentials::default()).unwrap();
    let mut table = KafkaTable::new(config.clone(), "web_analytics", web_analytics::revenue_by_minute());
    let fence = Arc::new(|| Ok(()));
    let start =
        SinkStart { instance: "one".into(), run: 1, committed: 0, bound: 0, fence, notes: SinkNotes::default() };
    table.open(&start).unwrap();
    table.write_epoch(1, 0, revenue(&[1])).unwrap();
    brokers.broker_down(1).unwrap();
    let writer = std::thread::spawn(move || {
        table.write_epoch(2, 0, revenue(&[2])).unwrap();
        table.write_epoch(3, 0, revenue(&[3])).unwrap();
    });
    // Long enough for the first attempt to fail; whether it did or not, the epoch has to arrive.
    std::thread::park_timeout(Duration::from_secs(1));
    assert!(!writer.is_finished());
    brokers.broker_up(1).unwrap();
    writer.join().unwrap();
}
