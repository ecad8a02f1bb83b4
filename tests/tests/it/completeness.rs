//! What answers say of their completeness while somebody's clock is wrong, by the processes that people run.

use std::net::TcpListener;
use std::time::SystemTime;

use serde_json::{Value, json};
use tidemill_tests::harness::Running;
use tidemill_tests::services::wait_until;

use crate::story::Story;
use crate::{stop, tidemill};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;

/// Whether the collector's clock stands beside an event.
#[derive(Clone, Copy)]
enum Vouched {
    Yes,
    No,
}

#[expect(clippy::disallowed_methods, reason = "a live run holds events against the clock; nothing is timed")]
fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A live run, and a server over its tables.
struct World {
    story: Story,
    run: Running,
    serve: Running,
    url: String,
    vouched: Vouched,
    /// The minute that is watched.
    minute: i64,
    stored: u32,
}

impl World {
    fn new(vouched: Vouched) -> World {
        let story = Story::new();
        story.store(&[]);
        let run = story.start(&[]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let mut serve = tidemill().start(&["serve", "--data", story.out.to_str().unwrap(), "--listen", &address]);
        let url = format!("http://{address}");
        assert!(serve.until(|_| ureq::get(&format!("{url}/readyz")).call().is_ok()), "{}", serve.said());
        World { story, run, serve, url, vouched, minute: (now() / MINUTE - 30) * MINUTE, stored: 0 }
    }

    /// Stores `n` views in each partition, of a tenant's devices whose clocks say so many milliseconds after the minute began,
    /// while the collector's says `server`.
    fn views(&mut self, tenant: &str, many: i64, times: impl Fn(i64) -> i64, server: i64) {
        let mut lines = Vec::new();
        for n in 0..many {
            for user in ["u0", "u1", "u2"] {
                self.stored += 1;
                let mut event = json!({
                    "event_id": format!("e{}", self.stored), "event_type": "page_view", "user_id": user, "tenant": tenant,
                    "timestamp": self.minute + times(n), "properties": { "page": "/" },
                });
                if let Vouched::Yes = self.vouched {
                    event["server_time"] = json!(self.minute + server);
                }
                lines.push(event.to_string().into_bytes());
            }
        }
        self.story.store(&lines.iter().map(Vec::as_slice).collect::<Vec<_>>());
        self.story.catch_up(&mut self.run);
    }

    /// The views of a tenant in a minute, so many after the one that is watched, and whether that is exact.
    fn shown(&self, tenant: &str, later: i64) -> (i64, bool) {
        let from = self.minute + later * MINUTE;
        let url = format!("{}/api/v1/totals?tenant={tenant}&from={from}&to={}", self.url, from + MINUTE);
        let text = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        (answer["data"]["views"].as_i64().unwrap(), answer["exact"] == true)
    }

    /// Waits until the server shows so many views; nothing that it says meanwhile of the shop's minute may be called exact.
    fn shows(&self, tenant: &str, later: i64, views: i64) {
        wait_until(&format!("{views} views of {tenant} are shown"), || {
            let (of_the_shop, exact) = self.shown("shop", 0);
            assert!(!exact, "{of_the_shop} views of an unfinished minute are called exact");
            self.shown(tenant, later).0 == views
        });
    }
}

/// One tenant sends events far ahead of time; another's minute goes on filling.
fn attacked(vouched: Vouched) {
    let mut world = World::new(vouched);
    world.views("shop", 20, |n| n * SECOND, 20 * SECOND);
    world.shows("shop", 0, 60);
    world.views("rival", 50, |n| 59 * MINUTE + 20 * SECOND + n, 20 * SECOND);
    world.shows("rival", 59, 150);
    for round in 1..=4 {
        world.views("shop", 10, |n| (20 + n) * SECOND, 30 * SECOND);
        world.shows("shop", 0, 60 + 30 * round);
    }
    // Two minutes after it is over, it is final.
    world.views("shop", 20, |n| MINUTE + n * 10 * SECOND, 4 * MINUTE + 20 * SECOND);
    wait_until("the minute is exact", || {
        let (views, exact) = world.shown("shop", 0);
        assert_eq!(views, 180);
        exact
    });
    assert!(!world.shown("shop", 4).1, "the last minute still fills");
    let World { run, serve, .. } = world;
    serve.signal("TERM");
    assert_eq!(serve.wait().code, Some(0), "the server ends well");
    let books = stop(run).json();
    assert_eq!((&books["unverified"], &books["malformed"]), (&json!(0), &json!(0)), "{books}");
}

#[test]
fn one_tenants_events_ahead_of_time_make_no_unfinished_minute_of_another_exact() {
    attacked(Vouched::Yes);
}

#[test]
fn nor_do_they_where_no_server_vouches_for_times() {
    attacked(Vouched::No);
}
