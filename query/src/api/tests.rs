use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::{Value, json};
use ureq::Agent;

use super::*;
use crate::fixture::{Cell, Epoch, MINUTE, Order, TEN, TestPlace, Visit, different_users};

mod closed;
mod known;

fn options(place: &TestPlace) -> ServerOptions {
    ServerOptions { memory: 32 << 20, ..ServerOptions::new(place.location()) }
}

#[expect(clippy::needless_pass_by_value, reason = "tests make the options where they start the server")]
fn start(options: ServerOptions) -> Server {
    Server::start(&options, TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()
}

/// A request, and what came back: the status and the body.
fn get_as(server: &Server, path: &str, accept: &str) -> (u16, ureq::http::HeaderMap, String) {
    let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = agent.get(format!("http://{}{path}", server.address())).header("accept", accept).call().unwrap();
    let body = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), response.headers().clone(), body)
}

fn get(server: &Server, path: &str) -> (u16, Value) {
    let (status, _, body) = get_as(server, path, "*/*");
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

fn ok(server: &Server, path: &str) -> Value {
    let (status, answer) = get(server, &format!("/api/v1/{path}"));
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// Asks until the answer is of `epoch` or a later commit.
fn ok_at(server: &Server, path: &str, epoch: u64) -> Value {
    let mut newest = server.followed.0.newest.subscribe();
    let runtime = Builder::new_current_thread().build().unwrap();
    let reached = newest.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.visible.epoch >= Some(epoch)));
    drop(runtime.block_on(reached).unwrap());
    ok(server, path)
}

/// A small generator: the rows of a test are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    fn number(&mut self, most: u64) -> i64 {
        self.below(most).cast_signed()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn cell(&mut self, keys: &[&'static str]) -> Cell {
        let (minute, key) = (TEN + self.number(180) * MINUTE, self.pick(keys));
        let users = (0..=self.below(3)).map(|_| self.below(40)).collect();
        Cell { tenant: self.pick(&["default", "acme"]), minute, key, count: 1 + self.number(4), users }
    }

    fn epoch(&mut self) -> Epoch {
        let mut epoch = Epoch::default();
        for _ in 0..self.below(30) {
            epoch.views.push(self.cell(&["/", "/a", "/b"]));
            epoch.errors.push(self.cell(&["1.0", "2.0"]));
            let minute = TEN + self.number(180) * MINUTE;
            let (currency, orders, cents) = (self.pick(&["EUR", "USD"]), 1, self.number(10_000));
            epoch.orders.push(Order { minute, currency, orders, cents });
            let (first, length) = (minute + self.number(MINUTE.unsigned_abs()), self.number(2_000_000));
            let visit = Visit { user: self.pick(&["u1", "u2", "u3"]), first, last: first + length, events: 3, sign: 1 };
            epoch.visits.push(visit);
        }
        epoch
    }
}

