//! From a table's description to the objects it consists of.

use tidemill_tables::{Role, TableSpec};

use super::{
    Insert, Object, PROGRESS, REJECTED, SIGNED_PARTITIONS, STORAGES, WRITERS, by_day, named, sent_columns, storage,
};
use crate::client::quote;
use crate::error::ClickHouseError;

const ARRIVAL: &str = "DateTime('UTC')";
const LAST_ARRIVAL: &str = "SimpleAggregateFunction(max, DateTime('UTC'))";
/// The server's own sums of 64 bits wrap around, also when it merges parts: so sums are stored in 128, and a view refuses to
/// show what 64 cannot hold.
pub(super) const SUM: &str = "SimpleAggregateFunction(sum, Int128)";
/// What sums were stored as before.
pub(super) const SUM_OF_VERSION_1: &str = "SimpleAggregateFunction(sum, Int64)";
/// A sketch of 2^14 registers at most: 12.5 KB, 0.8 % off.
const SKETCH: &str = "uniqCombined64(14)";

/// `TTL`, as the server prints it.
pub(crate) fn retention_clause(days: u32) -> String {
    format!("inserted_at + toIntervalDay({days})")
}

/// An event time within the years that have partitions of their own.
fn within_century(column: &str) -> String {
    let time = |text: &str| format!("toDateTime64('{text}', 3, 'UTC')");
    format!("least(greatest({column}, {}), {})", time("1999-12-31 00:00:00"), time("2100-01-01 00:00:00"))
}

fn column(name: &str, data_type: &str) -> (String, String) {
    (name.to_owned(), data_type.to_owned())
}

fn list(columns: &[&str]) -> String {
    columns.join(", ")
}

/// Rows as they are: every stored row is shown.
pub(super) fn append(spec: &TableSpec, raw_days: u32) -> Result<Vec<Object>, ClickHouseError> {
    let columns = sent_columns(spec)?;
    let time = &spec.columns[spec.time].name;
    let names: Vec<&str> = spec.columns.iter().map(|column| column.name.as_str()).collect();
    let order: Vec<&str> = spec.sort_by.iter().map(|&at| names[at]).collect();
    // Within a tenant, queries ask for one type of event over a span of time.
    let order = match (order.split_first(), names.contains(&"event_type")) {
        (Some((&tenant, rest)), true) => [&[tenant, "event_type"], rest].concat(),
        _ => order,
    };
    let data = Object::table(storage(spec), "MergeTree", columns.clone())
        .partitioned(&format!("toYYYYMMDD({})", within_century(time)))
        .ordered(&order)
        .kept(raw_days, ARRIVAL)
        .remembering();
    let query = format!("SELECT {} FROM {}", list(&names), storage(spec));
    Ok(vec![data, Object::view(&spec.name, query, columns)])
}

