use super::*;

#[track_caller]
fn here() -> Option<Place> {
    Some(Location::caller())
}

fn operator(id: &'static str, kind: &str, inputs: &[usize], at: Option<Place>) -> Operator {
    Operator { id: Some(id), kind: kind.into(), inputs: inputs.to_vec(), at, ..Operator::default() }
}

fn sample() -> Plan {
    let mut plan = Plan::default();
    let source = plan.push(operator("events", "source, watermark 120 s behind", &[], here()));
    let step = plan.push(Operator { kind: "map".into(), inputs: vec![source], at: here(), ..Operator::default() });
    let windows = plan.push(operator("per_minute", "window session, gap 5 ms", &[step], here()));
    plan.set_state(windows, 2, 1);
    plan.push(operator("table", "sink minutes", &[windows], here()));
    plan
}

#[test]
fn every_bad_id_is_reported_at_once() {
    let mut plan = Plan::default();
    for id in ["a_1", "a_1", "Bad", "1x", ""] {
        plan.push(operator(id, "sink", &[], None));
    }
    assert_eq!(plan.problems().len(), 4, "{:?}", plan.problems());
}

#[test]
fn a_problem_names_the_line_and_the_first_place() {
    let mut plan = sample();
    let (first, at) = (plan.operators()[2].at.unwrap().line(), here().unwrap());
    plan.push(operator("per_minute", "sink more", &[1], Some(at)));
    plan.finish();
    let (file, second) = (at.file(), at.line());
    assert_eq!(
        plan.problems(),
        [format!(
            "{file}:{second}: the id `per_minute` is used twice (first at {file}:{first}): state and offsets are kept by id; \
             rename one"
        )]
    );
}

#[test]
fn an_operator_is_of_the_line_where_its_id_was_given() {
    let mut plan = sample();
    let given = here().unwrap();
    plan.declare("windows", given);
    let node = plan.push(operator("windows", "window tumbling 60000 ms, late Drop", &[1], here()));
    assert_eq!(plan.operators()[node].at, Some(given));
    plan.problem_of_last("`windows`: too narrow".into());
    assert_eq!(plan.problems(), [format!("{}: `windows`: too narrow", line(given))]);
}

/// What is wrong with the sample after `change`, without the lines.
fn problems(change: impl FnOnce(&mut Plan)) -> Vec<String> {
    let mut plan = sample();
    change(&mut plan);
    plan.finish();
    let problems = plan.problems();
    let sentence = |problem: &String| problem.split_once(": ").map(|(_, rest)| rest.to_owned()).unwrap();
    problems.iter().map(sentence).collect()
}

