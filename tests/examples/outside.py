#!/usr/bin/env python3
"""Copies the example project to a folder outside the repository, tests it there, and uses its whole command line.

    outside.py [PROJECT]

What an author does is `cargo run -- run --input requests.ndjson --out DIR` in such a folder. Two things are added to the
copy, so that what was compiled for the workspace serves again: its profile, and the features of crates that differ.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = """
ahash = { version = "0.8", features = ["std"] }
simdutf8 = { version = "0.1", features = ["aarch64_neon"] }
"""


def main():
    project = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "pipelines/examples/slow_pages"
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / project.name
        shutil.copytree(project, place, ignore=shutil.ignore_patterns("target", "Cargo.lock"))
        shutil.copy(ROOT / "Cargo.lock", place)
        manifest = (place / "Cargo.toml").read_text()
        manifest = manifest.replace('path = "../.."', f'path = "{ROOT / "pipelines"}"')
        manifest = manifest.replace('features = ["derive"]', 'features = ["derive", "rc"]')
        profile = (ROOT / "Cargo.toml").read_text().partition("[profile.dev]")[2].partition("[profile.release]")[0]
        head, workspace = manifest.split("\n[workspace]")
        (place / "Cargo.toml").write_text(f"{head}{SHARED}\n[workspace]{workspace}\n[profile.dev]{profile}")
        environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
        subprocess.run(["cargo", "test", "--quiet"], cwd=place, env=environment, check=True)
        subprocess.run(["cargo", "build", "--quiet"], cwd=place, env=environment, check=True)
        checked = use(target / "debug" / "slow-pages", place)
    print(f"outside project: {checked} commands passed, 0 failed")


def use(binary, place):
    """Runs every command once; gives how many."""
    said = []

    def run(*arguments, code=0):
        done = subprocess.run([binary, *arguments], cwd=place, capture_output=True, text=True, check=False)
        if done.returncode != code:
            raise SystemExit(f"{' '.join(arguments)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        said.append(arguments)
        return done.stdout

    line = json.loads(run("run", "--input", "requests.ndjson", "--out", "out", "--json", "--workers", "2"))
    read = {name: line[name] for name in ("events_read", "accepted", "malformed")}
    expect("books", read, {"events_read": 6, "accepted": 5, "malformed": 1})
    sql = "SELECT route, requests, millis FROM requests_by_minute ORDER BY window_start, route"
    rows = run("query", "--data", "out", "--format", "csv", sql).split()
    expect("rows", rows, ["route,requests,millis", "/,1,8", "/,1,12", "/search,2,1000", "/,1,10"])
    plan = run("explain")
    expect("plan", ["by_minute" in plan, "requests_by_minute" in plan], [True, True])
    expect("checkpoints", "epoch" in run("checkpoints", "list", "--data", "out"), True)
    run("replay", "--bindings", "out", "--out", "again")
    run("diff", "out", "again")
    run("run", "nothing", "--input", "requests.ndjson", "--out", "other", code=2)
    return len(said)


def expect(what, found, wanted):
    if found != wanted:
        raise SystemExit(f"{what}: {found} instead of {wanted}")


if __name__ == "__main__":
    main()
