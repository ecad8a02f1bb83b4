//! Which tables a server shows: those of the pipeline that wrote the place.

use tidemill_tables::views;

use super::*;

/// The names that `SHOW TABLES` gives for one schema.
fn shown(server: &Server, schema: &str) -> Vec<String> {
    let answer = ok(server, "sql?q=SHOW%20TABLES");
    let rows = answer["data"]["rows"].as_array().unwrap();
    let of = rows.iter().filter(|row| row[1] == schema).map(|row| row[2].as_str().unwrap().to_owned());
    let mut names: Vec<String> = of.collect();
    names.sort();
    names
}

fn every() -> Vec<TableSpec> {
    web_analytics::all().into_iter().chain([views::top_pages(), views::funnel()]).collect()
}

fn of(place: &TestPlace) -> Server {
    start(ServerOptions { tables: every(), ..options(place) })
}

#[test]
fn a_folder_shows_the_tables_of_the_pipeline_that_wrote_it_and_no_others() {
    let mut place = TestPlace::of_tables(&["top_pages", "dead_letters"]);
    place.commit(&Epoch { watermark: Some(TEN), ..Epoch::default() });
    let server = of(&place);
    assert_eq!(shown(&server, "lake"), ["progress", "top_pages"]);
    assert_eq!(shown(&server, "stored"), ["top_pages"]);
    let (status, refused) = get(&server, "/api/v1/sql?q=SELECT%201%20FROM%20sessions");
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().contains("the tables are progress, top_pages"), "{refused}");
    // Its metrics are those of nothing.
    assert_eq!(ok(&server, "totals")["data"]["views"], json!(0));
    assert_eq!(ok(&server, "range")["data"], json!({ "from": null, "to": null }));
}

#[test]
fn a_table_that_an_earlier_plan_left_rows_in_stays_shown() {
    let mut place = TestPlace::of_tables(&["page_views_by_minute"]);
    place.commit(&Epoch { unverified: vec![TEN], ..Epoch::default() });
    assert_eq!(shown(&of(&place), "lake"), ["page_views_by_minute", "progress", "unverified_events"]);
}

#[test]
fn a_log_that_does_not_say_has_all_tables_that_are_asked_about() {
    let mut place = TestPlace::new();
    place.commit(&Epoch { watermark: Some(TEN), ..Epoch::default() });
    let mut names: Vec<String> = every().into_iter().map(|spec| spec.name).chain(["progress".to_owned()]).collect();
    names.sort();
    assert_eq!(shown(&of(&place), "lake"), names);
    let own = start(ServerOptions { tables: vec![views::funnel()], ..options(&place) });
    assert_eq!(shown(&own, "lake"), ["funnel", "progress"], "those of a program of its own, and no others");
    assert_eq!(ok(&own, "totals")["data"]["views"], json!(0));
}