#[test]
fn a_plan_as_a_whole_can_be_wrong_in_many_ways_and_each_has_a_sentence() {
    type Wrong = (fn(&mut Plan), &'static str);
    let step = |plan: &mut Plan| {
        plan.push(Operator { kind: "map".into(), inputs: vec![0], at: here(), ..Operator::default() });
    };
    let two_sources = |plan: &mut Plan| {
        let second = plan.push(operator("others", "source, watermark 5 s behind", &[], here()));
        plan.mark_used(second);
    };
    let two_heirs = |plan: &mut Plan| {
        plan.rename(2, "old", here().unwrap());
        plan.rename(3, "old", here().unwrap());
    };
    let wrong: [Wrong; 8] = [
        (|plan| plan.declare("more", here().unwrap()), "`more` is begun and never finished"),
        (two_sources, "`others` is a second source beside `events` (first at "),
        (step, "what `map` gives is never used"),
        (
            |plan| _ = plan.push(operator("again", "sink minutes", &[1], here())),
            "`again` writes to table `minutes`, and so does `table` (first at ",
        ),
        (
            |plan| _ = plan.push(operator("nowhere", "sink ", &[1], here())),
            "`nowhere` writes to a table without a name",
        ),
        (
            |plan| plan.rename(2, "events", here().unwrap()),
            "`per_minute` is renamed from `events`, which is still in the plan (at ",
        ),
        (two_heirs, "`table` is renamed from `old`, and so is `per_minute` (at "),
        (|plan| plan.rename(1, "old", here().unwrap()), "follows a step without an id"),
    ];
    assert_eq!(problems(|_| {}), Vec::<String>::new());
    for (change, said) in wrong {
        let found = problems(change);
        assert!(found.len() == 1 && found[0].contains(said), "{found:?} is not `{said}`");
    }
    let mut empty = Plan::default();
    empty.finish();
    assert!(empty.problems()[0].contains("the pipeline reads no source"));
}

#[test]
fn problems_come_in_the_order_of_the_authors_lines() {
    let mut plan = sample();
    let (early, late) = (here(), here());
    plan.push(operator("Late", "sink late", &[1], late));
    plan.push(operator("Early", "sink early", &[1], early));
    plan.problem("--disable-sink x: there is no such sink".into());
    let problems = plan.problems();
    assert!(problems[0].contains("`Early`") && problems[1].contains("`Late`"), "{problems:?}");
    assert!(problems[2].starts_with("--disable-sink"), "{problems:?}");
}

#[test]
fn neither_lines_nor_renames_change_text_and_fingerprint() {
    let (one, mut two) = (sample(), Plan::default());
    for operator in one.operators() {
        two.push(Operator { at: here(), ..operator.clone() });
    }
    two.rename(2, "minutes", here().unwrap());
    assert_eq!((one.to_string(), one.fingerprint()), (two.to_string(), two.fingerprint()));
    assert_eq!(
        one.to_string(),
        "  0  events                      source, watermark 120 s behind\n\
         \x20 1  -                           map  <- 0\n\
         \x20 2  per_minute                  window session, gap 5 ms  <- 1  [state v2]\n\
         \x20 3  table                       sink minutes  <- 2\n"
    );
}

#[test]
fn a_family_is_a_description_without_its_parameters() {
    for (kind, expected) in [
        ("source, watermark 120 s behind", "source"),
        ("sink page_views", "sink"),
        ("dedup, horizon 3600 s of event time", "dedup"),
        ("window tumbling 60000 ms, late Correct", "window tumbling"),
        ("window session, gap 1800000 ms", "window session"),
        ("count by key", "count by key"),
        ("map", "map"),
    ] {
        assert_eq!(family(kind), expected, "{kind}");
    }
}

#[test]
fn the_flowchart_shows_ids_kinds_state_and_edges() {
    assert_eq!(
        sample().mermaid(),
        "flowchart TD\n\
         \x20   n0([\"events<br/>source, watermark 120 s behind\"])\n\
         \x20   n1[\"map\"]\n\
         \x20   n2[[\"per_minute<br/>window session, gap 5 ms<br/>state v2\"]]\n\
         \x20   n3[(\"table<br/>sink minutes\")]\n\
         \x20   n0 --> n1\n\
         \x20   n1 --> n2\n\
         \x20   n2 --> n3\n"
    );
}

#[test]
fn nothing_in_a_description_becomes_markup_of_the_flowchart() {
    let mut plan = Plan::default();
    plan.push(operator("top", "top 10 by <sum> of \"a\" & `b` #1]\n--> n9", &[], None));
    let chart = plan.mermaid();
    assert_eq!(chart.lines().count(), 2, "{chart}");
    assert!(chart.contains("by #lt;sum#gt; of #quot;a#quot; #amp; #96;b#96; #35;1] --#gt; n9\"]"), "{chart}");
}

#[test]
fn the_json_form_has_what_the_text_has() {
    let json: serde_json::Value = serde_json::from_str(&sample().json()).unwrap();
    assert_eq!(json[2]["id"], "per_minute");
    assert_eq!(json[2]["inputs"], serde_json::json!([1]));
    assert_eq!(json[2]["state_version"], 2);
    assert_eq!(json[1]["id"], serde_json::Value::Null);
}
