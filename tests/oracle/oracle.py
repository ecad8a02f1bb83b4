#!/usr/bin/env python3
"""The tables of the web_analytics job, computed by the ClickHouse engine (PyPI chdb-core) from the same input files.

Nothing here is shared with the job: lines are split by Python, JSON is read, deduplicated and summed up by ClickHouse.
Nothing is assumed to be older than the dedup horizon, unless --unverified names the events that the job set aside.

    oracle.py FILE... --out DIR [--format ndjson|combined] [--prefix FILE=LINES]... [--unverified ROWS.ndjson]
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path

from chdb import session

import combined
import inputs
import ndjson
from tables import COLUMNS, QUERIES, TIMES

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@lru_cache(maxsize=1 << 16)
def to_the_second(seconds):
    return (EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def rfc3339(millis):
    """Milliseconds since 1970 as RFC 3339 with milliseconds and Z; None stays None."""
    if millis is None:
        return None
    return f"{to_the_second(millis // 1000)}.{millis % 1000:03d}Z"


@lru_cache(maxsize=1 << 18)
def canonical_json(text):
    """Equal for equal JSON values: keys sorted, 1.0 as 1, no escapes but the necessary."""
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    if text is None:
        return None
    return json.dumps(plain(json.loads(text)), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def order(row):
    """The sorting key of a row: column by column, None first."""
    return [(value is not None, value) for value in row]


class Oracle:
    """All lines of the files (or of their prefixes), judged and deduplicated."""

    def __init__(self, files, log_format="ndjson", prefixes=None, unverified=None, hash_key=None):
        self.files = [str(file) for file in files]
        self.session = session.Session()
        self._load(prefixes or {})
        if log_format == "combined":
            self._parse_combined(hash_key if hash_key is not None else os.environ["TIDEMILL_HASH_KEY"])
        else:
            self._run(f"CREATE TABLE judged ENGINE = Memory AS SELECT *, {ndjson.WELL_FORMED} AS ok FROM lines")
            self._run(f"CREATE TABLE parsed ENGINE = Memory AS SELECT file, n, {ndjson.COLUMNS} FROM judged WHERE ok")
        self._set_aside(unverified or [])
        # The first line in file order, then line order, keeps the id.
        self._run("""
            CREATE TABLE ranked ENGINE = Memory AS SELECT *,
                row_number() OVER (PARTITION BY tenant, event_id ORDER BY file, n) AS copy,
                first_value(fingerprint) OVER (PARTITION BY tenant, event_id ORDER BY file, n) AS original
            FROM parsed""")
        self._run("CREATE TABLE accepted ENGINE = Memory AS SELECT * FROM ranked WHERE copy = 1")

    def _run(self, sql):
        return self.session.query(sql, "JSONEachRow")

    def rows(self, sql):
        """The answer to `sql` as a list of objects, 64-bit numbers as numbers."""
        settings = "output_format_json_quote_64bit_integers = 0"
        joined = f"{sql}, {settings}" if "SETTINGS" in sql else f"{sql} SETTINGS {settings}"
        return [json.loads(line) for line in self._run(joined).bytes().splitlines() if line]

    def _load(self, prefixes):
        self._run("CREATE DATABASE IF NOT EXISTS oracle")
        self._run("USE oracle")
        self._run("CREATE TABLE lines (file UInt32, n UInt64, line String) ENGINE = Memory")
        with tempfile.NamedTemporaryFile(suffix=".rows") as out:
            rows = inputs.write_row_binary(self.files, prefixes, out)
            out.flush()
            if rows:
                structure = "file UInt32, n UInt64, line String"
                self._run(f"INSERT INTO lines SELECT * FROM file('{out.name}', 'RowBinary', '{structure}')")

    def _parse_combined(self, key):
        self._run(f"CREATE TABLE judged ENGINE = Memory AS SELECT *, {combined.WELL_FORMED} AS ok FROM lines")
        self._run(f"CREATE TABLE fields ENGINE = Memory AS SELECT file, n, {combined.FIELDS} FROM judged WHERE ok")
        pairs = self.rows("SELECT DISTINCT hex(address) AS address, hex(agent) AS agent FROM fields")
        with tempfile.NamedTemporaryFile("w", suffix=".ndjson") as out:
            for pair in pairs:
                user = combined.user_id(key, bytes.fromhex(pair["address"]), bytes.fromhex(pair["agent"]))
                out.write(json.dumps({**pair, "user_id": user}) + "\n")
            out.flush()
            structure = "address String, agent String, user_id String"
            self._run(f"""CREATE TABLE users ENGINE = Memory AS
                SELECT unhex(address) AS address, unhex(agent) AS agent, user_id
                FROM file('{out.name}', 'JSONEachRow', '{structure}')""")
        self._run(f"CREATE TABLE parsed ENGINE = Memory AS SELECT {combined.COLUMNS} "
                  "FROM fields JOIN users USING (address, agent)")

    def _set_aside(self, unverified):
        """Takes out the events that the job could not judge, as it named them."""
        if not unverified:
            return
        with tempfile.NamedTemporaryFile("w", suffix=".ndjson") as out:
            for row in unverified:
                at = datetime.fromisoformat(row["timestamp"].replace("Z", "+00:00"))
                millis = (at - EPOCH) // timedelta(milliseconds=1)
                out.write(json.dumps({"t": row["tenant"], "e": row["event_id"], "at": millis}) + "\n")
            out.flush()
            self._run(f"""CREATE TABLE kept ENGINE = Memory AS SELECT * FROM parsed
                WHERE (tenant, event_id, timestamp) NOT IN (
                    SELECT t, e, at FROM file('{out.name}', 'JSONEachRow', 't String, e String, at Int64'))""")
        self._run("DROP TABLE parsed")
        self._run("RENAME TABLE kept TO parsed")

    def table(self, name):
        """The rows of a table in no order, as tuples in the order of its columns."""
        columns = COLUMNS[name]
        return [tuple(show(column, row[column]) for column in columns) for row in self.rows(QUERIES[name])]

    def books(self):
        """What became of every line, in the words of the job's --json line."""
        count = lambda sql: self.rows(f"SELECT toInt64({sql}) AS c")[0]["c"]
        return {
            "events_read": count("(SELECT count() FROM lines)"),
            "malformed": count("(SELECT count() FROM judged WHERE NOT ok)"),
            "accepted": count("(SELECT count() FROM accepted)"),
            "duplicates": count("(SELECT count() FROM ranked WHERE copy > 1)"),
            "conflicting_duplicates": count(
                "(SELECT count() FROM ranked WHERE copy > 1 AND fingerprint != original)"),
        }

    def malformed(self):
        """(file name, line) of every malformed line, sorted."""
        rows = self.rows("SELECT file, n FROM judged WHERE NOT ok ORDER BY file, n")
        return sorted((Path(self.files[row["file"]]).name, row["n"]) for row in rows)


