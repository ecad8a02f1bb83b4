#!/usr/bin/env python3
"""Rules of the repository that no compiler checks: file lengths, named tests, dependency directions, single copies.

Prints every breach with its remedy and exits 1 if there is any. Needs nothing but cargo and the standard library.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 600
VAGUE = {"util", "utils", "common", "types", "helper", "helpers", "manager", "misc"}

# package -> packages that it must not reach, directly or through others.
CLIENTS = {"tidemill-clickhouse", "tidemill-kafka", "tidemill-registry"}
ENGINE = {"timely", "tidemill-dataflow", "tidemill-operators", "tidemill-connectors", "tidemill"} | CLIENTS
FORBIDDEN = {
    "tidemill-tables": ENGINE | {"tidemill-query"},
    "tidemill-http": ENGINE | {"tidemill-query", "tidemill-tables", "tidemill-log"},
    "tidemill-log": ENGINE | {"tidemill-query"},
    "tidemill-query": ENGINE,
    "tidemill-dataflow": {"tidemill-operators", "tidemill-connectors", "tidemill-query", "tidemill", "datafusion"},
    "tidemill-operators": {"tidemill-connectors", "tidemill-query", "tidemill", "datafusion"},
    "tidemill-connectors": {"tidemill-operators", "tidemill-query", "tidemill", "datafusion"} | CLIENTS,
    "tidemill-clickhouse": {"tidemill-operators", "tidemill-query", "tidemill", "datafusion", "tidemill-kafka"},
    "tidemill-kafka": {"tidemill-operators", "tidemill-query", "tidemill", "datafusion", "tidemill-clickhouse"},
    "tidemill-embedded-log": {"tidemill-operators", "tidemill-query", "tidemill", "datafusion", "tidemill-collect"} | CLIENTS,
    "tidemill-collect": {"tidemill-operators", "tidemill-query", "tidemill", "datafusion"} | CLIENTS,
    "tidemill-registry": ENGINE - {"tidemill-registry"},
    "tidemill": {"tidemill-tests", "tidemill-benches"},
}

# What two versions of would break apart at their borders.
SINGLE = ["arrow", "parquet", "datafusion", "object_store", "timely"]


def metadata():
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def source_files():
    # Folders that others work in are not entered: what is in them comes and goes.
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(set(folders) - {"target", ".cache", ".git"})
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".rs"))


def lengths():
    for path in source_files():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST:
            yield f"{path.relative_to(ROOT)} has {lines} lines; split it below {LONGEST}"


def names():
    for path in source_files():
        name = path.parent.name if path.stem == "mod" else path.stem
        if name in VAGUE:
            yield f"{path.relative_to(ROOT)}: `{name}` says nothing; name the module after what it holds"


def laws():
    """The tests that the operators' page names are there, in the files that it names."""
    page = (ROOT / "docs/operators.md").read_text(encoding="utf-8")
    section = page.partition("## Laws")[2].partition("\n## ")[0]
    file = None
    for name in re.findall(r"`([a-z0-9_/.]+)`", section):
        if name.endswith(".rs"):
            file = ROOT / "operators/src" / (name if "/" in name else f"aggregate/{name}")
            if not file.exists():
                yield f"docs/operators.md names {name}, which is not in operators/src; name the file that has the test"
        elif name.count("_") >= 3 and f"fn {name}(" not in (file.read_text(encoding="utf-8") if file.exists() else ""):
            yield f"docs/operators.md names the test {name}, which is not in {file.relative_to(ROOT)}; name the one that is"


def directions(graph):
    names_by_id = {package["id"]: package["name"] for package in graph["packages"]}
    edges = {
        node["id"]: [
            dependency["pkg"]
            for dependency in node["deps"]
            # What only tests need may point anywhere.
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"])
        ]
        for node in graph["resolve"]["nodes"]
    }
    for package in graph["workspace_members"]:
        reached, waiting = {}, [(package, (names_by_id[package],))]
        while waiting:
            current, path = waiting.pop()
            for following in edges[current]:
                if following not in reached:
                    reached[following] = path + (names_by_id[following],)
                    waiting.append((following, reached[following]))
        for found, path in reached.items():
            if names_by_id[found] in FORBIDDEN.get(names_by_id[package], ()):
                yield f"dependency against the direction: {' -> '.join(path)}; remove it from the first's Cargo.toml"


def copies(graph):
    for name in SINGLE:
        versions = sorted(package["version"] for package in graph["packages"] if package["name"] == name)
        if len(versions) != 1:
            yield f"{name} is there as {versions or 'nothing'}; exactly one version may be; see `cargo tree -d`"


def main():
    graph = metadata()
    rules = {
        "file lengths": lengths(),
        "module names": names(),
        "laws of operators": laws(),
        "dependency directions": directions(graph),
        "single copies": copies(graph),
    }
    breaches = 0
    for rule, found in rules.items():
        found = list(found)
        breaches += len(found)
        print(f"{rule}: {'kept' if not found else f'{len(found)} breaches'}")
        for breach in found:
            print(f"  {breach}")
    sys.exit(1 if breaches else 0)


if __name__ == "__main__":
    main()
