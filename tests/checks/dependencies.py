#!/usr/bin/env python3
"""What deny.toml says of dependencies, checked by cargo-deny, whose path is the argument.

Licences, banned and doubled packages, and sources are checked everywhere. Known vulnerabilities are checked where their
database can be had, and are said not to be where it cannot: without a network nothing else of a build would work either.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A clone of the database is some megabytes.
PATIENCE_S = 60


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} CARGO_DENY")
    deny = [sys.argv[1], "--locked"]
    failed = subprocess.run([*deny, "check", "licenses", "bans", "sources"], cwd=ROOT).returncode
    try:
        fetched = subprocess.run([*deny, "fetch", "db"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
        cause = None if fetched.returncode == 0 else (fetched.stderr.strip().splitlines() or ["no reason"])[-1]
    except subprocess.TimeoutExpired:
        cause = f"no answer within {PATIENCE_S} s"
    if cause is None:
        failed |= subprocess.run([*deny, "check", "--disable-fetch", "advisories"], cwd=ROOT).returncode
    else:
        print(f"advisories: NOT checked, their database cannot be had: {cause}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
