use super::*;

/// The statements are a contract with people who read them; what changes is seen in review.
#[test]
fn the_statements_are_these() {
    let mut text = String::new();
    for object in shared(Retention::default()) {
        text += &format!("{};\n\n", object.create());
    }
    for spec in default_tables() {
        for object in table(&spec, Retention::default()).unwrap() {
            text += &format!("{};\n\n", object.create());
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ddl/web_analytics.sql");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert!(golden == text, "the statements have changed; look at them with UPDATE_GOLDEN=1 and git diff:\n{text}");
}

#[test]
fn rows_that_stay_for_ever_have_no_ttl() {
    let forever = Retention { raw_days: 0, rollup_days: 0 };
    for spec in default_tables() {
        for object in table(&spec, forever).unwrap() {
            assert!(!object.create().contains("\nTTL"), "{}", object.create());
        }
    }
}

#[test]
fn a_rebuilt_set_stands_beside_the_live_one() {
    let names = |suffix: &str| -> Vec<String> {
        let specs = default_tables().into_iter().map(|spec| suffixed(&spec, suffix));
        specs.flat_map(|spec| table(&spec, Retention::default()).unwrap()).map(|object| object.name).collect()
    };
    let (live, rebuilt) = (names(""), names("_rebuilt"));
    assert!(live.iter().all(|name| !rebuilt.contains(name)));
    assert!(rebuilt.contains(&"page_views_by_day_rebuilt".to_owned()), "{rebuilt:?}");
}

#[test]
fn a_type_that_cannot_be_written_is_named() {
    let column = ColumnSpec::value("ratio", DataType::Float64);
    let spec = TableSpec::new("t", Fold::Append, "ratio", vec![column]);
    let message = table(&spec, Retention::default()).unwrap_err().to_string();
    assert!(message.contains("ratio") && message.contains("Float64"), "{message}");
}