def show(column, value):
    """A value of the engine as the job prints it, in its comparable form."""
    if column in TIMES:
        return rfc3339(value)
    return canonical_json(value) if column == "properties" else value


def prefixes_of(pairs, files):
    """FILE=LINES arguments as a mapping; FILE is a path or a name that only one input has."""
    found = {}
    for pair in pairs:
        name, _, lines = pair.rpartition("=")
        matching = [str(f) for f in files if str(f) == name] or [str(f) for f in files if Path(f).name == Path(name).name]
        if len(matching) != 1:
            raise SystemExit(f"--prefix {pair}: {len(matching)} inputs have that name; give the path as in the command")
        found[matching[0]] = int(lines)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("--format", choices=["ndjson", "combined"], default="ndjson")
    parser.add_argument("--prefix", action="append", default=[], metavar="FILE=LINES")
    parser.add_argument("--unverified", metavar="ROWS.ndjson")
    options = parser.parse_args()
    unverified = []
    if options.unverified:
        unverified = [json.loads(line) for line in Path(options.unverified).read_text().splitlines()]
    oracle = Oracle(options.files, options.format, prefixes_of(options.prefix, options.files), unverified)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, columns in COLUMNS.items():
        with open(out / f"{name}.ndjson", "w", encoding="utf-8") as file:
            for row in sorted(oracle.table(name), key=order):
                file.write(json.dumps(dict(zip(columns, row)), ensure_ascii=False) + "\n")
    with open(out / "malformed.ndjson", "w", encoding="utf-8") as file:
        for name, line in oracle.malformed():
            file.write(json.dumps({"file": name, "line": line}) + "\n")
    print(json.dumps(oracle.books()))


if __name__ == "__main__":
    sys.exit(main())
