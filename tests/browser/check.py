#!/usr/bin/env python3
"""The dashboard in Chromium: against the double of its API, over a fixed log with the oracle's numbers, and live.

    check.py TIDEMILL [--events N] [--seed N] [--python PYTHON_OF_THE_ORACLE]
    check.py TIDEMILL --screenshots DIR [--minutes N]

Prints a line for each test and their number at the end; exits 0 only if all passed. With --screenshots, nothing but
pictures are taken: of the fixed log, and of the demo after some minutes. Needs what install.py installs, and `make venv`.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEPT = "SELECT event_id, user_id, CAST(timestamp AS BIGINT) AS timestamp FROM raw_events"


class Tests:
    """Tells of each test, and counts."""

    def __init__(self):
        self.passed = self.failed = 0

    def done(self, name, faults=()):
        """A test that ended, well if there is no fault."""
        faults = list(faults)
        print(f"test {name} ... {'FAILED' if faults else 'ok'}", *faults, sep="\n    ", flush=True)
        self.passed, self.failed = self.passed + (not faults), self.failed + bool(faults)

    @contextmanager
    def part(self, name):
        """What breaks in here is one failed test, and the rest goes on."""
        try:
            yield
        except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
            self.done(name, [str(error)])

    def rules(self):
        command = ["node", "--test", "--test-reporter=tap", HERE / "rules.test.mjs"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        tests = re.findall(r"^(not ok|ok) \d+ - (.*)$", ended.stdout, re.MULTILINE)
        for outcome, name in tests:
            self.done(f"rules: {name}", [] if outcome == "ok" else [f"node --test {HERE / 'rules.test.mjs'} says more"])
        if ended.returncode != 0 and all(outcome == "ok" for outcome, _ in tests):
            raise RuntimeError(ended.stdout)

    def browser(self, name, url, *options):
        """Every line of run.mjs is a test."""
        command = [str(part) for part in ("node", HERE / "run.mjs", "--url", url, *options)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        outcomes = [json.loads(line) for line in ended.stdout.splitlines()]
        for outcome in outcomes:
            self.done(f"{name}: {outcome['test']}", outcome["faults"])
        if ended.returncode != 0 and not any(outcome["faults"] for outcome in outcomes):
            raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}")


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


@contextmanager
def started(pattern, *command, **options):
    """A process that says on its first line where it serves; stopped as an operator would."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, **options)
    try:
        line = process.stdout.readline()
        found = re.match(pattern, line)
        if not found:
            raise RuntimeError(f"{command[0]} said {line!r} instead of where it serves")
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate()


@contextmanager
def serving(*command):
    with started(r"serving (http://\S+)", *command, stderr=subprocess.DEVNULL) as (_, url):
        yield url


def double(tests):
    """Layout, keyboard, and a silent API: what needs no pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        expected = Path(folder, "expected.json")
        fake = (sys.executable, HERE / "fake_api.py", "--scenario")
        with serving(*fake, "history", "--expect", expected) as url:
            tests.browser("history", url, "--looks", "--keyboard", "--expect", expected)
        with serving(*fake, "live") as url:
            tests.browser("growing", url, "--looks", "--widths", "390,1440", "--moves", "views", "--silence", url)
        with serving(*fake, "empty") as url:
            tests.browser("empty", url, "--looks", "--keyboard")


class FixedLog:
    """A generated log, read by a run to its end, and `serve` over the tables."""

    def __init__(self, options, folder):
        self.options, self.folder = options, Path(folder)
        self.log, self.out = self.folder / "log", self.folder / "out"

    def tables(self):
        tidemill, quiet = self.options.tidemill, {"stderr": subprocess.DEVNULL}
        run(tidemill, "generate", "--to", f"log://{self.log}", "--events", self.options.events, "--seed",
            self.options.seed, "--within-horizon", **quiet)
        books = json.loads(run(tidemill, "run", "web_analytics", "--from", f"log://{self.log}", "--out", self.out,
                               "--workers", 2, "--until-end", "--drain", "--json", stdout=subprocess.PIPE, **quiet).stdout)
        if books["unverified"] != 0 or books["accepted"] < self.options.events * 0.9:
            raise RuntimeError(f"the run counted something else than the log: {books}")

    def expected(self):
        kept, path = self.folder / "kept.ndjson", self.folder / "expected.json"
        with open(kept, "wb") as out:
            run(self.options.tidemill, "query", "--data", self.out, KEPT, "--format", "ndjson", stdout=out)
        with open(path, "wb") as out:
            run(self.options.python, HERE / "expect.py", self.log, "--kept", kept, stdout=out)
        # A drained run is complete to the end of time, and nothing is pending.
        path.write_text(json.dumps({**json.loads(path.read_text()), "exact": True}, indent=2))
        return path

    @contextmanager
    def served(self):
        with serving(self.options.tidemill, "serve", "--data", self.out, "--listen", "127.0.0.1:0") as url:
            yield f"{url}/?range=all"


def fixed(tests, options):
    with tempfile.TemporaryDirectory() as folder:
        log = FixedLog(options, folder)
        with log.served() as url:
            # Nothing is there yet: the page says what to do, and shows the numbers when they come.
            tests.browser("fixed log, before the run", url, "--looks", "--widths", "390")
            log.tables()
            tests.browser("fixed log", url, "--looks", "--widths", "390,1440", "--expect", log.expected())


def demo(options):
    return started(r"dashboard\s+(http://\S+)", options.tidemill, "demo", stderr=subprocess.PIPE)


def live(tests, options):
    """The product as `make demo` starts it: while visitors post events, every number rises."""
    begun = time.monotonic()
    with demo(options) as (process, url):
        tests.browser("live", url, "--moves", "views,users,sessions,errors,revenue")
        print(f"live: every number had risen {time.monotonic() - begun:.1f} s after the start", flush=True)
        process.send_signal(signal.SIGINT)
        books, complaint = process.communicate()
        tests.done("live: the books agree", [] if process.returncode == 0 else [f"{books}{complaint}"])


def pictures(tests, options):
    begun = time.monotonic()
    looks = ("--looks", "--widths", "390,1440", "--screenshots", options.screenshots, "--prefix")
    with demo(options) as (_, url), tempfile.TemporaryDirectory() as folder:
        log = FixedLog(options, folder)
        log.tables()
        with log.served() as finished:
            tests.browser("fixed log", finished, *looks, "finished")
        time.sleep(max(0, begun + options.minutes * 60 - time.monotonic()))
        tests.browser("live", f"{url}?range=15m", *looks, "live")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tidemill", type=Path)
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--python", type=Path, default=ROOT / ".cache/venv/bin/python")
    options = parser.parse_args()
    tests = Tests()
    if options.screenshots:
        parts = {"pictures": lambda: pictures(tests, options)}
    else:
        parts = {"rules": tests.rules, "double": lambda: double(tests), "fixed log": lambda: fixed(tests, options),
                 "live": lambda: live(tests, options)}
    for name, part in parts.items():
        with tests.part(name):
            part()
    print(f"browser: {tests.passed} passed, {tests.failed} failed")
    sys.exit(1 if tests.failed or not tests.passed else 0)


if __name__ == "__main__":
    main()
