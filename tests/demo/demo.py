#!/usr/bin/env python3
"""A million events through the job, killed in the middle, resumed with another worker count, and checked.

    demo.py TIDEMILL

The check reads the generated file with plain Python, sums up every table from scratch and compares all rows. Exits 0
only if the job was killed while it worked, and nothing was lost or doubled.
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from datetime import datetime, timezone
from pathlib import Path

EVENTS = 1_000_000
SEED = 42
MINUTE = 60_000
GAP = 30 * MINUTE
FIRST_TIME, LAST_TIME = 946_684_800_000, 7_258_118_400_000
FOLDER = Path(".cache/demo")


def say(text=""):
    print(text, flush=True)


class Demo:
    def __init__(self, tidemill):
        self.tidemill = tidemill
        self.input = FOLDER / "events.ndjson"
        self.out = FOLDER / "out"

    def command(self, *arguments):
        return [self.tidemill, *map(str, arguments)]

    def job(self, workers):
        # Small epochs, so that there is a middle to be killed in; a second of work would be a few of the usual ones.
        return self.command("run", "web_analytics", "--input", self.input, "--out", self.out, "--workers", workers,
                            "--epoch-bytes", 4 << 20, "--checkpoint-every", "250ms", "--json")

    def query(self, sql):
        command = self.command("query", "--data", self.out, sql, "--format", "ndjson")
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def show(self, sql):
        command = self.command("query", "--data", self.out, sql)
        say(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode())

    def newest_entry(self):
        """The number of the newest entry of the job's log; 0 before there is one."""
        numbers = [int(path.name) for path in (self.out / "_tidemill/log").glob("*") if path.name.isdigit()]
        return max(numbers, default=0)

    def generate(self):
        say(f"Generating {EVENTS:,} events with duplicates, disorder, late and malformed lines ...")
        subprocess.run(self.command("generate", "--events", EVENTS, "--seed", SEED, "--out", self.input), check=True,
                       stdout=subprocess.DEVNULL)
        say(f"{self.input}: {self.input.stat().st_size / 1e6:.0f} MB\n")

    def killed_in_the_middle(self):
        """Runs the job with two workers and kills it when half of its log is written; False if it was faster."""
        epochs = self.input.stat().st_size // (4 << 20)
        shutil.rmtree(self.out, ignore_errors=True)
        with open(FOLDER / "killed.log", "wb") as log:
            job = subprocess.Popen(self.job(2), stdout=subprocess.DEVNULL, stderr=log)
            # An epoch is bound and committed: two entries.
            while job.poll() is None and self.newest_entry() < epochs:
                time.sleep(0.002)
            job.kill()
            job.wait()
        if job.returncode == 0:
            return False
        say(f"Ran with 2 workers, killed with kill -9 at log entry {self.newest_entry()}. A query sees one commit:")
        self.show("SELECT epoch, complete_through, file, lines FROM progress")
        return True

    def resume(self):
        say("The same command with 1 worker goes on from there ...")
        done = subprocess.run(self.job(1), stdout=subprocess.PIPE, check=True)
        line = json.loads(done.stdout)
        say(f"{line['status']}: resumed from epoch {line['resumed_from']}, {line['events_read']:,} events in all, "
            f"{line['events_per_second']:,.0f} events/s in this run, {line['cpu_seconds']:.1f} s of CPU, "
            f"{line['peak_memory_bytes'] / 1e6:.0f} MB\n")
        return line

    def tables(self):
        say("Top pages:")
        self.show("SELECT page, sum(views) AS views FROM page_views_by_minute GROUP BY page ORDER BY views DESC LIMIT 5")
        say("Sessions:")
        self.show("SELECT count(*) AS sessions, count(DISTINCT user_id) AS users, max(event_count) AS longest, "
                  "sum(event_count) AS events FROM sessions")