/// Every answer over `all`, computed the plain way.
fn check_against_rows(server: &Server, all: &Epoch) {
    let asked = TEN + 30 * MINUTE..TEN + 150 * MINUTE;
    let range = format!("from={}&to={}", asked.start, time_range::rfc3339(asked.end));
    let within = |at: i64| asked.contains(&at);
    let of_default = |cells: &[Cell]| -> Vec<Cell> {
        cells.iter().filter(|cell| cell.tenant == "default" && within(cell.minute)).cloned().collect()
    };
    let (views, errors) = (of_default(&all.views), of_default(&all.errors));
    let count = |cells: &[Cell]| cells.iter().map(|cell| cell.count).sum::<i64>();
    let orders: Vec<&Order> = all.orders.iter().filter(|order| within(order.minute)).collect();
    let visits: Vec<&Visit> = all.visits.iter().filter(|visit| within(visit.first)).collect();
    let revenue = ["EUR", "USD"].map(|currency| {
        let of = |order: &&&Order| order.currency == currency;
        json!({
            "currency": currency,
            "amount_cents": orders.iter().filter(of).map(|order| order.cents).sum::<i64>(),
            "orders": orders.iter().filter(of).map(|order| order.orders).sum::<i64>(),
        })
    });
    let totals = json!({
        "views": count(&views),
        "unique_users": different_users(&views),
        "sessions": visits.len(),
        "errors": count(&errors),
        "events_in_sessions": visits.iter().map(|visit| visit.events).sum::<i64>(),
        "revenue": revenue,
    });
    assert_eq!(ok(server, &format!("totals?{range}"))["data"], totals);

    let buckets = |of: &dyn Fn(i64, i64) -> i64| -> Value {
        let start = |n: i64| TEN + n * 60 * MINUTE;
        let bucket = |n| json!({ "t": time_range::rfc3339(start(n)), "value": of(start(n), start(n + 1)) });
        (0..3).map(bucket).collect()
    };
    let default = |cells: &[Cell], from: i64, to: i64, key: Option<&str>| -> Vec<Cell> {
        let of = |cell: &&Cell| {
            cell.tenant == "default" && (from..to).contains(&cell.minute) && key.is_none_or(|key| cell.key == key)
        };
        cells.iter().filter(of).cloned().collect()
    };
    let series = |what: &str| ok(server, &format!("timeseries?{range}&step=hour&metric={what}"))["data"].clone();
    assert_eq!(series("views"), buckets(&|from, to| count(&default(&all.views, from, to, None))));
    let users = buckets(&|from, to| different_users(&default(&all.views, from, to, Some("/a"))));
    assert_eq!(series("unique_users&page=/a"), users);
    assert_eq!(series("errors"), buckets(&|from, to| count(&default(&all.errors, from, to, None))));
    let earned = |from: i64, to: i64| {
        let of = |order: &&Order| order.currency == "USD" && (from..to).contains(&order.minute);
        all.orders.iter().filter(of).map(|order| order.cents).sum()
    };
    assert_eq!(series("revenue_cents&currency=USD"), buckets(&earned));
    let begun = |from: i64, to: i64| {
        i64::try_from(all.visits.iter().filter(|visit| (from..to).contains(&visit.first)).count()).unwrap()
    };
    assert_eq!(series("sessions"), buckets(&begun));
    let sessions = ok(server, &format!("sessions?{range}&step=hour"));
    assert_eq!(sessions["data"]["started"], buckets(&begun));
    let lengths = sessions["data"]["lengths"].as_array().unwrap();
    let long: i64 = lengths.iter().map(|length| length["count"].as_i64().unwrap()).sum();
    assert_eq!(long, begun(TEN, TEN + 180 * MINUTE), "a range is widened to whole hours");

    let mut ranks: Vec<(i64, &str)> = ["/", "/a", "/b"]
        .map(|page| (count(&views.iter().filter(|cell| cell.key == page).cloned().collect::<Vec<_>>()), page))
        .into();
    ranks.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let ranks: Value = ranks.iter().map(|(value, key)| json!({ "key": key, "value": value })).collect();
    assert_eq!(ok(server, &format!("top?{range}&by=page"))["data"], ranks);
    let sql = "SELECT sum(views) FROM page_views_by_minute WHERE tenant = 'default'".replace(' ', "%20");
    let whole = count(&default(&all.views, i64::MIN, i64::MAX, None));
    assert_eq!(ok(server, &format!("sql?q={sql}"))["data"]["rows"], json!([[whole]]));
}

#[test]
fn answers_equal_the_rows_whatever_was_rolled() {
    let (mut place, mut dice) = (TestPlace::new(), Dice(7));
    let kept = start(options(&place));
    for round in 0..6 {
        place.commit(&dice.epoch());
        place.commit(&dice.epoch());
        if round % 2 == 1 {
            place.roll();
        }
        ok_at(&kept, "range", place.epoch);
        check_against_rows(&kept, &place.all);
    }
    check_against_rows(&start(options(&place)), &place.all);
    kept.stop();
}

#[test]
fn exact_means_complete_and_nothing_pending() {
    let mut place = TestPlace::new();
    let server = start(options(&place));
    let minute = |n: i64| TEN + n * MINUTE;
    let epoch = Epoch { unverified: vec![minute(1)], watermark: Some(minute(5)), ..Epoch::default() };
    place.commit(&epoch);
    let answer = ok_at(&server, "range", 1);
    assert_eq!(answer["data"], json!({ "from": null, "to": null }));
    for (from, to, exact, pending) in [
        (minute(2), minute(5), true, 0),
        (minute(2), minute(5) + 1, false, 0),
        (minute(1), minute(2), false, 1),
        (minute(0), minute(1), true, 0),
        (minute(0), minute(0), true, 0),
    ] {
        let totals = ok(&server, &format!("totals?from={from}&to={to}"));
        assert_eq!((totals["exact"].as_bool(), totals["pending"].as_i64()), (Some(exact), Some(pending)), "{totals}");
        assert_eq!(totals["complete_through"], json!(time_range::rfc3339(minute(5))));
        assert_eq!(totals["epoch"], json!(1));
        let updated = totals["updated_at"].as_str().and_then(time_range::instant).unwrap();
        assert!(updated > minute(0), "{totals}");
    }
    let sql = ok(&server, "sql?q=SELECT%201%20AS%20n");
    assert_eq!(sql["data"], json!({ "columns": ["n"], "rows": [[1]] }));
    assert_eq!((&sql["exact"], &sql["pending"]), (&json!(false), &json!(1)));
    assert_eq!(sql.get("closed"), None);
}

