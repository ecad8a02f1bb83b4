//! Tables as a reader of the Kafka sink's topics sees them: changes, folded by key.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::rows::{Tables, sorted};

/// The tables that are published, with the columns that make a row's key and those that add up.
const PUBLISHED: [(&str, &[&str], &[&str]); 3] = [
    ("sessions", &["tenant", "user_id", "first_event", "last_event", "event_count"], &["sign"]),
    ("errors_by_version_by_minute", &["tenant", "window_start", "app_version"], &["errors"]),
    ("revenue_by_minute", &["tenant", "window_start", "currency"], &["orders", "amount_cents"]),
];

/// Folds the messages of each published topic, which `messages` reads by the table's name; gives lines of JSON as a
/// query would, by table.
///
/// # Panics
/// When a message is not as the sink's contract has it.
#[must_use]
pub fn fold(mut messages: impl FnMut(&str) -> Vec<Value>) -> BTreeMap<&'static str, Vec<u8>> {
    PUBLISHED.iter().map(|(table, keys, sums)| (*table, lines(&messages(table), keys, sums))).collect()
}

/// The folded tables, the others empty.
#[must_use]
pub fn tables(folded: &BTreeMap<&'static str, Vec<u8>>) -> Tables {
    Tables {
        sessions: sorted(&folded["sessions"]),
        errors: sorted(&folded["errors_by_version_by_minute"]),
        revenue: sorted(&folded["revenue_by_minute"]),
        ..Tables::default()
    }
}

/// The part of all tables that is published.
#[must_use]
pub fn part(tables: &Tables) -> Tables {
    Tables { page_views: Vec::new(), raw_events: Vec::new(), ..tables.clone() }
}

#[derive(Default)]
struct Cell {
    sums: BTreeMap<&'static str, i64>,
    users: BTreeSet<u64>,
    row: Map<String, Value>,
}

fn lines(messages: &[Value], keys: &[&'static str], sums: &[&'static str]) -> Vec<u8> {
    let mut cells: BTreeMap<String, Cell> = BTreeMap::new();
    for message in messages {
        let member = |name: &str| message.get(name).unwrap_or_else(|| panic!("{name} is missing in {message}")).clone();
        let row: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), member(key))).collect();
        let cell = cells.entry(Value::from(row.clone()).to_string()).or_default();
        cell.row = row;
        for name in sums {
            let number = member(name).as_i64().unwrap_or_else(|| panic!("{name} is no number in {message}"));
            *cell.sums.entry(name).or_default() += number;
        }
        for hash in message.get("users").and_then(Value::as_array).into_iter().flatten() {
            let hash = hash.as_str().and_then(|text| text.parse().ok());
            cell.users.insert(hash.unwrap_or_else(|| panic!("a hash is decimal text, in {message}")));
        }
    }
    let mut out = Vec::new();
    for (_, mut cell) in cells {
        match cell.sums.remove("sign") {
            Some(sign) => {
                assert!((0..=1).contains(&sign), "a session is there {sign} times: {:?}", cell.row);
                if sign == 0 {
                    continue;
                }
            }
            None if cell.sums.contains_key("errors") => {
                cell.row.insert("users".into(), json!(cell.users.len()));
            }
            None => {}
        }
        cell.row.extend(cell.sums.into_iter().map(|(name, sum)| (name.to_owned(), json!(sum))));
        out.extend_from_slice(Value::from(cell.row).to_string().as_bytes());
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_fold_to_rows() {
        let time = "2026-03-01T00:00:00.000Z";
        let session = |last: &str, count: i64, sign: i64| {
            json!({"tenant": "t", "user_id": "u", "first_event": time, "last_event": last, "event_count": count,
                "sign": sign, "epoch": 1})
        };
        let error = |errors: i64, users: &[&str]| json!({"tenant": "t", "window_start": time, "app_version": "1", "errors": errors, "users": users, "epoch": 2});
        let folded = fold(|table| match table {
            "sessions" => vec![session(time, 1, 1), session(time, 1, -1), session("2026-03-01T00:00:01.000Z", 2, 1)],
            "errors_by_version_by_minute" => vec![error(2, &["7", "8"]), error(1, &["18446744073709551615", "7"])],
            _ => Vec::new(),
        });
        let found = tables(&folded);
        assert_eq!(found.sessions.iter().map(|row| row.event_count).collect::<Vec<_>>(), [2]);
        assert_eq!(found.errors.iter().map(|row| (row.errors, row.users)).collect::<Vec<_>>(), [(3, 3)]);
        assert!(found.revenue.is_empty());
    }
}
