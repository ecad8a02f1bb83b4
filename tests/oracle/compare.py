#!/usr/bin/env python3
"""Compares every table of a finished or killed run with the oracle, row for row.

    compare.py FILE... --data DIR --tidemill BINARY [--format combined] [--progress] [--books LINE] [--skip TABLE.COLUMN]

With --progress each input counts up to the line that the `progress` table names. Prints the first differences and
exits 1 on any.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from oracle import Oracle, canonical_json, order, prefixes_of
from tables import COLUMNS

SHOWN = 5


def query(options, sql):
    """The rows of `tidemill query` as objects."""
    command = [options.tidemill, "query", "--data", options.data, sql, "--format", "ndjson"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def actual(options, table):
    """The rows of a table of the job, as tuples in the order of the oracle's columns."""
    return tuples(query(options, f"SELECT {', '.join(COLUMNS[table])} FROM {table}"), table)


def tuples(rows, table):
    """Rows as objects, as tuples in the order of the oracle's columns."""
    for row in rows:
        if "properties" in row:
            row["properties"] = canonical_json(row["properties"])
    return [tuple(row[column] for column in COLUMNS[table]) for row in rows]


def books_agree(oracle, line):
    """Whether the --json line of a run counts what the oracle counts; prints what it does not."""
    found, good = json.loads(line), True
    for name, expected in oracle.books().items():
        if found.get(name) != expected:
            print(f"books: {name} is {found.get(name)}, the oracle counts {expected}")
            good = False
    return good


def without(rows, table, skipped):
    """The rows without the columns that the caller leaves out."""
    keep = [at for at, column in enumerate(COLUMNS[table]) if f"{table}.{column}" not in skipped]
    return rows if len(keep) == len(COLUMNS[table]) else [tuple(row[at] for at in keep) for row in rows]


def differences(expected, found):
    """(expected only, found only), as multisets of rows, sorted."""
    left, right = Counter(expected), Counter(found)
    return sorted((left - right).elements(), key=order), sorted((right - left).elements(), key=order)


def report(name, expected, found):
    """Prints one line a table, and the first differences; True if there are none."""
    less, more = differences(expected, found)
    if not less and not more:
        print(f"{name}: {len(found)} rows equal")
        return True
    print(f"{name}: {len(less)} rows of the oracle are missing, {len(more)} rows are in none of its answers")
    for sign, rows in (("-", less), ("+", more)):
        for row in rows[:SHOWN]:
            print(f"  {sign} {row}")
    return False


def dead_letters(options):
    """(file name, line) of every dead letter."""
    found = []
    for path in sorted(Path(options.data, "dead_letters").glob("**/*.ndjson")):
        for line in path.read_text(encoding="utf-8").splitlines():
            letter = json.loads(line)
            found.append((Path(letter["file"]).name, letter["line"]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tidemill", required=True)
    parser.add_argument("--format", choices=["ndjson", "combined"], default="ndjson")
    parser.add_argument("--prefix", action="append", default=[], metavar="FILE=LINES")
    parser.add_argument("--progress", action="store_true", help="the inputs up to the lines in the progress table")
    parser.add_argument("--allow-unverified", action="store_true", help="set aside what the job set aside")
    parser.add_argument("--books", metavar="LINE", help="the --json line of the finished run, to be checked as well")
    parser.add_argument("--skip", action="append", default=[], metavar="TABLE[.COLUMN]")
    options = parser.parse_args()

    prefixes = options.prefix
    if options.progress:
        named = query(options, "SELECT file, max(lines) AS lines FROM progress GROUP BY file")
        prefixes = [f"{row['file']}={row['lines']}" for row in named]
        # An input that progress does not name has not been begun.
        begun = prefixes_of(prefixes, options.files)
        prefixes += [f"{file}=0" for file in options.files if str(file) not in begun]
    unverified = query(options, "SELECT tenant, event_id, timestamp FROM unverified_events")
    good = True
    if unverified and not options.allow_unverified:
        print(f"unverified_events: {len(unverified)} rows, the first is {unverified[0]}; none was expected")
        good = False
    oracle = Oracle(options.files, options.format, prefixes_of(prefixes, options.files), unverified)
    skipped = set(options.skip)
    if options.format == "combined":
        # Names of events and their properties are the job's own; that ids are distinct is checked below.
        skipped |= {"raw_events.event_id", "raw_events.properties"}
    for table in COLUMNS:
        if table not in skipped:
            rows = without(oracle.table(table), table, skipped), without(actual(options, table), table, skipped)
            good &= report(table, *rows)
    if "raw_events" not in skipped:
        ids = query(options, "SELECT count(*) - count(DISTINCT concat(tenant, '/', event_id)) AS twice FROM raw_events")
        if ids[0]["twice"] != 0:
            print(f"raw_events: {ids[0]['twice']} rows have the id of another row")
            good = False
    if options.books:
        good &= report("dead_letters", oracle.malformed(), dead_letters(options))
        good &= books_agree(oracle, options.books)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