#[test]
fn nothing_is_complete_beyond_the_clock_of_whoever_answers() {
    let mut place = TestPlace::new();
    let minute = |n: i64| TEN + n * MINUTE;
    let now = Arc::new(AtomicI64::new(minute(5) + 7));
    let clock = Clock::new({
        let now = Arc::clone(&now);
        move || now.load(Ordering::Relaxed)
    });
    let server = start(ServerOptions { clock, ..options(&place) });
    place.commit(&Epoch { watermark: Some(minute(61)), ..Epoch::default() });
    let totals = |to: i64, epoch| ok_at(&server, &format!("totals?from={}&to={to}", minute(2)), epoch);
    let said = |answer: &Value| (answer["complete_through"].clone(), answer["exact"] == true, answer["closed"] == true);
    let at = |ms: i64| json!(time_range::rfc3339(ms));
    assert_eq!(said(&totals(minute(5), 1)), (at(minute(5) + 7), true, false));
    assert_eq!(said(&totals(minute(6), 1)), (at(minute(5) + 7), false, false), "it is not over yet");
    now.store(minute(6), Ordering::Relaxed);
    assert_eq!(said(&totals(minute(6), 1)), (at(minute(6)), true, false));
}

#[test]
fn an_event_of_a_year_to_come_stretches_no_open_range() {
    let mut place = TestPlace::new();
    let (minute, year) = (|n: i64| TEN + n * MINUTE, 365 * 24 * 60 * MINUTE);
    let cell = |at| Cell { tenant: "default", minute: at, key: "/", count: 1, users: vec![1] };
    let visit = |first| Visit { user: "u", first, last: first, events: 1, sign: 1 };
    let server = start(ServerOptions { clock: Clock::new(move || minute(9) + 7), ..options(&place) });
    let ahead = Epoch { views: vec![cell(TEN + 15 * year)], visits: vec![visit(TEN + 20 * year)], ..Epoch::default() };
    place.commit(&ahead);
    let at = |ms: i64| json!(time_range::rfc3339(ms));
    let alone = ok_at(&server, "range", 1);
    assert_eq!(alone["data"], json!({ "from": at(TEN + 15 * year), "to": at(TEN + 20 * year) }), "all there is");
    place.commit(&Epoch { views: vec![cell(minute(2)), cell(minute(9))], ..Epoch::default() });
    assert_eq!(ok_at(&server, "range", 2)["data"], json!({ "from": at(minute(2)), "to": at(minute(9)) }));
    let totals = ok(&server, "totals");
    assert_eq!((&totals["to"], &totals["data"]["views"]), (&at(minute(10)), &json!(2)));
    assert_eq!(ok(&server, "timeseries?metric=views")["data"].as_array().unwrap().len(), 8);
    let asked_for = ok(&server, &format!("totals?to={}", TEN + 16 * year));
    assert_eq!(asked_for["data"]["views"], json!(3), "an end that is given stays");
}

#[test]
fn a_folder_without_a_log_is_answered_with_nothing_until_it_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("data");
    let server = start(ServerOptions::new(Location::Folder(below.clone())));
    assert_eq!(get(&server, "/readyz"), (200, json!("ready\n")));
    let empty = ok(&server, "totals");
    assert_eq!(empty["data"]["views"], json!(0));
    let about = ["epoch", "complete_through", "updated_at"].map(|name| empty[name].clone());
    assert_eq!(about, [Value::Null, Value::Null, Value::Null]);
    assert_eq!(empty["exact"], json!(false));
    assert_eq!(ok(&server, "timeseries?metric=views")["data"], json!([]));
    assert_eq!(ok(&server, "range")["data"], json!({ "from": null, "to": null }));
    fs::create_dir(&below).unwrap();
    let mut place = TestPlace::within(folder, "data");
    let cell = Cell { tenant: "default", minute: TEN, key: "/", count: 3, users: vec![1, 2] };
    place.commit(&Epoch { views: vec![cell], ..Epoch::default() });
    let found = ok_at(&server, "timeseries?metric=views", 1);
    assert_eq!(found["data"], json!([{ "t": "2015-05-17T10:00:00.000Z", "value": 3 }]));
    assert_eq!(found["to"], json!("2015-05-17T10:01:00.000Z"));
}

