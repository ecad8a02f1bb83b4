//! SQL from strangers: the checks before a statement is planned, and planning what is within them.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use object_store::memory::InMemory;
use tidemill_query::{Lake, Visible};
use tidemill_tables::web_analytics;

use crate::input::Input;
use crate::memory::within;
use crate::tables::{Shown, runtime};

/// The stack that a worker of `serve` has for planning.
const STACK_BYTES: usize = 64 << 20;
/// What planning may take of the heap: less than a worker has.
const MOST: usize = 256 << 20;

/// What statements are made of.
pub(crate) const WORDS: [&str; 129] = [
    "SELECT ",
    "* ",
    "FROM ",
    "WHERE ",
    "GROUP BY ",
    "ORDER BY ",
    "LIMIT 10 ",
    "HAVING ",
    "DISTINCT ",
    "AS a ",
    "page ",
    "views ",
    "sum(views) ",
    "count(*) ",
    "users ",
    "union_count(users) ",
    "page_views_by_minute ",
    "sessions ",
    "raw_events ",
    "stored.sessions ",
    "progress ",
    "information_schema.tables ",
    "tenant ",
    "minute ",
    "timestamp ",
    "properties ",
    "JOIN ",
    "LEFT JOIN ",
    "CROSS JOIN ",
    "NATURAL JOIN ",
    "ON true ",
    "USING (tenant) ",
    "UNION ALL ",
    "INTERSECT ",
    "EXCEPT ",
    "WITH a AS ( ",
    "RECURSIVE ",
    "( ",
    ") ",
    "( SELECT 1 ) ",
    "[ ",
    "] ",
    "{ ",
    "} ",
    ", ",
    "; ",
    "+ ",
    "- ",
    "* ",
    "/ ",
    "% ",
    "|| ",
    "= ",
    "<> ",
    "< ",
    ">= ",
    "AND ",
    "OR ",
    "NOT ",
    "IS NULL ",
    "IS NOT NULL ",
    "IN ( ",
    "BETWEEN ",
    "LIKE ",
    "ILIKE ",
    "SIMILAR TO ",
    "~ ",
    "!~* ",
    "CASE ",
    "WHEN ",
    "THEN ",
    "ELSE ",
    "END ",
    "CAST( ",
    ":: ",
    "int ",
    "text ",
    "decimal(76,2) ",
    "timestamp ",
    "interval '1 month' ",
    "date_trunc('hour', minute) ",
    "AT TIME ZONE 'UTC' ",
    "OVER ( ",
    "PARTITION BY ",
    "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW ",
    "FILTER ( ",
    "EXISTS ( ",
    "ANY ( ",
    "ALL ( ",
    "ARRAY[ ",
    "struct( ",
    "unnest( ",
    "substr('a', 1) ",
    "coalesce( ",
    "array_agg( ",
    "row_number() ",
    "grouping sets ( ",
    "rollup ( ",
    "cube ( ",
    "LATERAL ",
    "VALUES ( ",
    "1 ",
    "0 ",
    "-1 ",
    "1e400 ",
    "9223372036854775807 ",
    "99999999999999999999 ",
    "NULL ",
    "true ",
    "'a' ",
    "'' ",
    "'2026-03-10' ",
    "x'ff' ",
    "\"a\" ",
    "`a` ",
    "$1 ",
    "? ",
    "@x ",
    "-- ",
    "/* ",
    "*/ ",
    "EXPLAIN ",
    "ANALYZE ",
    "SHOW TABLES ",
    "SHOW ALL ",
    "DESCRIBE ",
    "CREATE TABLE x AS ",
    "COPY ",
    "QUALIFY ",
];

/// What a function makes is bounded by a worker's memory, and no matter of planning.
const MAKERS: [&str; 6] = ["repeat", "pad", "range", "generate_series", "replace", "array_resize"];

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let statement = match input.byte() % 3 {
        0 => String::from_utf8_lossy(input.0).into_owned(),
        1 => input.0.iter().map(|byte| WORDS[usize::from(*byte) % WORDS.len()]).collect(),
        // Two pieces again and again: what is as deep as it is long.
        _ => {
            let (times, one) = (usize::from(input.byte()), usize::from(input.byte() % 8));
            let words =
                |piece: &[u8]| piece.iter().map(|byte| WORDS[usize::from(*byte) % WORDS.len()]).collect::<String>();
            let (front, again) = (words(input.take(one)), words(input.take(one.max(1))));
            let (end, rest) = (words(input.take(one)), words(input.0));
            format!("{front}{}{end}{}{rest}", again.repeat(times), end.repeat(times))
        }
    };
    let lower = statement.to_ascii_lowercase();
    if !MAKERS.iter().any(|maker| lower.contains(maker)) {
        within(MOST, || plan(statement));
    }
}