/// Rows that are asserted and taken back.
pub(super) fn signed(spec: &TableSpec) -> Result<Vec<Object>, ClickHouseError> {
    let columns = sent_columns(spec)?;
    let names: Vec<&str> = spec.columns.iter().map(|column| column.name.as_str()).collect();
    let order: Vec<&str> = spec.sort_by.iter().map(|&at| names[at]).collect();
    let keys: Vec<&str> = named(spec, Role::Key).map(|column| column.name.as_str()).collect();
    let signs: Vec<&str> = named(spec, Role::Sign).map(|column| column.name.as_str()).collect();
    let data = Object::table(storage(spec), &format!("SummingMergeTree({})", list(&signs)), columns.clone())
        .partitioned(&format!("cityHash64({}) % {SIGNED_PARTITIONS}", list(&keys)))
        .ordered(&order)
        .remembering();
    let positive: Vec<String> = signs.iter().map(|sign| format!("sum(d.{sign}) > 0")).collect();
    let shown: Vec<_> = columns.into_iter().filter(|(name, _)| !signs.contains(&name.as_str())).collect();
    let all = list(&shown.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    let query = format!("SELECT {all} FROM {} AS d GROUP BY {all} HAVING {}", storage(spec), positive.join(" AND "));
    Ok(vec![data, Object::view(&spec.name, query, shown)])
}

/// Rows that add up: by minute as they come, by day beside it.
pub(super) fn deltas(spec: &TableSpec, rollup_days: u32) -> Result<Vec<Object>, ClickHouseError> {
    let sent = sent_columns(spec)?;
    let time = spec.columns[spec.time].name.as_str();
    let keys: Vec<&str> = named(spec, Role::Key).map(|column| column.name.as_str()).collect();
    let [by_minute, by_the_day] = Cells::both(spec, &sent);
    let days = by_day(spec);
    let day_keys: Vec<&str> = keys.iter().map(|&key| if key == time { "day" } else { key }).collect();
    let day_table = format!("{days}_data");
    Ok(vec![
        Object::table(storage(spec), "AggregatingMergeTree", by_minute.stored())
            .partitioned(&format!("toYYYYMM({})", within_century(time)))
            .ordered(&keys)
            .kept(rollup_days, LAST_ARRIVAL)
            .remembering(),
        Object::table(&day_table, "AggregatingMergeTree", by_the_day.stored())
            .partitioned("toYYYYMM(least(greatest(day, toDate32('1999-12-31')), toDate32('2100-01-01')))")
            .ordered(&day_keys)
            .kept(rollup_days, LAST_ARRIVAL)
            .remembering(),
        Object::view(&spec.name, by_minute.view(&storage(spec)), by_minute.shown()),
        Object::view(&days, by_the_day.view(&day_table), by_the_day.shown()),
    ])
}

/// The statements that write rows of deltas: each table computes its states from the same rows.
pub(super) fn delta_inserts(spec: &TableSpec) -> Result<Vec<Insert>, ClickHouseError> {
    let sent = sent_columns(spec)?;
    let [by_minute, by_the_day] = Cells::both(spec, &sent);
    let columns: Vec<String> = sent.iter().map(|(name, data_type)| format!("`{name}` {data_type}")).collect();
    let source = format!("input({})", quote(&columns.join(", ")));
    let insert = |table: String, cells: &Cells<'_>| {
        let names: Vec<String> = cells.stored().into_iter().map(|(name, _)| format!("`{name}`")).collect();
        Insert { columns: names.join(", "), select: cells.computed_from(&source), table }
    };
    Ok(vec![insert(storage(spec), &by_minute), insert(format!("{}_data", by_day(spec)), &by_the_day)])
}

/// The columns of a delta table at one of its two grains.
struct Cells<'a> {
    spec: &'a TableSpec,
    sent: &'a [(String, String)],
    /// The event time's name where days are meant.
    day: Option<&'a str>,
}

impl<'a> Cells<'a> {
    /// By minute, and by day.
    fn both(spec: &'a TableSpec, sent: &'a [(String, String)]) -> [Cells<'a>; 2] {
        let time = spec.columns[spec.time].name.as_str();
        [None, Some(time)].map(|day| Cells { spec, sent, day })
    }

    fn each(&self) -> impl Iterator<Item = (&str, &str, Role)> {
        let roles = self.spec.columns.iter().map(|column| column.role);
        self.sent.iter().zip(roles).map(|((name, data_type), role)| (name.as_str(), data_type.as_str(), role))
    }

    fn stored(&self) -> Vec<(String, String)> {
        let mut columns = Vec::new();
        for (name, data_type, role) in self.each() {
            match role {
                Role::Sum => columns.push(column(name, SUM)),
                Role::UnionCount => {
                    columns.push(column(name, "AggregateFunction(uniqExact, UInt64)"));
                    if self.day.is_some() {
                        let sketch = format!("AggregateFunction({SKETCH}, UInt64)");
                        columns.push(column(&format!("{name}_approx"), &sketch));
                    }
                }
                _ if self.day == Some(name) => columns.push(column("day", "Date32")),
                _ => columns.push(column(name, data_type)),
            }
        }
        columns
    }

    fn shown(&self) -> Vec<(String, String)> {
        let stored = self.stored().into_iter();
        stored
            .map(|(name, t)| if t.contains("AggregateFunction") { (name, "Int64".to_owned()) } else { (name, t) })
            .collect()
    }