/// The next event of a stream: its id and its data.
fn next_event(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Option<(String, Value)> {
    let (mut id, mut data) = (String::new(), Value::Null);
    for line in lines {
        let line = line.ok()?;
        match line.split_once(": ") {
            Some(("id", value)) => id = value.to_owned(),
            Some(("data", value)) => data = serde_json::from_str(value).unwrap(),
            Some(("event", value)) => assert_eq!(value, "commit"),
            _ if line.is_empty() && !data.is_null() => return Some((id, data)),
            _ => {}
        }
    }
    None
}

fn follow(server: &Server, seen: &str) -> impl Iterator<Item = std::io::Result<String>> + use<> {
    let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.get(format!("http://{}/api/v1/changes", server.address())).header("last-event-id", seen);
    let response = request.call().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    BufReader::new(response.into_body().into_reader()).lines()
}

#[test]
fn a_commit_is_told_to_readers_and_seen_by_the_next_query() {
    let mut place = TestPlace::new();
    place.commit(&Epoch { watermark: Some(TEN), ..Epoch::default() });
    let server = start(options(&place));
    let (mut new, mut seen) = (follow(&server, ""), follow(&server, "1"));
    let (id, first) = next_event(&mut new).unwrap();
    assert_eq!((id.as_str(), &first["epoch"]), ("1", &json!(1)));
    assert_eq!(first["complete_through"], json!("2015-05-17T10:00:00.000Z"));
    let order = Order { minute: TEN, currency: "EUR", orders: 1, cents: 250 };
    place.commit(&Epoch { orders: vec![order], ..Epoch::default() });
    for reader in [&mut new, &mut seen] {
        let (second, told) = next_event(reader).unwrap();
        assert_eq!((second.as_str(), &told["epoch"]), ("2", &json!(2)));
        let totals = ok(&server, "totals");
        assert_eq!(totals["data"]["revenue"], json!([{ "currency": "EUR", "amount_cents": 250, "orders": 1 }]));
        assert_eq!(totals["updated_at"], told["updated_at"]);
    }
    place.roll();
    place.commit(&Epoch::default());
    assert_eq!(next_event(&mut new).unwrap().0, "3", "rolling is no news");
    server.stop();
    assert!(next_event(&mut new).is_none(), "a stopping server lets its readers go");
}

#[test]
fn all_of_an_answer_is_one_commit_while_files_are_rolled_under_it() {
    let mut place = TestPlace::new();
    let server = start(options(&place));
    let one = |n: i64| {
        let minute = TEN + (n % 120) * MINUTE;
        let cell = |key| Cell { tenant: "default", minute, key, count: 1, users: vec![n.unsigned_abs()] };
        Epoch {
            views: vec![cell("/")],
            errors: vec![cell("1.0")],
            orders: vec![Order { minute, currency: "EUR", orders: 1, cents: 7 }],
            visits: vec![Visit { user: "u", first: minute + n, last: minute + n, events: 1, sign: 1 }],
            ..Epoch::default()
        }
    };
    let done = AtomicBool::new(false);
    let check = || {
        let mut before = 0;
        while !done.load(Ordering::Relaxed) {
            let answer = ok(&server, "totals");
            let (epoch, data) = (answer["epoch"].as_i64().unwrap_or(0), &answer["data"]);
            for name in ["views", "unique_users", "sessions", "errors", "events_in_sessions"] {
                assert_eq!(data[name].as_i64(), Some(epoch), "{name} of {answer}");
            }
            assert_eq!(data["revenue"][0]["orders"].as_i64().unwrap_or(0), epoch);
            assert!(epoch >= before, "{epoch} after {before}");
            before = epoch;
        }
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(check), scope.spawn(check)];
        for n in 1..=60 {
            place.commit(&one(n));
            if n % 3 == 0 {
                place.roll();
            }
            if n % 10 == 0 {
                ok_at(&server, "range", place.epoch);
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert_eq!(ok_at(&server, "totals", 60)["data"]["views"], json!(60));
}

#[test]
fn what_cannot_be_answered_is_refused_with_a_status_and_a_sentence() {
    let mut place = TestPlace::new();
    let cell = |minute| Cell { tenant: "default", minute, key: "/", count: 1, users: vec![1] };
    place.commit(&Epoch { views: vec![cell(TEN), cell(TEN + MINUTE), cell(TEN + 9 * MINUTE)], ..Epoch::default() });
    let server = start(ServerOptions { most_rows: 2, ..options(&place) });
    for (path, status, sentence) in [
        ("/api/v1/timeseries?metric=hits&step=year", 400, "metric: one of views,"),
        ("/api/v1/timeseries?metric=views&from=0&to=1431856800000", 400, "at most 10000"),
        ("/api/v1/timeseries?metric=views&to=2026-01-01T00:00:00+02:00", 400, "%2B"),
        ("/api/v1/sql?q=DROP%20TABLE%20sessions", 400, "queries only read"),
        ("/api/v1/sql?q=SELECT%20*%20FROM%20nowhere", 400, "there is no table nowhere; the tables are"),
        ("/api/v1/sql?q=SELEC", 400, "not understood"),
        ("/api/v1/sql?q=SELECT%20*%20FROM%20page_views_by_minute", 400, "more than 2 rows; add LIMIT"),
        ("/api/v1/sql?q=SELECT%201/(views-views)%20FROM%20page_views_by_minute", 400, "ivide by zero"),
        ("/api/v1/sql", 400, "q: the statement"),
        ("/api/v2/totals", 404, "there is nothing at /api/v2/totals"),
    ] {
        let (found, answer) = get(&server, path);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(found == status && error.contains(sentence), "{path}: {found} {answer}");
    }
    let post = Agent::new_with_config(Agent::config_builder().http_status_as_error(false).build());
    let posted = post.post(format!("http://{}/api/v1/totals", server.address())).send_empty().unwrap();
    assert_eq!(posted.status(), 405);
    assert_eq!(ok(&server, "sql?q=SELECT%20*%20FROM%20sessions")["data"]["rows"], json!([]));

    let full = start(ServerOptions { most_in_flight: 0, most_readers: 0, ..options(&place) });
    for path in ["/api/v1/totals", "/api/v1/changes"] {
        let (status, headers, body) = get_as(&full, path, "*/*");
        assert_eq!((status, headers["retry-after"].to_str().unwrap()), (503, "1"), "{body}");
    }
    assert_eq!(get(&full, "/healthz").0, 200);
    let hurried = start(ServerOptions { timeout: Duration::ZERO, ..options(&place) });
    let (status, answer) = get(&hurried, "/api/v1/totals");
    assert_eq!(status, 408, "{answer}");
}

#[test]
fn a_page_of_another_site_reads_nothing() {
    let place = TestPlace::new();
    let server = start(ServerOptions { hosts: vec!["stats.example".to_owned()], ..options(&place) });
    for (host, status) in [("evil.example", 421), ("stats.example", 200), ("localhost:1", 200)] {
        for path in ["/", "/api/v1/totals", "/metrics"] {
            let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
            let answer = agent.get(format!("http://{}{path}", server.address())).header("host", host).call().unwrap();
            assert_eq!(answer.status(), status, "{path} of {host}");
        }
    }
}

#[test]
fn csv_is_given_to_whoever_asks_for_it() {
    let mut place = TestPlace::new();
    let cell = Cell { tenant: "default", minute: TEN, key: "/a,b", count: 2, users: vec![1] };
    place.commit(&Epoch { views: vec![cell], watermark: Some(TEN), ..Epoch::default() });
    let server = start(options(&place));
    let sql = "/api/v1/sql?q=SELECT+page,views+FROM+page_views_by_minute";
    let (status, headers, body) = get_as(&server, sql, "text/csv;q=0.9, */*;q=0.1");
    assert_eq!((status, body.as_str()), (200, "page,views\n\"/a,b\",2\n"));
    for (name, value) in [
        ("content-type", "text/csv; charset=utf-8"),
        ("tidemill-epoch", "1"),
        ("tidemill-complete-through", "2015-05-17T10:00:00.000Z"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(headers[name], value);
    }
    assert_eq!(get(&server, sql).1["data"], json!({ "columns": ["page", "views"], "rows": [["/a,b", 2]] }));
}

#[test]
fn a_damaged_log_is_told_and_the_last_commit_stays() {
    let mut place = TestPlace::new();
    place.commit(&Epoch { watermark: Some(TEN), ..Epoch::default() });
    let server = start(options(&place));
    let log = place.folder.path().join("_tidemill/log");
    let last =
        |folder: &std::path::Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let intact = last(&log);
    fs::write(intact.with_file_name(format!("{:020}", 99)), b"torn").unwrap();
    fs::remove_file(&intact).unwrap();
    let trouble = std::iter::repeat_with(|| get(&server, "/readyz")).find(|(status, _)| *status == 503).unwrap();
    assert!(trouble.1["error"].as_str().unwrap().contains("log"), "{}", trouble.1);
    assert_eq!(ok(&server, "totals")["epoch"], json!(1));
    let late = start(options(&place));
    let (status, answer) = get(&late, "/api/v1/totals");
    assert_eq!(status, 503, "{answer}");
    assert!(answer["error"].as_str().unwrap().starts_with("the tables cannot be read yet: "), "{answer}");
    let (_, metrics) = get(&late, "/metrics");
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("tidemill_query_requests_total{endpoint=\"totals\",status=\"503\"} 1"), "{metrics}");
    for name in [
        "duration_seconds_bucket",
        "log_failures_total",
        "in_flight",
        "updated_timestamp_seconds",
        "change_readers_let_go_total",
    ] {
        assert!(metrics.contains(&format!("tidemill_query_{name}")), "{name}: {metrics}");
    }
}

#[test]
fn a_log_begun_anew_in_the_same_folder_is_followed() {
    let mut place = TestPlace::new();
    (0..5).for_each(|_| place.commit(&Epoch::default()));
    let server = start(options(&place));
    assert_eq!(ok(&server, "totals")["epoch"], json!(5));
    for folder in ["_tidemill", "tables"] {
        let path = place.folder.path().join(folder);
        if path.exists() {
            fs::remove_dir_all(path).unwrap();
        }
    }
    let TestPlace { folder, .. } = place;
    let mut anew = TestPlace::within(folder, "");
    let cell = Cell { tenant: "default", minute: TEN, key: "/", count: 8, users: vec![] };
    anew.commit(&Epoch { views: vec![cell], ..Epoch::default() });
    let mut newest = server.followed.0.newest.subscribe();
    let runtime = Builder::new_current_thread().build().unwrap();
    let reached = newest.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.visible.epoch == Some(1)));
    drop(runtime.block_on(reached).unwrap());
    assert_eq!(ok(&server, "totals")["data"]["views"], json!(8));
}

/// A server that gives each connection the same answer.
fn always(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let reply = move |mut stream: TcpStream| {
        let mut request = [0; 2048];
        let _ = stream.read(&mut request);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
        let _ = stream.write_all((head + answer).as_bytes());
    };
    std::thread::spawn(move || listener.incoming().flatten().for_each(reply));
    address
}

#[test]
fn the_status_of_the_pipeline_is_passed_on() {
    let place = TestPlace::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let with = |status: Option<String>| start(ServerOptions { status, ..options(&place) });
    let reached = ok(&with(Some(always("{\"state\":\"running\"}"))), "health");
    assert_eq!(reached, json!({ "reachable": true, "status": { "state": "running" } }));
    for (status, reason) in [
        (None, "without --status"),
        (Some(format!("http://{nobody}")), "no status at http://"),
        (Some(always("<html>")), "is no JSON"),
    ] {
        let answer = ok(&with(status), "health");
        assert_eq!((&answer["reachable"], &answer["status"]), (&json!(false), &Value::Null));
        assert!(answer["reason"].as_str().unwrap().contains(reason), "{answer}");
    }
}

#[test]
fn places_that_cannot_be_opened_are_refused_at_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = Server::start(&ServerOptions::new(Location::Folder(file.path().to_owned())), listener).unwrap_err();
    assert!(matches!(error, QueryError::Open { .. }), "{error}");
}

#[test]
fn a_bucket_is_followed_as_a_folder_is() {
    for name in ["S3_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"] {
        assert!(std::env::var_os(name).is_some(), "{name} is not set: run `make services`, which says how to set it");
    }
    let random = RandomState::new().build_hasher().finish();
    let location: Location = format!("s3://tidemill/query-api-tests/{random:016x}").parse().unwrap();
    let server = start(ServerOptions { memory: 32 << 20, ..ServerOptions::new(location.clone()) });
    assert_eq!(get(&server, "/readyz").0, 200);
    let (mut place, mut dice) = (TestPlace::at(location, tempfile::tempdir().unwrap()), Dice(11));
    for _ in 0..2 {
        place.commit(&dice.epoch());
        place.commit(&dice.epoch());
        place.roll();
        ok_at(&server, "range", place.epoch);
        check_against_rows(&server, &place.all);
    }
    server.stop();
    place.remove();
}