def parse(line):
    """The event of a line, or None if the line is malformed."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    for name in ("event_id", "event_type", "user_id"):
        if not isinstance(event.get(name), str) or not event[name]:
            return None
    at = event.get("timestamp")
    if len(event["event_id"].encode()) > 200 or type(at) is not int or not FIRST_TIME <= at <= LAST_TIME:
        return None
    properties = event.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    kind = event["event_type"]
    if kind == "page_view" and not isinstance(properties.get("page"), str):
        return None
    if kind == "purchase":
        cents = properties.get("amount_cents")
        if type(cents) is not int or not -(2**63) <= cents < 2**63 or not isinstance(properties.get("currency"), str):
            return None
    return event, properties


class Expected:
    """Every table, summed up in one pass over the file; only what the very late events change is left out."""

    def __init__(self, path, unverified):
        self.books = Counter()
        self.views, self.errors, self.revenue = defaultdict(list), defaultdict(list), defaultdict(list)
        times, seen = defaultdict(list), set()
        with open(path, "rb") as file:
            for line in file:
                if not line.strip():
                    continue
                self.books["events_read"] += 1
                parsed = parse(line)
                if parsed is None:
                    self.books["malformed"] += 1
                    continue
                event, properties = parsed
                tenant, at = event.get("tenant") or "default", event["timestamp"]
                key = (tenant, event["event_id"])
                if (*key, at) in unverified:
                    self.books["unverified"] += 1
                    continue
                if key in seen:
                    self.books["duplicates"] += 1
                    continue
                seen.add(key)
                self.books["accepted"] += 1
                user, minute, kind = event["user_id"], at - at % MINUTE, event["event_type"]
                times[tenant, user].append(at)
                if kind == "page_view":
                    self.views[tenant, minute, properties["page"]].append(user)
                elif kind == "error":
                    version = (event.get("context") or {}).get("app_version", "")
                    self.errors[tenant, minute, version].append(user)
                elif kind == "purchase":
                    self.revenue[tenant, minute, properties["currency"]].append(properties["amount_cents"])
        self.sessions = []
        for (tenant, user), moments in times.items():
            moments.sort()
            first = last = moments[0]
            count = 0
            for at in moments:
                if at - last > GAP:
                    self.sessions.append((tenant, user, first, last, count))
                    first, count = at, 0
                last = at
                count += 1
            self.sessions.append((tenant, user, first, last, count))

    def tables(self):
        users = lambda cells: {(*key, len(found), len(set(found))) for key, found in cells.items()}
        return {
            "page_views_by_minute": (("window_start", "page", "views", "users"), users(self.views)),
            "errors_by_version_by_minute": (("window_start", "app_version", "errors", "users"), users(self.errors)),
            "revenue_by_minute": (("window_start", "currency", "orders", "amount_cents"),
                                  {(*key, len(cents), sum(cents)) for key, cents in self.revenue.items()}),
            "sessions": (("user_id", "first_event", "last_event", "event_count"), set(self.sessions)),
        }


def millis(value):
    """A printed time in milliseconds since 1970; anything else as it is."""
    if isinstance(value, str) and len(value) == 24 and value[10] == "T" and value.endswith("Z"):
        moment = datetime.fromisoformat(value[:-1]).replace(tzinfo=timezone.utc)
        return int(moment.timestamp()) * 1_000 + moment.microsecond // 1_000
    return value


def check(demo, line):
    """Compares books and tables; True if nothing was lost and nothing doubled."""
    say("Checking against the input, read with plain Python ...")
    rows = demo.query("SELECT tenant, event_id, timestamp FROM unverified_events")
    expected = Expected(demo.input, {(row["tenant"], row["event_id"], millis(row["timestamp"])) for row in rows})
    good = True
    for name in ("events_read", "accepted", "duplicates", "malformed", "unverified"):
        same = line[name] == expected.books[name]
        good &= same
        say(f"  {name}: {line[name]:,}{'' if same else f', but {expected.books[name]:,} in the input'}")
    for table, (columns, wanted) in expected.tables().items():
        found = demo.query(f"SELECT tenant, {', '.join(columns)} FROM {table}")
        rows = {tuple(millis(row[column]) for column in ("tenant", *columns)) for row in found}
        same = rows == wanted and len(found) == len(wanted)
        good &= same
        say(f"  {table}: {len(found):,} rows, {'all equal' if same else f'{len(rows ^ wanted):,} differ'}")
    raw = demo.query("SELECT count(*) AS events, count(DISTINCT concat(tenant, '/', event_id)) AS ids FROM raw_events")[0]
    good &= raw["events"] == raw["ids"] == expected.books["accepted"]
    say(f"  raw_events: {raw['events']:,} rows, {raw['ids']:,} ids")
    return good


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: demo.py TIDEMILL")
    FOLDER.mkdir(parents=True, exist_ok=True)
    demo = Demo(str(Path(sys.argv[1]).resolve()))
    demo.generate()
    if not any(demo.killed_in_the_middle() for _ in range(5)):
        sys.exit("the job finished five times before it could be killed; nothing was shown")
    line = demo.resume()
    demo.tables()
    if not check(demo, line):
        sys.exit("\nThe tables are not those of the input. This is a bug; please report it with the lines above.")
    say("\nNothing was lost, nothing was doubled.")


if __name__ == "__main__":
    main()
