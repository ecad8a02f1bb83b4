#!/usr/bin/env python3
"""The dashboard against the real thing: generated events, the job, `tidemill serve`, Chromium, and the oracle's numbers.

    check.py TIDEMILL [--events N] [--seed N] [--screenshots DIR] [--python PYTHON_OF_THE_ORACLE]

First the pure rules and the layouts of the double (fake_api.py), then the real server: tiles rise while the job goes on
with a growing file, and the finished tables' numbers stand on every tile. Exits 0 only if all of it holds.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STEPS = 60


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


@contextmanager
def serving(*command):
    """A server that says `serving URL` on its first line; stopped as an operator would."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.match(r"serving (http://\S+)", line)
        if not found:
            raise SystemExit(f"{command[0]} said {line!r} instead of where it serves")
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def browser(url, *options):
    run("node", HERE / "run.mjs", "--url", url, *options)


def double():
    with tempfile.TemporaryDirectory() as folder:
        expected = Path(folder, "expected.json")
        fake = (sys.executable, HERE / "fake_api.py", "--scenario")
        with serving(*fake, "history", "--expect", expected) as url:
            browser(url, "--expect", expected)
        with serving(*fake, "live") as url:
            browser(url, "--moves", "--silence", url)
        with serving(*fake, "empty") as url:
            browser(url)


class Real:
    def __init__(self, options, folder):
        self.options, self.folder = options, Path(folder)
        self.whole, self.input, self.out = (self.folder / name for name in ("whole.ndjson", "events.ndjson", "out"))
        run(options.tidemill, "generate", "--events", options.events, "--seed", options.seed, "--out", self.whole)

    def job(self, *options):
        run(self.options.tidemill, "run", "web_analytics", "--input", self.input, "--out", self.out, "--json", *options,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def rise(self, url):
        """Appends to the input and lets the job go on, until the browser has seen the tiles rise."""
        with open(self.whole, "rb") as lines, open(self.input, "ab") as grown:
            watching = None
            share = max(1, self.options.events // STEPS)
            for _ in range(STEPS + 1):
                if watching is None or watching.poll() is None:
                    grown.writelines(line for _, line in zip(range(share), lines))
                    grown.flush()
                    self.job()
                watching = watching or subprocess.Popen(
                    ["node", HERE / "run.mjs", "--url", f"{url}/?range=all", "--quick", "--moves"])
            if watching.wait() != 0:
                raise SystemExit("the tiles did not rise while the job went on")
            grown.writelines(lines)

    def expected(self, url):
        rows = self.folder / "unverified.ndjson"
        with open(rows, "wb") as out:
            run(self.options.tidemill, "query", "--data", self.out, "SELECT * FROM unverified_events", "--format", "ndjson",
                stdout=out)
        path = self.folder / "expected.json"
        with open(path, "wb") as out:
            run(self.options.python, HERE / "expect.py", self.input, "--unverified", rows, stdout=out)
        # A drained run is complete to the end of time; only an event in the range that nobody can judge stays pending.
        with urllib.request.urlopen(f"{url}/api/v1/range") as answer:
            first = json.load(answer)["data"]["from"]
        exact = all(json.loads(line)["timestamp"] < first for line in rows.read_text().splitlines())
        path.write_text(json.dumps({**json.loads(path.read_text()), "exact": exact}, indent=2))
        return path

    def check(self):
        with serving(self.options.tidemill, "serve", "--data", self.out, "--listen", "127.0.0.1:0") as url:
            browser(url)  # Nothing is there yet: the page says what to do.
            self.rise(url)
            self.job("--drain")
            pictures = ("--screenshots", self.options.screenshots) if self.options.screenshots else ()
            browser(f"{url}/?range=all", "--expect", self.expected(url), *pictures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tidemill", type=Path)
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("--python", type=Path, default=ROOT / ".cache/venv/bin/python")
    options = parser.parse_args()
    run("node", "--test", HERE / "rules.test.mjs", stdout=subprocess.DEVNULL)
    double()
    with tempfile.TemporaryDirectory() as folder:
        Real(options, folder).check()
    print("the dashboard shows what the oracle computed")


if __name__ == "__main__":
    main()
