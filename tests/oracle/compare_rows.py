#!/usr/bin/env python3
"""Compares tables that were read from several places with the oracle over the same partitions, row for row.

    compare_rows.py FILE... [--rows DIR]... [--some DIR]... [--books LINE]

FILE is what one partition holds, a line a message. DIR has TABLE.ndjson as a query prints it: with --rows for every
table of the oracle, with --some for those that the place has. Prints the first differences and exits 1 on any.
"""

import argparse
import json
import sys
from pathlib import Path

from compare import books_agree, report, tuples
from oracle import Oracle
from tables import COLUMNS


def rows(path, table):
    """The rows of a file as tuples in the order of the oracle's columns."""
    with open(path, encoding="utf-8") as file:
        return tuples([json.loads(line) for line in file], table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rows", action="append", default=[], metavar="DIR")
    parser.add_argument("--some", action="append", default=[], metavar="DIR")
    parser.add_argument("--books", metavar="LINE", help="the --json line of the finished run, to be checked as well")
    options = parser.parse_args()
    places = [(Path(place), True) for place in options.rows] + [(Path(place), False) for place in options.some]
    oracle = Oracle(options.files)
    good = True
    for table in COLUMNS:
        expected = oracle.table(table)
        for place, whole in places:
            path = place / f"{table}.ndjson"
            if whole or path.exists():
                good &= report(f"{place.name}: {table}", expected, rows(path, table))
    if options.books:
        good &= books_agree(oracle, options.books)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