/// Plans on a thread with a worker's stack; an overflow ends the process.
fn plan(statement: String) {
    type Ends = (SyncSender<String>, Receiver<bool>);
    static PLANNER: OnceLock<Mutex<Ends>> = OnceLock::new();
    let planner = PLANNER.get_or_init(|| {
        let (ask, asked) = sync_channel::<String>(0);
        let (say, said) = sync_channel(0);
        let work = move || {
            let tables = web_analytics::all();
            let shown = Shown(Visible { epoch: Some(1), tables: BTreeMap::new(), ..Visible::default() });
            let lake = Lake::over("memory", Arc::new(InMemory::new()), tables, Arc::new(shown));
            while let Ok(asked_for) = asked.recv() {
                let planned = runtime().block_on(lake.plan(&asked_for));
                if let Err(refused) = &planned {
                    assert!(!refused.to_string().is_empty(), "whoever is refused is told why");
                }
                if say.send(planned.is_ok()).is_err() {
                    break;
                }
            }
        };
        let builder = thread::Builder::new().name("statement".to_owned()).stack_size(STACK_BYTES);
        builder.spawn(work).expect("there is a thread");
        Mutex::new((ask, said))
    });
    let ends = planner.lock().unwrap_or_else(PoisonError::into_inner);
    let answered = ends.0.send(statement).is_ok() && ends.1.recv().is_ok();
    assert!(answered, "the statement ended its planner");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let statements = [
        "SELECT page, sum(views) AS v FROM page_views_by_minute WHERE tenant = 'default' GROUP BY page ORDER BY v DESC LIMIT 10",
        "WITH a AS (SELECT 1 AS n), b AS (SELECT n + 1 AS n FROM a) SELECT * FROM a JOIN b ON a.n = b.n - 1",
        "SELECT date_trunc('hour', minute) AS h, union_count(users) FROM stored.page_views_by_minute GROUP BY 1 HAVING sum(views) > 1",
        "SELECT user_id, row_number() OVER (PARTITION BY tenant ORDER BY started_at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM sessions",
        "SELECT CASE WHEN page LIKE '/a%' THEN 1 ELSE 0 END, page ~ '^/(a|b)+$' FROM raw_events WHERE timestamp BETWEEN now() - interval '1 day' AND now()",
        "SELECT * FROM sessions WHERE user_id IN (SELECT user_id FROM raw_events EXCEPT SELECT 'x') AND EXISTS (SELECT 1)",
        "EXPLAIN SELECT count(*) FILTER (WHERE page IS NOT NULL), approx_distinct(user_id) FROM raw_events GROUP BY ROLLUP (tenant, page)",
        "SELECT unnest([1,2,3]), {'a': 1}, [1,2][1], x.*, 1::decimal(38,2), 'a' AT TIME ZONE 'UTC' FROM (VALUES (1, 'a'), (2, NULL)) AS x(a, b)",
        "SHOW TABLES",
        "DESCRIBE sessions",
        "INSERT INTO sessions VALUES (1)",
        "SELECT 1; DROP TABLE sessions",
    ];
    let mut seeds: Vec<Vec<u8>> = statements.map(|statement| [&[0], statement.as_bytes()].concat()).to_vec();
    let many = |piece: &str, times: usize| format!("SELECT 1{}", piece.repeat(times));
    for deep in [
        many("+1", 240),
        many(" OR true", 490),
        many(" UNION ALL SELECT 1", 160),
        many("::int", 490),
        many("||'a'", 490),
    ] {
        seeds.push([&[0], deep.as_bytes()].concat());
    }
    seeds.push([&[0], format!("SELECT {}1{}", "(".repeat(49), ")".repeat(49)).as_bytes()].concat());
    seeds.push([&[0], format!("SELECT {}1{}", "(SELECT ".repeat(49), ")".repeat(49)).as_bytes()].concat());
    seeds.push([&[0], format!("SELECT {}1", "NOT ".repeat(490)).as_bytes()].concat());
    // Words by number: SELECT 1 FROM sessions; and `( SELECT` again and again.
    seeds.push(vec![1, 0, 101, 2, 17]);
    seeds.push(vec![2, 40, 2, 0, 37, 0, 101, 38]);
    seeds
}