    /// From sent rows to stored ones; names are qualified because a column and its state have the same one.
    fn computed_from(&self, source: &str) -> String {
        let mut columns = Vec::new();
        let mut keys = Vec::new();
        for (name, _, role) in self.each() {
            match role {
                Role::Sum => columns.push(format!("sum(toInt128(s.{name})) AS {name}")),
                Role::UnionCount => {
                    columns.push(format!("uniqExactArrayState(s.{name}) AS {name}"));
                    if self.day.is_some() {
                        columns.push(format!("uniqCombined64ArrayState(14)(s.{name}) AS {name}_approx"));
                    }
                }
                _ if self.day == Some(name) => {
                    columns.push(format!("toDate32(s.{name}) AS day"));
                    keys.push("day");
                }
                _ => {
                    columns.push(format!("s.{name} AS {name}"));
                    keys.push(name);
                }
            }
        }
        format!("SELECT {} FROM {source} AS s GROUP BY {}", columns.join(", "), list(&keys))
    }

    /// From stored rows to shown ones; a row that adds nothing at all is not shown.
    fn view(&self, data: &str) -> String {
        let mut columns = Vec::new();
        let mut keys = Vec::new();
        let mut adds = Vec::new();
        for (name, _, role) in self.each() {
            match role {
                Role::Sum => {
                    columns.push(format!("accurateCast(sum(toInt128(d.{name})), 'Int64') AS {name}"));
                    adds.push(format!("sum(toInt128(d.{name})) != 0"));
                }
                Role::UnionCount => {
                    columns.push(format!("toInt64(uniqExactMerge(d.{name})) AS {name}"));
                    adds.push(format!("uniqExactMerge(d.{name}) != 0"));
                    if self.day.is_some() {
                        columns.push(format!("toInt64(uniqCombined64Merge(14)(d.{name}_approx)) AS {name}_approx"));
                    }
                }
                _ if self.day == Some(name) => keys.push("day"),
                _ => keys.push(name),
            }
            if matches!(role, Role::Key | Role::Value) {
                let key = keys.last().copied().unwrap_or(name);
                columns.push(format!("d.{key} AS {key}"));
            }
        }
        let adds = adds.join(" OR ");
        format!("SELECT {} FROM {data} AS d GROUP BY {} HAVING {adds}", columns.join(", "), list(&keys))
    }
}

/// What is there once for a database.
pub(super) fn shared(raw_days: u32) -> Vec<Object> {
    let time = "DateTime64(3, 'UTC')";
    let mut writers = Object::table(
        WRITERS,
        "ReplacingMergeTree(written_at)",
        vec![
            column("name", "String"),
            column("instance", "String"),
            column("pipeline", "String"),
            column("run", "UInt64"),
            column("epoch", "UInt64"),
        ],
    )
    .ordered(&["name", "instance"]);
    let written_at = ("written_at".to_owned(), "DateTime64(6, 'UTC')".to_owned(), "now64(6)".to_owned());
    writers.filled.push(written_at.clone());
    let mut storages = Object::table(
        STORAGES,
        "ReplacingMergeTree(written_at)",
        ["name", "instance", "uuid", "blocks"].map(|name| column(name, "String")).to_vec(),
    )
    .ordered(&["name", "instance"]);
    storages.filled.push(written_at);
    let rejected = vec![
        column("tenant", "Nullable(String)"),
        column("table", "String"),
        column("epoch", "UInt64"),
        column("row", "String"),
        column("reason", "String"),
    ];
    let progress = vec![
        column("tenant", "Nullable(String)"),
        column("epoch", "Int64"),
        column("complete_through", &format!("Nullable({time})")),
        column("file", "String"),
        column("lines", "Int64"),
    ];
    let mut progress_data = progress.clone();
    progress_data[0] = column("pipeline", "String");
    let data = format!("{PROGRESS}_data");
    // One scan answers: a second one could meet the next commit. Where a pipeline has fewer partitions than before, the
    // rows of the others stay behind, at an older epoch.
    let query = format!(
        "SELECT CAST(NULL, 'Nullable(String)') AS tenant, epoch, complete_through, file, lines FROM \
         (SELECT *, max(epoch) OVER (PARTITION BY pipeline) AS newest FROM {data} FINAL) WHERE epoch = newest"
    );
    vec![
        writers,
        storages,
        // Not partitioned by arrival: a token is remembered for each partition, and a write may come again next month.
        Object::table(REJECTED, "MergeTree", rejected)
            .ordered(&["`table`", "epoch"])
            .kept(raw_days, ARRIVAL)
            .remembering(),
        Object::table(&data, "ReplacingMergeTree(epoch)", progress_data).ordered(&["pipeline", "file"]),
        Object::view(PROGRESS, query, progress),
    ]
}
