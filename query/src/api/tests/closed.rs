//! What answers say once the end of time was declared.

use super::*;

#[test]
fn a_drained_run_is_complete_through_the_end_of_its_data_and_exact_through_now() {
    let mut place = TestPlace::new();
    let minute = |n: i64| TEN + n * MINUTE;
    let server = start(ServerOptions { clock: Clock::new(move || minute(600) + 7), ..options(&place) });
    let cell = Cell { tenant: "default", minute: minute(5), key: "/", count: 3, users: vec![1, 2] };
    place.commit(&Epoch { views: vec![cell], ..Epoch::default() });
    place.commit(&Epoch { watermark: Some(i64::MAX), last_event: Some(minute(5) + 9), ..Epoch::default() });
    let end = json!(time_range::rfc3339(minute(6)));
    for (to, exact) in [(6, true), (7, true), (600, true), (601, false)] {
        let totals = ok_at(&server, &format!("totals?from={TEN}&to={}", minute(to)), 2);
        assert_eq!((&totals["complete_through"], &totals["closed"]), (&end, &json!(true)));
        assert_eq!(totals["exact"], json!(exact), "through minute {to}");
    }
    assert_eq!(ok(&server, "range")["exact"], json!(true));
    let (_, told) = next_event(&mut follow(&server, "1")).unwrap();
    assert_eq!((&told["complete_through"], &told["closed"]), (&end, &json!(true)));
    let (_, headers, _) = get_as(&server, "/api/v1/sql?q=SELECT%201", "text/csv");
    let said = ["tidemill-complete-through", "tidemill-closed"].map(|name| headers[name].to_str().unwrap());
    assert_eq!(said, [end.as_str().unwrap(), "true"]);
    let seconds = format!("complete_through_timestamp_seconds {}", minute(6) / 1_000);
    let (_, metrics) = get(&server, "/metrics");
    assert!(metrics.as_str().unwrap().contains(&seconds), "{metrics}");
}

#[test]
fn the_end_of_data_that_is_still_to_come_is_bounded_by_the_clock() {
    let mut place = TestPlace::new();
    let server = start(ServerOptions { clock: Clock::new(move || TEN + 7), ..options(&place) });
    place.commit(&Epoch { watermark: Some(i64::MAX), last_event: Some(TEN + 90 * MINUTE), ..Epoch::default() });
    let totals = ok_at(&server, &format!("totals?from={}&to={TEN}", TEN - MINUTE), 1);
    let about = ["complete_through", "closed", "exact"].map(|name| totals[name].clone());
    assert_eq!(about, [json!(time_range::rfc3339(TEN + 7)), json!(true), json!(true)]);
}

#[test]
fn a_drained_run_without_an_event_is_closed_and_complete_through_nothing() {
    let mut place = TestPlace::new();
    place.commit(&Epoch { watermark: Some(i64::MAX), ..Epoch::default() });
    let server = start(options(&place));
    let totals = ok(&server, &format!("totals?from={TEN}&to={}", TEN + MINUTE));
    let about = ["complete_through", "closed", "exact"].map(|name| totals[name].clone());
    assert_eq!(about, [Value::Null, json!(true), json!(true)]);
}
