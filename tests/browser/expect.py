#!/usr/bin/env python3
"""What the dashboard must show for an embedded log, from the independent engine of tests/oracle (run with its Python).

    expect.py LOG --kept ROWS.ndjson [--tenant T] > EXPECT.json

The shape is that of numbers.mjs. All data is one range; users are distinct over all of it, not summed over minutes.
Of contradicting events under one id the first one read counts; where they are in different partitions that may be either,
so ROWS names what the run kept: event_id, user_id, timestamp in milliseconds. Nothing may be older than the dedup horizon.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))

import embedded_log
from oracle import Oracle
from tables import QUERIES

# Seconds at which lengths of sessions are cut.
LENGTHS = [0, 1, 10, 60, 300, 900, 1_800, 3_600]


def without_settings(sql):
    """A query of the oracle's as a part of another, in parentheses; its settings come at the end of the whole."""
    text, _, settings = sql.partition("SETTINGS")
    return f"({text})", f" SETTINGS {settings}" if settings else ""


def expectation(oracle, tenant):
    name = tenant.replace("'", "''")

    def rows(table, columns, rest=""):
        inner, settings = without_settings(QUERIES[table])
        return oracle.rows(f"SELECT {columns} FROM {inner} WHERE tenant = '{name}' {rest}{settings}")

    def ranking(table, key, value, limit):
        found = rows(table, f"{key} AS key, toInt64(sum({value})) AS value",
                     f"GROUP BY key ORDER BY value DESC, key LIMIT {limit}")
        return [{"key": row["key"], "value": row["value"]} for row in found]

    cuts = "multiIf(" + ", ".join(
        f"last_event - first_event < {end * 1000}, {number}" for number, end in enumerate(LENGTHS[1:])
    ) + f", {len(LENGTHS) - 1})"
    lengths = {row["bucket"]: row["c"]
               for row in rows("sessions", f"{cuts} AS bucket, toInt64(count()) AS c", "GROUP BY bucket")}
    users = oracle.rows(f"SELECT toInt64(uniqExact(user_id)) AS c FROM accepted "
                        f"WHERE event_type = 'page_view' AND tenant = '{name}'")
    return {
        "views": rows("page_views_by_minute", "toInt64(sum(views)) AS c")[0]["c"],
        "unique_users": users[0]["c"],
        "sessions": rows("sessions", "toInt64(count()) AS c")[0]["c"],
        "errors": rows("errors_by_version_by_minute", "toInt64(sum(errors)) AS c")[0]["c"],
        "revenue": rows("revenue_by_minute", "currency, toInt64(sum(amount_cents)) AS amount_cents, "
                        "toInt64(sum(orders)) AS orders", "GROUP BY currency ORDER BY currency"),
        "top_pages": ranking("page_views_by_minute", "page", "views", 10),
        "errors_by_version": ranking("errors_by_version_by_minute", "app_version", "errors", 6),
        "session_lengths": [lengths.get(number, 0) for number in range(len(LENGTHS))],
    }


def identity(event):
    return (event.get("event_id"), event.get("user_id"), event.get("timestamp"))


def as_read(log, kept):
    """The log's lines in an order in which a run that kept these events may have read them."""
    first, then = [], []
    for line in embedded_log.values(log):
        try:
            was_kept = identity(json.loads(line)) in kept
        except (ValueError, AttributeError, TypeError):
            was_kept = False
        (first if was_kept else then).append(line)
    return first + then


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("log")
    options.add_argument("--kept", type=Path, required=True)
    options.add_argument("--tenant", default="default")
    chosen = options.parse_args()
    kept = {identity(json.loads(row)) for row in chosen.kept.read_text().splitlines()}
    with tempfile.NamedTemporaryFile(suffix=".ndjson") as lines:
        lines.writelines(line + b"\n" for line in as_read(chosen.log, kept))
        lines.flush()
        json.dump(expectation(Oracle([lines.name]), chosen.tenant), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
