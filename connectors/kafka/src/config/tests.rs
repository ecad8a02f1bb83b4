use super::*;

fn source(address: &str) -> Result<KafkaConfig, ConfigError> {
    KafkaConfig::source(address, &Credentials::default())
}

#[test]
fn an_address_with_nothing_but_a_broker_reads_the_default_topics_from_the_earliest_message() {
    let config = source("kafka://localhost:9092").unwrap();
    assert_eq!(config.brokers, "localhost:9092");
    assert_eq!(config.start, Start::Earliest);
    assert_eq!(config.group, DEFAULT_GROUP);
    assert!(config.topics.matches("events.clicks") && !config.topics.matches("events.raw_all"));
}

#[test]
fn every_part_of_a_source_is_read() {
    let address = "kafka://a:1,[::1]:2?topics=x,y.*&start=offsets:x/0=5,y.a/12=7&group=g&security.protocol=ssl\
                   &ssl.ca.location=%2Fetc%2Fca.crt&fetch.max.bytes=1000000";
    let config = source(address).unwrap();
    assert_eq!(config.brokers, "a:1,[::1]:2");
    let offsets = [(("x".to_owned(), 0), 5), (("y.a".to_owned(), 12), 7)].into();
    assert_eq!(config.start, Start::Offsets(offsets));
    assert_eq!(config.group, "g");
    assert_eq!(config.client().get("ssl.ca.location"), Some("/etc/ca.crt"));
    assert_eq!(config.client().get("bootstrap.servers"), Some("a:1,[::1]:2"));
    assert_eq!(source("kafka://a:1?start=timestamp:1431857103000").unwrap().start, Start::Timestamp(1_431_857_103_000));
    assert_eq!(source("kafka://a:1?start=latest").unwrap().start, Start::Latest);
}

#[test]
fn a_sink_takes_its_prefix_from_the_path() {
    let config = KafkaConfig::sink("kafka://h:1/tidemill.?partitions=4", &Credentials::default()).unwrap();
    assert_eq!((config.prefix.as_str(), config.partitions), ("tidemill.", 4));
    assert_eq!(KafkaConfig::at("h:1").unwrap().prefix, "");
}

#[test]
fn wrong_addresses_get_a_sentence_with_the_remedy() {
    for (address, part) in [
        ("http://a:1", "write kafka://HOST:PORT"),
        ("kafka://", "write HOST:PORT"),
        ("kafka://a", "write HOST:PORT"),
        ("kafka://a:1,b", "`b` is no broker"),
        ("kafka://a:0", "`a:0` is no broker"),
        ("kafka://u:p@a:1", "KAFKA_SASL_PASSWORD"),
        ("kafka://a:1/prefix", "?topics=LIST"),
        ("kafka://a:1?topic=x", "there are topics, start, group"),
        ("kafka://a:1?topics=", "topics="),
        ("kafka://a:1?start=soon", "use earliest, latest"),
        ("kafka://a:1?start=timestamp:-5", "use earliest, latest"),
        ("kafka://a:1?start=offsets:x=3", "offsets:TOPIC/PARTITION=OFFSET"),
        ("kafka://a:1?enable.auto.commit=true", "kept in the pipeline's log"),
        ("kafka://a:1?isolation.level=read_uncommitted", "reads what is committed"),
        ("kafka://a:1?no.such.setting=1", "`no.such.setting` was not accepted"),
        ("kafka://a:1?fetch.max.bytes=many", "`fetch.max.bytes` was not accepted"),
        ("kafka://a:1?group=%zz", "write % as %25"),
    ] {
        let error = source(address).expect_err(address).to_string();
        assert!(error.contains(part), "{address}: {error}");
    }
    let sink = |address: &str| KafkaConfig::sink(address, &Credentials::default()).expect_err(address).to_string();
    assert!(sink("kafka://a:1/a b").contains("cannot begin a topic's name"));
    assert!(sink("kafka://a:1/x?partitions=0").contains("1 to 10000"));
    assert!(sink("kafka://a:1/x?topics=y").contains("there are partitions"));
}

#[test]
fn secrets_do_not_show() {
    let credentials = Credentials { username: Some("me".into()), password: Some("swordfish".into()) };
    let address = "kafka://a:1?security.protocol=sasl_ssl&sasl.mechanism=PLAIN&ssl.key.password=hunter2";
    let config = KafkaConfig::source(address, &credentials).unwrap();
    assert_eq!(config.client().get("sasl.password"), Some("swordfish"));
    let shown = format!("{config:?} {credentials:?}");
    assert!(shown.contains("sasl.username") && shown.contains("PLAIN"), "{shown}");
    assert!(!shown.contains("swordfish") && !shown.contains("hunter2"), "{shown}");
}
